//! Reads our own sources and checks who may know whom (`ARCHITECTURE.md`, "Invariants").
//!
//! Text, not types: a rule that a person can read in one line, and that says which line breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// Code lines of one file, without comments and tests; beyond that it usually hides a second idea.
const FILE_LINES_MAX: usize = 500;
/// Lines of `main.rs`: one screen.
const MAIN_LINES_MAX: usize = 40;

/// Modules of the root crate, and which other modules of it each may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("crashpoint", &[]),
    ("current", &[]),
    ("systemd", &[]),
    ("observe", &["clock"]),
    ("spooler", &["clock", "crashpoint"]),
    ("secrets", &[]),
    ("identity", &["clock", "secrets"]),
    ("tunnel", &["identity", "proxy", "clock", "current", "observe", "crashpoint"]),
    ("tls", &["secrets", "clock", "current", "observe"]),
    ("acme", &["tls", "secrets", "clock", "observe"]),
    ("proxy", &["clock", "observe"]),
    (
        "mail",
        &[
            "tunnel",
            "identity",
            "spooler",
            "tls",
            "proxy",
            "secrets",
            "clock",
            "current",
            "observe",
            "crashpoint",
        ],
    ),
    ("gateway", &["mail", "tunnel", "identity", "spooler", "secrets", "systemd", "clock", "crashpoint"]),
    ("config", &["observe"]),
    ("http", &["tls", "proxy", "current", "observe", "clock"]),
    ("dashboard", &["http", "proxy", "observe", "clock"]),
    ("records", &["mail", "tls", "current", "clock"]),
    ("admin", &["mail", "records", "identity", "spooler", "clock", "current", "observe"]),
    (
        "daemon",
        &[
            "admin",
            "dashboard",
            "records",
            "http",
            "acme",
            "tls",
            "proxy",
            "secrets",
            "config",
            "mail",
            "tunnel",
            "identity",
            "spooler",
            "systemd",
            "clock",
            "current",
            "observe",
            "crashpoint",
        ],
    ),
    (
        "cli",
        &[
            "daemon",
            "admin",
            "records",
            "acme",
            "tls",
            "http",
            "config",
            "secrets",
            "gateway",
            "mail",
            "tunnel",
            "identity",
            "spooler",
            "systemd",
            "clock",
            "observe",
            "crashpoint",
        ],
    ),
];

/// Files and directories that hold machines and codecs: values in, values out.
const PURE: &[&str] = &[
    "src/acme/plan.rs",
    "src/admin/explain",
    "src/admin/explain.rs",
    "src/admin/events.rs",
    "src/admin/overview.rs",
    "src/admin/request.rs",
    "src/admin/words",
    "src/admin/words.rs",
    "src/cli/check/sense.rs",
    "src/cli/doctor/judge",
    "src/cli/doctor/judge.rs",
    "src/cli/top/state.rs",
    "src/cli/top/view.rs",
    "src/config.rs",
    "src/config",
    "src/dashboard/assets.rs",
    "src/dashboard/cookie.rs",
    "src/dashboard/head.rs",
    "src/dashboard/route.rs",
    "src/dashboard/sessions.rs",
    "src/dashboard/view",
    "src/dashboard/view.rs",
    "src/daemon/places.rs",
    "src/daemon/readiness.rs",
    "src/gateway/audit",
    "src/gateway/audit.rs",
    "src/gateway/backoff.rs",
    "src/gateway/checked.rs",
    "src/gateway/client",
    "src/gateway/client.rs",
    "src/gateway/config",
    "src/gateway/config.rs",
    "src/gateway/head.rs",
    "src/gateway/proof.rs",
    "src/gateway/sendmail.rs",
    "src/http/exposition.rs",
    "src/identity/challenge.rs",
    "src/identity/key.rs",
    "src/identity/registry.rs",
    "src/mail/address.rs",
    "src/mail/attestation.rs",
    "src/mail/custody.rs",
    "src/mail/blocklist.rs",
    "src/mail/envelope.rs",
    "src/mail/limits/denials.rs",
    "src/mail/limits/offences.rs",
    "src/mail/limits/place.rs",
    "src/mail/outbound/prepare.rs",
    "src/mail/outbound/prepare/bounce.rs",
    "src/mail/outbound/prepare/canonical.rs",
    "src/mail/outbound/prepare/dkim.rs",
    "src/mail/outbound/prepare/dkim/body.rs",
    "src/mail/outbound/prepare/draft.rs",
    "src/mail/outbound/prepare/fingerprint.rs",
    "src/mail/outbound/prepare/head.rs",
    "src/mail/outbound/prepare/refusal.rs",
    "src/mail/outbound/prepare/sender.rs",
    "src/mail/outbound/route/addresses.rs",
    "src/mail/outbound/route/answer.rs",
    "src/mail/outbound/route/dane.rs",
    "src/mail/outbound/route/demand.rs",
    "src/mail/outbound/route/mta_sts.rs",
    "src/mail/outbound/route/mx.rs",
    "src/mail/outbound/schedule",
    "src/mail/outbound/schedule.rs",
    "src/mail/outbound/submission",
    "src/mail/outbound/submission.rs",
    "src/mail/outbound/values.rs",
    "src/mail/relay_keys.rs",
    "src/mail/signed.rs",
    "src/mail/signer/ring.rs",
    "src/mail/smtp",
    "src/mail/trace.rs",
    "src/mail/verdict.rs",
    "src/mail/verdict/body.rs",
    "src/mail/verdict/claims.rs",
    "src/mail/verdict/inspector.rs",
    "src/mail/verdict/key.rs",
    "src/mail/verdict/patience.rs",
    "src/mail/verdict/policy.rs",
    "src/mail/verdict/record.rs",
    "src/mail/verdict/results.rs",
    "src/mail/verdict/signatures.rs",
    "src/mail/verdict/tags.rs",
    "src/observe/classic.rs",
    "src/observe/history.rs",
    "src/observe/json.rs",
    "src/observe/reference.rs",
    "src/observe/traces.rs",
    "src/proxy/forwarded.rs",
    "src/proxy/header.rs",
    "src/records.rs",
    "src/records/answers.rs",
    "src/records/judge",
    "src/records/judge.rs",
    "src/records/spf.rs",
    "src/records/wanted.rs",
    "src/records/zone.rs",
    "src/tls/certificate.rs",
    "src/tunnel/control",
    "src/tunnel/control.rs",
    "src/tunnel/farewell.rs",
    "src/tunnel/frame.rs",
    "src/tunnel/handshake.rs",
    "src/tunnel/inflow.rs",
    "src/tunnel/outflow.rs",
    "src/tunnel/rates.rs",
    "src/tunnel/service.rs",
    "src/tunnel/session",
    "src/tunnel/session.rs",
    "src/tunnel/signed.rs",
    "spool/src/entry.rs",
    "spool/src/ids.rs",
    "spool/src/index/sled/ledger.rs",
    "spool/src/index/sled/slots.rs",
    "spool/src/lane.rs",
    "spool/src/life.rs",
    "spool/src/record.rs",
    "spool/src/segment.rs",
    "spool/src/tail/tally.rs",
    "spool/src/types.rs",
];

