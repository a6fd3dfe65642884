//! What the process says about itself: log lines and numbers.
//!
//! Promises: one subscriber for the whole process, set up once by [`init_log`]; metric names that never change
//! meaning ([`Metrics`]). Does not: decide what is logged (drivers do), or serve HTTP (`http.rs` does).
//! Failure policy: a filter that does not parse is a typed error for the operator; a log line that cannot
//! be written is lost, never a reason to stop mail.

mod abuse;
mod custody;
mod edge;
mod json;
mod metrics;
mod submitted;
mod tls;
mod verdicts;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

pub use abuse::{AbuseFamilies, Limited, Throttle};
pub use custody::{CustodyFamilies, SignedKind};
pub use edge::{AdminHttp, EdgeFamilies, ProxyRefusal};
pub use json::json_from_text;
pub use metrics::{
    AuthOutcome, DeliveryClass, Histogrammed, LaneGauges, Metrics, OutboundFamilies, RefusalStage,
};
pub use submitted::SubmissionOutcome;
pub use tls::{TlsFamilies, TlsListener, TlsVersion};
pub use verdicts::VerdictFamilies;

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line, fields at the top level.
    Json,
}

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

/// How to log.
#[derive(Clone, Debug, Default)]
pub struct LogSettings {
    /// Shape of a line.
    pub format: LogFormat,
    /// A level (`info`) or filter directives (`info,waystation::tunnel=debug`).
    pub level: String,
    /// Colour of text lines.
    pub color: Color,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a list of filter directives.
    #[error("log level `{level}` is not understood: {problem}")]
    Level {
        /// What was given.
        level: String,
        /// What the parser said.
        problem: String,
    },
    /// Somebody set up logging before.
    #[error("logging was set up twice")]
    Twice,
}

/// Checks a `log.level` value without setting anything up.
///
/// # Errors
/// [`LogError::Level`] with the parser's words.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(|_| ())
}

/// Libraries that log what they carry when they are let: mail, and invitation codes. `trace` alone does not let them.
const CARRIERS: [&str; 2] = ["tungstenite=warn", "tokio_tungstenite=warn"];

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let asked = EnvFilter::builder()
        .parse(level)
        .map_err(|e| LogError::Level { level: level.to_owned(), problem: e.to_string() })?;
    // The last word about a target counts, and the narrower target before the wider one.
    Ok(CARRIERS.iter().filter_map(|quiet| quiet.parse().ok()).fold(asked, EnvFilter::add_directive))
}

/// Sends log lines to standard error, once per process.
///
/// Under systemd (`JOURNAL_STREAM` is set) text lines carry no time, because the journal has its own.
///
/// # Errors
/// [`LogError`] when the level does not parse, or logging is set up already.
pub fn init_log(settings: &LogSettings) -> Result<(), LogError> {
    let filter = filter(&settings.level)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let done = match settings.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_timer(SystemTime)
            .try_init(),
        LogFormat::Text => {
            let builder = builder.with_ansi(settings.color.on_stderr());
            if std::env::var_os("JOURNAL_STREAM").is_some() {
                builder.without_time().try_init()
            } else {
                builder.with_timer(SystemTime).try_init()
            }
        }
    };
    done.map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood_and_nonsense_is_refused() {
        assert!(check_level("info").is_ok());
        assert!(check_level("warn,waystation::tunnel=trace").is_ok());
        let said = check_level("waystation=loud").expect_err("no such level").to_string();
        assert!(said.contains("waystation=loud"), "{said}");
    }

    #[test]
    fn colour_follows_the_flag_before_the_terminal() {
        assert!(Color::Always.choose(false));
        assert!(!Color::Never.choose(true));
        assert!(!Color::Auto.choose(false));
    }
}
