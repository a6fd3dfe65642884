//! `waystation doctor` beside a relay that runs, one that was killed, and things that are wrong.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{lines, of, waystation};
use crate::support::process::RelayProcess;

/// A port that is free now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port()
}

struct Relay {
    dir: tempfile::TempDir,
    smtp: String,
    http: String,
}

impl Relay {
    fn new() -> Self {
        let at = || format!("127.0.0.1:{}", port());
        Self { dir: tempfile::tempdir().expect("directory"), smtp: at(), http: at() }
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn env(&self) -> [(&str, &str); 3] {
        [
            ("WAYSTATION_SMTP__LISTEN", &self.smtp),
            ("WAYSTATION_HTTP__LISTEN", &self.http),
            ("WAYSTATION_SPOOL__MIN_FREE_BYTES", "0"),
        ]
    }

    fn start(&self) -> RelayProcess {
        RelayProcess::start_with(&self.data(), &self.env())
    }

    fn doctor(&self, args: &[&str]) -> (i32, Vec<Value>) {
        let output = waystation()
            .args(["doctor", "--no-dns", "--json", "--data-dir"])
            .arg(self.data())
            .args(args)
            .envs(self.env())
            .output()
            .expect("it runs");
        let out = String::from_utf8(output.stdout).expect("text");
        assert!(!out.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), lines(&out))
    }
}

#[track_caller]
fn expect(findings: &[Value], check: &str, level: &str, words: &str) {
    let finding = of(findings, "check", check);
    assert_eq!(finding["level"], level, "{finding}");
    let all = format!("{} {}", finding["finding"], finding["advice"]);
    assert!(all.contains(words), "{words} is not in {finding}");
    let advised = finding["advice"].as_str().is_some_and(|advice| !advice.is_empty());
    assert_eq!(advised, matches!(level, "warn" | "wrong"), "{finding}");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
}

#[test]
fn doctor_knows_its_relay_by_whatever_name_somebody_calls_the_program() {
    let relay = Relay::new();
    let program = relay.dir.path().join("relay-2.1");
    symlink(waystation().get_program(), &program).expect("link");
    let running = RelayProcess::start_as(Command::new(&program), &relay.data(), &relay.env());
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 0, "{findings:#?}");
    for check in ["SMTP port", "HTTP port"] {
        expect(&findings, check, "ok", "held by the running relay");
    }
    assert_eq!(running.terminate(), 0);
}

#[test]
fn doctor_looks_at_a_running_relay_and_leaves_nothing_behind() {
    let relay = Relay::new();
    let running = relay.start();
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 0, "{findings:#?}");
    expect(&findings, "configuration", "ok", "defaults and environment");
    expect(&findings, "data directory", "ok", "mode 0700");
    expect(&findings, "relay", "ok", "runs");
    expect(&findings, "version", "ok", env!("CARGO_PKG_VERSION"));
    expect(&findings, "SMTP port", "ok", "held by the running relay");
    expect(&findings, "SMTP answers", "ok", "220 localhost");
    expect(&findings, "HTTP answers", "ok", "/ws knows WebSocket");
    expect(&findings, "ready", "ok", "nothing waits");
    expect(&findings, "spool", "ok", "no damage");
    expect(&findings, "deliveries", "ok", "running");
    expect(&findings, "DNS", "skipped", "not looked up");
    let sync = of(&findings, "check", "disk sync");
    assert!(sync["finding"].as_str().is_some_and(|found| found.contains("over 50 writes")), "{sync}");
    let left: Vec<_> =
        std::fs::read_dir(relay.data()).expect("directory").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("doctor")), "{left:?}");
    assert_eq!(running.terminate(), 0);

    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 0, "{findings:#?}");
    expect(&findings, "relay", "skipped", "does not run");
    expect(&findings, "SMTP port", "ok", "is free");
    expect(&findings, "last stop", "ok", "orderly");
    expect(&findings, "spool", "ok", "no damage");
}

