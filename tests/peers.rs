//! Mail programs that we did not write, as senders: Postfix with its own queue, swaks, smtp-source, Python.
//!
//! Goal: what the rest of the world runs can hand us mail, and what arrives is byte for byte what was sent.
//! Method: each program is started as a child of the test, talks to a relay on a free port, and the spool is
//! read. A program that is not installed is skipped, with a line that says so. Everything stays on loopback.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use spool::types::MailboxChange;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::relay::{FULL, MailRelay};

/// Longest time one program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a program is, if it is installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

/// Runs a program to its end, with `input` on its stdin; fails when it fails.
async fn run(command: &mut Command, input: &[u8]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("program starts");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input).await.expect("stdin is read");
    drop(stdin);
    let output =
        timeout(PATIENCE, child.wait_with_output()).await.expect("program ends").expect("program runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?} failed:\n{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_smtplib_sends_dots_and_utf8() {
    let Some(python) = program("python3") else { return };
    let relay = MailRelay::start().await;
    let script = "import smtplib, sys\n\
        s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]), timeout=20)\n\
        body = 'Subject: dots\\r\\n\\r\\n.\\r\\n..a\\r\\n.b\\r\\nend\\r\\n'\n\
        refused = s.sendmail('a@client.example', ['home@our.example', 'nobody@our.example'], body)\n\
        assert refused['nobody@our.example'][0] == 550, refused\n\
        s.sendmail('jos\\u00e9@client.example', ['home@our.example'], 'Subject: \\u00fc\\r\\n\\r\\n\\u00fc\\r\\n'.encode(),\n\
                   mail_options=['SMTPUTF8', 'BODY=8BITMIME'])\n\
        s.quit()\n";
    run(Command::new(python).args(["-c", script]).arg(relay.address.port().to_string()), b"").await;
    let items = relay.items().await;
    assert_eq!(items.len(), 2);
    assert_eq!(relay.body(&items[0]).await, b"Subject: dots\r\n\r\n.\r\n..a\r\n.b\r\nend\r\n");
    assert_eq!(relay.body(&items[1]).await, "Subject: ü\r\n\r\nü\r\n".as_bytes());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaks_sends_one_by_one_and_pipelined() {
    let Some(swaks) = program("swaks") else { return };
    let relay = MailRelay::start().await;
    for pipeline in [false, true] {
        let mut command = Command::new(&swaks);
        command.args(["--server", "127.0.0.1", "--port", &relay.address.port().to_string()]).args([
            "--ehlo",
            "client.example",
            "--from",
            "a@client.example",
            "--to",
            "home@our.example",
        ]);
        if pipeline {
            command.arg("--pipeline");
        }
        let said = run(&mut command, b"").await;
        assert!(said.contains("OK queued as"), "{said}");
    }
    assert_eq!(relay.items().await.len(), 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smtp_source_sends_with_64_parallel_sessions() {
    let Some(smtp_source) = program("smtp-source") else { return };
    let relay = MailRelay::start().await;
    let mut command = Command::new(smtp_source);
    command
        .args(["-s", "64", "-m", "640", "-l", "4096", "-f", "a@client.example", "-t", "home@our.example"])
        .arg(format!("inet:127.0.0.1:{}", relay.address.port()));
    run(&mut command, b"").await;
    let items = relay.items().await;
    assert_eq!(items.len(), 640);
    assert_eq!(relay.metrics.inbound_accepted.get(), 640);
    assert!(items.iter().all(|item| item.size_bytes > 4096));
    relay.stop().await;
}

/// A Postfix of our own in a temporary directory: own queue, own configuration, sends everything to one port.
struct Postfix {
    postfix: PathBuf,
    config: PathBuf,
    _directory: tempfile::TempDir,
}

impl Postfix {
    /// `None` when it is not installed, or we may not run it (its master needs root).
    async fn start(port: u16) -> Option<Self> {
        let postfix = program("postfix")?;
        let uid = run(Command::new("id").arg("-u"), b"").await;
        if uid.trim() != "0" {
            eprintln!("SKIPPED: postfix needs root to start");
            return None;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        // Its daemons run as another user and must be able to get in.
        open_to_all(directory.path());
        let config = directory.path().join("config");
        for name in ["config", "queue", "data"] {
            std::fs::create_dir(directory.path().join(name)).expect("directory");
            open_to_all(&directory.path().join(name));
        }
        run(Command::new("chown").arg("postfix").arg(directory.path().join("data")), b"").await;
        let root = directory.path().display();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {root}/queue\ndata_directory = {root}/data\n\
             mail_owner = postfix\nmyhostname = postfix.client.example\nmydestination =\n\
             relayhost = [127.0.0.1]:{port}\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             alias_maps =\nalias_database =\nlocal_recipient_maps =\nsmtp_host_lookup = native\n\
             smtp_tls_security_level = none\nmaillog_file = {root}/log\nmaillog_file_prefixes = {root}\n\
             minimal_backoff_time = 1s\nmaximal_backoff_time = 1s\nqueue_run_delay = 1s\n"
        );
        std::fs::write(config.join("main.cf"), main).expect("main.cf");
        // No smtpd: nothing listens.
        let services = [
            "pickup unix n - n 1 1 pickup",
            "cleanup unix n - n - 0 cleanup",
            "qmgr unix n - n 1 1 qmgr",
            "rewrite unix - - n - - trivial-rewrite",
            "bounce unix - - n - 0 bounce",
            "defer unix - - n - 0 bounce",
            "trace unix - - n - 0 bounce",
            "verify unix - - n - 1 verify",
            "smtp unix - - n - - smtp",
            "relay unix - - n - - smtp",
            "error unix - - n - - error",
            "retry unix - - n - - error",
            "discard unix - - n - - discard",
            "local unix - n n - - local",
            "showq unix n - n - - showq",
            "anvil unix - - n - 1 anvil",
            "scache unix - - n - 1 scache",
            "postlog unix-dgram n - n - 1 postlogd",
        ];
        std::fs::write(config.join("master.cf"), services.join("\n") + "\n").expect("master.cf");
        let this = Self { postfix, config, _directory: directory };
        this.control("start").await;
        Some(this)
    }

    async fn control(&self, verb: &str) -> String {
        run(Command::new(&self.postfix).arg("-c").arg(&self.config).arg(verb), b"").await
    }

    async fn submit(&self, to: &[&str], message: &str) {
        let Some(sendmail) = program("sendmail") else { panic!("postfix without sendmail") };
        let mut command = Command::new(sendmail);
        command.arg("-C").arg(&self.config).args(["-f", "a@client.example", "-i", "--"]).args(to);
        run(&mut command, message.as_bytes()).await;
    }

    async fn stop(self) {
        self.control("stop").await;
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_hands_over_its_queue_and_tries_again_after_a_refusal() {
    let relay = MailRelay::start().await;
    let Some(postfix) = Postfix::start(relay.address.port()).await else { return relay.stop().await };
    let message = "Subject: from postfix\nMessage-ID: <p1@client.example>\nDate: Thu, 1 Jan 2026 00:00:00 +0000\n\
                   From: a@client.example\nTo: home@our.example\n\n.\n..dots\nlast line\n";
    postfix.submit(&["home@our.example", "work@our.example"], message).await;
    let items = relay.wait_for_items(2).await;
    for item in &items {
        let body = String::from_utf8(relay.body(item).await).expect("text");
        assert!(body.ends_with("\r\n\r\n.\r\n..dots\r\nlast line\r\n"), "{body:?}");
        assert!(body.starts_with("Received: by postfix.client.example"), "{body:?}");
    }
    // One transaction for both recipients: one body, two lanes.
    assert_eq!(relay.metrics.inbound_accepted.get(), 1);
    assert_ne!(items[0].lane, items[1].lane);
    // A full mailbox is a reason to come back: 452, kept in its queue, delivered when there is room.
    postfix.submit(&["full@our.example"], message).await;
    let refused = "inbound_refused_total{code=\"452\",stage=\"rcpt\"}";
    let mut waited = Duration::ZERO;
    while !relay.metrics.text().contains(refused) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += Duration::from_millis(20);
        assert!(waited < PATIENCE, "postfix never came");
    }
    assert_eq!(relay.items().await.len(), 2);
    let room = MailboxChange::Quota { items: None, bytes: None };
    let lifted = relay.spooler.call(|spool| spool.change_mailbox(FULL, room)).await;
    lifted.expect("commit").expect("changed");
    relay.wait_for_items(3).await;
    postfix.stop().await;
    relay.stop().await;
}
