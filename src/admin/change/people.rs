//! Invitations as an operator sees them, and what else revocation does.
//!
//! Promises: the code of an invitation is in the answer to the request that made it and nowhere else; its id is the
//! beginning of the code's hash, which is no secret.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spool::Spool;
use spool::error::{RequestError, SpoolError};
use spool::ids::{ItemId, WallMs};
use spool::invitations::{Ending, Invitation, InvitationError, LABEL_BYTES_MAX};
use spool::types::{Filter, State, Verb};

use super::{alias, refused};
use crate::admin::ask::{self, AskError, Context};
use crate::admin::words;
use crate::identity::invite::{Code, RANDOM_BYTES};

/// Bytes of the hash that make an id.
const ID_BYTES: usize = 6;
/// Longest life of an invitation, seconds: one year.
const TTL_SECONDS_MAX: u64 = 365 * 24 * 3600;
/// Life of an invitation that names none, seconds: seven days.
const TTL_SECONDS: u64 = 7 * 24 * 3600;
/// Why submissions of a revoked mailbox are held.
pub(super) const REVOKED: &str = "its mailbox was revoked";
/// Submissions held by one step.
const HOLD_PAGE: usize = 1000;

/// What an invitation shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InviteAsk {
    /// Whom it is for, for the list.
    pub label: String,
    /// Full addresses that the mailbox gets.
    pub aliases: Vec<String>,
    /// Most undelivered items; `None`: the default.
    pub items: Option<u64>,
    /// Most undelivered bytes; `None`: the default.
    pub bytes: Option<u64>,
    /// Most submissions in an hour; `None`: the default.
    pub submissions_per_hour: Option<u32>,
    /// Most recipients elsewhere in a day; `None`: the default.
    pub recipients_per_day: Option<u32>,
    /// How long it is good; `None`: seven days.
    pub ttl_seconds: Option<u64>,
}

/// Makes an invitation whose code consists of `random`.
///
/// # Errors
/// [`AskError`] for names that are no addresses of ours or are taken.
pub(super) fn invite(
    spool: &mut Spool,
    asked: &InviteAsk,
    random: [u8; RANDOM_BYTES],
    domains: &[String],
    now: WallMs,
) -> Result<Value, AskError> {
    let ttl = asked.ttl_seconds.unwrap_or(TTL_SECONDS);
    if ttl == 0 || ttl > TTL_SECONDS_MAX {
        return Err(AskError::Bad(format!("an invitation is good for 1 to {TTL_SECONDS_MAX} seconds")));
    }
    if asked.label.len() > LABEL_BYTES_MAX || asked.label.chars().any(char::is_control) {
        return Err(AskError::Bad(format!("a label is one line of at most {LABEL_BYTES_MAX} bytes")));
    }
    let mut aliases = Vec::new();
    for address in &asked.aliases {
        let address = alias(address, domains)?;
        if !aliases.contains(&address) {
            aliases.push(address);
        }
    }
    let code = Code::from_random(&random);
    let invitation = Invitation {
        code_sha256: code.sha256(),
        label: asked.label.clone(),
        aliases,
        quota_items: asked.items,
        quota_bytes: asked.bytes,
        submissions_per_hour: asked.submissions_per_hour,
        recipients_per_day: asked.recipients_per_day,
        created_at: now,
        until: now.plus(ttl.saturating_mul(1000)),
        ended: None,
    };
    spool.invite(&invitation, now).map_err(not_made)?;
    let mut answer = object(spool, &invitation, now)?;
    answer["code"] = code.text().as_str().into();
    Ok(answer)
}

