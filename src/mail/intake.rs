//! Inbound mail: listeners, one task per connection, the session machine in the middle, the spool behind.
//!
//! Promises: the accept loop outlives every failed `accept` (out of descriptors included); a connection
//! costs one read buffer and at most one chunk of a body; a peer that writes faster than the disk is slowed
//! down by TCP; `stop` ends sessions between commands, lets messages under way finish for a while, then
//! drops them unanswered. A handshake is bounded in time, and shorter while many sessions are open.
//!
//! Does not: parse (the machine does), decide who is known (the spool does), or retry a commit.
//!
//! Policy: what the spool cannot say in time is a temporary refusal. A message whose `250` may not have
//! reached the sender is remembered for [`TWIN_MS`]; its repeat is answered with the first id and not stored
//! (RFC 1047).

mod guard;
pub(in crate::mail) mod ledger;
mod passage;
pub mod screen;
mod session;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::clock;
use crate::current::Current;
use crate::mail::limits::{self, Limits, Refused};
use crate::mail::smtp::receiver::{self, Load};
use crate::mail::smtp::reply::Reply;
use crate::mail::verdict::evaluate::Verifier;
use crate::observe::{Limited, ListenerWatch, Metrics, RefusalStage, Throttle};
use crate::proxy::{Arrival, Gate};
use crate::spooler::Spooler;
use crate::tls::handshake::Handshakes;
use guard::Tarpit;
use screen::Screen;

/// Lane of postmaster mail that nobody else gets.
pub const OPERATOR_LANE: &str = "operator";
/// How long an unheard `250` is remembered, milliseconds: two days, longer than most retry schedules.
pub const TWIN_MS: u64 = 48 * 3600 * 1000;
/// Pause after a failed `accept`; the cause (descriptors, memory) needs time to go.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Refused connections that are told so at a time; more are closed without a word.
const REFUSALS_MAX: usize = 64;
/// Longest time one refusal may take.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long an open transaction may go without its message after `stop`, unless somebody says otherwise.
const COMMANDS_MAX: Duration = Duration::from_secs(3);
/// How often the limits forget who has been quiet.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// How inbound mail is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names, limits and waits of sessions.
    pub session: receiver::Settings,
    /// Mailbox that gets postmaster mail: an address or key text; empty or unknown: the operator lane.
    pub postmaster: String,
    /// Networks that are greeted at once; the others wait for [`receiver::Settings::greet_delay`].
    pub greeted_at_once: Vec<IpNet>,
    /// Networks whose stray line ends are repaired instead of refused.
    pub normalize_networks: Vec<IpNet>,
    /// Recognise repeats of messages whose `250` was lost.
    pub suppress_twins: bool,
    /// Longest wait for the spool at the end of a message (and for anything else it is asked).
    pub commit_timeout: Duration,
    /// How sessions end after `stop`.
    pub leave: Leave,
    /// Offers STARTTLS while there is a certificate; `None`: never.
    pub tls: Option<Handshakes>,
    /// Every connection comes through a proxy, and begins with a PROXY header.
    pub gate: Option<Arc<Gate>>,
}

/// How sessions end when intake stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// How long messages under way may take; then what is left is dropped unanswered.
    pub whole: Duration,
    /// How long an open transaction may go without its message.
    pub commands: Duration,
    /// Whether a session that has not sent a message yet may begin its first within that time.
    pub newcomers: bool,
}

impl Settings {
    /// Defaults around the session settings.
    #[must_use]
    pub fn new(session: receiver::Settings) -> Self {
        Self {
            session,
            postmaster: String::new(),
            greeted_at_once: Vec::new(),
            normalize_networks: Vec::new(),
            suppress_twins: true,
            commit_timeout: Duration::from_secs(30),
            leave: Leave { whole: Duration::from_secs(30), commands: COMMANDS_MAX, newcomers: false },
            tls: None,
            gate: None,
        }
    }
}

/// What intake works with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The spool.
    pub spooler: Spooler,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// Limits of all listeners together.
    pub limits: Arc<Limits>,
    /// What the DNS is asked about clients and senders; `None`: nothing.
    pub screen: Option<Arc<Screen>>,
    /// Checks senders; `None`: nobody does.
    pub verifier: Option<Arc<Verifier>>,
}

/// How a session is held from its beginning to its end, whatever is changed meanwhile.
#[derive(Debug)]
struct Manner {
    settings: Settings,
    session: Arc<receiver::Settings>,
    /// The same without a pause before the greeting.
    at_once: Arc<receiver::Settings>,
    screen: Option<Arc<Screen>>,
    verifier: Option<Arc<Verifier>>,
}

