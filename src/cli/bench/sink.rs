//! `smtp-sink`, the receiver of both sides.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::clock;

/// Longest wait for it to listen.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Where a program is; Debian keeps Postfix's where a user's PATH may not look.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    all.map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// Running until dropped.
pub(super) struct Sink {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Sink {
    /// Listens on a free port of loopback and takes `connections` at a time, and some more.
    pub(super) fn start(connections: u16) -> anyhow::Result<Self> {
        let path = program("smtp-sink").context("smtp-sink is not installed (Debian package postfix)")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(path);
        command.args(["-m", &(connections + 50).to_string()]);
        if rustix::process::geteuid().is_root() {
            // It insists on being told whom to become.
            command.args(["-u", "nobody"]);
        }
        command.args([format!("inet:{address}"), "1024".to_owned()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("smtp-sink")?;
        let this = Self { child, address };
        let until = clock::monotonic() + START_PATIENCE;
        while TcpStream::connect(address).is_err() {
            anyhow::ensure!(clock::monotonic() < until, "smtp-sink does not listen on {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }
}

impl Sink {
    /// # Errors
    /// It has ended: what waits for it would wait for ever.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
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
