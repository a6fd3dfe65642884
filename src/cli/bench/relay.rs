//! This relay's side: a spool full of submissions that are due at one moment, and a `serve` process that delivers them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use spool::ids::WallMs;
use spool::submission::Submitted;
use tokio_util::sync::CancellationToken;

use super::sink::Sink;
use super::{Load, Taken, cpu, wait_until_empty};
use crate::clock;
use crate::config::{Config, Sources};
use crate::daemon::ledger;
use crate::mail::envelope::OutboundMeta;
use crate::observe::Metrics;
use crate::spooler::{Outgoing, Spooler};

/// Writers that fill the spool, so that they share commits.
const FILLERS: u64 = 32;
/// From the end of the filling to the moment everything is due: time for `serve` to start.
const LEAD: Duration = Duration::from_secs(4);
/// Longest wait for `serve` to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Whose submissions they are: the text of no real key.
const MAILBOX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Recipient domain.
const DOMAIN: &str = "bench.test";

/// Killed when dropped.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn measure(root: &Path, sink: &mut Sink, load: Load) -> anyhow::Result<Taken> {
    let file = root.join("waystation.toml");
    let text = format!(
        "data_dir = \"{}\"\nhostname = \"relay.bench.test\"\n[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\n\
         listen = [\"127.0.0.1:0\"]\n[spool]\nmin_free_bytes = 0\n[log]\nformat = \"json\"\n[delivery]\n\
         smarthost = \"{}\"\nallow_private_targets = true\nmax_concurrent_total = {n}\n\
         max_concurrent_per_destination = {n}\n[admission]\nmailbox_items_max = 10000000\n[verify]\nenabled = false\n",
        root.join("data").display(),
        sink.address,
        n = load.concurrency,
    );
    fs::write(&file, &text)?;
    let config = Config::load(&Sources { file: Some(("waystation.toml", &text)), env: &[], flags: &[] })?;
    let due = fill(&config, load)?;
    let log = root.join("log");
    let mut serve = Command::new(std::env::current_exe()?);
    serve.args(["serve", "--config"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
    let serve = Serve(serve.stderr(fs::File::create(&log)?).spawn().context("cannot start serve")?);
    let http = started(&log)?;
    let before = cpu::of_process(serve.0.id());
    let wait = due.0.saturating_sub(clock::wall().0);
    anyhow::ensure!(wait > 0, "the relay took too long to start");
    std::thread::sleep(Duration::from_millis(wait));
    let released = clock::monotonic();
    let wall = wait_until_empty(released, sink, || Ok(settled(http)? >= load.messages))?;
    let cpu = cpu::of_process(serve.0.id()).saturating_sub(before);
    let sent = results(http, "sent")?;
    anyhow::ensure!(sent == load.messages, "the relay sent {sent} of {} messages", load.messages);
    Ok(Taken { wall, cpu })
}

/// Fills the spool; the moment at which everything is due.
fn fill(config: &Config, load: Load) -> anyhow::Result<WallMs> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let due = runtime.block_on(async {
        let metrics = std::sync::Arc::new(Metrics::new());
        let stop = CancellationToken::new();
        let config = config.clone();
        let ledger = tokio::task::spawn_blocking(move || ledger::open(&config, metrics, stop)).await??;
        let ledger::Ledger { engine, spooler, .. } = ledger;
        let mailbox = spooler.call(|spool| spool.register(MAILBOX, clock::wall())).await??;
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
        drop(spooler);
        tokio::task::spawn_blocking(move || engine.stop()).await??;
        anyhow::Ok(due)
    })?;
    Ok(due)
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
    let mut body = spooler.body();
    let header = format!(
        "From: <{MAILBOX}@mail.localhost>\r\nTo: <u@{DOMAIN}>\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
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
    let meta = OutboundMeta {
        mail_from: format!("{MAILBOX}@mail.localhost"),
        stream: n.to_string(),
        ..OutboundMeta::default()
    };
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

/// Waits until the log says where HTTP listens.
fn started(log: &Path) -> anyhow::Result<SocketAddr> {
    let until = clock::monotonic() + START_PATIENCE;
    loop {
        let text = fs::read_to_string(log)?;
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(event) = events.into_iter().find(|event| event["event"] == "relay.started") {
            return event["http"].as_str().context("relay.started without http")?.parse().context("http");
        }
        anyhow::ensure!(clock::monotonic() < until, "the relay does not start:\n{text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Results so far, of any kind.
fn settled(http: SocketAddr) -> anyhow::Result<u64> {
    ["sent", "failed", "indeterminate"].iter().map(|result| results(http, result)).sum()
}

fn results(http: SocketAddr, result: &str) -> anyhow::Result<u64> {
    let name = format!("waystation_outbound_results_total{{result=\"{result}\"}} ");
    let text = metrics(http)?;
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.map_or(Ok(0), |value| value.trim().parse())?)
}

fn metrics(http: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(http)?;
    stream.set_read_timeout(Some(START_PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
