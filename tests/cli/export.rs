//! Messages as files: what a Maildir and an mbox hold is what a gateway would have got, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::every_verb::fill;
use super::{json_lines, on};
use crate::support::process::{RelayProcess, run, run_text};

fn raw(dir: &Path, id: &str) -> Vec<u8> {
    let output = run(&on(dir, &["spool", "show", id, "--raw"]));
    assert!(output.status.success(), "{id}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn manifest(dir: &Path) -> Vec<Value> {
    json_lines(&fs::read_to_string(dir.join("manifest.jsonl")).expect("a manifest"))
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(bytes))
}

/// What a reader of mboxrd does, with the line ends of mail.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.split_inclusive(|b| *b == b'\n') {
        let quotes = line.iter().take_while(|b| **b == b'>').count();
        let line = if quotes > 0 && line[quotes..].starts_with(b"From ") { &line[1..] } else { line };
        out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Exports both ways, and compares every message with what `show --raw` gives.
fn both_ways(dir: &Path, beside: &Path, name: &str) -> BTreeMap<String, String> {
    let maildir = beside.join(format!("{name}-maildir"));
    let mbox = beside.join(format!("{name}-mbox"));
    let (code, out, err) = run_text(&on(dir, &["spool", "export", maildir.to_str().expect("text")]));
    assert_eq!(code, 0, "{out}{err}");
    let args = ["spool", "export", mbox.to_str().expect("text"), "--format", "mbox", "--json"];
    let (code, out, err) = run_text(&on(dir, &args));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let summary = &json_lines(&out)[0];
    assert_eq!(summary["format"], "mbox");

    let names: Vec<_> = fs::read_dir(maildir.join("new"))
        .expect("new")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
        .collect();
    let lines = manifest(&maildir);
    let files: Vec<_> =
        lines.iter().filter_map(|line| line["file"].as_str()).map(|file| file.replace("new/", "")).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(files, sorted, "the manifest has the order of the names");
    assert!(
        ["tmp", "cur"].iter().all(|part| fs::read_dir(maildir.join(part)).expect("there").next().is_none())
    );

    let text = fs::read(mbox.join("messages.mbox")).expect("mbox");
    let froms = text.split(|b| *b == b'\n').filter(|line| line.starts_with(b"From ")).count();
    assert_eq!(summary["exported"].as_u64(), Some(froms as u64), "one line for each message");
    let parts = manifest(&mbox);
    assert_eq!(lines.len(), parts.len());
    let mut hashes = BTreeMap::new();
    for (line, part) in lines.iter().zip(&parts) {
        let id = line["id"].as_str().expect("id");
        assert_eq!(line["id"], part["id"]);
        for name in [
            "direction",
            "lane",
            "seq",
            "state",
            "rcpt_to",
            "mail_from",
            "accepted_at",
            "size_bytes",
            "body_sha256",
        ] {
            assert!(!line[name].is_null(), "{name} is missing in {line}");
        }
        let Some(file) = line["file"].as_str() else {
            assert!(line["missing"].is_string() && part["missing"].is_string(), "{line}");
            hashes.insert(id.to_owned(), String::new());
            continue;
        };
        let expected = raw(dir, id);
        let exported = fs::read(maildir.join(file)).expect("file");
        assert_eq!(exported, expected, "{id}");
        let mode = fs::metadata(maildir.join(file)).expect("file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "mail is for its owner");
        let (offset, length) =
            (part["offset"].as_u64().expect("offset"), part["length"].as_u64().expect("length"));
        let (offset, length) = (offset as usize, length as usize);
        assert_eq!(unquoted(&text[offset..offset + length]), expected, "{id}");
        assert!(text[..offset].ends_with(b"\n") && text[offset + length..].starts_with(b"\n"));
        let hash = sha256(&expected);
        assert!(line["sha256"] == hash.as_str() && part["sha256"] == hash.as_str(), "{line}");
        hashes.insert(id.to_owned(), hash);
    }
    hashes
}

/// Goal: an export is the same whoever answers. Method: export from a running relay, stop it, export again.
#[test]
fn exports_hold_each_byte_whether_the_relay_runs_or_not() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let every = fill(dir.path());
    let stopped = both_ways(dir.path(), beside.path(), "stopped");
    assert_eq!(stopped.len(), 12);
    assert_eq!(stopped[&every.purged], "", "a purged item has no bytes");
    assert!(
        [&every.large, &every.acked, &every.expired, &every.out_failed]
            .iter()
            .all(|id| !stopped[*id].is_empty())
    );
    let relay = RelayProcess::start(dir.path());
    assert_eq!(both_ways(dir.path(), beside.path(), "running"), stopped);
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn selections_choose_what_is_exported_and_nothing_is_written_for_nothing() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let every = fill(dir.path());
    let export = |name: &str, selection: &[&str]| {
        let target = beside.path().join(name);
        let args = [&["spool", "export", target.to_str().expect("text")], selection].concat();
        let (code, _, err) = run_text(&on(dir.path(), &args));
        let ids = |lines: Vec<Value>| {
            lines.iter().map(|line| line["id"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        (code, err, if target.exists() { ids(manifest(&target)) } else { Vec::new() })
    };
    let (code, _, ids) = export("held", &["--state", "held", "--lane", "home@mail.localhost"]);
    assert_eq!((code, ids), (0, vec![every.held.clone(), every.parked.clone()]));
    let (code, _, ids) = export("out", &["--result", "failed,indeterminate"]);
    assert_eq!((code, ids), (0, vec![every.out_failed.clone(), every.out_indeterminate.clone()]));
    let (code, _, ids) = export("ids", &["--id", &every.large, "--id", &every.ready, "--id", &every.ready]);
    assert_eq!(
        (code, ids),
        (0, vec![every.ready.clone(), every.large.clone()]),
        "in the order of the lane, once each"
    );
    let (code, err, ids) = export("none", &["--to", "nobody@nowhere.example"]);
    assert_eq!((code, ids), (3, Vec::new()));
    assert!(err.contains("nothing was written") && !beside.path().join("none").exists(), "{err}");
    let (code, err, _) = export("held", &[]);
    assert!(code == 2 && err.contains("is not empty"), "{err}");
    let (code, _, _) = export("lane", &["--lane", "nobody@mail.localhost"]);
    assert_eq!(code, 3);
}

/// A target that cannot be written to ends the export, and what is there is not taken for all of it.
#[test]
fn an_export_that_is_cut_off_has_no_manifest() {
    let (dir, beside) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    fill(dir.path());
    let target = beside.path().join("file/out");
    fs::write(beside.path().join("file"), "in the way").expect("file");
    let (code, _, err) = run_text(&on(dir.path(), &["spool", "export", target.to_str().expect("text")]));
    assert_eq!(code, 2, "{err}");
    // A file of the largest size that a process may make ends it in the middle of the large message.
    let target = beside.path().join("out");
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec '{}' spool export '{}' --data-dir '{}'",
        env!("CARGO_BIN_EXE_waystation"),
        target.display(),
        dir.path().display()
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the export is not complete"), "{err}");
    assert!(target.join("manifest.jsonl.incomplete").exists() && !target.join("manifest.jsonl").exists());
}
