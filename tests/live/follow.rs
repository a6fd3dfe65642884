//! `spool follow` as a shell sees it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::{home, mailbox};
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text, waystation};

const LETTER: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

struct Follower {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    err: BufReader<ChildStderr>,
}

impl Follower {
    /// Starts it, and waits until it follows.
    fn start(data_dir: &Path, args: &[&str]) -> Self {
        let mut child = waystation()
            .args(["spool", "follow", "--data-dir"])
            .arg(data_dir)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let err = BufReader::new(child.stderr.take().expect("piped"));
        let mut follower = Self { child, out: Some(out), err };
        assert!(follower.said().contains("following the running relay"));
        follower
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().expect("open").read_line(&mut line).expect("a line");
        line
    }

    /// The next line of standard error.
    fn said(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).expect("a line");
        line
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn without_a_relay_it_says_so_and_ends_with_75() {
    let dir = tempfile::tempdir().expect("directory");
    let data_dir = dir.path().to_str().expect("text");
    for verb in [&["spool", "follow"][..], &["top", "--json"], &["spool", "top", "--json"]] {
        let (code, out, error) = run_text(&[verb, &["--data-dir", data_dir]].concat());
        assert_eq!((code, out.as_str()), (75, ""), "{verb:?}: {error}");
        assert!(error.contains("no relay listens on"), "{error}");
    }
}

#[test]
fn it_follows_over_a_restart_and_ends_on_a_signal() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let home = home(&relay);
    let key = mailbox(dir.path(), &home);
    let address = format!("{key}@mail.localhost");
    let mut json = Follower::start(dir.path(), &["--json", "--lane", &address, "--event", "ingress."]);
    let mut text = Follower::start(dir.path(), &["--event", "ingress.", "--color", "always"]);
    let id = send(relay.smtp, &address, LETTER).expect("accepted");
    let event: Value = serde_json::from_str(&json.line()).expect("one object per line");
    assert_eq!((&event["event"], &event["item.id"]), (&"relay.ingress.accepted".into(), &id.as_str().into()));
    let line = text.line();
    assert!(line.contains(&id) && line.contains("ingress.accepted") && line.contains("\x1b["), "{line}");

    assert_eq!(relay.terminate(), 0, "nobody holds the stop up");
    for follower in [&mut json, &mut text] {
        assert!(follower.said().contains("the relay went away"));
    }
    let relay = RelayProcess::start(dir.path());
    for follower in [&mut json, &mut text] {
        let said = follower.said();
        assert!(said.contains("the relay is back"), "{said}");
    }
    // It asks again at once; what happens before that is not told.
    let (told, heard) = std::sync::mpsc::channel();
    let mut out = json.out.take().expect("open");
    let reading = std::thread::spawn(move || {
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        told.send(line).expect("somebody waits");
        out
    });
    let mut count = 0;
    let line = loop {
        count += 1; // what is sent twice around a stop is a repeat
        send(relay.smtp, &address, format!("Subject: {count}\r\n\r\nagain\r\n").as_bytes())
            .expect("accepted");
        if let Ok(line) = heard.recv_timeout(std::time::Duration::from_millis(100)) {
            break line;
        }
    };
    json.out = Some(reading.join().expect("it reads"));
    let event: Value = serde_json::from_str(&line).expect("one object per line");
    assert_eq!((&event["event"], &event["lane"]), (&"relay.ingress.accepted".into(), &key.as_str().into()));
    json.signal("INT");
    assert_eq!(json.code(), Some(0));
    text.signal("TERM");
    assert_eq!(text.code(), Some(0));
}

#[test]
fn it_ends_when_nobody_reads_also_while_nothing_happens() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let mut follower = Follower::start(dir.path(), &[]);
    follower.out = None;
    let mut rest = String::new();
    follower.err.read_to_string(&mut rest).expect("its last words");
    assert_eq!((follower.child.wait().expect("it ends").code(), rest.as_str()), (Some(0), ""));
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn what_cannot_be_followed_is_refused_with_the_code_of_other_commands() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let data_dir = dir.path().to_str().expect("text");
    let (code, _, error) =
        run_text(&["spool", "follow", "--lane", "nobody@mail.localhost", "--data-dir", data_dir]);
    assert!(code == 3 && error.contains("no mailbox nobody@mail.localhost"), "{code} {error}");
    let (code, _, error) = run_text(&["spool", "follow", "--id", "short", "--data-dir", data_dir]);
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = run_text(&["top", "--data-dir", data_dir]);
    assert!(code == 2 && error.contains("this is for a terminal"), "{code} {error}");
    let (code, out, error) = run_text(&["top", "--json", "--data-dir", data_dir]);
    let glance: Value = serde_json::from_str(&out).expect("one object");
    assert_eq!((code, error.as_str(), &glance["sessions"]), (0, "", &0.into()));
    assert_eq!(relay.terminate(), 0);
}
