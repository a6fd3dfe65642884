//! Between the outbox and the session: looks for what is due, brings pieces, notes what the relay says.
//!
//! Everything that touches the disk is a piece of work beside the session's loop; its outcome comes back by
//! [`Handover::next`] and is given to the session by [`Handover::done`]. Work outlives the session that asked for it.
//!
//! Order that carries the promise: noted as handed over (or armed) → the octets that complete the message; result on
//! stable storage → its ack.
//!
//! Policy on failure: "not now" waits as [`super::postponed`] says, and each message that the relay takes brings one
//! forward that was put off, so that an outage of hours is over for all when it is over for one; a message that cannot
//! be read fails with that reason; an outbox that cannot be written ends the gateway.

use std::collections::{HashMap, hash_map};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use spool::error::SpoolError;
use spool::ids::ItemId;

use super::postponed::Postponed;
use crate::gateway::client::{ClientSession, End, Submitted, Wanted};
use crate::gateway::handle::ClientError;
use crate::gateway::memory::{Memory, MemoryError};
use crate::gateway::outbox::{Due, Look, Noted, Outbox};
use crate::gateway::receipts::{Entry, Fate, Seen};
use crate::mail::address::masked_words;
use crate::tunnel::signed::Signed;
use crate::{clock, crashpoint};

/// How long a relay that forgets ids may take for a result (its own tries of the next hop included).
const SILENT_PATIENCE: Duration = Duration::from_secs(3600);
/// How often to see whether something has waited too long.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// How long process and session must have lived before something is too late.
const SETTLE: Duration = Duration::from_secs(600);
/// Pieces of work after which the relay is not listened to until some are done.
const WORK_MAX: usize = 256;

/// What a piece of work led to.
pub(super) enum Done {
    /// Something may be due.
    Rung,
    Looked(Look),
    Piece {
        session: u64,
        stream: String,
        bytes: Result<Bytes, SpoolError>,
    },
    Sealed {
        session: u64,
        stream: String,
        repeatable: bool,
        go: bool,
    },
    /// A result is on stable storage.
    Ended {
        stream: String,
        result_id: String,
        noted: Noted,
    },
    /// Another word about a submission is on stable storage.
    Noted {
        stream: String,
    },
    /// What was too old has been ended.
    Expired,
    /// This one was put off, and is due.
    Hastened(Option<ItemId>),
    Failed(SpoolError),
    /// A receipt cannot be kept.
    Unkept(MemoryError),
}

/// A submission that the session has, or had until the relay said something about it.
struct UnderWay {
    due: Due,
    /// What the relay said is being noted; until then the outbox still shows it as due.
    noting: bool,
    /// Octets of it that the session got.
    sent_bytes: u64,
}

/// See the module.
pub(super) struct Handover {
    outbox: Option<Outbox>,
    memory: Memory,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// What is not to be looked for, by stream.
    under_way: HashMap<String, UnderWay>,
    /// Handed to a relay that forgets ids, without a result: until when it is waited for.
    silent: HashMap<String, Instant>,
    /// What the relay could not take.
    postponed: Postponed,
    /// Number of the session.
    session: u64,
    session_since: Option<Instant>,
    look: bool,
    looking: bool,
    /// When to look again, at the latest.
    look_at: Option<Instant>,
    /// There are some that were put off, as far as is known.
    put_off: bool,
    expire_at: Instant,
}

impl Handover {
    pub(super) fn new(outbox: Option<Outbox>, memory: Memory) -> Self {
        Self {
            outbox,
            memory,
            work: FuturesUnordered::new(),
            under_way: HashMap::new(),
            silent: HashMap::new(),
            postponed: Postponed::default(),
            session: 0,
            session_since: None,
            look: false,
            looking: false,
            look_at: None,
            put_off: false,
            // Not at once: what waited while nothing ran here gets its chance first.
            expire_at: clock::monotonic() + SETTLE,
        }
    }

