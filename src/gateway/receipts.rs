//! The receipts of a relay, kept at home: what `gateway audit` looks at.
//!
//! Files `NUMBER.log` in one directory, oldest first, each a list of lines: 16 hex digits of the SHA-256 of the rest, a
//! blank, one [`Line`] as JSON. A file that is full is followed by the next one; when there are more than [`FILES_MAX`], the
//! oldest is compacted into [`CHECKPOINT_NAME`], which keeps the last position and chain value of each lane.
//!
//! Promises: [`Store::append`] returns when the lines are on stable storage. A torn last line (a kill in the middle of a
//! write) is cut off at the next start and nothing else changes; a damaged line elsewhere is left where it is and
//! reported to the reader. Bounded by [`FILE_BYTES_MAX`] times [`FILES_MAX`], and a line.
//!
//! Failure policy: as the memory's (`memory.rs`), whose thread owns the store: what cannot be written is not acked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::crashpoint;
use crate::tunnel::signed::Signed;

/// Name of the directory inside the gateway's data directory.
pub const DIR_NAME: &str = "receipts";
/// What is left of files that were dropped.
pub const CHECKPOINT_NAME: &str = "checkpoint.json";
/// Size from which a file is followed by the next one, bytes: about seven thousand receipts.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most files kept.
pub const FILES_MAX: usize = 16;
/// Longest line, bytes: a receipt of the largest payload. Of what would be longer, the receipt is no receipt and is left out.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Characters kept of an id whose line would be too long.
const CLIPPED_ID_CHARS: usize = 128;
/// Hex digits of a line's checksum.
const SUM_CHARS: usize = 16;

/// What became of what a receipt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// An item the destination has.
    Stored,
    /// An item the gateway will never take; the relay holds it.
    Refused,
    /// A submission the relay has.
    Submitted,
}

/// A body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Bytes.
    pub size: u64,
    /// Their SHA-256, hex.
    pub sha256: String,
}

/// What a receipt has to be about, as it was seen here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Submissions: the stream that carried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The body as it came, or, of a submission, as it was handed over in canonical form; none where it has no such form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Kept>,
    /// Items: SHA-256, hex, of what the relay put in front of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_sha256: Option<String>,
}

/// One item or submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The relay's name for it.
    pub id: String,
    /// Position in its lane; 0 for a submission, whose receipt has it, and for an item that came without one.
    pub seq: u64,
    /// What became of it.
    pub fate: Fate,
    /// When it was received here, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// `ok`, or why attestation or receipt did not count then.
    pub verdict: String,
    /// The receipt as it came; none from a relay that gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Signed>,
    /// What it has to be about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// What is in the Maildir without our own field, when it is not what came: forged fields were taken out of its head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "all lines but the first are entries")]
pub enum Line {
    /// The first line of all: what was delivered before has no receipts.
    Begin {
        /// Highest position delivered before.
        seq: u64,
        /// When, milliseconds since 1970 UTC.
        at_ms: u64,
    },
    /// An item or submission.
    Entry(Entry),
}

/// The end of what was compacted away, for one kind of lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Highest position.
    pub seq: u64,
    /// Chain value after it, hex; empty when its receipt could not be read.
    pub chain: String,
}

/// What is left of dropped files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last item.
    pub items: Mark,
    /// The last submission.
    pub submissions: Mark,
    /// How many lines were dropped.
    pub dropped: u64,
}

/// All that is kept.
#[derive(Debug, Default)]
pub struct Archive {
    /// What was dropped before the first line.
    pub checkpoint: Option<Checkpoint>,
    /// The lines, oldest first.
    pub lines: Vec<Line>,
    /// Damaged lines: file and number of the line.
    pub damaged: Vec<(PathBuf, usize)>,
}

/// Position and chain value that an unverified receipt claims.
#[derive(Deserialize)]
struct Claim {
    seq: u64,
    chain: String,
}

fn claim(entry: &Entry) -> Option<Claim> {
    let payload = &entry.receipt.as_ref()?.payload_base64;
    serde_json::from_slice(&data_encoding::BASE64.decode(payload.as_bytes()).ok()?).ok()
}

impl Checkpoint {
    fn add(&mut self, line: &Line) {
        self.dropped += 1;
        let Line::Entry(entry) = line else { return };
        let mark = match entry.fate {
            Fate::Stored | Fate::Refused => &mut self.items,
            Fate::Submitted => &mut self.submissions,
        };
        let claim = claim(entry);
        let seq = claim.as_ref().map_or(entry.seq, |claim| claim.seq);
        if seq >= mark.seq {
            *mark = Mark { seq, chain: claim.map(|claim| claim.chain).unwrap_or_default() };
        }
    }
}

/// The open store; one per data directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Made when there is something to write.
    file: Option<File>,
    number: u64,
    bytes: u64,
}

