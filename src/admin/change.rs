//! Changes that an operator asks for, made through the spool's own thread: answered when they are stable.
//!
//! Used by the daemon's admin socket, and by `--offline` commands that own the directory for a moment.
//!
//! Failure policy: what follows from a change (its log line, the end of the sessions of a revoked mailbox) is done as soon as the
//! change is stable, before anything else is tried: a later step that fails changes nothing about it.

mod outgoing;
pub mod people;
mod resend;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spool::Spool;
use spool::error::RequestError;
use spool::ids::{ItemId, Seq, WallMs};
use spool::inspect::ReplayFrom;
use spool::types::{MailboxChange, State, Verb};

use super::ask::{self, AskError, Context, Terms};
use super::presence::Presence;
use super::words;
use crate::identity::key::KeyText;
use crate::mail::address::Mailbox as Address;
use crate::observe::Metrics;
use crate::spooler::Spooler;
use people::InviteAsk;

/// Longest reason that is kept, characters.
pub const REASON_CHARS_MAX: usize = 500;

/// What `spool replay` asks for; exactly one of the two starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayAsk {
    /// Mailbox name, alias or address.
    pub lane: String,
    /// Items accepted at or after, milliseconds since 1970 UTC.
    pub since_ms: Option<u64>,
    /// Items from this number on.
    pub from_seq: Option<u64>,
}

/// What an operator may do to an item or a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemVerb {
    /// Stop handing it out, or trying it.
    Hold,
    /// Go on; a submission is due at once.
    Release,
    /// Items: offer it again, within its retention.
    Replay,
    /// Remove it; a submission only when its gateway has the result.
    Purge,
    /// Submissions: end it as failed, before it is armed.
    Cancel,
    /// Submissions: due at once.
    Retry,
}

impl ItemVerb {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Hold, Self::Release, Self::Replay, Self::Purge, Self::Cancel, Self::Retry];

    /// The word of the command line and of requests.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Replay => "replay",
            Self::Purge => "purge",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }
}

/// What an operator wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Register a key.
    Add {
        /// Key text.
        key: String,
    },
    /// Register a key, or undo its revocation.
    Allow {
        /// Key text, alias or address.
        name: String,
    },
    /// Refuse it from now on.
    Revoke {
        /// Key text, alias or address.
        name: String,
        /// Hold what it has submitted and nobody has tried yet, too.
        hold_outgoing: bool,
    },
    /// Make an invitation; the answer has its code, once.
    Invite(InviteAsk),
    /// Take an invitation back.
    Withdraw {
        /// First characters of its id, enough to be the only one.
        id: String,
    },
    /// Give it an address, or take it away.
    Alias {
        /// Key text, alias or address of the mailbox.
        name: String,
        /// The full address.
        address: String,
        /// Take it away.
        remove: bool,
    },
    /// Own limits; `None` goes back to the default.
    Quota {
        /// Key text, alias or address.
        name: String,
        /// Most undelivered items.
        items: Option<u64>,
        /// Most undelivered bytes.
        bytes: Option<u64>,
        /// Most submissions in an hour.
        submissions_per_hour: Option<u32>,
        /// Most recipients elsewhere in a day.
        recipients_per_day: Option<u32>,
    },
    /// Do something to an item or a submission.
    Item {
        /// Which.
        id: ItemId,
        /// What.
        verb: ItemVerb,
        /// The state in which whoever asks saw it: in another one it is left alone. `None`: whatever its state is.
        seen: Option<State>,
        /// Why.
        reason: String,
    },
    /// Make a new submission of the message of one that failed, or of which nobody knows.
    Resend {
        /// Which.
        id: ItemId,
        /// A duplicate does no harm.
        sure: bool,
        /// Why.
        reason: String,
    },
    /// Offer acked items again.
    Replay(ReplayAsk),
}

