//! `bench soak`: mail comes in at a steady rate for a long time, while gateways come, fetch, and leave.
//!
//! Retention is short, so that what is kept reaches a steady state: memory, descriptors, disk and latencies should then be
//! flat, which the reader judges by the figures. What is judged here is every single message: each that got its 250
//! comes to its gateway, with its bytes, once, or again only when a session ended before its ack was written down.
//!
//! Failure policy: such a fault is told in words and makes the exit code 1; an answer that is not expected, or a relay that
//! ends, ends the measurement.

mod book;
mod outbound;
mod trend;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::figures::{Latency, Outcome, Series, Unit};
use super::gateways::Gateway;
use super::peers::{self, sink::Sink};
use super::report::{self, Subject, Turn};
use super::server::{Place, Relay};
use super::smtp::{self, Load, Size};
use super::{Common, Scratch, Side, stop, traffic, usage};
use crate::cli::screen::{self, Paint};
use crate::cli::{Exit, Global};
use crate::clock;
use crate::tunnel::Dialect;
use book::Book;
use outbound::Outbox;

/// How long a gateway stays, and how long it is away.
const STAY_MS: Range<u64> = 2_000..40_000;
const AWAY_MS: Range<u64> = 500..20_000;
/// One gateway in so many speaks tunnel 1.
const TUNNEL_1_EVERY: u32 = 4;
/// How long the highest rate is looked for.
const CALIBRATION: Duration = Duration::from_secs(20);
/// Messages between two looks at the clock then.
const CALIBRATION_MESSAGES: u64 = 500;
/// Before the first sample the load runs for as long as acked mail is kept, at most [`WARM_UP_MAX`], and for this: by then
/// what the calibration left has gone, and what is kept is as much as it will be.
const WARM_UP: Duration = Duration::from_secs(30);
const WARM_UP_MAX: Duration = Duration::from_secs(300);
/// Deliveries at a time that smtp-sink takes.
const SINK_CONNECTIONS: u16 = 50;
/// Where it writes what it took.
const SINK_DIRECTORY: &str = "sink";
const SINK_FILE: &str = "taken";
/// Longest wait, after the last message went in, for the last to come out.
const DRAIN_PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = traffic::positive)]
    minutes: f64,
    /// How long the same load runs before that, seconds; without it until as much is kept as will be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    warm_up_seconds: Option<u64>,
    /// Messages a second; without it half of what this machine can take and hand over, which is tried for 20 s first
    #[arg(long, value_name = "N", value_parser = traffic::positive)]
    rate: Option<f64>,
    /// Bytes of each, or `mix`
    #[arg(long, value_name = "BYTES", default_value = "mix")]
    size: Size,
    /// SMTP sessions at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    sessions: u16,
    /// Gateways that the messages are for
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    gateways: u32,
    /// Messages a second that a gateway sends out, through smtp-sink; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    outbound: u32,
    /// Seconds after which the relay forgets what was acked; results after a minute at least
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    retain_seconds: u64,
    /// Seconds between two samples
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    sample_seconds: u32,
    #[command(flatten)]
    common: Common,
}

/// What is sampled: name, header, unit.
const SAMPLED: [(&str, &str, Unit); 10] = [
    ("messages_per_second", "messages a second", Unit::PerSecond),
    ("memory_bytes", "memory", Unit::Bytes),
    ("descriptors", "open descriptors", Unit::Count),
    ("disk_bytes", "disk", Unit::Bytes),
    ("waiting", "items waiting", Unit::Count),
    ("cpu_seconds_per_1000", "CPU seconds for 1000", Unit::CpuPerThousand),
    ("dot_p50_ms", "dot p50, ms", Unit::Milliseconds),
    ("dot_p99_ms", "dot p99, ms", Unit::Milliseconds),
    ("end_to_end_p50_ms", "end to end p50, ms", Unit::Milliseconds),
    ("end_to_end_p99_ms", "end to end p99, ms", Unit::Milliseconds),
];

/// Samples by name.
type Samples = BTreeMap<&'static str, Vec<(f64, f64)>>;

