//! What the outbox does on its ledger's thread, and the thread itself.
//!
//! Promises: every function is one step of one commit. A group of submissions that a crash has torn is taken out at the
//! next start: its sender was not told yes. What was told yes is never taken for torn, whatever retention has removed of it.
//!
//! Failure policy: an error of the spool ends the gateway; a state that does not allow a step is an answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use spool::disk::Disk;
use spool::disk::real::RealDisk;
use spool::engine::{Engine, Observer};
use spool::error::{RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, Seq, WallMs};
use spool::index::sled::SledIndex;
use spool::submission::Settlement;
use spool::types::{Filter, ItemInfo, Page, State as Stored, Verb};
use spool::upkeep::Upkeep;
use spool::{Options, Spool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::draft::Memo;
use super::story::{Counts, Remark, State};
use super::{ACCEPTED_DUE, Due, LOOK_MAX, Look, Noted, Outbox, OutboxError, PUT_OFF_MS_MAX, QUEUE, Settings};
use crate::clock;
use crate::gateway::client::{End, Submission};
use crate::gateway::staging::make_dir;
use crate::spooler::{Spooler, bell};

/// Name of the lock file that keeps a second process out.
const LOCK_NAME: &str = "outbox.lock";
/// Size of a journal segment: a home has less space than a relay.
const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;
/// Submissions that have waited this many times `expire_after` for their result get none any more.
const RESULT_PATIENCE: u32 = 2;

/// Keeps an outbox open; to be closed last.
#[derive(Debug)]
pub struct Keeper {
    engine: Engine,
    /// Cancelled when a commit failed: nothing is taken any more.
    pub poisoned: CancellationToken,
    /// Held until the engine has stopped.
    lock: std::fs::File,
}

impl Keeper {
    /// Writes the last checkpoint and gives the directory up.
    pub async fn close(self) {
        let Self { engine, lock, .. } = self;
        let closed = tokio::task::spawn_blocking(move || engine.stop()).await;
        drop(lock);
        if let Ok(Err(error)) = closed {
            tracing::warn!(event = "gateway.outbox.not_closed", %error, "the next start recovers the outbox");
        }
    }
}

/// Opens the outbox in `settings.dir`, or makes one. Blocks.
///
/// # Errors
/// [`OutboxError`].
pub fn open(settings: Settings) -> Result<(Outbox, Keeper), OutboxError> {
    let dir = settings.dir.clone();
    let no_directory = |source| OutboxError::Directory { dir: dir.clone(), source };
    make_dir(&dir).map_err(no_directory)?;
    // Before anything is opened: journal and index have locks of their own, and two processes could get one each.
    let lock = std::fs::File::create(dir.join(LOCK_NAME)).map_err(no_directory)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(OutboxError::InUse(dir)),
        Err(std::fs::TryLockError::Error(source)) => return Err(no_directory(source)),
    }
    let wrong = |error| match error {
        SpoolError::Locked => OutboxError::InUse(dir.clone()),
        SpoolError::Io { .. }
        | SpoolError::Index(_)
        | SpoolError::Corrupt { .. }
        | SpoolError::Poisoned { .. }
        | SpoolError::NewerFormat { .. }
        | SpoolError::Foreign { .. }
        | SpoolError::Closed => OutboxError::Spool { dir: dir.clone(), error },
    };
    let options = Options {
        segment_bytes: SEGMENT_BYTES,
        retain_results_ms: millis(settings.retain),
        min_free_bytes: settings.min_free_bytes,
        seed: rand::random(),
        ..Options::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.clone()));
    let open = || {
        Spool::may_open(&disk)?;
        let index = Arc::new(SledIndex::open(&dir.join("index"))?);
        Spool::open(Arc::clone(&disk), index, options.clone(), clock::wall())
    };
    let (mut spool, recovery) = open().map_err(wrong)?;
    if !recovery.interrupted.is_empty() {
        tracing::warn!(
            event = "gateway.outbox.interrupted",
            submissions = recovery.interrupted.len(),
            "the last stop came before a relay without ids had answered; these are indeterminate"
        );
    }
    let (due, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mailbox = prepare(&mut spool, &settings.key).map_err(wrong)?;
    spool.set_outbound_bell(bell(&due));
    let results = Arc::clone(&ended);
    spool.set_results_bell(Arc::new(move |_| results.notify_one()));
    let poisoned = CancellationToken::new();
    let reader = spool.reader();
    let engine =
        Engine::start(spool, Arc::new(clock::wall), Told { poisoned: poisoned.clone() }).map_err(wrong)?;
    let spooler = Spooler::new(engine.handle(), reader, clock::wall);
    let outbox = Outbox { spooler, mailbox, settings: Arc::new(settings), due, ended };
    Ok((outbox, Keeper { engine, poisoned, lock }))
}

