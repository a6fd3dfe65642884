//! A relay's tunnel on a port of its own, with a ledger on a simulated disk, and gateways to try it with.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use data_encoding::BASE64;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use spool::disk::sim::SimDisk;
use spool::engine::{Engine, Unobserved};
use spool::ids::{ItemId, WallMs};
use spool::index::memory::MemoryIndex;
use spool::types::{MailboxChange, SpoolStats, State};
use spool::{Options, Spool};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waystation::admin::api::{self, Admin};
use waystation::admin::ask::Terms;
use waystation::admin::jobs::Jobs;
use waystation::admin::overview::Condition;
use waystation::admin::presence::{Presence, Session};
use waystation::clock;
use waystation::current::Current;
use waystation::identity::key::{KeyText, SecretKey};
use waystation::mail::admission::Admission;
use waystation::mail::envelope::Meta;
use waystation::mail::lane::Lanes;
use waystation::mail::outbound::delivery::standing::Standing;
use waystation::mail::outbound::delivery::switch::Switch;
use waystation::mail::outbound::intake::{self, Submissions};
use waystation::mail::signer::{self, Signer};
use waystation::observe::history::View;
use waystation::observe::{Live, Metrics};
use waystation::records::desk::Desk;
use waystation::records::{Site, look};
use waystation::spooler::Spooler;
use waystation::tunnel::Dialect;
use waystation::tunnel::frame::{Frame, StartBody};
use waystation::tunnel::ws::{Settings, Tunnel};

/// Longest wait for anything; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Relay {
    pub(super) address: SocketAddr,
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    pub(super) spooler: Spooler,
    /// What signs.
    pub(super) signer: Arc<Signer>,
    /// Where its keys lie.
    keys: TempDir,
    engine: Engine,
    disk: SimDisk,
    tasks: TaskTracker,
    names: intake::Settings,
}

/// How long a new key is announced before it signs, milliseconds.
pub(super) const OVERLAP_MS: u64 = 3_600_000;

fn keys() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn signing(dir: &Path) -> signer::Settings {
    signer::Settings {
        relay: "relay.example".to_owned(),
        data_dir: dir.to_owned(),
        key_id: "relay-primary".to_owned(),
        key_file: None,
        overlap_ms: OVERLAP_MS,
    }
}

fn open(disk: SimDisk) -> Spool {
    let options = Options { min_free_bytes: 0, segment_bytes: 1 << 20, ..Options::default() };
    Spool::open(Arc::new(disk), Arc::new(MemoryIndex::new()), options, clock::wall()).unwrap().0
}

/// How submissions are taken if a scenario does not say.
pub(super) fn submissions() -> intake::Settings {
    intake::Settings::new("relay.example", &["mail.example".to_owned()])
}

impl Relay {
    pub(super) async fn start() -> Self {
        Self::with(Settings::default(), Admission::Open).await
    }

    pub(super) async fn with(settings: Settings, admission: Admission) -> Self {
        Self::on(SimDisk::new(), keys(), settings, admission, submissions()).await
    }

    /// Takes submissions as told.
    pub(super) async fn submitting(names: intake::Settings) -> Self {
        Self::on(SimDisk::new(), keys(), Settings::default(), Admission::Open, names).await
    }

