//! Questions about the spool and their answers as JSON, the same with and without a running daemon.
//!
//! Promises: reads only; object names as documented in `docs/operating.md`; every list is bounded and pages.
//! Does not: change anything (`change.rs` does), or know HTTP. Works on any [`Spool`]: the daemon's on its own
//! thread, or one opened read-only.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spool::Spool;
use spool::error::SpoolError;
use spool::ids::{ItemId, LaneId, Seq, WallMs};
use spool::types::{Filter, ItemInfo, Mailbox, Page, State};

use super::explain::{Circumstances, explain};
use super::words;

/// Most objects in one answer.
pub const LIMIT_MAX: usize = 1000;
/// Most items one request looks at when it filters by address; the next page goes on from there.
const SCAN_MAX: usize = 20_000;

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
    /// The spool has a problem.
    #[error("{0}")]
    Spool(#[from] SpoolError),
}

/// Which items `spool ls` wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ItemsAsk {
    /// Mailbox name, alias or address.
    pub lane: Option<String>,
    /// State words with commas; `leased` too.
    pub state: Option<String>,
    /// Accepted at or after, milliseconds since 1970 UTC.
    pub since_ms: Option<u64>,
    /// Accepted before, milliseconds since 1970 UTC.
    pub until_ms: Option<u64>,
    /// Part of the reverse-path.
    pub from: Option<String>,
    /// Part of the forward-path.
    pub to: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// Most objects; 0 or nothing: [`LIMIT_MAX`].
    pub limit: Option<usize>,
}

/// What the answers need to know besides the spool.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time.
    pub now: WallMs,
    /// Domains of ours, to read `KEY@domain` as a lane.
    pub domains: &'a [String],
    /// Milliseconds acked items stay.
    pub retain_acked_ms: u64,
    /// Milliseconds until an unfetched item expires.
    pub expire_ms: u64,
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

/// `{"items": [...], "next": "LANE:SEQ" | null}`
///
/// # Errors
/// [`AskError`] for unknown words and lanes, or when the spool cannot be read.
pub fn items(view: &Spool, ask: &ItemsAsk, context: &Context<'_>) -> Result<Value, AskError> {
    let (states, leased) = parse_states(ask.state.as_deref().unwrap_or(""))?;
    let lane = match &ask.lane {
        Some(name) => Some(resolve(view, name, context.domains)?.lane),
        None => None,
    };
    let filter = Filter {
        lane,
        states,
        since: ask.since_ms.map(WallMs),
        until: ask.until_ms.map(WallMs),
        outbound: None,
    };
    let limit = match ask.limit {
        Some(n) if n > 0 => n.min(LIMIT_MAX),
        Some(_) | None => LIMIT_MAX,
    };
    let mut after = ask.after.as_deref().map(parse_page).transpose()?;
    let (mut found, mut looked) = (Vec::new(), 0);
    let next = loop {
        let (page, next) = view.list(&filter, after, limit - found.len())?;
        looked += page.len();
        found.extend(page.iter().filter(|i| leased.admits(i)).filter_map(|item| {
            let object = words::item(item, context.now);
            (contains(&object["mail_from"], ask.from.as_deref())
                && contains(&object["rcpt_to"], ask.to.as_deref()))
            .then_some(object)
        }));
        if next.is_none() || found.len() >= limit || looked >= SCAN_MAX {
            break next;
        }
        after = next;
    };
    Ok(json!({ "items": found, "next": next.map(|p| format!("{}:{}", p.lane.0, p.seq.0)) }))
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
    let circumstances = Circumstances {
        now: context.now,
        connected,
        revoked: mailbox.as_ref().is_some_and(|m| m.revoked),
        first_waiting: mailbox.map_or(Seq(0), |m| m.stats.cursor.next()),
        retain_acked_ms: context.retain_acked_ms,
        expire_ms: context.expire_ms,
    };
    let text = explain(&info, &timeline, &circumstances);
    Ok(json!({ "id": id.to_string(), "state": words::state(&info), "text": text }))
}

/// The item's lane name, for looking up whether its gateway is connected.
///
/// # Errors
/// [`AskError::NotFound`], or when the spool cannot be read.
pub fn known(view: &Spool, id: ItemId) -> Result<ItemInfo, AskError> {
    view.item(id)?
        .ok_or_else(|| AskError::NotFound(format!("no item {id}; it never was, or its retention is over")))
}