/// What a change reaches besides the spool, while a relay runs.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// Who is connected: the sessions of a mailbox end with its revocation.
    pub presence: &'a dyn Presence,
    /// The relay's metrics.
    pub metrics: &'a Metrics,
}

impl Running<'_> {
    /// Does what follows from a change that is stable.
    fn follow(&self, change: &Change, made: &Value, now: WallMs) {
        match change {
            Change::Revoke { .. } => self.presence.revoke(made["lane"].as_str().unwrap_or_default()),
            Change::Replay(_) => self.metrics.replayed(made["replayed"].as_u64().unwrap_or(0)),
            Change::Item { verb: ItemVerb::Replay, .. } => self.metrics.replayed(1),
            Change::Item { id, verb: ItemVerb::Cancel, .. } => {
                self.metrics.outbound_settled(State::Failed.word(), now.since(id.time()));
            }
            Change::Item {
                verb: ItemVerb::Hold | ItemVerb::Release | ItemVerb::Purge | ItemVerb::Retry,
                ..
            }
            | Change::Add { .. }
            | Change::Allow { .. }
            | Change::Invite(_)
            | Change::Withdraw { .. }
            | Change::Alias { .. }
            | Change::Quota { .. }
            | Change::Resend { .. } => {}
        }
    }
}

/// Makes `change` and answers what is so afterwards. It takes several steps: whoever may be gone before the last one runs
/// this on a task of its own.
///
/// * `running` – `None`: no relay runs.
///
/// # Errors
/// [`AskError`]; nothing was changed then, unless the spool itself failed, or a later step of a revocation: the revocation
/// stands then.
pub async fn apply(
    spooler: &Spooler,
    change: Change,
    terms: &Terms,
    running: Option<Running<'_>>,
    now: WallMs,
) -> Result<Value, AskError> {
    let asked = change.clone();
    let made = if let Change::Resend { id, sure, reason } = change {
        resend::resend(spooler, id, sure, clean(&reason), terms, now).await?
    } else {
        let terms = terms.clone();
        spooler.call(move |spool| stage(spool, change, &terms, now)).await??
    };
    log(&asked, &made);
    if let Some(running) = running {
        running.follow(&asked, &made, now);
    }
    let hold_too = match &asked {
        Change::Revoke { hold_outgoing, .. } => *hold_outgoing,
        Change::Add { .. } | Change::Allow { .. } | Change::Alias { .. } | Change::Quota { .. } => false,
        Change::Invite(_)
        | Change::Withdraw { .. }
        | Change::Item { .. }
        | Change::Resend { .. }
        | Change::Replay(_) => return Ok(made),
    };
    let name = made["lane"].as_str().unwrap_or_default().to_owned();
    let held = if hold_too { Some(hold_outgoing(spooler, &name, now).await?) } else { None };
    let terms = terms.clone();
    let mut answer = spooler
        .query(move |spool| ask::mailbox(spool, &name, &Context { now, terms: &terms, deliveries: None }))
        .await??;
    if let Some(held) = held {
        answer["held_now"] = held.ids.len().into();
        answer["not_held_now"] = held.unreadable.into();
    }
    Ok(answer)
}

/// Holds what a revoked mailbox has submitted. A step of its own: what came in with the commit of the revocation can be looked
/// at only after it.
async fn hold_outgoing(spooler: &Spooler, lane: &str, now: WallMs) -> Result<people::Held, AskError> {
    let name = lane.to_owned();
    let held = spooler.call(move |spool| people::hold_outgoing(spool, &name, now)).await??;
    for id in &held.ids {
        tracing::info!(
            event = "relay.outbound.held", submission.id = %id, lane, reason = people::REVOKED,
            "submission {id} is held: {}", people::REVOKED
        );
    }
    if held.unreadable > 0 {
        tracing::warn!(
            event = "relay.outbound.not_held",
            lane,
            submissions = held.unreadable,
            "{} submissions of a revoked mailbox could not be held: their records cannot be read",
            held.unreadable
        );
    }
    Ok(held)
}

