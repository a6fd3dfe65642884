//! Driver: gateways come in at `/ws`, prove who they are, and get a session.
//!
//! 1. [`Tunnel::upgrade`] answers the HTTP request in the protocol's exact words (section 2.2).
//! 2. A task runs the handshake, asks the [`Service`] for admission, enters the registry, opens the lane.
//! 3. The same task then moves values between the socket, the [`Session`] machine and the [`Lane`].
//!
//! The service decides who is admitted and what a lane's offers are; nothing here knows mail.
//!
//! Promises: one small task per connection; a peer that is slow or silent costs its own bounded buffers and
//! nobody else's time; each session leaves the registry however it ends.
//!
//! Failure policy: trouble of one connection ends that connection, after its acks have reached the lane.

mod seat;

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use ipnet::IpNet;
use spool::ids::WallMs;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use super::Dialect;
use super::control::{AuthError, ToGateway};
pub use super::farewell::Farewell;
use super::handshake::{Door, Handshake, Proof, Step};
use super::pump::Pump;
use super::rates::Rates;
pub use super::service::{
    Admitted, Answered, Bell, Lane, LaneLost, Opening, Service, ServiceError, StillHere,
};
use super::session::{self, Eviction, Outgoing, Session};
use super::signed::RelayKey;
use super::tally::Departed;
pub use super::tally::SessionView;
use super::upgrade;
use super::wake::Wake;
use super::wire::{Happened, Wire};
use crate::clock;
use crate::current::Current;
use crate::identity::challenge::{AuthCode, Fresh};
use crate::identity::key::KeyText;
use crate::identity::registry::Registry;
use crate::observe::{AuthOutcome, Limited, Metrics, Throttle};
use crate::proxy::client_of;
use seat::{Reach, Stranger};

/// Time for a closing handshake, and for what is still to be written before it.
pub(super) const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// Limits of logins per client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSettings {
    /// Logins per minute, of one address; one that fails after its first message counts twice.
    pub per_minute: u32,
    /// How long an address is refused after it used them up.
    pub deny_window: Duration,
}

/// What the tunnel needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The relay's name, as tunnel-2 challenges carry it.
    pub host: String,
    /// Lifetime of a challenge.
    pub challenge_ttl: Duration,
    /// `None`: no limit.
    pub rates: Option<RateSettings>,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// How sessions behave.
    pub session: session::Settings,
    /// What gateways are told to wait when the relay stops.
    pub reconnect_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            challenge_ttl: Duration::from_secs(60),
            rates: None,
            trusted_proxies: Vec::new(),
            session: session::Settings::default(),
            reconnect_after: Duration::from_secs(2),
        }
    }
}

/// The tunnel of one relay.
pub struct Tunnel {
    settings: Current<Settings>,
    farewell: Current<Farewell>,
    service: Arc<dyn Service>,
    door: Mutex<Door>,
    registry: Mutex<Registry<Reach>>,
    departed: Mutex<Departed<KeyText>>,
    pub(super) metrics: Arc<Metrics>,
    /// Brake of log lines about refusals.
    lines: Throttle,
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("settings", &self.settings.get()).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// A tunnel in front of `service`. When `stop` is cancelled all sessions drain; their tasks run on `tasks`.
    #[must_use]
    pub fn new(
        settings: Settings,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let rates = settings.rates.map(|rates| Rates::new(rates.per_minute, rates.deny_window));
        let door = Door::new(settings.host.clone(), settings.challenge_ttl, rates);
        let farewell =
            Farewell { reconnect_after: settings.reconnect_after, settle: session::DRAIN_TIME_MAX };
        Arc::new(Self {
            settings: Current::new(settings),
            farewell: Current::new(farewell),
            service,
            door: Mutex::new(door),
            registry: Mutex::new(Registry::default()),
            departed: Mutex::new(Departed::default()),
            metrics,
            lines: Throttle::default(),
            stop,
            tasks,
        })
    }

    /// Routes with `/ws` in them, for a listener that puts `ConnectInfo<SocketAddr>` into its requests.
    pub fn router(self: &Arc<Self>) -> Router {
        let handler =
            |State(tunnel): State<Arc<Self>>, request: Request| async move { tunnel.upgrade(request) };
        Router::new()
            .route("/ws", any(handler))
            .fallback(async || upgrade::no_such_target())
            .with_state(Arc::clone(self))
    }

