//! Listing items and submissions: selectors, pages, and what one line says.
//!
//! Promises: one answer costs the ledger at most `CALLS_MAX` of its own bounded steps, so that a search that finds nothing holds
//! nobody up; a page may be empty and still say where to go on. The oldest come first, lane by lane, or the newest over all lanes
//! (`newest.rs`).

mod newest;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spool::Spool;
use spool::error::SpoolError;
use spool::ids::{LaneId, Seq, WallMs};
use spool::types::{Filter, ItemInfo, Page, State};

use super::ask::{AskError, Context, LIMIT_MAX, resolve, submission_of};
use super::words;

/// Steps of the ledger for one answer; the next page goes on from there.
const CALLS_MAX: usize = 5;
/// Items of one step, when their records are read to compare addresses.
const BATCH: usize = 1000;
/// Most objects in one answer that tells every attempt: each is read from the journal.
const LIMIT_WITH_ATTEMPTS: usize = 200;

/// Which items `spool ls` wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ItemsAsk {
    /// Mailbox name, alias or address.
    pub lane: Option<String>,
    /// `in`: on their way to a gateway; `out`: submissions.
    pub direction: Option<String>,
    /// State words with commas; `leased` too.
    pub state: Option<String>,
    /// Words of results with commas: submissions that ended so.
    pub result: Option<String>,
    /// Accepted at or after, milliseconds since 1970 UTC.
    pub since_ms: Option<u64>,
    /// Accepted before, milliseconds since 1970 UTC.
    pub until_ms: Option<u64>,
    /// Part of the reverse-path.
    pub from: Option<String>,
    /// Part of the forward-path.
    pub to: Option<String>,
    /// Part of either path.
    pub address: Option<String>,
    /// Tell every attempt of submissions, not only how many there were.
    pub attempts: bool,
    /// `oldest` (first, lane by lane; so without it, too) or `newest` (first, over all lanes).
    pub order: Option<String>,
    /// `next` of the page before, of the same order.
    pub after: Option<String>,
    /// Most objects; 0 or nothing: [`LIMIT_MAX`].
    pub limit: Option<usize>,
}

/// `{"items": [...], "next": text | null}`
///
/// # Errors
/// [`AskError`] for unknown words and lanes, or when the spool cannot be read.
pub fn items(view: &Spool, ask: &ItemsAsk, context: &Context<'_>) -> Result<Value, AskError> {
    let wanted = Wanted::new(ask)?;
    match ask.order.as_deref() {
        None | Some("oldest") => oldest(view, &wanted, context),
        Some("newest") => newest::items(view, &wanted, context),
        Some(other) => Err(AskError::Bad(format!("no order `{other}`; orders are oldest, newest"))),
    }
}

/// What is asked for, understood.
struct Wanted<'a> {
    ask: &'a ItemsAsk,
    filter: Filter,
    leased: Leased,
    limit: usize,
}

impl<'a> Wanted<'a> {
    fn new(ask: &'a ItemsAsk) -> Result<Self, AskError> {
        refuse_empty(ask)?;
        let (states, leased) = parse_states(ask.state.as_deref().unwrap_or(""))?;
        let (states, only_results) = with_results(states, ask.result.as_deref().unwrap_or(""))?;
        let outbound = match ask.direction.as_deref() {
            None if only_results => Some(true),
            None => None,
            Some("out") => Some(true),
            Some("in") => Some(false),
            Some(other) => {
                return Err(AskError::Bad(format!("no direction `{other}`; directions are in, out")));
            }
        };
        let filter = Filter {
            lane: None,
            states,
            since: ask.since_ms.map(WallMs),
            until: ask.until_ms.map(WallMs),
            outbound,
        };
        let most = if ask.attempts { LIMIT_WITH_ATTEMPTS } else { LIMIT_MAX };
        let limit = match ask.limit {
            Some(n) if n > 0 => n.min(most),
            Some(_) | None => most,
        };
        Ok(Self { ask, filter, leased, limit })
    }

