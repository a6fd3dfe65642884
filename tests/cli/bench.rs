//! Measurements, small ones: each verb measures, says it as a table and as JSON, and leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use waystation::clock::monotonic;

use super::json_lines;
use crate::support::process::{run_text, waystation};
use crate::support::programs::program;

/// Longest wait for a measurement to begin, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a measurement in a directory of its own, which must be empty afterwards; the sides' figures.
fn measured(args: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("directory");
    let below = dir.path().to_str().expect("text");
    let (code, out, err) = run_text(&[&["bench"], args, &["--dir", below, "--json"]].concat());
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    assert!(is_empty(dir.path()), "{args:?} leaves something behind");
    json_lines(&out).into_iter().filter(|line| line["round"].is_u64()).collect()
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).expect("a directory").next().is_none()
}

fn figure(side: &Value, name: &str) -> f64 {
    side[name].as_f64().unwrap_or_else(|| panic!("no {name}: {side}"))
}

#[test]
fn mail_in_is_measured_beside_the_bare_disk() {
    let sides = measured(&["accept", "--messages", "300", "--only", "waystation,disk"]);
    assert_eq!(
        sides.iter().map(|side| side["side"].as_str()).collect::<Vec<_>>(),
        [Some("waystation"), Some("disk")]
    );
    for side in &sides {
        assert!(figure(side, "messages_per_second") > 0.0);
        assert!(figure(side, "commit_p99_ms") > 0.0 && figure(side, "commit_mean_ms") > 0.0);
        // Each message has 4096 bytes, and a disk writes whole blocks.
        assert!(figure(side, "bytes_written_per_message") >= 4096.0, "{side}");
    }
    assert!(figure(&sides[0], "dot_p99_ms") >= figure(&sides[0], "dot_p50_ms"));
    assert!(figure(&sides[0], "messages_per_commit") >= 1.0);
}

#[test]
fn a_replay_counts_each_message_once() {
    for more in [&["--tunnel", "2"][..], &["--tunnel", "1"], &["--unsigned", "--gateways", "3"]] {
        let sides = measured(&[&["replay", "--messages", "300"], more].concat());
        assert!(figure(&sides[0], "received_per_second") >= figure(&sides[0], "messages_per_second"));
    }
}

#[test]
fn idle_gateways_and_mail_end_to_end_are_measured() {
    let sides = measured(&["idle", "--gateways", "30", "--seconds", "1"]);
    assert_eq!(figure(&sides[0], "connected"), 30.0);
    let sides =
        measured(&["mixed", "--messages", "600", "--gateways", "3", "--restless", "1", "--rate", "300"]);
    assert!(figure(&sides[0], "end_to_end_p50_ms") > 0.0 && figure(&sides[0], "commit_p99_ms") > 0.0);
}

#[test]
fn a_soak_says_how_each_figure_moves() {
    let dir = tempfile::tempdir().expect("directory");
    let below = dir.path().to_str().expect("text");
    let long =
        ["--minutes", "0.1", "--warm-up-seconds", "1", "--sample-seconds", "1", "--retain-seconds", "2"];
    let wide = ["--rate", "60", "--gateways", "3", "--outbound", "5", "--json", "--dir", below];
    let (code, out, err) = run_text(&[&["bench", "soak"], &long[..], &wide].concat());
    assert_eq!(code, 0, "{out}{err}");
    let lines = json_lines(&out);
    let whole = lines.iter().find(|line| line["messages"].is_u64()).expect("a side");
    assert_eq!(figure(whole, "faults"), 0.0, "{whole}");
    if program("smtp-sink").is_some() {
        assert!(figure(whole, "sent_out") > 0.0, "{whole}");
    }
    let moved: Vec<_> = lines.iter().filter_map(|line| line["figure"].as_str()).collect();
    for name in ["memory_bytes", "descriptors", "disk_bytes", "dot_p99_ms", "end_to_end_p99_ms"] {
        assert!(moved.contains(&name), "no {name}: {moved:?}");
    }
    assert!(is_empty(dir.path()));
}

