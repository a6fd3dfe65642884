//! `bench delivery`: empties a full queue into `smtp-sink`, once with this relay and once with Postfix.
//!
//! The same messages, the same sink, the same disk, one after the other in one run, measured from the moment the queue is
//! released until it is empty. The sink's CPU time is not counted.

mod postfix;
mod relay;

use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::peers::sink::Sink;
use super::report::{self, Subject};
use super::{Common, Side, stop};
use crate::cli::{Exit, Global};
use crate::clock;

/// Longest time one side may take to empty its queue.
const EMPTY_PATIENCE: Duration = Duration::from_secs(1800);
/// Time between two looks at a queue.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Messages in the queue
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    messages: u64,
    /// Size of each, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(256..=50_000_000))]
    size: u64,
    /// Most deliveries at a time, of each side
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    concurrency: u16,
    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
struct Load {
    messages: u64,
    size: u64,
    concurrency: u16,
}

const SIDES: [Side; 3] = [Side::Waystation, Side::Baseline, Side::Postfix];

const COLUMNS: [(&str, &str); 4] = [
    ("messages_per_second", "MSG/S"),
    ("cpu_seconds_per_1000", "CPU S/1000"),
    ("bytes_written_per_message", "WRITTEN/MSG"),
    ("peak_memory_bytes", "PEAK MEMORY"),
];

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let load = Load { messages: args.messages, size: args.size, concurrency: args.concurrency };
    let turns = args.common.turns(&SIDES, |side, dir| {
        let mut sink = Sink::start(load.concurrency)?;
        if side == Side::Postfix {
            return postfix::measure(dir, &mut sink, load);
        }
        relay::measure(dir, &args.common.program(side)?, &mut sink, load).map(Ok)
    })?;
    let mut described = Map::new();
    described.insert("messages".to_owned(), json!(load.messages));
    described.insert("size".to_owned(), json!(load.size));
    described.insert("concurrency".to_owned(), json!(load.concurrency));
    let words = format!(
        "delivery: {} messages of {} bytes, {} at a time, from a full queue into smtp-sink",
        load.messages, load.size, load.concurrency
    );
    let subject = Subject { bench: "delivery", words, load: described, columns: &COLUMNS };
    report::finish(global, &args.common, &subject, &turns)
}

/// Looks until `is_empty`; how long that took since `released`.
fn wait_until_empty(
    released: Instant,
    sink: &mut Sink,
    mut is_empty: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    loop {
        sink.check()?;
        if is_empty()? {
            return Ok(clock::monotonic().duration_since(released));
        }
        let waited = clock::monotonic().duration_since(released);
        anyhow::ensure!(waited < EMPTY_PATIENCE, "the queue is not empty after {} s", waited.as_secs());
        stop::sleep(LOOK_EVERY)?;
    }
}