    /// The object of an item that the filter has let through, if the other selectors want it too.
    fn object(
        &self,
        view: &Spool,
        item: &ItemInfo,
        context: &Context<'_>,
    ) -> Result<Option<Value>, AskError> {
        if !self.leased.admits(item) {
            return Ok(None);
        }
        let mut object = words::item(item, context.now);
        let (ask, from, to) = (self.ask, &object["mail_from"], &object["rcpt_to"]);
        let either = ask.address.as_deref();
        let is_wanted = contains(from, ask.from.as_deref())
            && contains(to, ask.to.as_deref())
            && (contains(from, either) || contains(to, either));
        if !is_wanted {
            return Ok(None);
        }
        add_submission(view, item, ask.attempts, &mut object, context)?;
        Ok(Some(object))
    }

    /// Whether more is asked than the ledger's filter knows.
    fn reads_addresses(&self) -> bool {
        let ask = self.ask;
        [&ask.from, &ask.to, &ask.address].iter().any(|text| text.is_some()) || self.leased != Leased::Either
    }

    /// The lanes of the mailbox that was asked for; `None`: all.
    fn lanes(&self, view: &Spool, context: &Context<'_>) -> Result<Option<Vec<LaneId>>, AskError> {
        let Some(name) = &self.ask.lane else { return Ok(None) };
        let mailbox = resolve(view, name, &context.terms.domains)?.lane;
        let items = (self.filter.outbound != Some(true)).then_some(mailbox);
        let outbox = if self.filter.outbound == Some(false) { None } else { view.outbox(mailbox)? };
        Ok(Some([items, outbox].into_iter().flatten().collect()))
    }
}

fn oldest(view: &Spool, wanted: &Wanted<'_>, context: &Context<'_>) -> Result<Value, AskError> {
    let mut places = Places::new(view, wanted, context)?;
    let mut found = Vec::new();
    for _ in 0..CALLS_MAX {
        let Some((lane, after)) = places.now() else { break };
        let filter = Filter { lane, ..wanted.filter.clone() };
        let room = wanted.limit - found.len();
        // Addresses are in the records: to find a few, many are read.
        let batch = if wanted.reads_addresses() { BATCH } else { room };
        let (page, next) = view.list(&filter, after, batch)?;
        let (mut rest, mut last) = (page.iter(), None);
        for item in rest.by_ref() {
            found.extend(wanted.object(view, item, context)?);
            if found.len() >= wanted.limit {
                last = Some(Page { lane: item.lane, seq: item.seq });
                break;
            }
        }
        places.went_on(if rest.len() > 0 { last } else { next });
        if found.len() >= wanted.limit {
            break;
        }
    }
    let next = places.now().map(|(lane, after)| {
        let page = after.unwrap_or(Page { lane: lane.unwrap_or(LaneId(0)), seq: Seq(0) });
        format!("{}:{}", page.lane.0, page.seq.0)
    });
    Ok(json!({ "items": found, "next": next }))
}

/// A selector that selects nothing in particular is a mistake, and would mean everything: a script whose variable is empty
/// holds or purges what it never meant.
fn refuse_empty(ask: &ItemsAsk) -> Result<(), AskError> {
    let texts = [("from", &ask.from), ("to", &ask.to), ("address", &ask.address)];
    let words = [("state", &ask.state), ("result", &ask.result)];
    let no_text = texts.into_iter().filter(|(_, text)| text.as_deref() == Some(""));
    let no_word =
        words.into_iter().filter(|(_, words)| words.as_deref().is_some_and(|w| list(w).next().is_none()));
    match no_text.chain(no_word).next() {
        Some((name, _)) => Err(AskError::Bad(format!("`{name}` is empty; leave it out to mean all"))),
        None => Ok(()),
    }
}

