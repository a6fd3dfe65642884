//! The command line as a shell sees it: words, streams, exit codes.

mod backup;
mod bench;
mod every_verb;
mod export;
mod invitations;
mod outgoing;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use waystation::identity::key::SecretKey;

use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text, waystation};

const LETTER: &[u8] = b"Subject: hello\r\n\r\n.one dot\r\nGr\xc3\xbc\xc3\x9fe\r\n";

fn key() -> String {
    SecretKey::from_seed(&[7; 32]).key_text().to_string()
}

fn on<'a>(dir: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    let mut all = args.to_vec();
    all.extend(["--data-dir", dir.to_str().expect("text")]);
    all
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect()
}

#[test]
fn help_is_useful_on_every_level() {
    let levels: &[&[&str]] = &[
        &[],
        &["serve"],
        &["reload"],
        &["restart"],
        &["check-config"],
        &["demo"],
        &["gateway"],
        &["gateway", "bootstrap"],
        &["gateway", "run"],
        &["gateway", "audit"],
        &["gateway", "status"],
        &["keys"],
        &["keys", "dkim"],
        &["keys", "passport"],
        &["dns"],
        &["dns", "show"],
        &["dns", "check"],
        &["doctor"],
        &["gateway", "doctor"],
        &["mailbox"],
        &["mailbox", "alias"],
        &["mailbox", "invite"],
        &["mailbox", "quota"],
        &["spool"],
        &["spool", "ls"],
        &["spool", "export"],
        &["spool", "verify"],
        &["backup"],
        &["spool", "replay"],
        &["spool", "follow"],
        &["spool", "top"],
        &["top"],
        &["spool", "hold"],
        &["spool", "cancel"],
        &["spool", "purge"],
        &["delivery"],
        &["delivery", "pause"],
        &["completions"],
        &["man"],
    ];
    for level in levels {
        let (code, out, err) = run_text(&[level, &["--help"][..]].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{level:?}");
        assert!(out.contains("Usage: waystation"), "{level:?}: {out}");
        assert!(out.contains("xample"), "{level:?} has no example: {out}");
        assert!(out.lines().all(|l| l.chars().count() <= 140), "{level:?} has a long line: {out}");
    }
    let (code, out, _) = run_text(&["--version"]);
    assert_eq!((code, out.trim()), (0, concat!("waystation ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn bad_usage_exits_with_2_and_says_why_on_standard_error() {
    for args in [
        &["nonsense"][..],
        &[],
        &["spool", "show", "not-an-id"],
        &["spool", "replay"],
        &["spool", "replay", "--lane", "x"],
        &["spool", "replay", "--since", "2h"],
        &["spool", "replay", "00000000000000000000000000", "--lane", "x", "--since", "2h"],
        &["spool", "replay", "--lane", "x", "--since", "2h", "--reason", "y"],
        &["spool", "replay", "--lane", "x", "--since", "2h", "--from-seq", "1"],
        &["spool", "ls", "--since", "soon"],
        &["spool", "ls", "--id", "00000000000000000000000000", "--state", "ready"],
        &["spool", "purge", "--yes"],
        &["spool", "purge", "--to", "", "--yes"],
        &["spool", "purge", "--state", ",", "--yes"],
        &["spool", "purge", "--result=", "--yes"],
        &["spool", "hold", "--from", " ", "--yes"],
        &["spool", "release", "--lane", "", "--yes"],
        &["spool", "ls", "--direction", ""],
        &["spool", "export", "/tmp", "--format", "zip"],
        &["backup"],
        &["serve", "--color", "pink"],
        &["serve", "--config", "/nonexistent/waystation.toml"],
        &["check-config", "/nonexistent/waystation.toml"],
    ] {
        let (code, out, err) = run_text(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(!err.is_empty(), "{args:?}");
    }
}

#[test]
fn check_config_says_file_key_problem_and_advice() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("waystation.toml");
    let path = file.to_str().expect("text");
    fs::write(&file, "[smtp]\nmax_recipient = 3\nlisten = [\"25\"]\n").expect("file");
    let (code, out, err) = run_text(&["check-config", path]);
    assert_eq!((code, out.as_str()), (2, ""));
    for words in
        [path, "smtp.max_recipient", "unknown key", "did you mean `smtp.max_recipients`?", "smtp.listen"]
    {
        assert!(err.contains(words), "{words} is not in {err}");
    }
    let (code, out, _) = run_text(&["check-config", path, "--json"]);
    assert_eq!(code, 2);
    assert_eq!(json_lines(&out)[0]["key"], "smtp.max_recipient");
    let (code, _, err) = run_text(&["serve", "--config", path]);
    assert_eq!(code, 2, "systemd must not restart on a bad configuration: {err}");

    fs::write(&file, "hostname = \"relay.example\"\n").expect("file");
    let (code, out, _) = run_text(&["check-config", path]);
    assert_eq!(code, 0);
    assert!(out.contains("ok"), "{out}");
}

#[test]
fn a_start_with_a_key_that_cannot_be_used_ends_as_check_config_does() {
    let dir = tempfile::tempdir().expect("directory");
    let key = dir.path().join("wrong.key");
    fs::write(&key, "no key at all\n").expect("file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");
    let (key, none) = (key.display().to_string(), dir.path().join("none.key").display().to_string());
    let file = dir.path().join("waystation.toml");
    let path = file.to_str().expect("text");
    let base = format!(
        "data_dir = {:?}\nhostname = \"relay.example\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [smtp]\nlisten = [\"127.0.0.1:0\"]\n[spool]\nmin_free_bytes = 0\n",
        dir.path().join("data")
    );
    for section in [
        format!("[dkim]\nenabled = true\ndomain = \"relay.example\"\nrsa_key_file = {key:?}\n"),
        format!("[dkim]\nenabled = true\ndomain = \"relay.example\"\nrsa_key_file = {none:?}\n"),
        format!("[attestation]\nkey_file = {key:?}\n"),
        format!("[attestation]\nkey_file = {none:?}\n"),
    ] {
        fs::write(&file, format!("{base}{section}")).expect("file");
        assert_eq!(run_text(&["check-config", path]).0, 2, "{section}");
        let (code, _, err) = run_text(&["serve", "--config", path]);
        assert_eq!(code, 2, "systemd must not restart for ever: {section}{err}");
        assert!(err.contains(".key"), "{err}");
    }
}

#[test]
fn check_config_lists_what_a_seed_file_says_in_vain() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("config.json");
    let vectors = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/mail-tunnel.json"));
    let vectors: Value = serde_json::from_str(&vectors.expect("vectors")).expect("json");
    let minimal = &vectors["config_validation"]["minimal_valid_config"];
    fs::write(&file, minimal.to_string()).expect("file");
    let path = file.to_str().expect("text");
    let (code, out, err) = run_text(&["check-config", path]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("not used") && out.contains("auth.maxChallengeRecords"), "{out}");

    let mut broken = minimal.clone();
    broken["port"] = 70_000.into();
    fs::write(&file, broken.to_string()).expect("file");
    let (code, _, err) = run_text(&["check-config", path]);
    assert_eq!(code, 2);
    assert!(err.contains(&format!("Relay config at {path} field port must be within 1-65535.")), "{err}");
}

#[test]
fn completions_and_manual_pages_come_from_the_definitions() {
    let (code, out, _) = run_text(&["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("check-config"), "{out}");
    let dir = tempfile::tempdir().expect("directory");
    let (code, _, err) = run_text(&["man", dir.path().to_str().expect("text")]);
    assert_eq!(code, 0, "{err}");
    let page = fs::read_to_string(dir.path().join("waystation-spool-replay.1")).expect("page");
    assert!(page.contains("retention"), "{page}");
}

#[test]
fn a_second_relay_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let first = RelayProcess::start(dir.path());
    let (code, _, err) = run_text(&on(dir.path(), &["serve"]));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("in use") && err.contains("--data-dir"), "{err}");
    assert!(send(first.smtp, "nobody@mail.localhost", LETTER).is_err_and(|e| e.starts_with("550")));
    assert_eq!(first.terminate(), 0);
}

#[test]
fn health_readiness_and_metrics_answer_while_the_relay_runs() {
    use std::io::{Read as _, Write as _};
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let get = |target: &str| {
        let mut socket = std::net::TcpStream::connect(relay.http).expect("listens");
        write!(socket, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answer");
        answer
    };
    assert!(get("/health").contains("\"status\":\"ok\""));
    assert!(get("/metrics").contains("waystation_spool_recovery_seconds"));
    assert!(get("/ws").starts_with("HTTP/1.1 404"));
    let ready = (0..500).any(|_| get("/ready").starts_with("HTTP/1.1 200"));
    assert!(ready, "{}", get("/ready"));
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().expect("directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = taken.local_addr().expect("address").to_string();
    let output = waystation()
        .args(on(dir.path(), &["serve"]))
        .env("WAYSTATION_SMTP__LISTEN", &address)
        .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
        .output()
        .expect("runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("cannot listen on {address} for SMTP")), "{err}");
}

#[test]
fn directories_that_cannot_be_used_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    fs::write(&file, "no directory").expect("file");
    let long = dir.path().join("d".repeat(120));
    // What no system takes as the path of a socket is a mistake of the configuration.
    for (bad, exit) in [(file.join("below"), 1), ("/proc/waystation".into(), 1), (long, 2)] {
        let (code, out, err) = run_text(&on(&bad, &["serve"]));
        assert_eq!((code, out.as_str()), (exit, ""), "{bad:?}");
        assert!(err.contains(bad.to_str().expect("text")) && err.lines().count() == 1, "{err}");
    }
    let (code, _, err) = run_text(&on(&dir.path().join("missing"), &["spool", "ls"]));
    assert_eq!(code, 1);
    assert!(err.contains("there is no spool"), "{err}");
    assert!(!dir.path().join("missing").exists(), "a question made a directory");
}

#[test]
fn a_spool_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().expect("directory");
    assert_eq!(RelayProcess::start(dir.path()).terminate(), 0);
    let format = dir.path().join("spool/FORMAT");
    let text = fs::read_to_string(&format).expect("format");
    let newer = text.replacen('1', "9", 1);
    assert_ne!(text, newer);
    fs::write(&format, &newer).expect("format");
    for args in [&["serve"][..], &["spool", "ls"]] {
        let (code, _, err) = run_text(&on(dir.path(), args));
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("newer") || err.contains("FORMAT"), "{err}");
    }
    assert_eq!(fs::read_to_string(&format).expect("format"), newer);
}

#[test]
fn foreign_files_beside_the_journal_are_reported_and_left_alone() {
    let dir = tempfile::tempdir().expect("directory");
    assert_eq!(RelayProcess::start(dir.path()).terminate(), 0);
    let foreign = dir.path().join("spool/journal/notes.txt");
    fs::write(&foreign, "shopping list").expect("file");
    let relay = RelayProcess::start(dir.path());
    assert_eq!(relay.terminate(), 0);
    assert_eq!(fs::read_to_string(&foreign).expect("still there"), "shopping list");
}

#[test]
fn an_index_that_was_set_aside_is_named_in_the_log() {
    let dir = tempfile::tempdir().expect("directory");
    assert_eq!(RelayProcess::start(dir.path()).terminate(), 0);
    // What a relay leaves that finds damage while it runs.
    fs::write(dir.path().join("spool/index/SUSPECT"), "").expect("file");
    let relay = RelayProcess::start(dir.path());
    let of_it = |relay: &RelayProcess| {
        let mut events = relay.early.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.find(|event| event["event"] == "relay.spool.index_set_aside")
    };
    let said = of_it(&relay).expect("the event");
    assert_eq!(said["level"].as_str().map(str::to_ascii_lowercase).as_deref(), Some("warn"), "{said}");
    let reason = said["reason"].as_str().expect("a reason");
    let kept = reason.rsplit_once("kept as ").expect("where it is").1;
    assert!(std::path::Path::new(kept).is_dir(), "{reason}");
    assert_eq!(relay.terminate(), 0);
    let relay = RelayProcess::start(dir.path());
    assert_eq!(of_it(&relay), None, "said once");
    assert_eq!(relay.terminate(), 0);
}

/// Goal: every verb gives the same answers with and without a running relay.
/// Method: fill a relay, ask it, stop it, ask the directory.
#[test]
fn the_spool_can_be_looked_into_while_the_relay_runs_and_after() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let key = key();
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));

    assert_eq!(ask(&["spool", "ls"]).0, 3, "nothing matches yet");
    assert_eq!(ask(&["mailbox", "add", &key]).0, 0);
    assert_eq!(ask(&["mailbox", "alias", "Home@mail.localhost", &key]).0, 0);
    let (code, _, err) = ask(&["mailbox", "alias", "home@elsewhere.example", &key]);
    assert_eq!(code, 2, "{err}");

    let first = send(relay.smtp, "home@mail.localhost", LETTER).expect("accepted");
    let second = send(relay.smtp, &format!("{key}@mail.localhost"), LETTER).expect("accepted");

    let (_, out, err) = ask(&["spool", "ls", "--lane", "home@mail.localhost"]);
    assert!(out.contains(&first) && out.contains(&second), "{out}");
    assert!(err.contains("from the running relay"), "{err}");
    let (code, out, err) = ask(&["spool", "hold", &second, "--reason", "asked by the owner"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("held"), "{out}");
    assert_eq!(ask(&["spool", "hold", &second]).0, 1, "held already");
    let running = observe(&ask, &first, &second);

    assert_eq!(relay.terminate(), 0);
    let (_, _, err) = ask(&["spool", "ls"]);
    assert!(err.contains("no relay runs"), "{err}");
    let stopped = observe(&ask, &first, &second);
    assert_eq!(running, stopped);

    assert_eq!(ask(&["spool", "release", &second]).0, 75, "changes need a relay, or --offline");
    assert_eq!(ask(&["spool", "release", &second, "--offline"]).0, 0);
    let (_, out, _) = ask(&["spool", "ls", "--state", "held"]);
    assert_eq!(out, "");
}

/// What does not depend on the moment, from every verb that looks.
fn observe(ask: &impl Fn(&[&str]) -> (i32, String, String), first: &str, second: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let (code, out, _) = ask(&["spool", "ls", "--json"]);
    assert_eq!(code, 0);
    for item in json_lines(&out) {
        for name in [
            "id",
            "direction",
            "lane",
            "seq",
            "state",
            "size_bytes",
            "mail_from",
            "rcpt_to",
            "accepted_at",
            "age_seconds",
        ] {
            assert!(!item[name].is_null(), "{name} is missing in {item}");
        }
        seen.push(format!("{} {} {} {}", item["id"], item["state"], item["seq"], item["rcpt_to"]));
    }
    let (code, out, _) = ask(&["spool", "ls", "--state", "held", "--from", "stranger@", "--json"]);
    assert_eq!((code, json_lines(&out).len()), (0, 1));
    assert_eq!(ask(&["spool", "ls", "--state", "acked"]).0, 3);
    assert_eq!(ask(&["spool", "ls", "--state", "lost"]).0, 2);
    assert_eq!(ask(&["spool", "ls", "--lane", "nobody@mail.localhost"]).0, 3);

    let (code, raw, _) = ask(&["spool", "show", first, "--raw"]);
    assert_eq!(code, 0);
    assert!(raw.starts_with("Received: ") && raw.as_bytes().ends_with(LETTER), "{raw}");
    seen.push(raw);
    let (code, page, _) = ask(&["spool", "show", second]);
    assert_eq!(code, 0);
    assert!(page.contains("asked by the owner") && page.contains("stranger@far.example"), "{page}");
    let (_, out, _) = ask(&["spool", "show", second, "--json"]);
    let item = &json_lines(&out)[0];
    seen.push(item["timeline"].to_string());
    seen.push(item["sha256"].to_string());
    let (code, out, _) = ask(&["spool", "explain", second, "--json"]);
    assert_eq!(code, 0);
    let text = json_lines(&out)[0]["text"].as_str().expect("a paragraph").to_owned();
    assert!(text.contains("because: asked by the owner.") && text.contains("spool release"), "{text}");
    assert_eq!(ask(&["spool", "explain", "00000000000000000000000000"]).0, 3);

    let (code, out, _) = ask(&["spool", "stats", "--json"]);
    assert_eq!(code, 0);
    let stats = &json_lines(&out)[0];
    seen.push(format!("{} {}", stats["items"], stats["bytes"]));
    let (code, out, _) = ask(&["spool", "verify"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("everything is whole"), "{out}");
    let (code, out, _) = ask(&["mailbox", "show", "home@mail.localhost", "--json"]);
    assert_eq!(code, 0);
    seen.push(json_lines(&out)[0]["aliases"].to_string());
    seen
}

#[test]
fn a_revoked_key_is_not_said_to_be_added_and_how_it_gets_in_is_told() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let key = key();
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    assert_eq!(ask(&["mailbox", "add", &key]).0, 0);
    assert_eq!(ask(&["mailbox", "add", &key]).0, 0, "it is there, which is what was wanted");
    assert_eq!(ask(&["mailbox", "revoke", &key]).0, 0);
    let (code, out, err) = ask(&["mailbox", "add", &key]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("is revoked") && err.contains(&format!("waystation mailbox allow {key}")), "{err}");
    let (_, out, _) = ask(&["mailbox", "show", &key, "--json"]);
    assert_eq!(json_lines(&out)[0]["revoked"], true, "{out}");
    assert_eq!(ask(&["mailbox", "allow", &key]).0, 0);
    assert_eq!(ask(&["mailbox", "add", &key]).0, 0);
    let (code, log) = relay.terminate_with_log();
    let added = log.iter().filter(|line| line.contains("\"relay.mailbox.added\"")).count();
    assert_eq!((code, added), (0, 3), "{log:#?}");
}

#[test]
fn mail_that_came_before_there_was_a_postmaster_says_that_and_not_that_there_is_none() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let key = key();
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    let explain = |id: &str| {
        let (code, out, err) = ask(&["spool", "explain", id]);
        assert_eq!(code, 0, "{err}");
        out.replace('\n', " ")
    };
    let early = send(relay.smtp, "postmaster@mail.localhost", LETTER).expect("accepted");
    let text = explain(&early);
    assert!(text.contains("in the configuration names nobody"), "{text}");
    assert_eq!(ask(&["mailbox", "add", &key]).0, 0);
    assert_eq!(ask(&["mailbox", "alias", "home@mail.localhost", &key]).0, 0);
    assert_eq!(relay.terminate(), 0);
    for (postmaster, words, is_somebody) in [
        ("nobody@mail.localhost", "names no mailbox of this relay", false),
        ("Home@mail.localhost", "came when nobody got such mail", true),
        (key.as_str(), "came when nobody got such mail", true),
    ] {
        let relay = RelayProcess::start_with(dir.path(), &[("WAYSTATION_POSTMASTER", postmaster)]);
        let text = explain(&early);
        assert!(text.contains(words) && !text.contains("names nobody"), "{postmaster}: {text}");
        let export = format!("spool export DIR --id {early}");
        assert!(text.contains("expires at") && text.contains(&export), "{text}");
        // What comes now goes where the sentence says.
        let late = send(relay.smtp, "postmaster@mail.localhost", LETTER).expect("accepted");
        assert_eq!(explain(&late).contains("mail for the postmaster"), !is_somebody, "{postmaster}");
        assert_eq!(relay.terminate(), 0);
    }
}

