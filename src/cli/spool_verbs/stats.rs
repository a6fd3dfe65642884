//! `spool stats`: depth, bytes and oldest age, per lane and in all; journal segments.

use std::io::IsTerminal as _;

use serde_json::Value;

use super::super::backend::Backend;
use super::super::screen::{self, Paint};
use super::super::{Exit, Global};
use super::listing::shorten;
use super::text;

/// States in the order of an operator's interest.
const STATES: [&str; 10] = [
    "ready",
    "held",
    "armed",
    "acked",
    "sent",
    "failed",
    "indeterminate",
    "expired",
    "quarantined",
    "purged",
];
/// Lanes that one page shows.
const LANES_SHOWN: usize = 20;
/// Cells of the longest bar.
const BAR_CELLS: usize = 16;
/// Longest address and key text that are shown.
const ALIAS_CHARS_MAX: usize = 24;
const KEY_CHARS_MAX: usize = 14;
/// Destinations that one page shows.
const DESTINATIONS_SHOWN: usize = 10;

pub(super) fn stats(global: &Global, paint: Paint) -> anyhow::Result<Exit> {
    let stats = Backend::open(global)?.stats()?;
    if global.json {
        screen::line(&stats)?;
        return Ok(Exit::Done);
    }
    let size = |value: &Value| screen::bytes(value.as_u64().unwrap_or(0));
    let rows: Vec<Vec<String>> = STATES
        .iter()
        .map(|state| {
            let of = |what: &str| stats[what][state].as_u64().unwrap_or(0);
            let (all, out) = (of("items"), of("submissions"));
            let cells = [all.saturating_sub(out).to_string(), out.to_string(), size(&stats["bytes"][state])];
            [vec![(*state).to_owned()], cells.to_vec()].concat()
        })
        .collect();
    let mut page = screen::table(paint, &["STATE", "IN", "OUT", "BYTES"], &[false, true, true, true], &rows);
    let oldest = stats["oldest_ready_seconds"].as_u64().map_or("none waits".to_owned(), screen::age);
    page.push_str(&format!(
        "\nleased now {}, oldest waiting {oldest}, mailboxes {}\njournal {} in {} segments ({} reclaimable)\n\
         index {}, free {}\n",
        stats["leased"],
        stats["mailboxes"],
        size(&stats["journal_bytes"]),
        stats["segments"].as_array().map_or(0, Vec::len),
        size(&stats["reclaimable_bytes"]),
        size(&stats["index_bytes"]),
        size(&stats["free_bytes"]),
    ));
    page.push_str(&outgoing(paint, &stats["outgoing"]));
    let damaged = stats["quarantined_records"].as_u64().unwrap_or(0);
    if damaged > 0 {
        page.push_str(&paint.bad(&format!("{damaged} damaged stretches; run `waystation spool verify`\n")));
    }
    page.push_str(&lanes(paint, stats["lanes"].as_array().map_or(&[], Vec::as_slice), Bar::for_stdout()));
    page.push_str(&more_lanes(paint, &stats));
    let segments: Vec<Vec<String>> = stats["segments"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| {
            let note = if s["active"] == true { "active" } else { "" };
            vec![s["number"].to_string(), size(&s["used_bytes"]), size(&s["live_bytes"]), note.to_owned()]
        })
        .collect();
    page.push('\n');
    page.push_str(&screen::table(
        paint,
        &["SEGMENT", "USED", "LIVE", ""],
        &[true, true, true, false],
        &segments,
    ));
    screen::print(&page)?;
    Ok(Exit::Done)
}

/// Results nobody was told, and what waits for which destination.
fn outgoing(paint: Paint, outgoing: &Value) -> String {
    let or_more = if outgoing["complete"] == true { "" } else { " or more" };
    let mut page = format!(
        "results not told {}{or_more}, destinations with mail waiting {}{or_more}\n",
        outgoing["untold"], outgoing["destinations_count"]
    );
    let rows: Vec<Vec<String>> = outgoing["destinations"]
        .as_array()
        .into_iter()
        .flatten()
        .take(DESTINATIONS_SHOWN)
        .map(|queue| {
            let due = match queue["due_seconds"].as_u64() {
                Some(0) | None => "now".to_owned(),
                Some(seconds) => format!("in {}", screen::age(seconds)),
            };
            vec![text(&queue["destination"]).to_owned(), queue["queued"].to_string(), due]
        })
        .collect();
    if !rows.is_empty() {
        page.push('\n');
        page.push_str(&screen::table(
            paint,
            &["DESTINATION", "QUEUED", "NEXT DUE"],
            &[false, true, true],
            &rows,
        ));
    }
    page
}

