//! `mailbox invite` and what an operator does with its answer.

use std::fs;

use serde_json::Value;

use super::{json_lines, on};
use crate::support::process::{RelayProcess, run_text};

#[test]
fn an_invitation_is_made_listed_and_withdrawn_and_its_code_is_shown_once() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    let (code, out, _) = ask(&["mailbox", "invite", "--label", "my aunt", "--alias", "Aunt@mail.localhost"]);
    assert_eq!(code, 0);
    let secret = out.lines().next().expect("a code").to_owned();
    assert!(out.contains("gateway bootstrap ws://127.0.0.1:"), "{out}");
    assert!(out.contains(&format!("/ws --invite {secret}")), "{out}");
    let (_, out, _) = ask(&["mailbox", "invite", "--expires", "2h", "--submissions-per-hour", "5", "--json"]);
    let second: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((second["state"].as_str(), second["submissions_per_hour"].as_u64()), (Some("open"), Some(5)));
    // What cannot be promised twice is refused at once.
    let (code, _, err) = ask(&["mailbox", "invite", "--alias", "aunt@mail.localhost"]);
    assert_eq!(code, 1, "{err}");
    let (code, _, err) = ask(&["mailbox", "invite", "--alias", "aunt@elsewhere.example"]);
    assert!(code == 2 && err.contains("no domain of this relay"), "{err}");
    let (code, out, _) = ask(&["mailbox", "invitations", "--json"]);
    let listed = json_lines(&out);
    assert_eq!((code, listed.len()), (0, 2), "{out}");
    assert!(!out.contains(&secret) && listed.iter().all(|known| known["code"].is_null()), "{out}");
    let aunt = listed.iter().find(|known| known["label"] == "my aunt").expect("listed");
    assert_eq!(aunt["aliases"][0], "aunt@mail.localhost");
    let id = aunt["id"].as_str().expect("id");
    assert_eq!(ask(&["mailbox", "withdraw", id]).0, 0);
    assert_eq!(ask(&["mailbox", "withdraw", id]).0, 1, "it has ended");
    assert_eq!(ask(&["mailbox", "withdraw", "zzzz"]).0, 3);
    let (_, out, _) = ask(&["mailbox", "invitations"]);
    assert!(out.contains("withdrawn") && out.contains("open") && out.contains("my aunt"), "{out}");
    assert_eq!(relay.terminate(), 0);
    // Without a relay they can be read, and made with --offline; the code itself is nowhere on disk.
    let (_, out, _) = ask(&["mailbox", "invitations", "--json"]);
    assert_eq!(json_lines(&out).len(), 2);
    let (code, out, _) = ask(&["mailbox", "invite", "--offline", "--json"]);
    assert_eq!(code, 0, "{out}");
    for secret in [secret.as_str(), second["code"].as_str().expect("code")] {
        let plain = secret.replace('-', "");
        for entry in fs::read_dir(dir.path().join("spool")).expect("spool") {
            let path = entry.expect("entry").path();
            let bytes = if path.is_file() { fs::read(&path).expect("file") } else { Vec::new() };
            let found =
                [secret, &plain].iter().any(|text| memchr::memmem::find(&bytes, text.as_bytes()).is_some());
            assert!(!found, "{} holds a code", path.display());
        }
    }
}

#[test]
fn a_gateway_redeems_its_invitation_and_knows_its_addresses() {
    let (dir, home) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let relay = RelayProcess::start_with(dir.path(), &[("WAYSTATION_ADMISSION__MODE", "allowlist")]);
    let (_, out, _) =
        run_text(&on(dir.path(), &["mailbox", "invite", "--alias", "aunt@mail.localhost", "--json"]));
    let invited: Value = serde_json::from_str(&out).expect("JSON");
    let code = invited["code"].as_str().expect("code");
    let url = format!("ws://{}/ws", relay.http);
    let bootstrap = |name: &str, code: &str| {
        let to = home.path().join(name);
        run_text(&["gateway", "bootstrap", &url, "--dir", to.to_str().expect("text"), "--invite", code])
    };
    // A code that is none, and one that nobody made: nothing is written but the key.
    assert_eq!(bootstrap("wrong", "abc").0, 2);
    let (exit, _, err) = bootstrap("wrong", "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa");
    assert!(exit == 1 && err.contains("refuses the invitation"), "{exit} {err}");
    assert!(
        !home.path().join("wrong/gateway.toml").exists() && home.path().join("wrong/passport.key").exists()
    );
    let (exit, out, err) = bootstrap("aunt", code);
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains("address  aunt@mail.localhost"), "{out}");
    let text = fs::read_to_string(home.path().join("aunt/gateway.toml")).expect("made");
    assert!(text.contains("aliases = [\"aunt@mail.localhost\"]"), "{text}");
    assert!(text.contains("mail_domain = \"mail.localhost\""), "{text}");
    // It is good once, for one key.
    let (exit, _, err) = bootstrap("other", code);
    assert!(exit == 1 && err.contains("refuses the invitation"), "{exit} {err}");
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn limits_of_a_mailbox_are_shown_and_reset() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let key = super::key();
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    assert_eq!(ask(&["mailbox", "add", &key]).0, 0);
    let quota =
        ["mailbox", "quota", &key, "--submissions-per-hour", "0", "--recipients-per-day", "9", "--json"];
    let (_, out, _) = ask(&quota);
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&shown["submissions_per_hour"], &shown["outgoing"]["per_hour_max"]), (&0.into(), &0.into()));
    assert_eq!(shown["outgoing"]["recipients_per_day_max"], 9);
    let (_, out, _) = ask(&["mailbox", "quota", &key, "--json"]);
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (&shown["submissions_per_hour"], &shown["outgoing"]["per_hour_max"]),
        (&Value::Null, &500.into())
    );
    assert_eq!(relay.terminate(), 0);
}
