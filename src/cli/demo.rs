//! `demo`: the whole promise in one process, on loopback, in under a minute.
//!
//! Plays three parts with the real code of each: a relay with its spool in a temporary directory, a gateway that
//! delivers into a Maildir there, and the mail servers of strangers. Everything a user of the relay depends on is
//! broken on purpose, and afterwards every message is looked for: once, in order, byte for byte. Then mail goes out, to
//! servers that take it, refuse it, or never say; each ends in one result, and no second copy leaves.

mod exchanger;
mod home;
mod stranger;

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use super::{Exit, Global, screen};
use crate::clock;
use crate::config::{Config, Sources};
use crate::daemon::{self, Daemon, Given};
use crate::gateway::outbox::State;
use exchanger::{Exchanger, FRIEND, NOBODY, SILENT};
use home::{Arrived, Home};
use screen::Paint;
use stranger::{Letter, Stranger};

/// Longest wait for anything of the demo.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Domain of the demo's addresses.
const DOMAIN: &str = "mail.localhost";

pub(crate) fn run(global: &Global) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let dir = TempDir::make()?;
    let show =
        Show { paint: Paint::new(global.color.on_stdout()), json: global.json, started: clock::monotonic() };
    let told = runtime.block_on(play(&show, &dir.0));
    runtime.shutdown_timeout(Duration::from_secs(5));
    told
}

/// Tells the story as it happens.
struct Show {
    paint: Paint,
    json: bool,
    started: Instant,
}

impl Show {
    fn say(&self, text: &str) -> anyhow::Result<()> {
        if !self.json {
            screen::print(&format!("{text}\n"))?;
        }
        Ok(())
    }

    fn scene(&self, title: &str) -> anyhow::Result<()> {
        self.say(&format!("\n{}", self.paint.strong(title)))
    }

    fn done(&self, text: &str) -> anyhow::Result<()> {
        let at = clock::monotonic().duration_since(self.started).as_secs_f64();
        let stamp = self.paint.dim(&format!("{at:6.2} s"));
        self.say(&format!("  {stamp}  {} {text}", self.paint.good("ok")))
    }
}

async fn play(show: &Show, dir: &Path) -> anyhow::Result<Exit> {
    let relay_dir = dir.join("relay");
    show.say(&format!(
        "{}\nA relay, a home gateway and the mail servers of strangers, all in this process on loopback.\n\
         Things will be unplugged. Every message that got a 250 must arrive: once, in order, byte for byte.\n\
         Every message that goes out must end in one result that says what happened.",
        show.paint.strong("Waystation demo")
    ))?;

    show.scene("1. A gateway makes its key and connects for the first time")?;
    let far = Exchanger::start().await?;
    let mut relay = Relay::start(&relay_dir, &far, None).await?;
    let mut home = Home::bootstrap(&dir.join("home"), &format!("ws://{}/ws", relay.daemon.http))?;
    show.done(&format!("relay listens: smtp {}, tunnel ws://{}/ws", relay.smtp(), relay.daemon.http))?;
    home.plug_in()?;
    wait("the gateway to connect", async || Ok(home.is_connected().await)).await?;
    show.done(&format!("gateway connected; its address is {}", show.paint.strong(&home.address)))?;
    let stranger = Stranger::new(&home.address);
    let mut sent = Vec::new();
    post(show, &stranger, &relay, &mut sent, Letter::plain("Hello from far away")).await?;
    arrive(&home, sent.len()).await?;
    show.done("delivered into the Maildir, acked, done")?;

    show.scene("2. The home gateway is unplugged; the world keeps writing")?;
    home.unplug().await;
    show.done("gateway is gone")?;
    for letter in Letter::difficult() {
        post(show, &stranger, &relay, &mut sent, letter).await?;
    }

    show.scene("3. The relay is stopped and started again, mail still waiting in its spool")?;
    let (http, smtp) = (relay.daemon.http, relay.smtp());
    relay.stop().await?;
    show.done("relay stopped: every listener closed, spool closed")?;
    relay = Relay::start(&relay_dir, &far, Some((http, smtp))).await?;
    let waiting = relay.waiting().await?;
    show.done(&format!(
        "relay started: spool reopened in {} ms, {waiting} messages wait",
        relay.recovery_ms
    ))?;
    if waiting != sent.len() as u64 - 1 {
        bail!("{} messages got a 250 and wait, but the spool says {waiting}", sent.len() - 1);
    }

    show.scene("4. The gateway is plugged in again")?;
    home.plug_in()?;
    arrive(&home, sent.len()).await?;
    show.done(&format!("all {waiting} arrived"))?;

    show.scene("5. The line is cut while mail is flowing, and comes back")?;
    for n in 1..=30 {
        let letter = Letter::plain(&format!("A busy afternoon, part {n} of 30"));
        sent.push(stranger.send(relay.smtp(), letter).await?);
        if n == 10 {
            home.unplug().await;
        }
        if n == 20 {
            home.plug_in()?;
        }
    }
    show.done("30 more accepted; gateway cut off after the 10th, plugged in after the 20th")?;
    arrive(&home, sent.len()).await?;
    wait("the relay to hear every ack", async || Ok(relay.waiting().await? == 0)).await?;
    show.done("nothing waits any more")?;

    let arrived = home.arrived()?;

    show.scene(
        "6. The home writes back; one far server takes it, one refuses it, one hangs up after the final dot",
    )?;
    let mut answers = Vec::new();
    for rcpt_to in [FRIEND, NOBODY, SILENT] {
        answers.push(home.send(rcpt_to).await?);
    }
    for (rcpt_to, id) in [FRIEND, NOBODY, SILENT].into_iter().zip(&answers) {
        wait("a result", async || Ok(home.result(id).await?.is_some())).await?;
        let (state, why) = home.result(id).await?.unwrap_or_default();
        show.done(&format!("{rcpt_to}: {} ({why})", show.paint.strong(state.word())))?;
    }
    let (http, smtp) = (relay.daemon.http, relay.smtp());
    relay.stop().await?;
    relay = Relay::start(&relay_dir, &far, Some((http, smtp))).await?;
    wait("the gateway to connect", async || Ok(home.is_connected().await)).await?;
    show.done("relay stopped and started: what is indeterminate is not sent again")?;
    let mut results = Vec::new();
    for (rcpt_to, id) in [FRIEND, NOBODY, SILENT].into_iter().zip(&answers) {
        let (state, _) = home.result(id).await?.unwrap_or_default();
        results.push(Outcome { id: id.clone(), rcpt_to, state, copies: far.copies(rcpt_to) });
    }
    home.unplug().await;
    relay.stop().await?;
    verdict(show, &sent, &arrived, &results)
}

