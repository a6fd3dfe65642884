//! `bench growth`: what a message costs when much is stored already, and over how many lanes it lies.
//!
//! One spool is filled step by step; at each step a relay starts on it, takes the same load by SMTP, answers an operator,
//! is killed and starts again, and builds its index anew. A cost that does not depend on what is stored has ratios near 1.
//!
//! Files that were written lately are in the kernel's memory, as far as it suffices: starts are those of a relay that is
//! restarted, not of a machine that was switched on.

mod fill;
mod table;

use std::path::Path;

use spool::ids::ItemId;

use super::figures::{Outcome, Unit};
use super::server::Place;
use super::smtp::{Load, Size};
use super::{Common, Scratch, Side, accept, report, usage};
use crate::cli::{Exit, Global};
use crate::clock;
use crate::daemon::ledger;

/// Times that an operator's question is asked.
const ASKED: usize = 5;
/// Items in an operator's list.
const LISTED: usize = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Items already stored, step by step
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10000,100000,1000000", value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    stored: Vec<u64>,
    /// Lanes that they lie in
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    lanes: u32,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(256..=fill::BYTES_MAX))]
    size: u64,
    /// Messages that come by SMTP at each step
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    messages: u64,
    /// SMTP sessions at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    sessions: u16,
    /// Measure no start without an index
    #[arg(long)]
    skip_rebuild: bool,
    /// Then the same with --lanes-sweep-stored items in so many lanes
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    lanes_sweep: Vec<u32>,
    /// Items of --lanes-sweep
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    lanes_sweep_stored: u64,
    #[command(flatten)]
    common: Common,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Stored,
    Lanes,
}

/// One step of one side.
#[derive(Debug)]
struct Step {
    part: Part,
    side: Side,
    round: u8,
    stored: u64,
    lanes: u32,
    outcome: Outcome,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut stored = args.stored.clone();
    stored.sort_unstable();
    stored.dedup();
    let mut lanes = args.lanes_sweep.clone();
    lanes.sort_unstable();
    lanes.dedup();
    let mut steps = Vec::new();
    for round in 1..=args.common.repeat {
        for side in args.common.wanted(&[Side::Waystation, Side::Baseline]) {
            let scratch = Scratch::make(&args.common.root())?;
            let mut full = Full::make(args, side, &scratch.0, args.lanes)?;
            for stored in &stored {
                let outcome = full.step(args, *stored)?;
                steps.push(Step {
                    part: Part::Stored,
                    side,
                    round,
                    stored: *stored,
                    lanes: args.lanes,
                    outcome,
                });
            }
            drop(scratch);
            for lanes in &lanes {
                let scratch = Scratch::make(&args.common.root())?;
                let stored = args.lanes_sweep_stored;
                let outcome = Full::make(args, side, &scratch.0, *lanes)?.step(args, stored)?;
                steps.push(Step { part: Part::Lanes, side, round, stored, lanes: *lanes, outcome });
            }
        }
    }
    table::finish(global, args, &steps)
}

/// A spool that grows, and the place where relays start on it.
struct Full<'a> {
    place: Place,
    dir: &'a Path,
    recipients: Vec<String>,
    stored: u64,
}

impl<'a> Full<'a> {
    fn make(args: &Args, side: Side, dir: &'a Path, lanes: u32) -> anyhow::Result<Self> {
        let place = Place::make(dir, &args.common.program(side)?, "")?;
        let recipients = place.mailboxes(lanes)?;
        Ok(Self { place, dir, recipients, stored: 0 })
    }

    /// Fills up to `stored` items and measures.
    fn step(&mut self, args: &Args, stored: u64) -> anyhow::Result<Outcome> {
        anyhow::ensure!(stored > self.stored, "{stored} items are no step up from {}", self.stored);
        let filling = clock::monotonic();
        let size = usize::try_from(args.size)?;
        let sample = fill::fill(&self.place, &self.recipients, self.stored..stored, size)?;
        let filled = clock::monotonic().duration_since(filling);
        let fill_rate = super::count(stored - self.stored) / filled.as_secs_f64();
        self.stored = stored;
        if args.common.baseline.is_some() {
            // This program filled it for both sides: each makes the index its own before it is measured.
            self.place.start()?.stop()?;
        }
        let relay = self.place.start()?;
        let (start, memory) = (relay.ready, usage::memory_of_tree(relay.pid()));
        relay.has_ready(self.stored)?;
        let load = Load {
            sessions: usize::from(args.sessions),
            first: self.stored,
            ..Load::new(relay.smtp()?, self.recipients.clone(), args.messages, Size::Bytes(size))
        };
        let mut outcome = accept::cost_of(load, relay.pid(), self.dir)?;
        self.stored += args.messages;
        outcome.figure("fill_per_second", Unit::PerSecond, fill_rate);
        outcome.figure("memory_after_start_bytes", Unit::Bytes, super::count(memory));
        outcome.figure("start_seconds", Unit::Seconds, start.as_secs_f64());
        self.ask(sample, &mut outcome)?;

        // Killed, with the last changes still in memory only.
        drop(relay);
        let relay = self.place.start()?;
        outcome.figure("start_after_kill_seconds", Unit::Seconds, relay.ready.as_secs_f64());
        relay.has_ready(self.stored)?;
        relay.stop()?;
        let disk = usage::bytes_below(&self.dir.join("data"));
        outcome.figure("disk_bytes_per_item", Unit::Bytes, super::count(disk) / super::count(self.stored));
        if !args.skip_rebuild {
            ledger::remove_index(&self.place.config()?)?;
            let relay = self.place.start()?;
            outcome.figure("start_without_index_seconds", Unit::Seconds, relay.ready.as_secs_f64());
            relay.has_ready(self.stored)?;
            relay.stop()?;
        }
        Ok(outcome)
    }

    /// Times of an operator's questions, whose answers are looked at.
    fn ask(&self, sample: ItemId, outcome: &mut Outcome) -> anyhow::Result<()> {
        let (limit, id) = (LISTED.to_string(), sample.to_string());
        let list = ["--json", "spool", "ls", "--limit", &limit];
        let newest = ["--json", "spool", "ls", "--newest", "--limit", &limit];
        let show = ["--json", "spool", "show", &id];
        outcome.figure(
            "ls_ms",
            Unit::Milliseconds,
            self.median_ms(&list, |said| said.lines().count() == LISTED)?,
        );
        let answered = self.median_ms(&newest, |said| said.lines().count() == LISTED)?;
        outcome.figure("newest_ms", Unit::Milliseconds, answered);
        outcome.figure("show_ms", Unit::Milliseconds, self.median_ms(&show, |said| said.contains(&id))?);
        Ok(())
    }

    fn median_ms(&self, question: &[&str], is_right: impl Fn(&str) -> bool) -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let (took, said) = self.place.ask(question)?;
            anyhow::ensure!(is_right(&said), "an odd answer to `{}`:\n{said}", question.join(" "));
            times.push(took.as_secs_f64() * 1000.0);
        }
        Ok(report::median(&times))
    }
}
