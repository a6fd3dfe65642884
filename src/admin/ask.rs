//! Questions about the spool and their answers as JSON, the same with and without a running daemon.
//!
//! Promises: reads only; object names as documented in `docs/operating.md`; every list is bounded and pages.
//! Does not: change anything (`change.rs` does), or know HTTP. Works on any [`Spool`]: the daemon's on its own
//! thread, or one opened read-only.

use serde_json::{Value, json};
use spool::Spool;
use spool::error::SpoolError;
use spool::ids::{ItemId, LaneId, Lsn, Seq, WallMs};
use spool::submission::{DestinationQueue, Submission};
use spool::types::{Filter, ItemInfo, LaneStats, Mailbox, Page, Transition};

use super::explain::outgoing::Outlook;
use super::explain::{self, Circumstances, Postmaster};
use super::{deliveries, words};
use crate::mail::address::{ForwardPath, Mailbox as Address};
use crate::mail::envelope::Envelope;
use crate::mail::intake::OPERATOR_LANE;

/// Most objects in one answer.
pub const LIMIT_MAX: usize = 1000;
/// Most mailboxes that statistics look at for those with something waiting, so that the ledger is not held up for long.
const MAILBOXES_MAX: usize = 5 * LIMIT_MAX;
/// How many mailboxes are asked for only to see whether there are more: not one, because lanes of mail that leaves may lie
/// between, and are read so many at a time.
const ONE_MORE: usize = 100;
/// Pages of the queues that one answer counts, so that a question does not hold up the ledger for long.
const QUEUE_PAGES_MAX: usize = 25;
/// Most destinations that statistics name.
const DESTINATIONS_MAX: usize = 50;
/// Results that were not told are counted so far.
const UNTOLD_MAX: usize = 10_000;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No such item or mailbox.
    #[error("{0}")]
    NotFound(String),
    /// The question itself is wrong.
    #[error("{0}")]
    Bad(String),
    /// The state of the thing does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Too much is asked at once; another time.
    #[error("{0}")]
    Busy(String),
    /// The spool has a problem.
    #[error("{0}")]
    Spool(#[from] SpoolError),
}

/// What answers need to know of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The relay's name.
    pub hostname: String,
    /// Domains of ours, to read `KEY@domain` as a lane.
    pub domains: Vec<String>,
    /// Mailbox that gets postmaster mail: an address or key text; empty: nobody.
    pub postmaster: String,
    /// Milliseconds acked items stay.
    pub retain_acked_ms: u64,
    /// Milliseconds until an unfetched item expires.
    pub expire_ms: u64,
    /// Milliseconds results of submissions stay.
    pub retain_results_ms: u64,
    /// Milliseconds until a submission that nobody takes fails.
    pub outbound_expire_ms: u64,
    /// Submissions per hour and mailbox; `None`: as many as come.
    pub outbound_per_hour: Option<u32>,
    /// Recipients outside this relay per day and mailbox; `None`: as many as come.
    pub outbound_recipients_per_day: Option<u32>,
}

/// What the answers need to know besides the spool.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time.
    pub now: WallMs,
    /// The configuration.
    pub terms: &'a Terms,
    /// What deliveries do; `None` when no relay runs.
    pub deliveries: Option<&'a deliveries::Now>,
}

/// The mailbox that a person means by a key text, an alias or an address at one of our domains.
///
/// # Errors
/// [`AskError::NotFound`] when nobody has that name.
pub fn resolve(view: &Spool, name: &str, domains: &[String]) -> Result<Mailbox, AskError> {
    let lower = name.trim().trim_start_matches('<').trim_end_matches('>').to_lowercase();
    if let Some(mailbox) = view.mailbox(&lower)? {
        return Ok(mailbox);
    }
    if let Some((local, domain)) = lower.rsplit_once('@')
        && domains.iter().any(|d| d == domain)
        && let Some(mailbox) = view.mailbox(local)?
    {
        return Ok(mailbox);
    }
    Err(AskError::NotFound(format!("no mailbox {name}; `waystation mailbox ls` lists them")))
}

/// The record of one item with its timeline.
///
/// # Errors
/// [`AskError::NotFound`], or when the spool cannot be read.
pub fn item(view: &Spool, id: ItemId, context: &Context<'_>) -> Result<Value, AskError> {
    let info = known(view, id)?;
    let timeline = view.timeline(id)?;
    let mut object = words::item(&info, context.now);
    words::details(&mut object, &info, &timeline);
    if let Some(submission) = submission_of(view, &info)? {
        words::outgoing::submission(&mut object, &submission, context.now);
        words::outgoing::attempts(&mut object, &timeline);
    }
    Ok(object)
}