/// What a pure file may not say. `core::net` has addresses and no sockets, so it is no such word.
const IMPURE: &[&str] =
    &["tokio", "std::net", "std::fs", "std::env", "std::thread", "clock::", "rand::", "::now()", "File::"];

/// One source file.
struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    /// Lines with numbers, without comments, up to the first test module.
    code: Vec<(usize, String)>,
    /// The whole text.
    text: String,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for dir in ["src", "spool/src"] {
        collect(&root().join(dir), &mut files);
    }
    files.sort();
    assert!(files.len() > 50, "sources were not found");
    files.iter().map(|file| read(file)).collect()
}

pub(crate) fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn read(file: &Path) -> Source {
    let text = fs::read_to_string(file).expect("source");
    let path = file.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
    let inline = |at: &usize| text[*at..].lines().nth(1).is_some_and(|l| l.ends_with('{'));
    let tests = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at).find(inline).unwrap_or(text.len());
    let code = text[..tests]
        .lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("").to_owned()))
        .filter(|(_, line)| !line.trim().is_empty())
        .collect();
    Source { path, code, text }
}

/// Tests are free to use what they like.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("/pair.rs")
}

/// Words and where they stand, joined for one readable failure.
fn found<'a>(sources: impl Iterator<Item = &'a Source>, words: &[&str]) -> Vec<String> {
    let mut hits = Vec::new();
    for source in sources {
        for (n, line) in &source.code {
            hits.extend(
                words.iter().filter(|w| line.contains(**w)).map(|w| format!("{}:{n}: {w}", source.path)),
            );
        }
    }
    hits
}

fn assert_none(hits: &[String], rule: &str) {
    assert!(hits.is_empty(), "{rule}:\n  {}", hits.join("\n  "));
}

/// The module of a file of the root crate: `src/mail/smtp/reply.rs` is `mail`.
fn module(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let first = rest.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// Modules that a line names after `crate::`, also inside `crate::{a, b}` on one line.
fn named(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in line.split("crate::").skip(1) {
        let word =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = part.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or("");
            names.extend(list.split(',').map(|n| word(n.trim())));
        } else {
            names.push(word(part));
        }
    }
    names.retain(|n| n.chars().next().is_some_and(char::is_lowercase));
    names
}

#[test]
fn the_spool_has_never_heard_of_smtp_sockets_or_async() {
    let manifest = fs::read_to_string(root().join("spool/Cargo.toml")).expect("manifest");
    for crate_name in
        ["tokio", "axum", "hyper", "smtp-proto", "tokio-tungstenite", "futures-util", "waystation ="]
    {
        assert!(!manifest.contains(crate_name), "spool/Cargo.toml names {crate_name}");
    }
    let all = sources();
    let spool = all.iter().filter(|s| s.path.starts_with("spool/"));
    let hits = found(spool, &["tokio", "std::net", "core::net", "async fn", "smtp", "Smtp", "WebSocket"]);
    assert_none(&hits, "the spool knows lanes, bytes and time only");
}