/// What became of one message that went out.
struct Outcome {
    id: String,
    rcpt_to: &'static str,
    state: State,
    copies: usize,
}

impl Outcome {
    /// The result says what the far server saw.
    fn is_true(&self) -> bool {
        let expected = match self.rcpt_to {
            FRIEND => (State::Sent, 1),
            NOBODY => (State::Failed, 0),
            _ => (State::Indeterminate, 1),
        };
        (self.state, self.copies) == expected
    }
}

/// Sends one message and says what the stranger was told.
async fn post(
    show: &Show,
    stranger: &Stranger,
    relay: &Relay,
    sent: &mut Vec<Letter>,
    letter: Letter,
) -> anyhow::Result<()> {
    let letter = stranger.send(relay.smtp(), letter).await?;
    let size = screen::bytes(letter.body.len() as u64);
    show.done(&format!("250 queued as {}  {} ({size})", letter.id, letter.subject))?;
    sent.push(letter);
    Ok(())
}

async fn arrive(home: &Home, count: usize) -> anyhow::Result<()> {
    wait("mail in the Maildir", async || Ok(home.count()? >= count)).await
}

/// Compares what was sent with what arrived, and shows what happened to each message.
fn verdict(show: &Show, sent: &[Letter], arrived: &[Arrived], results: &[Outcome]) -> anyhow::Result<Exit> {
    show.scene("What happened to each message")?;
    let mut rows = Vec::new();
    let mut faults = 0;
    for (n, letter) in sent.iter().enumerate() {
        let copies: Vec<usize> =
            arrived.iter().enumerate().filter(|(_, a)| a.id == letter.id).map(|(at, _)| at).collect();
        let whole = copies.iter().all(|at| arrived[*at].body == letter.body);
        let fate = match (copies.as_slice(), whole) {
            ([], _) => "lost",
            ([at], true) if *at == n => "once, in order, byte for byte",
            ([_], true) => "out of order",
            ([_], false) => "changed",
            _ => "more than once",
        };
        faults += usize::from(!fate.starts_with("once"));
        if show.json {
            let object = serde_json::json!({ "id": letter.id, "subject": letter.subject, "fate": fate });
            screen::line(&object)?;
        } else if n < 8 || n + 2 > sent.len() || !fate.starts_with("once") {
            rows.push(vec![letter.id.clone(), letter.subject.clone(), fate.to_owned()]);
        } else if n == 8 {
            rows.push(vec!["...".to_owned(), format!("({} more)", sent.len() - 9), "...".to_owned()]);
        }
    }
    let strangers = arrived.iter().filter(|a| sent.iter().all(|l| l.id != a.id)).count();
    if !show.json {
        let table = screen::table(show.paint, &["ID", "SUBJECT", "ARRIVED"], &[false; 3], &rows);
        show.say(table.trim_end())?;
    }
    let mut rows = Vec::new();
    for outcome in results {
        faults += usize::from(!outcome.is_true());
        let (state, copies) = (outcome.state.word(), outcome.copies);
        if show.json {
            let (id, rcpt_to) = (&outcome.id, outcome.rcpt_to);
            screen::line(
                &serde_json::json!({ "id": id, "rcpt_to": rcpt_to, "result": state, "copies": copies }),
            )?;
        } else {
            let to = outcome.rcpt_to.to_owned();
            rows.push(vec![outcome.id.clone(), to, state.to_owned(), copies.to_string()]);
        }
    }
    if !show.json {
        let heads = ["ID", "TO", "RESULT", "COPIES THERE"];
        let table = screen::table(show.paint, &heads, &[false, false, false, true], &rows);
        show.say(&format!("\n{}", table.trim_end()))?;
    }
    let seconds = clock::monotonic().duration_since(show.started).as_secs_f64();
    if faults == 0 && strangers == 0 {
        let line = format!(
            "{} accepted, {} arrived; {} went out, each with one result; in {seconds:.1} s.",
            sent.len(),
            arrived.len(),
            results.len()
        );
        show.say(&format!("\n{} {line}\n", show.paint.good("The promise held:")))?;
        show.say("Next: `waystation serve` prints how to connect a gateway of your own.")?;
        return Ok(Exit::Done);
    }
    bail!("the promise did not hold: {faults} messages went wrong, {strangers} arrived that nobody sent")
}

