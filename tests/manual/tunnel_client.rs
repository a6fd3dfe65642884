//! The page about the tunnel is enough to write a client: one that was written from it alone talks to the real relay.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::layering::root;
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text};
use crate::support::programs::program;

const LETTER: &[u8] = b"Subject: in\r\n\r\n.a line\r\n";

/// A Python that has `cryptography`.
fn python() -> Option<PathBuf> {
    let has = |python: &PathBuf| {
        let tried = Command::new(python).args(["-c", "import cryptography"]).output();
        tried.is_ok_and(|ended| ended.status.success())
    };
    let found = [Some(PathBuf::from("/usr/bin/python3")), program("python3")].into_iter().flatten().find(has);
    if found.is_none() {
        eprintln!("SKIPPED: python3-cryptography is not installed");
    }
    found
}

/// Runs the client to its end, with `letter` on its standard input.
fn client(python: &Path, relay: &RelayProcess, home: &Path, args: &[&str], letter: &[u8]) -> String {
    let mut child = Command::new(python)
        .arg(root().join("docs/examples/minimal_gateway.py"))
        .args(["--url", &format!("ws://{}/ws", relay.http)])
        .arg("--key")
        .arg(home.join("passport.pem"))
        .arg("--dir")
        .arg(home.join("mail"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python");
    child.stdin.take().expect("piped").write_all(letter).expect("letter");
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    said
}

#[test]
fn a_client_written_from_the_page_receives_acks_and_submits() {
    let Some(python) = python() else { return };
    let (data, home) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let relay = RelayProcess::start(data.path());
    let said = client(&python, &relay, home.path(), &[], b"");
    let address = said.trim().strip_prefix("connected as ").expect("connected").to_owned();

    // Two wait for it; then it submits one to itself, and has all three in order.
    for _ in 0..2 {
        send(relay.smtp, &address, LETTER).expect("taken");
    }
    let mine = format!("From: {address}\r\nTo: {address}\r\nSubject: out\r\n\r\nfrom home\r\n");
    let said = client(&python, &relay, home.path(), &["--items", "3", "--send", "me"], mine.as_bytes());
    assert_eq!(said.matches("receipt ok").count(), 3, "{said}");
    assert_eq!(said.matches("\nstored ").count(), 3, "{said}");
    assert!(said.contains("\naccepted ") && said.contains("\nresult sent"), "{said}");
    let mut files: Vec<_> = fs::read_dir(home.path().join("mail/new"))
        .expect("mail")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    let texts: Vec<_> = files.iter().map(|file| fs::read(file).expect("file")).collect();
    assert!(texts[0].ends_with(LETTER) && texts[1].ends_with(LETTER), "{texts:?}");
    assert!(texts[2].ends_with(b"\r\n\r\nfrom home\r\n"), "{texts:?}");

    // The relay has heard its acks: nothing waits, and nothing comes again.
    let dir = data.path().to_str().expect("text");
    assert_eq!(run_text(&["spool", "ls", "--state", "ready", "--data-dir", dir]).0, 3);
    let said = client(&python, &relay, home.path(), &["--items", "0"], b"");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(relay.terminate(), 0);
}