/// Registers whose outbox it is, and takes out what a crash has torn.
fn prepare(spool: &mut Spool, key: &str) -> Result<LaneId, SpoolError> {
    let now = clock::wall();
    let mailbox = match spool.register(key, now) {
        Ok(mailbox) => mailbox,
        Err(RequestError::Spool(error)) => return Err(error),
        Err(error) => return Err(SpoolError::Index(error.to_string())),
    };
    spool.commit(now)?;
    if let Some(lane) = spool.outbox(mailbox)? {
        let torn = torn_group(spool, lane)?;
        if !torn.is_empty() {
            tracing::warn!(
                event = "gateway.outbox.torn",
                submissions = torn.len(),
                "a message that was never answered with yes is taken out"
            );
            cancel(spool, &torn, now)?;
            spool.commit(now)?;
        }
    }
    Ok(mailbox)
}

/// The newest submissions, if they are the beginning of a message whose other recipients a crash has taken.
fn torn_group(spool: &Spool, lane: LaneId) -> Result<Vec<ItemId>, SpoolError> {
    let Some(newest) = newest(spool, lane)? else { return Ok(Vec::new()) };
    // A crash takes the end of the journal: what it has torn is the last that the lane ever had. Where there was more, that
    // had its result and is gone by its retention, and the message was whole.
    if spool.end_of(lane)?.is_some_and(|(end, _)| end > newest.seq) {
        return Ok(Vec::new());
    }
    let Some(memo) = Memo::read(&newest.meta).filter(|memo| memo.part < memo.parts) else {
        return Ok(Vec::new());
    };
    let page = Page { lane, seq: Seq(newest.seq.0.saturating_sub(u64::from(memo.part))) };
    let filter = Filter { lane: Some(lane), ..Filter::default() };
    let (group, _) = spool.list(&filter, Some(page), memo.part as usize)?;
    let same = |info: &ItemInfo| Memo::read(&info.meta).is_some_and(|other| other.message == memo.message);
    // What has its result was handed over, and so was whole.
    let torn = |info: &&ItemInfo| info.state == Stored::Ready && same(info);
    Ok(group.iter().filter(torn).map(|info| info.id).collect())
}

/// The newest entry of a lane, by doubling and halving the distance.
pub(super) fn newest(spool: &Spool, lane: LaneId) -> Result<Option<ItemInfo>, SpoolError> {
    let filter = Filter { lane: Some(lane), ..Filter::default() };
    let after = |seq: u64| -> Result<Option<ItemInfo>, SpoolError> {
        let mut page = Page { lane, seq: Seq(seq) };
        loop {
            let (items, next) = spool.list(&filter, Some(page), 1)?;
            match (items.into_iter().next(), next) {
                (Some(info), _) => return Ok(Some(info)),
                (None, Some(next)) if next != page => page = next,
                (None, _) => return Ok(None),
            }
        }
    };
    let Some(mut best) = after(0)? else { return Ok(None) };
    let mut distance = 1_u64;
    // Beyond `end` there is nothing.
    let mut end = loop {
        let from = best.seq.0.saturating_add(distance);
        match after(from)? {
            Some(info) => best = info,
            None => break from,
        }
        distance = distance.saturating_mul(2);
    };
    while best.seq.0 < end {
        let middle = best.seq.0 + (end - best.seq.0) / 2;
        match after(middle)? {
            Some(info) => best = info,
            None => end = middle,
        }
    }
    Ok(Some(best))
}

/// Takes out submissions of which nobody was told.
pub(super) fn cancel(spool: &mut Spool, ids: &[ItemId], now: WallMs) -> Result<(), SpoolError> {
    for &id in ids {
        let note =
            Remark::new(State::Failed, "not all recipients could be stored; nobody was told yes").to_note();
        spool_only(spool.settle(id, Settlement::Failed, &note, now))?;
        spool_only(spool.tell(id, now))?;
        spool_only(spool.apply_verb(id, Verb::Purge, "cancelled", now))?;
    }
    Ok(())
}

