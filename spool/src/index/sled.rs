//! The index on disk; the only file that names the engine, sled 0.34.
//!
//! Promises: when [`Index::applied`] says `x`, exactly the changes up to `x` are in it, also after a power cut
//! or a kill in the middle of an apply; memory is bounded by `CACHE_BYTES`, and 16 octets for each lane. It does not promise to be there:
//! an index that is missing, does not open, panics, or does not add up is set aside and begins empty, and
//! the journal fills it again ([`SledIndex::set_aside`] tells).
//!
//! Why so careful: sled's flush ends in `sync_file_range`, values above 128 KiB go to files it never syncs, and
//! a damaged page may cost a panic, an error or silently the page. So we add the missing syncs, count every
//! pair, log old values before changing them, and call the engine with unwinding caught. The lanes are in a file of ours.
//!
//! On failure: after a failed apply nothing more is applied, and a damage found while running is remembered,
//! so that the next start does not trust what this one could not read.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::{Change, Index, Pair, Tree};
use crate::error::SpoolError;
use crate::ids::Lsn;

mod lanes;
mod ledger;
mod place;
mod scan;
mod slots;
#[cfg(test)]
mod tests;
mod undo;

use lanes::LaneFile;
use ledger::{Digest, StateRecord, Undo};
use place::{Barrier, Place};
use scan::Seen;
use undo::UndoFile;

/// Page cache of the engine, bytes.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Files may take this much more than what they hold before [`SledIndex::compact`] runs by itself, bytes.
const BLOAT_BYTES: u64 = 64 * 1024 * 1024;
/// ... and this many times what they hold.
const BLOAT_FACTOR: u64 = 3;
/// A copy is begun with so many times free what it has to hold.
const COPY_FACTOR: u64 = 2;
/// At rest, files may take this much more than what they hold, bytes.
const REST_BYTES: u64 = 2 * 1024 * 1024;
/// How often a held lock is tried again: the engine's threads let go of it only some time after the last handle
/// was dropped, so a start right after a stop in the same process finds it held.
const LOCK_TRIES: u32 = 100;
/// Pause between two tries; with [`LOCK_TRIES`] about two seconds in all.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Where the state record lies.
const STATE_TREE: &str = "state";
const STATE_KEY: &[u8] = b"state";
/// Changes whose old values are written at once, before the first of them is made.
const GROUP_CHANGES: usize = 256;

/// One opened generation.
struct Engine {
    generation: u64,
    dir: PathBuf,
    db: sled::Db,
    /// All but the lane tree.
    trees: Vec<(Tree, sled::Tree)>,
    lanes: LaneFile,
    state: sled::Tree,
    undo: UndoFile,
}

/// What only the one who applies may touch.
struct Writer {
    record: StateRecord,
    barrier: Barrier,
    failed: Option<SpoolError>,
}

/// The index on disk.
pub struct SledIndex {
    place: Place,
    engine: RwLock<Arc<Engine>>,
    writer: Mutex<Writer>,
    seen: Mutex<Seen>,
    set_aside: Option<String>,
}

impl fmt::Debug for SledIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledIndex").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Why an engine could not be used.
enum Trouble {
    /// Somebody else has it open.
    Held(String),
    /// Not the index's fault either: no space, no permission.
    Outside(String),
    /// The files are not what they should be.
    Damaged(String),
}

impl Trouble {
    fn text(&self) -> &str {
        match self {
            Self::Held(text) | Self::Outside(text) | Self::Damaged(text) => text,
        }
    }

    fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let outside = [
            ErrorKind::StorageFull,
            ErrorKind::PermissionDenied,
            ErrorKind::ReadOnlyFilesystem,
            ErrorKind::QuotaExceeded,
        ];
        let text = error.to_string();
        // The engine wraps a lock that is held into an error of no particular kind.
        if text.contains("could not acquire lock") {
            Self::Held(text)
        } else if outside.contains(&error.kind()) {
            Self::Outside(text)
        } else {
            Self::Damaged(text)
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::of_io(&error)
    }
}

