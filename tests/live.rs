//! The running relay, watched: overview, sessions and events over the admin API, `spool follow` and `top`.

mod events;
mod follow;
mod overview;
mod schema;
mod top;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use waystation::identity::keyfile;

use crate::support::home::Home;
use crate::support::process::{RelayProcess, run_text};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the admin socket of a relay.
fn connect(data_dir: &Path) -> UnixStream {
    let socket = UnixStream::connect(data_dir.join("admin.sock")).expect("the admin socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// Status, head and body of the answer to one request.
fn ask(data_dir: &Path, line: &str, body: &str) -> (u16, String, String) {
    let mut socket = connect(data_dir);
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    // One that is refused by its head may be closed before all of it was taken.
    let _ = socket.write_all(request.as_bytes());
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("answered");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// The object that a question brings.
fn get(data_dir: &Path, target: &str) -> Value {
    let (status, head, body) = ask(data_dir, &format!("GET /admin{target}"), "");
    assert_eq!(status, 200, "{target}: {head}\n{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The mailbox of a gateway's directory: its key text, registered with the relay.
fn mailbox(data_dir: &Path, home: &Home) -> String {
    let key = keyfile::load(&home.path().join("passport.key")).expect("a key").key_text().to_string();
    let (code, _, error) =
        run_text(&["mailbox", "add", &key, "--data-dir", data_dir.to_str().expect("text")]);
    assert_eq!(code, 0, "{error}");
    key
}

/// A gateway of that relay, with a Maildir.
fn home(relay: &RelayProcess) -> Home {
    let rest = "mail_domain = \"mail.localhost\"\n[maildir]\npath = \"Maildir\"\n";
    Home::with(&format!("ws://{}/ws", relay.http), rest)
}
