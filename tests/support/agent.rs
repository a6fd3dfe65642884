//! How an unmodified gateway sends a mail (mail-tunnel protocol, section 7.4): one stream per recipient, twenty seconds of
//! patience for each, and after a `failed` the whole mail once more to everybody, with new ids.

use std::time::Duration;

use waystation::clock::monotonic;

use super::line::{Line, Log};

/// Times a mail is sent as a whole.
const TRIES: usize = 3;
/// Waits before the second and the third.
const PAUSES: [Duration; TRIES - 1] = [Duration::from_millis(200), Duration::from_millis(400)];

/// What the agent behind the gateway learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All `sent`.
    Sent,
    /// Failed three times; the last error text.
    Failed(String),
    /// Something took too long: "queued", no repeat.
    Queued,
}

/// What is sent.
pub(crate) struct Mail<'a> {
    pub(crate) mail_from: &'a str,
    pub(crate) rcpt_to: &'a [&'a str],
    /// The message for a try (from 1): `Message-ID`, `Date` and MIME boundaries differ from try to try.
    pub(crate) message: &'a dyn Fn(usize) -> Vec<u8>,
    /// Twenty seconds, or less in a hurry.
    pub(crate) patience: Duration,
}

/// Sends a mail as the original does. `name` makes stream ids unique.
pub(crate) async fn send(line: &Line, log: &Log, name: &str, mail: &Mail<'_>) -> Outcome {
    let mut error = String::new();
    for number in 1..=TRIES {
        let message = (mail.message)(number);
        let streams: Vec<String> = (0..mail.rcpt_to.len()).map(|n| format!("{name}-{number}-{n}")).collect();
        let until = monotonic() + mail.patience;
        for (stream, rcpt_to) in streams.iter().zip(mail.rcpt_to) {
            line.submit(stream, mail.mail_from, rcpt_to, &message);
        }
        let statuses = || streams.iter().map(|stream| log.status(stream)).collect::<Vec<_>>();
        while statuses().iter().any(Option::is_none) && monotonic() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let statuses = statuses();
        if statuses.iter().any(Option::is_none) {
            return Outcome::Queued;
        }
        let is_failed = |status: &Option<String>| status.as_deref() == Some("failed");
        match statuses.iter().position(is_failed) {
            None => return Outcome::Sent,
            Some(at) => error = log.error(&streams[at]).unwrap_or_default(),
        }
        if let Some(pause) = PAUSES.get(number - 1) {
            tokio::time::sleep(*pause).await;
        }
    }
    Outcome::Failed(error)
}