impl From<sled::Error> for Trouble {
    fn from(error: sled::Error) -> Self {
        match &error {
            sled::Error::Io(io) => Self::of_io(io),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. } => Self::Damaged(error.to_string()),
        }
    }
}

impl From<Trouble> for SpoolError {
    fn from(trouble: Trouble) -> Self {
        Self::Index(trouble.text().to_owned())
    }
}

/// Runs engine code; a panic in it is a damage like any other.
fn guarded<T>(what: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Trouble::Damaged(format!("engine panicked: {text}")))
    })
}

impl Engine {
    fn open(
        place: &Place,
        generation: u64,
        lanes: impl FnOnce(&Path, &sled::Tree) -> Result<LaneFile, Trouble>,
    ) -> Result<Self, Trouble> {
        let dir = place.dir(generation);
        let db = sled::Config::new()
            .path(&dir)
            .cache_capacity(CACHE_BYTES)
            // Nobody but apply decides when something reaches the disk.
            .flush_every_ms(None)
            .open()?;
        let paged = Tree::ALL.into_iter().filter(|tree| *tree != Tree::Lane);
        let trees =
            paged.map(|tree| Ok((tree, db.open_tree(tree.name())?))).collect::<Result<_, Trouble>>()?;
        let (state, undo) = (db.open_tree(STATE_TREE)?, UndoFile::open(&dir)?);
        let lanes = lanes(&dir, &state)?;
        Ok(Self { generation, dir, db, trees, lanes, state, undo })
    }

    /// The one that is there, with the lanes that its state record names.
    fn open_when_free(place: &Place, generation: u64) -> Result<Self, Trouble> {
        let lanes = |dir: &Path, state: &sled::Tree| match state_record(state)? {
            Some(record) => LaneFile::open(dir, record.lanes),
            None => LaneFile::create(dir),
        };
        for _ in 1..LOCK_TRIES {
            match Self::open(place, generation, lanes) {
                Err(Trouble::Held(_)) => std::thread::sleep(LOCK_PAUSE),
                other => return other,
            }
        }
        Self::open(place, generation, lanes)
    }

    fn tree(&self, tree: Tree) -> Result<&sled::Tree, Trouble> {
        let found = self.trees.iter().find(|(name, _)| *name == tree);
        found.map(|(_, tree)| tree).ok_or_else(|| Trouble::Damaged("tree is missing".to_owned()))
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        if tree == Tree::Lane {
            return self.lanes.get(key);
        }
        Ok(self.tree(tree)?.get(key)?.map(|value| value.to_vec()))
    }

    /// Octets that a copy would take.
    fn live_bytes(&self, record: &StateRecord) -> u64 {
        record.digest.bytes.saturating_add(self.lanes.live_bytes())
    }

    /// Changes one pair, and the sum over all of them.
    fn put(&self, digest: &mut Digest, tree: Tree, key: &[u8], value: Option<&[u8]>) -> Result<(), Trouble> {
        let old = match value {
            Some(value) => {
                digest.add(tree, key, value);
                self.tree(tree)?.insert(key, value)?
            }
            None => self.tree(tree)?.remove(key)?,
        };
        if let Some(old) = old {
            digest.take(tree, key, &old);
        }
        Ok(())
    }

    /// Takes back an apply that was cut off, then adds everything up. `None`: it was not filled to its end, and
    /// says so.
    fn recover(&self) -> Result<Option<StateRecord>, Trouble> {
        let Some(record) = state_record(&self.state)? else { return Ok(None) };
        let undos = self.undo.read(record.round.wrapping_add(1))?;
        // Newest first: when a key was changed twice, the older value is the right one.
        for undo in undos.iter().rev() {
            self.put(&mut Digest::default(), undo.tree, &undo.key, undo.value.as_deref())?;
        }
        let mut digest = Digest::default();
        self.each(|tree, key, value| {
            digest.add(tree, key, value);
            Ok(())
        })?;
        if digest != record.digest {
            return Err(Trouble::Damaged(format!(
                "contents do not add up: {} pairs found, {} expected",
                digest.count, record.digest.count
            )));
        }
        if !undos.is_empty() {
            // Until then a kill would leave both what is taken back here and what is not.
            self.db.flush()?;
        }
        self.undo.clear()?;
        Ok(Some(record))
    }

