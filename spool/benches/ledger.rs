//! The ledger against the disk it stands on: `cargo bench -p waystation-spool --bench ledger -- [what] [options]`.
//!
//! * `throughput`: messages made stable per second, beside bare append+fdatasync loops with the same bytes per
//!   message and the same number of writers: one that writes a zero-filled file again and again, one that grows;
//!   latency, and bytes written per byte accepted. The last row of a cell divides by each of the two.
//! * `open`: start with many ready items, after a clean stop and after kill -9.
//! * `space`: what many short-lived items leave on the disk.
//! * `memory`: resident memory while ready items pile up.
//!
//! Options: `--scale F` (1.0 is the full size), `--dir PATH` (on the disk to be measured; default: `target/`),
//! `--writers N` and `--bytes N` pick one cell of the throughput table. Body hashes are computed once: services hash while they
//! receive, in their own threads. Bytes written are the kernel's count for this process: a small write into a large
//! folio of zeros counts as the whole folio, so compare with the bare rows. Numbers vary by tens of percent between runs; compare rows of one run.

#![allow(missing_docs, reason = "a program, not a library")]
#![allow(clippy::disallowed_methods, reason = "measures real time")]
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing else to do")]

use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use waystation_spool::accept::ChunkBuilder;
use waystation_spool::disk::Disk;
use waystation_spool::disk::real::RealDisk;
use waystation_spool::engine::{Engine, Handle, Unobserved};
use waystation_spool::ids::{ItemId, LaneId, SessionId, WallMs};
use waystation_spool::index::sled::SledIndex;
use waystation_spool::types::{CHUNK_BYTES_MAX, NewMessage, Room, Target};
use waystation_spool::{Effort, Options, Recovery, Spool};

/// Bytes a message costs in the journal beside its body: chunk frame and item record.
const RECORD_BYTES: usize = 430;
/// Size of the bare loop's file, and of a segment.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

struct Settings {
    dir: PathBuf,
    scale: f64,
    writers: Option<usize>,
    bytes: Option<usize>,
}

fn main() {
    let mut settings = Settings { dir: PathBuf::from("target"), scale: 1.0, writers: None, bytes: None };
    let mut what = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap();
        match argument.as_str() {
            "--bench" => {}
            "--dir" => settings.dir = PathBuf::from(value()),
            "--scale" => settings.scale = value().parse().unwrap(),
            "--writers" => settings.writers = value().parse().ok(),
            "--bytes" => settings.bytes = value().parse().ok(),
            "--fill" => return fill_and_wait(Path::new(&value()), value().parse().unwrap()),
            "--open" => return open_and_tell(Path::new(&value())),
            other => what.push(other.to_owned()),
        }
    }
    let wanted = |name: &str| what.is_empty() || what.iter().any(|word| word == name);
    if wanted("throughput") {
        throughput(&settings);
    }
    if wanted("open") {
        open(&settings);
    }
    if wanted("space") {
        space(&settings);
    }
    if wanted("memory") {
        memory(&settings);
    }
}

fn now() -> WallMs {
    WallMs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

/// Ids need not be unguessable here, only different.
fn fresh_id(at: WallMs) -> ItemId {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    random[..2].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
    ItemId::new(at, random)
}

fn scratch(settings: &Settings, name: &str) -> PathBuf {
    let dir = settings.dir.join(format!("bench-{name}-{}", std::process::id()));
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn open_spool(dir: &Path, options: Options) -> (Spool, Recovery) {
    let index = SledIndex::open(&dir.join("index")).unwrap();
    Spool::open(Arc::new(RealDisk::new(dir.to_owned())), Arc::new(index), options, now()).unwrap()
}

fn roomy() -> Options {
    Options {
        lane_items_max: u64::MAX / 2,
        lane_bytes_max: u64::MAX / 2,
        min_free_bytes: 0,
        ..Options::default()
    }
}

/// Bytes this process caused to be written to the block layer.
fn device_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn resident_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::read_dir(dir).unwrap().flatten().fold(0, |sum, entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => sum + disk_bytes(&entry.path()),
        Ok(meta) => sum + meta.blocks() * 512,
        Err(_) => sum,
    })
}

// Throughput.

struct Measured {
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    amplification: f64,
}

