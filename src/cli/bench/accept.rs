//! `bench accept`: from the sender's connection to the 250 of a message that is stored.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, json};

use super::figures::{Outcome, Unit};
use super::peers::{self, Peer, floor};
use super::report::{self, Subject};
use super::server::{self, Place};
use super::smtp::{self, Load, Size};
use super::usage::Watch;
use super::{Common, Side};
use crate::cli::{Exit, Global};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Messages
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    messages: u64,
    /// Bytes of each, or `mix`: half of them 2 KiB, one in a hundred 1 MiB
    #[arg(long, value_name = "BYTES", default_value = "4096")]
    size: Size,
    /// Sessions at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    sessions: u16,
    /// Messages in one connection; 0: as many as there are
    #[arg(long, value_name = "N", default_value_t = 0)]
    per_connection: u64,
    /// Wait for the answer to every command
    #[arg(long)]
    no_pipelining: bool,
    /// Messages a second; without it as fast as answers come
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
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

const COLUMNS: [(&str, &str); 8] = [
    ("messages_per_second", "MSG/S"),
    ("cpu_seconds_per_1000", "CPU S/1000"),
    ("bytes_written_per_message", "WRITTEN/MSG"),
    ("peak_memory_bytes", "PEAK MEMORY"),
    ("dot_p50_ms", "DOT P50 MS"),
    ("dot_p99_ms", "DOT P99 MS"),
    ("dot_p999_ms", "DOT P99.9 MS"),
    ("commit_mean_ms", "COMMIT MS"),
];

/// Quantiles of a latency that are figures.
const QUANTILES: [(&str, f64); 3] = [("dot_p50_ms", 0.5), ("dot_p99_ms", 0.99), ("dot_p999_ms", 0.999)];

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let turns = args.common.turns(&SIDES, |side, dir| {
        if side == Side::Disk {
            return floor::measure(dir, args.messages, args.size).map(Ok);
        }
        let peer = match side {
            Side::Waystation | Side::Baseline => {
                let (peer, http) = relay(&args.common, side, dir)?;
                let mut outcome = measure(&peer, dir, args)?;
                let (commits, seconds) = server::commits(http)?;
                outcome.figure("commit_mean_ms", Unit::Milliseconds, seconds * 1000.0 / commits);
                outcome.figure("messages_per_commit", Unit::Count, super::count(args.messages) / commits);
                return Ok(Ok(outcome));
            }
            Side::Postfix | Side::Opensmtpd | Side::Exim | Side::SmtpServer | Side::SmtpSink | Side::Disk => {
                peers::start(side, dir, &args.common.peers)?
            }
        };
        match peer {
            Ok(peer) => measure(&peer, dir, args).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    })?;
    let mut load = Map::new();
    load.insert("messages".to_owned(), json!(args.messages));
    load.insert("size".to_owned(), json!(args.size.to_string()));
    load.insert("sessions".to_owned(), json!(args.sessions));
    load.insert("per_connection".to_owned(), json!(args.per_connection));
    load.insert("pipelining".to_owned(), json!(!args.no_pipelining));
    load.insert("rate".to_owned(), json!(args.rate));
    let per_connection = match args.per_connection {
        0 => String::new(),
        n => format!(", {n} in a connection"),
    };
    let rate = args.rate.map_or(String::new(), |rate| format!(", {rate} a second"));
    let words = format!(
        "accept: {} messages, {}, {} sessions{per_connection}{rate}{}",
        args.messages,
        args.size,
        args.sessions,
        if args.no_pipelining { ", no pipelining" } else { "" }
    );
    let subject = Subject { bench: "accept", words, load, columns: &COLUMNS };
    report::finish(global, &args.common, &subject, &turns)
}

/// This relay, or its baseline, with one mailbox whose gateway is away.
fn relay(common: &Common, side: Side, dir: &Path) -> anyhow::Result<(Peer, SocketAddr)> {
    let place = Place::make(dir, &common.program(side)?, "")?;
    let recipients = place.mailboxes(1)?;
    let relay = place.start()?;
    let (smtp, pid) = (relay.smtp()?, relay.pid());
    let http = relay.http;
    let stored = move || server::metric(http, "waystation_inbound_accepted_total");
    let peer = Peer { smtp, recipients, pid, stored: Some(Box::new(stored)), _running: Box::new(relay) };
    Ok((peer, http))
}

fn measure(peer: &Peer, dir: &Path, args: &Args) -> anyhow::Result<Outcome> {
    let load = Load {
        target: peer.smtp,
        recipients: peer.recipients.clone(),
        sessions: usize::from(args.sessions),
        messages: args.messages,
        size: args.size,
        per_connection: args.per_connection,
        pipelining: !args.no_pipelining,
        rate: args.rate,
        first: 0,
    };
    let outcome = cost_of(load, peer.pid, dir)?;
    if let Some(stored) = &peer.stored {
        let stored = stored()?;
        anyhow::ensure!(stored == args.messages, "{stored} of {} messages are stored", args.messages);
    }
    Ok(outcome)
}

/// Sends `load` to the server whose first process is `pid` and whose files lie in `dir`, and says what it cost.
pub(super) fn cost_of(load: Load, pid: u32, dir: &Path) -> anyhow::Result<Outcome> {
    let messages = load.messages;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = Watch::start(pid, dir);
    let sent = runtime.block_on(smtp::send(load, |_| ()))?;
    let mut outcome = Outcome::default();
    watch.finish(sent.wall, messages, &mut outcome);
    outcome.figure("seconds", Unit::Seconds, sent.wall.as_secs_f64());
    outcome.latency(sent.dot, &QUANTILES);
    Ok(outcome)
}