    /// Appends to the lanes what `changes` says of them, and lets go of what is in their file for nothing.
    /// Answers whether another file counts from the next state record on.
    fn append_lanes(&self, place: &Place, changes: &[Change<'_>]) -> Result<bool, Trouble> {
        self.lanes.append(changes.iter().filter(|change| change.tree == Tree::Lane))?;
        if !self.lanes.is_bloated() || !place.has_room(self.lanes.live_bytes().saturating_mul(COPY_FACTOR)) {
            return Ok(false);
        }
        match self.lanes.rewrite() {
            // What counts is whole where it was; the space may be needed for what has to be written.
            Err(Trouble::Outside(_)) => {
                self.lanes.sweep();
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    fn stabilize(&self, barrier: &mut Barrier) -> Result<(), Trouble> {
        self.db.flush()?;
        Ok(barrier.sync()?)
    }
}

/// The state record; `None`: another release wrote it, or what it speaks of was not filled to its end.
fn state_record(state: &sled::Tree) -> Result<Option<StateRecord>, Trouble> {
    let missing = || Trouble::Damaged("state record is missing".to_owned());
    let bytes = state.get(STATE_KEY)?.ok_or_else(missing)?;
    let damaged = || Trouble::Damaged("state record is damaged".to_owned());
    let record = StateRecord::decode(&bytes).ok_or_else(damaged)?;
    Ok(record.filter(|record| record.applied.is_some()))
}

impl SledIndex {
    /// Opens the index in directory `path`, which is made if it is missing.
    ///
    /// One that is damaged is moved to `path` + `.damaged-N` and replaced by an empty one.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when another process holds it, or not even an empty one can be made.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let place = Place::open(path).map_err(|error| Trouble::of_io(&error))?;
        let mut set_aside = None;
        if let Some(generation) = place.current() {
            let opened = if place.is_suspect() {
                Err(Trouble::Damaged("damage was found by the process before".to_owned()))
            } else {
                guarded(|| {
                    let engine = Engine::open_when_free(&place, generation)?;
                    let record = engine.recover()?;
                    let barrier = Barrier::new(&engine.dir)?;
                    Ok((engine, record, barrier))
                })
            };
            match opened {
                Ok((engine, Some(record), barrier)) => {
                    place.sweep(generation);
                    return Ok(Self::with(place, engine, record, barrier, None));
                }
                Ok((_, None, _)) => {}
                Err(Trouble::Held(text) | Trouble::Outside(text)) => return Err(SpoolError::Index(text)),
                Err(Trouble::Damaged(text)) => {
                    let aside =
                        place.set_aside(generation).map_err(|error| SpoolError::Index(error.to_string()))?;
                    set_aside = Some(format!("{text}; kept as {}", aside.display()));
                }
            }
        }
        let (engine, record, barrier) = Self::fresh(&place, StateRecord::default(), |_| Ok(()))?;
        place.sweep(engine.generation);
        Ok(Self::with(place, engine, record, barrier, set_aside))
    }

    fn with(
        place: Place,
        engine: Engine,
        record: StateRecord,
        barrier: Barrier,
        set_aside: Option<String>,
    ) -> Self {
        Self {
            place,
            engine: RwLock::new(Arc::new(engine)),
            writer: Mutex::new(Writer { record, barrier, failed: None }),
            seen: Mutex::default(),
            set_aside,
        }
    }

    /// Makes a new generation, lets `fill` write to it, makes it stable with `record`, and lets it count.
    fn fresh(
        place: &Place,
        record: StateRecord,
        fill: impl FnOnce(&mut Engine) -> Result<(), Trouble>,
    ) -> Result<(Engine, StateRecord, Barrier), Trouble> {
        guarded(|| {
            let mut engine = Engine::open(place, place.next()?, |dir, _| LaneFile::create(dir))?;
            fill(&mut engine)?;
            let record = StateRecord { lanes: engine.lanes.stamp(), ..record };
            engine.state.insert(STATE_KEY, record.encode().to_vec())?;
            engine.db.flush()?;
            let barrier = Barrier::new(&engine.dir)?;
            place.set_current(engine.generation)?;
            Ok((engine, record, barrier))
        })
    }

    /// Why the index that was found at start was not used; `None` when it was, or when there was none.
    #[must_use]
    pub fn set_aside(&self) -> Option<&str> {
        self.set_aside.as_deref()
    }

    /// Copies what is alive into fresh files and lets go of the old ones, since the engine never shrinks.
    /// Readers go on meanwhile; [`Index::apply`] waits. Runs by itself when the files are out of proportion.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when copying fails; the old files then still count.
    pub fn compact(&self) -> Result<(), SpoolError> {
        self.compact_with(&mut self.writer())
    }

    fn compact_with(&self, writer: &mut Writer) -> Result<(), SpoolError> {
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        let old = self.engine();
        let record = writer.record;
        let copied = Self::fresh(&self.place, record, |new| {
            let mut digest = Digest::default();
            old.each(|tree, key, value| {
                digest.add(tree, key, value);
                new.tree(tree)?.insert(key, value)?;
                Ok(())
            })?;
            if digest != record.digest {
                return Err(Trouble::Damaged("contents do not add up".to_owned()));
            }
            new.lanes = old.lanes.copy_to(&new.dir)?;
            Ok(())
        });
        self.swap(writer, self.judged(copied)?);
        Ok(())
    }

    fn swap(&self, writer: &mut Writer, (engine, record, barrier): (Engine, StateRecord, Barrier)) {
        let generation = engine.generation;
        writer.barrier = barrier;
        writer.record = record;
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(engine);
        self.place.sweep(generation);
    }

    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers damage for the next start.
    fn judged<T>(&self, result: Result<T, Trouble>) -> Result<T, SpoolError> {
        if let Err(Trouble::Damaged(_)) = &result {
            self.place.mark_suspect();
        }
        Ok(result?)
    }

    fn apply_with(&self, writer: &mut Writer, changes: &[Change<'_>], applied: Lsn) -> Result<(), Trouble> {
        let engine = self.engine();
        let round = writer.record.round.wrapping_add(1);
        let mut digest = writer.record.digest;
        let other_file = engine.append_lanes(&self.place, changes)?;
        let paged: Vec<_> = changes.iter().filter(|change| change.tree != Tree::Lane).collect();
        for group in paged.chunks(GROUP_CHANGES) {
            let mut undos = Vec::new();
            for Change { tree, key, .. } in group {
                Undo::append(&mut undos, *tree, key, engine.tree(*tree)?.get(key)?.as_deref());
            }
            engine.undo.write(round, &undos)?;
            for Change { tree, key, value } in group {
                engine.put(&mut digest, *tree, key, value.as_deref())?;
            }
        }
        engine.undo.sync()?;
        engine.lanes.sync()?;
        engine.stabilize(&mut writer.barrier)?;
        let record = StateRecord { round, applied: Some(applied.0), digest, lanes: engine.lanes.stamp() };
        engine.state.insert(STATE_KEY, record.encode().to_vec())?;
        engine.stabilize(&mut writer.barrier)?;
        writer.record = record;
        engine.undo.clear()?;
        if other_file {
            engine.lanes.sweep();
        }
        Ok(())
    }

    fn fill_with(&self, writer: &mut Writer, changes: &[Change<'_>]) -> Result<(), Trouble> {
        let engine = self.engine();
        if engine.append_lanes(&self.place, changes)? {
            engine.lanes.sweep();
        }
        for Change { tree, key, value } in changes.iter().filter(|change| change.tree != Tree::Lane) {
            engine.put(&mut writer.record.digest, *tree, key, value.as_deref())?;
        }
        Ok(())
    }

    /// Does `work` unless an earlier one failed; after a failure nothing more is done.
    fn write(&self, work: impl FnOnce(&mut Writer) -> Result<(), Trouble>) -> Result<(), SpoolError> {
        let mut writer = self.writer();
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        let result = self.judged(guarded(|| work(&mut writer)));
        if let Err(error) = result {
            writer.failed = Some(error.clone());
            return Err(error);
        }
        self.keep_in_proportion(&mut writer)
    }

    /// At most `limit` of the pairs with `from <= key < to`, from the end that `back` says.
    fn pairs(
        &self,
        tree: Tree,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        back: bool,
    ) -> Result<Vec<Pair>, SpoolError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let engine = self.engine();
        self.judged(guarded(|| {
            if tree == Tree::Lane {
                return engine.lanes.pairs(from, to, limit, back);
            }
            let range = match to {
                Some(to) => engine.tree(tree)?.range(from..to),
                None => engine.tree(tree)?.range(from..),
            };
            let pairs = if back { copied(range.rev().take(limit)) } else { copied(range.take(limit)) }?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            pairs.iter().for_each(|(key, value)| seen.note(tree, key, value));
            seen.let_go(&engine)?;
            Ok(pairs)
        }))
    }

    /// Compacts when the files are out of proportion to what they hold.
    fn keep_in_proportion(&self, writer: &mut Writer) -> Result<(), SpoolError> {
        let live = self.engine().live_bytes(&writer.record);
        let bloated = self.size_bytes()? > BLOAT_BYTES.saturating_add(live.saturating_mul(BLOAT_FACTOR));
        // What has just been applied is stable whatever comes of this: without space for a copy it waits.
        if bloated && self.place.has_room(live.saturating_mul(COPY_FACTOR)) {
            return self.compact_with(writer);
        }
        Ok(())
    }
}

fn copied(range: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>) -> Result<Vec<Pair>, Trouble> {
    range.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(Trouble::from)).collect()
}

impl Index for SledIndex {
    fn applied(&self) -> Result<Option<Lsn>, SpoolError> {
        Ok(self.writer().record.applied.map(Lsn))
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        let engine = self.engine();
        self.judged(guarded(|| engine.get(tree, key)))
    }

    fn scan(
        &self,
        tree: Tree,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError> {
        self.pairs(tree, from, to, limit, false)
    }

    fn scan_back(
        &self,
        tree: Tree,
        from: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError> {
        self.pairs(tree, from, before, limit, true)
    }

    fn apply(&self, changes: &[Change<'_>], applied: Lsn) -> Result<(), SpoolError> {
        self.write(|writer| self.apply_with(writer, changes, applied))
    }

    fn fill(&self, changes: &[Change<'_>]) -> Result<(), SpoolError> {
        self.write(|writer| self.fill_with(writer, changes))
    }

    fn size_bytes(&self) -> Result<u64, SpoolError> {
        place::size_of(&self.engine().dir).map_err(|error| SpoolError::Index(error.to_string()))
    }

    fn tidy(&self) -> Result<(), SpoolError> {
        let mut writer = self.writer();
        let live = self.engine().live_bytes(&writer.record);
        let bloated = self.size_bytes()? > REST_BYTES.saturating_add(live);
        if bloated && self.place.has_room(live.saturating_mul(COPY_FACTOR)) {
            return self.compact_with(&mut writer);
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), SpoolError> {
        let mut writer = self.writer();
        let record = StateRecord::default();
        let fresh = Self::fresh(&self.place, record, |_| Ok(()))?;
        self.swap(&mut writer, fresh);
        writer.failed = None;
        Ok(())
    }
}