/// On the ledger's thread. Of a change to a mailbox the answer is its name only.
fn stage(spool: &mut Spool, change: Change, terms: &Terms, now: WallMs) -> Result<Value, AskError> {
    let context = Context { now, terms, deliveries: None };
    let domains = &terms.domains;
    let name = match change {
        Change::Add { key } => {
            let key = key_text(&key)?;
            // To register it again changes nothing: it would be "added", and still not let in.
            if spool.mailbox(&key)?.is_some_and(|mailbox| mailbox.revoked) {
                return Err(AskError::Conflict(format!(
                    "{key} is revoked; `waystation mailbox allow {key}` lets it in again"
                )));
            }
            spool.register(&key, now).map_err(refused)?;
            key
        }
        Change::Allow { name } => {
            let name = match ask::resolve(spool, &name, domains) {
                Ok(mailbox) => mailbox.name,
                Err(AskError::NotFound(_)) => {
                    let key = key_text(&name)?;
                    spool.register(&key, now).map_err(refused)?;
                    key
                }
                Err(other) => return Err(other),
            };
            spool.change_mailbox(&name, MailboxChange::Allow).map_err(refused)?;
            name
        }
        Change::Revoke { name, .. } => change_mailbox(spool, &name, MailboxChange::Revoke, &context)?,
        Change::Invite(asked) => return people::invite(spool, &asked, rand::random(), domains, now),
        Change::Withdraw { id } => return people::withdraw(spool, &id, now),
        Change::Alias { name, address, remove } => {
            let address = alias(&address, domains)?;
            let change =
                if remove { MailboxChange::RemoveAlias(address) } else { MailboxChange::AddAlias(address) };
            change_mailbox(spool, &name, change, &context)?
        }
        Change::Quota { name, items, bytes, submissions_per_hour, recipients_per_day } => {
            let name = change_mailbox(spool, &name, MailboxChange::Quota { items, bytes }, &context)?;
            let sending = MailboxChange::Sending { per_hour: submissions_per_hour, recipients_per_day };
            change_mailbox(spool, &name, sending, &context)?
        }
        Change::Item { id, verb, seen, reason } => return item(spool, id, verb, seen, &reason, now),
        Change::Resend { .. } => return Err(AskError::Bad("it takes more than one step".to_owned())),
        Change::Replay(ask) => return replay(spool, &ask, &context),
    };
    Ok(json!({ "lane": name }))
}

fn item(
    spool: &mut Spool,
    id: ItemId,
    verb: ItemVerb,
    seen: Option<State>,
    reason: &str,
    now: WallMs,
) -> Result<Value, AskError> {
    let reason = clean(reason);
    let noted = words::by_operator(&reason);
    let before = match ask::known(spool, id) {
        // A record that cannot be read is no reason to keep what is left of the item. Nobody can be handed it in whatever
        // state, so it does not matter in which it was seen.
        Err(AskError::Conflict(_)) if verb == ItemVerb::Purge => {
            spool.apply_verb(id, Verb::Purge, &noted, now).map_err(refused)?;
            return Ok(
                json!({ "id": id.to_string(), "direction": null, "state": State::Purged.word(), "reason": reason }),
            );
        }
        known => known?,
    };
    // Here and not where it was selected: nothing comes between this look and the change.
    if let Some(seen) = seen.filter(|seen| *seen != before.state) {
        return Err(AskError::Conflict(format!(
            "{id} was {} when it was selected and is {} now, so it is left alone",
            seen.word(),
            words::state(&before)
        )));
    }
    if let Some(outbound) = &before.outbound {
        if verb == ItemVerb::Replay {
            return Err(AskError::Bad(format!(
                "{id} is a submission; `replay` is for items on their way to a gateway, `resend` for submissions"
            )));
        }
        outgoing::allowed(&before, outbound.told, verb)?;
    }
    let state = match verb {
        ItemVerb::Hold => spool.apply_verb(id, Verb::Hold, &noted, now).map(|()| State::Held),
        ItemVerb::Release => spool.apply_verb(id, Verb::Release, &noted, now).map(|()| State::Ready),
        ItemVerb::Replay => spool.apply_verb(id, Verb::Replay, &noted, now).map(|()| State::Ready),
        ItemVerb::Purge => spool.apply_verb(id, Verb::Purge, &noted, now).map(|()| State::Purged),
        ItemVerb::Cancel | ItemVerb::Retry if before.outbound.is_none() => {
            let word = verb.word();
            return Err(AskError::Bad(format!(
                "item {id} is on its way to a gateway; `{word}` is for submissions"
            )));
        }
        ItemVerb::Cancel => outgoing::cancel(spool, id, &reason, now).map(|()| State::Failed),
        ItemVerb::Retry => outgoing::retry(spool, id, &reason, now).map(|()| State::Ready),
    };
    let state = state.map_err(refused)?;
    let direction = if before.outbound.is_some() { "out" } else { "in" };
    Ok(json!({
        "id": id.to_string(),
        "direction": direction,
        "lane": before.lane_name,
        "state": state.word(),
        "reason": reason,
    }))
}

