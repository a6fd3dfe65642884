//! The relay's signing key over its whole life, with the real binary: made, shown, rotated with overlap, through
//! restarts and crashes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use serde_json::Value;

use crate::support::home::Home;
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text, waystation};
use crate::support::until;

/// Seconds that a new key is announced before it signs; an old one is for as long after.
const OVERLAP: &str = "3";

fn env() -> [(&'static str, &'static str); 2] {
    [("WAYSTATION_ATTESTATION__OVERLAP_SECONDS", OVERLAP), ("WAYSTATION_HOSTNAME", "relay.example")]
}

fn start(dir: &Path) -> RelayProcess {
    RelayProcess::start_with(dir, &env())
}

fn keys(dir: &Path, verb: &str) -> std::process::Output {
    let data_dir = dir.to_str().expect("text");
    let mut command = waystation();
    command.args(["keys", "attestation", verb, "--json", "--data-dir", data_dir]).envs(env());
    command.output().expect("runs")
}

/// What the keys are, said by `keys attestation VERB`: `ID STATUS` of each.
fn told(dir: &Path, verb: &str) -> Vec<String> {
    let output = keys(dir, verb);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    statuses(&serde_json::from_slice(&output.stdout).expect("JSON"), "key_id")
}

fn statuses(object: &Value, id: &str) -> Vec<String> {
    let keys = object["keys"].as_array().expect("keys").iter();
    keys.map(|key| format!("{} {}", key[id].as_str().expect("id"), key["status"].as_str().expect("status")))
        .collect()
}

/// What anybody may know, over HTTP.
fn about(http: SocketAddr) -> Value {
    let mut stream = TcpStream::connect(http).expect("connects");
    let request = "GET /.well-known/waystation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("cache-control: max-age=300"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

fn announced(relay: &RelayProcess) -> Vec<String> {
    statuses(&about(relay.http), "keyId")
}

#[tokio::test]
async fn a_key_rotates_with_overlap_and_every_phase_survives_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = start(dir.path());
    let first = about(relay.http);
    assert_eq!(
        (&first["hostname"], &first["admission"]),
        (&Value::from("relay.example"), &Value::from("open"))
    );
    assert_eq!(announced(&relay), ["relay-primary current"]);
    assert!(dir.path().join("attestation.key").exists());
    // Through the running relay: it knows at once.
    assert_eq!(told(dir.path(), "--rotate"), ["relay-primary current", "relay-primary-2 next"]);
    assert_eq!(announced(&relay), ["relay-primary current", "relay-primary-2 next"]);
    assert_eq!(about(relay.http)["keys"][1]["endorsedBy"], "relay-primary");
    let refused = keys(dir.path(), "--rotate");
    assert_eq!(refused.status.code(), Some(1), "one rotation at a time");
    assert_eq!(relay.terminate(), 0);

    let relay = start(dir.path());
    assert_eq!(about(relay.http)["keys"][0]["publicKey"], first["keys"][0]["publicKey"]);
    until("the new key signs", || announced(&relay)[0] == "relay-primary-2 current").await;
    assert_eq!(announced(&relay), ["relay-primary-2 current", "relay-primary previous"]);
    relay.kill();

    let relay = start(dir.path());
    until("the old key is not announced any more", || announced(&relay) == ["relay-primary-2 current"]).await;
    relay.kill();
    let relay = start(dir.path());
    assert_eq!(announced(&relay), ["relay-primary-2 current"]);
    assert_eq!(about(relay.http)["keys"][0]["endorsedBy"], "relay-primary");
}

/// A gateway with one long session: it hears of the new key in time, and what that signs is verified.
#[tokio::test]
async fn a_connected_gateway_follows_a_rotation_and_its_receipts_add_up() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start_with(dir.path(), &[("WAYSTATION_ATTESTATION__OVERLAP_SECONDS", "6")]);
    let home = Home::new(&format!("ws://{}/ws", relay.http));
    fs::remove_file(home.config()).expect("made again, with the relay's key");
    let (data_dir, url) = (home.path().to_str().expect("text"), format!("ws://{}/ws", relay.http));
    let bootstrap =
        ["gateway", "bootstrap", &url, "--dir", data_dir, "--mail-domain", "mail.localhost", "--json"];
    let (code, made, err) = run_text(&bootstrap);
    assert_eq!(code, 0, "{err}");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let to = made["address"].as_str().expect("address").to_owned();
    let _gateway = home.start(None);
    until("it is there", || home.status().is_some_and(|status| status["connected_since_ms"].is_number()))
        .await;
    let mut tops = Vec::new();
    for (n, rotated) in [(1, false), (2, true)] {
        if rotated {
            let (code, _, err) = run_text(&[
                "keys",
                "attestation",
                "--rotate",
                "--data-dir",
                dir.path().to_str().expect("text"),
            ]);
            assert_eq!(code, 0, "{err}");
            let knows = |status: Value| status["relay_keys"].as_array().is_some_and(|keys| keys.len() == 2);
            until("the gateway knows the new key", || home.status().is_some_and(knows)).await;
            until("the new key signs", || announced(&relay)[0] == "relay-primary-2 current").await;
        }
        let id = send(relay.smtp, &to, b"Subject: x\r\n\r\nhello\r\n").expect("accepted");
        until("it is delivered", || home.names("new").len() == n).await;
        let name = home.names("new").into_iter().find(|name| name.contains(&id)).expect("there");
        let text = fs::read_to_string(home.path().join("Maildir/new").join(name)).expect("read");
        tops.push(text.split("\r\n").take(2).collect::<String>());
    }
    assert!(
        tops[0].starts_with("Waystation-Attestation: ok;") && tops[0].contains("key=relay-primary;"),
        "{tops:?}"
    );
    assert!(
        tops[1].starts_with("Waystation-Attestation: ok;") && tops[1].contains("key=relay-primary-2;"),
        "{tops:?}"
    );
    let config = home.config();
    let (code, out, err) = run_text(&["gateway", "audit", "--config", config.to_str().expect("text")]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(home.log().matches("gateway.connected").count(), 1, "it was one session");
}

