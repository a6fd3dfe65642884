//! `spool hold, release, retry, cancel, purge`, and `replay` of named items: what is done to items and submissions, one by one.
//!
//! Ids are taken as they are. A selection is looked up first, so that its size can be told before anything is done. With
//! each of its items goes the state in which it was seen: the relay leaves one alone that is in another by now, so that
//! what has become `ready` again is not purged as delivered. Such a one is told, counted, and stepped over.

use serde_json::{Value, json};
use spool::ids::ItemId;

use super::super::backend::Backend;
use super::super::screen;
use super::super::{Exit, Global, Stop};
use super::listing::{Selection, pages};
use super::{confirm, text};
use crate::admin::change::ItemVerb;

/// Most items of one command.
const ITEMS_MAX: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct MoveArgs {
    /// The items and submissions; or a selection
    #[arg(value_name = "ID", num_args = 0..=1000)]
    ids: Vec<ItemId>,
    #[command(flatten)]
    selection: Selection,
    /// Why; kept in the timeline
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Open the directory for the change when no relay runs
    #[arg(long)]
    offline: bool,
}

/// One that is meant.
pub(super) struct Meant {
    id: ItemId,
    /// The word of the state in which a selection saw it; `None`: it was named, whatever its state is.
    seen: Option<String>,
}

impl From<ItemId> for Meant {
    fn from(id: ItemId) -> Self {
        Self { id, seen: None }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResendArgs {
    /// The submission
    #[arg(value_name = "ID")]
    id: ItemId,
    /// A second copy at the recipient does no harm
    #[arg(long)]
    i_know_it_may_duplicate: bool,
    /// Why; kept in both timelines
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Open the directory for the change when no relay runs
    #[arg(long)]
    offline: bool,
}

pub(super) fn resend(global: &Global, args: &ResendArgs) -> anyhow::Result<Exit> {
    let body = json!({ "reason": args.reason, "i_know_it_may_duplicate": args.i_know_it_may_duplicate });
    let target = format!("/spool/items/{}/resend", args.id);
    let answer = Backend::open_for_change(global, args.offline)?.change(&target, body)?;
    if global.json {
        screen::line(&answer)?;
    } else {
        screen::print(&format!("{} is sent again as {}, due now\n", args.id, text(&answer["id"])))?;
    }
    Ok(Exit::Done)
}

pub(super) fn run(global: &Global, verb: ItemVerb, args: &MoveArgs) -> anyhow::Result<Exit> {
    let word = verb.word();
    match (args.ids.is_empty(), args.selection.is_empty()) {
        (true, true) => {
            let text = format!(
                "say which: ids, or a selection like --lane, --state, --to (see `spool {word} --help`)"
            );
            return Err(Stop::new(Exit::Usage, text).into());
        }
        (false, false) => {
            return Err(Stop::new(Exit::Usage, "say either ids or a selection, not both").into());
        }
        (false, true) | (true, false) => {}
    }
    let backend = Backend::open_for_change(global, args.offline)?;
    let named = if args.ids.is_empty() { &args.selection.id } else { &args.ids };
    let selected = named.is_empty();
    let meant = if selected {
        select(&backend, verb, args)?
    } else {
        named.iter().copied().map(Meant::from).collect()
    };
    if meant.is_empty() {
        if !global.json {
            eprintln!("nothing matches");
        }
        return Ok(Exit::Nothing);
    }
    let asks = selected || verb == ItemVerb::Purge;
    if asks && !args.yes {
        let s = if meant.len() == 1 { "" } else { "s" };
        if !confirm(&format!("Really {word} {} item{s}?", meant.len()))? {
            return Err(Stop::new(Exit::Failed, "nothing was changed").into());
        }
    }
    each(global, &backend, verb, &meant, &args.reason)
}

/// Does it to each of them; says at the end how many were left alone.
pub(super) fn each(
    global: &Global,
    backend: &Backend,
    verb: ItemVerb,
    meant: &[Meant],
    reason: &str,
) -> anyhow::Result<Exit> {
    let word = verb.word();
    let mut left_alone = 0_usize;
    for Meant { id, seen } in meant {
        let mut body = json!({ "reason": reason });
        if let Some(seen) = seen {
            body["state"] = seen.as_str().into();
        }
        match backend.change(&format!("/spool/items/{id}/{word}"), body) {
            Ok(answer) => say(global, &answer)?,
            // One that moved on meanwhile must not keep the others.
            Err(error) if meant.len() > 1 => {
                left_alone += 1;
                eprintln!("{id}: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    if left_alone == 0 {
        return Ok(Exit::Done);
    }
    eprintln!("{left_alone} of {} left alone, for the reasons above", meant.len());
    Ok(Exit::Failed)
}

fn say(global: &Global, answer: &Value) -> std::io::Result<()> {
    if global.json {
        return screen::line(answer);
    }
    let note = match (text(&answer["direction"]), text(&answer["state"])) {
        ("out", "ready") => ", due now",
        ("out", "failed") => "; its gateway is told",
        _ => "",
    };
    screen::print(&format!("{} is {}{note}\n", text(&answer["id"]), text(&answer["state"])))
}

/// What a selection means, without those that `verb` can do nothing to.
fn select(backend: &Backend, verb: ItemVerb, args: &MoveArgs) -> anyhow::Result<Vec<Meant>> {
    let mut ask = args.selection.ask();
    if matches!(verb, ItemVerb::Cancel | ItemVerb::Retry) {
        ask.direction = ask.direction.or_else(|| Some("out".to_owned()));
    }
    if ask.state.is_none() {
        let states = match verb {
            ItemVerb::Hold | ItemVerb::Retry => Some("ready,leased"),
            ItemVerb::Release => Some("held"),
            ItemVerb::Cancel => Some("ready,held"),
            ItemVerb::Replay => Some("acked,expired"),
            ItemVerb::Purge => None,
        };
        ask.state = states.map(str::to_owned);
    }
    let mut meant = Vec::new();
    let more = pages(backend, ask, ITEMS_MAX, &mut |item| {
        meant.push(Meant { id: text(&item["id"]).parse()?, seen: Some(text(&item["state"]).to_owned()) });
        Ok(())
    })?;
    if more {
        let message = format!("more than {ITEMS_MAX} items; narrow the selection");
        return Err(Stop::new(Exit::Usage, message).into());
    }
    Ok(meant)
}
