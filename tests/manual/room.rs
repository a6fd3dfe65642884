//! The room of one page: its processes, its network, its layer of the file system. Ends with all that is in it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use waystation::clock::monotonic;

use crate::layering::root;
use crate::support::programs::program;

/// Longest time for one block.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a block ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit code.
    pub(super) code: i32,
    /// What it printed, both streams in the order in which they came.
    pub(super) said: String,
    /// How long it took.
    pub(super) took: Duration,
}

/// A running room.
#[derive(Debug)]
pub(super) struct Room {
    holder: Child,
    asks: ChildStdin,
    answers: Receiver<String>,
    shared: tempfile::TempDir,
    blocks: usize,
}

impl Room {
    /// Opens one, if this machine has what it takes; says so when not.
    pub(super) fn open() -> Option<Self> {
        let unshare = program("unshare")?;
        let shared = tempfile::tempdir().expect("directory");
        let stage = |name: &str, text: &str| fs::write(shared.path().join(name), text).expect("stage");
        stage("inside.sh", include_str!("inside.sh"));
        stage("room.sh", include_str!("room.sh"));
        stage("unbound.conf", include_str!("unbound.conf"));
        stage("pebble.json", include_str!("pebble.json"));
        fs::create_dir(shared.path().join("acme")).expect("stage");
        for name in ["localhost.pem", "localhost.key", "ca.pem"] {
            let from = root().join("tests/fixtures/tls").join(name);
            fs::copy(from, shared.path().join("acme").join(format!("pebble-{name}"))).expect("certificate");
        }
        let spaces = ["--mount", "--net", "--pid", "--uts", "--fork", "--kill-child"];
        let may = |more: &[&str]| {
            let tried = Command::new(&unshare).args(spaces).args(more).arg("true").output();
            tried.is_ok_and(|ended| ended.status.success())
        };
        let more: &[&str] = if may(&[]) {
            &[]
        } else if may(&["--map-root-user"]) {
            &["--map-root-user"]
        } else {
            eprintln!("SKIPPED: no namespaces for a page of the manual without root");
            return None;
        };
        let mut holder = Command::new(&unshare)
            .args(spaces)
            .args(more)
            .arg("/bin/bash")
            .arg(shared.path().join("room.sh"))
            .arg(shared.path())
            .arg(root())
            .arg(env!("CARGO_BIN_EXE_waystation"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a room");
        let asks = holder.stdin.take().expect("piped");
        let (tell, answers) = channel();
        let from = BufReader::new(holder.stdout.take().expect("piped"));
        thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Some(Self { holder, asks, answers, shared, blocks: 0 })
    }

    fn file(&self, block: usize, ending: &str) -> PathBuf {
        self.shared.path().join(format!("{block}.{ending}"))
    }

    fn said(&self, block: usize) -> String {
        String::from_utf8_lossy(&fs::read(self.file(block, "out")).unwrap_or_default()).into_owned()
    }

    /// Starts a script; directory and exported variables are those that the one before left.
    fn start(&mut self, script: &str, how: &str) -> usize {
        self.blocks += 1;
        let text = format!(
            "source /stage/state\nkeep() {{ printf 'cd %q\\n' \"$PWD\"; export -p; }}\n\
             trap 'code=$?; keep > /stage/state; exit $code' EXIT\nset -euo pipefail\n{script}\n"
        );
        fs::write(self.file(self.blocks, "sh"), text).expect("script");
        writeln!(self.asks, "{} {how}", self.blocks).expect("the room lives");
        self.blocks
    }

    /// Runs a script to its end.
    pub(super) fn run(&mut self, script: &str) -> Ended {
        let began = monotonic();
        let block = self.start(script, "wait");
        let answer = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("did not end in {PATIENCE:?}:\n{script}\nit said:\n{}", self.said(block))
        });
        let (of, code) = answer.split_once(' ').expect("an answer");
        assert_eq!(of, block.to_string(), "answers come in order");
        Ended { code: code.parse().expect("a code"), said: self.said(block), took: monotonic() - began }
    }

    /// Starts a script that stays, and waits until it has printed `ready`.
    pub(super) fn background(&mut self, script: &str, ready: &str) -> Ended {
        let began = monotonic();
        // What it runs takes the place of the shell, whose last act would come too late.
        let block = self.start(&format!("trap - EXIT\n{script}"), "background");
        self.answers.recv_timeout(PATIENCE).expect("started");
        let mut said = self.said(block);
        while !said.contains(ready) {
            let over = monotonic() - began > PATIENCE || self.file(block, "ended").exists();
            assert!(!over, "never said {ready:?}:\n{script}\nit said:\n{said}");
            thread::sleep(LOOK_EVERY);
            said = self.said(block);
        }
        Ended { code: 0, said, took: monotonic() - began }
    }

    /// Asks again and again until `is` gives something, or the patience ends with what was said last.
    pub(super) fn until<T>(&mut self, script: &str, is: impl Fn(&Ended) -> Result<T, String>) -> T {
        let began: Instant = monotonic();
        loop {
            let ended = self.run(script);
            match is(&ended) {
                Ok(found) => return found,
                Err(problem) => {
                    assert!(monotonic() - began < PATIENCE / 4, "{problem}\nit said:\n{}", ended.said);
                    thread::sleep(LOOK_EVERY);
                }
            }
        }
    }

    /// A file for the room, readable below `/stage`.
    pub(super) fn put(&self, name: &str, text: &str) {
        fs::write(self.shared.path().join(name), text).expect("file");
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // `--kill-child` takes everything inside with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
