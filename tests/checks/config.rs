//! `check-config` opens what the configuration names.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use super::{lines, of, private};
use crate::support::process::{RelayProcess, run_text, waystation};

fn check(file: &Path) -> (i32, Vec<Value>) {
    let (code, out, err) = run_text(&["check-config", "--json", file.to_str().expect("text")]);
    assert!(!out.is_empty(), "{err}");
    (code, lines(&out))
}

fn pair(dir: &Path, name: &str, hosts: &[&str]) {
    let key = KeyPair::generate().expect("key");
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let cert = CertificateParams::new(hosts).expect("parameters").self_signed(&key).expect("certificate");
    std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).expect("written");
    private(&dir.join(format!("{name}.key")), &key.serialize_pem());
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_key_and_advice() {
    let dir = tempfile::tempdir().expect("directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    pair(dir.path(), "one", &["mx.our.example"]);
    pair(dir.path(), "two", &["mx.our.example"]);
    private(&dir.path().join("token"), "k3Jx0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cE\n");
    private(&dir.path().join("weak"), "secret\n");
    let (code, _, err) = run_text(&["keys", "dkim", "--dir", &at("dkim"), "--domain", "our.example"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run_text(&["keys", "attestation", "--out", &at("attestation.key")]);
    assert_eq!(code, 0, "{err}");
    let file = dir.path().join("relay.toml");
    let write = |cert: &str, key: &str, rsa: &str, token: &str, attestation: &str| {
        let text = format!(
            "hostname = \"mx.our.example\"\ndomains = [\"our.example\"]\ndata_dir = \"{}\"\n[smtp]\nlisten = [\"0.0.0.0:25\"]\n\
             [tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n[admin]\nhttp_token_file = \"{}\"\n\
             [attestation]\nkey_file = \"{}\"\n[dkim]\nenabled = true\nrsa_key_file = \"{}\"\n",
            at("data"),
            at(cert),
            at(key),
            at(token),
            at(attestation),
            at(rsa)
        );
        std::fs::write(&file, text).expect("written");
    };
    let rsa = "dkim/dkim-default-rsa.pem";
    write("one.pem", "one.key", rsa, "token", "attestation.key");
    let (code, said) = check(&file);
    assert_eq!((code, said.len()), (0, 1), "{said:#?}");
    assert_eq!(said[0]["ok"], true);
    assert!(!dir.path().join("data").exists(), "nothing is made");
    let (_, text, _) = run_text(&["check-config", file.to_str().expect("text")]);
    assert_eq!(text, format!("{}: ok\n", file.display()));

    for (args, key, words) in [
        (["one.pem", "two.key", rsa, "token", "attestation.key"], "tls.key_file", "does not belong"),
        (["none.pem", "one.key", rsa, "token", "attestation.key"], "tls.cert_file", "none.pem"),
        (["one.pem", "none.key", rsa, "token", "attestation.key"], "tls.key_file", "none.key"),
        (["one.key", "one.key", rsa, "token", "attestation.key"], "tls.cert_file", "no certificate"),
        (["one.pem", "one.key", "one.key", "token", "attestation.key"], "dkim.rsa_key_file", "RSA"),
        (["one.pem", "one.key", rsa, "weak", "attestation.key"], "admin.http_token_file", "no token"),
        (["one.pem", "one.key", rsa, "none", "attestation.key"], "admin.http_token_file", "none"),
        (["one.pem", "one.key", rsa, "token", "none"], "attestation.key_file", "none"),
        (["one.pem", "one.key", rsa, "token", "token"], "attestation.key_file", "token"),
    ] {
        let [cert, tls_key, rsa, token, attestation] = args;
        write(cert, tls_key, rsa, token, attestation);
        let (code, said) = check(&file);
        assert_eq!(code, 2, "{args:?}: {said:#?}");
        let problem = of(&said, "key", key);
        assert_eq!(
            (problem["level"].as_str(), problem["file"].as_str()),
            (Some("wrong"), file.to_str()),
            "{problem}"
        );
        assert!(problem["problem"].as_str().is_some_and(|text| text.contains(words)), "{words}: {problem}");
        assert!(problem["advice"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }

    write("one.pem", "one.key", rsa, "token", "attestation.key");
    std::fs::set_permissions(dir.path().join("one.key"), Permissions::from_mode(0o640)).expect("permissions");
    let (code, said) = check(&file);
    let problem = of(&said, "key", "tls.key_file");
    assert!(
        code == 2 && problem["advice"].as_str().is_some_and(|text| text.contains("chmod 600")),
        "{problem}"
    );
}

#[test]
fn credentials_are_looked_at_where_systemd_has_put_them() {
    let dir = tempfile::tempdir().expect("directory");
    private(&dir.path().join("admin.token"), "k3Jx0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cE\n");
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, "[admin]\nhttp_token_file = \"credential:admin.token\"\n").expect("written");
    let run = |credentials: Option<&Path>| {
        let mut command = waystation();
        command.args(["check-config", "--json"]).arg(&file).env_remove("CREDENTIALS_DIRECTORY");
        command.envs(credentials.map(|dir| ("CREDENTIALS_DIRECTORY", dir)));
        let output = command.output().expect("it runs");
        (output.status.code().unwrap_or(-1), lines(std::str::from_utf8(&output.stdout).expect("text")))
    };
    let (code, said) = run(None);
    assert_eq!((code, of(&said, "key", "admin.http_token_file")["level"].as_str()), (0, Some("warn")));
    let (code, said) = run(Some(dir.path()));
    assert_eq!((code, said.len()), (0, 1), "{said:#?}");
    std::fs::write(&file, "[admin]\nhttp_token_file = \"credential:other\"\n").expect("written");
    assert_eq!(run(Some(dir.path())).0, 2);
}

#[test]
fn what_cannot_work_together_is_found_before_a_start_finds_it() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, "[smtp]\nlisten = [\"127.0.0.1:8080\"]\n[admin]\nsocket = \"/").expect("written");
    let long = format!("[smtp]\nlisten = [\"127.0.0.1:8080\"]\n[admin]\nsocket = \"/{}\"\n", "x".repeat(120));
    std::fs::write(&file, long).expect("written");
    let (code, said) = check(&file);
    assert_eq!(code, 2);
    assert!(
        of(&said, "key", "smtp.listen")["problem"].as_str().is_some_and(|text| text.contains("http.listen"))
    );
    assert_eq!(of(&said, "key", "admin.socket")["level"], "wrong");
    let (code, out, err) = run_text(&["check-config", file.to_str().expect("text")]);
    assert_eq!(code, 2, "{err}");
    assert!(out.contains("cannot be used") && out.contains("keep one of them"), "{out}");
}

#[test]
fn values_that_would_only_fail_at_the_start_or_later_are_found_before() {
    let dir = tempfile::tempdir().expect("directory");
    let (code, _, err) =
        run_text(&["keys", "dkim", "--dir", dir.path().to_str().expect("text"), "--domain", "our.example"]);
    assert_eq!(code, 0, "{err}");
    let file = dir.path().join("relay.toml");
    let path = file.to_str().expect("text");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let dkim = |selector: &str, more: &str| {
        format!(
            "[dkim]\nenabled = true\nselector = \"{selector}\"\nrsa_key_file = \"{}\"\n{more}",
            at("dkim-default-rsa.pem")
        )
    };
    let second = format!("ed25519_key_file = \"{}\"\n", at("dkim-default-ed25519.pem"));
    let (long, short) = ("s".repeat(60), "s".repeat(55));
    let socket = format!("[admin]\nsocket = \"/{}\"\n", "x".repeat(120));
    // What it says, the key that is wrong if one is.
    let table = [
        (dkim("default", &second), None),
        (dkim(&long, ""), None),
        (dkim(&short, &second), None),
        (dkim(&long, &second), Some("dkim.selector")),
        (dkim(&format!("2026.{long}"), &second), Some("dkim.selector")),
        ("[delivery]\nsmarthost = \"9.9.9.9:0\"\n".to_owned(), Some("delivery.smarthost")),
        ("[delivery]\nsmarthost = \"[2620:fe::9]:0\"\n".to_owned(), Some("delivery.smarthost")),
        ("[delivery]\ndns_servers = [\"9.9.9.9:0\"]\n".to_owned(), Some("delivery.dns_servers")),
        ("[delivery]\ndns_servers = [\"9.9.9.9\", \"[::1]:0\"]\n".to_owned(), Some("delivery.dns_servers")),
        (socket, Some("admin.socket")),
    ];
    for (more, wrong) in table {
        let text = format!("data_dir = \"{}\"\ndomains = [\"our.example\"]\n{more}", at("data"));
        std::fs::write(&file, text).expect("written");
        let (code, said) = check(&file);
        assert_eq!(code, if wrong.is_some() { 2 } else { 0 }, "{more}: {said:#?}");
        if let Some(key) = wrong {
            assert_eq!(of(&said, "key", key)["level"], "wrong", "{more}");
        }
        // A start says the same, and systemd does not try it again.
        let (code, _, err) = run_text(&["serve", "--probe", "--config", path]);
        assert_eq!(code, if wrong.is_some() { 2 } else { 0 }, "{more}: {err}");
    }
    assert!(!dir.path().join("data").exists(), "nothing is made");
}

#[test]
fn signing_keys_that_do_not_follow_each_other_are_wrong_and_end_a_start_for_good() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, data) = (dir.path().join("relay.toml"), dir.path().join("data"));
    let text = format!(
        "data_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n",
        data.display()
    );
    std::fs::write(&file, text).expect("written");
    let path = file.to_str().expect("text");
    let make = ["keys", "attestation", "--config", path];
    let rotate = ["keys", "attestation", "--config", path, "--rotate"];
    for args in [&make[..], &rotate] {
        let (code, _, err) = run_text(args);
        assert_eq!(code, 0, "{err}");
    }
    let (code, said) = check(&file);
    assert_eq!((code, said.len()), (0, 1), "{said:#?}");

    let record = data.join("attestation/relay-primary-2.json");
    std::fs::write(&record, "{}").expect("written");
    let (code, said) = check(&file);
    let problem = of(&said, "key", "attestation.key_file");
    assert_eq!((code, problem["level"].as_str()), (2, Some("wrong")), "{problem}");
    assert!(
        problem["problem"].as_str().is_some_and(|text| text.contains("relay-primary-2.json")),
        "{problem}"
    );
    let (code, _, err) = run_text(&["serve", "--config", path]);
    assert_eq!(code, 2, "systemd must not restart for ever: {err}");

    // What cannot be looked at from here may be seen by the service.
    std::fs::remove_dir_all(data.join("attestation")).expect("removed");
    std::fs::write(data.join("attestation"), "").expect("written");
    let (code, said) = check(&file);
    assert_eq!((code, of(&said, "key", "attestation.key_file")["level"].as_str()), (0, Some("warn")));
}

