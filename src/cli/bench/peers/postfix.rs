//! Postfix: a whole instance in a directory of its own, without a queue manager until it is asked to deliver.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::{Peer, files_below, free_address, program, wait_for};

/// Where messages are that were not delivered.
const QUEUES: [&str; 4] = ["maildrop", "incoming", "active", "deferred"];
const MAIN: &str = include_str!("config/postfix-main.cf");
const MASTER: &str = include_str!("config/postfix-master.cf");
/// Of a failure, so many lines of its log are told.
const LOG_LINES: usize = 5;
/// The queue manager.
const QMGR: &str = "qmgr unix n - n 300 1 qmgr";

/// Stopped when dropped.
pub(in super::super) struct Postfix {
    postfix: PathBuf,
    root: PathBuf,
    master: String,
    pub(in super::super) intake: SocketAddr,
}

impl Postfix {
    /// Starts one that takes mail and keeps it; the inner error says why it cannot be had here. What it delivers, when it
    /// is told to, goes to `relayhost`, so many at a time.
    pub(in super::super) fn start(
        root: &Path,
        relayhost: Option<SocketAddr>,
        concurrency: u16,
    ) -> anyhow::Result<Result<Self, String>> {
        let Some(postfix) = program("postfix") else { return Ok(Err("it is not installed".to_owned())) };
        if !rustix::process::geteuid().is_root() {
            return Ok(Err("only root can start it".to_owned()));
        }
        let intake = free_address()?;
        for name in ["config", "queue", "data"] {
            let directory = root.join(name);
            fs::create_dir(&directory)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        }
        let owned = Command::new("chown").arg("postfix").arg(root.join("data")).status()?;
        anyhow::ensure!(owned.success(), "there is no user postfix");
        let relayhost = relayhost.map_or(String::new(), |to| format!("[{}]:{}", to.ip(), to.port()));
        let main = MAIN
            .replace("{root}", &root.display().to_string())
            .replace("{relayhost}", &relayhost)
            .replace("{concurrency}", &concurrency.to_string());
        fs::write(root.join("config/main.cf"), main)?;
        let master = MASTER.replace("{intake}", &intake.to_string());
        fs::write(root.join("config/master.cf"), &master)?;
        let this = Self { postfix, root: root.to_owned(), master, intake };
        this.control("start")?;
        wait_for(intake, "postfix")?;
        Ok(Ok(this))
    }

    fn control(&self, verb: &str) -> anyhow::Result<()> {
        let mut command = Command::new(&self.postfix);
        command.arg("-c").arg(self.root.join("config")).arg(verb);
        let output = command.stdin(Stdio::null()).output().context("postfix")?;
        let said = String::from_utf8_lossy(&output.stderr);
        // What it has to say goes to its log, once it has one.
        let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
        let told = log.lines().rev().take(LOG_LINES).collect::<Vec<_>>().join("\n");
        anyhow::ensure!(output.status.success(), "postfix {verb}: {said}{told}");
        Ok(())
    }

    /// From now on it delivers what it has. `postfix reload` would do the same, and have `postsuper` read the whole queue
    /// beside it.
    pub(in super::super) fn release(&self) -> anyhow::Result<()> {
        fs::write(self.root.join("config/master.cf"), format!("{}{QMGR}\n", self.master))?;
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(self.pid()?)?).context("postfix's pid is 0")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::HUP)?)
    }

    /// Its first process.
    pub(in super::super) fn pid(&self) -> anyhow::Result<u32> {
        let pid =
            fs::read_to_string(self.root.join("queue/pid/master.pid")).context("postfix has no pid file")?;
        pid.trim().parse().context("postfix's pid file is odd")
    }

    /// Messages in its queues.
    pub(in super::super) fn queued(&self) -> u64 {
        queued(&self.root)
    }

    /// For counting the messages that leave its queue.
    pub(in super::super) fn removals(&self) -> anyhow::Result<Removals> {
        Ok(Removals { log: fs::File::open(self.root.join("log"))?, read: Vec::new(), count: 0 })
    }

    /// Deliveries that its log calls sent.
    pub(in super::super) fn sent(&self) -> u64 {
        let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
        u64::try_from(log.matches("status=sent").count()).unwrap_or(u64::MAX)
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.control("stop");
    }
}

/// Messages whose end the log has told. Whoever waits looks often; a look at the queue's directories takes the time of
/// whoever works in them.
pub(in super::super) struct Removals {
    log: fs::File,
    /// The beginning of a line.
    read: Vec<u8>,
    count: u64,
}

impl Removals {
    pub(in super::super) fn count(&mut self) -> anyhow::Result<u64> {
        self.log.read_to_end(&mut self.read)?;
        let whole = self.read.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = self.read.drain(..whole).collect::<Vec<_>>();
        let gone = lines.split(|byte| *byte == b'\n').filter(|line| line.ends_with(b": removed")).count();
        self.count += u64::try_from(gone)?;
        Ok(self.count)
    }
}

fn queued(root: &Path) -> u64 {
    QUEUES.iter().map(|queue| files_below(&root.join("queue").join(queue), |_| true)).sum()
}

/// As a server under measurement, which takes mail and has nobody to give it to.
pub(super) fn taking(dir: &Path) -> anyhow::Result<Result<Peer, String>> {
    let postfix = match Postfix::start(dir, None, 20)? {
        Ok(postfix) => postfix,
        Err(why) => return Ok(Err(why)),
    };
    let recipients = vec!["u@bench.test".to_owned()];
    let (smtp, pid, root) = (postfix.intake, postfix.pid()?, dir.to_owned());
    let stored = move || Ok(queued(&root));
    Ok(Ok(Peer { smtp, recipients, pid, stored: Some(Box::new(stored)), _running: Box::new(postfix) }))
}
