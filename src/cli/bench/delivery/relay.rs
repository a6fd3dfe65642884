//! This relay's side: a spool full of submissions that are due at one moment, and a `serve` process that delivers them.

use std::path::Path;
use std::time::Duration;

use spool::ids::WallMs;
use spool::submission::Submitted;

use super::super::figures::Outcome;
use super::super::offline;
use super::super::peers::sink::Sink;
use super::super::server::{self, Place, Relay};
use super::super::stop;
use super::super::usage::Watch;
use super::{Load, wait_until_empty};
use crate::clock;
use crate::mail::envelope::OutboundMeta;
use crate::spooler::{Outgoing, Spooler};

/// Writers that fill the spool, so that they share commits.
const FILLERS: u64 = 32;
/// From the end of the filling to the moment everything is due: time for `serve` to start.
const LEAD: Duration = Duration::from_secs(4);
/// Recipient domain.
const DOMAIN: &str = "bench.test";

pub(super) fn measure(root: &Path, program: &Path, sink: &mut Sink, load: Load) -> anyhow::Result<Outcome> {
    let more = format!(
        "[delivery]\nsmarthost = \"{}\"\nallow_private_targets = true\nmax_concurrent_total = {n}\n\
         max_concurrent_per_destination = {n}\n",
        sink.address,
        n = load.concurrency,
    );
    let place = Place::make(root, program, &more)?;
    let due = fill(&place, load)?;
    let relay = place.start()?;
    let watch = Watch::start(relay.pid(), root);
    let wait = due.0.saturating_sub(clock::wall().0);
    anyhow::ensure!(wait > 0, "the relay took too long to start");
    stop::sleep(Duration::from_millis(wait))?;
    let released = clock::monotonic();
    let wall = wait_until_empty(released, sink, || Ok(settled(&relay)? >= load.messages))?;
    let mut outcome = Outcome::default();
    watch.finish(wall, load.messages, &mut outcome);
    let sent = relay.metric(&result("sent"))?;
    anyhow::ensure!(sent == load.messages, "the relay sent {sent} of {} messages", load.messages);
    Ok(outcome)
}

/// Fills the spool; the moment at which everything is due.
fn fill(place: &Place, load: Load) -> anyhow::Result<WallMs> {
    offline::with(place, |spooler| async move {
        let name = server::key(0).key_text().to_string();
        let mailbox = spooler.call(move |spool| spool.register(&name, clock::wall())).await??;
        // Far ahead while it fills: nothing is delivered yet, and all becomes due at once.
        let due = WallMs(clock::wall().0 + fill_ms(load) + millis(LEAD));
        let mut fillers = tokio::task::JoinSet::new();
        for filler in 0..FILLERS {
            let spooler = spooler.clone();
            fillers.spawn(async move {
                for n in (filler..load.messages).step_by(usize::try_from(FILLERS)?) {
                    submit(&spooler, mailbox, n, load.size, due).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = fillers.join_next().await {
            done??;
        }
        Ok(due)
    })
}

/// Generous time to fill a spool, milliseconds: a thousand messages a second, ten megabytes a second.
fn fill_ms(load: Load) -> u64 {
    load.messages + load.messages * load.size / 10_000
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn submit(
    spooler: &Spooler,
    mailbox: spool::ids::LaneId,
    n: u64,
    size: u64,
    due: WallMs,
) -> anyhow::Result<()> {
    let from = server::key(0).key_text().address(server::DOMAIN);
    let mut body = spooler.body();
    let header = format!(
        "From: <{from}>\r\nTo: <u@{DOMAIN}>\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
         Message-Id: <{n:08}@bench.test>\r\nSubject: {n:08}\r\n\r\n"
    );
    // As smtp-source does: lines of 80 octets.
    let mut message = header.into_bytes();
    let line = [&[b'X'; 78][..], b"\r\n"].concat();
    while u64::try_from(message.len())? < size {
        message.extend_from_slice(&line);
    }
    body.write(&message).await?;
    let now = clock::wall();
    let meta = OutboundMeta { mail_from: from.clone(), stream: n.to_string(), ..OutboundMeta::default() };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    let out = Outgoing {
        head: Vec::new(),
        meta: meta.encode(),
        items: Vec::new(),
        mailbox,
        tag: format!("u@{DOMAIN}").into_bytes(),
        key,
        key_until: now,
        twin: None,
        destination: DOMAIN.to_owned(),
        due,
        settled: None,
    };
    match body.submit(out, now).await?.submitted {
        Submitted::New(_) => Ok(()),
        other @ (Submitted::Known(_) | Submitted::Conflict(_) | Submitted::Twin(_)) => {
            anyhow::bail!("a fresh spool knows message {n}: {other:?}")
        }
    }
}

/// Results so far, of any kind.
fn settled(relay: &Relay) -> anyhow::Result<u64> {
    relay.sum(&["sent", "failed", "indeterminate"].map(result))
}

fn result(word: &str) -> String {
    format!("waystation_outbound_results_total{{result=\"{word}\"}}")
}