    /// Whether more news of the relay can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.work.len() < WORK_MAX
    }

    /// The next piece of work that is done, or the bell; for ever without an outbox. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Done {
        let Some(outbox) = &self.outbox else { return std::future::pending().await };
        let at = self.look_at.map_or(self.expire_at, |at| at.min(self.expire_at));
        tokio::select! {
            Some(done) = self.work.next() => done,
            () = outbox.rung() => Done::Rung,
            () = tokio::time::sleep_until(at.into()) => Done::Rung,
        }
    }

    /// Gives the session what it can take. True when the session has something to say because of it.
    pub(super) fn feed(&mut self, session: &mut ClientSession, line_is_idle: bool) -> bool {
        let Some(outbox) = self.outbox.clone() else { return false };
        if !session.is_open() {
            return false;
        }
        if self.session_since.is_none() {
            self.session_since = Some(clock::monotonic());
            self.look = true;
        }
        let room = session.submission_room();
        if self.look && !self.looking && room > 0 {
            (self.look, self.looking) = (false, true);
            let mut not_now = self.postponed.costly(clock::monotonic());
            not_now.extend(self.under_way.values().map(|one| one.due.id));
            self.work.push(Box::pin(async move {
                outbox.look(not_now, room).await.map_or_else(Done::Failed, Done::Looked)
            }));
        } else if line_is_idle && let Some(Wanted { stream, n }) = session.pull() {
            match self.under_way.get(&stream) {
                Some(one) => {
                    let (number, info) = (self.session, one.due.info.clone());
                    self.work.push(Box::pin(async move {
                        let bytes = outbox.piece(&info, n).await;
                        Done::Piece { session: number, stream, bytes }
                    }));
                }
                None => {
                    session.withdraw(&stream, "not there any more");
                    return true;
                }
            }
        }
        false
    }

    /// The session wants this noted before the message is completed.
    pub(super) fn seal(&mut self, stream: String, repeatable: bool) {
        let (Some(outbox), Some(one)) = (self.outbox.clone(), self.under_way.get(&stream)) else { return };
        let due = one.due.clone();
        let session = self.session;
        self.work.push(Box::pin(async move {
            match outbox.seal(&due, repeatable).await {
                Ok(go) => Done::Sealed { session, stream, repeatable, go },
                Err(error) => Done::Failed(error),
            }
        }));
    }

    /// The relay has said something about a submission, or has not.
    pub(super) fn heard(&mut self, submitted: Submitted) {
        match submitted {
            Submitted::Accepted { stream, submission_id, receipt } => {
                let Some((outbox, id)) = self.named(&stream) else { return };
                tracing::info!(
                    event = "gateway.submission.accepted", submission.id = %id, relay_id = submission_id,
                    "the relay has {id}"
                );
                let kept = self.keep(&outbox, &stream, &submission_id, receipt);
                self.postponed.over(id);
                self.hasten(&outbox);
                self.noting(&stream);
                self.work.push(Box::pin(async move {
                    if let Err(error) = kept.await {
                        return Done::Unkept(error);
                    }
                    match outbox.accepted(id, submission_id).await {
                        Ok(()) => Done::Noted { stream },
                        Err(error) => Done::Failed(error),
                    }
                }));
            }
            Submitted::Ended { stream, end, text, result_id } => {
                self.silent.remove(&stream);
                self.ended(stream, end, text, result_id);
            }
            Submitted::Later { stream, reason } => {
                let Some((outbox, id)) = self.named(&stream) else { return };
                let sent_bytes = self.under_way.get(&stream).map_or(0, |one| one.sent_bytes);
                let delay = self.postponed.refused(id, sent_bytes, clock::monotonic());
                self.put_off = true;
                tracing::info!(
                    event = "gateway.submission.deferred", submission.id = %id, reason,
                    retry_seconds = delay.as_secs(), "{id} waits: {reason}"
                );
                let due = clock::wall().plus(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
                self.note(stream, async move { outbox.later(id, due, reason).await });
            }
            Submitted::Silent { stream } => {
                self.answered(&stream);
                tracing::info!(
                    event = "gateway.submission.silent",
                    submission.id = stream,
                    "the relay has {stream} and says nothing"
                );
            }
            Submitted::Unsendable { stream } => {
                let text = "its envelope does not fit the tunnel".to_owned();
                self.ended(stream, End::Failed, text, String::new());
            }
        }
    }

    /// Takes the outcome of a piece of work.
    pub(super) fn done(
        &mut self,
        done: Done,
        mut session: Option<&mut ClientSession>,
    ) -> Result<(), ClientError> {
        match done {
            Done::Rung => {
                self.look = true;
                self.look_at = None;
                self.expire();
            }
            Done::Looked(look) => self.looked(look, session),
            Done::Piece { session: number, stream, bytes } => {
                let Some(session) = session.filter(|_| number == self.session) else { return Ok(()) };
                match bytes {
                    Ok(bytes) => {
                        if let Some(one) = self.under_way.get_mut(&stream) {
                            one.sent_bytes += bytes.len() as u64;
                        }
                        session.piece(&stream, bytes);
                    }
                    Err(SpoolError::Corrupt { problem, .. }) => {
                        tracing::error!(
                            event = "gateway.submission.damaged",
                            submission.id = stream,
                            problem,
                            "a stored message cannot be read"
                        );
                        session.withdraw(&stream, "damaged");
                        let text = "the stored message is damaged".to_owned();
                        self.ended(stream, End::Failed, text, String::new());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Done::Sealed { session: number, stream, repeatable, go } => {
                crashpoint::reach("gateway.submission.sealed");
                self.sealed(
                    session.as_deref_mut().filter(|_| number == self.session),
                    stream,
                    repeatable,
                    go,
                );
            }
            Done::Ended { stream, result_id, noted } => {
                match noted {
                    Noted::New => {}
                    Noted::Late => tracing::info!(
                        event = "gateway.submission.late_result",
                        submission.id = stream,
                        "{stream} had its result before; this one changes nothing"
                    ),
                    Noted::Unknown => tracing::warn!(
                        event = "gateway.submission.unknown",
                        submission.id = stream,
                        "the relay reports a result for a submission that this outbox does not know"
                    ),
                }
                self.answered(&stream);
                crashpoint::reach("gateway.submission.before_result_ack");
                if let Some(session) = session {
                    session.result_noted(&result_id);
                }
            }
            Done::Noted { stream } => self.answered(&stream),
            Done::Hastened(Some(id)) => tracing::info!(
                event = "gateway.submission.hastened", submission.id = %id,
                "the relay takes messages again: {id} is tried now"
            ),
            Done::Hastened(None) => self.put_off = false,
            Done::Expired => {}
            Done::Failed(error) => return Err(error.into()),
            Done::Unkept(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Waits for what is under way on the disk, so that what was noted is also told.
    pub(super) async fn finish(
        &mut self,
        mut session: Option<&mut ClientSession>,
    ) -> Result<(), ClientError> {
        while let Some(done) = self.work.next().await {
            // Nothing new is begun: pieces and looks have no use any more.
            match done {
                Done::Piece { .. } | Done::Looked(_) | Done::Rung => {}
                Done::Sealed { .. }
                | Done::Ended { .. }
                | Done::Noted { .. }
                | Done::Expired
                | Done::Hastened(_)
                | Done::Failed(_)
                | Done::Unkept(_) => {
                    self.done(done, session.as_deref_mut())?;
                }
            }
        }
        Ok(())
    }

    /// What the session had and the relay did not answer may be handed over again.
    pub(super) fn session_ended(&mut self) {
        self.session += 1;
        self.session_since = None;
        self.under_way.retain(|_, one| one.noting);
    }

    fn looked(&mut self, look: Look, session: Option<&mut ClientSession>) {
        self.looking = false;
        self.look |= look.more;
        self.put_off |= look.next.is_some();
        let next = look.next.map(|at| {
            let wait = at.since(clock::wall()).min(u64::from(u32::MAX));
            clock::monotonic() + Duration::from_millis(wait)
        });
        self.look_at = [next, self.postponed.next()].into_iter().flatten().min();
        let Some(session) = session.filter(|session| session.is_open()) else { return };
        for due in look.due {
            if session.submission_room() == 0 {
                self.look = true;
                return;
            }
            let stream = due.submission.stream.clone();
            if let hash_map::Entry::Vacant(place) = self.under_way.entry(stream) {
                place.insert(UnderWay { due: due.clone(), noting: false, sent_bytes: 0 });
                session.submit(due.submission);
            }
        }
    }

    fn sealed(&mut self, session: Option<&mut ClientSession>, stream: String, repeatable: bool, go: bool) {
        match (session, go) {
            (Some(session), true) => {
                if !repeatable {
                    self.silent.insert(stream.clone(), clock::monotonic() + SILENT_PATIENCE);
                }
                session.sealed(&stream, clock::monotonic());
            }
            (Some(session), false) => {
                session.withdraw(&stream, "not to be sent any more");
                self.answered(&stream);
            }
            (None, true) if !repeatable => {
                // The session went before the last octets could leave.
                if let Some((outbox, id)) = self.named(&stream) {
                    self.note(stream, async move { outbox.unseal(id).await });
                }
            }
            (None, _) => {}
        }
    }

    fn ended(&mut self, stream: String, end: End, text: String, result_id: String) {
        let Some((outbox, id)) = self.named(&stream) else {
            let unknown = Done::Ended { stream, result_id, noted: Noted::Unknown };
            return self.work.push(Box::pin(async move { unknown }));
        };
        self.postponed.over(id);
        tracing::info!(
            event = "gateway.submission.ended", submission.id = %id, end = ?end, text = masked_words(&text),
            "{id} has its result"
        );
        self.noting(&stream);
        self.work.push(Box::pin(async move {
            match outbox.end(id, end, text).await {
                Ok(noted) => Done::Ended { stream, result_id, noted },
                Err(error) => Done::Failed(error),
            }
        }));
    }

    /// Keeps the receipt for a submission, or that there was none, and what it has to be about; `gateway audit` verifies it.
    fn keep(
        &self,
        outbox: &Outbox,
        stream: &str,
        submission_id: &str,
        receipt: Option<Signed>,
    ) -> impl Future<Output = Result<(), MemoryError>> + Send + 'static {
        let (memory, outbox) = (self.memory.clone(), outbox.clone());
        let due = self.under_way.get(stream).filter(|_| receipt.is_some()).map(|one| one.due.clone());
        let mut seen = Seen { stream: Some(stream.to_owned()), ..Seen::default() };
        let mut entry = Entry {
            id: submission_id.to_owned(),
            seq: 0,
            fate: Fate::Submitted,
            at_ms: clock::wall().0,
            verdict: String::new(),
            receipt,
            seen: None,
            kept: None,
        };
        async move {
            if let Some(due) = due {
                seen.body = outbox.canonical(&due).await;
            }
            entry.seen = Some(seen);
            memory.keep(entry).await
        }
    }

    fn noting(&mut self, stream: &str) {
        if let Some(one) = self.under_way.get_mut(stream) {
            one.noting = true;
        }
    }

    /// The outbox knows what the relay said; there may be room for another.
    fn answered(&mut self, stream: &str) {
        self.look |= self.under_way.remove(stream).is_some();
    }

    fn named(&self, stream: &str) -> Option<(Outbox, ItemId)> {
        Some((self.outbox.clone()?, stream.parse().ok()?))
    }

    fn note(&mut self, stream: String, work: impl Future<Output = Result<(), SpoolError>> + Send + 'static) {
        self.noting(&stream);
        self.work
            .push(Box::pin(async move { work.await.map_or_else(Done::Failed, |()| Done::Noted { stream }) }));
    }

    /// Something was put off, and the relay has just taken another. The outbox rings when it is due.
    fn hasten(&mut self, outbox: &Outbox) {
        if self.put_off {
            let (outbox, but_not) = (outbox.clone(), self.postponed.costly(clock::monotonic()));
            self.work.push(Box::pin(async move {
                outbox.hasten(but_not).await.map_or_else(Done::Failed, Done::Hastened)
            }));
        }
    }

    /// Ends what has waited too long.
    fn expire(&mut self) {
        let now = clock::monotonic();
        if now < self.expire_at {
            return;
        }
        self.expire_at = now + EXPIRE_EVERY;
        let Some(outbox) = self.outbox.clone() else { return };
        let for_results = self.session_since.is_some_and(|since| now >= since + SETTLE);
        self.work.push(Box::pin(async move {
            outbox.expire(for_results).await.map_or_else(Done::Failed, |_| Done::Expired)
        }));
        let over: Vec<String> = self
            .silent
            .iter()
            .filter(|(_, until)| now >= **until)
            .map(|(stream, _)| stream.clone())
            .collect();
        for stream in over {
            self.silent.remove(&stream);
            let text = "a relay that forgets ids has it, and never said what became of it".to_owned();
            self.ended(stream, End::Indeterminate, text, String::new());
        }
    }
}
