//! Driver: keeps one connection to the relay, feeds the machine in `client.rs`, performs what it says.
//!
//! One task owns everything: the socket, the session, the drafts of messages being received, the submissions under way
//! (`handover`), and the decisions on messages handed out. Decisions outlive sessions: one that comes while there is no connection is remembered all
//! the same, and answers the item when the relay offers it again.
//!
//! Order that carries the promise: decision `stored` → memory synced → ack. An item in hand that is offered again (the
//! connection was lost while its destination worked) is swallowed, not handed out twice.
//!
//! Policy on failure: whatever goes wrong with the connection, or with receiving files (disk full), ends the session
//! only; the relay keeps what was not acked, and backoff decides when to come back. A nack would be wrong there: it
//! says something about one message, and five park it. Only a memory or an outbox that cannot be written ends the
//! carrier.

mod handover;
mod link;
mod notices;
mod postponed;
pub mod redeem;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Ws;
use tokio_util::sync::CancellationToken;

use crate::gateway::backoff::Backoff;
use crate::gateway::checked::Checked;
use crate::gateway::client::{ClientSession, LanePosition, Offer, Output, Received, Settings, Verdict};
use crate::gateway::destination::Letter;
use crate::gateway::dial::{Endpoint, Trust};
use crate::gateway::handle::{ClientError, Message, Options, StatusBoard};
use crate::gateway::keyring::Keyring;
use crate::gateway::memory::{Memory, MemoryError};
use crate::gateway::receipts::{Entry, Fate, Kept, Seen};
use crate::gateway::staging::{Draft, Staging};
use crate::tunnel::Dialect;
use crate::tunnel::signed::RelayKey;
use crate::{clock, crashpoint};
use handover::Handover;
use link::{Happened, Line, Lost};

/// A decision, and whether it could be remembered.
type Settled = (Decision, Result<(), MemoryError>);
type Settling = std::pin::Pin<Box<dyn Future<Output = Settled> + Send>>;

/// What was decided about one message that had been handed out.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) item_id: String,
    pub(crate) seq: u64,
    pub(crate) path: PathBuf,
    pub(crate) kept_by_relay: bool,
    pub(crate) verified: bool,
    /// It was delivered by an earlier life, which had no time to remember it.
    pub(crate) repeated: bool,
    /// What is to be kept of its receipt.
    pub(crate) entry: Option<Entry>,
    pub(crate) verdict: Verdict,
}

/// Most messages handed out and not decided at one time.
pub(crate) fn in_hand_max(options: &Options) -> usize {
    usize::try_from(options.unacked_items_max.max(1)).unwrap_or(usize::MAX).saturating_mul(2).min(4096)
}

/// Why the carrier ended.
enum End {
    Stopped,
    Failed(ClientError),
}

/// A stream being received.
enum Reception {
    Draft {
        offer: Offer,
        draft: Draft,
        checked: Box<Checked>,
        /// Our field as it was written on top.
        top: Vec<u8>,
    },
    /// Its item is in hand already: the bytes are dropped, the decision to come answers it.
    Swallow { item_id: String },
    /// The destination has it, and its receipt is not kept: it is, before the ack.
    Repeat { offer: Offer, checked: Box<Checked> },
}

/// What a carrier is made of.
pub(crate) struct Kit {
    pub(crate) options: Options,
    pub(crate) endpoint: Endpoint,
    pub(crate) trust: Trust,
    pub(crate) memory: Memory,
    pub(crate) keyring: Keyring,
    pub(crate) staging: Staging,
    pub(crate) board: StatusBoard,
    pub(crate) hand_out: mpsc::Sender<Message>,
}

/// Everything that lives as long as the client.
pub(crate) struct Carrier {
    kit: Kit,
    decide: mpsc::Sender<Decision>,
    decisions: mpsc::Receiver<Decision>,
    settling: FuturesUnordered<Settling>,
    in_hand: HashSet<String>,
    position: LanePosition,
    handover: Handover,
    /// The relay asked to stay away this long.
    drain_wait: Option<Duration>,
}