impl Manner {
    fn new(settings: Settings, screen: Option<Arc<Screen>>, verifier: Option<Arc<Verifier>>) -> Self {
        let at_once = receiver::Settings { greet_delay: Duration::ZERO, ..settings.session.clone() };
        let session = Arc::new(settings.session.clone());
        Self { session, at_once: Arc::new(at_once), settings, screen, verifier }
    }

    /// What a session with `client` keeps to.
    fn with(&self, client: IpAddr) -> Arc<receiver::Settings> {
        let at_once = self.settings.greeted_at_once.iter().any(|network| network.contains(&client));
        Arc::clone(if at_once { &self.at_once } else { &self.session })
    }

    fn normalizes(&self, client: IpAddr) -> bool {
        self.settings.normalize_networks.iter().any(|network| network.contains(&client))
    }
}

/// What every session shares.
#[derive(Debug)]
struct Shared {
    manner: Current<Manner>,
    leave: Current<Leave>,
    spooler: Spooler,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    /// Between commands, go.
    stop: CancellationToken,
    /// At once, go.
    kill: CancellationToken,
    /// How full the house is.
    load: watch::Sender<Load>,
    tarpit: Arc<Tarpit>,
    /// Brake of log lines about refusals.
    lines: Throttle,
    sessions: AtomicU64,
    refusals: Arc<Semaphore>,
}

/// Inbound mail of one relay, before and while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake(Arc<Shared>);

impl Intake {
    /// Serves nobody yet. Sessions end when `stop` is cancelled.
    #[must_use]
    pub fn new(settings: Settings, deps: Deps, stop: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            leave: Current::new(settings.leave),
            manner: Current::new(Manner::new(settings, deps.screen, deps.verifier)),
            tarpit: Arc::default(),
            lines: Throttle::default(),
            spooler: deps.spooler,
            metrics: deps.metrics,
            limits: deps.limits,
            stop,
            kill: CancellationToken::new(),
            load: watch::Sender::new(Load::default()),
            sessions: AtomicU64::new(0),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        }))
    }

    /// Other settings and limits: for sessions that begin from now on. TLS and gate stay as they are.
    pub fn replace(
        &self,
        settings: Settings,
        limits: limits::Settings,
        screen: Option<Arc<Screen>>,
        verifier: Option<Arc<Verifier>>,
    ) {
        let before = self.0.manner.get();
        let (tls, gate) = (before.settings.tls.clone(), before.settings.gate.clone());
        self.0.limits.replace(limits);
        self.0.manner.set(Manner::new(Settings { tls, gate, ..settings }, screen, verifier));
    }

    /// How sessions end when the stop comes.
    pub fn set_leave(&self, leave: Leave) {
        self.0.leave.set(leave);
    }

    /// Serves `listeners` until the stop, then drains. Returns when the last session has ended.
    pub async fn run(self, listeners: Vec<TcpListener>) {
        let shared = self.0;
        ledger::ensure_operator_lane(&shared.spooler).await;
        let tracker = TaskTracker::new();
        for listener in listeners {
            let watch = shared.metrics.listeners.watch("smtp");
            tracker.spawn(accept_loop(listener, watch, shared.clone(), tracker.clone()));
        }
        tracker.spawn(tidy_loop(shared.clone()));
        shared.stop.cancelled().await;
        tracker.close();
        if tokio::time::timeout(shared.leave.get().whole, tracker.wait()).await.is_err() {
            tracing::warn!(
                event = "relay.ingress.drain_timeout",
                "smtp sessions did not finish in time, dropping them"
            );
            shared.kill.cancel();
            tracker.wait().await;
        }
    }
}

/// Serves `listeners` until `stop`, then drains. Returns when the last session has ended.
pub async fn run(listeners: Vec<TcpListener>, settings: Settings, deps: Deps, stop: CancellationToken) {
    Intake::new(settings, deps, stop).run(listeners).await;
}

async fn tidy_loop(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(TIDY_EVERY) => {
                shared.limits.tidy(clock::monotonic());
                shared.tell_denied();
            }
        }
    }
}

