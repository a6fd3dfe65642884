//! Postfix's side: a whole instance in a temporary directory, its queue filled while it has no queue manager.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use super::sink::{Sink, program};
use super::{Load, Taken, cpu, wait_until_empty};
use crate::clock;

/// Sessions that fill the queue.
const FILLERS: &str = "10";
/// Longest wait for it to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Where messages are that were not delivered.
const QUEUES: [&str; 4] = ["maildrop", "incoming", "active", "deferred"];
/// Daemons that it needs; the queue manager comes when the queue is full.
const SERVICES: [&str; 12] = [
    "cleanup unix n - n - 0 cleanup",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "proxymap unix - - n - - proxymap",
    "smtp unix - - n - - smtp",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
];
/// The queue manager.
const QMGR: &str = "qmgr unix n - n 300 1 qmgr";

/// Stopped when dropped.
struct Postfix {
    postfix: PathBuf,
    root: PathBuf,
}

impl Postfix {
    fn control(&self, verb: &str) -> anyhow::Result<()> {
        let mut command = Command::new(&self.postfix);
        command.arg("-c").arg(self.root.join("config")).arg(verb);
        let output = command.stdin(Stdio::null()).output().context("postfix")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "postfix {verb}: {said}");
        Ok(())
    }

    fn master(&self) -> anyhow::Result<u32> {
        let pid =
            fs::read_to_string(self.root.join("queue/pid/master.pid")).context("postfix has no pid file")?;
        pid.trim().parse().context("postfix's pid file is odd")
    }

    fn is_empty(&self) -> bool {
        QUEUES.iter().all(|queue| holds_no_file(&self.root.join("queue").join(queue)))
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.control("stop");
    }
}

/// Measures; the inner error says why it cannot be done here.
pub(super) fn measure(root: &Path, sink: &mut Sink, load: Load) -> anyhow::Result<Result<Taken, String>> {
    let (Some(postfix), Some(filler)) = (program("postfix"), program("smtp-source")) else {
        return Ok(Err("it is not installed".to_owned()));
    };
    if !rustix::process::geteuid().is_root() {
        return Ok(Err("only root can start it".to_owned()));
    }
    let intake = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for name in ["config", "queue", "data"] {
        let directory = root.join(name);
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    }
    let owned = Command::new("chown").arg("postfix").arg(root.join("data")).status()?;
    anyhow::ensure!(owned.success(), "there is no user postfix");
    let place = root.display();
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {place}/queue\ndata_directory = {place}/data\n\
         mail_owner = postfix\nmyhostname = postfix.bench.test\nmydestination =\nmynetworks = 127.0.0.0/8\n\
         relayhost = [{}]:{}\ninet_interfaces = all\ninet_protocols = ipv4\nalias_maps =\nalias_database =\n\
         local_recipient_maps =\nsmtp_host_lookup = native\nsmtp_dns_support_level = disabled\n\
         smtp_tls_security_level = none\nmaillog_file = {place}/log\nmaillog_file_prefixes = {place}\n\
         in_flow_delay = 0\nsmtpd_peername_lookup = no\ndefault_process_limit = 250\n\
         default_destination_concurrency_limit = {concurrency}\ninitial_destination_concurrency = {concurrency}\n\
         smtp_destination_concurrency_limit = {concurrency}\n",
        sink.address.ip(),
        sink.address.port(),
        concurrency = load.concurrency,
    );
    fs::write(root.join("config/main.cf"), main)?;
    let without = format!("{intake} inet n - n - - smtpd\n{}\n", SERVICES.join("\n"));
    fs::write(root.join("config/master.cf"), &without)?;
    let this = Postfix { postfix, root: root.to_owned() };
    this.control("start")?;
    let until = clock::monotonic() + START_PATIENCE;
    while TcpStream::connect(intake).is_err() {
        anyhow::ensure!(clock::monotonic() < until, "postfix does not listen on {intake}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut fill = Command::new(filler);
    fill.args(["-s", FILLERS, "-m", &load.messages.to_string(), "-l", &load.size.to_string()]);
    fill.args(["-f", "bench@from.test", "-t", "u@bench.test", &format!("inet:{intake}")]);
    anyhow::ensure!(
        fill.stdin(Stdio::null()).status()?.success(),
        "smtp-source could not fill postfix's queue"
    );
    // What filled the queue is done before the release: its processes are idle, their time is in the first reading.
    fs::write(root.join("config/master.cf"), format!("{without}{QMGR}\n"))?;
    let master = this.master()?;
    anyhow::ensure!(!this.is_empty(), "postfix's queue is empty before its queue manager runs");
    let before = cpu::of_tree(master);
    let released = clock::monotonic();
    this.control("reload")?;
    let wall = wait_until_empty(released, sink, || Ok(this.is_empty()))?;
    let cpu = cpu::of_tree(master).saturating_sub(before);
    let log = fs::read_to_string(root.join("log")).unwrap_or_default();
    let sent = log.matches("status=sent").count();
    anyhow::ensure!(
        u64::try_from(sent)? == load.messages,
        "postfix sent {sent} of {} messages",
        load.messages
    );
    Ok(Ok(Taken { wall, cpu }))
}

/// Whether no file is in a directory or below it.
fn holds_no_file(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return true };
    entries.flatten().all(|entry| {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_directory && holds_no_file(&entry.path())
    })
}
