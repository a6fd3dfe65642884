//! `bench`: measurements that anybody can repeat on the machine at hand.
//!
//! `bench delivery` empties a full queue into `smtp-sink`, once with this relay and once with Postfix: the same
//! messages, the same sink, the same disk, one after the other in one run. It measures from the moment the queue is
//! released until it is empty: messages per second, and CPU seconds per thousand messages of all processes of each
//! side, the sink's not counted.
//!
//! Failure policy: what cannot be measured (no Postfix, no root) is left out with a line that says so; a number
//! that is printed was measured.

mod cpu;
mod postfix;
mod relay;
mod sink;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::screen::{self, Paint};
use super::{Exit, Global};
use crate::clock;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Examples:
  waystation bench delivery
  waystation bench delivery --messages 20000 --size 1024 --json
  waystation bench delivery --only relay --dir /srv/disk-to-measure

Needs smtp-sink and smtp-source (Debian package postfix), and root for Postfix itself.";

/// Longest time one side may take to empty its queue.
const EMPTY_PATIENCE: Duration = Duration::from_secs(1800);
/// Time between two looks at a queue.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Empty a full queue into smtp-sink, beside Postfix
    Delivery(DeliveryArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeliveryArgs {
    /// Messages in the queue
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    messages: u64,
    /// Size of each, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(256..=50_000_000))]
    size: u64,
    /// Most deliveries at a time, of each side
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    concurrency: u16,
    /// Times that each side is measured
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=20))]
    repeat: u8,
    /// Measure one side only
    #[arg(long, value_enum, value_name = "relay|postfix")]
    only: Option<Side>,
    /// Directory on the disk to measure; both queues lie below it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    Relay,
    Postfix,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Relay => "waystation",
            Self::Postfix => "postfix",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
struct Load {
    messages: u64,
    size: u64,
    concurrency: u16,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// From release to an empty queue.
    wall: Duration,
    /// User and system time of all processes of that side.
    cpu: Duration,
}

impl Taken {
    fn per_second(&self, messages: u64) -> f64 {
        count(messages) / self.wall.as_secs_f64()
    }

    fn cpu_per_thousand(&self, messages: u64) -> f64 {
        self.cpu.as_secs_f64() * 1000.0 / count(messages)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a million messages fit")]
fn count(messages: u64) -> f64 {
    messages as f64
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Delivery(args) => delivery(global, &args),
    }
}

fn delivery(global: &Global, args: &DeliveryArgs) -> anyhow::Result<Exit> {
    let load = Load { messages: args.messages, size: args.size, concurrency: args.concurrency };
    let root = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut taken: Vec<(Side, Taken)> = Vec::new();
    for _ in 0..args.repeat {
        for side in [Side::Relay, Side::Postfix] {
            if args.only.is_some_and(|only| only != side) {
                continue;
            }
            let dir = Scratch::make(&root)?;
            let mut sink = sink::Sink::start(load.concurrency)?;
            match side {
                Side::Relay => taken.push((side, relay::measure(&dir.0, &mut sink, load)?)),
                Side::Postfix => match postfix::measure(&dir.0, &mut sink, load)? {
                    Ok(measured) => taken.push((side, measured)),
                    Err(why) => eprintln!("postfix is left out: {why}"),
                },
            }
        }
    }
    if global.json {
        let sides: Vec<Value> = taken.iter().map(|(side, taken)| object(*side, taken, load)).collect();
        for side in sides {
            screen::line(&side)?;
        }
    } else {
        screen::print(&table(Paint::new(global.color.on_stdout()), &taken, load))?;
    }
    Ok(if taken.is_empty() { Exit::Failed } else { Exit::Done })
}

fn object(side: Side, taken: &Taken, load: Load) -> Value {
    json!({
        "bench": "delivery",
        "side": side.word(),
        "messages": load.messages,
        "size_bytes": load.size,
        "concurrency": load.concurrency,
        "seconds": taken.wall.as_secs_f64(),
        "messages_per_second": taken.per_second(load.messages),
        "cpu_seconds": taken.cpu.as_secs_f64(),
        "cpu_seconds_per_1000": taken.cpu_per_thousand(load.messages),
        "optimized": !cfg!(debug_assertions),
    })
}

fn table(paint: Paint, taken: &[(Side, Taken)], load: Load) -> String {
    let row = |(side, taken): &(Side, Taken)| {
        vec![
            side.word().to_owned(),
            format!("{:.2}", taken.wall.as_secs_f64()),
            format!("{:.0}", taken.per_second(load.messages)),
            format!("{:.3}", taken.cpu_per_thousand(load.messages)),
        ]
    };
    let rows: Vec<Vec<String>> = taken.iter().map(row).collect();
    let header = ["SIDE", "SECONDS", "MESSAGES/S", "CPU S/1000"];
    let mut text = format!(
        "{} messages of {} from a full queue to smtp-sink, {} at a time\n\n",
        load.messages,
        screen::bytes(load.size),
        load.concurrency
    );
    text.push_str(&screen::table(paint, &header, &[false, true, true, true], &rows));
    if let (Some(ours), Some(theirs)) = (mean(taken, Side::Relay, load), mean(taken, Side::Postfix, load)) {
        let (rate, cpu) = (ours.0 / theirs.0, theirs.1 / ours.1);
        text.push_str(&format!(
            "\n{rate:.1} times the rate of Postfix, which needs {cpu:.1} times the CPU time per message\n"
        ));
    }
    if cfg!(debug_assertions) {
        text.push_str("This is a build without optimisation: its numbers are worth nothing.\n");
    }
    text
}

/// Mean rate and mean CPU seconds per thousand of one side.
fn mean(taken: &[(Side, Taken)], side: Side, load: Load) -> Option<(f64, f64)> {
    let all: Vec<&Taken> = taken.iter().filter(|(of, _)| *of == side).map(|(_, taken)| taken).collect();
    let n = count(u64::try_from(all.len()).ok().filter(|n| *n > 0)?);
    let rate = all.iter().map(|taken| taken.per_second(load.messages)).sum::<f64>() / n;
    let cpu = all.iter().map(|taken| taken.cpu_per_thousand(load.messages)).sum::<f64>() / n;
    Some((rate, cpu))
}

/// Looks until `is_empty`; how long that took since `released`.
fn wait_until_empty(
    released: std::time::Instant,
    sink: &mut sink::Sink,
    mut is_empty: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    loop {
        sink.check()?;
        if is_empty()? {
            return Ok(clock::monotonic().duration_since(released));
        }
        let waited = clock::monotonic().duration_since(released);
        anyhow::ensure!(waited < EMPTY_PATIENCE, "the queue is not empty after {} s", waited.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn make(root: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path =
            root.join(format!("waystation-bench-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        // Postfix's daemons run as another user and must be able to get in.
        let made = std::fs::DirBuilder::new().mode(0o755).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over carries its name; nothing depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