#[test]
fn modules_name_only_what_lies_below_them() {
    let mut hits = Vec::new();
    for source in sources().iter().filter(|s| !is_test(&s.path)) {
        let Some(of) = module(&source.path).filter(|m| !matches!(*m, "main" | "lib")) else { continue };
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == of) else {
            hits.push(format!(
                "{}: module {of} has no rule; add one here and in ARCHITECTURE.md",
                source.path
            ));
            continue;
        };
        for (n, line) in &source.code {
            let wrong = named(line).into_iter().filter(|name| {
                name != of && !allowed.contains(&name.as_str()) && MAY_NAME.iter().any(|(m, _)| m == name)
            });
            hits.extend(wrong.map(|name| format!("{}:{n}: {of} names {name}", source.path)));
        }
    }
    assert_none(&hits, "dependencies go one way");
}

#[test]
fn pure_files_touch_no_socket_file_clock_or_chance() {
    for path in PURE {
        assert!(root().join(path).exists(), "{path} is gone; take it off the list");
    }
    let all = sources();
    let pure = all.iter().filter(|s| {
        !is_test(&s.path) && PURE.iter().any(|p| s.path == *p || s.path.starts_with(&format!("{p}/")))
    });
    assert_none(&found(pure, IMPURE), "machines and codecs get everything as arguments");
}

#[test]
fn only_the_clock_asks_for_the_time() {
    let all = sources();
    let others = all.iter().filter(|s| s.path != "src/clock.rs" && !is_test(&s.path));
    assert_none(
        &found(others, &["Instant::now", "SystemTime::now", "now_utc", "now_local"]),
        "only clock.rs says now",
    );
}

#[test]
fn one_file_of_the_spool_speaks_to_sled() {
    let all = sources();
    let speaks = |s: &&Source| {
        s.code.iter().any(|(_, line)| {
            line.replace("index::sled::", "").replace("super::sled::", "").contains("sled::")
        })
    };
    let files: Vec<_> = all.iter().filter(speaks).map(|s| s.path.as_str()).collect();
    assert_eq!(files, ["spool/src/index/sled.rs"]);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("manifest");
    assert!(!manifest.lines().any(|l| l.starts_with("sled")), "the root package names sled");
}

#[test]
fn anyhow_stays_in_main_and_cli() {
    let all = sources();
    let others = all.iter().filter(|s| !matches!(module(&s.path), Some("cli" | "main")));
    assert_none(&found(others, &["anyhow"]), "errors below the command line are types");
}

#[test]
fn nothing_is_global() {
    let all = sources();
    let hits = found(
        all.iter().filter(|s| !is_test(&s.path)),
        &["static mut", "OnceLock", "LazyLock", "thread_local!"],
    );
    // Signals come to the process as a whole.
    let may = ["src/crashpoint.rs", "src/observe", "src/cli/bench/stop.rs"];
    let allowed = |hit: &String| may.iter().any(|path| hit.starts_with(path));
    assert_none(
        &hits.into_iter().filter(|h| !allowed(h)).collect::<Vec<_>>(),
        "what a task needs is in its struct",
    );
}

#[test]
fn files_hold_one_idea_each() {
    let mut hits = Vec::new();
    for source in sources().iter().filter(|s| !is_test(&s.path)) {
        let lines = source.code.len();
        let most = if source.path == "src/main.rs" { MAIN_LINES_MAX } else { FILE_LINES_MAX };
        if lines > most {
            hits.push(format!("{}: {lines} lines, at most {most}", source.path));
        }
    }
    assert_none(&hits, "a long file hides a second idea");
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let hits: Vec<_> = sources()
        .iter()
        .filter(|s| !s.text.starts_with("//! ") || s.text.starts_with("//! Being"))
        .map(|s| s.path.clone())
        .collect();
    assert_none(&hits, "no opening words");
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in two parts, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("#[ig", "nore"),
        concat!("unimple", "mented!"),
    ];
    let mut files = Vec::new();
    for dir in ["src", "spool/src", "tests", "proptests", "spool/tests", "spool/benches"] {
        let dir = root().join(dir);
        if dir.is_dir() {
            collect(&dir, &mut files);
        }
    }
    let mut hits = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("source");
        for (n, line) in text.lines().enumerate() {
            hits.extend(
                words
                    .iter()
                    .filter(|w| line.contains(**w))
                    .map(|w| format!("{}:{}: {w}", file.display(), n + 1)),
            );
        }
    }
    assert_none(&hits, "work is done or it is in the changelog's future, not in the code");
}

#[test]
fn names_of_modules_are_read_from_every_spelling() {
    assert_eq!(named("use crate::mail::smtp;"), ["mail"]);
    assert_eq!(named("use crate::{clock, mail::smtp};"), ["clock", "mail"]);
    assert_eq!(named("pub(crate) fn f(x: crate::tunnel::Frame)"), ["tunnel"]);
    assert!(named("pub(crate) fn crate_name()").is_empty());
}