/// Runs `writers` threads that each do `one` again and again for a while.
fn measure(
    settings: &Settings,
    writers: usize,
    bytes: usize,
    make: impl Fn() -> Box<dyn FnMut() + Send>,
) -> Measured {
    let stop = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            let (mut one, stop, counting) = (make(), stop.clone(), counting.clone());
            std::thread::spawn(move || {
                let mut micros = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    one();
                    if counting.load(Ordering::Relaxed) {
                        micros.push(begun.elapsed().as_micros() as u64);
                    }
                }
                micros
            })
        })
        .collect();
    // The first moments find caches cold and no spare segment ready.
    std::thread::sleep(Duration::from_secs_f64(1.0 * settings.scale.max(0.1)));
    let (begun, written) = (Instant::now(), device_bytes());
    counting.store(true, Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs_f64(4.0 * settings.scale));
    counting.store(false, Ordering::Relaxed);
    let (seconds, written) = (begun.elapsed().as_secs_f64(), device_bytes() - written);
    stop.store(true, Ordering::Relaxed);
    let mut micros: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    micros.sort_unstable();
    let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied().unwrap_or(0);
    Measured {
        per_second: micros.len() as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
        amplification: written as f64 / (micros.len() * bytes).max(1) as f64,
    }
}

type Job = (Arc<Vec<u8>>, SyncSender<()>);

/// What the bare loop writes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    /// One zero-filled file, again and again: no new blocks, the least a disk can ask for.
    Again,
    /// A new file for every segment's worth of bytes: what a log that grows must pay.
    Growing,
}

/// The least that could do the work: takes all that waits, one vectored write, one fdatasync, answers.
fn bare_appender(disk: &RealDisk, floor: Floor, queue: &Receiver<Job>) {
    let mut files = 0;
    let mut begin = || {
        files += 1;
        let file = disk.create(&format!("file-{files}")).unwrap();
        file.allocate(SEGMENT_BYTES).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        file
    };
    let mut file = begin();
    if floor == Floor::Again {
        for n in 0..SEGMENT_BYTES >> 20 {
            file.write_all_at(&mut [IoSlice::new(&vec![0; 1 << 20])], n << 20).unwrap();
        }
        file.sync().unwrap();
    }
    let mut at = 0;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(511));
        let bytes: u64 = batch.iter().map(|(bytes, _)| bytes.len() as u64).sum();
        if at + bytes > SEGMENT_BYTES {
            at = 0;
            if floor == Floor::Growing {
                file = begin();
            }
        }
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|(bytes, _)| IoSlice::new(bytes)).collect();
        file.write_all_at(&mut slices, at).unwrap();
        file.sync().unwrap();
        at += bytes;
        for (_, answer) in batch {
            answer.send(()).ok();
        }
    }
}

fn bare(settings: &Settings, floor: Floor, writers: usize, bytes: usize) -> Measured {
    let dir = scratch(settings, "bare");
    let disk = RealDisk::new(dir.clone());
    let message = Arc::new(vec![7; bytes + RECORD_BYTES]);
    let (jobs, queue) = sync_channel::<Job>(8192);
    let appender = std::thread::spawn(move || bare_appender(&disk, floor, &queue));
    let measured = measure(settings, writers, bytes, || {
        let (jobs, message) = (jobs.clone(), message.clone());
        let (answer, wait) = sync_channel(1);
        Box::new(move || {
            jobs.send((message.clone(), answer.clone())).unwrap();
            wait.recv().unwrap();
        })
    });
    drop(jobs);
    appender.join().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    measured
}

/// One message through the engine, as a service would send it.
fn accept(handle: &Handle, seed: u32, lane: LaneId, body: &[u8]) {
    let at = now();
    let id = fresh_id(at);
    let mut builder = ChunkBuilder::new(id, seed);
    let mut chunks = body.chunks(CHUNK_BYTES_MAX).peekable();
    let mut last = None;
    while let Some(piece) = chunks.next() {
        builder.take(piece);
        let chunk = builder.finish();
        if chunks.peek().is_none() {
            last = Some(chunk);
            break;
        }
        // A service has at most one chunk under way: it waits until this one was taken, not until it is stable.
        let (taken, wait) = sync_channel(1);
        let call = Box::new(move |spool: &mut Spool| {
            taken.send(spool.stage_chunk(id, chunk)).ok();
            Box::new(|_| ()) as Box<dyn FnOnce(_) + Send>
        });
        handle.stage(call).unwrap();
        wait.recv().unwrap().unwrap();
    }
    let message = message(id, lane, body.len());
    handle
        .run(move |spool| {
            if let Some(chunk) = last {
                spool.stage_chunk(id, chunk)?;
            }
            spool.accept(message, at)
        })
        .unwrap()
        .unwrap();
}

