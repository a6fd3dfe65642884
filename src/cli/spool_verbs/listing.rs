//! `spool ls`: which items, and one line for each.

use std::collections::BTreeSet;

use serde_json::Value;
use spool::ids::ItemId;

use super::super::backend::Backend;
use super::super::screen::{self, Paint};
use super::super::{Exit, Global, Stop};
use super::text;
use crate::admin::ask::LIMIT_MAX;
use crate::admin::list::ItemsAsk;

/// Which items and submissions are meant.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct Selection {
    /// Only this lane: a key text, an alias, or an address
    #[arg(long, value_name = "KEY|ADDRESS", value_parser = one_word)]
    pub(super) lane: Option<String>,
    /// `in`: on their way to a gateway; `out`: submissions of a gateway
    #[arg(long, value_name = "in|out", value_parser = one_word)]
    pub(super) direction: Option<String>,
    /// Only these states: ready, leased, acked, expired, held, quarantined, purged; of submissions ready, held,
    /// armed, sent, failed, indeterminate
    #[arg(long, value_name = "STATES", value_parser = some_words)]
    pub(super) state: Option<String>,
    /// Submissions with these results: sent, failed, indeterminate
    #[arg(long, value_name = "RESULTS", value_parser = some_words)]
    pub(super) result: Option<String>,
    /// Accepted within this time (45s, 30m, 2h, 7d)
    #[arg(long, value_name = "SPAN", value_parser = screen::span_ms)]
    pub(super) since: Option<u64>,
    /// Accepted before this time ago
    #[arg(long, value_name = "SPAN", value_parser = screen::span_ms)]
    pub(super) until: Option<u64>,
    /// Part of the sender's address
    #[arg(long, value_name = "TEXT", value_parser = one_word)]
    pub(super) from: Option<String>,
    /// Part of the recipient's address
    #[arg(long, value_name = "TEXT", value_parser = one_word)]
    pub(super) to: Option<String>,
    /// Only this item; may be given several times, and stands alone
    #[arg(
        long,
        value_name = "ID",
        conflicts_with_all = ["lane", "direction", "state", "result", "since", "until", "from", "to"]
    )]
    pub(super) id: Vec<ItemId>,
}

/// What is said of a selector without a word in it. Every item fits it, and it is what a variable leaves that a script has
/// not set: nobody means it.
const NO_WORD: &str = "it has no word, and everything would fit it; give it one, or leave it out";

/// A selector, as it was written.
fn one_word(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err(NO_WORD.to_owned()) } else { Ok(text.to_owned()) }
}

/// A selector of words with commas between them.
fn some_words(text: &str) -> Result<String, String> {
    let has_one = text.split(',').any(|word| !word.trim().is_empty());
    if has_one { Ok(text.to_owned()) } else { Err(NO_WORD.to_owned()) }
}

impl Selection {
    /// Whether nothing is narrowed down.
    pub(super) fn is_empty(&self) -> bool {
        let words = [&self.lane, &self.direction, &self.state, &self.result, &self.from, &self.to];
        let no_time = self.since.is_none() && self.until.is_none();
        words.iter().all(|word| word.is_none()) && no_time && self.id.is_empty()
    }

