//! Servers that insist on users and directories of their own: unpacked, and run in a mount namespace where these exist.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use super::{Peer, Stored, files_below, free_address, wait_for};

/// Makes the users.
const USERS: &str = include_str!("config/users.sh");

/// One of them.
struct Server {
    /// Its directory below that of all peers.
    name: &'static str,
    /// Its program, below that.
    program: &'static str,
    /// Users and groups that it was built for.
    users: &'static str,
    /// Name and text of its configuration; `{root}`, `{address}` and `{port}` are filled in.
    config: (&'static str, &'static str),
    /// Prepares and becomes it; gets the unpacked package and our directory.
    script: &'static str,
    /// Its queue, below our directory, and which names in it are messages: one for each.
    queue: (&'static str, fn(&str) -> bool),
}

const OPENSMTPD: Server = Server {
    name: "opensmtpd",
    program: "usr/sbin/smtpd",
    users: "opensmtpd opensmtpq",
    config: ("smtpd.conf", include_str!("config/opensmtpd.conf")),
    script: include_str!("config/opensmtpd.sh"),
    queue: ("spool/smtpd/queue", |name| name == "message"),
};

const EXIM: Server = Server {
    name: "exim",
    program: "usr/sbin/exim4",
    users: "Debian-exim",
    config: ("exim.conf", include_str!("config/exim.conf")),
    script: include_str!("config/exim.sh"),
    queue: ("spool/input", |name| name.ends_with("-H")),
};

pub(super) fn opensmtpd(dir: &Path, unpacked: &Path) -> anyhow::Result<Result<Peer, String>> {
    OPENSMTPD.taking(dir, unpacked)
}

pub(super) fn exim(dir: &Path, unpacked: &Path) -> anyhow::Result<Result<Peer, String>> {
    EXIM.taking(dir, unpacked)
}

impl Server {
    fn taking(&self, dir: &Path, unpacked: &Path) -> anyhow::Result<Result<Peer, String>> {
        let package = unpacked.join(self.name);
        if !package.join(self.program).is_file() {
            return Ok(Err(format!("it is not unpacked in {}", package.display())));
        }
        if !rustix::process::geteuid().is_root() {
            return Ok(Err("only root can start it".to_owned()));
        }
        if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
            return Ok(Err("it needs a mount namespace, and none is to be had".to_owned()));
        }
        let (package, smtp) = (package.canonicalize()?, free_address()?);
        let (name, text) = self.config;
        std::fs::write(dir.join(name), fill(text, dir, smtp))?;
        let script = format!("{}{}", USERS.replace("{users}", self.users), self.script);
        let log = File::create(dir.join("output"))?;
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, self.name]).args([&package, dir]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let running = Running(command.spawn().context("unshare")?);
        if let Err(error) = wait_for(smtp, self.name) {
            let said = std::fs::read_to_string(dir.join("output")).unwrap_or_default();
            return Err(error.context(said));
        }
        let (queue, is_message) = (dir.join(self.queue.0), self.queue.1);
        let stored: Stored = Box::new(move || Ok(files_below(&queue, is_message)));
        let recipients = vec!["u@bench.test".to_owned()];
        let pid = running.0.id();
        Ok(Ok(Peer { smtp, recipients, pid, stored: Some(stored), _running: Box::new(running) }))
    }
}

fn fill(text: &str, dir: &Path, smtp: SocketAddr) -> String {
    text.replace("{root}", &dir.display().to_string())
        .replace("{address}", &smtp.ip().to_string())
        .replace("{port}", &smtp.port().to_string())
}

/// Asked to end when dropped; what it has forked ends with it.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // One that has ended already needs no signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}