impl Store {
    /// Opens the store in `data_dir`; makes nothing. Also gives the newest file's entries, oldest first.
    ///
    /// # Errors
    /// What the file system said.
    pub fn open(data_dir: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let dir = data_dir.join(DIR_NAME);
        let Some(number) = numbers(&dir)?.last().copied() else {
            return Ok((Self { dir, file: None, number: 0, bytes: 0 }, Vec::new()));
        };
        let path = dir.join(name(number));
        let text = read(&path)?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().append(true).open(&path)?;
        file.set_len(whole as u64)?;
        // What an earlier life wrote may still be on its way to the medium.
        file.sync_all()?;
        let entries = text[..whole].split(|b| *b == b'\n').filter_map(decode).filter_map(|line| match line {
            Line::Entry(entry) => Some(entry),
            Line::Begin { .. } => None,
        });
        let entries = entries.collect();
        Ok((Self { dir, file: Some(file), number, bytes: whole as u64 }, entries))
    }

    /// Whether nothing was ever written: the first line is to be [`Line::Begin`].
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.file.is_none()
    }

    /// Whether the next append begins a file.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= FILE_BYTES_MAX
    }

    /// Writes the lines and syncs once.
    ///
    /// # Errors
    /// What the file system said; the store is of no use afterwards.
    pub fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        if self.file.is_none() || self.is_full() {
            self.next_file()?;
        }
        let bytes: Vec<u8> = lines.iter().flat_map(encode).collect();
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        crashpoint::reach("gateway.receipts.before_write");
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn next_file(&mut self) -> io::Result<()> {
        crate::gateway::staging::make_dir(&self.dir)?;
        let numbers = numbers(&self.dir)?;
        for number in numbers.iter().take((numbers.len() + 1).saturating_sub(FILES_MAX)) {
            self.compact(*number)?;
        }
        self.number += 1;
        let file = options().create_new(true).append(true).open(self.dir.join(name(self.number)))?;
        sync_dir(&self.dir)?;
        if let Some(parent) = self.dir.parent() {
            sync_dir(parent)?;
        }
        (self.file, self.bytes) = (Some(file), 0);
        Ok(())
    }

    /// Adds a file to the checkpoint and drops it. After a kill in between it is added again, which changes counts only.
    fn compact(&self, number: u64) -> io::Result<()> {
        let path = self.dir.join(name(number));
        let mut checkpoint = read_checkpoint(&self.dir)?.unwrap_or_default();
        for line in read(&path)?.split(|b| *b == b'\n').filter_map(decode) {
            checkpoint.add(&line);
        }
        let beside = self.dir.join("checkpoint.new");
        let mut file = options().create(true).truncate(true).write(true).open(&beside)?;
        file.write_all(&serde_json::to_vec(&checkpoint)?)?;
        file.sync_all()?;
        fs::rename(&beside, self.dir.join(CHECKPOINT_NAME))?;
        sync_dir(&self.dir)?;
        fs::remove_file(path)
    }
}

/// Reads all that is kept in `data_dir`; changes nothing, and may be called while a gateway runs.
///
/// # Errors
/// What the file system said; nothing there is nothing kept.
pub fn read_all(data_dir: &Path) -> io::Result<Archive> {
    let dir = data_dir.join(DIR_NAME);
    let mut kept = Archive { checkpoint: read_checkpoint(&dir)?, ..Archive::default() };
    for number in numbers(&dir)? {
        let path = dir.join(name(number));
        let text = read(&path)?;
        // Behind the last line end is a line that is being written, or was when the power went.
        let whole = text.iter().rposition(|b| *b == b'\n').unwrap_or(0);
        for (n, line) in text[..whole].split(|b| *b == b'\n').enumerate() {
            match decode(line) {
                Some(line) => kept.lines.push(line),
                None => kept.damaged.push((path.clone(), n + 1)),
            }
        }
    }
    Ok(kept)
}

fn read_checkpoint(dir: &Path) -> io::Result<Option<Checkpoint>> {
    match read(&dir.join(CHECKPOINT_NAME)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// No more than a file of ours can have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let bytes_max = FILE_BYTES_MAX + 512 * LINE_BYTES_MAX as u64;
    File::open(path)?.take(bytes_max).read_to_end(&mut text)?;
    Ok(text)
}

fn encode(line: &Line) -> Vec<u8> {
    let mut json = serde_json::to_string(line).unwrap_or_default();
    if let Line::Entry(entry) = line
        && json.len() > LINE_BYTES_MAX
    {
        let id = entry.id.chars().take(CLIPPED_ID_CHARS).collect();
        let seen = entry.seen.clone().map(|seen| Seen { stream: None, ..seen });
        let clipped = Entry { id, receipt: None, seen, ..entry.clone() };
        json = serde_json::to_string(&Line::Entry(clipped)).unwrap_or_default();
    }
    format!("{} {json}\n", sum(json.as_bytes())).into_bytes()
}

fn decode(line: &[u8]) -> Option<Line> {
    let (head, json) = line.split_at_checked(SUM_CHARS + 1)?;
    let good = head.ends_with(b" ") && head[..SUM_CHARS] == *sum(json).as_bytes();
    if good { serde_json::from_slice(json).ok() } else { None }
}

fn sum(json: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(json)[..SUM_CHARS / 2])
}