pub(super) fn look(
    spool: &Spool,
    not_now: &HashSet<ItemId>,
    limit: usize,
    now: WallMs,
) -> Result<Look, SpoolError> {
    let mut look = Look::default();
    let waiting = spool.due(QUEUE, WallMs(ACCEPTED_DUE.0 - 1), LOOK_MAX.min(not_now.len() + limit + 1))?;
    let farthest = now.plus(PUT_OFF_MS_MAX);
    for (id, due) in waiting {
        // Nothing is put off for longer but what the caller names: the clock was ahead when that was written, and it is due.
        if due > now && due <= farthest {
            look.next = look.next.or(Some(due));
            continue;
        }
        if not_now.contains(&id) {
            continue;
        }
        if look.due.len() == limit {
            look.more = true;
            break;
        }
        if let Some(submission) = readable(spool.submission(id))? {
            let info = submission.info;
            look.due.push(Due {
                id,
                handed: submission.attempts > 0,
                submission: Submission {
                    stream: id.to_string(),
                    mail_from: Memo::read(&info.meta).map(|memo| memo.mail_from).unwrap_or_default(),
                    rcpt_to: String::from_utf8_lossy(&info.tag).into_owned(),
                    size_bytes: info.size_bytes,
                    sha256: info.sha256,
                    pieces: info.chunks.len(),
                },
                info: Arc::new(info),
            });
        }
    }
    Ok(look)
}

/// A damaged record is as good as none: it must not stop the others. [`expire`] ends it.
fn readable<T>(found: Result<Option<T>, SpoolError>) -> Result<Option<T>, SpoolError> {
    match found {
        Err(SpoolError::Corrupt { .. }) => Ok(None),
        found => found,
    }
}

pub(super) fn seal(
    spool: &mut Spool,
    id: ItemId,
    handed: bool,
    repeatable: bool,
    now: WallMs,
) -> Result<bool, SpoolError> {
    if handed && !repeatable {
        // A relay with ids may have it, and this one cannot be asked: better doubt than a second copy.
        let text = "handed over before, and the relay forgets ids now";
        end(spool, id, End::Indeterminate, text, now)?;
        return Ok(false);
    }
    if repeatable && handed {
        return Ok(
            readable(spool.submission(id))?.is_some_and(|submission| submission.info.state == Stored::Ready)
        );
    }
    let done = if repeatable {
        let note = Remark::new(State::Queued, "handed over, the relay has not answered").to_note();
        spool.defer(id, now, &note, now)
    } else {
        let text = "handed to a relay that forgets ids, it has not answered";
        spool.arm(id, &Remark::new(State::Indeterminate, text).to_note(), now)
    };
    spool_only(done).map(|done| done.is_some())
}

pub(super) fn unseal(spool: &mut Spool, id: ItemId, now: WallMs) -> Result<(), SpoolError> {
    let note =
        Remark::new(State::Queued, "the connection was lost before the message was complete").to_note();
    spool_only(spool.disarm(id, now, &note, now)).map(drop)
}

pub(super) fn accepted(spool: &mut Spool, id: ItemId, relay_id: &str, now: WallMs) -> Result<(), SpoolError> {
    let waits_for_result =
        readable(spool.submission(id))?.is_none_or(|submission| submission.due == ACCEPTED_DUE);
    if waits_for_result {
        return Ok(());
    }
    let remark = Remark { relay_id: relay_id.to_owned(), ..Remark::new(State::Accepted, "the relay has it") };
    spool_only(spool.postpone(id, ACCEPTED_DUE, &remark.to_note(), now)).map(drop)
}

pub(super) fn later(
    spool: &mut Spool,
    id: ItemId,
    due: WallMs,
    reason: &str,
    now: WallMs,
) -> Result<(), SpoolError> {
    spool_only(spool.postpone(id, due, &Remark::new(State::Queued, reason).to_note(), now)).map(drop)
}

/// Of those that were put off, the one whose time comes first is due now, `but_not` one of these; which one it was.
pub(super) fn hasten(
    spool: &mut Spool,
    but_not: &HashSet<ItemId>,
    now: WallMs,
) -> Result<Option<ItemId>, SpoolError> {
    let waiting = spool.due(QUEUE, WallMs(ACCEPTED_DUE.0 - 1), LOOK_MAX)?;
    let put_off = waiting.into_iter().find(|(id, due)| *due > now && !but_not.contains(id)).map(|(id, _)| id);
    if let Some(id) = put_off {
        later(spool, id, now, "the relay takes messages again", now)?;
    }
    Ok(put_off)
}

