//! `waystation spool ...`: arguments and how answers are shown.

mod export;
mod follow;
mod listing;
mod moves;
mod page;
mod stats;

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::Value;
use spool::ids::ItemId;

use super::backend::Backend;
use super::screen::{self, Paint};
use super::{Exit, Global, Stop};
use crate::admin::change::{ItemVerb, ReplayAsk};

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Works against the running relay, and reads the directory itself when none runs; it says which.

Examples:
  waystation spool ls --state ready --since 2h
  waystation spool ls --direction out --result failed,indeterminate
  waystation spool show 06h4k2v0c8q1r5t7u9v3s6d0ag --raw > message.eml
  waystation spool explain 06h4k2v0c8q1r5t7u9v3s6d0ag
  waystation spool replay --lane home@mail.example.org --since 2d --yes
  waystation spool follow --id 06h4k2v0c8q1r5t7u9v3s6d0ag
  waystation spool export ./rescued --lane home@mail.example.org --state ready
  waystation spool verify";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List items and submissions, oldest first per lane
    #[command(after_help = "Examples:\n  \
        waystation spool ls --newest --limit 20\n  \
        waystation spool ls --lane home@mail.example.org --state held,expired\n  \
        waystation spool ls --direction out --state ready --to @example.com\n\n\
        NEXT, of a submission: when it is tried, `verdict` when only the next hop's answer is missing, `tell`\n\
        when its gateway has not confirmed the result.")]
    Ls(listing::LsArgs),
    /// Show the record of one item or submission, and its whole timeline
    Show(page::ShowArgs),
    /// Say in one paragraph why an item or submission is where it is, what happens next and when
    Explain {
        /// The item or submission
        #[arg(value_name = "ID")]
        id: ItemId,
    },
    /// Tell what happens in the running relay, as it happens
    #[command(after_help = "Examples:\n  \
        waystation spool follow --lane home@mail.example.org\n  \
        waystation spool follow --event outbound. --json | jq .text\n\n\
        Times are UTC. What happened before is in `spool show ID`.")]
    Follow(follow::FollowArgs),
    /// Watch the relay live on a terminal: rates, lanes, sessions, what is on its way
    #[command(after_help = super::top::EXAMPLES)]
    Top,
    /// Write messages into a Maildir or an mbox file, with a manifest
    #[command(after_help = "Examples:\n  \
        waystation spool export ./rescued --lane home@mail.example.org --state ready,held\n  \
        waystation spool export ./archive --format mbox --direction in --since 7d\n\n\
        Reads only: what is exported stays in the spool. manifest.jsonl has one object per item, also for those whose\n\
        bytes are gone or damaged (`missing` says why); it appears at the end, and a directory without it was cut off.\n\
        Exit code 1 when something is damaged, 3 when nothing matches.")]
    Export(export::ExportArgs),
    /// Depth, bytes and oldest age, per lane and in all; journal segments
    Stats,
    /// Read every record and check every checksum
    #[command(after_help = "Examples:\n  \
        waystation spool verify\n  \
        waystation spool verify --rebuild-index\n\n\
        Exit code 1 and a list when anything is wrong. The index is a cache of the journal: to build it anew loses\n\
        nothing, also when it is cut off; the next start goes on.")]
    Verify(super::verify::VerifyArgs),
    /// Offer items again that were delivered or have expired, within their retention
    #[command(after_help = "Examples:\n  \
        waystation spool replay --lane home@mail.example.org --since 2h\n  \
        waystation spool replay 06h4k2v0c8q1r5t7u9v3s6d0ag --reason 'home was away'\n\n\
        A lane means its delivered items. What has expired is named: `spool ls --state expired` lists it.")]
    Replay(ReplayArgs),
    /// Stop handing out items, and trying submissions
    #[command(after_help = "Examples:\n  \
        waystation spool hold ID --reason 'asked by the owner'\n  \
        waystation spool hold --direction out --to @example.com --yes")]
    Hold(moves::MoveArgs),
    /// Hand out held items again; held submissions are due at once
    Release(moves::MoveArgs),
    /// Try waiting submissions now
    Retry(moves::MoveArgs),
    /// End submissions as failed, as long as nothing was handed over; their gateways are told
    #[command(after_help = "Examples:\n  \
        waystation spool cancel ID --reason 'sent by mistake'\n  \
        waystation spool cancel --to @example.com --state ready,held --yes\n\n\
        An armed submission cannot be cancelled: its last octets may have left.")]
    Cancel(moves::MoveArgs),
    /// Send the message of a failed or indeterminate submission again, as a new one
    #[command(after_help = "Example:\n  \
        waystation spool resend ID --i-know-it-may-duplicate --reason 'the recipient says it never came'\n\n\
        The first submission keeps its result. If the new one fails, a report comes into the mailbox.")]
    Resend(moves::ResendArgs),
    /// Remove items, and submissions whose result was told; a note is left
    #[command(after_help = "Example:\n  waystation spool purge --state quarantined --yes")]
    Purge(moves::MoveArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The items, delivered or expired; or a lane
    #[arg(value_name = "ID", num_args = 0..=1000, conflicts_with_all = ["lane", "since", "from_seq"])]
    ids: Vec<ItemId>,
    /// The lane whose delivered items are meant: a key text, an alias, or an address
    #[arg(long, value_name = "KEY|ADDRESS", required_unless_present = "ids")]
    lane: Option<String>,
    /// Items accepted within this time (45s, 30m, 2h, 7d)
    #[arg(long, value_name = "SPAN", value_parser = screen::span_ms, conflicts_with = "from_seq",
        required_unless_present_any = ["ids", "from_seq"])]
    since: Option<u64>,
    /// Items from this number on
    #[arg(long, value_name = "N")]
    from_seq: Option<u64>,
    /// Why, for named items; kept in the timeline
    #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "lane")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Open the directory for the change when no relay runs
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    let paint = Paint::new(global.color.on_stdout());
    match verb {
        Verb::Ls(args) => listing::ls(global, paint, &args),
        Verb::Show(args) => page::show(global, paint, &args),
        Verb::Explain { id } => {
            let answer = Backend::open(global)?.explain(id)?;
            if global.json {
                screen::line(&answer)?;
            } else {
                screen::print(&format!("{}\n", wrap(&screen::clean(text(&answer["text"])), 100)))?;
            }
            Ok(Exit::Done)
        }
        Verb::Follow(args) => follow::run(global, paint, &args),
        Verb::Top => super::top::run(global),
        Verb::Export(args) => export::run(global, &args),
        Verb::Stats => stats::stats(global, paint),
        Verb::Verify(args) => super::verify::run(global, &args),
        Verb::Replay(args) => replay(global, &args),
        Verb::Hold(args) => moves::run(global, ItemVerb::Hold, &args),
        Verb::Release(args) => moves::run(global, ItemVerb::Release, &args),
        Verb::Retry(args) => moves::run(global, ItemVerb::Retry, &args),
        Verb::Cancel(args) => moves::run(global, ItemVerb::Cancel, &args),
        Verb::Resend(args) => moves::resend(global, &args),
        Verb::Purge(args) => moves::run(global, ItemVerb::Purge, &args),
    }
}

fn replay(global: &Global, args: &ReplayArgs) -> anyhow::Result<Exit> {
    let backend = Backend::open_for_change(global, args.offline)?;
    let Some(lane) = &args.lane else {
        let meant: Vec<_> = args.ids.iter().copied().map(moves::Meant::from).collect();
        return moves::each(global, &backend, ItemVerb::Replay, &meant, &args.reason);
    };
    let since_ms = args.since.map(|ms| crate::clock::wall().0.saturating_sub(ms));
    let ask = ReplayAsk { lane: lane.clone(), since_ms, from_seq: args.from_seq };
    if !args.yes {
        let what = match (args.from_seq, args.since) {
            (Some(seq), _) => format!("from number {seq} on"),
            (None, span) => format!("accepted in the last {}", screen::age(span.unwrap_or(0) / 1000)),
        };
        let question = format!("Offer the delivered items of {lane} {what} again?");
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
}