fn message(id: ItemId, lane: LaneId, bytes: usize) -> NewMessage {
    NewMessage {
        body: id,
        body_bytes: bytes as u64,
        sha256: [9; 32],
        head: vec![b'h'; 100],
        meta: vec![1; 60],
        fingerprint: None,
        targets: vec![Target { lane, id, tag: b"home@gateway.example".to_vec() }],
    }
}

fn through_engine(settings: &Settings, writers: usize, bytes: usize) -> Measured {
    let dir = scratch(settings, "engine");
    let (mut spool, _) = open_spool(&dir, roomy());
    let lane = spool.register("bench", now()).unwrap();
    spool.commit(now()).unwrap();
    let seed = spool.reader().seed();
    let engine = Engine::start(spool, Arc::new(now), Unobserved).unwrap();
    let body = Arc::new(vec![7; bytes]);
    let measured = measure(settings, writers, bytes, || {
        let (handle, body) = (engine.handle(), body.clone());
        Box::new(move || accept(&handle, seed, lane, &body))
    });
    engine.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    measured
}

fn throughput(settings: &Settings) {
    println!("| bytes | writers | who | per second | p50 µs | p99 µs | written |");
    println!("|---|---|---|---|---|---|---|");
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        for writers in [1, 64] {
            if settings.bytes.is_some_and(|only| only != bytes)
                || settings.writers.is_some_and(|only| only != writers)
            {
                continue;
            }
            let again = bare(settings, Floor::Again, writers, bytes);
            let growing = bare(settings, Floor::Growing, writers, bytes);
            let ours = through_engine(settings, writers, bytes);
            for (who, row) in [("bare, again", &again), ("bare, growing", &growing), ("spool", &ours)] {
                println!(
                    "| {bytes} | {writers} | {who} | {:.0} | {} | {} | {:.2} |",
                    row.per_second, row.p50_us, row.p99_us, row.amplification
                );
            }
            let rate = |floor: &Measured| ours.per_second / floor.per_second;
            let latency = |floor: &Measured| ours.p50_us as f64 / floor.p50_us.max(1) as f64;
            println!(
                "| | | spool : bare | {:.2} {:.2} | {:.2} {:.2} | | |",
                rate(&again),
                rate(&growing),
                latency(&again),
                latency(&growing)
            );
        }
    }
}

// Start.

const LANES: u64 = 100;

/// Accepts `count` small messages in large batches.
fn fill(handle: &Handle, seed: u32, lanes: &[LaneId], count: u64, bytes: usize) {
    const BATCH: u64 = 500;
    let body = vec![7; bytes];
    let mut done = 0;
    while done < count {
        let batch: Vec<_> = (done..count.min(done + BATCH))
            .map(|n| {
                let id = fresh_id(now());
                let mut builder = ChunkBuilder::new(id, seed);
                builder.take(&body);
                (id, builder.finish(), message(id, lanes[(n % lanes.len() as u64) as usize], bytes))
            })
            .collect();
        done += batch.len() as u64;
        handle
            .run(move |spool| {
                for (id, chunk, message) in batch {
                    spool.stage_chunk(id, chunk).unwrap();
                    spool.accept(message, now()).unwrap();
                }
            })
            .unwrap();
    }
}

fn register(spool: &mut Spool, count: u64) -> Vec<LaneId> {
    let lanes = (0..count).map(|n| spool.register(&format!("lane-{n}"), now()).unwrap()).collect();
    spool.commit(now()).unwrap();
    lanes
}

/// Child: fills a spool, says so, then either stops when told, or is killed.
fn fill_and_wait(dir: &Path, count: u64) {
    let (mut spool, _) = open_spool(dir, roomy());
    let lanes = register(&mut spool, LANES);
    let seed = spool.reader().seed();
    let engine = Engine::start(spool, Arc::new(now), Unobserved).unwrap();
    fill(&engine.handle(), seed, &lanes, count, 200);
    println!("filled");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    engine.stop().unwrap();
}

/// Child: opens a spool and says how that went.
fn open_and_tell(dir: &Path) {
    let begun = Instant::now();
    let (spool, recovery) = open_spool(dir, roomy());
    let seconds = begun.elapsed().as_secs_f64();
    let ready = spool.stats().unwrap().items[0];
    println!(
        "{seconds:.2} s, {ready} ready, {} records replayed, rebuilt: {}, {:.0} MB resident",
        recovery.records,
        recovery.rebuilt_index,
        resident_mb()
    );
}

