//! `bench mixed`: mail comes in while gateways fetch it, some of them coming and going all the time.
//!
//! End to end is from the sender's last octet to the gateway's ack, both by the clock of this process. It is taken for
//! messages whose gateway was connected at the sender's dot and when it came; the others wait for their gateway, and for
//! them only is counted that they came.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::figures::{Latency, Outcome, Unit};
use super::gateways::Gateway;
use super::report::{self, Subject};
use super::server::{self, Place};
use super::smtp::{self, Load};
use super::traffic::Traffic;
use super::usage::Watch;
use super::{Common, Side, stop};
use crate::cli::{Exit, Global};
use crate::clock;
use crate::tunnel::Dialect;

/// Longest wait, after the last message went in, for the last to come out.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
/// A gateway that comes and goes stays for so long, and is away for so long.
const STAY_MS: std::ops::Range<u64> = 500..3000;
const AWAY_MS: std::ops::Range<u64> = 100..1500;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    traffic: Traffic,
    /// Gateways that the messages are for
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    gateways: u32,
    /// Of them, so many come and go
    #[arg(long, value_name = "N", default_value_t = 0)]
    restless: u32,
    #[command(flatten)]
    common: Common,
}

const SIDES: [Side; 2] = [Side::Waystation, Side::Baseline];

const COLUMNS: [(&str, &str); 11] = [
    ("messages_per_second", "MSG/S"),
    ("cpu_seconds_per_1000", "CPU S/1000"),
    ("bytes_written_per_message", "WRITTEN/MSG"),
    ("peak_memory_bytes", "PEAK MEMORY"),
    ("dot_p50_ms", "DOT P50 MS"),
    ("dot_p99_ms", "DOT P99 MS"),
    ("end_to_end_p50_ms", "END TO END P50 MS"),
    ("end_to_end_p99_ms", "P99 MS"),
    ("commit_mean_ms", "COMMIT MS"),
    ("commit_p99_ms", "P99 MS"),
    ("came_again", "AGAIN"),
];

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let turns = args.common.turns(&SIDES, |side, dir| measure(dir, args, side).map(Ok))?;
    let mut load = args.traffic.described();
    load.insert("gateways".to_owned(), json!(args.gateways));
    load.insert("restless".to_owned(), json!(args.restless));
    let words = format!(
        "mixed: {}, for {} gateways, {} of them come and go",
        args.traffic.words(),
        args.gateways,
        args.restless,
    );
    let subject = Subject { bench: "mixed", words, load, columns: &COLUMNS };
    report::finish(global, &args.common, &subject, &turns)
}

/// What all gateways and all senders know together.
struct Story {
    /// When the last octet of a message went, for those whose gateway was there; taken out by its arrival.
    sent: RefCell<HashMap<u64, Instant>>,
    /// How often each message came.
    came: RefCell<Vec<u8>>,
    left: Cell<u64>,
    end_to_end: RefCell<Latency>,
    /// Whether a gateway is connected.
    here: RefCell<Vec<bool>>,
    broken: RefCell<Option<anyhow::Error>>,
    stirred: tokio::sync::Notify,
}

impl Story {
    fn new(messages: u64, gateways: u32) -> anyhow::Result<Self> {
        Ok(Self {
            sent: RefCell::default(),
            came: RefCell::new(vec![0; usize::try_from(messages)?]),
            left: Cell::new(messages),
            end_to_end: RefCell::new(Latency::new("end_to_end")),
            here: RefCell::new(vec![false; usize::try_from(gateways)?]),
            broken: RefCell::default(),
            stirred: tokio::sync::Notify::new(),
        })
    }

    /// A sender is about to write the last octet of message `n`.
    fn dot(&self, n: u64) {
        let here = self.here.borrow();
        let of = usize::try_from(n).unwrap_or_default() % here.len();
        if here[of] {
            self.sent.borrow_mut().insert(n, clock::monotonic());
        }
    }

    /// Message `n` has come to its gateway and was acked.
    fn acked(&self, n: u64) -> anyhow::Result<()> {
        let mut came = self.came.borrow_mut();
        let times = usize::try_from(n).ok().and_then(|n| came.get_mut(n));
        let Some(times) = times else { anyhow::bail!("message {n} came, and nobody sent it") };
        *times = times.saturating_add(1);
        if *times == 1 {
            self.left.set(self.left.get() - 1);
        }
        if let Some(sent) = self.sent.borrow_mut().remove(&n) {
            self.end_to_end.borrow_mut().record(clock::monotonic().duration_since(sent));
        }
        Ok(())
    }

    /// Gateway `n` has gone: what was under way to it is no measure of the relay.
    fn gone(&self, n: u32) -> anyhow::Result<()> {
        let mut here = self.here.borrow_mut();
        let (of, all) = (usize::try_from(n)?, u64::try_from(here.len())?);
        here[of] = false;
        self.sent.borrow_mut().retain(|message, _| message % all != u64::from(n));
        Ok(())
    }
}