#[test]
fn a_file_that_started_the_old_relay_starts_this_one_and_what_is_out_of_range_is_told() {
    let vectors =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/mail-tunnel.json"));
    let vectors: Value = serde_json::from_str(&vectors.expect("vectors")).expect("JSON");
    let mut old = vectors["config_validation"]["minimal_valid_config"].clone();
    old["auth"]["challengeTtlSeconds"] = 900.into();
    old["rateLimits"]["denyWindowMs"] = 604_800_000.into();
    old["smtp"]["maxRecipients"] = 5000.into();
    old["ws"]["idleTimeoutMs"] = old["ws"]["heartbeatIntervalMs"].clone();
    let dir = tempfile::tempdir().expect("directory");
    let (file, data) = (dir.path().join("config.json"), dir.path().join("data"));
    std::fs::write(&file, old.to_string()).expect("written");
    let (code, said) = check(&file);
    assert_eq!(code, 0, "{said:#?}");
    for (key, field, used) in [
        ("tunnel.challenge_ttl_seconds", "auth.challengeTtlSeconds is 900", "600 is used"),
        ("limits.deny_window_seconds", "rateLimits.denyWindowMs is 604800000", "86400 is used"),
        ("smtp.max_recipients", "smtp.maxRecipients is 5000", "1000 is used"),
        ("tunnel.idle_timeout_seconds", "ws.idleTimeoutMs (30000)", "the defaults of both are used"),
    ] {
        let remark = of(&said, "key", key);
        assert_eq!((remark["level"].as_str(), remark["advice"].as_str()), (Some("warn"), Some(used)));
        assert!(remark["problem"].as_str().is_some_and(|text| text.starts_with(field)), "{remark}");
    }
    let path = file.to_str().expect("text");
    let relay = RelayProcess::start_with(&data, &[("WAYSTATION_CONFIG", path)]);
    assert_eq!(relay.early.matches("relay.config.adjusted").count(), 4, "{}", relay.early);
    assert_eq!(relay.terminate(), 0);

    old["attestation"] =
        serde_json::json!({ "enabled": true, "keyId": "relay: primary", "signingPrivateKeyPath": "x.pem" });
    std::fs::write(&file, old.to_string()).expect("written");
    let (code, said) = check(&file);
    let refused = of(&said, "key", "attestation.keyId");
    assert_eq!(code, 2);
    assert!(refused["problem"].as_str().is_some_and(|text| text.contains("`relay: primary`")), "{refused}");
    assert!(refused["advice"].as_str().is_some_and(|text| text.contains("trusted_relays")), "{refused}");
}

