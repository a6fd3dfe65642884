//! What a user is told of the outbox: counts, recent submissions, the story of one.
//!
//! Promise: an answer says what is on stable storage, in the five words that the gateway's user knows.

use serde::{Deserialize, Serialize};
use spool::Spool;
use spool::error::SpoolError;
use spool::ids::{ItemId, LaneId, Seq, WallMs};
use spool::submission::{INTERRUPTED, Submission, TOLD};
use spool::types::{Filter, Page, State as Stored, Transition};

use super::ACCEPTED_DUE;
use super::draft::Memo;
use super::ledger::newest;

/// Most submissions in one list.
const RECENT_MAX: usize = 1000;

/// Where a submission stands, as its user sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Here; the relay has not said that it has it.
    #[default]
    Queued,
    /// The relay has it on stable storage.
    Accepted,
    /// The next hop has it.
    Sent,
    /// Nobody has it.
    Failed,
    /// Nobody knows.
    Indeterminate,
}

impl State {
    /// The word for tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Accepted => "accepted",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// What is kept with one step of a submission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remark {
    pub(super) state: State,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) text: String,
    /// The submission's name at the relay.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) relay_id: String,
}

impl Remark {
    pub(super) fn new(state: State, text: &str) -> Self {
        Self { state, text: text.to_owned(), relay_id: String::new() }
    }

    pub(super) fn to_note(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a step of the spool's timeline means.
    fn of(step: &Transition) -> Self {
        if let Ok(remark) = serde_json::from_str(&step.reason) {
            return remark;
        }
        let state = match Stored::from_word(&step.state) {
            Some(Stored::Sent) => State::Sent,
            Some(Stored::Failed) => State::Failed,
            Some(Stored::Indeterminate | Stored::Armed) => State::Indeterminate,
            Some(
                Stored::Ready
                | Stored::Acked
                | Stored::Expired
                | Stored::Held
                | Stored::Quarantined
                | Stored::Purged,
            )
            | None => State::Queued,
        };
        let text = match step.reason.as_str() {
            INTERRUPTED => "the gateway stopped before a relay that forgets ids had answered",
            // The ledger's word for its first step; here it would mean something else.
            "accepted" => "",
            other => other,
        };
        Self::new(state, text)
    }
}

/// How many submissions are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Waiting here.
    pub queued: u64,
    /// The relay has them.
    pub accepted: u64,
    /// Ended well, and still remembered.
    pub sent: u64,
    /// Ended badly, and still remembered.
    pub failed: u64,
    /// Ended in doubt, or about to, and still remembered.
    pub indeterminate: u64,
}

/// One submission in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// A result may still come.
    pub pending: bool,
    /// Envelope sender.
    pub mail_from: String,
    /// Envelope recipient.
    pub rcpt_to: String,
    /// Bytes of the message.
    pub size_bytes: u64,
    /// When it was queued, milliseconds since 1970 UTC.
    pub queued_ms: u64,
    /// How long ago that was.
    pub age_seconds: u64,
    /// Its name at the relay; empty before the relay has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub relay_id: String,
    /// What was said last: why it waits, or how it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// One step in a submission's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Where it stood from then on.
    pub state: State,
    /// Why, one line; may be empty.
    pub text: String,
}

/// All that is known of one submission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// As in a list.
    #[serde(flatten)]
    pub entry: Entry,
    /// What happened, oldest first.
    pub events: Vec<Event>,
}

/// The newest submissions of a mailbox, newest first.
pub(super) fn recent(
    spool: &Spool,
    mailbox: LaneId,
    limit: usize,
    now: WallMs,
) -> Result<Vec<Entry>, SpoolError> {
    let limit = limit.min(RECENT_MAX);
    let Some(lane) = spool.outbox(mailbox)? else { return Ok(Vec::new()) };
    let Some(newest) = newest(spool, lane)? else { return Ok(Vec::new()) };
    let first = newest.seq.0.saturating_sub(limit as u64);
    let filter = Filter { lane: Some(lane), ..Filter::default() };
    let (infos, _) = spool.list(&filter, Some(Page { lane, seq: Seq(first) }), limit)?;
    let mut entries = Vec::with_capacity(infos.len());
    for info in infos.iter().rev().filter(|info| info.state != Stored::Purged) {
        if let Some(submission) = spool.submission(info.id)? {
            let steps = spool.timeline(info.id)?;
            entries.push(entry(&submission, &steps, now));
        }
    }
    Ok(entries)
}

/// All that is known of one submission; `None` for one that never was, or was forgotten.
pub(super) fn story(spool: &Spool, id: ItemId, now: WallMs) -> Result<Option<Story>, SpoolError> {
    let Some(submission) = spool.submission(id)? else { return Ok(None) };
    let steps = spool.timeline(id)?;
    let mut events: Vec<Event> = Vec::with_capacity(steps.len());
    for step in steps.iter().filter(|step| step.reason != TOLD) {
        let Remark { state, text, .. } = Remark::of(step);
        let event = Event { at_ms: step.at_ms, state, text };
        // A result that needed two steps of the ledger is one event.
        if events.last() != Some(&event) {
            events.push(event);
        }
    }
    Ok(Some(Story { entry: entry(&submission, &steps, now), events }))
}

fn entry(submission: &Submission, steps: &[Transition], now: WallMs) -> Entry {
    let info = &submission.info;
    let (state, pending) = match info.state {
        Stored::Sent => (State::Sent, false),
        Stored::Failed => (State::Failed, false),
        Stored::Indeterminate => (State::Indeterminate, false),
        Stored::Armed => (State::Indeterminate, true),
        Stored::Ready if submission.due == ACCEPTED_DUE => (State::Accepted, true),
        Stored::Ready
        | Stored::Held
        | Stored::Acked
        | Stored::Expired
        | Stored::Quarantined
        | Stored::Purged => (State::Queued, true),
    };
    let mut told = steps.iter().filter(|step| step.reason != TOLD).map(Remark::of);
    let relay_id = told.clone().map(|remark| remark.relay_id).rfind(|id| !id.is_empty()).unwrap_or_default();
    Entry {
        id: info.id.to_string(),
        state,
        pending,
        mail_from: Memo::read(&info.meta).map(|memo| memo.mail_from).unwrap_or_default(),
        rcpt_to: String::from_utf8_lossy(&info.tag).into_owned(),
        size_bytes: info.size_bytes,
        queued_ms: info.accepted_at.0,
        age_seconds: now.since(info.accepted_at) / 1000,
        relay_id,
        text: told.next_back().map(|remark| remark.text).unwrap_or_default(),
    }
}