    /// Other settings: login limits from now on, everything else for sessions that begin from now on. The relay's name and
    /// its proxies stay.
    pub fn replace(&self, settings: Settings) {
        let before = self.settings.get();
        let mut door = lock(&self.door);
        door.set_challenge_ttl(settings.challenge_ttl);
        if before.rates != settings.rates {
            door.set_rates(settings.rates.map(|rates| Rates::new(rates.per_minute, rates.deny_window)));
        }
        drop(door);
        self.settings.set(settings);
    }

    /// How sessions are sent away when the stop comes.
    pub fn set_farewell(&self, farewell: Farewell) {
        self.farewell.set(farewell);
    }

    /// The same, for the sessions.
    pub(super) fn farewell(&self) -> Farewell {
        *self.farewell.get()
    }

    /// Gateways connected now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        lock(&self.registry).len()
    }

    /// Whether `key` has an inbound session now.
    #[must_use]
    pub fn is_connected(&self, key: &KeyText) -> bool {
        lock(&self.registry).inbound(key).is_some()
    }

    /// Ends every session of a key that was revoked.
    pub fn revoke(&self, key: &KeyText) {
        for reach in lock(&self.registry).of_key(key) {
            reach.wake.evict(Eviction::Revoked);
        }
    }

    /// Tells every session with which keys the relay signs now: a session may live longer than a key.
    pub fn announce(&self) {
        lock(&self.registry).all().for_each(|reach| reach.wake.ring_keys());
    }

    /// Sessions of the keys behind `after`, by key, at most `limit` unless one key has more; and the key to go on behind.
    #[must_use]
    pub fn page(&self, after: Option<&KeyText>, limit: usize) -> (Vec<SessionView>, Option<KeyText>) {
        let now = clock::monotonic();
        let registry = lock(&self.registry);
        let (page, next) = registry.page(after, limit);
        (page.into_iter().map(|(key, reach)| reach.tally.view(key, now)).collect(), next)
    }

    /// When the gateway of `key` last said something since the start, as far as it is remembered.
    #[must_use]
    pub fn last_heard(&self, key: &KeyText) -> Option<WallMs> {
        let here = lock(&self.registry).of_key(key).map(|reach| reach.tally.last_heard()).max();
        here.or_else(|| lock(&self.departed).last_heard(key))
    }

    /// The keys with which the relay signs.
    pub(super) fn relay_keys(&self) -> Vec<RelayKey> {
        self.service.relay_keys()
    }

    /// Answers a request for `/ws`: 101 and a task that goes on, or the refusal in the protocol's words.
    pub fn upgrade(self: &Arc<Self>, mut request: Request) -> Response {
        let key = match upgrade::upgrade_key(&request) {
            Ok(key) => key,
            Err(refusal) => return refusal,
        };
        let Some(on_upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return upgrade::not_upgradable();
        };
        let client = self.client(&request);
        let Some(stranger) = Stranger::enter(self, client) else {
            self.metrics.abuse.limited(Limited::TunnelStrangers);
            return upgrade::busy();
        };
        let protocol = upgrade::first_protocol(request.headers());
        // The listener counts connections by what it put in here.
        let place = std::mem::take(request.extensions_mut());
        let tunnel = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Ok(upgraded) = on_upgrade.await {
                tunnel.connection(Wire::new(upgraded).await, client, stranger).await;
            }
            drop(place);
        });
        upgrade::switching(&key, protocol)
    }

    fn client(&self, request: &Request) -> IpAddr {
        client_of(request, &self.settings.get().trusted_proxies)
    }

    async fn connection(self: Arc<Self>, mut wire: Wire, client: IpAddr, stranger: Stranger) {
        let id = Uuid::new_v4();
        let Some(proof) = self.login(&mut wire, client, id).await else {
            return farewell(&mut wire).await;
        };
        let key = proof.key;
        let admitted = match self.service.admit(key, proof.invite.clone()).await {
            Ok(admitted) => match self.enter(&mut wire, &proof, id, client).await {
                Ok(Some((seat, replaced))) => Ok((seat, replaced, admitted)),
                // Nobody is there any more who could be turned away.
                Ok(None) => return farewell(&mut wire).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let (seat, replaced, admitted) = match admitted {
            Ok(entered) => entered,
            Err(error) => {
                self.turn_away(&mut wire, id, client, &proof, error);
                return farewell(&mut wire).await;
            }
        };
        let welcome = if proof.features.is_empty() {
            session::Welcome { replaced, ..session::Welcome::default() }
        } else {
            let relay_keys = self.service.relay_keys();
            session::Welcome { replaced, relay_keys, aliases: admitted.aliases, domains: admitted.domains }
        };
        let now = clock::monotonic();
        let session = Box::new(Session::new(&proof, welcome, self.settings.get().session, now));
        let lane = match self.service.open(opening(&proof, id, &session, &seat.reach.wake)).await {
            Ok(lane) => lane,
            Err(_) if seat.reach.wake.is_evicted() => {
                wire.close(4400, "replaced_by_new_session");
                return farewell(&mut wire).await;
            }
            Err(error) => {
                self.turn_away(&mut wire, id, client, &proof, error);
                return farewell(&mut wire).await;
            }
        };
        drop(stranger);
        self.metrics.auth(AuthOutcome::Accepted);
        tracing::info!(
            event = "relay.ws.auth.accepted", session.id = %id, lane = %key,
            session_role = proof.role.word(), client.ip = %client, tunnel = tunnel_number(session.dialect()),
            replaced = replaced.map(|id| id.to_string()), "gateway logged in"
        );
        let span = tracing::debug_span!(
            "tunnel.session", session.id = %id, lane = %key, session_role = proof.role.word(),
            tunnel = tunnel_number(session.dialect()), client.ip = %client,
        );
        Pump {
            tunnel: &self,
            id,
            key,
            wire,
            session,
            lane,
            wake: Arc::clone(&seat.reach.wake),
            tally: Arc::clone(&seat.reach.tally),
        }
        .run()
        .instrument(span)
        .await;
        drop(seat);
    }

    /// The handshake; `None` when it failed, with the refusal queued.
    async fn login(&self, wire: &mut Wire, client: IpAddr, id: Uuid) -> Option<Proof> {
        let mut handshake = Handshake::new(id, client, clock::monotonic());
        loop {
            let heard = tokio::select! {
                happened = poll_fn(|cx| wire.poll(cx, true)) => happened,
                () = tokio::time::sleep_until(handshake.deadline().into()) => {
                    self.metrics.abuse.limited(Limited::TunnelTimeout);
                    wire.close(4408, "handshake_timeout");
                    return None;
                }
                () = self.stop.cancelled() => {
                    wire.close(1012, "relay_restarts");
                    return None;
                }
            };
            let message = match heard {
                Happened::Message(Message::Text(text)) => Bytes::from(text),
                Happened::Message(Message::Binary(bytes)) => bytes,
                Happened::Message(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))
                | Happened::Flushed => {
                    continue;
                }
                Happened::Message(Message::Close(_)) | Happened::Ended => return None,
                Happened::Broken(code) => {
                    wire.close(code, "");
                    return None;
                }
            };
            let fresh = Fresh { id: Uuid::new_v4(), nonce: Uuid::new_v4() };
            let step =
                handshake.hear(&message, fresh, &mut lock(&self.door), clock::monotonic(), clock::wall());
            let named = Named::of(&handshake);
            // What was refused can come again at once; both its lines are braked.
            if !matches!(step, Step::Refuse(_)) || self.lines.allows(&self.metrics.abuse, clock::monotonic())
            {
                tracing::info!(
                    event = "relay.ws.auth.attempted", session.id = %id, client.ip = %client,
                    lane = named.lane, session_role = named.role, "login message"
                );
            }
            match step {
                Step::Say(challenge) => {
                    tracing::info!(
                        event = "relay.ws.auth.challenged", session.id = %id, client.ip = %client,
                        lane = named.lane, session_role = named.role, "challenge issued"
                    );
                    wire.send(Outgoing::Text(challenge.to_text()));
                }
                Step::Proved(proof) => return Some(proof),
                Step::Refuse(code) => {
                    if code == AuthCode::RateLimited {
                        self.metrics.abuse.limited(Limited::TunnelLogins);
                    }
                    self.reject(wire, id, client, &named, code);
                    return None;
                }
            }
        }
    }

    fn turn_away(&self, wire: &mut Wire, id: Uuid, client: IpAddr, proof: &Proof, error: ServiceError) {
        match error {
            ServiceError::Refused(code) => {
                // The proof was good, and the login has failed all the same: unless the house is full.
                if code != AuthCode::RateLimited {
                    lock(&self.door).failed(client, clock::monotonic());
                }
                let named = Named { lane: Some(proof.key.to_string()), role: Some(proof.role.word()) };
                self.reject(wire, id, client, &named, code);
            }
            ServiceError::Unavailable => {
                tracing::warn!(event = "relay.ws.unavailable", session.id = %id, lane = %proof.key, "no lane for a login now");
                wire.close(1013, "try_again_later");
            }
        }
    }

    fn reject(&self, wire: &mut Wire, id: Uuid, client: IpAddr, named: &Named, code: AuthCode) {
        self.metrics.auth(match code {
            AuthCode::RateLimited => AuthOutcome::RateLimited,
            AuthCode::InvalidMessage
            | AuthCode::ChallengeNotFound
            | AuthCode::ChallengeMismatch
            | AuthCode::ChallengeAlreadyUsed
            | AuthCode::ChallengeExpired
            | AuthCode::InvalidSignatureEncoding
            | AuthCode::InvalidSignature
            | AuthCode::InvalidTunnelFrame
            | AuthCode::NotAdmitted
            | AuthCode::InvitationRefused
            | AuthCode::Revoked => AuthOutcome::Rejected,
        });
        if self.lines.allows(&self.metrics.abuse, clock::monotonic()) {
            tracing::info!(
                event = "relay.ws.auth.rejected", session.id = %id, client.ip = %client,
                lane = named.lane, session_role = named.role, code = code.word(), "login refused"
            );
        }
        let error = ToGateway::AuthError(AuthError { code: code.word().to_owned() });
        wire.send(Outgoing::Text(error.to_text()));
        wire.close(code.close_code(), code.word());
    }
}

