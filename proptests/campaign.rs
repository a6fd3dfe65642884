//! Campaigns: the ledger on a disk that is cut off, fails, decays, forgets its index, or has a wild clock, for as
//! long as wanted. A program, run by hand or for a night:
//!
//! ```sh
//! cargo test --release --test spool_campaign -- power --seed 7 --rounds 20000
//! ```
//!
//! It plays the same stories on the same world, beside the same model, as the properties (`main.rs`); but where those
//! choose one moment of a story, a campaign takes all of them. A round is one story; it follows from the seed and its
//! number alone. What breaks a promise is counted, and told with the command that plays it again; the exit code is 1
//! then. Each campaign ends with a *control*: the same rounds with something broken on purpose, which must be caught.

#[path = "campaign/clock.rs"]
mod clock;
#[path = "campaign/dice.rs"]
mod dice;
#[path = "campaign/errors.rs"]
mod errors;
#[path = "campaign/flips.rs"]
mod flips;
#[allow(dead_code, reason = "main.rs uses the rest")]
mod r#gen;
#[path = "campaign/index.rs"]
mod index;
mod model;
#[path = "campaign/power.rs"]
mod power;
#[path = "campaign/rounds.rs"]
mod rounds;
#[path = "campaign/table.rs"]
mod table;
#[allow(dead_code, reason = "main.rs uses the rest")]
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use rounds::{Campaign, Plan};

/// Long runs of crashes and damage, played on simulated disks against a model of the ledger.
#[derive(Debug, Parser)]
#[command(name = "spool_campaign")]
struct Arguments {
    #[command(subcommand)]
    campaign: Which,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug, Subcommand)]
enum Which {
    /// The power is cut before each operation, and all that was not synced goes either way
    Power(Power),
    /// Each operation fails once with EIO and once with ENOSPC; the medium gets full
    IoErrors,
    /// Bits of the journal decay; its end is torn and overwritten
    Flips(Flips),
    /// The index is lost, or an older one comes back
    Index,
    /// The wall clock jumps back a day, forward a year, to zero
    Clock,
    /// One after the other, with the time shared among them
    All,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// What all rounds follow from
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// How many stories are played [default: 100, or as many as there is time for]
    #[arg(long, global = true)]
    rounds: Option<u64>,
    /// Stop after so many minutes
    #[arg(long, global = true, value_parser = positive)]
    minutes: Option<f64>,
    /// Play this round alone; when it fails, look for the fewest steps that do
    #[arg(long, global = true)]
    only_round: Option<u64>,
    /// Most steps of a story
    #[arg(long, global = true, default_value_t = 120, value_parser = clap::value_parser!(u32).range(2..100_000))]
    steps: u32,
    /// Threads
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..1024))]
    jobs: u32,
    /// Write the rows of the table to this file, too
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
struct Power {
    /// Try every outcome of a cut that has no more than these
    #[arg(long, default_value_t = power::OUTCOMES_MAX)]
    outcomes: u64,
    /// Outcomes tried of a cut that has more
    #[arg(long, default_value_t = power::SAMPLES)]
    samples: u64,
    /// From the middle of each story on the medium says that it syncs, and does not: must fail
    #[arg(long)]
    lying_disk: bool,
}

#[derive(Clone, Debug, Args)]
struct Flips {
    /// Flip each byte of files with no more than these in use
    #[arg(long, default_value_t = flips::WHOLE_BYTES_MAX)]
    whole_bytes: usize,
    /// Bytes flipped of files with more
    #[arg(long, default_value_t = flips::SAMPLES)]
    samples: usize,
    /// Flip all eight bits of each byte, not one of them
    #[arg(long)]
    all_bits: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|n| *n > 0.0 && *n < 1e6).ok_or_else(|| "a number above 0".to_owned())
}

fn campaigns(which: &Which) -> Vec<Box<dyn Campaign>> {
    match which {
        Which::Power(Power { outcomes, samples, lying_disk }) => {
            vec![Box::new(power::Power { outcomes_max: *outcomes, samples: *samples, lying: *lying_disk })]
        }
        Which::IoErrors => vec![Box::new(errors::IoErrors)],
        Which::Flips(Flips { whole_bytes, samples, all_bits }) => vec![Box::new(flips::Flips {
            whole_bytes_max: *whole_bytes,
            samples: *samples,
            all_bits: *all_bits,
        })],
        Which::Index => vec![Box::new(index::IndexFates)],
        Which::Clock => vec![Box::new(clock::Clock)],
        Which::All => vec![
            Box::new(power::Power::default()),
            Box::new(errors::IoErrors),
            Box::new(flips::Flips::default()),
            Box::new(index::IndexFates),
            Box::new(clock::Clock),
        ],
    }
}

fn main() -> ExitCode {
    let Arguments { campaign, common } = Arguments::parse();
    let campaigns = campaigns(&campaign);
    let share = common.minutes.map(|minutes| {
        Duration::from_secs_f64(minutes * 60.0 / f64::from(u32::try_from(campaigns.len()).unwrap_or(1)))
    });
    let plan = Plan {
        seed: common.seed,
        rounds: common.rounds.or(share.is_none().then_some(100)),
        time: share,
        only: common.only_round,
        steps: common.steps as usize,
        jobs: common.jobs,
    };
    let rows: Vec<table::Row> =
        campaigns.iter().map(|campaign| rounds::play_all(campaign.as_ref(), &plan)).collect();
    print!("{}", table::text(&rows));
    if let Some(file) = &common.json
        && let Err(error) = std::fs::write(file, table::json(&rows))
    {
        eprintln!("{}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    if rows.iter().all(table::Row::good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