fn measure(dir: &Path, args: &Args, side: Side) -> anyhow::Result<Outcome> {
    let place = Place::make(dir, &args.common.program(side)?, "")?;
    let recipients = place.mailboxes(args.gateways)?;
    let relay = place.start()?;
    let load = args.traffic.load(relay.smtp()?, recipients);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let story = Rc::new(Story::new(args.traffic.messages, args.gateways)?);
    let watch = Watch::start(relay.pid(), dir);
    let (dot, wall) = stop::drive(&runtime, play(&story, load, relay.http, args.gateways, args.restless))?;
    let mut outcome = Outcome::default();
    watch.finish(wall, args.traffic.messages, &mut outcome);
    outcome.latency(dot, &[("dot_p50_ms", 0.5), ("dot_p99_ms", 0.99)]);
    let again: u64 = story.came.borrow().iter().map(|times| u64::from(times.saturating_sub(1))).sum();
    outcome.figure("came_again", Unit::Count, super::count(again));
    let end_to_end = story.end_to_end.borrow().clone();
    outcome.figure("end_to_end_measured", Unit::Count, super::count(end_to_end.len()));
    outcome.latency(end_to_end, &[("end_to_end_p50_ms", 0.5), ("end_to_end_p99_ms", 0.99)]);
    server::commits(relay.http, &mut outcome)?;
    anyhow::ensure!(again == 0 || args.restless > 0, "{again} messages came twice to gateways that stayed");
    Ok(outcome)
}

/// Runs senders and gateways until every message has come; latencies of the dot, and how long all took.
async fn play(
    story: &Rc<Story>,
    load: Load,
    relay: SocketAddr,
    gateways: u32,
    restless: u32,
) -> anyhow::Result<(Latency, Duration)> {
    let local = tokio::task::LocalSet::new();
    for n in 0..gateways {
        let story = Rc::clone(story);
        local.spawn_local(async move {
            if let Err(error) = live(&story, relay, n, n < restless).await {
                *story.broken.borrow_mut() = Some(error.context(format!("gateway {n}")));
                story.stirred.notify_one();
            }
        });
    }
    local
        .run_until(async {
            while story.here.borrow().iter().any(|here| !here) && story.broken.borrow().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let begun = clock::monotonic();
            let heard = Rc::clone(story);
            let sent = smtp::send(load, move |n| heard.dot(n)).await?;
            let drained = tokio::time::timeout(DRAIN_PATIENCE, async {
                while story.left.get() > 0 && story.broken.borrow().is_none() {
                    story.stirred.notified().await;
                }
            });
            let drained = drained.await;
            if let Some(error) = story.broken.borrow_mut().take() {
                return Err(error);
            }
            anyhow::ensure!(drained.is_ok(), "{} messages did not come out", story.left.get());
            Ok((sent.dot, clock::monotonic().duration_since(begun)))
        })
        .await
}

/// One gateway: takes and acks, and when it is `restless` it leaves now and then.
async fn live(story: &Story, relay: SocketAddr, n: u32, restless: bool) -> anyhow::Result<()> {
    loop {
        let mut gateway = Gateway::login(relay, n, Dialect::Two).await?;
        story.here.borrow_mut()[usize::try_from(n)?] = true;
        let stay = if restless { rand::random_range(STAY_MS) } else { u64::MAX / 4 };
        let leave = tokio::time::sleep(Duration::from_millis(stay));
        tokio::pin!(leave);
        loop {
            let arrival = tokio::select! {
                arrival = gateway.next() => arrival?,
                () = &mut leave => break,
            };
            let Some(arrival) = arrival else { anyhow::bail!("the relay hung up") };
            gateway.ack(&arrival).await?;
            let Some(number) = arrival.number else { anyhow::bail!("a message came that nobody sent") };
            story.acked(number)?;
            if story.left.get() == 0 {
                story.stirred.notify_one();
            }
        }
        story.gone(n)?;
        gateway.close().await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(AWAY_MS))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_to_end_counts_only_for_gateways_that_stay() {
        let story = Story::new(4, 2).expect("small");
        story.here.borrow_mut()[0] = true;
        story.dot(0);
        story.dot(1); // its gateway is away
        story.dot(2);
        story.acked(0).expect("sent");
        story.acked(1).expect("sent");
        story.gone(0).expect("known");
        story.acked(2).expect("sent");
        story.acked(2).expect("sent");
        assert_eq!(story.end_to_end.borrow().len(), 1);
        assert_eq!((story.left.get(), story.came.borrow()[2]), (1, 2));
        assert!(story.acked(4).is_err());
    }
}
