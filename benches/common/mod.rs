//! What the measurements share: a relay on the real disk in this process, and gateways in a child process, so that
//! only the relay's memory is counted.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed measurement")]
#![allow(dead_code, reason = "each measurement uses a part")]

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use data_encoding::BASE64;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use spool::disk::real::RealDisk;
use spool::engine::{Engine, Unobserved};
use spool::index::sled::SledIndex;
use spool::{Options, Spool};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waystation::clock;
use waystation::identity::key::SecretKey;
use waystation::mail::admission::Admission;
use waystation::mail::lane::Lanes;
use waystation::mail::outbound;
use waystation::mail::signer;
use waystation::observe::Metrics;
use waystation::spooler::Spooler;
use waystation::tunnel::ws::{Settings, Tunnel};

/// A relay with its ledger in a temporary directory.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) spooler: Spooler,
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) metrics: Arc<Metrics>,
    _engine: Engine,
    _directory: TempDir,
}

impl Relay {
    /// `signed`: it signs for what it hands out.
    pub(crate) async fn start(signed: bool) -> Self {
        let directory = tempfile::tempdir_in(".").unwrap();
        let disk = Arc::new(RealDisk::new(directory.path().join("spool")));
        std::fs::create_dir_all(directory.path().join("spool")).unwrap();
        let index = Arc::new(SledIndex::open(&directory.path().join("index")).unwrap());
        let options = Options { min_free_bytes: 0, ..Options::default() };
        let (spool, _) = Spool::open(disk, index, options, clock::wall()).unwrap();
        let reader = spool.reader();
        let engine = Engine::start(spool, Arc::new(clock::wall), Unobserved).unwrap();
        let spooler = Spooler::new(engine.handle(), reader, clock::wall);
        let metrics = Arc::new(Metrics::new());
        let signer = signed.then(|| {
            let settings = signer::Settings {
                relay: "relay.example".to_owned(),
                data_dir: directory.path().to_owned(),
                key_id: "bench".to_owned(),
                key_file: None,
                overlap_ms: 0,
            };
            signer::Signer::open(settings, true, Arc::clone(&metrics)).unwrap()
        });
        let names = outbound::intake::Settings::new("relay.example", &["mail.example".to_owned()]);
        let submissions =
            outbound::intake::Submissions::new(names, spooler.clone(), Arc::clone(&metrics), signer.clone());
        let lanes = Lanes::new(
            spooler.clone(),
            Admission::Open,
            Vec::new(),
            submissions,
            Arc::clone(&metrics),
            signer,
        );
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let tunnel =
            Tunnel::new(Settings::default(), lanes, Arc::clone(&metrics), stop.clone(), tasks.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(waystation::http::serve(listener, Default::default(), tunnel.router(), stop, tasks));
        Self { address, spooler, tunnel, metrics, _engine: engine, _directory: directory }
    }
}

/// The key of gateway `n`.
pub(crate) fn key(n: u32) -> SecretKey {
    let mut seed = [0x5a; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_seed(&seed)
}

/// Resident memory of this process, bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// This program again, as the gateways' process. Its output is read line by line.
pub(crate) fn child(arguments: &[String]) -> (Child, BufReader<tokio::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// The next line of a child.
pub(crate) async fn line(lines: &mut BufReader<tokio::process::ChildStdout>) -> String {
    let mut text = String::new();
    lines.read_line(&mut text).await.unwrap();
    text.trim().to_owned()
}

/// The arguments after the first `gateways` word, when this process is the child.
pub(crate) fn child_arguments() -> Option<Vec<String>> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next().as_deref() == Some("gateways")).then(|| arguments.collect())
}

/// Logs a gateway in; `more` goes into the request.
pub(crate) async fn login(address: SocketAddr, key: &SecretKey, more: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    let url = format!("ws://{address}/ws");
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await.unwrap();
    let text = key.key_text();
    let request = format!(r#"{{"type":"auth_challenge_request","publicKeyBase32":"{text}"{more}}}"#);
    socket.send(Message::text(request)).await.unwrap();
    let challenge = said(&mut socket).await;
    let signature = BASE64.encode(&key.sign(challenge["challengeText"].as_str().unwrap().as_bytes()));
    let id = challenge["challengeId"].as_str().unwrap();
    let answer = format!(
        r#"{{"type":"auth_challenge_response","publicKeyBase32":"{text}","challengeId":"{id}","signatureBase64":"{signature}"}}"#
    );
    socket.send(Message::text(answer)).await.unwrap();
    assert_eq!(said(&mut socket).await["type"], "auth_ok");
    socket
}

async fn said(socket: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}