#[tokio::test]
async fn a_rotation_that_dies_leaves_keys_to_start_with_and_can_be_made_again() {
    for (point, made) in [
        ("attestation.key_staged", false),
        ("attestation.key_written", false),
        ("attestation.record_staged", false),
        ("attestation.record_written", true),
    ] {
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(start(dir.path()).terminate(), 0);
        let data_dir = dir.path().to_str().expect("text");
        let mut command = waystation();
        command.args(["keys", "attestation", "--rotate", "--data-dir", data_dir]).envs(env());
        command.env("WAYSTATION_ATTESTATION__OVERLAP_SECONDS", "3600");
        let died = command.env("WAYSTATION_CRASH_AT", point).output().expect("runs");
        assert!(!died.status.success(), "{point}");
        let relay = start(dir.path());
        let next = "relay-primary-2 next".to_owned();
        let mut expected = vec!["relay-primary current".to_owned()];
        expected.extend(made.then(|| next.clone()));
        assert_eq!(announced(&relay), expected, "{point}");
        if !made {
            expected.push(next);
            assert_eq!(told(dir.path(), "--rotate"), expected, "{point}");
        }
        relay.kill();
        assert_eq!(announced(&start(dir.path())), expected, "{point}");
    }
}

#[tokio::test]
async fn a_key_made_beside_a_running_relay_is_taken_up() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = start(dir.path());
    // As another machine's hand would: past the admin socket, into the directory.
    let data_dir = dir.path().to_str().expect("text");
    let mut command = waystation();
    command.args(["keys", "attestation", "--rotate", "--data-dir", data_dir]).envs(env());
    command.env("WAYSTATION_ADMIN__SOCKET", dir.path().join("none.sock"));
    assert!(command.output().expect("runs").status.success());
    until("it is announced", || announced(&relay).iter().any(|key| key.starts_with("relay-primary-2"))).await;
}

#[test]
fn keys_are_made_once_and_shown_as_unmodified_gateways_want_them() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("sign.key");
    let (data_dir, path) = (dir.path().to_str().expect("text"), file.to_str().expect("text"));
    let (code, out, err) = run_text(&["keys", "attestation", "--out", path, "--data-dir", data_dir]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("SHA256:") && out.contains(&format!("key_file = \"{path}\"")), "{out}");
    let before = std::fs::read(&file).expect("key");
    let (code, _, err) = run_text(&["keys", "attestation", "--out", path, "--data-dir", data_dir]);
    assert_eq!((code, err.contains("not overwritten")), (1, true), "{err}");
    assert_eq!(std::fs::read(&file).expect("key"), before);
    // Nothing started here yet, so there is no key of its own.
    let (code, _, err) = run_text(&["keys", "attestation", "--show", "--data-dir", data_dir]);
    assert_eq!((code, err.contains("first start")), (1, true), "{err}");
    let (code, _, _) = run_text(&["keys", "attestation", "--data-dir", data_dir]);
    assert_eq!(code, 0);
    let (code, out, _) = run_text(&["keys", "attestation", "--show", "--data-dir", data_dir]);
    assert_eq!(code, 0);
    let json = &out[out.find('{').expect("a snippet")..];
    let snippet: Value = serde_json::from_str(json).expect("JSON");
    let trusted = &snippet["trusted_relays"][0];
    assert_eq!(trusted["key_id"], "relay-primary");
    let public = std::fs::read_to_string(dir.path().join("attestation.key.pub")).expect("public key");
    assert_eq!(trusted["public_key_pem"], public.as_str());
}

#[tokio::test]
async fn a_relay_that_signs_nothing_announces_nothing_and_makes_no_key() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start_with(dir.path(), &[("WAYSTATION_ATTESTATION__ENABLED", "false")]);
    assert_eq!(announced(&relay), Vec::<String>::new());
    assert!(!dir.path().join("attestation.key").exists());
}

#[test]
fn a_named_key_that_is_not_there_stops_the_start_and_says_how_to_make_it() {
    let dir = tempfile::tempdir().expect("directory");
    let mut command = waystation();
    command.args(["serve", "--data-dir"]).arg(dir.path());
    command.env("WAYSTATION_ATTESTATION__KEY_FILE", dir.path().join("gone.key"));
    command.env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0").env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0");
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("keys attestation --out"), "{said}");
}
