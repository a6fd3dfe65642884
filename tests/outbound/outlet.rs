//! Deliveries alone: real spool, real DNS look-ups, real sockets; submissions are put into the spool directly.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use spool::accept::ChunkBuilder;
use spool::disk::Disk;
use spool::disk::real::RealDisk;
use spool::disk::sim::SimDisk;
use spool::engine::{Engine, Unobserved};
use spool::ids::{ItemId, WallMs};
use spool::index::sled::SledIndex;
use spool::submission::{NewSubmission, Submission, Submitted};
use spool::types::{NewMessage, State};
use spool::{Options, Spool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waystation::clock;
use waystation::mail::envelope::OutboundMeta;
use waystation::mail::outbound::connection::{Dialing, Timeouts};
use waystation::mail::outbound::delivery::standing::Standing;
use waystation::mail::outbound::delivery::switch::Switch;
use waystation::mail::outbound::delivery::{self, Deps, Settings};
use waystation::mail::outbound::prepare::dkim::{self, Signer, keys};
use waystation::mail::outbound::route::dns::DnsSettings;
use waystation::mail::outbound::route::fetch::FetchSettings;
use waystation::mail::outbound::route::{self, Router, TlsPolicy};
use waystation::mail::outbound::schedule::{self, Retry};
use waystation::mail::outbound::values::Note;
use waystation::observe::{DeliveryClass, Metrics};
use waystation::spooler::Spooler;

use crate::support::dns::Dns;
use crate::support::sink::Sink;

/// Longest wait for anything to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whose submissions they are.
pub(super) const MAILBOX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// What stands before each message.
pub(super) const HEAD: &str = "Received: by relay.test with TUNNEL\r\n";

/// Deliveries, and the small Internet around them.
pub(super) struct Outlet {
    pub(super) dns: Dns,
    pub(super) sink: Sink,
    pub(super) spooler: Spooler,
    pub(super) switch: Arc<Switch>,
    pub(super) standing: Arc<Standing>,
    pub(super) metrics: Arc<Metrics>,
    signer: Option<Arc<Signer>>,
    settings: Settings,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    engine: Option<Engine>,
    count: u64,
    dir: tempfile::TempDir,
}

impl Outlet {
    /// With impatient settings that `change` may change.
    pub(super) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let engine = open(dir.path(), 0);
        Self::start_in(dir, engine, change).await
    }

    /// On a simulated disk with small segments; it cannot be restarted.
    pub(super) async fn start_on(disk: SimDisk, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
        let engine = open_on(Arc::new(disk), dir.path(), options);
        Self::start_in(dir, engine, change).await
    }

    async fn start_in(
        dir: tempfile::TempDir,
        (engine, spooler): (Engine, Spooler),
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = Settings {
            schedule: schedule::Settings {
                total_max: 20,
                per_destination_max: 5,
                interval: Duration::ZERO,
                retry: Retry { waits_ms: Arc::from([300]), greylist_ms: 300 },
            },
            dialing: Dialing {
                helo: "relay.test".to_owned(),
                timeouts: Timeouts { dot: Duration::from_millis(700), ..Timeouts::scaled(0.02) },
                ..Dialing::default()
            },
            expire_ms: 60_000,
            class: DeliveryClass::Direct,
        };
        change(&mut settings);
        spooler.call(|spool| spool.register(MAILBOX, clock::wall())).await.expect("commit").expect("mailbox");
        let mut outlet = Self {
            dns: Dns::start().await,
            sink: Sink::start_on(&["127.0.0.2", "127.0.0.3"]).await,
            spooler,
            switch: Arc::new(Switch::open(dir.path())),
            standing: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            signer: None,
            settings,
            stop: CancellationToken::new(),
            task: None,
            engine: Some(engine),
            count: 0,
            dir,
        };
        outlet.deliver();
        outlet
    }

    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    fn deliver(&mut self) {
        let router = Router::new(route::Settings {
            dns: DnsSettings { servers: vec![self.dns.address()], timeout: Duration::from_millis(500) },
            port: self.sink.port(),
            own_names: vec!["relay.test".to_owned()],
            own_addresses: Vec::new(),
            smarthost: None,
            tls_policy: TlsPolicy::Opportunistic,
            require_domains: Vec::new(),
            allow_private_targets: true,
            data_dir: self.dir.path().to_owned(),
            policies: FetchSettings::default(),
        });
        let deps = Deps {
            spooler: self.spooler.clone(),
            router: router.expect("router"),
            signer: self.signer.clone(),
            switch: Arc::clone(&self.switch),
            standing: Arc::clone(&self.standing),
            metrics: Arc::clone(&self.metrics),
        };
        let run = delivery::run(self.settings.clone(), deps, self.stop.clone());
        self.task = Some(tokio::spawn(async { run.await.expect("spool") }));
    }

    /// Signs for `our.test` after the next restart; answers the key's record.
    pub(super) fn sign(&mut self) -> String {
        let (key, file) = (keys::generate_ed25519().expect("key"), self.dir.path().join("key.pem"));
        std::fs::write(&file, key.pem.as_bytes()).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("ours");
        let loaded = keys::load_ed25519(&file).expect("loaded");
        let signer = Signer::new(dkim::Settings::new("our.test", "s1"), None, Some(loaded));
        self.signer = Some(Arc::new(signer.expect("signer")));
        key.record
    }

    /// Stops deliveries in order, closes the spool, and starts both again.
    pub(super) async fn restart(&mut self) {
        self.restart_with_floor(0).await;
    }

    /// The same; the spool wants so many bytes to stay free.
    pub(super) async fn restart_with_floor(&mut self, min_free_bytes: u64) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(PATIENCE, task).await.expect("deliveries end").expect("no panic");
        }
        let engine = self.engine.take().expect("running");
        tokio::task::spawn_blocking(|| engine.stop()).await.expect("no panic").expect("closed");
        let (engine, spooler) = open(self.dir.path(), min_free_bytes);
        (self.engine, self.spooler) = (Some(engine), spooler);
        self.stop = CancellationToken::new();
        self.deliver();
    }

    /// Submits a message that the sink counts under the recipient's local part.
    pub(super) async fn submit(&mut self, to: &str) -> ItemId {
        let (local, destination) = to.split_once('@').expect("an address");
        let body = format!("X-Test-Id: {local}\r\nFrom: <a@our.test>\r\n\r\n.dot\r\nend\r\n");
        self.submit_bytes(to, destination, body.as_bytes()).await
    }

    pub(super) async fn submit_bytes(&mut self, to: &str, destination: &str, body: &[u8]) -> ItemId {
        self.count += 1;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.count.to_be_bytes());
        let (now, body, seed) = (clock::wall(), body.to_vec(), self.spooler.reader().seed());
        let id = ItemId::new(now, key[..10].try_into().expect("ten"));
        let meta = OutboundMeta { mail_from: "a@our.test".to_owned(), ..OutboundMeta::default() };
        let new = NewSubmission {
            message: NewMessage {
                body: id,
                body_bytes: body.len() as u64,
                sha256: Sha256::digest(&body).into(),
                head: HEAD.as_bytes().to_vec(),
                meta: meta.encode(),
                fingerprint: None,
                targets: Vec::new(),
            },
            mailbox: spool::ids::LaneId(0),
            tag: to.as_bytes().to_vec(),
            key,
            key_until: WallMs(u64::MAX / 2),
            twin: None,
            destination: destination.to_owned(),
            due: now,
            settled: None,
        };
        let submitted = self.spooler.call(move |spool| {
            let mut rest = &body[..];
            while !rest.is_empty() {
                let mut builder = ChunkBuilder::new(id, seed);
                rest = &rest[builder.take(rest)..];
                spool.stage_chunk(id, builder.finish()).expect("staged");
            }
            let mailbox = spool.mailbox(MAILBOX).expect("spool").expect("registered").lane;
            spool.submit(NewSubmission { mailbox, ..new }, now)
        });
        assert_eq!(submitted.await.expect("commit"), Ok(Submitted::New(id)));
        id
    }

    pub(super) async fn submission(&self, id: ItemId) -> Submission {
        // After the commit: what it says is stable, and its story can be read.
        let found = self.spooler.call(move |spool| spool.submission(id)).await;
        found.expect("spool").expect("readable").expect("known")
    }

    /// State and note of every step.
    pub(super) async fn story(&self, id: ItemId) -> Vec<(String, Note)> {
        let steps = self.spooler.query(move |spool| spool.timeline(id)).await.expect("spool").expect("read");
        steps.into_iter().map(|step| (step.state, Note::from_reason(&step.reason))).collect()
    }

    /// Waits until it is in one of these states.
    pub(super) async fn wait_for(&self, id: ItemId, states: &[State]) -> State {
        let until = clock::monotonic() + PATIENCE;
        loop {
            let state = self.submission(id).await.info.state;
            if states.contains(&state) {
                return state;
            }
            assert!(clock::monotonic() < until, "{id} is still {state:?}: {:?}", self.story(id).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for its result.
    pub(super) async fn result(&self, id: ItemId) -> (State, Note) {
        let state = self.wait_for(id, &[State::Sent, State::Failed, State::Indeterminate]).await;
        let (_, note) = self.story(id).await.pop().expect("steps");
        (state, note)
    }
}

fn open(dir: &std::path::Path, min_free_bytes: u64) -> (Engine, Spooler) {
    let options = Options { segment_bytes: 4 * 1024 * 1024, min_free_bytes, ..Options::default() };
    open_on(Arc::new(RealDisk::new(dir.to_owned())), dir, options)
}

fn open_on(disk: Arc<dyn Disk>, dir: &std::path::Path, options: Options) -> (Engine, Spooler) {
    let index = Arc::new(SledIndex::open(&dir.join("index")).expect("index"));
    let (spool, _) = Spool::open(disk, index, options, clock::wall()).expect("spool");
    let reader = spool.reader();
    let engine = Engine::start(spool, Arc::new(clock::wall), Unobserved).expect("engine");
    let spooler = Spooler::new(engine.handle(), reader, clock::wall);
    (engine, spooler)
}