    pub(super) fn ask(&self) -> ItemsAsk {
        let now = crate::clock::wall();
        let ago = |span: Option<u64>| span.map(|ms| now.0.saturating_sub(ms));
        ItemsAsk {
            lane: self.lane.clone(),
            direction: self.direction.clone(),
            state: self.state.clone(),
            result: self.result.clone(),
            since_ms: ago(self.since),
            until_ms: ago(self.until),
            from: self.from.clone(),
            to: self.to.clone(),
            ..ItemsAsk::default()
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    selection: Selection,
    /// The newest first, over all lanes, instead of the oldest first, lane by lane
    #[arg(long)]
    newest: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

pub(super) fn ls(global: &Global, paint: Paint, args: &LsArgs) -> anyhow::Result<Exit> {
    let backend = Backend::open(global)?;
    let (mut items, mut count) = (Vec::new(), 0_usize);
    let mut show = |item: &Value| -> anyhow::Result<()> {
        count += 1;
        if global.json {
            screen::line(item)?;
        } else {
            items.push(item.clone());
        }
        Ok(())
    };
    let (mut more, mut failed) = (false, false);
    if args.selection.id.is_empty() {
        let order = args.newest.then(|| "newest".to_owned());
        let ask = ItemsAsk { attempts: global.json, order, ..args.selection.ask() };
        more = pages(&backend, ask, args.limit.max(1), &mut show)?;
    } else {
        failed = by_id(&backend, &args.selection.id, &mut show)?;
    }
    if count == 0 {
        if !global.json && !failed {
            eprintln!("nothing matches");
        }
        return Ok(if failed { Exit::Failed } else { Exit::Nothing });
    }
    if !global.json {
        screen::print(&table(paint, &items))?;
        if more {
            eprintln!("{}", paint.dim("(more; use --limit, or narrow the selection)"));
        }
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Gives `take` each of these items. What cannot be shown is told and hides none of the others; true when there was
/// such a one, other than an id that nobody knows.
pub(super) fn by_id(
    backend: &Backend,
    ids: &[ItemId],
    take: &mut impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let mut failed = false;
    for id in ids.iter().collect::<BTreeSet<_>>() {
        match backend.item(*id) {
            Ok(item) => take(&item)?,
            Err(error) => match error.downcast::<Stop>() {
                Ok(stop) if matches!(stop.exit, Exit::Nothing | Exit::Failed) => {
                    failed |= stop.exit == Exit::Failed;
                    eprintln!("{stop}");
                }
                Ok(stop) => return Err(stop.into()),
                Err(other) => return Err(other),
            },
        }
    }
    Ok(failed)
}

/// Gives `take` at most `limit` of what `ask` selects; answers whether there may be more.
pub(super) fn pages(
    backend: &Backend,
    mut ask: ItemsAsk,
    limit: usize,
    take: &mut impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let mut left = limit;
    loop {
        ask.limit = Some(left.min(LIMIT_MAX));
        let page = backend.items(&ask)?;
        for item in page["items"].as_array().into_iter().flatten() {
            take(item)?;
            left = left.saturating_sub(1);
        }
        ask.after = page["next"].as_str().map(str::to_owned);
        if ask.after.is_none() || left == 0 {
            return Ok(ask.after.is_some());
        }
    }
}

/// Submissions have more to tell: their columns are there when one is listed.
fn table(paint: Paint, items: &[Value]) -> String {
    let out = items.iter().any(|item| item["direction"] == "out");
    let (header, right): (&[&str], &[bool]) = if out {
        (
            &["ID", "DIR", "STATE", "TRIES", "NEXT", "AGE", "SIZE", "LANE", "FROM", "TO"],
            &[false, false, false, true, false, true, true, false, false, false],
        )
    } else {
        (
            &["ID", "STATE", "SEQ", "AGE", "SIZE", "LANE", "FROM", "TO"],
            &[false, false, true, true, true, false, false, false],
        )
    };
    let rows: Vec<_> = items.iter().map(|item| row(item, out)).collect();
    screen::table(paint, header, right, &rows)
}

fn row(item: &Value, out: bool) -> Vec<String> {
    let from = match item["mail_from"].as_str() {
        Some("") => "<>",
        Some(path) => path,
        None => "?",
    };
    let mut cells = vec![text(&item["id"]).to_owned()];
    if out {
        cells.push(text(&item["direction"]).to_owned());
    }
    cells.push(text(&item["state"]).to_owned());
    if out {
        cells.push(item["attempts_made"].as_u64().map_or(String::new(), |n| n.to_string()));
        cells.push(next(item));
    } else {
        cells.push(item["seq"].to_string());
    }
    cells.extend([
        screen::age(item["age_seconds"].as_u64().unwrap_or(0)),
        screen::bytes(item["size_bytes"].as_u64().unwrap_or(0)),
        shorten(text(&item["lane"]), 14),
        shorten(from, 40),
        shorten(text(&item["rcpt_to"]), 40),
    ]);
    cells
}

/// What happens next with a submission: its next attempt, the answer it waits for, or its gateway is told.
fn next(item: &Value) -> String {
    match (item["due_seconds"].as_u64(), text(&item["state"])) {
        _ if item["direction"] != "out" => String::new(),
        (Some(0), _) => "now".to_owned(),
        (Some(seconds), _) => format!("in {}", screen::age(seconds)),
        (None, "armed") => "verdict".to_owned(),
        (None, _) if item["told"] == false && !item["result"].is_null() => "tell".to_owned(),
        (None, _) => String::new(),
    }
}

/// Key texts are 52 characters; the first ones tell them apart.
pub(super) fn shorten(name: &str, chars_max: usize) -> String {
    if name.chars().count() <= chars_max {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(chars_max - 3).collect();
    short.push_str("...");
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_names_keep_their_beginning() {
        assert_eq!(shorten("abcdefghij", 8), "abcde...");
        assert_eq!(shorten("abc", 8), "abc");
    }

    #[test]
    fn a_selector_has_a_word_or_is_refused() {
        for none in ["", " ", "\t"] {
            assert!(one_word(none).is_err() && some_words(none).is_err(), "{none:?}");
        }
        assert!(some_words(",").is_err() && some_words(" , ,").is_err());
        assert_eq!(one_word(" @far.example"), Ok(" @far.example".to_owned()));
        assert_eq!(some_words("held,,expired"), Ok("held,,expired".to_owned()));
    }

    #[test]
    fn what_comes_next_is_one_short_word() {
        let waits = json!({ "direction": "out", "state": "ready", "due_seconds": 75, "told": false });
        assert_eq!(next(&waits), "in 1m 15s");
        let owed = json!({ "direction": "out", "state": "sent", "result": "sent", "told": false });
        assert_eq!(next(&owed), "tell");
        let held = json!({ "direction": "out", "state": "held", "result": null, "told": false });
        assert_eq!(next(&held), "");
    }
}
