//! A relay's SMTP side in this process: real TCP on a free port, real spool in a temporary directory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use spool::disk::real::RealDisk;
use spool::engine::{Engine, Unobserved};
use spool::index::sled::SledIndex;
use spool::types::{Filter, ItemInfo, MailboxChange};
use spool::{Options, Spool};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waystation::clock;
use waystation::mail::intake::{self, Deps};
use waystation::mail::limits::{self, Limits};
use waystation::mail::smtp::receiver;
use waystation::mail::verdict::evaluate::{self, Verifier};
use waystation::observe::Metrics;
use waystation::spooler::Spooler;

/// Key text of the mailbox `home@our.example` (and of no real key).
pub(crate) const HOME: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Key text of the mailbox `work@our.example`.
pub(crate) const WORK: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
/// Key text of the mailbox `full@our.example`, whose quota is used up.
pub(crate) const FULL: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccc";
/// Key text of the mailbox `gone@our.example`, which is revoked.
pub(crate) const GONE: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// What a scenario may change before the start.
pub(crate) struct Plan {
    /// Sessions, twins, waits.
    pub(crate) intake: intake::Settings,
    /// Rates and caps; off unless a scenario is about them.
    pub(crate) limits: limits::Settings,
    /// The spool.
    pub(crate) spool: Options,
    /// Checks of senders, and whom they ask; off unless a scenario is about them, because they ask the DNS.
    pub(crate) verify: Option<(evaluate::Settings, TokioResolver)>,
}

/// A running intake.
#[derive(Debug)]
pub(crate) struct MailRelay {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its spool.
    pub(crate) spooler: Spooler,
    /// Its numbers.
    pub(crate) metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    engine: Engine,
    _dir: tempfile::TempDir,
}

impl MailRelay {
    /// Starts with defaults that suit tests.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts after `change` had its say.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Plan)) -> Self {
        let session = receiver::Settings::new(
            "mx.our.example",
            &["our.example".to_owned(), "bücher.example".to_owned()],
        );
        let mut plan = Plan {
            intake: intake::Settings::new(session),
            limits: limits::Settings { enabled: false, ..limits::Settings::default() },
            spool: Options { segment_bytes: 4 * 1024 * 1024, min_free_bytes: 0, ..Options::default() },
            verify: None,
        };
        change(&mut plan);
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = Arc::new(RealDisk::new(dir.path().to_owned()));
        let index = Arc::new(SledIndex::open(&dir.path().join("index")).expect("index"));
        let (spool, _) = Spool::open(disk, index, plan.spool, clock::wall()).expect("spool");
        let reader = spool.reader();
        let engine = Engine::start(spool, Arc::new(clock::wall), Unobserved).expect("engine");
        let spooler = Spooler::new(engine.handle(), reader, clock::wall);
        spooler.call(mailboxes).await.expect("commit");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address");
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let deps = Deps {
            spooler: spooler.clone(),
            metrics: metrics.clone(),
            limits: Arc::new(Limits::new(plan.limits)),
            screen: None,
            verifier: plan
                .verify
                .map(|(settings, resolver)| Verifier::new(settings, &resolver, metrics.clone())),
        };
        let task = tokio::spawn(intake::run(vec![listener], plan.intake, deps, stop.clone()));
        Self { address, spooler, metrics, stop, task, engine, _dir: dir }
    }

    /// Everything in the spool, oldest first per lane.
    pub(crate) async fn items(&self) -> Vec<ItemInfo> {
        let listed = self.spooler.query(|spool| spool.list(&Filter::default(), None, 1000)).await;
        listed.expect("spool").expect("list").0
    }

    /// The bytes of an item's body, without the head.
    pub(crate) async fn body(&self, item: &ItemInfo) -> Vec<u8> {
        let mut body = Vec::new();
        for n in 0..item.chunks.len() {
            body.extend_from_slice(&self.spooler.read_chunk(item, n).await.expect("chunk"));
        }
        body
    }

    /// Waits until the spool holds `n` items; fails after ten seconds.
    pub(crate) async fn wait_for_items(&self, n: usize) -> Vec<ItemInfo> {
        for _ in 0..2000 {
            let items = self.items().await;
            if items.len() >= n {
                return items;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the spool never held {n} items");
    }

    /// Asks it to stop; the sessions under way go on for a while.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops it and waits for the end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("intake ends");
        drop(self.spooler);
        tokio::task::spawn_blocking(|| self.engine.stop()).await.expect("thread").expect("spool closes");
    }
}

fn mailboxes(spool: &mut Spool) {
    let now = clock::wall();
    for (key, alias) in [(HOME, "home"), (WORK, "work"), (FULL, "full"), (GONE, "gone")] {
        spool.register(key, now).expect("registered");
        let alias = MailboxChange::AddAlias(format!("{alias}@our.example"));
        spool.change_mailbox(key, alias).expect("alias");
    }
    let umlaut = MailboxChange::AddAlias("home@xn--bcher-kva.example".to_owned());
    spool.change_mailbox(HOME, umlaut).expect("alias");
    spool.change_mailbox(FULL, MailboxChange::Quota { items: Some(0), bytes: None }).expect("quota");
    spool.change_mailbox(GONE, MailboxChange::Revoke).expect("revoked");
}