/// `{"id": ..., "state": ..., "text": one paragraph}`
///
/// # Errors
/// [`AskError::NotFound`], or when the spool cannot be read.
pub fn explanation(
    view: &Spool,
    id: ItemId,
    connected: Option<bool>,
    context: &Context<'_>,
) -> Result<Value, AskError> {
    let info = known(view, id)?;
    let timeline = view.timeline(id)?;
    let mailbox = view.mailbox(&info.lane_name)?;
    if let Some(submission) = submission_of(view, &info)? {
        let owner = view.mailbox(&submission.mailbox_name)?;
        let revoked = owner.is_some_and(|mailbox| mailbox.revoked);
        let text = outgoing(&submission, &timeline, connected, revoked, context);
        return Ok(json!({ "id": id.to_string(), "state": words::state(&info), "text": text }));
    }
    let circumstances = Circumstances {
        now: context.now,
        connected,
        revoked: mailbox.as_ref().is_some_and(|m| m.revoked),
        postmaster: postmaster(view, &info, context.terms)?,
        refusals: view.refusals(&info),
        first_waiting: mailbox.map_or(Seq(0), |m| m.stats.cursor.next()),
        retain_acked_ms: context.terms.retain_acked_ms,
        expire_ms: context.terms.expire_ms,
    };
    let text = explain::explain(&info, &timeline, &circumstances);
    Ok(json!({ "id": id.to_string(), "state": words::state(&info), "text": text }))
}

/// Who gets mail for the postmaster now, if the item is such mail that nobody got. As the intake does it: the address itself
/// comes first, and the first name that is known decides.
fn postmaster(view: &Spool, info: &ItemInfo, terms: &Terms) -> Result<Option<Postmaster>, SpoolError> {
    if info.lane_name != OPERATOR_LANE {
        return Ok(None);
    }
    let mut names = match ForwardPath::parse(&info.tag, true) {
        Ok(ForwardPath::Mailbox(address)) => address.names(),
        Ok(ForwardPath::Postmaster(_)) | Err(_) => Vec::new(),
    };
    match Address::parse(&terms.postmaster, true) {
        Ok(address) => names.extend(address.names()),
        Err(_) if terms.postmaster.is_empty() => {}
        Err(_) => names.push(terms.postmaster.to_ascii_lowercase()), // a key text
    }
    for name in names {
        match view.mailbox(&name)? {
            // The lane of this item has no gateway, by whichever name it is found.
            Some(found) if found.lane == info.lane => break,
            Some(found) if found.revoked => return Ok(Some(Postmaster::Revoked)),
            Some(_) => return Ok(Some(Postmaster::Mailbox)),
            None => {}
        }
    }
    Ok(Some(if terms.postmaster.is_empty() { Postmaster::Nobody } else { Postmaster::NoMailbox }))
}

fn outgoing(
    submission: &Submission,
    timeline: &[Transition],
    connected: Option<bool>,
    revoked: bool,
    context: &Context<'_>,
) -> String {
    let envelope = Envelope::decode(&submission.info.meta).ok();
    let (now, doing) = (context.now, context.deliveries);
    let is_ours = |(name, _): &&(String, WallMs)| *name == submission.destination;
    let left_alone = doing.and_then(|d| d.left_alone.iter().find(is_ours)).map(|(_, until)| *until);
    let outlook = Outlook {
        now,
        mail_from: envelope.as_ref().map(Envelope::mail_from),
        running: doing.is_some(),
        connected,
        revoked,
        paused: doing.and_then(|d| d.paused.as_deref()),
        under_way: doing.is_some_and(|d| d.under_way.contains(&submission.info.id)),
        left_alone_until: left_alone,
        expire_ms: context.terms.outbound_expire_ms,
        retain_ms: context.terms.retain_results_ms,
    };
    explain::outgoing::explain(submission, timeline, &outlook)
}

/// What is known of a submission beside what is known of every item; `None` for items.
///
/// # Errors
/// When the spool cannot be read.
pub fn submission_of(view: &Spool, info: &ItemInfo) -> Result<Option<Submission>, SpoolError> {
    if info.outbound.is_some() { view.submission(info.id) } else { Ok(None) }
}

/// The item's lane name, for looking up whether its gateway is connected.
///
/// # Errors
/// [`AskError::NotFound`], or when the spool cannot be read.
pub fn known(view: &Spool, id: ItemId) -> Result<ItemInfo, AskError> {
    match view.item(id) {
        Ok(Some(info)) => Ok(info),
        Ok(None) => {
            let damaged = view.stats().map_or(0, |stats| stats.quarantined_records);
            let or = match damaged {
                0 => String::new(),
                n => format!(
                    ", or its record is in one of the {n} damaged stretches of the journal that `waystation spool verify` lists"
                ),
            };
            Err(AskError::NotFound(format!("no item {id}; it never was, or its retention is over{or}")))
        }
        Err(SpoolError::Corrupt { lsn, problem }) => Err(damaged(id, lsn, &problem)),
        Err(error) => Err(error.into()),
    }
}