impl Carrier {
    pub(crate) fn new(kit: Kit) -> Self {
        let (decide, decisions) = mpsc::channel(in_hand_max(&kit.options));
        let position = LanePosition { seq: kit.memory.seq_max(), chain: None };
        let handover = Handover::new(kit.options.outbox.clone(), kit.memory.clone());
        Self {
            kit,
            decide,
            decisions,
            settling: FuturesUnordered::new(),
            in_hand: HashSet::new(),
            position,
            handover,
            drain_wait: None,
        }
    }

    /// Connects, serves and reconnects until stopped or until the memory fails.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), ClientError> {
        let mut backoff =
            Backoff::new(self.kit.options.reconnect_base_delay_ms, self.kit.options.reconnect_max_delay_ms);
        let mut end = loop {
            if let Err(end) = self.life(&stop, &mut backoff).await {
                break end;
            }
        };
        if let End::Stopped = end
            && let Err(failed) = self.drain(None).await
        {
            end = failed;
        }
        match end {
            End::Stopped => Ok(()),
            End::Failed(error) => {
                tracing::error!(event = "gateway.failed", error = %error, "cannot go on: {error}");
                self.kit.board.update(|status| status.note(error.to_string(), clock::wall()));
                Err(error)
            }
        }
    }

    /// One connection from dialling to the end of the wait after it.
    async fn life(&mut self, stop: &CancellationToken, backoff: &mut Backoff) -> Result<(), End> {
        self.kit.board.update(|status| status.next_retry_ms = None);
        let patience = self.kit.options.handshake_timeout;
        let (endpoint, trust) = (self.kit.endpoint.clone(), self.kit.trust.clone());
        let bytes_max = usize::try_from(self.kit.options.message_bytes_max).unwrap_or(usize::MAX);
        let dialled = self
            .attend(stop, async move {
                timeout(patience, link::connect(&endpoint, &trust, bytes_max))
                    .await
                    .unwrap_or(Err(Lost::Handshake))
            })
            .await?;
        let began = clock::monotonic();
        let mut logged_in = false;
        let lost = match dialled {
            Ok(line) => self.serve(line, stop, &mut logged_in).await?,
            Err(lost) => lost,
        };
        let lived = if logged_in { clock::monotonic() - began } else { Duration::ZERO };
        let delay = match self.drain_wait.take() {
            Some(wish) => backoff.sent_away(wish, lived, rand::random()),
            None => backoff.failed(lived, rand::random()),
        };
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(event = "gateway.disconnected", error = %lost, retry_ms = delay_ms, "not connected: {lost}");
        self.kit.board.update(|status| {
            let now = clock::wall();
            status.connected_since_ms = None;
            status.tunnel = None;
            status.failures = backoff.failures();
            status.next_retry_ms = Some(now.plus(delay_ms).0);
            status.note(lost.to_string(), now);
        });
        self.attend(stop, tokio::time::sleep(delay)).await
    }

    /// Waits for `future` while decisions are settled without a session.
    async fn attend<T>(
        &mut self,
        stop: &CancellationToken,
        future: impl Future<Output = T>,
    ) -> Result<T, End> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(End::Stopped),
                Some(decision) = self.decisions.recv() => self.settle(decision),
                Some(settled) = self.settling.next() => self.settled(settled, None)?,
                done = self.handover.next() => self.handover.done(done, None).map_err(End::Failed)?,
                out = &mut future => return Ok(out),
            }
        }
    }

    /// Settles what was decided before the stop, so that nothing which a destination has is delivered again.
    async fn drain(&mut self, mut session: Option<&mut ClientSession>) -> Result<(), End> {
        while let Ok(decision) = self.decisions.try_recv() {
            // "Not now" because we stop says nothing about the message, and five of them would park it.
            if !matches!(decision.verdict, Verdict::Later { .. }) {
                self.settle(decision);
            }
        }
        while let Some(settled) = self.settling.next().await {
            self.settled(settled, session.as_deref_mut())?;
        }
        self.handover.finish(session).await.map_err(End::Failed)
    }

    /// A decision came in: what has to be remembered is, before it counts.
    fn settle(&mut self, decision: Decision) {
        let memory = self.kit.memory.clone();
        self.settling.push(Box::pin(async move {
            let mut decision = decision;
            let entry = decision.entry.take();
            let remembered = match &decision.verdict {
                Verdict::Stored if decision.kept_by_relay => {
                    memory.remember(&decision.item_id, decision.seq, entry).await
                }
                Verdict::Refused { .. } => match entry {
                    Some(entry) => memory.keep(Entry { fate: Fate::Refused, ..entry }).await,
                    None => Ok(()),
                },
                Verdict::Stored | Verdict::Later { .. } => Ok(()),
            };
            (decision, remembered)
        }));
    }

    /// A decision counts now; it leaves at once if the session has the item.
    fn settled(&mut self, settled: Settled, session: Option<&mut ClientSession>) -> Result<(), End> {
        let (decision, remembered) = settled;
        remembered.map_err(|error| End::Failed(error.into()))?;
        self.in_hand.remove(&decision.item_id);
        // What a destination did not rename away is of no use any more.
        let _ = std::fs::remove_file(&decision.path);
        self.kit.board.update(|status| {
            match decision.verdict {
                Verdict::Stored if decision.repeated => {}
                Verdict::Stored => {
                    status.stored += 1;
                    let count = if decision.verified { &mut status.verified } else { &mut status.unverified };
                    *count += 1;
                }
                Verdict::Later { .. } => status.returned += 1,
                Verdict::Refused { .. } => status.refused += 1,
            }
            status.in_hand = self.in_hand.len() as u64;
        });
        crashpoint::reach("gateway.before_ack");
        if let Some(session) = session {
            session.verdict(&decision.item_id, decision.verdict);
        }
        Ok(())
    }

    /// Serves one session until it is lost.
    async fn serve(
        &mut self,
        mut line: Line,
        stop: &CancellationToken,
        logged_in: &mut bool,
    ) -> Result<Lost, End> {
        let settings = Settings {
            key: self.kit.options.key.clone(),
            relay_host: self.kit.options.relay_name.clone().unwrap_or_else(|| self.kit.endpoint.host.clone()),
            allow_tunnel_1: self.kit.options.allow_tunnel_1,
            credit: self.kit.options.credit(),
            handshake_timeout: self.kit.options.handshake_timeout,
            heartbeat_every: self.kit.options.heartbeat_every,
            silence_max: self.kit.options.silence_max,
            submits: self.kit.options.outbox.is_some(),
            invite: None,
        };
        let mut session = ClientSession::new(settings, self.position, clock::monotonic());
        let mut receptions: HashMap<String, Reception> = HashMap::new();
        let mut stopping = false;
        let lost = loop {
            if let Err(lost) = self.perform(&mut session, &mut line, &mut receptions).await {
                break lost;
            }
            *logged_in |= session.is_open();
            let Some(deadline) = session.deadline() else { break Lost::Ended };
            if self.handover.feed(&mut session, line.is_idle()) {
                continue;
            }
            let stalled_at = line.stalled_at();
            let room = self.in_hand.len() < in_hand_max(&self.kit.options) && self.handover.has_room();
            tokio::select! {
                () = stop.cancelled() => {
                    stopping = true;
                    self.drain(Some(&mut session)).await?;
                    session.stop();
                }
                Some(decision) = self.decisions.recv() => self.settle(decision),
                Some(settled) = self.settling.next() => self.settled(settled, Some(&mut session))?,
                done = self.handover.next() => {
                    self.handover.done(done, Some(&mut session)).map_err(End::Failed)?;
                }
                happened = line.next(room) => match happened {
                    Happened::Heard(message) => {
                        if let Err(lost) = link::hear(message, &mut session) {
                            break lost;
                        }
                    }
                    Happened::Flushed => crashpoint::reach("gateway.after_ack"),
                    Happened::Broken(error) => break error.into(),
                },
                () = tokio::time::sleep_until(stalled_at.map_or(deadline, |at| at.min(deadline)).into()) => {
                    let now = clock::monotonic();
                    if line.stalled_at().is_some_and(|at| now >= at) {
                        break Lost::Stalled;
                    }
                    if !room {
                        // It is we who do not listen: its silence says nothing about the relay.
                        session.handle_alive(now);
                    }
                    session.handle_timeout(now);
                }
            }
        };
        self.position = session.position();
        self.handover.session_ended();
        if stopping { Err(End::Stopped) } else { Ok(lost) }
    }

    /// Does what the session says, in order.
    async fn perform(
        &mut self,
        session: &mut ClientSession,
        line: &mut Line,
        receptions: &mut HashMap<String, Reception>,
    ) -> Result<(), Lost> {
        let mut left = None;
        while let Some(output) = session.poll() {
            match output {
                Output::Text(text) => line.send(Ws::text(text)),
                Output::Binary(bytes) => line.send(Ws::Binary(bytes)),
                Output::Ping => line.send(Ws::Ping(Bytes::new())),
                Output::Seal { stream, repeatable } => self.handover.seal(stream, repeatable),
                Output::Submitted(submitted) => self.handover.heard(submitted),
                Output::Ready { dialect, replaced, relay_keys, .. } => {
                    self.ready(dialect, replaced);
                    self.announced(&relay_keys);
                }
                Output::RelayKeys(relay_keys) => self.announced(&relay_keys),
                Output::Begin { stream, offer } => self.begin(session, receptions, stream, offer),
                Output::Append { stream, bytes } => {
                    if let Some(Reception::Draft { draft, .. }) = receptions.get_mut(&stream) {
                        draft.append(&bytes).await.map_err(|source| self.cannot_receive(source))?;
                    }
                }
                Output::Complete { stream, received } => {
                    if let Some(reception) = receptions.remove(&stream) {
                        self.complete(session, reception, &received).await?;
                    }
                }
                Output::Abandon { stream } => {
                    receptions.remove(&stream);
                }
                Output::Notice(notice) => {
                    if let Some(problem) = self.notice(notice) {
                        left = Some(problem);
                    }
                }
                Output::Close { code, reason } => {
                    line.close(code, reason).await;
                    return Err(Lost::Left(left.unwrap_or_else(|| reason.to_owned())));
                }
            }
        }
        Ok(())
    }

    /// The relay says with which keys it signs.
    fn announced(&self, relay_keys: &[RelayKey]) {
        self.kit.keyring.announced(relay_keys);
        self.kit.board.update(|status| status.relay_keys = self.kit.keyring.shown());
    }

    fn ready(&mut self, dialect: Dialect, replaced: bool) {
        let tunnel = match dialect {
            Dialect::One => 1,
            Dialect::Two => 2,
        };
        tracing::info!(
            event = "gateway.connected",
            tunnel,
            replaced,
            "logged in to {}",
            self.kit.endpoint.url
        );
        self.kit.board.update(|status| {
            status.connected_since_ms = Some(clock::wall().0);
            status.tunnel = Some(tunnel);
            status.failures = 0;
        });
    }

    fn begin(
        &mut self,
        session: &mut ClientSession,
        receptions: &mut HashMap<String, Reception>,
        stream: String,
        mut offer: Offer,
    ) {
        if !offer.item_id.is_empty() && self.kit.memory.knows(&offer.item_id) {
            tracing::info!(
                event = "gateway.item.repeated",
                item.id = offer.item_id,
                "had it before; acked again"
            );
            self.kit.board.update(|status| status.repeats += 1);
            if !session.acks() || offer.seq == 0 || self.kit.memory.has_place_of(&offer.item_id) {
                return session.discard(&stream, Verdict::Stored);
            }
            let checked = Box::new(self.check(&stream, &offer));
            receptions.insert(stream, Reception::Repeat { offer, checked });
            return;
        }
        let reception = if self.in_hand.contains(&offer.item_id) {
            Reception::Swallow { item_id: offer.item_id }
        } else {
            if offer.item_id.is_empty() {
                offer.item_id = format!("t1{:016x}", rand::random::<u64>());
            }
            let checked = self.check(&stream, &offer);
            let top = checked.field(&offer.item_id);
            let draft = self.kit.staging.draft(top.clone());
            Reception::Draft { offer, draft, checked: Box::new(checked), top }
        };
        receptions.insert(stream, reception);
    }

    /// Looks at what the relay signed, as far as it can be told before the body has come.
    fn check(&self, stream: &str, offer: &Offer) -> Checked {
        let (keys, lane) = (self.kit.keyring.trusted(), self.kit.options.key.key_text());
        let checked = Checked::of_offer(stream, offer, lane.as_str(), &keys, clock::wall());
        match &offer.announced {
            Some(announced) => checked.against(&offer.item_id, announced),
            None => checked,
        }
    }

    async fn complete(
        &mut self,
        session: &mut ClientSession,
        reception: Reception,
        received: &Received,
    ) -> Result<(), Lost> {
        let (offer, draft, checked, top) = match reception {
            Reception::Draft { offer, draft, checked, top } => (offer, draft, checked, top),
            Reception::Repeat { offer, checked } => {
                let checked = checked.against(&offer.item_id, received);
                self.settle(Decision {
                    item_id: offer.item_id.clone(),
                    seq: offer.seq,
                    path: PathBuf::new(),
                    kept_by_relay: true,
                    verified: checked.verdict().is_ok(),
                    repeated: true,
                    entry: Some(entry(&offer, &checked, received, None)),
                    verdict: Verdict::Stored,
                });
                return Ok(());
            }
            Reception::Swallow { item_id } => {
                // Decided while it came in again? Then nobody else will answer.
                if self.kit.memory.knows(&item_id) {
                    session.verdict(&item_id, Verdict::Stored);
                } else if !self.in_hand.contains(&item_id) {
                    session.verdict(&item_id, Verdict::Later { retry_after: Duration::ZERO });
                }
                return Ok(());
            }
        };
        let mut staged = draft.finish().await.map_err(|source| self.cannot_receive(source))?;
        let checked = checked.against(&offer.item_id, received);
        let field = checked.field(&offer.item_id);
        let top_bytes = field.len();
        if field != top {
            // What was announced and what came are two things: rare enough to be written twice.
            staged.retop(top.len(), field).await.map_err(|source| self.cannot_receive(source))?;
        }
        let kept = if staged.altered {
            Some(staged.kept(top_bytes).await.map_err(|source| self.cannot_receive(source))?)
        } else {
            None
        };
        let kept_by_relay = session.acks();
        crashpoint::reach("gateway.item.received");
        self.tell_item(&offer, &checked, staged.altered);
        self.in_hand.insert(offer.item_id.clone());
        self.kit.board.update(|status| status.in_hand = self.in_hand.len() as u64);
        let entry = kept_by_relay.then(|| entry(&offer, &checked, received, kept));
        let letter = Letter {
            item_id: offer.item_id,
            seq: offer.seq,
            mail_from: offer.mail_from,
            rcpt_to: offer.rcpt_to,
            size_bytes: staged.size_bytes,
            path: staged.into_path(),
        };
        let message = Message::new(letter, kept_by_relay, checked, entry, self.decide.clone());
        // There is room: no more are in hand than the channel holds. Closed means nobody takes messages any more; the
        // message undecides itself, and the stop that follows ends us.
        let _ = self.kit.hand_out.try_send(message);
        Ok(())
    }

    fn cannot_receive(&self, source: std::io::Error) -> Lost {
        let path =
            self.kit.options.staging_dir.clone().unwrap_or_else(|| self.kit.options.data_dir.join("staging"));
        Lost::Staging { path, source }
    }
}

/// What is kept of an item that the destination has.
fn entry(offer: &Offer, checked: &Checked, received: &Received, kept: Option<Kept>) -> Entry {
    Entry {
        id: offer.item_id.clone(),
        seq: offer.seq,
        fate: Fate::Stored,
        at_ms: clock::wall().0,
        verdict: checked.word().to_owned(),
        receipt: offer.receipt.clone(),
        seen: Some(Seen {
            stream: None,
            body: Some(Kept { size: received.size, sha256: HEXLOWER.encode(&received.sha256) }),
            head_sha256: received.head_sha256.map(|head| HEXLOWER.encode(&head)),
        }),
        kept,
    }
}