/// Takes back the invitation whose id begins with `id`.
///
/// # Errors
/// [`AskError`] when there is none, or several, or it has ended.
pub(super) fn withdraw(spool: &mut Spool, id: &str, now: WallMs) -> Result<Value, AskError> {
    let wanted = id.trim().to_ascii_lowercase();
    let mut found = spool.invitations()?;
    found.retain(|known| !wanted.is_empty() && HEXLOWER.encode(&known.code_sha256).starts_with(&wanted));
    match found.as_slice() {
        [] => Err(AskError::NotFound(format!(
            "no invitation {id}; `waystation mailbox invitations` lists them"
        ))),
        [known] => {
            spool.withdraw(&known.code_sha256, now).map_err(not_made)?;
            let ended = Some((now, Ending::Withdrawn));
            object(spool, &Invitation { ended, ..known.clone() }, now)
        }
        [_, _, ..] => {
            Err(AskError::Bad(format!("`{id}` is the beginning of several invitations; write more of it")))
        }
    }
}

/// `{"invitations": [...]}`, the newest first.
///
/// # Errors
/// When the spool cannot be read.
pub fn list(spool: &Spool, context: &Context<'_>) -> Result<Value, AskError> {
    let mut found = spool.invitations()?;
    found.sort_by_key(|known| std::cmp::Reverse(known.created_at));
    found.truncate(ask::LIMIT_MAX);
    let objects: Result<Vec<_>, _> = found.iter().map(|known| object(spool, known, context.now)).collect();
    Ok(json!({ "invitations": objects? }))
}

fn object(spool: &Spool, known: &Invitation, now: WallMs) -> Result<Value, AskError> {
    let (state, ended_at, lane) = match known.ended {
        None if known.until <= now => ("expired", Some(known.until), None),
        None => ("open", None, None),
        Some((at, Ending::Withdrawn)) => ("withdrawn", Some(at), None),
        Some((at, Ending::Redeemed(lane))) => {
            ("redeemed", Some(at), spool.mailbox_of_lane(lane)?.map(|mailbox| mailbox.name))
        }
    };
    Ok(json!({
        "id": HEXLOWER.encode(&known.code_sha256[..ID_BYTES]),
        "label": known.label,
        "state": state,
        "aliases": known.aliases,
        "quota_items": known.quota_items,
        "quota_bytes": known.quota_bytes,
        "submissions_per_hour": known.submissions_per_hour,
        "recipients_per_day": known.recipients_per_day,
        "created_at": words::rfc3339(known.created_at),
        "expires_at": words::rfc3339(known.until),
        "ended_at": ended_at.map(words::rfc3339),
        "lane": lane,
    }))
}

fn not_made(error: InvitationError) -> AskError {
    match error {
        InvitationError::Request(request) => refused(request),
        InvitationError::Unknown => AskError::NotFound(error.to_string()),
        InvitationError::Exists
        | InvitationError::Expired
        | InvitationError::Ended
        | InvitationError::TooMany => AskError::Conflict(error.to_string()),
    }
}

/// What became of the submissions of a revoked mailbox that waited for an attempt.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// These are held now.
    pub(super) ids: Vec<ItemId>,
    /// So many could not be, because their records cannot be read; for the same reason nobody can send them.
    pub(super) unreadable: usize,
}

/// Holds every submission of a mailbox that waits for an attempt. One that cannot be read lets none of the others go.
///
/// # Errors
/// When the spool cannot be read or written.
pub(super) fn hold_outgoing(spool: &mut Spool, name: &str, now: WallMs) -> Result<Held, AskError> {
    let outbox = spool.mailbox(name)?.map(|mailbox| spool.outbox(mailbox.lane)).transpose()?.flatten();
    let (mut held, mut page) = (Held::default(), None);
    while let Some(outbox) = outbox {
        let filter = Filter { lane: Some(outbox), states: vec![State::Ready], ..Filter::default() };
        let (found, next) = spool.list(&filter, page, HOLD_PAGE)?;
        for submission in found {
            match spool.apply_verb(submission.id, Verb::Hold, REVOKED, now) {
                Ok(()) => held.ids.push(submission.id),
                // Its id is in its record, too: without that it may be listed under none.
                Err(RequestError::UnknownItem(_) | RequestError::Spool(SpoolError::Corrupt { .. })) => {
                    held.unreadable += 1
                }
                Err(error) => return Err(refused(error)),
            }
        }
        page = next;
        if page.is_none() {
            break;
        }
    }
    Ok(held)
}
