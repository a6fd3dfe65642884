//! Fault storms against real processes, as commands: a relay and a gateway, mail both ways, and everything that can happen
//! to machines.
//!
//! The promise under test: what got 250 is in the home Maildir once, byte for byte; what was submitted ends in exactly one
//! result, and that agrees with what the exchangers hold. Each campaign prints one row; exit code 1 when anything does not agree, with
//! the names of the messages, and everything is left where it is. `--sabotage` shows that the judge is awake.
//!
//! `cargo test --release --test campaign -- kill --seed 7 --rounds 200`; docs/testing.md has them all. Builds with
//! debug assertions also die at named points.

mod disk;
mod engine;
mod faults;
mod outgoing;
mod report;
mod wire;
mod world;

/// What the scenarios share, as far as it is of use here.
#[path = "../support"]
#[allow(dead_code, unused_imports, reason = "the scenarios use all of it")]
mod support {
    pub(crate) mod dns;
    pub(crate) mod home;
    pub(crate) mod process;
    pub(crate) mod sink;
    pub(crate) mod storm;
    mod until;

    pub(crate) use until::until;
}

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use faults::Fault;
use report::{HEAD, Row};

/// Fault storms against a relay and a gateway as processes.
#[derive(Clone, Debug, Parser)]
#[command(name = "campaign")]
struct Args {
    /// Which one
    #[arg(value_enum)]
    which: Which,
    /// One seed, one storm, as far as processes let themselves be ordered
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults to play; of `syscalls`: the highest N that is tried for each call and effect
    #[arg(long)]
    rounds: Option<u64>,
    /// Go on for so many minutes; of `full-disk`: how long it stays full
    #[arg(long)]
    minutes: Option<f64>,
    /// Go on until so many messages were answered with 250
    #[arg(long)]
    messages: Option<u64>,
    /// Longest calm between two faults, milliseconds
    #[arg(long)]
    calm_ms: Option<u64>,
    /// Senders at a time
    #[arg(long)]
    senders: Option<usize>,
    /// Where directories are made; by default where the system has temporary files
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also write the rows here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Spoil one thing that arrives, to see the judge fail
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
}

/// The campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Relay and gateway are killed at random moments and named points
    Kill,
    /// They sleep, also longer than the idle timeout
    Pause,
    /// Their wall clock jumps by hours and days
    Clock,
    /// The line between them loses, delays, doubles, reorders, and is cut
    Network,
    /// The relay's disk is full
    FullDisk,
    /// The relay's disk is slow
    SlowDisk,
    /// The Nth call of each kind kills the relay, or fails
    Syscalls,
    /// The index is removed, damaged, or an old one
    Index,
    /// Bytes of the journal change between two starts
    Flip,
    /// All of them but the last, in any order, on one spool that lives long
    Mixed,
    /// Each in turn
    All,
}

/// What is done to the first thing that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sabotage {
    /// It is not counted
    Lose,
    /// It is counted twice
    Double,
    /// One bit of it is changed
    Change,
    /// One submission that was sent has two copies
    Disagree,
}

/// When a campaign is over.
#[derive(Clone, Copy, Debug)]
enum End {
    Rounds(u64),
    Minutes(f64),
    Messages(u64),
}

/// One campaign with all its numbers.
#[derive(Clone, Debug)]
struct Plan {
    name: &'static str,
    seed: u64,
    faults: Vec<Fault>,
    /// Every call, every effect, every N up to this one, in place of faults by chance.
    calls: Option<u64>,
    end: End,
    senders: usize,
    /// Submissions of a hundred messages.
    share: u64,
    /// Of a hundred faults of the exchangers.
    exchanger_faults: u64,
    small: bool,
    /// Messages under way at most.
    missing_max: u64,
    /// Items without an ack at most.
    window: u32,
    /// Longest calm between two faults, milliseconds.
    calm_ms: u64,
    /// A line each second.
    progress: bool,
    disk: Option<disk::Kind>,
    sabotage: Option<Sabotage>,
    dir: PathBuf,
}

impl Plan {
    fn has_wire(&self) -> bool {
        self.faults.contains(&Fault::Network)
    }

