//! The gateway's durable memory of what it has delivered, so that a replayed item is acked without a second delivery.
//!
//! One append-only file of fixed records (golden bytes in the tests): a 16-byte header, then 32 bytes per delivered item: key of the
//! item, its seq, flags, checksum. The newest [`ITEMS_MAX`] are kept; when the file holds twice as many records it is written anew
//! beside itself, synced and renamed over. Several records that wait together share one sync. Ids that only the destination
//! proves to have are known beside these, and take the place of none.
//!
//! Promise: when [`Memory::remember`] returns `Ok`, the record is on stable storage, and so is the item's receipt
//! (`receipts.rs`, written by the same thread); only then may an ack leave.
//!
//! Policy on failure: a torn last record (crash in the middle of a write) is cut off. A damaged record elsewhere is left
//! out and counted: the worst it can cost is one second delivery of one replayed item. After a failed write or sync the
//! memory is poisoned: it refuses to remember, so nothing is acked any more, and the process should be started again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use spool::ids::ItemId;
use tokio::sync::{mpsc, oneshot};

use crate::gateway::receipts::{self, Entry, Fate, Line, Store};
use crate::{clock, crashpoint};

/// Most items remembered.
pub const ITEMS_MAX: usize = 100_000;
/// Most records waiting for the writer; a caller beyond that waits its turn.
const QUEUE_MAX: usize = 256;
/// First bytes of the file: name and format version.
const HEADER: &[u8; 16] = b"wsgw-memory-v1\0\n";
/// Bytes of one record.
const RECORD_BYTES: usize = 32;
/// Bytes of a record that its checksum covers.
const CHECKED_BYTES: usize = 24;
/// Most bytes that a file of ours has.
const BYTES_MAX: usize = HEADER.len() + (2 * ITEMS_MAX + QUEUE_MAX + 1) * RECORD_BYTES;

/// What the file is called inside the gateway's data directory.
pub const FILE_NAME: &str = "delivered.log";

/// The memory is damaged or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is not ours, or of a later version.
    #[error("{} is not a memory of format version 1; move it away to begin with an empty one", .0.display())]
    Foreign(PathBuf),
    /// An earlier write or sync failed; nothing is remembered until a restart.
    #[error("the memory of delivered items cannot be written since an earlier failure; restart the gateway")]
    Poisoned,
}

/// Name of an item in the memory: the 16 bytes of the relay's id, or of a hash of an id of another shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemKey([u8; 16]);

impl ItemKey {
    /// The key of the item that the relay calls `item_id`.
    #[must_use]
    pub fn of(item_id: &str) -> Self {
        if let Ok(id) = item_id.parse::<ItemId>() {
            return Self(id.0);
        }
        let hash = Sha256::digest(item_id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Self(key)
    }
}

/// Cheap handle; clones share the memory. The writer ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Memory {
    known: Arc<Mutex<Known>>,
    writer: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    /// The item to remember.
    item: Option<(ItemKey, u64)>,
    /// The receipt to keep.
    entry: Option<Entry>,
    done: oneshot::Sender<Result<(), MemoryError>>,
}

/// The newest keys, in order of arrival.
#[derive(Debug, Default)]
struct Known {
    seqs: HashMap<ItemKey, u64>,
    order: VecDeque<ItemKey>,
    seq_max: u64,
    /// What the destination proves to have and the file had not when it was opened; as many as the destination names.
    proven: HashSet<ItemKey>,
}

impl Known {
    fn has(&self, key: &ItemKey) -> bool {
        self.seqs.contains_key(key) || self.proven.contains(key)
    }

    fn insert(&mut self, key: ItemKey, seq: u64) {
        self.seq_max = self.seq_max.max(seq);
        if self.seqs.insert(key, seq).is_none() {
            self.order.push_back(key);
            if self.order.len() > ITEMS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.seqs.remove(&oldest);
            }
        }
    }
}

