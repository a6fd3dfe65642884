//! Upgrade, the way back, backup and restore, as `deploy/README.md` tells them, with real processes: what was accepted before is
//! there afterwards, and a gateway goes on.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::logged::Logged;
use super::tell;
use crate::support::home::{Home, Running};
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text, waystation};
use crate::support::until;

/// A relay started from a link, as a server's releases are.
struct Server {
    relay: Logged,
    dir: tempfile::TempDir,
}

impl Server {
    /// Two releases of one program, and the first one running.
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        for release in ["one", "two"] {
            fs::copy(env!("CARGO_BIN_EXE_waystation"), dir.path().join(release)).expect("copied");
        }
        symlink("one", dir.path().join("current")).expect("linked");
        let relay = Logged::relay(clean(&dir.path().join("current")), dir.path(), &[]).await;
        Self { relay, dir }
    }

    /// A gateway that is connected.
    async fn gateway(&self) -> (Home, Running) {
        let home = Home::new(&format!("ws://{}/ws", self.relay.address("http")));
        let gateway = home.start(None);
        connected(&home).await;
        (home, gateway)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The program that runs.
    fn program(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.relay.child.id())).expect("it runs")
    }

    /// Puts another release in place in one step, and lets it take over.
    fn switch(&self, release: &str) -> (i32, String) {
        let fresh = self.dir.path().join("fresh");
        symlink(release, &fresh).expect("linked");
        fs::rename(fresh, self.dir.path().join("current")).expect("renamed");
        tell(clean(&self.dir.path().join("current")).args(["restart", "--data-dir"]).arg(self.data()))
    }
}

/// A program without what the environment of the tests would tell it.
fn clean(program: &Path) -> Command {
    let ours = waystation();
    let mut command = Command::new(program);
    for (name, value) in ours.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null());
    command
}

fn address_of(home: &Home) -> String {
    let key = home.status().expect("the gateway runs")["key"].as_str().expect("a key").to_owned();
    format!("{key}@mail.localhost")
}

async fn connected(home: &Home) {
    until("the gateway is connected", || home.status().is_some_and(|status| status["tunnel"] == 2)).await;
}

fn letter(name: &str) -> Vec<u8> {
    format!("Subject: {name}\r\n\r\nhello\r\n").into_bytes()
}