    /// A million messages in words are a gigabyte.
    fn log_level(&self) -> &'static str {
        if self.small { "warn" } else { "info" }
    }

    fn new(args: &Args, which: Which) -> Self {
        let name = which.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let short = |rounds: u64| match (args.messages, args.minutes, args.rounds) {
            (Some(messages), _, _) => End::Messages(messages),
            (_, Some(minutes), _) => End::Minutes(minutes),
            (_, _, rounds_asked) => End::Rounds(rounds_asked.unwrap_or(rounds)),
        };
        let mut plan = Self {
            name: name.leak(),
            seed: args.seed,
            faults: Vec::new(),
            calls: None,
            end: short(20),
            senders: args.senders.unwrap_or(4),
            share: 30,
            exchanger_faults: 40,
            small: false,
            missing_max: 2_000,
            window: 64,
            calm_ms: 400,
            progress: false,
            disk: None,
            sabotage: args.sabotage,
            dir: args.dir.clone().unwrap_or_else(std::env::temp_dir),
        };
        match which {
            Which::Kill => plan.faults = vec![Fault::Kill],
            Which::Pause => plan.faults = vec![Fault::Pause],
            Which::Clock => plan.faults = vec![Fault::Clock],
            Which::Network => plan.faults = vec![Fault::Network],
            Which::FullDisk => {
                // Minutes say how long it is full, and then one time is enough.
                let ms = args.minutes.map(|minutes| (minutes * 60_000.0) as u64);
                plan.faults = vec![Fault::FullDisk(ms.unwrap_or(3_000))];
                plan.end = End::Rounds(args.rounds.unwrap_or(if ms.is_some() { 1 } else { 6 }));
                plan.disk = Some(disk::Kind::Ext4(600));
                plan.calm_ms = 3_000;
            }
            Which::SlowDisk => plan.faults = vec![Fault::SlowDisk],
            Which::Syscalls => {
                plan.faults = vec![Fault::Syscall];
                plan.calls = Some(args.rounds.unwrap_or(3));
            }
            Which::Index => plan.faults = vec![Fault::Index],
            Which::Flip => plan.faults = vec![Fault::Flip],
            Which::Mixed | Which::All => {
                plan.faults = Fault::ALL.to_vec();
                plan.small = true;
                plan.senders = args.senders.unwrap_or(24);
                (plan.share, plan.exchanger_faults) = (5, 10);
                (plan.missing_max, plan.window) = (if args.messages.is_some() { 20_000 } else { 500 }, 256);
                plan.calm_ms = 12_000;
                plan.progress = true;
                // What was acked while the clock was ahead stays until that time: nearly all of it.
                let mib = u32::try_from(args.messages.unwrap_or(0) / 125).unwrap_or(u32::MAX);
                plan.disk = Some(disk::Kind::Tmpfs(mib.max(4_096)));
                plan.end = short(8);
            }
        }
        plan.calm_ms = args.calm_ms.unwrap_or(plan.calm_ms);
        plan
    }
}

/// Comes back when Ctrl-C or SIGTERM has come.
async fn called_off() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be heard");
    tokio::select! {
        heard = tokio::signal::ctrl_c() => heard.expect("signals can be heard"),
        _ = terminate.recv() => {}
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let each = [
        Which::Kill,
        Which::Pause,
        Which::Clock,
        Which::Network,
        Which::FullDisk,
        Which::SlowDisk,
        Which::Syscalls,
        Which::Index,
        Which::Flip,
        Which::Mixed,
    ];
    let which: &[Which] = if args.which == Which::All { &each } else { &[args.which] };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut rows: Vec<Row> = Vec::new();
    for which in which {
        let mut plan = Plan::new(&args, *which);
        let lacks: Vec<String> = plan
            .faults
            .iter()
            .filter_map(|fault| fault.needs().err().map(|why| format!("{fault:?}: {why}")))
            .collect();
        lacks.iter().for_each(|why| println!("SKIPPED: {why}"));
        plan.faults.retain(|fault| fault.needs().is_ok());
        if !plan.faults.iter().any(|fault| matches!(fault, Fault::FullDisk(_))) {
            plan.disk = None;
        }
        if plan.faults.is_empty() {
            continue;
        }
        println!("campaign {} --seed {} ({:?})", plan.name, plan.seed, plan.end);
        // A storm that is called off clears its processes, mounts and namespaces away.
        let row = runtime.block_on(async {
            tokio::select! {
                row = engine::run(&plan) => Some(row),
                () = called_off() => None,
            }
        });
        let Some(row) = row else {
            eprintln!("stopped by a signal");
            return ExitCode::FAILURE;
        };
        println!("felt: {:?}", row.faults);
        row.violations.iter().take(50).for_each(|what| println!("VIOLATION: {what}"));
        println!("{HEAD}\n{}", row.line());
        rows.push(row);
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&rows).expect("JSON");
        std::fs::write(file, text).expect("written");
    }
    if rows.len() > 1 {
        println!("\n{HEAD}");
        rows.iter().for_each(|row| println!("{}", row.line()));
    }
    if rows.iter().all(|row| row.violations.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