#[test]
fn a_running_relay_says_what_a_reload_takes_and_what_waits_for_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, data) = (dir.path().join("relay.toml"), dir.path().join("data"));
    let text = |more: &str| format!("data_dir = \"{}\"\n{more}", data.display());
    std::fs::write(&file, text("")).expect("written");
    let path = file.to_str().expect("text");
    let relay = RelayProcess::start_with(&data, &[("WAYSTATION_CONFIG", path)]);
    let (_, out, _) = run_text(&["check-config", path]);
    assert!(out.contains("the running relay has all of it already"), "{out}");
    std::fs::write(&file, text("postmaster = \"me@mail.localhost\"\n[smtp]\nmta_sts = \"off\"\n[tls.acme]\ncontact = \"a@b.example\"\n"))
        .expect("written");
    let (code, out, _) = run_text(&["check-config", path]);
    let reloaded = out.find("waystation reload").expect("a part for reload");
    let restarted = out.find("waystation restart").expect("a part for restart");
    assert_eq!(code, 0, "{out}");
    for (key, live) in [("postmaster", true), ("smtp.mta_sts", true), ("tls.acme.contact", false)] {
        let at = out.rfind(&format!("  {key}\n")).unwrap_or_else(|| panic!("no {key} in {out}"));
        assert_eq!(reloaded < at && at < restarted, live, "{out}");
    }
    let (_, said) = check(&file);
    assert_eq!(of(&said, "file", path)["reload_changes"], serde_json::json!(["postmaster", "smtp.mta_sts"]));
    let (_, out, _) = run_text(&["check-config"]);
    assert!(!out.contains("running relay"), "another configuration is not compared: {out}");
    assert_eq!(relay.terminate(), 0);
}