/// Subjects of what is at home; each once, or this panics.
fn at_home(home: &Home) -> BTreeSet<String> {
    let subject = |bytes: &Vec<u8>| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned)).expect("a subject")
    };
    let all: Vec<String> = home.maildir().values().map(subject).collect();
    let set: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(set.len(), all.len(), "something is there twice");
    set
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_and_the_way_back_keep_mail_and_gateways() {
    let server = Server::start().await;
    let smtp = server.relay.address("smtp");
    let (home, gateway) = server.gateway().await;
    let to = address_of(&home);
    send(smtp, &to, &letter("before")).expect("accepted");
    until("it is at home", || at_home(&home) == names(&["before"])).await;
    gateway.stop().await;
    send(smtp, &to, &letter("waits")).expect("accepted");

    // The next release takes over in the same process; nobody is turned away.
    assert!(server.program().ends_with("one"));
    let (code, said) = server.switch("two");
    assert_eq!(code, 0, "{said}");
    assert!(server.program().ends_with("two"), "{said}");
    send(smtp, &to, &letter("after")).expect("accepted");
    let gateway = home.start(None);
    until("what waited is at home", || at_home(&home) == names(&["before", "waits", "after"])).await;

    // And back, with the gateway connected: it comes back by itself.
    let (code, said) = server.switch("one");
    assert_eq!(code, 0, "{said}");
    assert!(server.program().ends_with("one"), "{said}");
    send(smtp, &to, &letter("back")).expect("accepted");
    until("mail goes on", || at_home(&home).contains("back")).await;
    gateway.stop().await;
    let data = server.data();
    let (code, _, said) = run_text(&["spool", "verify", "--data-dir", data.to_str().expect("text")]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_does_not_start_changes_nothing() {
    let server = Server::start().await;
    let smtp = server.relay.address("smtp");
    let (home, gateway) = server.gateway().await;
    let broken = server.dir.path().join("broken");
    fs::write(&broken, "#!/bin/sh\necho 'error: this machine is too old' >&2\nexit 1\n").expect("written");
    Command::new("chmod").arg("755").arg(&broken).status().expect("chmod");
    let fresh = server.dir.path().join("fresh");
    symlink("broken", &fresh).expect("linked");
    fs::rename(fresh, server.dir.path().join("current")).expect("renamed");
    // Asked by a program that works, because the new one cannot even ask.
    let (code, said) =
        tell(clean(&server.dir.path().join("one")).args(["restart", "--data-dir"]).arg(server.data()));
    assert!(code != 0 && said.contains("too old"), "{code}: {said}");
    assert!(server.program().ends_with("one"));
    send(smtp, &address_of(&home), &letter("goes on")).expect("accepted");
    until("mail goes on", || at_home(&home) == names(&["goes on"])).await;
    gateway.stop().await;
}

#[test]
fn a_spool_of_a_newer_release_is_refused_in_words_and_left_alone() {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    let relay = RelayProcess::start(&data);
    assert_eq!(relay.terminate(), 0);
    let file = data.join("spool/FORMAT");
    let text = fs::read_to_string(&file).expect("the format");
    let mut words: Vec<&str> = text.split(' ').collect();
    words[1] = "999";
    fs::write(&file, words.join(" ")).expect("written");
    let before = snapshot(&data);
    let data = data.to_str().expect("text");
    for command in [&["serve"][..], &["spool", "ls"], &["spool", "stats"]] {
        let (code, _, said) = run_text(&[command, &["--data-dir", data]].concat());
        assert_ne!(code, 0, "{command:?}");
        assert!(
            said.contains("spool format 999 is newer than") && said.contains("upgrade waystation"),
            "{command:?}: {said}"
        );
    }
    assert_eq!(snapshot(Path::new(data)), before, "something was changed");
}

/// Names and contents of everything in a directory, but the lock and the index, which hold nothing of their own.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                if !path.ends_with("index") {
                    left.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "wsj") || path.ends_with("FORMAT") {
                found.push((path.clone(), fs::read(&path).expect("read")));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_relay_is_restored_with_its_mail_and_its_gateways() {
    let dir = tempfile::tempdir().expect("directory");
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let relay = RelayProcess::start(&data);
    let home = Home::new(&format!("ws://{}/ws", relay.http));
    let gateway = home.start(None);
    connected(&home).await;
    let to = address_of(&home);
    send(relay.smtp, &to, &letter("delivered")).expect("accepted");
    until("it is at home", || at_home(&home) == names(&["delivered"])).await;
    gateway.stop().await;
    send(relay.smtp, &to, &letter("waits")).expect("accepted");

    // While it runs.
    let (data, copy) = (data.to_str().expect("text"), copy.to_str().expect("text"));
    let (code, _, said) = run_text(&["backup", copy, "--data-dir", data]);
    assert_eq!(code, 0, "{said}");
    // The machine is gone; the copy takes its place on another one.
    relay.kill();
    fs::remove_dir_all(data).expect("gone");
    let (code, _, said) =
        run_text(&["delivery", "pause", "--offline", "--reason", "restored", "--data-dir", copy]);
    assert_eq!(code, 0, "{said}");
    let restored = RelayProcess::start(Path::new(copy));
    let (code, status, _) = run_text(&["delivery", "status", "--data-dir", copy]);
    assert!(code == 0 && status.contains("restored"), "{status}");
    home.configure(&format!("ws://{}/ws", restored.http), "[maildir]\npath = \"Maildir\"\n");
    let gateway = home.start(None);
    until("what waited is at home, and nothing twice", || at_home(&home) == names(&["delivered", "waits"]))
        .await;
    send(restored.smtp, &to, &letter("new")).expect("accepted");
    until("mail goes on", || at_home(&home).contains("new")).await;
    gateway.stop().await;
    let (code, _, said) = run_text(&["delivery", "resume", "--data-dir", copy]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(restored.terminate(), 0);
}