impl Memory {
    /// Opens the memory in `dir` (which must exist) and starts its writer thread.
    ///
    /// `also` are ids that the destination proves to have; they are known for the life of this process.
    ///
    /// # Errors
    /// [`MemoryError::Io`], or [`MemoryError::Foreign`] for a file of another format, which is left as it is.
    pub fn open(dir: &Path, also: &[String]) -> Result<Self, MemoryError> {
        let path = dir.join(FILE_NAME);
        let mut known = Known::default();
        let mut log = Log::open(path, &mut known)?;
        let dir_of_receipts = dir.join(receipts::DIR_NAME);
        let broken = |source| MemoryError::Io { path: dir_of_receipts.clone(), source };
        let (store, newest) = Store::open(dir).map_err(broken)?;
        log.catch_up(&newest, &mut known)?;
        known.proven = also.iter().map(|id| ItemKey::of(id)).filter(|key| !known.has(key)).collect();
        let known = Arc::new(Mutex::new(known));
        let (writer, requests) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::clone(&known);
        std::thread::Builder::new()
            .name("gateway-memory".to_owned())
            .spawn(move || write_loop(log, store, requests, &shared))
            .map_err(|source| MemoryError::Io { path: dir.join(FILE_NAME), source })?;
        Ok(Self { known, writer })
    }

    /// Whether the item was delivered before.
    #[must_use]
    pub fn knows(&self, item_id: &str) -> bool {
        lock(&self.known).has(&ItemKey::of(item_id))
    }

    /// Whether it is on disk where in the lane the item stood, and so is its receipt. What a destination alone proves to
    /// have was delivered before a stop that came before its record.
    #[must_use]
    pub fn has_place_of(&self, item_id: &str) -> bool {
        lock(&self.known).seqs.get(&ItemKey::of(item_id)).is_some_and(|seq| *seq > 0)
    }

    /// Highest seq ever remembered; 0 for none.
    #[must_use]
    pub fn seq_max(&self) -> u64 {
        lock(&self.known).seq_max
    }

    /// Remembers an item as delivered, and keeps its receipt; returns when that is on stable storage.
    ///
    /// # Errors
    /// [`MemoryError::Poisoned`] or the failure that poisoned it.
    pub async fn remember(&self, item_id: &str, seq: u64, entry: Option<Entry>) -> Result<(), MemoryError> {
        self.ask(Some((ItemKey::of(item_id), seq)), entry).await
    }

    /// Keeps a receipt of something that is not remembered as delivered; returns when that is on stable storage.
    ///
    /// # Errors
    /// [`MemoryError::Poisoned`] or the failure that poisoned it.
    pub async fn keep(&self, entry: Entry) -> Result<(), MemoryError> {
        self.ask(None, Some(entry)).await
    }

    async fn ask(&self, item: Option<(ItemKey, u64)>, entry: Option<Entry>) -> Result<(), MemoryError> {
        let (done, answer) = oneshot::channel();
        let request = Request { item, entry, done };
        self.writer.send(request).await.map_err(|_| MemoryError::Poisoned)?;
        answer.await.map_err(|_| MemoryError::Poisoned)?
    }
}

