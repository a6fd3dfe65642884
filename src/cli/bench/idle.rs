//! `bench idle`: what gateways cost that are connected and have nothing to do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::sync::Semaphore;

use super::figures::{Latency, Outcome, Unit};
use super::gateways::Gateway;
use super::report::{self, Subject};
use super::server::Place;
use super::usage::{self, Watch};
use super::{Common, Side, stop};
use crate::cli::{Exit, Global};
use crate::clock;
use crate::tunnel::Dialect;

/// Logins at a time.
const LOGINS: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Gateways
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    gateways: u32,
    /// How long they are watched after the last login; a heartbeat goes every 30 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 65)]
    seconds: u64,
    #[command(flatten)]
    common: Common,
}

const SIDES: [Side; 2] = [Side::Waystation, Side::Baseline];

const COLUMNS: [(&str, &str); 7] = [
    ("connected", "CONNECTED"),
    ("memory_bytes", "MEMORY"),
    ("memory_per_gateway_bytes", "EACH"),
    ("peak_memory_bytes", "PEAK MEMORY"),
    ("logins_per_second", "LOGINS/S"),
    ("login_p99_ms", "LOGIN P99 MS"),
    ("idle_cpu_percent", "IDLE CPU %"),
];

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    crate::cli::serve::raise_open_files();
    let turns = args.common.turns(&SIDES, |side, dir| measure(dir, args, side).map(Ok))?;
    let mut load = Map::new();
    load.insert("gateways".to_owned(), json!(args.gateways));
    load.insert("seconds".to_owned(), json!(args.seconds));
    let words = format!("idle: {} gateways, watched for {} s", args.gateways, args.seconds);
    let subject = Subject { bench: "idle", words, load, columns: &COLUMNS };
    report::finish(global, &args.common, &subject, &turns)
}

fn measure(dir: &Path, args: &Args, side: Side) -> anyhow::Result<Outcome> {
    let place = Place::make(dir, &args.common.program(side)?, "")?;
    place.few_senders()?;
    let relay = place.start()?;
    let before = usage::memory_of_tree(relay.pid());
    let mut outcome = Outcome::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let watch = Watch::start(relay.pid(), dir);
    let (gateways, logins) = stop::drive(&runtime, connect(relay.http, args.gateways))?;
    let took = watch.elapsed();
    let cpu = usage::of_tree(relay.pid());
    stop::sleep(Duration::from_secs(args.seconds))?;
    let spent = usage::of_tree(relay.pid()).saturating_sub(cpu);
    let memory = usage::memory_of_tree(relay.pid());
    let connected = relay.metric("waystation_tunnel_sessions")?;
    anyhow::ensure!(
        connected == u64::from(args.gateways),
        "{connected} of {} gateways are connected",
        args.gateways
    );
    let (all, each) = (super::count(memory), super::count(memory.saturating_sub(before)));
    outcome.figure("connected", Unit::Count, super::count(connected));
    outcome.figure("memory_bytes", Unit::Bytes, all);
    outcome.figure("memory_per_gateway_bytes", Unit::Bytes, each / f64::from(args.gateways));
    outcome.figure("peak_memory_bytes", Unit::Bytes, super::count(watch.peak()));
    outcome.figure("logins_per_second", Unit::PerSecond, f64::from(args.gateways) / took.as_secs_f64());
    let percent = spent.as_secs_f64() * 100.0 / super::count(args.seconds.max(1));
    outcome.figure("idle_cpu_percent", Unit::Seconds, percent);
    outcome.latency(logins, &[("login_p50_ms", 0.5), ("login_p99_ms", 0.99)]);
    drop(gateways);
    Ok(outcome)
}

/// Logs all of them in; they answer pings until the set is dropped.
async fn connect(
    relay: std::net::SocketAddr,
    count: u32,
) -> anyhow::Result<(tokio::task::JoinSet<()>, Latency)> {
    let places = Arc::new(Semaphore::new(LOGINS));
    let mut logins = tokio::task::JoinSet::new();
    for n in 0..count {
        let place = Arc::clone(&places).acquire_owned().await?;
        logins.spawn(async move {
            let begun = clock::monotonic();
            let gateway = Gateway::login(relay, n, Dialect::Two).await;
            drop(place);
            gateway.map(|gateway| (gateway, clock::monotonic().duration_since(begun)))
        });
    }
    let (mut connected, mut latency) = (tokio::task::JoinSet::new(), Latency::new("login"));
    while let Some(login) = logins.join_next().await {
        let (mut gateway, took) = login??;
        latency.record(took);
        connected.spawn(async move {
            // It ends when the relay hangs up; then fewer are counted than were wanted.
            while let Ok(Some(_)) = gateway.next().await {}
        });
    }
    Ok((connected, latency))
}
