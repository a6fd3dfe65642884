//! The destination that a configuration names, ready to take messages.
//!
//! Failure policy: what cannot work is a [`RunError`] before anything is connected.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::RunError;
use crate::gateway::command::Command;
use crate::gateway::config::Config;
use crate::gateway::destination::Destination;
use crate::gateway::dial::{Endpoint, Trust};
use crate::gateway::lmtp::{Address, Lmtp};
use crate::gateway::maildir::Maildir;
use crate::gateway::webhook::Webhook;
use crate::secrets;

/// Longest bearer token read from its file, bytes.
const TOKEN_BYTES_MAX: usize = 4096;

pub(super) fn destination(config: &Config) -> Result<Destination, RunError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RunError::Io { path, source }
    };
    if let Some(table) = &config.maildir {
        let maildir = Maildir::open(&table.path, &host_name()).map_err(io(&table.path))?;
        return Ok(Destination::Maildir(maildir));
    }
    if let Some(table) = &config.lmtp {
        let address = match table.address.strip_prefix("unix:") {
            Some(path) => Address::Unix(PathBuf::from(path)),
            None => Address::Tcp(table.address.clone()),
        };
        let recipient = Some(table.recipient.clone()).filter(|recipient| !recipient.is_empty());
        let timeout = Duration::from_secs(table.timeout_seconds);
        return Ok(Destination::Lmtp(Lmtp::new(address, host_name(), recipient, timeout)));
    }
    if let Some(table) = &config.command {
        let command = Command::new(table.argv.clone(), Duration::from_secs(table.timeout_seconds));
        return command.map(Destination::Command).ok_or(RunError::NoDestination);
    }
    if let Some(table) = &config.webhook {
        let token = if table.bearer_token_file.as_os_str().is_empty() {
            None
        } else {
            let text = secrets::read_text(&table.bearer_token_file)?;
            let token = Zeroizing::new(text.trim().chars().take(TOKEN_BYTES_MAX).collect::<String>());
            Some(token)
        };
        let extra = Some(config.extra_ca_file.as_path()).filter(|path| !path.as_os_str().is_empty());
        let webhook = Webhook::new(
            Endpoint::http(&table.url)?,
            Trust::new(extra)?,
            token,
            Duration::from_secs(table.timeout_seconds),
        );
        return Ok(Destination::Webhook(webhook));
    }
    Err(RunError::NoDestination)
}

/// This machine's name, for LHLO and Maildir names.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