/// Positions of the items that the memory in `dir` knows; reads only, and may be called while a gateway runs.
///
/// # Errors
/// What the file system said; no file is no items.
pub fn delivered(dir: &Path) -> io::Result<HashMap<ItemKey, u64>> {
    let mut bytes = Vec::new();
    match File::open(dir.join(FILE_NAME)) {
        Ok(file) => file.take(BYTES_MAX as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    let records = bytes.strip_prefix(HEADER.as_slice()).unwrap_or_default();
    Ok(records.chunks_exact(RECORD_BYTES).filter_map(decode).collect())
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    // The map is only inserted into: a panic elsewhere cannot leave it half-changed in a way that matters.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes all that waits, writes it, syncs once, answers each; ends when all handles are gone or after a failure.
fn write_loop(mut log: Log, mut store: Store, mut requests: mpsc::Receiver<Request>, known: &Mutex<Known>) {
    let mut batch = Vec::with_capacity(QUEUE_MAX);
    while requests.blocking_recv_many(&mut batch, QUEUE_MAX) > 0 {
        crashpoint::reach("gateway.memory.before_write");
        if let Err(error) = write(&mut log, &mut store, &mut batch, known) {
            let mut first = Some(error);
            for request in batch.drain(..) {
                let _ = request.done.send(Err(first.take().unwrap_or(MemoryError::Poisoned)));
            }
            return;
        }
        crashpoint::reach("gateway.memory.after_sync");
        for (key, seq) in batch.iter().filter_map(|request| request.item) {
            lock(known).insert(key, seq);
        }
        for request in batch.drain(..) {
            let _ = request.done.send(Ok(()));
        }
        if log.records > 2 * ITEMS_MAX {
            let all: Vec<u8> = {
                let known = lock(known);
                let seq = |key| known.seqs.get(key).copied().unwrap_or_default();
                known.order.iter().flat_map(|key| encode(*key, seq(key))).collect()
            };
            // The old file is still whole; but a medium that fails here is not asked to promise anything again.
            if log.replace(&all).is_err() {
                return;
            }
        }
    }
}

/// Writes a batch, receipts first: what is known as delivered has its receipt, whatever stops us in between, and what the
/// memory lacks is put back from the newest receipts ([`Log::catch_up`]). So one sync is enough when all of it has them.
fn write(
    log: &mut Log,
    store: &mut Store,
    batch: &mut [Request],
    known: &Mutex<Known>,
) -> Result<(), MemoryError> {
    let bytes: Vec<u8> =
        batch.iter().filter_map(|r| r.item).flat_map(|(key, seq)| encode(key, seq)).collect();
    let bare = batch.iter().any(|request| request.entry.is_none());
    let mut lines: Vec<Line> = batch.iter_mut().filter_map(|r| r.entry.take()).map(Line::Entry).collect();
    if store.is_new() && !lines.is_empty() {
        lines.insert(0, Line::Begin { seq: lock(known).seq_max, at_ms: clock::wall().0 });
    }
    if !lines.is_empty() {
        if store.is_full() {
            // The file with the receipts of what was written before is not the newest one any more.
            log.sync()?;
        }
        store.append(&lines).map_err(|source| MemoryError::Io {
            path: log.path.with_file_name(receipts::DIR_NAME),
            source,
        })?;
    }
    log.write(&bytes)?;
    if bare { log.sync() } else { Ok(()) }
}

/// The open file.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    records: usize,
}

impl Log {
    fn open(path: PathBuf, known: &mut Known) -> Result<Self, MemoryError> {
        let io = |source| MemoryError::Io { path: path.clone(), source };
        let mut file = options().create(true).truncate(false).open(&path).map_err(io)?;
        let mut bytes = Vec::new();
        // Bounded by what we write ourselves; a foreign file of another size is cut short here and refused below.
        Read::by_ref(&mut file).take(BYTES_MAX as u64).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() < HEADER.len() && HEADER.starts_with(&bytes) {
            // New, or killed while it was being made.
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(io)?;
            file.write_all(HEADER).and_then(|()| file.sync_all()).map_err(io)?;
            sync_parent(&path).map_err(io)?;
            return Ok(Self { path, file, records: 0 });
        }
        let Some(records) = bytes.strip_prefix(HEADER.as_slice()) else {
            return Err(MemoryError::Foreign(path));
        };
        let mut whole = 0;
        for record in records.chunks_exact(RECORD_BYTES) {
            whole += 1;
            match decode(record) {
                Some((key, seq)) => known.insert(key, seq),
                None => tracing::warn!(
                    event = "gateway.memory.damaged",
                    record = whole,
                    "left out a damaged record"
                ),
            }
        }
        let end = (HEADER.len() + whole * RECORD_BYTES) as u64;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(io)?;
        // What an earlier life wrote may still be on its way to the medium.
        file.sync_all().map_err(io)?;
        Ok(Self { path, file, records: whole })
    }

    /// Adds what the newest receipts say was stored and this file has lost.
    fn catch_up(&mut self, newest: &[Entry], known: &mut Known) -> Result<(), MemoryError> {
        let mut bytes = Vec::new();
        for entry in newest.iter().filter(|entry| entry.fate == Fate::Stored) {
            let key = ItemKey::of(&entry.id);
            if known.seqs.get(&key).is_none_or(|seq| *seq == 0 && entry.seq > 0) {
                known.insert(key, entry.seq);
                bytes.extend(encode(key, entry.seq));
            }
        }
        self.write(&bytes)?;
        self.sync()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), MemoryError> {
        self.file.write_all(bytes).map_err(|source| MemoryError::Io { path: self.path.clone(), source })?;
        self.records += bytes.len() / RECORD_BYTES;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), MemoryError> {
        self.file.sync_data().map_err(|source| MemoryError::Io { path: self.path.clone(), source })
    }

    /// Writes the records into a new file and puts it in the place of the old one.
    fn replace(&mut self, records: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = options().create(true).truncate(true).open(&beside)?;
        file.write_all(HEADER)?;
        file.write_all(records)?;
        file.sync_all()?;
        crashpoint::reach("gateway.memory.before_rename");
        std::fs::rename(&beside, &self.path)?;
        sync_parent(&self.path)?;
        self.file = file;
        self.records = records.len() / RECORD_BYTES;
        Ok(())
    }
}

fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Key, seq, then the first 8 bytes of the SHA-256 of both: far more than enough to see damage.
fn encode(key: ItemKey, seq: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..16].copy_from_slice(&key.0);
    record[16..CHECKED_BYTES].copy_from_slice(&seq.to_be_bytes());
    let sum = Sha256::digest(&record[..CHECKED_BYTES]);
    record[CHECKED_BYTES..].copy_from_slice(&sum[..8]);
    record
}

fn decode(record: &[u8]) -> Option<(ItemKey, u64)> {
    let (checked, sum) = record.split_at_checked(CHECKED_BYTES)?;
    if Sha256::digest(checked)[..8] != *sum {
        return None;
    }
    let (key, seq) = checked.split_at_checked(16)?;
    Some((ItemKey(key.try_into().ok()?), u64::from_be_bytes(seq.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join(FILE_NAME)
    }

    async fn filled(dir: &tempfile::TempDir, ids: &[&str]) {
        let memory = Memory::open(dir.path(), &[]).unwrap();
        for (n, id) in ids.iter().enumerate() {
            memory.remember(id, n as u64 + 1, None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_remembered_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        filled(&dir, &["a", "b"]).await;
        let memory = Memory::open(dir.path(), &["from-maildir".to_owned()]).unwrap();
        assert!(memory.knows("a") && memory.knows("b") && memory.knows("from-maildir"));
        assert!(!memory.knows("c"));
        assert_eq!(memory.seq_max(), 2);
    }

    #[tokio::test]
    async fn a_torn_tail_is_cut_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        filled(&dir, &["a", "b"]).await;
        let bytes = std::fs::read(file(&dir)).unwrap();
        for cut in 0..RECORD_BYTES {
            std::fs::write(file(&dir), &bytes[..bytes.len() - RECORD_BYTES + cut]).unwrap();
            let memory = Memory::open(dir.path(), &[]).unwrap();
            assert!(memory.knows("a") && !memory.knows("b"));
            memory.remember("c", 3, None).await.unwrap();
            drop(memory);
            assert!(Memory::open(dir.path(), &[]).unwrap().knows("c"));
        }
    }

    #[tokio::test]
    async fn what_has_no_receipt_on_disk_is_not_known_as_delivered() {
        let entry = Entry {
            id: "a".into(),
            seq: 1,
            fate: Fate::Stored,
            at_ms: 1,
            verdict: "ok".into(),
            receipt: None,
            seen: None,
            kept: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path(), &[]).unwrap();
        // The disk does not take the receipt.
        let in_the_way = dir.path().join(receipts::DIR_NAME);
        std::fs::write(&in_the_way, "").unwrap();
        assert!(memory.remember("a", 1, Some(entry.clone())).await.is_err());
        drop(memory);
        std::fs::remove_file(&in_the_way).unwrap();
        let memory = Memory::open(dir.path(), &[]).unwrap();
        assert!(!memory.knows("a"), "its repeat would be acked, and its receipt never kept");
        memory.remember("a", 1, Some(entry)).await.unwrap();
        drop(memory);
        // What only the receipts know is put back.
        std::fs::remove_file(file(&dir)).unwrap();
        assert!(Memory::open(dir.path(), &[]).unwrap().knows("a"));
    }

    #[tokio::test]
    async fn one_damaged_record_does_not_hide_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        filled(&dir, &["a", "b", "c"]).await;
        let mut bytes = std::fs::read(file(&dir)).unwrap();
        bytes[HEADER.len() + RECORD_BYTES + 5] ^= 1;
        std::fs::write(file(&dir), &bytes).unwrap();
        let memory = Memory::open(dir.path(), &[]).unwrap();
        assert!(memory.knows("a") && !memory.knows("b") && memory.knows("c"));
    }

    #[tokio::test]
    async fn a_foreign_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(&dir), b"something else entirely").unwrap();
        assert!(matches!(Memory::open(dir.path(), &[]), Err(MemoryError::Foreign(_))));
        assert_eq!(std::fs::read(file(&dir)).unwrap(), b"something else entirely");
        std::fs::write(file(&dir), &HEADER[..5]).unwrap();
        assert!(Memory::open(dir.path(), &[]).is_ok());
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut known = Known::default();
        for n in 0..ITEMS_MAX as u64 + 10 {
            known.insert(ItemKey::of(&n.to_string()), n);
        }
        assert_eq!((known.seqs.len(), known.order.len()), (ITEMS_MAX, ITEMS_MAX));
        assert!(!known.seqs.contains_key(&ItemKey::of("9")));
        assert!(known.seqs.contains_key(&ItemKey::of("10")));
    }

    #[test]
    fn what_the_destination_proves_pushes_nothing_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(file(&dir), &mut Known::default()).unwrap();
        let id = |n: usize| format!("{n}");
        let all: Vec<u8> = (0..ITEMS_MAX).flat_map(|n| encode(ItemKey::of(&id(n)), n as u64 + 1)).collect();
        log.write(&all).unwrap();
        drop(log);
        // A Maildir that has had the newest messages for long, and one whose record a crash has taken.
        let also: Vec<String> = (ITEMS_MAX - 10..=ITEMS_MAX).map(id).collect();
        let memory = Memory::open(dir.path(), &also).unwrap();
        assert!(memory.knows("0") && memory.knows(&id(ITEMS_MAX)));
        assert!(!memory.has_place_of(&id(ITEMS_MAX)));
        assert_eq!(memory.seq_max(), ITEMS_MAX as u64);
        let mut known = lock(&memory.known);
        for n in ITEMS_MAX..ITEMS_MAX + 20 {
            known.insert(ItemKey::of(&id(n)), n as u64 + 1);
        }
        assert!(!known.has(&ItemKey::of("19")), "the oldest goes first");
        for n in 20..ITEMS_MAX + 20 {
            assert!(known.has(&ItemKey::of(&id(n))), "{n}");
        }
    }

    #[test]
    fn rewriting_keeps_the_newest_and_can_be_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(file(&dir), &mut Known::default()).unwrap();
        for n in 0..5_u64 {
            log.write(&encode(ItemKey::of(&n.to_string()), n)).unwrap();
        }
        log.replace(&encode(ItemKey::of("4"), 4)).unwrap();
        log.write(&encode(ItemKey::of("5"), 5)).unwrap();
        let mut known = Known::default();
        assert_eq!(Log::open(file(&dir), &mut known).unwrap().records, 2);
        assert_eq!(known.seq_max, 5);
        assert!(!known.seqs.contains_key(&ItemKey::of("1")));
    }

    #[test]
    fn record_v1_bytes_are_unchanged() {
        let record = encode(ItemKey([0xab; 16]), 0x0102);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&record),
            // item key, seq, first 8 bytes of SHA-256 over both
            format!("{}{}{}", "ab".repeat(16), "0000000000000102", SUM)
        );
        assert_eq!(decode(&record), Some((ItemKey([0xab; 16]), 0x0102)));
    }

    /// Computed independently.
    const SUM: &str = "f3f77271393c0cce";
}