/// The spool in numbers.
///
/// # Errors
/// When the spool cannot be read.
pub fn stats(view: &Spool, context: &Context<'_>) -> Result<Value, AskError> {
    let stats = view.stats()?;
    let mut lanes = Vec::new();
    let mut after = None;
    // Lanes with something waiting, the first thousand of them: stats is for a person.
    while lanes.len() < LIMIT_MAX {
        let page = view.mailboxes(after, LIMIT_MAX)?;
        let Some(last) = page.last() else { break };
        after = Some(last.lane);
        let busy = page.iter().filter(|m| m.stats.items[0] + m.stats.items[3] > 0);
        lanes.extend(busy.map(|m| words::mailbox(m, context.now)));
    }
    lanes.truncate(LIMIT_MAX);
    Ok(words::stats(&stats, &lanes, context.now))
}

/// `{"mailboxes": [...], "next": LANE | null}`
///
/// # Errors
/// When the spool cannot be read.
pub fn mailboxes(view: &Spool, after: Option<u32>, context: &Context<'_>) -> Result<Value, AskError> {
    let page = view.mailboxes(after.map(LaneId), LIMIT_MAX)?;
    let next = if page.len() < LIMIT_MAX { None } else { page.last().map(|m| m.lane.0) };
    let found: Vec<_> = page.iter().map(|m| words::mailbox(m, context.now)).collect();
    Ok(json!({ "mailboxes": found, "next": next }))
}

/// One mailbox.
///
/// # Errors
/// [`AskError::NotFound`], or when the spool cannot be read.
pub fn mailbox(view: &Spool, name: &str, context: &Context<'_>) -> Result<Value, AskError> {
    Ok(words::mailbox(&resolve(view, name, context.domains)?, context.now))
}

/// Whether `ready` items must be lent, must not be, or either.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leased {
    Only,
    Without,
    Either,
}

impl Leased {
    fn admits(self, item: &ItemInfo) -> bool {
        match self {
            Self::Either => true,
            Self::Only => item.state != State::Ready || item.leased,
            Self::Without => item.state != State::Ready || !item.leased,
        }
    }
}

fn parse_states(words: &str) -> Result<(Vec<State>, Leased), AskError> {
    let (mut states, mut ready, mut leased) = (Vec::new(), false, false);
    for word in words.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word {
            "ready" => ready = true,
            "leased" => leased = true,
            _ => match State::from_word(word) {
                Some(state) => states.push(state),
                None => {
                    let words = State::ALL.map(State::word).join(", ");
                    return Err(AskError::Bad(format!("no state `{word}`; states are leased, {words}")));
                }
            },
        }
    }
    if ready || leased {
        states.push(State::Ready);
    }
    let which = match (ready, leased) {
        (true, false) => Leased::Without,
        (false, true) => Leased::Only,
        (true, true) | (false, false) => Leased::Either,
    };
    Ok((states, which))
}

fn parse_page(text: &str) -> Result<Page, AskError> {
    let parsed = text
        .split_once(':')
        .and_then(|(lane, seq)| Some(Page { lane: LaneId(lane.parse().ok()?), seq: Seq(seq.parse().ok()?) }));
    parsed.ok_or_else(|| AskError::Bad(format!("`{text}` is no page; take `next` of the answer before")))
}

fn contains(value: &Value, part: Option<&str>) -> bool {
    part.is_none_or(|p| value.as_str().is_some_and(|v| v.to_lowercase().contains(&p.to_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_words_select_lent_items_too() {
        assert!(parse_states("ready").is_ok_and(|(s, l)| s == [State::Ready] && l == Leased::Without));
        assert!(parse_states("leased").is_ok_and(|(_, l)| l == Leased::Only));
        assert!(parse_states("ready,leased,held").is_ok_and(|(s, l)| s.len() == 2 && l == Leased::Either));
        assert!(parse_states("").is_ok_and(|(s, _)| s.is_empty()));
        assert!(parse_states("lost").is_err());
    }

    #[test]
    fn pages_are_lane_and_seq() {
        assert_eq!(parse_page("3:9"), Ok(Page { lane: LaneId(3), seq: Seq(9) }));
        assert!(parse_page("3").is_err());
    }
}
