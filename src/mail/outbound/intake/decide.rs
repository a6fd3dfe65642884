//! What becomes of a whole stream: queued, delivered here, or refused with one reason.
//!
//! Promises: a recipient in a domain of ours never goes out by DNS; sender and author belong to the key; a repeat of
//! what is known already, or that finds no room, costs no quota. Order of the reasons: content, recipient, sender, mailbox here, limits.

use spool::Spool;
use spool::error::{AcceptError, SpoolError};
use spool::ids::LaneId;

use super::Settings;
use super::quotas::{Over, Own, Quotas, Way};
use super::stream::Collected;
use crate::mail::address::{ForwardPath, Mailbox};
use crate::mail::intake::ledger;
use crate::mail::outbound::prepare::{self, Draft, Refusal};
use crate::mail::outbound::values::Note;
use crate::mail::smtp::receiver::Answer;

/// Queue of a submission whose recipient has no domain; it is settled before it waits there.
const NOWHERE: &str = "invalid";

/// What the spool knows that matters here.
#[derive(Debug)]
pub(super) struct Facts {
    /// Names that lead to the mailbox, its own first.
    pub(super) names: Vec<String>,
    /// The stream, or its twin, was submitted before.
    pub(super) known: bool,
    /// For a recipient in a domain of ours.
    pub(super) here: Option<Answer>,
    /// Neither the disk nor the mailbox's outbox has room for another one.
    pub(super) is_full: bool,
    /// Limits of the mailbox's own.
    pub(super) own: Own,
}

/// What is asked of the spool.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) mailbox: LaneId,
    pub(super) key: [u8; 32],
    pub(super) twin: Option<[u8; 32]>,
    /// Names of mailboxes here that the recipient may be, best first.
    pub(super) recipient: Option<Vec<String>>,
}

impl Question {
    /// On the ledger's thread. `None`: the mailbox is gone or revoked.
    pub(super) fn ask(self, spool: &Spool, now: spool::ids::WallMs) -> Result<Option<Facts>, SpoolError> {
        let Some(mailbox) = spool.mailbox_of_lane(self.mailbox)?.filter(|mailbox| !mailbox.revoked) else {
            return Ok(None);
        };
        let mut known = spool.submission_by_key(&self.key, now)?.is_some();
        if let Some(twin) = self.twin {
            known |= spool.submission_by_key(&twin, now)?.is_some();
        }
        let here = self.recipient.map(|names| ledger::look_up(spool, &names)).transpose()?;
        let room = match spool.outbox(self.mailbox)? {
            Some(outbox) => spool.room(outbox),
            None => spool.accepts(),
        };
        let is_full = matches!(room, Err(AcceptError::NoSpace | AcceptError::OverQuota));
        let own =
            Own { per_hour: mailbox.submissions_per_hour, recipients_per_day: mailbox.recipients_per_day };
        let names = std::iter::once(mailbox.name).chain(mailbox.aliases).collect();
        Ok(Some(Facts { names, known, here, is_full, own }))
    }
}

/// Names to look for when the recipient is in a domain of ours.
pub(super) fn recipient_names(
    settings: &Settings,
    recipient: &Result<Mailbox, Refusal>,
) -> Option<Vec<String>> {
    let mailbox = recipient.as_ref().ok().filter(|mailbox| is_ours(settings, mailbox))?;
    Some(ledger::names(&ForwardPath::Mailbox(mailbox.clone()), &settings.postmaster))
}

fn is_ours(settings: &Settings, mailbox: &Mailbox) -> bool {
    settings.domains.iter().any(|domain| domain == mailbox.domain())
}

/// The decision.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It waits for its first attempt.
    Queue {
        /// In this queue.
        destination: String,
    },
    /// It becomes an item of this lane in the same commit.
    Here {
        /// The queue it never waits in.
        destination: String,
        /// The lane.
        lane: LaneId,
    },
    /// It has failed.
    Refuse {
        /// The queue it never waits in.
        destination: String,
        /// Why.
        note: Note,
    },
    /// The spool cannot say now.
    NotNow(&'static str),
}