    async fn on(
        disk: SimDisk,
        keys: TempDir,
        settings: Settings,
        admission: Admission,
        names: intake::Settings,
    ) -> Self {
        let spool = open(disk.clone());
        let reader = spool.reader();
        let engine = Engine::start(spool, Arc::new(clock::wall), Unobserved).unwrap();
        let spooler = Spooler::new(engine.handle(), reader, clock::wall);
        let metrics = Arc::new(Metrics::new());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let signer = Signer::open(signing(keys.path()), true, Arc::clone(&metrics)).unwrap();
        let submissions =
            Submissions::new(names.clone(), spooler.clone(), Arc::clone(&metrics), Some(Arc::clone(&signer)));
        tokio::spawn(Arc::clone(&submissions).run(stop.clone()));
        let lanes = Lanes::new(
            spooler.clone(),
            admission,
            vec!["mail.example".to_owned()],
            submissions,
            Arc::clone(&metrics),
            Some(Arc::clone(&signer)),
        );
        let service: Arc<Lanes> = Arc::clone(&lanes);
        let tunnel = Tunnel::new(settings, service, Arc::clone(&metrics), stop.clone(), tasks.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(waystation::http::serve(
            listener,
            Default::default(),
            tunnel.router(),
            stop.clone(),
            tasks.clone(),
        ));
        Self { address, tunnel, lanes, metrics, stop, spooler, signer, keys, engine, disk, tasks, names }
    }

    /// Stops everything in order and starts again on the same disk.
    pub(super) async fn restart(self) -> Self {
        let Self { stop, tasks, engine, disk, spooler, tunnel, lanes, names, keys, .. } = self;
        stop.cancel();
        tasks.close();
        tokio::time::timeout(PATIENCE, tasks.wait()).await.expect("all sessions end");
        drop((spooler, tunnel, lanes));
        tokio::task::spawn_blocking(move || engine.stop()).await.unwrap().unwrap();
        Self::on(disk.kill(), keys, Settings::default(), Admission::Open, names).await
    }

    /// The operator's door of this relay, without a socket.
    pub(super) fn admin(&self) -> Router {
        api::router(Arc::new(Admin {
            spooler: self.spooler.clone(),
            handle: self.engine.handle(),
            presence: Arc::new(Connected(Arc::clone(&self.tunnel))),
            condition: Arc::new(Unasked),
            metrics: Arc::clone(&self.metrics),
            switch: Arc::new(Switch::open(self.keys.path())),
            standing: Arc::new(Standing::default()),
            terms: Current::new(Terms { domains: vec!["mail.example".to_owned()], ..Terms::default() }),
            signer: None,
            records: Arc::new(Desk::new(Site::default(), look::Settings::default(), None)),
            live: Live::default(),
            onlookers: Arc::new(Semaphore::new(1)),
            stop: self.stop.clone(),
            control: None,
            jobs: Jobs::new(self.keys.path().to_owned(), self.stop.clone()),
        }))
    }

    /// Damages every record that holds `text`, as decay at rest would.
    pub(super) fn damage(&self, text: &str) {
        for file in self.disk.files() {
            let bytes = self.disk.contents(&file).unwrap();
            for at in memchr::memmem::find_iter(&bytes, text) {
                assert!(self.disk.flip(&file, at as u64, 0));
            }
        }
    }

    pub(super) async fn register(&self, key: &SecretKey) {
        let name = key.key_text().to_string();
        self.spooler.call(move |spool| spool.register(&name, clock::wall())).await.unwrap().unwrap();
    }

    pub(super) async fn change(&self, key: &SecretKey, change: MailboxChange) {
        let name = key.key_text().to_string();
        let changed = self.spooler.call(move |spool| spool.change_mailbox(&name, change));
        changed.await.unwrap().unwrap();
    }

    /// Accepts a message for `key`, as the SMTP side does.
    pub(super) async fn put(&self, key: &SecretKey, bytes: &[u8]) -> ItemId {
        let name = key.key_text().to_string();
        let lane =
            self.spooler.query(move |spool| spool.mailbox(&name)).await.unwrap().unwrap().unwrap().lane;
        let mut body = self.spooler.body();
        body.write(bytes).await.unwrap();
        let meta = Meta { mail_from: "a@sender.example".into(), ..Meta::default() }.encode();
        let tag = key.key_text().address("mail.example").into_bytes();
        let head = b"Received: here\r\n".to_vec();
        body.commit(head, meta, vec![(lane, tag)], clock::wall()).await.unwrap().ids[0]
    }

    /// Items of `key` in `state` for the next start, if the relay were killed now.
    pub(super) fn count_if_killed(&self, key: &SecretKey, state: State) -> u64 {
        let mailbox = open(self.disk.kill()).mailbox(key.key_text().as_ref()).unwrap().unwrap();
        mailbox.stats.items[state as usize]
    }

    /// Items of `key` in `state`.
    pub(super) async fn count(&self, key: &SecretKey, state: State) -> u64 {
        let name = key.key_text().to_string();
        let mailbox = self.spooler.query(move |spool| spool.mailbox(&name)).await.unwrap().unwrap();
        mailbox.unwrap().stats.items[state as usize]
    }
}

/// Who is connected, as far as a revocation needs it.
struct Connected(Arc<Tunnel>);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

impl Presence for Connected {
    fn sessions(&self) -> usize {
        self.0.sessions()
    }

    fn connected(&self, name: &str) -> bool {
        KeyText::from_peer(name).is_ok_and(|key| self.0.is_connected(&key))
    }

    fn last_seen(&self, _: &str) -> Option<WallMs> {
        None
    }

    fn page(&self, _: Option<KeyText>, _: usize) -> (Vec<Session>, Option<KeyText>) {
        (Vec::new(), None)
    }

    fn revoke(&self, name: &str) {
        self.0.revoke(&KeyText::from_peer(name).unwrap());
    }
}

/// How a relay is of which nobody wants the overview.
struct Unasked;

impl Condition for Unasked {
    fn started_at(&self) -> WallMs {
        WallMs(0)
    }

    fn uptime_seconds(&self) -> u64 {
        0
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn certificate_until(&self) -> Option<WallMs> {
        None
    }

    fn history(&self) -> View {
        unreachable!("nobody asks for it")
    }

    fn stats(&self) -> Option<SpoolStats> {
        None
    }
}

/// Waits until `condition` holds.
pub(super) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}

/// Forwards both ways until cancelled; then keeps its sockets open and moves nothing.
pub(super) async fn middle_box(to: SocketAddr) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, cut) = (listener.local_addr().unwrap(), CancellationToken::new());
    let token = cut.clone();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = token.cancelled() => std::future::pending().await,
        }
    });
    (address, cut)
}

