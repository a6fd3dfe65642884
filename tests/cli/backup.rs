//! A copy of a relay that runs: everything that was answered is in it, and a relay starts on it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use super::every_verb::{NOBODY, fill, flip, segment, with_all_below};
use super::{LETTER, json_lines, key, on};
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text, waystation};

fn backup(data: &Path, dir: &Path, more: &[&str]) -> (i32, String, String) {
    run_text(&on(data, &[&["backup", dir.to_str().expect("text")], more].concat()))
}

fn ids(data: &Path) -> Vec<String> {
    let (_, out, _) = run_text(&on(data, &["spool", "ls", "--json", "--limit", "100000"]));
    json_lines(&out).iter().map(|item| item["id"].as_str().expect("id").to_owned()).collect()
}

fn whole(data: &Path) {
    let (code, out, err) = run_text(&on(data, &["spool", "verify"]));
    assert!(code == 0 && out.contains("everything is whole"), "{out}{err}");
}

/// Messages beside each backup: the relay logs them into a pipe that nobody reads before its end.
const SENT_PER_ROUND: usize = 20;

/// Ends the sender, also when the rest failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Goal: what a sender was told is taken is in every backup begun later, while mail, acks and compaction go on.
/// Method: send, back up again and again, open each copy.
#[test]
fn a_backup_of_a_running_relay_has_all_that_was_answered_before() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let data = dir.path().join("data");
    fill(&data);
    let relay = RelayProcess::start_with(&data, &[("WAYSTATION_LIMITS__ENABLED", "false")]);
    let (smtp, to) = (relay.smtp, format!("{}@mail.localhost", key()));
    let (busy, allowed) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = End(&busy);
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while busy.load(Ordering::Relaxed) {
                if sent < allowed.load(Ordering::Relaxed) {
                    send(smtp, &to, LETTER).expect("accepted");
                    sent += 1;
                } else {
                    std::thread::yield_now();
                }
            }
            sent
        });
        for round in 0..3 {
            allowed.fetch_add(SENT_PER_ROUND, Ordering::Relaxed);
            let answered = send(smtp, &to, LETTER).expect("accepted");
            // Garbage for compaction, which must leave the copied segments alone.
            let purged = run_text(&on(&data, &["spool", "purge", &answered, "--yes"]));
            assert_eq!(purged.0, 0, "{}", purged.2);
            let before = ids(&data);
            let copy = beside.path().join(format!("copy-{round}"));
            let (code, out, err) = backup(&data, &copy, &["--json"]);
            assert_eq!(code, 0, "{out}{err}");
            assert_eq!(json_lines(&out)[0]["left_out"], serde_json::json!([]));
            let (code, out, err) = backup(&data, &copy, &["--check"]);
            assert!(code == 0 && out.contains("everything is whole"), "{out}{err}");
            whole(&copy);
            let copied = ids(&copy);
            let missing: Vec<_> = before.iter().filter(|id| !copied.contains(id)).collect();
            assert!(missing.is_empty(), "round {round}: {missing:?}");
        }
        busy.store(false, Ordering::Relaxed);
        assert!(sender.join().expect("sends") > 0);
    });
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn a_relay_starts_on_a_copy_with_the_keys_and_the_switch_of_the_original() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let data = dir.path().join("data");
    let every = fill(&data);
    let relay = RelayProcess::start(&data);
    assert_eq!(run_text(&on(&data, &["delivery", "pause", "--reason", "moving"])).0, 0);
    assert_eq!(run_text(&on(&data, &["keys", "attestation", "--rotate"])).0, 0);
    let (running, stopped) = (beside.path().join("a/running"), beside.path().join("stopped"));
    let (code, out, err) = backup(&data, &running, &[]);
    assert!(code == 0 && err.contains("from the running relay"), "{out}{err}");
    let show = |data: &Path| run_text(&on(data, &["keys", "attestation", "--show"])).1;
    let keys = show(&data);
    assert_eq!(relay.terminate(), 0);
    let (code, out, err) = backup(&data, &stopped, &[]);
    assert!(code == 0 && err.contains("no relay runs"), "{out}{err}");
    for copy in [&running, &stopped] {
        assert!(!copy.join("spool/index").exists() && !copy.join("admin.sock").exists());
        assert!(copy.join("attestation.key").exists() && copy.join("attestation").is_dir());
        let restored = RelayProcess::start(copy);
        assert_eq!(ids(copy), ids(&data), "{}", copy.display());
        let (_, out, _) = run_text(&on(copy, &["delivery", "status"]));
        assert!(out.contains("moving"), "{out}");
        let raw = |data: &Path| run_text(&on(data, &["spool", "show", &every.large, "--raw"])).1;
        assert_eq!(raw(copy), raw(&data));
        assert!(!keys.is_empty());
        assert_eq!(show(copy), keys, "gateways have pinned them");
        let to = format!("{}@mail.localhost", key());
        assert!(send(restored.smtp, &to, LETTER).is_ok());
        assert_eq!(restored.terminate(), 0);
        let (code, out, _) = backup(&data, copy, &["--check"]);
        assert!(code == 0 && out.contains("a relay was started on this copy"), "{out}");
    }
}