async fn accept_loop(listener: TcpListener, watch: ListenerWatch, shared: Arc<Shared>, tracker: TaskTracker) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                watch.accepted();
                admit(stream, peer, &shared, &tracker);
            }
            Err(error) => {
                watch.failed(clock::monotonic());
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(event = "relay.ingress.accept_failed", %error, "cannot accept connections, trying on");
                }
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Gives a new connection a task.
fn admit(mut stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, tracker: &TaskTracker) {
    shared.metrics.smtp_connections.inc();
    let Some(gate) = shared.manner.get().settings.gate.clone() else {
        return welcome(stream, peer.ip().to_canonical(), shared, tracker);
    };
    let (shared, tasks) = (shared.clone(), tracker.clone());
    tracker.spawn(async move {
        let passed = tokio::select! {
            () = shared.stop.cancelled() => return,
            passed = gate.pass(&mut stream, peer) => passed,
        };
        match passed {
            Ok(Arrival::Client(client)) => welcome(stream, client.ip(), &shared, &tasks),
            Ok(Arrival::Check(proxy)) => {
                // A proxy that looks every second is no flood, and losing it is losing all clients.
                let Ok(permit) = gate.checks.clone().try_acquire_owned() else { return };
                converse(stream, proxy.ip(), Place::of_check(&shared), &shared).await;
                drop(permit);
            }
            Err(_) => {} // counted and logged
        }
    });
}

/// Lets a client in, or sends it away.
fn welcome(stream: TcpStream, client: IpAddr, shared: &Arc<Shared>, tracker: &TaskTracker) {
    match shared.limits.enter(client, clock::monotonic()) {
        Ok(()) => {
            let place = Place::taken(client, shared.clone());
            let shared = shared.clone();
            tracker.spawn(async move { converse(stream, client, place, &shared).await });
        }
        Err(refused) => {
            let metrics = &shared.metrics;
            metrics.refused(421, RefusalStage::Connect);
            metrics.abuse.limited(match refused {
                Refused::Total => Limited::ConnectionsTotal,
                Refused::Place => Limited::ConnectionsPlace,
                Refused::Rate { .. } => Limited::ConnectionRate,
                Refused::Denied => Limited::Denied,
            });
            if refused == (Refused::Rate { opened: true }) {
                shared.note_denial(client);
            }
            turn_away(stream, client, refused, shared, tracker);
        }
    }
}

async fn converse(stream: TcpStream, client: IpAddr, place: Place, shared: &Shared) {
    let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
    let span = tracing::debug_span!(
        "smtp.session",
        session.id = format_args!("smtp-{number}"),
        client.ip = %client,
        item.id = tracing::field::Empty,
        size_bytes = tracing::field::Empty,
        tls = tracing::field::Empty,
    );
    session::serve(stream, client, number, shared).instrument(span).await;
    drop(place);
}

/// 421 in place of the greeting, while there are hands for it.
fn turn_away(
    mut stream: TcpStream,
    client: IpAddr,
    refused: Refused,
    shared: &Arc<Shared>,
    tracker: &TaskTracker,
) {
    if shared.lines.allows(&shared.metrics.abuse, clock::monotonic()) {
        tracing::info!(event = "relay.ingress.turned_away", client.ip = %client, reason = %refused, "turned away: {refused}");
    }
    let Ok(permit) = shared.refusals.clone().try_acquire_owned() else { return };
    let mut bytes = Vec::new();
    Reply::too_many_connections(&shared.manner.get().session.hostname).encode(&mut bytes);
    tracker.spawn(async move {
        let told = async {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(REFUSAL_PATIENCE, told).await;
        drop(permit);
    });
}

/// A connection's place in the limits and gauges, given back when dropped, panics included.
#[derive(Debug)]
struct Place {
    /// `None`: a health check, which the limits do not know.
    client: Option<IpAddr>,
    shared: Arc<Shared>,
}

impl Place {
    fn taken(client: IpAddr, shared: Arc<Shared>) -> Self {
        shared.metrics.smtp_connections_open.inc();
        shared.tell_load();
        Self { client: Some(client), shared }
    }

    fn of_check(shared: &Arc<Shared>) -> Self {
        shared.metrics.smtp_connections_open.inc();
        Self { client: None, shared: shared.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.shared.limits.leave(client);
        }
        self.shared.metrics.smtp_connections_open.dec();
        self.shared.tell_load();
    }
}

impl Shared {
    fn tell_load(&self) {
        let (open, max) = self.limits.fill();
        let load = Load::of(open, max);
        self.load.send_if_modified(|known| std::mem::replace(known, load) != load);
    }

    fn tell_denied(&self) {
        let denied = i64::try_from(self.limits.denied()).unwrap_or(i64::MAX);
        self.metrics.abuse.denied_places.set(denied);
    }

    /// Refuses a client for its deny window, from now on.
    fn deny(&self, client: IpAddr, now: Instant) {
        if self.limits.deny(client, now) {
            self.note_denial(client);
        }
    }

    /// A deny window has opened.
    fn note_denial(&self, client: IpAddr) {
        self.tell_denied();
        tracing::info!(event = "relay.abuse.denied", client.ip = %client, "denied for a while");
    }
}
