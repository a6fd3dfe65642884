//! No secret reaches a log, whatever the level: a relay that logs everything does everything that touches one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use waystation::identity::key::SecretKey;

use crate::support::process::{run_text, waystation};
use crate::support::until;

/// A relay whose log goes into a file; ends when dropped.
struct Loud {
    child: Child,
    log: PathBuf,
}

impl Drop for Loud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Loud {
    fn start(dir: &Path, env: &[(&str, &str)]) -> Self {
        let log = dir.join("relay.log");
        let child = waystation()
            .args(["serve", "--data-dir"])
            .arg(dir.join("data"))
            .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_LOG__FORMAT", "json")
            .env("WAYSTATION_LOG__LEVEL", "trace")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("log"))
            .spawn()
            .expect("it starts");
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("log")
    }

    fn event(&self, name: &str) -> Option<Value> {
        let said = self.said();
        said.lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .find(|event| event["event"] == name)
    }
}

fn private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("mode");
}

/// Every way in which a key's octets could be written.
fn spellings(pem: &str) -> Vec<String> {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64.decode(lines.concat().as_bytes()).expect("PEM");
    let end = &der[der.len() - 12..];
    let listed: Vec<String> = end.iter().map(u8::to_string).collect();
    let mut all: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    all.retain(|line| line.len() > 12); // a short last line could be anywhere
    all.extend([HEXLOWER.encode(end), listed.join(", "), BASE64_NOPAD.encode(end)]);
    all
}

fn http(to: SocketAddr, fields: &str) -> String {
    let mut stream = TcpStream::connect(to).expect("connects");
    write!(
        stream,
        "GET /admin/spool/stats HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

/// Logs in with an invitation; what the relay said last.
async fn login(to: SocketAddr, key: &SecretKey, code: &str) -> String {
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{to}/ws")).await.expect("opens");
    let text = key.key_text().to_string();
    let ask = json!({ "type": "auth_challenge_request", "publicKeyBase32": text, "features": ["ack"] });
    socket.send(Message::text(ask.to_string())).await.expect("sent");
    let mut last = String::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text_) = message else { continue };
        last = text_.to_string();
        let said: Value = serde_json::from_str(&last).expect("json");
        let Some(challenge) = said["challengeText"].as_str() else { break };
        let answer = json!({
            "type": "auth_challenge_response",
            "publicKeyBase32": text,
            "challengeId": said["challengeId"],
            "signatureBase64": BASE64.encode(&key.sign(challenge.as_bytes())),
            "invite": code,
        });
        socket.send(Message::text(answer.to_string())).await.expect("sent");
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged_at_any_level() {
    let dir = tempfile::tempdir().expect("directory");
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).to_str().expect("path").to_owned();
    let dkim = text("dkim");
    let made = run_text(&["keys", "dkim", "--dir", &dkim, "--selector", "s", "--domain", "our.example"]);
    assert_eq!(made.0, 0, "{}", made.2);
    assert_eq!(run_text(&["keys", "token", "--file", &text("token")]).0, 0);
    let key = rcgen::KeyPair::generate().expect("key");
    let params = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).expect("parameters");
    private(&at("tls.key"), &key.serialize_pem());
    private(&at("tls.pem"), &params.self_signed(&key).expect("certificate").pem());
    let (rsa, ed) = (text("dkim/dkim-s-rsa.pem"), text("dkim/dkim-s-ed25519.pem"));
    let (tls_key, tls_cert, token_file) = (text("tls.key"), text("tls.pem"), text("token"));
    let relay = Loud::start(
        dir.path(),
        &[
            ("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", &token_file),
            ("WAYSTATION_TLS__CERT_FILE", &tls_cert),
            ("WAYSTATION_TLS__KEY_FILE", &tls_key),
            ("WAYSTATION_HTTP__TLS_LISTEN", "127.0.0.1:0"),
            ("WAYSTATION_DKIM__ENABLED", "true"),
            ("WAYSTATION_DKIM__DOMAIN", "our.example"),
            ("WAYSTATION_DOMAINS", "our.example"),
            ("WAYSTATION_DKIM__SELECTOR", "s"),
            ("WAYSTATION_DKIM__RSA_KEY_FILE", &rsa),
            ("WAYSTATION_DKIM__ED25519_KEY_FILE", &ed),
            ("WAYSTATION_ADMISSION__MODE", "allowlist"),
        ],
    );
    until("it starts", || relay.event("relay.started").is_some()).await;
    let to = relay.event("relay.started").expect("started")["http"]
        .as_str()
        .expect("http")
        .parse()
        .expect("address");

    let token = std::fs::read_to_string(at("token")).expect("token").trim().to_owned();
    assert!(http(to, &format!("authorization: Bearer {token}")).contains("200 OK"));
    let guess = "guess-that-somebody-typed-by-mistake-0123456789";
    assert!(http(to, &format!("authorization: Bearer {guess}")).contains("401 "));
    let (code, invited, error) = run_text(&["--data-dir", &text("data"), "--json", "mailbox", "invite"]);
    assert_eq!(code, 0, "{error}");
    let invited: Value = serde_json::from_str(&invited).expect("json");
    let invite = invited["code"].as_str().expect("code").to_owned();
    let gateway = SecretKey::from_seed(&[0x5a; 32]);
    let said = login(to, &gateway, &invite).await;
    assert!(said.contains("auth_ok"), "{said}");
    let other = login(to, &SecretKey::from_seed(&[0x5b; 32]), &invite).await;
    assert!(other.contains("auth_error"), "{other}");
    until("the login is logged", || relay.event("relay.ws.auth.accepted").is_some()).await;
    until("and the wrong token", || relay.event("relay.admin.http.unauthorized").is_some()).await;

    let mut secrets = vec![token, guess.to_owned(), invite.clone(), invite.replace('-', "")];
    let attestation = at("data").join("attestation.key");
    for file in [at("tls.key"), PathBuf::from(&rsa), PathBuf::from(&ed), attestation] {
        if let Ok(pem) = std::fs::read_to_string(&file) {
            secrets.extend(spellings(&pem));
        }
    }
    let said = relay.said();
    for secret in &secrets {
        let line = said.lines().find(|line| line.contains(secret.as_str()));
        assert!(line.is_none(), "the log has {secret}: {line:?}");
    }
    assert!(secrets.len() > 40, "the keys were looked at");
}