/// All that a soak gave.
struct Soaked {
    rate: f64,
    samples: Samples,
    outcome: Outcome,
    book: Book,
    outbox: Outbox,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut exit = Exit::Failed;
    for side in args.common.wanted(&[Side::Waystation, Side::Baseline]) {
        let scratch = Scratch::make(&args.common.root())?;
        let soaked = measure(&scratch.0, args, side)?;
        let flawless = soaked.book.faults == 0;
        finish(global, args, side, soaked)?;
        if !flawless {
            return Ok(Exit::Failed);
        }
        exit = Exit::Done;
    }
    Ok(exit)
}

/// What senders, gateways and samples share.
struct Scene {
    relay: Relay,
    dir: PathBuf,
    recipients: Vec<String>,
    size: Size,
    sessions: usize,
    book: RefCell<Book>,
    outbox: RefCell<Outbox>,
    /// Number of the next message.
    next: Cell<u64>,
    /// Nobody leaves any more.
    ending: Cell<bool>,
    broken: RefCell<Option<anyhow::Error>>,
}

fn measure(dir: &Path, args: &Args, side: Side) -> anyhow::Result<Soaked> {
    let sink = match args.outbound {
        0 => None,
        _ if peers::program("smtp-sink").is_none() => {
            eprintln!("nothing is sent out: smtp-sink is not installed (Debian package postfix)");
            None
        }
        _ => Some(Sink::start_writing(SINK_CONNECTIONS, &open_directory(dir)?.join(SINK_FILE))?),
    };
    let out = sink.as_ref().map_or(String::new(), |sink| {
        format!("[delivery]\nsmarthost = \"{}\"\nallow_private_targets = true\n", sink.address)
    });
    let place = Place::make(dir, &args.common.program(side)?, &out)?;
    place.retain(args.retain_seconds)?;
    // The last one gets nothing and sends out.
    let mut recipients = place.mailboxes(args.gateways + 1)?;
    recipients.pop();
    let scene = Rc::new(Scene {
        relay: place.start()?,
        dir: dir.to_owned(),
        recipients,
        size: args.size,
        sessions: usize::from(args.sessions),
        book: RefCell::new(Book::new(args.gateways)),
        outbox: RefCell::default(),
        next: Cell::new(0),
        ending: Cell::new(false),
        broken: RefCell::new(None),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let (rate, samples, outcome) =
        stop::drive(&runtime, local.run_until(play(&scene, args, sink.is_some())))?;
    // The gateways' tasks end with their set; then the book is nobody else's.
    drop(local);
    let mut book = scene.book.replace(Book::new(1));
    let outbox = scene.outbox.take();
    if outbox.told() > 0 {
        let taken = outbound::taken(&dir.join(SINK_DIRECTORY).join(SINK_FILE))?;
        outbox.compare(taken.into_iter()).into_iter().for_each(|fault| book.fault(fault));
    }
    Ok(Soaked { rate, samples, outcome, book, outbox })
}

/// A directory in `dir` where whoever `smtp-sink` becomes may write.
fn open_directory(dir: &Path) -> anyhow::Result<PathBuf> {
    let open = dir.join(SINK_DIRECTORY);
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    Ok(open)
}

async fn play(scene: &Rc<Scene>, args: &Args, sends: bool) -> anyhow::Result<(f64, Samples, Outcome)> {
    for n in 0..args.gateways {
        let scene = Rc::clone(scene);
        tokio::task::spawn_local(async move {
            if let Err(error) = live(&scene, n).await {
                *scene.broken.borrow_mut() = Some(error.context(format!("gateway {n}")));
            }
        });
    }
    if sends {
        let (scene, n, rate) = (Rc::clone(scene), args.gateways, f64::from(args.outbound));
        tokio::task::spawn_local(async move {
            if let Err(error) = outbound::live(&scene, n, rate).await {
                *scene.broken.borrow_mut() = Some(error.context("the gateway that sends out"));
            }
        });
    }
    let rate = match args.rate {
        Some(rate) => rate,
        None => calibrate(scene).await? / 2.0,
    };
    anyhow::ensure!(rate > 0.0, "no message came through in {} s", CALIBRATION.as_secs());
    let begun = clock::monotonic();
    let kept = WARM_UP + Duration::from_secs(args.retain_seconds).min(WARM_UP_MAX);
    let warm_up = args.warm_up_seconds.map_or(kept, Duration::from_secs);
    while clock::monotonic().duration_since(begun) < warm_up {
        send(scene, stretch(args, rate), Some(rate)).await?;
    }
    let mut outcome = Outcome::default();
    let before = scene.book.borrow().sent();
    let watch = usage::Watch::start(scene.relay.pid(), &scene.dir);
    let (samples, dot) = sampled(scene, args, rate).await?;
    let soaked = watch.elapsed();
    watch.finish(soaked, scene.book.borrow().sent() - before, &mut outcome);
    outcome.latency(dot, &[("dot_p50_ms", 0.5), ("dot_p99_ms", 0.99), ("dot_p999_ms", 0.999)]);
    scene.ending.set(true);
    drain(scene).await?;
    Ok((rate, samples, outcome))
}

/// The highest rate at which messages go in and come out.
async fn calibrate(scene: &Rc<Scene>) -> anyhow::Result<f64> {
    let begun = clock::monotonic();
    while clock::monotonic().duration_since(begun) < CALIBRATION {
        send(scene, CALIBRATION_MESSAGES, None).await?;
    }
    let arrived = scene.book.borrow().arrived;
    Ok(super::count(arrived) / clock::monotonic().duration_since(begun).as_secs_f64())
}

async fn send(scene: &Rc<Scene>, messages: u64, rate: Option<f64>) -> anyhow::Result<smtp::Sent> {
    let load = Load {
        sessions: scene.sessions,
        rate,
        first: scene.next.get(),
        ..Load::new(scene.relay.smtp()?, scene.recipients.clone(), messages, scene.size)
    };
    scene.next.set(scene.next.get() + messages);
    let heard = Rc::clone(scene);
    let sent = smtp::send(load, move |n| heard.book.borrow_mut().dot(n, clock::monotonic())).await?;
    match scene.broken.borrow_mut().take() {
        Some(error) => Err(error),
        None => Ok(sent),
    }
}

/// Sends for as long as it was asked to, with a sample at the end of each stretch; all latencies of the dot together.
async fn sampled(scene: &Rc<Scene>, args: &Args, rate: f64) -> anyhow::Result<(Samples, Latency)> {
    let (begun, all) = (clock::monotonic(), Duration::try_from_secs_f64(args.minutes * 60.0)?);
    let messages = stretch(args, rate);
    let (mut samples, mut dots) = (Samples::new(), Latency::new("dot"));
    let mut last = begun;
    let mut cpu = usage::of_tree(scene.relay.pid());
    scene.book.borrow_mut().turn_page(begun);
    while clock::monotonic().duration_since(begun) < all {
        let sent = send(scene, messages, Some(rate)).await?;
        let now = clock::monotonic();
        let end_to_end = scene.book.borrow_mut().turn_page(now);
        let waiting = scene.book.borrow().waiting();
        let (pid, data) = (scene.relay.pid(), scene.dir.join("data"));
        let looked = tokio::task::spawn_blocking(move || {
            let (memory, open) = (usage::memory_of_tree(pid), usage::descriptors_of_process(pid));
            (memory, open, usage::bytes_below(&data), usage::of_tree(pid))
        });
        let (memory, descriptors, disk, cpu_now) = looked.await?;
        let count = super::count(messages);
        let seconds = now.duration_since(begun).as_secs_f64();
        let mut note = |name, value: f64| samples.entry(name).or_default().push((seconds, value));
        note("messages_per_second", count / now.duration_since(last).as_secs_f64());
        note("memory_bytes", super::count(memory));
        note("descriptors", super::count(descriptors));
        note("disk_bytes", super::count(disk));
        note("waiting", super::count(u64::try_from(waiting)?));
        note("cpu_seconds_per_1000", cpu_now.saturating_sub(cpu).as_secs_f64() * 1000.0 / count);
        note("dot_p50_ms", sent.dot.at(0.5));
        note("dot_p99_ms", sent.dot.at(0.99));
        if end_to_end.len() > 0 {
            note("end_to_end_p50_ms", end_to_end.at(0.5));
            note("end_to_end_p99_ms", end_to_end.at(0.99));
        }
        dots.add(&sent.dot);
        (last, cpu) = (now, cpu_now);
    }
    Ok((samples, dots))
}

/// Messages between two samples.
fn stretch(args: &Args, rate: f64) -> u64 {
    whole(rate * f64::from(args.sample_seconds))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, and a count of messages"
)]
fn whole(messages: f64) -> u64 {
    messages.round().max(1.0) as u64
}

/// Waits until everything has come, or is lost, and the relay agrees.
async fn drain(scene: &Scene) -> anyhow::Result<()> {
    let begun = clock::monotonic();
    let in_time = |begun: Instant| clock::monotonic().duration_since(begun) < DRAIN_PATIENCE;
    let open = || scene.book.borrow().waiting() + scene.outbox.borrow().open();
    while open() > 0 && in_time(begun) {
        if let Some(error) = scene.broken.borrow_mut().take() {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.book.borrow_mut().close();
    scene.outbox.borrow().close().for_each(|fault| scene.book.borrow_mut().fault(fault));
    let mut faults = Vec::new();
    let out = scene.relay.metric("waystation_outbound_results_total{result=\"sent\"}")?;
    let told = scene.outbox.borrow().told();
    if out != told {
        faults.push(format!("the relay counts {out} messages that went out, {told} were told so"));
    }
    let accepted = scene.relay.metric("waystation_inbound_accepted_total")?;
    let sent = scene.book.borrow().sent();
    if accepted != sent {
        faults.push(format!("the relay counts {accepted} messages, {sent} were sent"));
    }
    loop {
        let ready = scene.relay.metric("waystation_spool_items{state=\"ready\"}")?;
        if ready == 0 {
            break;
        }
        if !in_time(begun) {
            faults.push(format!("{ready} items still wait in the relay"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    faults.into_iter().for_each(|fault| scene.book.borrow_mut().fault(fault));
    Ok(())
}

/// One gateway: it comes, takes and acks, and leaves, with a farewell or without.
async fn live(scene: &Scene, n: u32) -> anyhow::Result<()> {
    let relay: SocketAddr = scene.relay.http;
    let dialect = if n % TUNNEL_1_EVERY == TUNNEL_1_EVERY - 1 { Dialect::One } else { Dialect::Two };
    let me = usize::try_from(n)?;
    loop {
        let mut gateway = Gateway::login(relay, n, dialect).await?;
        gateway.keep_messages();
        scene.book.borrow_mut().came_home(me);
        let leave = tokio::time::sleep(Duration::from_millis(rand::random_range(STAY_MS)));
        tokio::pin!(leave);
        loop {
            let arrival = tokio::select! {
                arrival = gateway.next() => arrival?,
                () = &mut leave, if !scene.ending.get() => break,
            };
            let Some(arrival) = arrival else { anyhow::bail!("the relay hung up") };
            let whole = arrival.number.is_some_and(|n| smtp::is_whole(&arrival.message, n, scene.size));
            let item = arrival.item.as_deref();
            scene.book.borrow_mut().arrived(me, arrival.number, item, whole, clock::monotonic());
            gateway.ack(&arrival).await?;
        }
        scene.book.borrow_mut().left(me, clock::monotonic());
        if rand::random() {
            gateway.close().await;
        } else {
            drop(gateway);
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(AWAY_MS))).await;
    }
}

fn finish(global: &Global, args: &Args, side: Side, soaked: Soaked) -> anyhow::Result<()> {
    let Soaked { rate, samples, mut outcome, book, outbox } = soaked;
    outcome.figure("came_again", Unit::Count, super::count(book.again));
    outcome.figure("sent_out", Unit::Count, super::count(outbox.told()));
    outcome.figure("faults", Unit::Count, super::count(book.faults));
    let words = format!(
        "soak: {} minutes, {rate:.0} messages a second, {}, {} gateways that come and go, acked mail kept for {} s",
        args.minutes, args.size, args.gateways, args.retain_seconds
    );
    let rows: Vec<Row> = SAMPLED.iter().filter_map(|sampled| Row::make(*sampled, &samples)).collect();
    if global.json {
        screen::line(&json!({
            "bench": "soak",
            "load": {
                "minutes": args.minutes, "rate": rate, "size": args.size.to_string(), "sessions": args.sessions,
                "gateways": args.gateways, "retain_seconds": args.retain_seconds, "outbound": args.outbound,
            },
            "machine": report::machine(&args.common.root()),
        }))?;
    }
    for (name, points) in samples {
        let sampled = SAMPLED.iter().find(|(sampled, ..)| *sampled == name);
        let unit = sampled.map_or(name, |(_, header, _)| *header);
        outcome.series.push(Series { name, unit, points });
    }
    if global.json {
        let mut object = outcome.json();
        object.insert("bench".to_owned(), json!("soak"));
        object.insert("side".to_owned(), json!(side.word()));
        object.insert("messages".to_owned(), json!(book.sent()));
        object.insert("fault_words".to_owned(), json!(book.told));
        screen::line(&Value::Object(object))?;
        for row in &rows {
            screen::line(&row.json(side))?;
        }
    } else {
        let paint = Paint::new(global.color.on_stdout());
        let mut text = report::head(&args.common, &words);
        text.push_str(&table(paint, &rows));
        text.push_str(&format!(
            "\n{}: {} messages in, {} out, {} faults; {} came again after a session that ended before their ack was written down\n",
            side.word(),
            book.sent(),
            outbox.told(),
            book.faults,
            book.again
        ));
        for fault in &book.told {
            text.push_str(&format!("  {}\n", paint.bad(fault)));
        }
        screen::print(&text)?;
    }
    if let Some(directory) = &args.common.plots {
        std::fs::create_dir_all(directory)?;
        let subject = Subject { bench: "soak", words, load: Map::new(), columns: &[] };
        report::draw(directory, &subject, &[Turn { side, round: 1, outcome }])?;
    }
    Ok(())
}

/// What one series says.
struct Row {
    name: &'static str,
    header: &'static str,
    unit: Unit,
    sixths: [f64; 3],
    per_hour: Option<f64>,
}

impl Row {
    fn make((name, header, unit): (&'static str, &'static str, Unit), samples: &Samples) -> Option<Self> {
        let points = samples.get(name)?;
        Some(Self { name, header, unit, sixths: trend::sixths(points), per_hour: trend::per_hour(points) })
    }

    fn json(&self, side: Side) -> Value {
        let [first, middle, last] = self.sixths;
        json!({
            "bench": "soak", "side": side.word(), "figure": self.name, "first_sixth": first, "middle_sixth": middle,
            "last_sixth": last, "per_hour": self.per_hour,
        })
    }
}

fn table(paint: Paint, rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let [first, _, last] = row.sixths;
        let mut cells = vec![row.header.to_owned()];
        cells.extend(row.sixths.iter().map(|value| row.unit.print(*value)));
        cells.push(if first == 0.0 { "-".to_owned() } else { format!("{:.2}", last / first) });
        cells.push(row.per_hour.map_or("-".to_owned(), |slope| signed(row.unit, slope)));
        cells
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let header = ["MEDIAN OF", "FIRST SIXTH", "MIDDLE", "LAST SIXTH", "LAST/FIRST", "PER HOUR"];
    screen::table(paint, &header, &[false, true, true, true, true, true], &cells)
}

/// With its sign, which [`Unit::print`] has for what is measured only.
fn signed(unit: Unit, value: f64) -> String {
    format!("{}{}", if value < 0.0 { "-" } else { "+" }, unit.print(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_seen_in_the_table() {
        let points: Vec<(f64, f64)> =
            (0..60).map(|n| (f64::from(n) * 60.0, 1024.0 * f64::from(100 + n))).collect();
        let samples = Samples::from([("memory_bytes", points)]);
        let rows: Vec<Row> = SAMPLED.iter().filter_map(|sampled| Row::make(*sampled, &samples)).collect();
        assert_eq!(rows.len(), 1);
        let text = table(Paint::new(false), &rows);
        assert!(text.contains("104.5 KiB") && text.contains("+60.0 KiB") && text.contains("1.48"), "{text}");
        assert_eq!(signed(Unit::Bytes, -2048.0), "-2.0 KiB");
        assert_eq!(whole(0.2), 1);
    }
}
