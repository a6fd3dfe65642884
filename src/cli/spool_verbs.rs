//! `waystation spool ...`: arguments and how answers are shown.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::Value;
use spool::ids::ItemId;

use super::backend::Backend;
use super::screen::{self, Paint};
use super::{Exit, Global, Stop};
use crate::admin::ask::ItemsAsk;
use crate::admin::change::ReplayAsk;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Works against the running relay, and reads the directory itself when none runs; it says which.

Examples:
  waystation spool ls --state ready --since 2h
  waystation spool show 06h4k2v0c8q1r5t7u9v3s6d0ag --raw > message.eml
  waystation spool explain 06h4k2v0c8q1r5t7u9v3s6d0ag
  waystation spool replay --lane home@mail.example.org --since 2d --yes
  waystation spool verify";

/// Most messages of one `hold`, `release` without `--lane`.
const IDS_MAX: usize = 1000;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List items, oldest first per lane
    #[command(
        after_help = "Example:\n  waystation spool ls --lane home@mail.example.org --state held,expired"
    )]
    Ls(LsArgs),
    /// Show the record of one item, and its whole timeline
    Show(ShowArgs),
    /// Say in one paragraph why an item is where it is, what happens next and when
    Explain {
        /// The item
        #[arg(value_name = "ID")]
        id: ItemId,
    },
    /// Depth, bytes and oldest age, per lane and in all; journal segments
    Stats,
    /// Read every record and check every checksum
    #[command(
        after_help = "Exit code 1 and a list when anything is wrong. Reading a large spool takes a while."
    )]
    Verify,
    /// Offer delivered items again, within their retention
    #[command(after_help = "Example:\n  waystation spool replay --lane home@mail.example.org --since 2h")]
    Replay(ReplayArgs),
    /// Stop handing out items
    #[command(after_help = "Example:\n  waystation spool hold ID --reason 'asked by the owner'")]
    Hold(MoveArgs),
    /// Hand out held items again
    Release(MoveArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only this lane: a key text, an alias, or an address
    #[arg(long, value_name = "KEY|ADDRESS")]
    lane: Option<String>,
    /// Only these states: ready, leased, acked, expired, held, quarantined, purged
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    /// Accepted within this time (45s, 30m, 2h, 7d)
    #[arg(long, value_name = "SPAN", value_parser = screen::span_ms)]
    since: Option<u64>,
    /// Accepted before this time ago
    #[arg(long, value_name = "SPAN", value_parser = screen::span_ms)]
    until: Option<u64>,
    /// Part of the sender's address
    #[arg(long, value_name = "TEXT")]
    from: Option<String>,
    /// Part of the recipient's address
    #[arg(long, value_name = "TEXT")]
    to: Option<String>,
    /// Only these items
    #[arg(long, value_name = "ID")]
    id: Vec<ItemId>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The item
    #[arg(value_name = "ID")]
    id: ItemId,
    /// Write the bytes as a gateway gets them, and nothing else
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("start").required(true))]
pub(crate) struct ReplayArgs {
    /// The lane: a key text, an alias, or an address
    #[arg(long, value_name = "KEY|ADDRESS")]
    lane: String,
    /// Items accepted within this time (45s, 30m, 2h, 7d)
    #[arg(long, value_name = "SPAN", value_parser = screen::span_ms, group = "start")]
    since: Option<u64>,
    /// Items from this number on
    #[arg(long, value_name = "N", group = "start")]
    from_seq: Option<u64>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Open the directory for the change when no relay runs
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MoveArgs {
    /// The items
    #[arg(value_name = "ID", required = true, num_args = 1..=IDS_MAX)]
    ids: Vec<ItemId>,
    /// Why; kept in the timeline
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Open the directory for the change when no relay runs
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    let paint = Paint::new(global.color.on_stdout());
    match verb {
        Verb::Ls(args) => ls(global, paint, &args),
        Verb::Show(args) => show(global, paint, &args),
        Verb::Explain { id } => {
            let answer = Backend::open(global)?.explain(id)?;
            if global.json {
                screen::line(&answer)?;
            } else {
                screen::print(&format!("{}\n", wrap(text(&answer["text"]), 100)))?;
            }
            Ok(Exit::Done)
        }
        Verb::Stats => stats(global, paint),
        Verb::Verify => super::verify::run(global),
        Verb::Replay(args) => replay(global, &args),
        Verb::Hold(args) => transfer(global, "hold", &args),
        Verb::Release(args) => transfer(global, "release", &args),
    }
}

fn ls(global: &Global, paint: Paint, args: &LsArgs) -> anyhow::Result<Exit> {
    let backend = Backend::open(global)?;
    let now = crate::clock::wall();
    let ago = |span: Option<u64>| span.map(|ms| now.0.saturating_sub(ms));
    let mut ask = ItemsAsk {
        lane: args.lane.clone(),
        state: args.state.clone(),
        since_ms: ago(args.since),
        until_ms: ago(args.until),
        from: args.from.clone(),
        to: args.to.clone(),
        after: None,
        limit: None,
    };
    let (mut rows, mut count, mut more) = (Vec::new(), 0, false);
    let mut show = |item: &Value| -> anyhow::Result<()> {
        count += 1;
        if global.json {
            screen::line(item)?;
        } else {
            rows.push(row(item));
        }
        Ok(())
    };
    if args.id.is_empty() {
        let mut left = args.limit.max(1);
        loop {
            ask.limit = Some(left.min(crate::admin::ask::LIMIT_MAX));
            let page = backend.items(&ask)?;
            for item in page["items"].as_array().into_iter().flatten() {
                show(item)?;
                left = left.saturating_sub(1);
            }
            ask.after = page["next"].as_str().map(str::to_owned);
            if ask.after.is_none() || left == 0 {
                more = ask.after.is_some();
                break;
            }
        }
    } else {
        for id in &args.id {
            show(&backend.item(*id)?)?;
        }
    }
    if count == 0 {
        if !global.json {
            eprintln!("nothing matches");
        }
        return Ok(Exit::Nothing);
    }
    if !global.json {
        let header = ["ID", "STATE", "SEQ", "AGE", "SIZE", "LANE", "FROM", "TO"];
        let right = [false, false, true, true, true, false, false, false];
        screen::print(&screen::table(paint, &header, &right, &rows))?;
        if more {
            eprintln!("{}", paint.dim("(more; use --limit, or narrow the selection)"));
        }
    }
    Ok(Exit::Done)
}

fn row(item: &Value) -> Vec<String> {
    let from = match item["mail_from"].as_str() {
        Some("") => "<>",
        Some(path) => path,
        None => "?",
    };
    vec![
        text(&item["id"]).to_owned(),
        text(&item["state"]).to_owned(),
        item["seq"].to_string(),
        screen::age(item["age_seconds"].as_u64().unwrap_or(0)),
        screen::bytes(item["size_bytes"].as_u64().unwrap_or(0)),
        shorten(text(&item["lane"]), 14),
        shorten(from, 40),
        shorten(text(&item["rcpt_to"]), 40),
    ]
}

/// Key texts are 52 characters; the first ones tell them apart.
fn shorten(name: &str, chars_max: usize) -> String {
    if name.chars().count() <= chars_max {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(chars_max - 3).collect();
    short.push_str("...");
    short
}

fn show(global: &Global, paint: Paint, args: &ShowArgs) -> anyhow::Result<Exit> {
    let backend = Backend::open(global)?;
    if args.raw {
        let mut out = std::io::stdout().lock();
        backend.raw(args.id, &mut out)?;
        out.flush()?;
        return Ok(Exit::Done);
    }
    let item = backend.item(args.id)?;
    if global.json {
        screen::line(&item)?;
        return Ok(Exit::Done);
    }
    let mut page = String::new();
    let mut field = |name: &str, value: &str| {
        page.push_str(&format!("{} {value}\n", paint.dim(&format!("{name:>12}"))));
    };
    field("id", &paint.strong(text(&item["id"])));
    field("state", &paint.state(text(&item["state"])));
    field("lane", &format!("{}, number {}", text(&item["lane"]), item["seq"]));
    field("from", &format!("<{}>", text(&item["mail_from"])));
    field("to", &format!("<{}>", text(&item["rcpt_to"])));
    field("size", &screen::bytes(item["size_bytes"].as_u64().unwrap_or(0)));
    let age = screen::age(item["age_seconds"].as_u64().unwrap_or(0));
    field("accepted", &format!("{} ({age} ago)", text(&item["accepted_at"])));
    let client = [text(&item["client_ip"]), text(&item["helo"]), text(&item["protocol"])];
    field("client", client.join(" ").trim());
    field("sha256", text(&item["sha256"]));
    page.push_str(&format!("{}\n", paint.dim("    timeline")));
    for step in item["timeline"].as_array().into_iter().flatten() {
        let state = format!("{:<11}", text(&step["state"]));
        let line = format!("{}  {} {}", text(&step["at"]), paint.state(&state), text(&step["reason"]));
        page.push_str(&format!("{:>13}{}\n", "", line.trim_end()));
    }
    let trace = text(&item["trace"]).trim_end();
    if !trace.is_empty() {
        page.push_str(&format!("{}\n", paint.dim("       trace")));
        for line in trace.lines() {
            page.push_str(&format!("{:>13}{line}\n", ""));
        }
    }
    screen::print(&page)?;
    Ok(Exit::Done)
}

fn stats(global: &Global, paint: Paint) -> anyhow::Result<Exit> {
    let stats = Backend::open(global)?.stats()?;
    if global.json {
        screen::line(&stats)?;
        return Ok(Exit::Done);
    }
    let size = |value: &Value| screen::bytes(value.as_u64().unwrap_or(0));
    let rows: Vec<Vec<String>> = ["ready", "held", "acked", "expired", "quarantined", "purged"]
        .iter()
        .map(|state| {
            vec![(*state).to_owned(), stats["items"][state].to_string(), size(&stats["bytes"][state])]
        })
        .collect();
    let mut page = screen::table(paint, &["STATE", "ITEMS", "BYTES"], &[false, true, true], &rows);
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

fn replay(global: &Global, args: &ReplayArgs) -> anyhow::Result<Exit> {
    let since_ms = args.since.map(|ms| crate::clock::wall().0.saturating_sub(ms));
    let ask = ReplayAsk { lane: args.lane.clone(), since_ms, from_seq: args.from_seq };
    let backend = Backend::open_for_change(global, args.offline)?;
    if !args.yes {
        let what = match (args.from_seq, args.since) {
            (Some(seq), _) => format!("from number {seq} on"),
            (None, span) => format!("accepted in the last {}", screen::age(span.unwrap_or(0) / 1000)),
        };
        let question = format!("Offer the delivered items of {} {what} again?", args.lane);
        if !confirm(&question)? {
            return Err(Stop::new(Exit::Failed, "nothing was replayed").into());
        }
    }
    let answer = backend.change("/spool/replay", serde_json::to_value(&ask)?)?;
    let count = answer["replayed"].as_u64().unwrap_or(0);
    if global.json {
        screen::line(&answer)?;
    } else {
        let s = if count == 1 { "" } else { "s" };
        screen::print(&format!("{count} item{s} offered again\n"))?;
    }
    Ok(if count == 0 { Exit::Nothing } else { Exit::Done })
}

/// Asks on a terminal; without one the answer is no, and how to say yes is told.
fn confirm(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Stop::new(Exit::Usage, format!("{question} Say --yes to do it without being asked.")).into()
        );
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn transfer(global: &Global, verb: &str, args: &MoveArgs) -> anyhow::Result<Exit> {
    let backend = Backend::open_for_change(global, args.offline)?;
    for id in &args.ids {
        let body = serde_json::json!({ "reason": args.reason });
        let answer = backend.change(&format!("/spool/items/{id}/{verb}"), body)?;
        if global.json {
            screen::line(&answer)?;
        } else {
            screen::print(&format!("{id} is {}\n", text(&answer["state"])))?;
        }
    }
    Ok(Exit::Done)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// Breaks a paragraph into lines of at most `columns` characters.
fn wrap(paragraph: &str, columns: usize) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in paragraph.split(' ') {
        let len = word.chars().count();
        if width > 0 && width + 1 + len > columns {
            lines.push('\n');
            width = 0;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += len;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_break_between_words() {
        assert_eq!(wrap("aa bb cc", 5), "aa bb\ncc");
        assert_eq!(wrap("aaaaaaa b", 5), "aaaaaaa\nb");
    }

    #[test]
    fn long_names_keep_their_beginning() {
        assert_eq!(shorten("abcdefghij", 8), "abcde...");
        assert_eq!(shorten("abc", 8), "abc");
    }
}