/// The deepest lanes first, each with a bar.
fn lanes(paint: Paint, lanes: &[Value], bar: Bar) -> String {
    let depth = |lane: &Value| of_state(lane, "items", "ready") + of_state(lane, "items", "held");
    let mut sorted: Vec<&Value> = lanes.iter().collect();
    sorted.sort_by_key(|lane| (std::cmp::Reverse(depth(lane)), text(&lane["lane"])));
    let Some(deepest) = sorted.first().map(|lane| depth(lane)) else { return String::new() };
    let rows: Vec<Vec<String>> = sorted
        .iter()
        .take(LANES_SHOWN)
        .map(|lane| {
            let bytes = of_state(lane, "bytes", "ready") + of_state(lane, "bytes", "held");
            vec![
                name(lane),
                of_state(lane, "items", "ready").to_string(),
                of_state(lane, "items", "held").to_string(),
                screen::bytes(bytes),
                lane["oldest_ready_seconds"].as_u64().map_or(String::new(), screen::age),
                bar.of(depth(lane), deepest),
            ]
        })
        .collect();
    let header = ["LANE", "READY", "HELD", "BYTES", "OLDEST", "DEPTH"];
    let mut page =
        format!("\n{}", screen::table(paint, &header, &[false, true, true, true, true, false], &rows));
    if let Some(more @ 1..) = sorted.len().checked_sub(LANES_SHOWN) {
        let text = format!("and {more} more with something waiting; `waystation mailbox ls` lists all\n");
        page.push_str(&paint.dim(&text));
    }
    page
}

/// Of many mailboxes only the first are looked at.
fn more_lanes(paint: Paint, stats: &Value) -> String {
    // A relay that does not say so has looked at all.
    if stats["lanes_complete"] != false {
        return String::new();
    }
    paint.dim("not every mailbox was looked at; `waystation mailbox ls` lists all\n")
}

/// An address says more than a key text; key texts are long, and their first characters tell them apart.
fn name(lane: &Value) -> String {
    match lane["aliases"][0].as_str() {
        Some(alias) => shorten(alias, ALIAS_CHARS_MAX),
        None => shorten(text(&lane["lane"]), KEY_CHARS_MAX),
    }
}

fn of_state(lane: &Value, of: &str, state: &str) -> u64 {
    lane[of][state].as_u64().unwrap_or(0)
}

/// How bars are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bar {
    /// In eighths of a cell.
    Blocks,
    /// Where a reader may know no blocks.
    Ascii,
}

impl Bar {
    fn for_stdout() -> Self {
        let first = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let utf8 = first.is_some_and(|name| name.to_ascii_lowercase().replace('-', "").contains("utf8"));
        if utf8 && std::io::stdout().is_terminal() { Self::Blocks } else { Self::Ascii }
    }

    /// `n` of `most`; whatever is not nothing shows.
    fn of(self, n: u64, most: u64) -> String {
        const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
        let parts = match self {
            Self::Blocks => 8,
            Self::Ascii => 1,
        };
        let whole = u128::from(n) * (BAR_CELLS * parts) as u128;
        let filled = usize::try_from(whole.div_ceil(u128::from(most.max(1)))).unwrap_or(usize::MAX);
        let filled = filled.min(BAR_CELLS * parts);
        match self {
            Self::Ascii => "#".repeat(filled),
            Self::Blocks => {
                let mut bar = "█".repeat(filled / parts);
                if !filled.is_multiple_of(parts) {
                    bar.push(EIGHTHS[filled % parts]);
                }
                bar
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bars_are_scaled_to_the_deepest_and_never_vanish() {
        assert_eq!(Bar::Blocks.of(100, 100), "█".repeat(BAR_CELLS));
        assert_eq!(Bar::Ascii.of(100, 100), "#".repeat(BAR_CELLS));
        assert_eq!(Bar::Blocks.of(1, 1_000_000), "▏");
        assert_eq!(Bar::Ascii.of(1, 1_000_000), "#");
        assert_eq!(Bar::Ascii.of(0, 10), "");
        assert_eq!(Bar::Blocks.of(0, 0), "");
        assert_eq!(Bar::Blocks.of(u64::MAX, 1).chars().count(), BAR_CELLS);
    }

    #[test]
    fn the_deepest_lane_is_first_and_a_line_fits_80_columns() {
        let lane = |key: &str, alias: &[&str], ready: u64, held: u64| {
            json!({ "lane": key.repeat(52), "aliases": alias, "items": { "ready": ready, "held": held },
                    "bytes": { "ready": ready * 123_456_789, "held": 0 }, "oldest_ready_seconds": 2_345_678 })
        };
        let all: Vec<Value> = (0..30)
            .map(|n| lane("k", &[], n, 0))
            .chain([lane("h", &["a.very.long.name.of.somebody@mail.example.org"], 99_998, 1)])
            .collect();
        let page = lanes(Paint::new(false), &all, Bar::Ascii);
        let lines: Vec<&str> = page.lines().collect();
        assert!(
            lines[2].starts_with("a.very.long.name") && lines[2].ends_with(&"#".repeat(BAR_CELLS)),
            "{page}"
        );
        assert!(lines[3].contains(" 29 "), "{page}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{page}");
        assert!(page.contains("and 11 more"), "{page}");
        assert_eq!(lanes(Paint::new(false), &[], Bar::Ascii), "");
    }

    #[test]
    fn lanes_that_were_not_looked_at_are_told() {
        let some = more_lanes(Paint::new(false), &json!({ "lanes_complete": false }));
        assert!(some.contains("not every mailbox"), "{some}");
        for all in [json!({ "lanes_complete": true }), json!({})] {
            assert_eq!(more_lanes(Paint::new(false), &all), "");
        }
    }
}
