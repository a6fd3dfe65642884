//! What a relay tells those who watch it: metrics, readiness, the files for Prometheus and Grafana.

mod files;
mod log;
mod metrics;
mod ready;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::layering::root;
use crate::support::programs::program;

/// Status, head and body of the answer to `GET target`.
fn get(from: SocketAddr, target: &str, accept: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(from).expect("connects");
    write!(stream, "GET {target} HTTP/1.1\r\nhost: relay\r\naccept: {accept}\r\nconnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Prometheus' own checker, where `tests/run` unpacked it or where it is installed.
fn promtool() -> Option<PathBuf> {
    let unpacked = root().join("target/peers/prometheus/usr/bin/promtool");
    if unpacked.is_file() { Some(unpacked) } else { program("promtool") }
}

/// Runs it in `dir` with `input`; fails when it complains.
fn check(promtool: &Path, dir: &Path, args: &[&str], input: &str) {
    let mut child = Command::new(promtool)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {args:?}:\n{}", String::from_utf8_lossy(&said));
}