/// The relay of the demo.
struct Relay {
    daemon: Daemon,
    recovery_ms: u64,
    stop: CancellationToken,
}

impl Relay {
    /// Starts on free ports, or on the ones it had before.
    async fn start(
        dir: &Path,
        far: &Exchanger,
        ports: Option<(std::net::SocketAddr, std::net::SocketAddr)>,
    ) -> anyhow::Result<Self> {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let (http, smtp) = ports.unwrap_or((any, any));
        let flags = [
            ("data_dir", dir.display().to_string()),
            ("domains", DOMAIN.to_owned()),
            ("http.listen", http.to_string()),
            ("smtp.listen", smtp.to_string()),
            // A demo sends faster than one stranger may, and runs on small disks.
            ("limits.enabled", "false".to_owned()),
            ("spool.min_free_bytes", "0".to_owned()),
            // The whole Internet is one server on loopback.
            ("delivery.smarthost", far.address.to_string()),
            ("delivery.allow_private_targets", "true".to_owned()),
            // There is nobody to ask about its senders.
            ("verify.enabled", "false".to_owned()),
        ];
        let config = Config::load(&Sources { flags: &flags, ..Sources::default() })?;
        let stop = CancellationToken::new();
        let daemon = daemon::start(&config, Given::default(), stop.clone()).await?;
        let recovery_ms = daemon.recovery_ms();
        Ok(Self { daemon, recovery_ms, stop })
    }

    fn smtp(&self) -> std::net::SocketAddr {
        self.daemon.smtp.first().copied().unwrap_or_else(|| ([127, 0, 0, 1], 0).into())
    }

    /// Messages that are not acked yet.
    async fn waiting(&self) -> anyhow::Result<u64> {
        Ok(self.daemon.spooler().query(spool::Spool::stats).await??.items[0])
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.daemon.ended().await?;
        Ok(())
    }
}

/// Waits until `there` says so.
async fn wait<F>(what: &str, mut there: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let until = clock::monotonic() + PATIENCE;
    while !there().await? {
        if clock::monotonic() > until {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// A directory that goes when the demo ends.
struct TempDir(std::path::PathBuf);

impl TempDir {
    fn make() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("waystation-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left over is in the system's directory for temporary files; it goes with the next boot.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