#[test]
fn what_is_no_rate_is_refused() {
    for rate in ["0", "-1", "NaN", "inf", "many"] {
        let (code, _, err) = run_text(&["bench", "accept", &format!("--rate={rate}")]);
        assert!(code == 2 && err.contains("--rate"), "{rate}: {code} {err}");
    }
}

#[test]
fn mail_out_is_measured_into_smtp_sink() {
    if program("smtp-sink").is_some() {
        let sides = measured(&["delivery", "--messages", "200", "--only", "waystation"]);
        assert!(figure(&sides[0], "messages_per_second") > 0.0);
    }
}

#[test]
fn a_table_names_the_machine_and_plots_are_drawn() {
    let dir = tempfile::tempdir().expect("directory");
    let plots = dir.path().join("plots");
    let args = ["bench", "accept", "--messages", "100", "--repeat", "2", "--only", "waystation"];
    let args = [&args[..], &["--plots", plots.to_str().expect("text")]].concat();
    let (code, out, err) = run_text(&args);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.starts_with("accept: 100 messages, 4096 bytes, 64 sessions\n"), "{out}");
    assert!(out.contains("cores") && out.contains("MSG/S") && out.contains(".."), "{out}");
    let drawn = fs::read_to_string(plots.join("accept-dot.svg")).expect("a plot");
    assert!(drawn.starts_with("<svg") && drawn.contains("waystation"));
}

#[test]
fn a_growth_is_measured_step_by_step() {
    let dir = tempfile::tempdir().expect("directory");
    let below = dir.path().to_str().expect("text");
    let stored = ["growth", "--stored", "200,400", "--lanes", "5", "--messages", "100"];
    let sweep = ["--lanes-sweep", "2,20", "--lanes-sweep-stored", "200", "--dir", below];
    let (code, out, err) = run_text(&[&["bench"], &stored[..], &sweep].concat());
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("WITHOUT INDEX") && out.contains("against the smallest"), "{out}");
    assert!(is_empty(dir.path()));
}

/// Goal: Ctrl-C costs nobody an evening of clearing up. Method: end a measurement that would take hours.
#[test]
fn a_measurement_that_is_called_off_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("directory");
    let args = ["bench", "mixed", "--messages", "100000000", "--rate", "50", "--gateways", "2", "--dir"];
    let mut child = waystation()
        .args(args)
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let begun = monotonic();
    let is_under_way = || {
        let scratch = fs::read_dir(dir.path()).expect("a directory").flatten().next();
        scratch.is_some_and(|scratch| {
            fs::read_to_string(scratch.path().join("log")).is_ok_and(|log| log.contains("relay.item.acked"))
        })
    };
    while !is_under_way() {
        assert!(begun.elapsed() < PATIENCE, "no message came");
        std::thread::sleep(Duration::from_millis(20));
    }
    let log =
        fs::read_dir(dir.path()).expect("a directory").flatten().next().expect("scratch").path().join("log");
    let relay = relay_of(&log);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .expect("it runs");
    while child.try_wait().expect("a child").is_none() {
        assert!(begun.elapsed() < PATIENCE * 2, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().expect("ended").code(), Some(1));
    assert!(is_empty(dir.path()), "something is left");
    assert!(!Path::new("/proc").join(&relay).exists(), "relay {relay} still runs");
}

/// The process that has this file open as its log.
fn relay_of(log: &Path) -> String {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let mut relays = processes.filter(|process| {
        let name = process.file_name().to_string_lossy().into_owned();
        let is_log = |n: &str| fs::read_link(process.path().join("fd").join(n)).is_ok_and(|at| at == log);
        name.bytes().all(|b| b.is_ascii_digit()) && (is_log("1") || is_log("2"))
    });
    relays.next().expect("a relay").file_name().to_string_lossy().into_owned()
}
