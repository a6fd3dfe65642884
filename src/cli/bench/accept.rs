//! `bench accept`: from the sender's connection to the 250 of a message that is stored.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;

use super::figures::{Outcome, Unit};
use super::peers::{self, Peer, floor};
use super::report::{self, Subject};
use super::server::{self, Place};
use super::smtp::{self, Load};
use super::traffic::Traffic;
use super::usage::Watch;
use super::{Common, Side, stop};
use crate::cli::{Exit, Global};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    traffic: Traffic,
    /// Messages in one connection; 0: as many as there are
    #[arg(long, value_name = "N", default_value_t = 0)]
    per_connection: u64,
    /// Wait for the answer to every command
    #[arg(long)]
    no_pipelining: bool,
    #[command(flatten)]
    common: Common,
}

const SIDES: [Side; 8] = [
    Side::Waystation,
    Side::Baseline,
    Side::Postfix,
    Side::Opensmtpd,
    Side::Exim,
    Side::SmtpServer,
    Side::SmtpSink,
    Side::Disk,
];

const COLUMNS: [(&str, &str); 9] = [
    ("messages_per_second", "MSG/S"),
    ("cpu_seconds_per_1000", "CPU S/1000"),
    ("bytes_written_per_message", "WRITTEN/MSG"),
    ("peak_memory_bytes", "PEAK MEMORY"),
    ("dot_p50_ms", "DOT P50 MS"),
    ("dot_p99_ms", "DOT P99 MS"),
    ("dot_p999_ms", "DOT P99.9 MS"),
    ("commit_mean_ms", "COMMIT MS"),
    ("commit_p99_ms", "P99 MS"),
];

/// Quantiles of a latency that are figures.
const QUANTILES: [(&str, f64); 3] = [("dot_p50_ms", 0.5), ("dot_p99_ms", 0.99), ("dot_p999_ms", 0.999)];

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let turns = args.common.turns(&SIDES, |side, dir| {
        if side == Side::Disk {
            return floor::measure(dir, args.traffic.messages, args.traffic.size).map(Ok);
        }
        let peer = match side {
            Side::Waystation | Side::Baseline => return relay(dir, args, side).map(Ok),
            Side::Postfix | Side::Opensmtpd | Side::Exim | Side::SmtpServer | Side::SmtpSink | Side::Disk => {
                peers::start(side, dir, &args.common.peers)?
            }
        };
        match peer {
            Ok(peer) => measure(&peer, dir, args).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    })?;
    let mut load = args.traffic.described();
    load.insert("per_connection".to_owned(), json!(args.per_connection));
    load.insert("pipelining".to_owned(), json!(!args.no_pipelining));
    let per_connection = match args.per_connection {
        0 => String::new(),
        n => format!(", {n} in a connection"),
    };
    let waits = if args.no_pipelining { ", no pipelining" } else { "" };
    let words = format!("accept: {}{per_connection}{waits}", args.traffic.words());
    let subject = Subject { bench: "accept", words, load, columns: &COLUMNS };
    report::finish(global, &args.common, &subject, &turns)
}

/// This relay, or its baseline, with one mailbox whose gateway is away. What it took must be there after it was killed.
fn relay(dir: &Path, args: &Args, side: Side) -> anyhow::Result<Outcome> {
    let place = Place::make(dir, &args.common.program(side)?, "")?;
    let recipients = place.mailboxes(1)?;
    let relay = place.start()?;
    let mut outcome = cost_of(load(args, relay.smtp()?, &recipients), relay.pid(), dir)?;
    let commits = server::commits(relay.http, &mut outcome)?;
    outcome.figure("messages_per_commit", Unit::Count, super::count(args.traffic.messages) / commits);
    drop(relay);
    place.start()?.has_ready(args.traffic.messages)?;
    Ok(outcome)
}

fn load(args: &Args, smtp: SocketAddr, recipients: &[String]) -> Load {
    Load {
        per_connection: args.per_connection,
        pipelining: !args.no_pipelining,
        ..args.traffic.load(smtp, recipients.to_vec())
    }
}

fn measure(peer: &Peer, dir: &Path, args: &Args) -> anyhow::Result<Outcome> {
    let outcome = cost_of(load(args, peer.smtp, &peer.recipients), peer.pid, dir)?;
    if let Some(stored) = &peer.stored {
        let stored = stored()?;
        let all = args.traffic.messages;
        anyhow::ensure!(stored == all, "{stored} of {all} messages are stored");
    }
    Ok(outcome)
}

/// Sends `load` to the server whose first process is `pid` and whose files lie in `dir`, and says what it cost.
pub(super) fn cost_of(load: Load, pid: u32, dir: &Path) -> anyhow::Result<Outcome> {
    let messages = load.messages;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = Watch::start(pid, dir);
    let sent = stop::drive(&runtime, smtp::send(load, |_| ()))?;
    let mut outcome = Outcome::default();
    watch.finish(sent.wall, messages, &mut outcome);
    outcome.figure("seconds", Unit::Seconds, sent.wall.as_secs_f64());
    outcome.latency(sent.dot, &QUANTILES);
    Ok(outcome)
}
