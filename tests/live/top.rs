//! `top` on a real terminal: tmux is the terminal and the reader of its screen.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{home, mailbox};
use crate::support::post::send;
use crate::support::process::RelayProcess;
use crate::support::until;

/// A tmux server of our own with one pane.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    /// A shell that says `before`, runs `top`, and says how it ended.
    fn start(dir: &Path, data_dir: &Path, environment: &str) -> Option<Self> {
        let screen = Self { socket: dir.join("tmux") };
        let binary = env!("CARGO_BIN_EXE_waystation");
        let script = format!(
            "echo before; {environment} {binary} top --data-dir {}; echo ended with $?; stty -a | grep -o ' icanon'; cat",
            data_dir.display()
        );
        let started = screen.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &script]);
        if started.is_none() {
            eprintln!("SKIPPED: there is no tmux here; tests/run installs it");
        }
        started.map(|_| screen)
    }

    fn tmux(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(args)
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .env("TERM", "xterm-256color")
            .output()
            .ok()?;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What is on the screen; with its colours.
    fn shown(&self, colours: bool) -> String {
        let args = if colours { &["capture-pane", "-p", "-e"][..] } else { &["capture-pane", "-p"] };
        self.tmux(args).unwrap_or_default()
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    async fn shows(&self, words: &str) {
        until(&format!("the screen shows {words}"), || self.shown(false).contains(words)).await;
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("on the screen:\n{}", self.shown(false));
        }
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_the_relay_answers_keys_and_gives_the_terminal_back() {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    let relay = RelayProcess::start(&data);
    let home = home(&relay);
    let key = mailbox(&data, &home);
    let address = format!("{key}@mail.localhost");
    let first = send(relay.smtp, &address, b"Subject: x\r\n\r\nx\r\n").expect("accepted");
    let Some(screen) = Screen::start(dir.path(), &data, "") else { return };
    screen.shows("ready for mail").await;
    screen.shows(&format!("{}…", &key[..10])).await;
    assert!(screen.shown(true).contains("\u{1b}["), "coloured");
    // An event, and the lane's items.
    screen.shows("nothing happened since this view began").await;
    let second = send(relay.smtp, &address, b"Subject: y\r\n\r\ny\r\n").expect("accepted");
    screen.shows(&second).await;
    screen.press("Enter");
    screen.shows("items of").await;
    screen.shows(&first).await;
    screen.press("?");
    screen.shows("the next pane").await;
    screen.press("Escape");
    until("the help is gone", || !screen.shown(false).contains("the next pane")).await;
    // The relay comes and goes.
    assert_eq!(relay.terminate(), 0);
    screen.shows("THE RELAY IS AWAY").await;
    let relay = RelayProcess::start(&data);
    screen.shows("ready for mail").await;
    screen.press("q");
    screen.shows("ended with 0").await;
    screen.shows("icanon").await;
    let after = screen.shown(false);
    assert!(after.contains("before") && after.contains("icanon") && !after.contains("items of"), "{after}");
    assert_eq!(relay.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back_too_and_without_colour_there_is_none() {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    let relay = RelayProcess::start(&data);
    let Some(screen) = Screen::start(dir.path(), &data, "NO_COLOR=1") else { return };
    screen.shows("ready for mail").await;
    let shown = screen.shown(true);
    for colour in 30..38 {
        assert!(!shown.contains(&format!("\u{1b}[{colour}m")), "{shown:?}");
    }
    let shell = screen.tmux(&["list-panes", "-F", "#{pane_pid}"]).expect("a pane");
    let children = Command::new("ps").args(["-o", "pid=", "--ppid", shell.trim()]).output().expect("ps");
    let children = String::from_utf8_lossy(&children.stdout).trim().to_owned();
    assert!(Command::new("kill").args(["-TERM", &children]).status().expect("kill").success(), "{children}");
    screen.shows("ended with 0").await;
    screen.shows("icanon").await;
    assert_eq!(relay.terminate(), 0);
}