#[test]
fn doctor_names_what_is_wrong() {
    let relay = Relay::new();
    relay.start().kill();
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 0, "{findings:#?}");
    expect(&findings, "last stop", "warn", "the next start recovers");

    set_mode(&relay.data(), 0o755);
    let taken = TcpListener::bind(&relay.smtp).expect("free");
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 1);
    expect(&findings, "data directory", "wrong", "chmod 700");
    let me = format!("({})", std::process::id());
    expect(&findings, "SMTP port", "wrong", &me);
    drop(taken);
    set_mode(&relay.data(), 0o700);

    let segments: Vec<_> =
        walk(&relay.data().join("spool")).into_iter().filter(|path| is_segment(path)).collect();
    assert!(!segments.is_empty(), "the spool has a journal");
    let broken = relay.dir.path().join("broken.toml");
    std::fs::write(&broken, "[smtp]\nlisten = 7\n").expect("written");
    let (code, findings) = relay.doctor(&["--config", broken.to_str().expect("text")]);
    assert_eq!((code, findings.len()), (1, 1));
    expect(&findings, "configuration", "wrong", "smtp.listen");
}

#[test]
fn doctor_as_root_sees_what_the_service_cannot_open() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can own something in the directory of another account");
        return;
    }
    let relay = Relay::new();
    assert_eq!(relay.start().terminate(), 0);
    let given = Command::new("chown").args(["-R", "-h", "65534:65534"]).arg(relay.data()).status();
    assert!(given.expect("it runs").success());
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 0, "{findings:#?}");
    chown(relay.data().join("spool/LOCK"), Some(0), Some(0)).expect("taken");
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 1);
    expect(&findings, "owners", "wrong", "spool/LOCK belongs to account 0, not 65534");
    expect(&findings, "owners", "wrong", "chown -R -h 65534");

    // A spool that is a link: neither the look nor the advice may end at it.
    let large = relay.dir.path().canonicalize().expect("there").join("large");
    std::fs::rename(relay.data().join("spool"), &large).expect("moved");
    symlink(&large, relay.data().join("spool")).expect("link");
    let (code, findings) = relay.doctor(&[]);
    assert_eq!(code, 1);
    expect(&findings, "owners", "wrong", "large/LOCK belongs to account 0, not 65534");
    expect(&findings, "owners", "wrong", &format!("chown -R -h 65534 {}", large.display()));
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { all.extend(walk(&entry.path())) } else { all.push(entry.path()) }
    }
    all
}

fn is_segment(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|dir| dir == "journal")
}

#[test]
fn doctor_sees_another_server_on_our_port_and_paused_deliveries() {
    let relay = Relay::new();
    let running = relay.start();
    let paused = waystation()
        .args(["delivery", "pause", "--reason", "moving house", "--data-dir"])
        .arg(relay.data())
        .output();
    assert!(paused.expect("it runs").status.success());
    set_mode(&relay.data().join("admin.sock"), 0o666);
    let elsewhere = format!("127.0.0.1:{}", port());
    let output = waystation()
        .args(["doctor", "--no-dns", "--json", "--data-dir"])
        .arg(relay.data())
        .envs(relay.env())
        .env("WAYSTATION_SMTP__LISTEN", &elsewhere)
        .output()
        .expect("it runs");
    let findings = lines(std::str::from_utf8(&output.stdout).expect("text"));
    assert_eq!(output.status.code(), Some(1));
    expect(&findings, "SMTP port", "wrong", "nobody listens");
    expect(&findings, "deliveries", "warn", "moving house");
    expect(&findings, "relay", "wrong", "chmod 600");
    let text = waystation()
        .args(["doctor", "--no-dns", "--data-dir"])
        .arg(relay.data())
        .envs(relay.env())
        .output()
        .expect("it runs");
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("warn  deliveries      paused by an operator: moving house\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert_eq!(running.terminate(), 0);
}