/// One mail as a gateway got it.
pub(super) struct Arrived {
    pub(super) stream: String,
    pub(super) start: StartBody,
    pub(super) bytes: Vec<u8>,
    pub(super) message_bytes_max: usize,
}

/// A gateway written against the protocol alone. Its socket answers pings when it is read.
pub(super) struct Gateway {
    pub(super) socket: WebSocketStream<TcpStream>,
    pub(super) auth_ok: Value,
}

impl Gateway {
    /// Opens the WebSocket; `headers` are further header lines.
    pub(super) async fn connect(address: SocketAddr, headers: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut request = Request::builder()
            .uri(format!("ws://{address}/ws"))
            .header("Host", address.to_string())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
            request = request.header(name, value);
        }
        let (socket, _) = tokio_tungstenite::client_async(request.body(()).unwrap(), stream).await.unwrap();
        Self { socket, auth_ok: Value::Null }
    }

    pub(super) async fn login(relay: &Relay, key: &SecretKey) -> Self {
        Self::login_at(relay.address, key, "").await
    }

    pub(super) async fn login_at(address: SocketAddr, key: &SecretKey, headers: &str) -> Self {
        Self::login_as(address, key, "", headers).await
    }

    /// Logs in; `more` is put into the request.
    pub(super) async fn login_as(address: SocketAddr, key: &SecretKey, more: &str, headers: &str) -> Self {
        let mut gateway = Self::connect(address, headers).await;
        gateway.prove(key, more).await;
        gateway.auth_ok = gateway.said().await;
        assert_eq!(gateway.auth_ok["type"], "auth_ok", "{}", gateway.auth_ok);
        gateway
    }

    /// Proves a key that is not let in; the close code and reason.
    pub(super) async fn refused(relay: &Relay, key: &SecretKey) -> (u16, String) {
        let mut gateway = Self::connect(relay.address, "").await;
        gateway.prove(key, "").await;
        assert_eq!(gateway.said().await["type"], "auth_error");
        gateway.closed().await
    }

    /// Asks for a challenge and answers it; `more` is put into the request.
    pub(super) async fn prove(&mut self, key: &SecretKey, more: &str) {
        self.prove_with(key, more, "").await;
    }

    /// The same with `further` put into the response.
    pub(super) async fn prove_with(&mut self, key: &SecretKey, more: &str, further: &str) {
        let text = key.key_text();
        self.tell(&format!(r#"{{"type":"auth_challenge_request","publicKeyBase32":"{text}"{more}}}"#)).await;
        let challenge = self.said().await;
        let signature = BASE64.encode(&key.sign(challenge["challengeText"].as_str().unwrap().as_bytes()));
        let id = challenge["challengeId"].as_str().unwrap();
        self.tell(&format!(
            r#"{{"type":"auth_challenge_response","publicKeyBase32":"{text}","challengeId":"{id}","signatureBase64":"{signature}"{further}}}"#
        ))
        .await;
    }

    pub(super) async fn tell(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.socket.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("whole")
    }

    /// The next text message.
    pub(super) async fn said(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.next().await {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// The close code and reason; what comes before is skipped.
    pub(super) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(Some(frame)) = self.next().await {
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// The next whole mail.
    pub(super) async fn mail(&mut self) -> Arrived {
        match self.mail_or_close().await {
            Ok(arrived) => arrived,
            Err(code) => panic!("closed with {code}"),
        }
    }

    /// The next whole mail, or the code of the close that came instead.
    pub(super) async fn mail_or_close(&mut self) -> Result<Arrived, u16> {
        let mut arrived: Option<Arrived> = None;
        loop {
            let message = match self.next().await {
                Message::Binary(message) => message,
                Message::Close(frame) => return Err(frame.map_or(1005, |frame| frame.code.into())),
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            match (Frame::decode(&message, Dialect::Two).unwrap(), &mut arrived) {
                (Frame::Start { stream, start }, _) => {
                    arrived =
                        Some(Arrived { stream, start, bytes: Vec::new(), message_bytes_max: message.len() });
                }
                (Frame::Chunk { stream, bytes }, Some(arrived)) if stream == arrived.stream => {
                    arrived.bytes.extend_from_slice(&bytes);
                    arrived.message_bytes_max = arrived.message_bytes_max.max(message.len());
                }
                (Frame::End { stream }, Some(open)) if stream == open.stream => {
                    return Ok(arrived.take().unwrap());
                }
                (other, _) => panic!("{other:?} out of place"),
            }
        }
    }

    /// Reads, and so answers pings, until `count` says `wanted`.
    pub(super) async fn idle_until(&mut self, count: impl AsyncFn() -> u64, wanted: u64) {
        let wait = async {
            while count().await != wanted {
                let short = tokio::time::timeout(Duration::from_millis(5), self.socket.next()).await;
                assert!(!matches!(short, Ok(None | Some(Err(_)))), "closed");
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {wanted}");
    }
}
