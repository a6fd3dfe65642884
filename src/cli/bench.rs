//! `bench`: measurements that anybody can repeat on the machine at hand.
//!
//! Each verb makes one kind of load and measures this relay and others in turns, in one run, on one disk: rates, CPU
//! seconds, memory, bytes written, and latencies in histograms. Servers are processes of their own; the load runs in
//! this one, so that it is in nobody's figures. Everybody meets the same load.
//!
//! Failure policy: what cannot be measured (a peer that is not installed, no root) is left out with a line that says so;
//! a number that is printed was measured, and each side was asked whether it has all that it took.

mod accept;
mod delivery;
mod figures;
mod gateways;
mod growth;
mod idle;
mod mixed;
mod offline;
mod peers;
mod plot;
mod replay;
mod report;
mod server;
mod smtp;
mod soak;
mod stop;
mod traffic;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Exit, Global};
use figures::Outcome;
use report::Turn;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "\
Examples:
  waystation bench accept                                 mail in, beside every server that is installed
  waystation bench accept --only waystation,postfix,smtp-sink --repeat 5 --plots /tmp/plots
  waystation bench accept --baseline ./waystation-of-last-week
  waystation bench growth --stored 10000,1000000,10000000 --lanes-sweep 10,1000,100000 --plots /tmp/plots
  waystation bench soak --minutes 1440 --plots /tmp/plots
  waystation bench delivery --messages 20000 --size 1024 --json

smtp-sink and smtp-source come with the Debian package postfix. Peers need root, and to be installed, or
unpacked below --peers.";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Take mail by SMTP and store it, beside other servers, a server that stores nothing, and the disk alone
    Accept(accept::Args),
    /// Hand a full lane to a gateway that comes back
    Replay(replay::Args),
    /// Hold gateways that have nothing to do
    Idle(idle::Args),
    /// Take mail and hand it over at the same time, end to end, with gateways that come and go
    Mixed(mixed::Args),
    /// Measure what a message costs when much is stored already, and over how many lanes
    Growth(growth::Args),
    /// Take and hand over mail for a long time: does anything grow, is anything lost?
    Soak(soak::Args),
    /// Empty a full queue into smtp-sink, beside Postfix
    Delivery(delivery::Args),
}

/// Options of every measurement.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// Times that each side is measured, in turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    repeat: u8,
    /// Measure these sides only
    #[arg(long, value_enum, value_name = "SIDE,...", value_delimiter = ',', hide_possible_values = true)]
    only: Vec<Side>,
    /// Directory on the disk to measure; all that is written lies below it, and is removed
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program of an earlier commit: measured in turns with this one, as the side `baseline`
    #[arg(long, value_name = "PROGRAM")]
    baseline: Option<PathBuf>,
    /// Directory for plots, SVG files
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Where peers are unpacked that cannot be installed side by side: opensmtpd, exim, node_modules
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    peers: PathBuf,
}

impl Common {
    /// Where everything is written; absolute, as Postfix wants it.
    fn root(&self) -> PathBuf {
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        std::path::absolute(&dir).unwrap_or(dir)
    }

    /// The relay's program for a side.
    fn program(&self, side: Side) -> anyhow::Result<PathBuf> {
        match (side, &self.baseline) {
            (Side::Baseline, Some(program)) => {
                program.canonicalize().with_context(|| format!("no program {}", program.display()))
            }
            _ => Ok(std::env::current_exe()?),
        }
    }

    /// Those of `sides` that are to be measured.
    fn wanted(&self, sides: &[Side]) -> Vec<Side> {
        sides
            .iter()
            .copied()
            .filter(|side| self.only.is_empty() || self.only.contains(side))
            .filter(|side| *side != Side::Baseline || self.baseline.is_some())
            .collect()
    }

    /// Measures each of `sides` that is wanted, `repeat` times, in turns. `measure` gets a fresh directory; its inner
    /// error says why a side cannot be measured here.
    fn turns(
        &self,
        sides: &[Side],
        mut measure: impl FnMut(Side, &Path) -> anyhow::Result<Result<Outcome, String>>,
    ) -> anyhow::Result<Vec<Turn>> {
        let wanted = self.wanted(sides);
        let (mut turns, mut absent) = (Vec::new(), Vec::new());
        for round in 1..=self.repeat {
            for side in wanted.iter().copied() {
                if absent.contains(&side) {
                    continue;
                }
                stop::check()?;
                let scratch = Scratch::make(&self.root())?;
                let measured = measure(side, &scratch.0).with_context(|| side.word().to_owned())?;
                match measured {
                    Ok(outcome) => turns.push(Turn { side, round, outcome }),
                    Err(why) => {
                        eprintln!("{} is left out: {why}", side.word());
                        absent.push(side);
                    }
                }
            }
        }
        Ok(turns)
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    /// This program.
    Waystation,
    /// The program of an earlier commit.
    Baseline,
    Postfix,
    Opensmtpd,
    Exim,
    /// The npm library, with an fsync for each message: what a script would do.
    SmtpServer,
    /// Takes everything and stores nothing: the floor of SMTP itself.
    SmtpSink,
    /// One writer that appends and syncs, no SMTP: the floor of the disk.
    Disk,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Waystation => "waystation",
            Self::Baseline => "baseline",
            Self::Postfix => "postfix",
            Self::Opensmtpd => "opensmtpd",
            Self::Exim => "exim",
            Self::SmtpServer => "smtp-server",
            Self::SmtpSink => "smtp-sink",
            Self::Disk => "disk",
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of one measurement fit")]
fn count(n: u64) -> f64 {
    n as f64
}

pub(crate) fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    stop::listen()?;
    match verb {
        Verb::Accept(args) => accept::run(global, &args),
        Verb::Replay(args) => replay::run(global, &args),
        Verb::Idle(args) => idle::run(global, &args),
        Verb::Mixed(args) => mixed::run(global, &args),
        Verb::Growth(args) => growth::run(global, &args),
        Verb::Soak(args) => soak::run(global, &args),
        Verb::Delivery(args) => delivery::run(global, &args),
    }
}

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn make(root: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path =
            root.join(format!("waystation-bench-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        // Peers' daemons run as other users and must be able to get in.
        let made = std::fs::DirBuilder::new().mode(0o755).recursive(true).create(&path);
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