/// The item is there, and its record cannot be read.
fn damaged(id: ItemId, lsn: Lsn, problem: &str) -> AskError {
    AskError::Conflict(format!(
        "the record of item {id} is damaged: in the journal at {lsn}, {problem}. It is never handed out, and its neighbours \
         are not touched by it; `waystation spool verify` lists what else is damaged, `waystation spool purge {id}` \
         takes it off the list"
    ))
}

/// The spool in numbers. `lanes` are those with something waiting, and `lanes_complete` says whether that is all of them: only so
/// many mailboxes are looked at, and named.
///
/// # Errors
/// When the spool cannot be read.
pub fn stats(view: &Spool, context: &Context<'_>) -> Result<Value, AskError> {
    let stats = view.stats()?;
    let (mut lanes, mut after, mut looked, mut seen_all) = (Vec::new(), None, 0, false);
    // Lanes with something waiting, the first thousand of them: stats is for a person.
    while lanes.len() <= LIMIT_MAX && looked < MAILBOXES_MAX {
        let page = view.mailboxes(after, LIMIT_MAX)?;
        after = page.last().map(|last| last.lane);
        looked += page.len();
        let busy = page.iter().filter(|m| m.stats.items[0] + m.stats.items[3] > 0);
        lanes.extend(busy.map(|m| words::mailbox(m, context.now)));
        if page.len() < LIMIT_MAX {
            seen_all = true;
            break;
        }
    }
    let complete = lanes.len() <= LIMIT_MAX && (seen_all || view.mailboxes(after, ONE_MORE)?.is_empty());
    lanes.truncate(LIMIT_MAX);
    let mut object = words::stats(&stats, &lanes, context.now);
    object["lanes_complete"] = complete.into();
    object["outgoing"] = queues(view, context.now)?;
    Ok(object)
}

/// What waits for which destination: `{"untold", "destinations": [{"destination", "queued", "due_at",
/// "due_seconds"}], "destinations_count", "complete"}`, the longest queues first.
fn queues(view: &Spool, now: WallMs) -> Result<Value, AskError> {
    let (mut found, mut from, mut complete): (Vec<DestinationQueue>, _, _) = (Vec::new(), None, false);
    for _ in 0..QUEUE_PAGES_MAX {
        let (page, next) = view.queues(from)?;
        for queue in page {
            match found.last_mut().filter(|last| last.destination == queue.destination) {
                Some(last) => last.queued += queue.queued,
                None => found.push(queue),
            }
        }
        from = next;
        if from.is_none() {
            complete = true;
            break;
        }
    }
    let count = found.len();
    found.sort_by(|a, b| b.queued.cmp(&a.queued).then_with(|| a.destination.cmp(&b.destination)));
    let top = found.iter().take(DESTINATIONS_MAX).map(|q| {
        json!({ "destination": q.destination, "queued": q.queued, "due_at": words::rfc3339(q.due),
                "due_seconds": q.due.since(now) / 1000 })
    });
    let untold = view.untold_count(None, UNTOLD_MAX)?;
    Ok(json!({
        "untold": untold,
        "destinations": top.collect::<Vec<_>>(),
        "destinations_count": count,
        "complete": complete && untold < UNTOLD_MAX,
    }))
}

/// `{"mailboxes": [...], "next": LANE | null}`
///
/// # Errors
/// When the spool cannot be read.
pub fn mailboxes(
    view: &Spool,
    after: Option<u32>,
    limit: Option<usize>,
    context: &Context<'_>,
) -> Result<Value, AskError> {
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let page = view.mailboxes(after.map(LaneId), limit)?;
    let next = if page.len() < limit { None } else { page.last().map(|m| m.lane.0) };
    let found: Vec<_> = page.iter().map(|m| words::mailbox(m, context.now)).collect();
    Ok(json!({ "mailboxes": found, "next": next }))
}

/// One mailbox.
///
/// # Errors
/// [`AskError::NotFound`], or when the spool cannot be read.
pub fn mailbox(view: &Spool, name: &str, context: &Context<'_>) -> Result<Value, AskError> {
    let mailbox = resolve(view, name, &context.terms.domains)?;
    let mut object = words::mailbox(&mailbox, context.now);
    if let Some(outbox) = view.outbox(mailbox.lane)?
        && let Some(lane) = view.mailbox_of_lane(outbox)?
    {
        object["outgoing"] = words::outgoing::outbox(&lane.stats);
        object["outgoing"]["untold"] = view.untold_count(Some(outbox), UNTOLD_MAX)?.into();
        object["outgoing"]["last_hour"] = last_hour(view, &lane, context.now)?.into();
    } else {
        object["outgoing"] = words::outgoing::outbox(&LaneStats::default());
        object["outgoing"]["untold"] = 0.into();
        object["outgoing"]["last_hour"] = 0.into();
    }
    let terms = context.terms;
    object["outgoing"]["per_hour_max"] = mailbox.submissions_per_hour.or(terms.outbound_per_hour).into();
    object["outgoing"]["recipients_per_day_max"] =
        mailbox.recipients_per_day.or(terms.outbound_recipients_per_day).into();
    Ok(object)
}