pub(super) fn end(
    spool: &mut Spool,
    id: ItemId,
    end: End,
    text: &str,
    now: WallMs,
) -> Result<Noted, SpoolError> {
    let stored = match spool.submission(id) {
        Ok(Some(submission)) => Some(submission.info.state),
        Ok(None) => return Ok(Noted::Unknown),
        // Whatever state it is in, the ledger allows only what is right.
        Err(SpoolError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    let (settlement, state) = match end {
        End::Sent => (Settlement::Sent, State::Sent),
        End::Failed => (Settlement::Failed, State::Failed),
        End::Indeterminate => (Settlement::Indeterminate, State::Indeterminate),
    };
    let note = Remark::new(state, text).to_note();
    if stored == Some(Stored::Held) {
        // Kept back here by an operator, too late: the relay has finished with it.
        spool_only(spool.apply_verb(id, Verb::Release, "it has its result", now))?;
    }
    if end != End::Failed && stored != Some(Stored::Armed) {
        // The ledger knows that a message can have left only of what was armed; the relay's word stands for that.
        spool_only(spool.arm(id, &note, now))?;
    }
    if spool_only(spool.settle(id, settlement, &note, now))?.is_none() {
        return Ok(Noted::Late);
    }
    if end == End::Sent {
        // Nobody is told of a success beyond the status.
        spool_only(spool.tell(id, now))?;
    }
    Ok(Noted::New)
}

pub(super) fn told(spool: &mut Spool, id: ItemId, now: WallMs) -> Result<(), SpoolError> {
    spool_only(spool.tell(id, now)).map(drop)
}

pub(super) fn expire(
    spool: &mut Spool,
    patience: Duration,
    for_results: bool,
    now: WallMs,
) -> Result<usize, SpoolError> {
    let mut count = 0;
    for (id, due) in spool.due(QUEUE, ACCEPTED_DUE, LOOK_MAX)? {
        let age = Duration::from_millis(now.since(id.time()));
        if due == ACCEPTED_DUE {
            if for_results && age >= patience.saturating_mul(RESULT_PATIENCE) {
                let text = "the relay has it, and has not said for too long what became of it";
                end(spool, id, End::Indeterminate, text, now)?;
                count += 1;
            }
        } else if age >= patience {
            let handed = readable(spool.submission(id))?.is_none_or(|submission| submission.attempts > 0);
            if handed {
                let text = "handed over, and the relay could not be asked for too long whether it has it";
                end(spool, id, End::Indeterminate, text, now)?;
            } else {
                end(spool, id, End::Failed, "the relay could not be reached for too long", now)?;
            }
            count += 1;
        }
    }
    Ok(count)
}

pub(super) fn counts(spool: &Spool) -> Result<Counts, SpoolError> {
    let stats = spool.stats()?;
    let of =
        |state: Stored| Stored::ALL.iter().position(|other| *other == state).map_or(0, |at| stats.items[at]);
    let accepted = accepted_count(spool)?;
    Ok(Counts {
        queued: (of(Stored::Ready) + of(Stored::Held)).saturating_sub(accepted),
        accepted,
        sent: of(Stored::Sent),
        failed: of(Stored::Failed),
        indeterminate: of(Stored::Indeterminate) + of(Stored::Armed),
    })
}

/// How many wait for their result; exact up to a limit that a home does not reach.
fn accepted_count(spool: &Spool) -> Result<u64, SpoolError> {
    const COUNTED_MAX: usize = 100_000;
    let waiting = spool.due(QUEUE, ACCEPTED_DUE, COUNTED_MAX)?;
    Ok(waiting.iter().filter(|(_, due)| *due == ACCEPTED_DUE).count() as u64)
}

/// Lets the spool's own errors through; a state that does not allow the step is `None`.
fn spool_only<T>(done: Result<T, RequestError>) -> Result<Option<T>, SpoolError> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(RequestError::Spool(error)) => Err(error),
        Err(
            RequestError::UnknownItem(_)
            | RequestError::UnknownMailbox(_)
            | RequestError::NameTaken(_)
            | RequestError::WrongState { .. }
            | RequestError::NoSession,
        ) => Ok(None),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Listens to the ledger's thread.
struct Told {
    poisoned: CancellationToken,
}

impl Observer for Told {
    fn committed(&mut self, _requests: usize, _bytes: u64, _micros: u64) {}

    fn upkeep(&mut self, _spool: &Spool, _upkeep: &Upkeep) {}

    fn segments_removed(&mut self, _numbers: &[u32]) {}

    fn poisoned(&mut self, error: &SpoolError) {
        tracing::error!(event = "gateway.outbox.poisoned", %error, "the outbox cannot be written any more");
        self.poisoned.cancel();
    }

    fn micros(&mut self) -> u64 {
        0
    }
}