#[test]
fn what_cannot_be_a_backup_is_refused_with_a_sentence() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let data = dir.path().join("data");
    fill(&data);
    let refused = |target: &Path, code: i32, words: &str| {
        let (found, out, err) = backup(&data, target, &[]);
        assert_eq!(found, code, "{out}{err}");
        assert!(err.contains(words), "{err}");
    };
    let copy = beside.path().join("copy");
    for relay in [None, Some(())] {
        let relay = relay.map(|()| RelayProcess::start(&data));
        refused(&data, 2, "lies inside of");
        refused(&data.join("spool/backup"), 2, "lies inside of");
        refused(&beside.path().join("x/../y"), 2, "without `..`");
        fs::write(beside.path().join("file"), "").expect("file");
        refused(&beside.path().join("file"), 2, "cannot be used");
        refused(Path::new("/proc/waystation"), 1, "cannot be written");
        let fresh = copy.join(if relay.is_some() { "running" } else { "stopped" });
        assert_eq!(backup(&data, &fresh, &[]).0, 0);
        refused(&fresh, 2, "has a backup already");
        flip(&segment(&fresh, 1), 200);
        let (code, out, err) = backup(&data, &fresh, &["--check"]);
        assert!(code == 1 && out.contains("its contents are not those that were copied"), "{out}{err}");
        if let Some(relay) = relay {
            assert_eq!(relay.terminate(), 0);
        }
    }
    let (code, _, err) = backup(&data, beside.path(), &["--check"]);
    assert!(code == 1 && err.contains("is no finished backup"), "{err}");
    let missing = dir.path().join("missing");
    let (code, _, err) = backup(&missing, &beside.path().join("z"), &[]);
    assert!(code == 1 && err.contains("there is no spool"), "{err}");
}

/// Goal: a directory of the machine's beside ours, `lost+found`, costs no backup, and one of ours that cannot be read does.
/// Method: as an account that is not root, for whom a directory can be closed.
#[test]
fn a_directory_that_the_service_may_not_look_into_is_left_out_and_told() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let data = dir.path().join("data");
    fill(&data);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        for path in [with_all_below(dir.path()), with_all_below(beside.path())].concat() {
            lchown(path, Some(NOBODY), Some(NOBODY)).expect("given");
        }
    }
    let set_mode = |name: &str, mode| {
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(mode)).expect("permissions");
    };
    let close = |name: &str| {
        fs::create_dir(data.join(name)).expect("made");
        set_mode(name, 0o000);
    };
    let made = |copy: &str| {
        let copy = beside.path().join(copy);
        let mut command = waystation();
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.args(on(&data, &["backup", copy.to_str().expect("text"), "--json"]));
        let output = command.output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    close("lost+found");
    // The spool may be a file system of its own.
    close("spool/lost+found");
    let (code, out, err) = made("one");
    assert_eq!(code, Some(0), "{out}{err}");
    let left_out = json_lines(&out)[0]["left_out"].clone();
    for (n, name) in ["lost+found", "spool/lost+found"].into_iter().enumerate() {
        let said = left_out[n].as_str().unwrap_or_default();
        assert!(said.starts_with(&format!("{name}: it cannot be read")), "{out}");
    }
    close("attestation");
    let (code, out, err) = made("two");
    assert!(code == Some(1) && err.contains("/attestation cannot be read"), "{out}{err}");
    // So that they can be removed.
    set_mode("lost+found", 0o700);
    set_mode("spool/lost+found", 0o700);
    set_mode("attestation", 0o700);
}

/// One request at the admin socket, as a script would make it.
fn post(data: &Path, target: &str, accept: &str, body: &str) -> (u16, String) {
    use std::io::Read as _;
    let mut socket = UnixStream::connect(data.join("admin.sock")).expect("connects");
    write!(
        socket,
        "POST /admin{target} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .expect("sent");
    // A body that comes by itself is waited for, also where nobody needs it.
    std::thread::sleep(std::time::Duration::from_millis(50));
    socket.write_all(body.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    (status, body.to_owned())
}

#[test]
fn long_work_tells_its_progress_to_whom_asks_and_one_object_to_others() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let data = dir.path().join("data");
    fill(&data);
    let relay = RelayProcess::start(&data);
    let (status, body) = post(&data, "/spool/verify", "application/json", "{}");
    let report: Value = serde_json::from_str(&body).expect("one object");
    assert!(status == 200 && report["ok"] == true, "{body}");
    let (status, body) = post(&data, "/spool/verify", "application/x-ndjson", "{}");
    // Between the lines are the lengths of chunks.
    let lines: Vec<Value> =
        body.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect();
    assert_eq!(status, 200);
    assert!(lines[0]["done"].is_u64() && lines[0]["of"].as_u64().is_some_and(|of| of > 0), "{body}");
    assert_eq!(lines.last().expect("lines")["report"]["bodies"], report["bodies"], "{body}");
    let copy = beside.path().join("copy");
    let (status, body) =
        post(&data, "/backup", "application/json", &format!("{{\"dir\":\"{}\"}}", copy.display()));
    assert!(status == 200 && body.contains("\"files\""), "{body}");
    for (body, words) in
        [(r#"{"dir":"copy"}"#, "no absolute path"), (r"{}", "dir"), (r#"{"dir":"/x","y":1}"#, "y")]
    {
        let (status, answer) = post(&data, "/backup", "application/json", body);
        assert!(status == 400 && answer.contains(words), "{answer}");
    }
    assert_eq!(relay.terminate(), 0);
}
