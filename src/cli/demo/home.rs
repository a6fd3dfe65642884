//! The demo's home gateway: the real one, delivering into a Maildir in a temporary directory.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::DOMAIN;
use crate::gateway::bootstrap;
use crate::gateway::checked::FIELD_NAME;
use crate::gateway::config::Config;
use crate::gateway::outbox::State;
use crate::gateway::run::{self, RunError};
use crate::gateway::socket;
use crate::systemd::Manager;

/// The gateway, plugged in or not.
pub(super) struct Home {
    pub(super) address: String,
    config: Config,
    maildir: PathBuf,
    running: Option<(CancellationToken, JoinHandle<Result<(), RunError>>)>,
}

/// One message of the Maildir.
pub(super) struct Arrived {
    /// Id of the item, from our own `Received` field.
    pub(super) id: String,
    /// What follows that field.
    pub(super) body: Vec<u8>,
}

impl Home {
    /// Makes key and configuration, as `gateway bootstrap` does.
    pub(super) fn bootstrap(dir: &Path, relay_url: &str) -> anyhow::Result<Self> {
        let made = bootstrap::bootstrap(&bootstrap::Plan {
            relay_url,
            dir,
            maildir: Path::new("Maildir"),
            mail_domain: Some(DOMAIN),
            extra_ca_file: None,
            aliases: &[],
            pins: &[],
        })?;
        let text = std::fs::read_to_string(&made.config_file).context("gateway.toml")?;
        let mut config = Config::parse(&text, &made.config_file)?;
        // Nobody wants to watch a backoff.
        config.reconnect_base_delay_ms = 50;
        config.reconnect_max_delay_ms = 500;
        Ok(Self { address: made.address, config, maildir: dir.join("Maildir"), running: None })
    }

    pub(super) fn plug_in(&mut self) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run::run(self.config.clone(), Manager::nobody(), stop.clone()));
        self.running = Some((stop, task));
        Ok(())
    }

    /// Ends the gateway; what it has not acked stays at the relay.
    pub(super) async fn unplug(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            // How it ended does not matter: the Maildir tells.
            let _ = task.await;
        }
    }

    pub(super) async fn is_connected(&self) -> bool {
        let report = socket::ask(&self.config.status_socket).await;
        report.is_ok_and(|report| report.status.connected_since_ms.is_some())
    }

    /// Hands one message to the gateway, as `gateway send` does; answers the submission's id.
    pub(super) async fn send(&self, rcpt_to: &str) -> anyhow::Result<String> {
        let from = &self.address;
        let text = format!("From: {from}\r\nTo: {rcpt_to}\r\nSubject: Hello back\r\n\r\nWe are at home.\r\n");
        let to = [rcpt_to.to_owned()];
        let taken = socket::submit(&self.config.status_socket, from, &to, text.as_bytes()).await?;
        taken.ids.into_iter().next().with_context(|| format!("the gateway did not take it: {}", taken.error))
    }

    /// How a submission ended, and what was said last; `None` while it is open.
    pub(super) async fn result(&self, id: &str) -> anyhow::Result<Option<(State, String)>> {
        let story = socket::ask_about(&self.config.status_socket, id).await?.context("unknown submission")?;
        let over = matches!(story.entry.state, State::Sent | State::Failed | State::Indeterminate);
        Ok((over && !story.entry.pending).then_some((story.entry.state, story.entry.text)))
    }

    /// Messages in the Maildir.
    pub(super) fn count(&self) -> anyhow::Result<usize> {
        Ok(self.files()?.len())
    }

    /// Files of `new`, in the order of their delivery.
    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let new = self.maildir.join("new");
        if !new.is_dir() {
            return Ok(Vec::new());
        }
        let mut files =
            std::fs::read_dir(&new)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(|path| delivery(path));
        Ok(files)
    }

    /// Everything that arrived, in the order of its delivery.
    pub(super) fn arrived(&self) -> anyhow::Result<Vec<Arrived>> {
        self.files()?.iter().map(|path| Ok(open(&std::fs::read(path)?))).collect()
    }
}

/// The time and the delivery counter of a Maildir name: `1795203988.Q000000000001-W....host`.
fn delivery(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where the first field of a header ends.
fn first_field(bytes: &[u8]) -> usize {
    let mut end = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let continues = matches!(line.first(), Some(b' ' | b'\t'));
        if end > 0 && !continues {
            break;
        }
        end += line.len();
    }
    end
}

/// Separates our own first fields from what the stranger wrote.
fn open(bytes: &[u8]) -> Arrived {
    let attested = bytes.starts_with(FIELD_NAME.as_bytes());
    let bytes = if attested { &bytes[first_field(bytes)..] } else { bytes };
    let end = first_field(bytes);
    let trace = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let id = trace.split(" id ").nth(1).and_then(|rest| rest.split([';', ' ', '\r', '\n']).next());
    Arrived { id: id.unwrap_or_default().to_owned(), body: bytes[end..].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_field_is_told_from_the_message() {
        let arrived = open(b"Waystation-Attestation: ok;\r\n\titem=x\r\nReceived: from a\r\n\tby b id 06gv\r\n\tfor <c>;\r\nReceived: x\r\n\r\nhi\r\n");
        assert_eq!(arrived.id, "06gv");
        assert_eq!(arrived.body, b"Received: x\r\n\r\nhi\r\n");
    }
}