fn note(text: impl ToString, enhanced_code: &str) -> Note {
    Note { text: text.to_string(), enhanced_code: enhanced_code.to_owned(), ..Note::default() }
}

impl From<Over> for Note {
    fn from(over: Over) -> Self {
        note(over, over.enhanced_code())
    }
}

impl From<&Refusal> for Note {
    fn from(refusal: &Refusal) -> Self {
        note(refusal, refusal.enhanced_code())
    }
}

/// Decides.
pub(super) fn decide(
    settings: &Settings,
    quotas: &Quotas,
    mailbox: LaneId,
    collected: &Collected,
    recipient: &Result<Mailbox, Refusal>,
    facts: &Facts,
) -> Verdict {
    let destination = recipient.as_ref().map_or(NOWHERE, |mailbox| mailbox.domain()).to_owned();
    let draft = match (&collected.content, recipient) {
        (Err(refusal), _) | (Ok(_), Err(refusal)) => {
            return Verdict::Refuse { destination, note: refusal.into() };
        }
        (Ok((draft, _)), Ok(_)) => draft,
    };
    if let Err(refusal) = sender(settings, draft, &collected.mail_from, &facts.names) {
        return Verdict::Refuse { destination, note: Note::from(&refusal) };
    }
    let (way, lane) = match &facts.here {
        None => (Way::Outside, None),
        Some(Answer::Lane { lane, .. }) => {
            (Way::Inside { to: *lane, automatic: draft.is_automatic() }, Some(*lane))
        }
        Some(Answer::Unknown) => {
            return Verdict::Refuse { destination, note: note("there is no such mailbox here", "5.1.1") };
        }
        Some(Answer::Revoked) => {
            return Verdict::Refuse { destination, note: note("the mailbox is closed", "5.2.1") };
        }
        Some(Answer::OverQuota) => {
            return Verdict::Refuse { destination, note: note("the mailbox is full", "5.2.2") };
        }
        Some(Answer::NoSpace) => return not_now("storage is below its free-space floor", destination, facts),
        Some(
            Answer::Failed
            | Answer::Busy
            | Answer::Spent
            | Answer::Begin
            | Answer::NotOwned { .. }
            | Answer::Offences { .. }
            | Answer::Refused(_),
        ) => {
            return not_now("the spool does not answer", destination, facts);
        }
    };
    // Asked again and again while the disk is full, it must not use up what the mailbox may send afterwards.
    if !facts.known && facts.is_full {
        return Verdict::NotNow("there is no room for another submission");
    }
    if !facts.known
        && let Err(over) = quotas.take(mailbox, facts.own, way)
    {
        return Verdict::Refuse { destination, note: over.into() };
    }
    match lane {
        Some(lane) => Verdict::Here { destination, lane },
        None => Verdict::Queue { destination },
    }
}

/// The spool cannot take it now. What it has already is found there all the same, and answered with what became of that:
/// `failed` would be wrong. It is settled, so that it never waits for an attempt should it have been forgotten meanwhile.
fn not_now(reason: &'static str, destination: String, facts: &Facts) -> Verdict {
    if facts.known {
        Verdict::Refuse { destination, note: note(reason, "4.3.1") }
    } else {
        Verdict::NotNow(reason)
    }
}

/// Envelope sender and author belong to the mailbox: by its key text at a domain of ours, or by an alias.
fn sender(settings: &Settings, draft: &Draft, mail_from: &str, names: &[String]) -> Result<(), Refusal> {
    let owns = |mailbox: &Mailbox| {
        is_ours(settings, mailbox) && mailbox.names().iter().any(|name| names.contains(name))
    };
    prepare::check_sender(draft, mail_from, &owns)
}