/// Nothing that one record lacks may hide the others.
fn add_submission(
    view: &Spool,
    item: &ItemInfo,
    attempts: bool,
    object: &mut Value,
    context: &Context<'_>,
) -> Result<(), AskError> {
    match submission_of(view, item) {
        Ok(Some(submission)) => words::outgoing::submission(object, &submission, context.now),
        Ok(None) | Err(SpoolError::Corrupt { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // The spool's own count lacks the try of one that failed before it was armed.
    let uncounted = item.state == State::Failed && item.outbound.is_some_and(|o| o.attempts == 0);
    if (attempts || uncounted)
        && let Ok(timeline) = view.timeline(item.id)
    {
        words::outgoing::attempts(object, &timeline);
    }
    Ok(())
}

/// Where a listing looks: everywhere, or in the lanes of one mailbox, one after the other.
struct Places {
    lanes: Vec<Option<LaneId>>,
    at: usize,
    after: Option<Page>,
}

impl Places {
    fn new(view: &Spool, wanted: &Wanted<'_>, context: &Context<'_>) -> Result<Self, AskError> {
        let after = wanted.ask.after.as_deref().map(parse_page).transpose()?;
        let lanes = match wanted.lanes(view, context)? {
            None => vec![None],
            Some(lanes) => lanes.into_iter().map(Some).collect(),
        };
        let is_there = |lane: &Option<LaneId>| after.is_none_or(|page| lane.is_none_or(|l| l == page.lane));
        let at = lanes.iter().position(is_there).unwrap_or(lanes.len());
        Ok(Self { lanes, at, after })
    }

    fn now(&self) -> Option<(Option<LaneId>, Option<Page>)> {
        self.lanes.get(self.at).map(|lane| (*lane, self.after))
    }

    fn went_on(&mut self, next: Option<Page>) {
        self.after = next;
        if next.is_none() {
            self.at += 1;
        }
    }
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
    for word in list(words) {
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

/// The states that both selectors admit, and whether there are results only.
fn with_results(states: Vec<State>, words: &str) -> Result<(Vec<State>, bool), AskError> {
    let mut results = Vec::new();
    for word in list(words) {
        match State::from_word(word).filter(|state| spool::life::is_result(*state)) {
            Some(state) => results.push(state),
            None => {
                let text = format!("no result `{word}`; results are sent, failed, indeterminate");
                return Err(AskError::Bad(text));
            }
        }
    }
    if results.is_empty() {
        return Ok((states, false));
    }
    if !states.is_empty() {
        results.retain(|state| states.contains(state));
        if results.is_empty() {
            return Err(AskError::Bad("no item has one of those states and one of those results".to_owned()));
        }
    }
    Ok((results, true))
}

fn list(words: &str) -> impl Iterator<Item = &str> {
    words.split(',').map(str::trim).filter(|w| !w.is_empty())
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
    use std::sync::Arc;

    use spool::Options;
    use spool::disk::sim::SimDisk;
    use spool::ids::ItemId;
    use spool::index::memory::MemoryIndex;
    use spool::types::{NewMessage, Target, Verb};

    use super::*;
    use crate::admin::ask::Terms;

    const NOW: WallMs = WallMs(1_800_000_000_000);
    /// Blocks that the ledger looks into for one step.
    const BLOCKS_PER_CALL: u32 = 512;

    fn id(n: u32) -> ItemId {
        let mut rest = [0; 10];
        rest[..4].copy_from_slice(&n.to_be_bytes());
        ItemId::new(NOW.plus(u64::from(n) * 7), rest)
    }

    /// So many lanes with one item each, number by number: each takes a block of the index.
    fn filled(lanes: u32, to: impl Fn(u32) -> String) -> Spool {
        let options = Options { min_free_bytes: 0, seed: 7, ..Options::default() };
        let (disk, index) = (Arc::new(SimDisk::new()), Arc::new(MemoryIndex::new()));
        let (mut spool, _) = Spool::open(disk, index, options, NOW).unwrap();
        for n in 0..lanes {
            let lane = spool.register(&format!("lane{n}"), NOW).unwrap();
            let message = NewMessage {
                body: id(n),
                body_bytes: 0,
                sha256: [0; 32],
                head: Vec::new(),
                meta: Vec::new(),
                fingerprint: None,
                targets: vec![Target { lane, id: id(n), tag: to(n).into_bytes() }],
            };
            spool.accept(message, NOW).unwrap();
        }
        spool.commit(NOW).unwrap();
        spool
    }

    /// The ids of all pages, page by page.
    fn pages(spool: &Spool, mut ask: ItemsAsk) -> Vec<Vec<String>> {
        let context = Context { now: NOW, terms: &Terms::default(), deliveries: None };
        let mut out = Vec::new();
        loop {
            let page = items(spool, &ask, &context).unwrap();
            let found = page["items"].as_array().unwrap();
            out.push(found.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect());
            match page["next"].as_str() {
                Some(next) => ask.after = Some(next.to_owned()),
                None => return out,
            }
        }
    }

    #[test]
    fn a_search_that_finds_nothing_stops_early_and_goes_on_where_it_stopped() {
        let lanes = CALLS_MAX as u32 * BLOCKS_PER_CALL + 100;
        let mut spool = filled(lanes, |_| "home@x.example".to_owned());
        spool.apply_verb(id(lanes - 1), Verb::Hold, "", NOW).unwrap();
        spool.commit(NOW).unwrap();
        let held = ItemsAsk { state: Some("held".to_owned()), ..ItemsAsk::default() };
        let context = Context { now: NOW, terms: &Terms::default(), deliveries: None };
        let first = items(&spool, &held, &context).unwrap();
        let next = parse_page(first["next"].as_str().unwrap()).unwrap();
        assert_eq!(first["items"], json!([]));
        assert!(next.lane.0 <= CALLS_MAX as u32 * BLOCKS_PER_CALL, "{next:?}");
        assert_eq!(pages(&spool, held), [vec![], vec![id(lanes - 1).to_string()]]);
    }

    #[test]
    fn a_page_that_is_full_in_the_middle_of_a_step_loses_nothing() {
        let name = |n: u32| if n.is_multiple_of(3) { "aunt@x.example" } else { "home@x.example" };
        let spool = filled(20, |n| name(n).to_owned());
        let ask = ItemsAsk { to: Some("AUNT@".to_owned()), limit: Some(2), ..ItemsAsk::default() };
        let expected: Vec<_> = (0..20).filter(|n| n % 3 == 0).map(|n| id(n).to_string()).collect();
        let found = pages(&spool, ask);
        assert_eq!(found.concat(), expected);
        assert!(found.iter().all(|page| page.len() <= 2), "{found:?}");
    }

    #[test]
    fn state_words_select_lent_items_too() {
        assert!(parse_states("ready").is_ok_and(|(s, l)| s == [State::Ready] && l == Leased::Without));
        assert!(parse_states("leased").is_ok_and(|(_, l)| l == Leased::Only));
        assert!(parse_states("ready,leased,held").is_ok_and(|(s, l)| s.len() == 2 && l == Leased::Either));
        assert!(parse_states("").is_ok_and(|(s, _)| s.is_empty()));
        assert!(parse_states("lost").is_err());
    }

    #[test]
    fn results_narrow_the_states_and_mean_submissions() {
        let both = with_results(vec![], "sent, failed");
        assert!(both.is_ok_and(|(states, only)| states == [State::Sent, State::Failed] && only));
        assert!(with_results(vec![State::Sent], "failed").is_err());
        assert!(with_results(vec![], "acked").is_err());
        assert!(
            with_results(vec![State::Held], "").is_ok_and(|(states, only)| states == [State::Held] && !only)
        );
    }

    #[test]
    fn a_selector_that_says_nothing_is_refused() {
        let text = |text: &str| Some(text.to_owned());
        for (name, ask) in [
            ("from", ItemsAsk { from: text(""), ..ItemsAsk::default() }),
            ("to", ItemsAsk { to: text(""), ..ItemsAsk::default() }),
            ("address", ItemsAsk { address: text(""), ..ItemsAsk::default() }),
            ("state", ItemsAsk { state: text(","), ..ItemsAsk::default() }),
            ("result", ItemsAsk { result: text(" "), ..ItemsAsk::default() }),
        ] {
            let refused = Wanted::new(&ask).err();
            assert_eq!(refused, Some(AskError::Bad(format!("`{name}` is empty; leave it out to mean all"))));
        }
        assert!(
            Wanted::new(&ItemsAsk { state: text("held,"), to: text("a"), ..ItemsAsk::default() }).is_ok()
        );
    }

    #[test]
    fn pages_are_lane_and_seq() {
        assert_eq!(parse_page("3:9"), Ok(Page { lane: LaneId(3), seq: Seq(9) }));
        assert!(parse_page("3").is_err());
    }
}