/// What the service is told of a session that wants its lane.
fn opening(proof: &Proof, id: Uuid, session: &Session, wake: &Arc<Wake>) -> Opening {
    let [items, results, here] = [(); 3].map(|()| Arc::clone(wake));
    let bell: Bell = Arc::new(move || items.ring());
    let results_bell: Bell = Arc::new(move || results.ring_results());
    let still_here: StillHere = Arc::new(move || !here.is_evicted());
    Opening {
        id,
        key: proof.key,
        dialect: session.dialect(),
        role: proof.role,
        results: session.acks_results(),
        batches: session.takes_batches(),
        bell,
        results_bell,
        still_here,
    }
}

/// Who a peer says it is, for logs.
struct Named {
    lane: Option<String>,
    role: Option<&'static str>,
}

impl Named {
    fn of(handshake: &Handshake) -> Self {
        let named = handshake.named();
        Self { lane: named.map(|(key, _)| key.to_string()), role: named.map(|(_, role)| role.word()) }
    }
}

/// Both maps stay whole when a holder of their lock panics, so they are used on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of a tunnel protocol, for metrics and logs.
pub(super) fn tunnel_number(dialect: Dialect) -> u8 {
    match dialect {
        Dialect::One => 1,
        Dialect::Two => 2,
    }
}

/// Writes what is queued and waits for the peer's close, both for a short time only.
pub(super) async fn farewell(wire: &mut Wire) {
    let goodbye = async {
        loop {
            match poll_fn(|cx| wire.poll(cx, true)).await {
                Happened::Ended => return,
                Happened::Message(_) | Happened::Flushed | Happened::Broken(_) => {}
            }
        }
    };
    // Whoever has not closed by then is cut off.
    let _ = tokio::time::timeout(CLOSE_TIME_MAX, goodbye).await;
}

/// When a socket that is closing is given up.
pub(super) fn close_deadline(now: Instant) -> Instant {
    now + CLOSE_TIME_MAX
}
