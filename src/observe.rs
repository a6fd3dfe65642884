//! What the process says about itself: log lines and numbers.
//!
//! Promises: one subscriber for the whole process, set up once by [`init_log`], whose level can be changed
//! later ([`LogControl`]); the same events live, for whoever looks on ([`live`]); metric names that never change
//! meaning ([`Metrics`]). Does not: decide what is logged (drivers do), or serve HTTP (`http.rs` does).
//! Failure policy: a filter that does not parse is a typed error for the operator; a log line that cannot
//! be written is lost, never a reason to stop mail.

mod abuse;
mod classic;
mod conditions;
mod custody;
mod dashboard;
mod edge;
pub mod history;
mod json;
mod listeners;
pub mod live;
mod log;
mod metrics;
mod operate;
#[cfg(feature = "otel")]
mod otel;
mod outbound;
mod process;
#[cfg(test)]
mod reference;
mod submitted;
mod tls;
mod traces;
mod verdicts;

use std::io::IsTerminal as _;

pub use abuse::{AbuseFamilies, Limited, Throttle};
pub use conditions::{Condition, ConditionFamilies, Effect};
pub use custody::{CustodyFamilies, SignedKind};
pub use dashboard::{DashboardFamilies, Login};
pub use edge::{AdminHttp, EdgeFamilies, ProxyRefusal};
pub use json::json_from_text;
pub use listeners::{ListenerFamilies, Standing as ListenerStanding, Watch as ListenerWatch};
pub use live::Live;
pub use log::{LogControl, LogError, LogFormat, LogSettings, check_level, init_log};
pub use metrics::{AuthOutcome, Histogrammed, LaneGauges, Metrics, RefusalStage};
pub use operate::{OperateFamilies, Operated};
pub use outbound::{DeliveryClass, OutboundFamilies};
pub use submitted::SubmissionOutcome;
pub use tls::{TlsFamilies, TlsListener, TlsVersion};
pub use traces::{TRACES_BUILT, TraceSettings, check_endpoint};
pub use verdicts::VerdictFamilies;

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal only, and not when `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour what goes to standard output.
    #[must_use]
    pub fn on_stdout(self) -> bool {
        self.choose(std::io::stdout().is_terminal())
    }

    /// Whether to colour what goes to standard error.
    #[must_use]
    pub fn on_stderr(self) -> bool {
        self.choose(std::io::stderr().is_terminal())
    }

    fn choose(self, terminal: bool) -> bool {
        match self {
            Self::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_follows_the_flag_before_the_terminal() {
        assert!(Color::Always.choose(false));
        assert!(!Color::Never.choose(true));
        assert!(!Color::Auto.choose(false));
    }
}