/// Submissions taken within an hour, counted up to [`LIMIT_MAX`].
fn last_hour(view: &Spool, outbox: &Mailbox, now: WallMs) -> Result<usize, SpoolError> {
    const HOUR_MS: u64 = 3_600_000;
    let first = outbox.stats.next_seq.0.saturating_sub(LIMIT_MAX as u64 + 1);
    let since = Some(WallMs(now.0.saturating_sub(HOUR_MS)));
    let filter = Filter { lane: Some(outbox.lane), since, ..Filter::default() };
    let (page, _) = view.list(&filter, Some(Page { lane: outbox.lane, seq: Seq(first) }), LIMIT_MAX)?;
    Ok(page.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spool::Options;
    use spool::disk::sim::SimDisk;
    use spool::index::memory::MemoryIndex;
    use spool::types::{MailboxChange, NewMessage, Target};

    use super::*;

    const NOW: WallMs = WallMs(1_800_000_000_000);

    fn open() -> Spool {
        let options = Options { min_free_bytes: 0, seed: 7, ..Options::default() };
        let (disk, index) = (Arc::new(SimDisk::new()), Arc::new(MemoryIndex::new()));
        Spool::open(disk, index, options, NOW).unwrap().0
    }

    fn put(spool: &mut Spool, lane: LaneId, n: u8, to: &str) -> ItemId {
        let id = ItemId::new(NOW, [n; 10]);
        let message = NewMessage {
            body: id,
            body_bytes: 0,
            sha256: [0; 32],
            head: Vec::new(),
            meta: Vec::new(),
            fingerprint: None,
            targets: vec![Target { lane, id, tag: to.into() }],
        };
        spool.accept(message, NOW).unwrap();
        spool.commit(NOW).unwrap();
        id
    }

    #[test]
    fn mail_for_the_postmaster_is_explained_by_the_names_that_the_intake_tries_now() {
        let mut spool = open();
        let operator = spool.register(OPERATOR_LANE, NOW).unwrap();
        spool.register("home", NOW).unwrap();
        spool.commit(NOW).unwrap();
        let id = put(&mut spool, operator, 1, "PostMaster@our.example");
        let says = |spool: &Spool, configured: &str, words: &str| {
            let terms = Terms { postmaster: configured.into(), ..Terms::default() };
            let context = Context { now: NOW, terms: &terms, deliveries: None };
            let answer = explanation(spool, id, None, &context).unwrap();
            assert!(answer["text"].as_str().unwrap().contains(words), "{words}: {answer}");
        };
        says(&spool, "", "names nobody");
        says(&spool, "nobody@our.example", "names no mailbox");
        says(&spool, OPERATOR_LANE, "names no mailbox");
        says(&spool, "HOME", "what comes goes there");
        let alias = MailboxChange::AddAlias("postmaster@our.example".into());
        spool.change_mailbox("home", alias).unwrap();
        spool.commit(NOW).unwrap();
        says(&spool, "", "what comes goes there");
        spool.change_mailbox("home", MailboxChange::Revoke).unwrap();
        spool.commit(NOW).unwrap();
        says(&spool, "", "what comes is refused");
    }

    #[test]
    fn statistics_look_at_so_many_mailboxes_and_say_when_there_are_more() {
        let mut spool = open();
        let context = Context { now: NOW, terms: &Terms::default(), deliveries: None };
        let lanes: Vec<_> =
            (0..MAILBOXES_MAX).map(|n| spool.register(&format!("lane{n}"), NOW).unwrap()).collect();
        spool.commit(NOW).unwrap();
        put(&mut spool, lanes[MAILBOXES_MAX - 1], 1, "");
        let all = stats(&spool, &context).unwrap();
        assert_eq!(all["lanes"].as_array().map(Vec::len), Some(1), "the last one");
        assert_eq!(all["lanes_complete"], true);

        let more: Vec<_> = (0..100).map(|n| spool.register(&format!("more{n}"), NOW).unwrap()).collect();
        spool.commit(NOW).unwrap();
        put(&mut spool, more[99], 2, "");
        let some = stats(&spool, &context).unwrap();
        assert_eq!(some["lanes"].as_array().map(Vec::len), Some(1), "another one waits further down");
        assert_eq!(some["lanes_complete"], false);
        assert_eq!(some["items"]["ready"], 2, "what is counted is counted all the same");
    }
}
