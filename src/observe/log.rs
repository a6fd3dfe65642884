//! The one subscriber of the process: log lines on standard error, and the live stream of events beside them.
//!
//! Failure policy: a filter that does not parse is a typed error for the operator; the filter before it stays.

use std::time::Duration;

use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use super::Color;
use super::live::{self, Live};
use super::traces::TraceSettings;

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line, fields at the top level.
    Json,
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
    /// Where spans are sent, in builds that can; `None`: none are made.
    pub traces: Option<TraceSettings>,
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
    /// Traces cannot be sent.
    #[error("traces cannot be sent to `{endpoint}`: {problem}")]
    Traces {
        /// What was given.
        endpoint: String,
        /// What is wrong.
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

/// What can be done to the log after it was set up.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    /// The events, as they happen.
    pub live: Live,
    #[cfg(feature = "otel")]
    traces: Option<super::otel::Traces>,
}

impl LogControl {
    /// Changes which events are logged.
    ///
    /// # Errors
    /// [`LogError::Level`]; nothing changes then.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let wrong = |problem: String| LogError::Level { level: level.to_owned(), problem };
        self.filter.reload(filter(level)?).map_err(|e| wrong(e.to_string()))
    }

    /// Sends the traces that wait, within `limit`; the last thing before the end.
    pub fn flush(&self, limit: Duration) {
        #[cfg(feature = "otel")]
        if let Some(traces) = &self.traces {
            traces.flush(limit);
        }
        #[cfg(not(feature = "otel"))]
        let _ = limit;
    }
}

/// Sends log lines to standard error, once per process.
///
/// Under systemd (`JOURNAL_STREAM` is set) text lines carry no time, because the journal has its own.
///
/// # Errors
/// [`LogError`] when the level does not parse, or logging is set up already.
pub fn init_log(settings: &LogSettings) -> Result<LogControl, LogError> {
    let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match settings.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            lines.with_timer(SystemTime).boxed()
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(settings.color.on_stderr());
            if std::env::var_os("JOURNAL_STREAM").is_some() {
                lines.without_time().boxed()
            } else {
                lines.with_timer(SystemTime).boxed()
            }
        }
    };
    let live = Live::default();
    let subscriber =
        tracing_subscriber::registry().with(lines.with_filter(filter)).with(live::layer(live.clone()));
    #[cfg(feature = "otel")]
    let (subscriber, traces) = {
        let (layer, traces) = settings.traces.as_ref().map(super::otel::layer).transpose()?.unzip();
        (subscriber.with(layer), traces)
    };
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(LogControl {
        filter: handle,
        live,
        #[cfg(feature = "otel")]
        traces,
    })
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
}
