//! `spool stats`: depth, bytes and oldest age, per lane and in all; journal segments.

use serde_json::Value;

use super::super::backend::Backend;
use super::super::screen::{self, Paint};
use super::super::{Exit, Global};
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
        "\nleased now {}, oldest waiting {oldest}, mailboxes {}\njournal {} in {} segments ({} reclaimable), \
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
    let lanes: Vec<Vec<String>> = stats["lanes"].as_array().into_iter().flatten().map(lane_row).collect();
    if !lanes.is_empty() {
        page.push('\n');
        let header = ["LANE", "READY", "HELD", "BYTES", "OLDEST"];
        page.push_str(&screen::table(paint, &header, &[false, true, true, true, true], &lanes));
    }
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

fn lane_row(lane: &Value) -> Vec<String> {
    let sum = |of: &str| of_state(lane, of, "ready") + of_state(lane, of, "held");
    vec![
        text(&lane["lane"]).to_owned(),
        of_state(lane, "items", "ready").to_string(),
        of_state(lane, "items", "held").to_string(),
        screen::bytes(sum("bytes")),
        lane["oldest_ready_seconds"].as_u64().map_or(String::new(), screen::age),
    ]
}

fn of_state(lane: &Value, of: &str, state: &str) -> u64 {
    lane[of][state].as_u64().unwrap_or(0)
}