#[test]
fn a_killed_relay_leaves_a_directory_that_opens_and_holds_everything() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let key = key();
    assert_eq!(run_text(&on(dir.path(), &["mailbox", "add", &key])).0, 0);
    let to = format!("{key}@mail.localhost");
    let id = send(relay.smtp, &to, LETTER).expect("accepted");
    relay.kill();
    assert!(dir.path().join("admin.sock").exists(), "the dead relay's socket is still there");
    let (code, out, err) = run_text(&on(dir.path(), &["spool", "ls"]));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&id) && err.contains("no relay runs"), "{out}{err}");
    fs::remove_dir_all(dir.path().join("spool/index")).expect("the index may be deleted");
    let relay = RelayProcess::start(dir.path());
    let (_, out, _) = run_text(&on(dir.path(), &["spool", "ls", "--state", "ready"]));
    assert!(out.contains(&id), "{out}");
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn revoked_mailboxes_get_no_mail_and_allowed_ones_do_again() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start_with(dir.path(), &[("WAYSTATION_ADMISSION__MODE", "allowlist")]);
    let key = key();
    let to = format!("{key}@mail.localhost");
    let verb = |verb: &str| run_text(&on(dir.path(), &["mailbox", verb, &key]));
    assert!(send(relay.smtp, &to, LETTER).is_err_and(|e| e.starts_with("550")), "unknown");
    assert_eq!(verb("allow").0, 0);
    assert!(send(relay.smtp, &to, LETTER).is_ok());
    assert_eq!(verb("revoke").0, 0);
    assert!(send(relay.smtp, &to, LETTER).is_err_and(|e| e.starts_with('5')), "revoked");
    let (_, out, _) = run_text(&on(dir.path(), &["mailbox", "ls"]));
    assert!(out.contains("revoked"), "{out}");
    assert_eq!(verb("allow").0, 0);
    assert!(send(relay.smtp, &to, LETTER).is_ok());
    assert_eq!(run_text(&on(dir.path(), &["mailbox", "quota", &key, "--items", "2"])).0, 0);
    assert!(send(relay.smtp, &to, LETTER).is_err_and(|e| e.starts_with("452")), "over its quota");
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn demo_keeps_the_promise() {
    let (code, out, err) = run_text(&["demo", "--json"]);
    assert_eq!(code, 0, "{err}");
    let (out_there, fates): (Vec<_>, Vec<_>) =
        json_lines(&out).into_iter().partition(|line| line["result"].is_string());
    assert!(fates.len() > 30);
    assert!(fates.iter().all(|f| f["fate"] == "once, in order, byte for byte"), "{out}");
    let ends: Vec<_> = out_there.iter().map(|o| (o["result"].as_str(), o["copies"].as_u64())).collect();
    let expected = [("sent", 1), ("failed", 0), ("indeterminate", 1)];
    assert_eq!(ends, expected.map(|(result, copies)| (Some(result), Some(copies))));
}
