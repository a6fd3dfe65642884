//! `smtp-sink`: takes everything and stores nothing, or a plain copy for whoever counts.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use super::{Peer, free_address, program, wait_for};

/// Connections that it takes as a peer.
const CONNECTIONS: u16 = 1000;

/// Running until dropped.
pub(in super::super) struct Sink {
    child: Child,
    pub(in super::super) address: SocketAddr,
}

impl Sink {
    /// Listens on a free port of loopback and takes `connections` at a time, and some more.
    pub(in super::super) fn start(connections: u16) -> anyhow::Result<Self> {
        Self::start_with(connections, &[])
    }

    /// The same, and appends all that it takes to `file`, whose directory must be open to everybody.
    pub(in super::super) fn start_writing(connections: u16, file: &Path) -> anyhow::Result<Self> {
        Self::start_with(connections, &["-D".as_ref(), file.as_os_str()])
    }

    fn start_with(connections: u16, more: &[&OsStr]) -> anyhow::Result<Self> {
        let path = program("smtp-sink").context("smtp-sink is not installed (Debian package postfix)")?;
        let address = free_address()?;
        let mut command = Command::new(path);
        command.args(["-m", &(connections + 50).to_string()]);
        if rustix::process::geteuid().is_root() {
            // It insists on being told whom to become.
            command.args(["-u", "nobody"]);
        }
        command.args(more).args([format!("inet:{address}"), "1024".to_owned()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("smtp-sink")?;
        let this = Self { child, address };
        wait_for(address, "smtp-sink")?;
        Ok(this)
    }
}

impl Sink {
    /// # Errors
    /// It has ended: what waits for it would wait for ever.
    pub(in super::super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => anyhow::bail!("smtp-sink ended in the middle: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a server under measurement.
pub(super) fn taking() -> anyhow::Result<Result<Peer, String>> {
    if program("smtp-sink").is_none() {
        return Ok(Err("it is not installed (Debian package postfix)".to_owned()));
    }
    let sink = Sink::start(CONNECTIONS)?;
    let recipients = vec!["u@bench.test".to_owned()];
    let (smtp, pid) = (sink.address, sink.child.id());
    Ok(Ok(Peer { smtp, recipients, pid, stored: None, _running: Box::new(sink) }))
}