fn child(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn open(settings: &Settings) {
    let count = (1e6 * settings.scale) as u64;
    for how in ["clean stop", "kill -9", "index deleted"] {
        let dir = scratch(settings, "open");
        let path = dir.to_str().unwrap();
        let mut filler = child(&["--fill", path, &count.to_string()]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(filler.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if how == "kill -9" {
            filler.kill().unwrap();
        } else {
            filler.stdin.take().unwrap().write_all(b"stop\n").unwrap();
        }
        filler.wait().unwrap();
        if how == "index deleted" {
            std::fs::remove_dir_all(dir.join("index")).unwrap();
        }
        let told = child(&["--open", path]).output().unwrap();
        println!("open {count} ready items after {how}: {}", String::from_utf8_lossy(&told.stdout).trim());
        std::fs::remove_dir_all(dir).unwrap();
    }
}

// Space and memory.

fn ack_all(spool: &mut Spool, session: SessionId, items: u32) -> usize {
    let leased = spool.lease(session, Room { items, bytes: u64::MAX }, now()).unwrap();
    for item in &leased.items {
        spool.ack(session, item.id, now()).unwrap();
    }
    leased.items.len()
}

fn space(settings: &Settings) {
    const LIVE: u64 = 20_000;
    let count = (1e6 * settings.scale) as u64;
    let dir = scratch(settings, "space");
    let (mut spool, _) = open_spool(&dir, Options { retain_ms: 0, ..roomy() });
    let lanes = register(&mut spool, 1);
    let seed = spool.reader().seed();
    let engine = Engine::start(spool, Arc::new(now), Unobserved).unwrap();
    let handle = engine.handle();
    let lane = lanes[0];
    let session = handle.run(move |spool| spool.open_session(lane, Arc::new(|| ()))).unwrap().unwrap();
    let (begun, written) = (Instant::now(), device_bytes());
    let (mut done, mut peak) = (0, 0);
    while done < count {
        fill(&handle, seed, &lanes, 500, 1024);
        done += 500;
        if done > LIVE {
            handle.run(move |spool| ack_all(spool, session, 500)).unwrap();
        }
        if done % 50_000 == 0 {
            peak = peak.max(disk_bytes(&dir));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    // At rest the spool tidies up by itself, with a checkpoint every thirty seconds at most.
    let (mut before, mut quiet) = (0, 0);
    while quiet < 80 {
        std::thread::sleep(Duration::from_millis(500));
        let used = disk_bytes(&dir);
        quiet = if used == before { quiet + 1 } else { 0 };
        before = used;
    }
    let rested = disk_bytes(&dir.join("journal"));
    let live = LIVE * (1024 + RECORD_BYTES as u64);
    let bytes = done * 1024;
    println!(
        "space: {done} items of 1 KiB at {:.0}/s, peak {} MB; at rest journal {:.1} MB, index {:.1} MB, live data \
         {:.1} MB; written {:.2} per byte",
        done as f64 / seconds,
        peak >> 20,
        rested as f64 / 1e6,
        disk_bytes(&dir.join("index")) as f64 / 1e6,
        live as f64 / 1e6,
        (device_bytes() - written) as f64 / bytes as f64,
    );
    engine.stop().unwrap();
    let (mut spool, _) = open_spool(&dir, Options { retain_ms: 0, ..roomy() });
    while spool.compact_step(1 << 30, Effort::AtRest, now()).unwrap() {
        spool.commit(now()).unwrap();
    }
    spool.close(now()).unwrap();
    println!("space: after another start {:.1} MB of journal", disk_bytes(&dir.join("journal")) as f64 / 1e6);
    drop(spool);
    std::fs::remove_dir_all(dir).unwrap();
}

fn memory(settings: &Settings) {
    let dir = scratch(settings, "memory");
    let (mut spool, _) = open_spool(&dir, roomy());
    let lanes = register(&mut spool, LANES);
    let seed = spool.reader().seed();
    let engine = Engine::start(spool, Arc::new(now), Unobserved).unwrap();
    let mut total = 0;
    for step in [10_000, 90_000, 200_000, 300_000, 400_000] {
        let count = (f64::from(step) * settings.scale) as u64;
        fill(&engine.handle(), seed, &lanes, count, 200);
        total += count;
        println!("memory: {:.0} MB resident with {total} ready items", resident_mb());
    }
    engine.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