/// A reason that fits one line of the timeline.
fn clean(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

fn change_mailbox(
    spool: &mut Spool,
    name: &str,
    change: MailboxChange,
    context: &Context<'_>,
) -> Result<String, AskError> {
    let name = ask::resolve(spool, name, &context.terms.domains)?.name;
    spool.change_mailbox(&name, change).map_err(refused)?;
    Ok(name)
}

fn replay(spool: &mut Spool, ask: &ReplayAsk, context: &Context<'_>) -> Result<Value, AskError> {
    let from = match (ask.since_ms, ask.from_seq) {
        (Some(since), None) => ReplayFrom::Since(WallMs(since)),
        (None, Some(seq)) => ReplayFrom::Seq(Seq(seq)),
        (Some(_), Some(_)) | (None, None) => {
            return Err(AskError::Bad("say either since_ms or from_seq".to_owned()));
        }
    };
    let mailbox = ask::resolve(spool, &ask.lane, &context.terms.domains)?;
    // In one go: an operator waits for one answer, and a state record holds thousands of items.
    let (mut count, mut at) = (0, None);
    loop {
        let done = spool.replay(mailbox.lane, from, at, context.now).map_err(refused)?;
        count += done.items;
        at = done.go_on;
        if at.is_none() {
            break;
        }
    }
    Ok(json!({ "lane": mailbox.name, "replayed": count }))
}

fn key_text(text: &str) -> Result<String, AskError> {
    let lower = text.trim().to_ascii_lowercase();
    KeyText::from_peer(&lower).map(|k| k.as_str().to_owned()).map_err(|e| {
        AskError::Bad(format!("`{text}` is no key text ({e}); `waystation gateway bootstrap` prints one"))
    })
}

/// A full address at one of our domains, in the form under which recipients are looked up.
fn alias(text: &str, domains: &[String]) -> Result<String, AskError> {
    let address =
        Address::parse(text, true).map_err(|e| AskError::Bad(format!("`{text}` is no address: {e}")))?;
    if !domains.iter().any(|d| d == address.domain()) {
        let ours = domains.join(", ");
        return Err(AskError::Bad(format!(
            "`{}` is no domain of this relay; those are {ours}",
            address.domain()
        )));
    }
    Ok(address.key())
}

fn refused(error: RequestError) -> AskError {
    match error {
        RequestError::UnknownItem(_) | RequestError::UnknownMailbox(_) => {
            AskError::NotFound(error.to_string())
        }
        RequestError::NameTaken(_) | RequestError::WrongState { .. } | RequestError::NoSession => {
            AskError::Conflict(error.to_string())
        }
        RequestError::Spool(error) => AskError::Spool(error),
    }
}

/// One line per change that is stable now.
fn log(change: &Change, answer: &Value) {
    let lane = answer["lane"].as_str().unwrap_or("");
    match change {
        Change::Add { .. } => tracing::info!(event = "relay.mailbox.added", lane, "mailbox added"),
        Change::Allow { .. } => tracing::info!(event = "relay.mailbox.allowed", lane, "mailbox allowed"),
        Change::Revoke { .. } => tracing::info!(event = "relay.mailbox.revoked", lane, "mailbox revoked"),
        Change::Alias { remove, .. } => {
            tracing::info!(event = "relay.mailbox.alias_changed", lane, remove, "alias changed");
        }
        Change::Invite(_) => {
            let id = answer["id"].as_str().unwrap_or("");
            tracing::info!(event = "relay.invitation.made", invitation.id = id, "invitation made");
        }
        Change::Withdraw { .. } => {
            let id = answer["id"].as_str().unwrap_or("");
            tracing::info!(event = "relay.invitation.withdrawn", invitation.id = id, "invitation withdrawn");
        }
        Change::Quota { .. } => tracing::info!(event = "relay.mailbox.quota_changed", lane, "quota changed"),
        Change::Item { id, verb, .. } => moved(*id, *verb, answer),
        Change::Resend { id, .. } => {
            let new = answer["id"].as_str().unwrap_or("");
            tracing::info!(
                event = "relay.outbound.resent", submission.id = %id, new,
                "an operator sends submission {id} again as {new}"
            );
        }
        Change::Replay(_) => {
            let items = answer["replayed"].as_u64().unwrap_or(0);
            tracing::info!(event = "relay.item.replayed", lane, items, "operator replayed {items} items");
        }
    }
}

/// A step of one item or submission; a verb that is not for it was refused before.
fn moved(id: ItemId, verb: ItemVerb, answer: &Value) {
    let (lane, reason) = (answer["lane"].as_str().unwrap_or(""), answer["reason"].as_str().unwrap_or(""));
    if answer["direction"] == "out" {
        let event = match verb {
            ItemVerb::Hold => "relay.outbound.held",
            ItemVerb::Release => "relay.outbound.released",
            ItemVerb::Purge => "relay.outbound.purged",
            ItemVerb::Cancel => "relay.outbound.failed",
            ItemVerb::Retry | ItemVerb::Replay => "relay.outbound.retried",
        };
        let what = match verb {
            ItemVerb::Hold => "is held",
            ItemVerb::Release | ItemVerb::Retry | ItemVerb::Replay => "is due now",
            ItemVerb::Purge => "is purged",
            ItemVerb::Cancel => "has failed: cancelled",
        };
        tracing::info!(event, submission.id = %id, lane, reason, "submission {id} {what} by an operator");
    } else {
        let event = match verb {
            ItemVerb::Hold => "relay.item.held",
            ItemVerb::Release => "relay.item.released",
            ItemVerb::Replay => "relay.item.replayed",
            ItemVerb::Purge | ItemVerb::Cancel | ItemVerb::Retry => "relay.item.purged",
        };
        let state = answer["state"].as_str().unwrap_or("");
        tracing::info!(event, item.id = %id, lane, reason, "item {id} is {state} by an operator");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_full_addresses_at_our_domains() {
        let domains = ["mail.example".to_owned()];
        assert_eq!(alias("Home@Mail.Example", &domains), Ok("home@mail.example".to_owned()));
        assert!(matches!(alias("home@other.example", &domains), Err(AskError::Bad(_))));
        assert!(matches!(alias("home", &domains), Err(AskError::Bad(_))));
    }

    #[test]
    fn key_texts_are_canonical() {
        assert!(matches!(key_text("short"), Err(AskError::Bad(_))));
    }
}