fn name(number: u64) -> String {
    format!("{number:08}.log")
}

/// Numbers of the files there are, ascending.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        numbers.extend(file.to_str().and_then(|file| file.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Line {
        let payload = format!("{{\"seq\":{seq},\"chain\":\"c{seq}\"}}");
        let payload_base64 = data_encoding::BASE64.encode(payload.as_bytes());
        Line::Entry(Entry {
            id: format!("i{seq}"),
            seq,
            fate: Fate::Stored,
            at_ms: 1,
            verdict: "ok".into(),
            receipt: Some(Signed {
                key_id: "k".into(),
                payload_base64,
                signature_base64: "s".into(),
                batch_path: None,
            }),
            seen: None,
            kept: None,
        })
    }

    #[test]
    fn no_line_is_longer_than_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path()).unwrap();
        let huge = |seq, bytes: usize| match entry(seq) {
            Line::Entry(entry) => Line::Entry(Entry {
                id: "i".repeat(bytes),
                receipt: entry.receipt.map(|signed| Signed { payload_base64: "A".repeat(bytes), ..signed }),
                ..entry
            }),
            begin @ Line::Begin { .. } => begin,
        };
        let mut lines: Vec<Line> = (1..8).map(|seq| huge(seq, 8 * 1024 * 1024)).collect();
        lines.push(entry(8));
        store.append(&lines).unwrap();
        drop(store);
        let (_, newest) = Store::open(dir.path()).unwrap();
        assert_eq!(newest.len(), 8, "a restart cuts nothing off");
        assert!(newest[0].receipt.is_none() && newest[7].receipt.is_some());
        assert_eq!(seqs(&read_all(dir.path()).unwrap()), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    fn seqs(kept: &Archive) -> Vec<u64> {
        let seq = |line: &Line| match line {
            Line::Entry(entry) => entry.seq,
            Line::Begin { .. } => 0,
        };
        kept.lines.iter().map(seq).collect()
    }

    #[test]
    fn what_was_written_is_read_and_added_to() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_all(dir.path()).unwrap().lines.is_empty());
        let (mut store, _) = Store::open(dir.path()).unwrap();
        assert!(store.is_new() && !dir.path().join(DIR_NAME).exists());
        store.append(&[Line::Begin { seq: 0, at_ms: 1 }, entry(1)]).unwrap();
        drop(store);
        let (mut store, newest) = Store::open(dir.path()).unwrap();
        assert_eq!(newest.len(), 1);
        store.append(&[entry(2), entry(3)]).unwrap();
        let kept = read_all(dir.path()).unwrap();
        assert_eq!((seqs(&kept), kept.damaged.len()), (vec![0, 1, 2, 3], 0));
    }

    #[test]
    fn a_torn_tail_is_cut_and_damage_elsewhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path()).unwrap();
        store.append(&[entry(1), entry(2), entry(3)]).unwrap();
        let path = dir.path().join(DIR_NAME).join(name(1));
        let whole = fs::read(&path).unwrap();
        let last = encode(&entry(3)).len();
        for cut in 1..last {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(seqs(&read_all(dir.path()).unwrap()), [1, 2]);
            let (mut store, newest) = Store::open(dir.path()).unwrap();
            assert_eq!(newest.len(), 2);
            store.append(&[entry(4)]).unwrap();
            assert_eq!(seqs(&read_all(dir.path()).unwrap()), [1, 2, 4]);
        }
        let mut damaged = whole.clone();
        damaged[encode(&entry(1)).len() + 40] ^= 1;
        fs::write(&path, damaged).unwrap();
        let kept = read_all(dir.path()).unwrap();
        assert_eq!((seqs(&kept), kept.damaged), (vec![1, 3], vec![(path, 2)]));
    }

    #[test]
    fn full_files_are_followed_and_old_ones_leave_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path()).unwrap();
        for seq in 1..=FILES_MAX as u64 + 3 {
            store.append(&[entry(seq)]).unwrap();
            store.bytes = FILE_BYTES_MAX;
        }
        let kept = read_all(dir.path()).unwrap();
        assert_eq!(numbers(&dir.path().join(DIR_NAME)).unwrap().len(), FILES_MAX);
        assert_eq!(seqs(&kept), (4..=FILES_MAX as u64 + 3).collect::<Vec<_>>());
        let items = Mark { seq: 3, chain: "c3".into() };
        assert_eq!(kept.checkpoint, Some(Checkpoint { items, submissions: Mark::default(), dropped: 3 }));
    }
}
