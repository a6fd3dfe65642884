//! `bench replay`: a gateway comes back to everything that was kept for it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, json};

use super::figures::{Outcome, Unit};
use super::gateways::Gateway;
use super::report::{self, Subject};
use super::server::{self, Place};
use super::smtp::{self, Load, Size};
use super::usage::Watch;
use super::{Common, Side, stop};
use crate::cli::{Exit, Global};
use crate::clock;
use crate::tunnel::Dialect;

/// Longest wait for the last ack to be written down.
const ACK_PATIENCE: Duration = Duration::from_secs(120);
/// How often the relay is asked whether it is.
const ACK_LOOK: Duration = Duration::from_millis(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Messages that wait
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    messages: u64,
    /// Bytes of each, or `mix`
    #[arg(long, value_name = "BYTES", default_value = "4096")]
    size: Size,
    /// Gateways that they wait for, and that come at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    gateways: u32,
    /// Protocol of the tunnel: 2, or the existing gateway's 1
    #[arg(long, value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    tunnel: u8,
    /// A relay that signs nothing for its gateways
    #[arg(long)]
    unsigned: bool,
    #[command(flatten)]
    common: Common,
}

const SIDES: [Side; 2] = [Side::Waystation, Side::Baseline];

const COLUMNS: [(&str, &str); 6] = [
    ("messages_per_second", "ACKED/S"),
    ("received_per_second", "RECEIVED/S"),
    ("cpu_seconds_per_1000", "CPU S/1000"),
    ("bytes_written_per_message", "WRITTEN/MSG"),
    ("peak_memory_bytes", "PEAK MEMORY"),
    ("start_seconds", "START S"),
];

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let turns = args.common.turns(&SIDES, |side, dir| measure(dir, args, side).map(Ok))?;
    let mut load = Map::new();
    load.insert("messages".to_owned(), json!(args.messages));
    load.insert("size".to_owned(), json!(args.size.to_string()));
    load.insert("gateways".to_owned(), json!(args.gateways));
    load.insert("tunnel".to_owned(), json!(args.tunnel));
    load.insert("signed".to_owned(), json!(!args.unsigned));
    let words = format!(
        "replay: {} messages, {}, to {} gateway(s), tunnel {}{}",
        args.messages,
        args.size,
        args.gateways,
        args.tunnel,
        if args.unsigned { ", nothing signed" } else { "" }
    );
    let subject = Subject { bench: "replay", words, load, columns: &COLUMNS };
    report::finish(global, &args.common, &subject, &turns)
}

fn measure(dir: &Path, args: &Args, side: Side) -> anyhow::Result<Outcome> {
    let more = if args.unsigned { "[attestation]\nenabled = false\n" } else { "" };
    let place = Place::make(dir, &args.common.program(side)?, more)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recipients = place.mailboxes(args.gateways)?;
    let relay = place.start()?;
    let load = Load::new(relay.smtp()?, recipients, args.messages, args.size);
    stop::drive(&runtime, smtp::send(load, |_| ()))?;
    relay.stop()?;
    // What the gateway meets is a relay that has just started.
    let relay = place.start()?;
    let mut outcome = Outcome::default();
    let watch = Watch::start(relay.pid(), dir);
    let begun = clock::monotonic();
    let dialect = if args.tunnel == 1 { Dialect::One } else { Dialect::Two };
    let received = stop::drive(&runtime, fetch(relay.http, args.gateways, args.messages, dialect))?;
    let wall = clock::monotonic().duration_since(begun);
    watch.finish(wall, args.messages, &mut outcome);
    let rate = super::count(args.messages) / received.as_secs_f64();
    outcome.figure("received_per_second", Unit::PerSecond, rate);
    outcome.figure("start_seconds", Unit::Seconds, relay.ready.as_secs_f64());
    Ok(outcome)
}

/// All gateways log in, take everything and stay until the last ack is written down; the time until the last message was
/// there.
async fn fetch(
    relay: std::net::SocketAddr,
    gateways: u32,
    messages: u64,
    dialect: Dialect,
) -> anyhow::Result<Duration> {
    let begun = clock::monotonic();
    let local = tokio::task::LocalSet::new();
    let left = std::rc::Rc::new(std::cell::RefCell::new(Wanted::all(messages)));
    let done = std::rc::Rc::new(tokio::sync::Notify::new());
    for n in 0..gateways {
        let (left, done) = (std::rc::Rc::clone(&left), std::rc::Rc::clone(&done));
        local.spawn_local(async move {
            let taken = take(relay, n, dialect, &left, &done).await;
            if let Err(error) = taken {
                left.borrow_mut().broken = Some(error);
                done.notify_one();
            }
        });
    }
    local
        .run_until(async {
            while left.borrow().left > 0 && left.borrow().broken.is_none() {
                done.notified().await;
            }
            let received = clock::monotonic().duration_since(begun);
            // Acks that are still in buffers go out meanwhile, and tunnel 1 answers its pings.
            loop {
                if let Some(error) = left.borrow_mut().broken.take() {
                    return Err(error);
                }
                let acked = tokio::task::spawn_blocking(move || acked(relay, dialect)).await??;
                if acked >= messages {
                    return Ok(received);
                }
                let waited = clock::monotonic().duration_since(begun).saturating_sub(received);
                anyhow::ensure!(waited < ACK_PATIENCE, "{acked} of {messages} acks are written down");
                tokio::time::sleep(ACK_LOOK).await;
            }
        })
        .await
}

/// How many acks of that dialect the relay has written down.
fn acked(relay: std::net::SocketAddr, dialect: Dialect) -> anyhow::Result<u64> {
    let tunnel = match dialect {
        Dialect::One => 1,
        Dialect::Two => 2,
    };
    server::metric(relay, &format!("waystation_items_acked_total{{tunnel=\"{tunnel}\"}}"))
}

/// Which messages have not come yet.
struct Wanted {
    seen: Vec<bool>,
    left: u64,
    broken: Option<anyhow::Error>,
}

impl Wanted {
    fn all(messages: u64) -> Self {
        let seen = vec![false; usize::try_from(messages).unwrap_or(usize::MAX)];
        Self { seen, left: messages, broken: None }
    }

    /// Crosses one off.
    fn arrived(&mut self, number: Option<u64>) -> anyhow::Result<()> {
        let seen = number.and_then(|n| self.seen.get_mut(usize::try_from(n).ok()?));
        let Some(seen) = seen else { anyhow::bail!("a message came that nobody sent: {number:?}") };
        anyhow::ensure!(!std::mem::replace(seen, true), "message {number:?} came twice");
        self.left -= 1;
        Ok(())
    }
}

async fn take(
    relay: std::net::SocketAddr,
    n: u32,
    dialect: Dialect,
    wanted: &std::cell::RefCell<Wanted>,
    done: &tokio::sync::Notify,
) -> anyhow::Result<()> {
    let mut gateway = Gateway::login(relay, n, dialect).await?;
    while let Some(arrival) = gateway.next().await? {
        wanted.borrow_mut().arrived(arrival.number)?;
        gateway.ack(&arrival).await?;
        if wanted.borrow().left == 0 {
            done.notify_one();
        }
    }
    anyhow::bail!("the relay hung up on gateway {n}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_crossed_off_once() {
        let mut wanted = Wanted::all(2);
        wanted.arrived(Some(1)).expect("wanted");
        assert!(wanted.arrived(Some(1)).is_err());
        assert!(wanted.arrived(Some(2)).is_err());
        assert!(wanted.arrived(None).is_err());
        assert_eq!(wanted.left, 1);
    }
}
