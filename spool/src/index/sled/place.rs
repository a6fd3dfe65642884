//! Where the index lies: generations of the engine's directory, and which of them counts.
//!
//! `index/CURRENT` names one directory `index/gN`; a new generation counts from the rename of `CURRENT` on.
//! What is not named there is left over and removed. A damaged generation is moved to `index.damaged-N`
//! beside the index, one of them at most, for whoever wants to know what happened.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names the generation that counts.
const CURRENT: &str = "CURRENT";
/// Left behind when a running process found damage, so that the next start does not trust the engine.
const SUSPECT: &str = "SUSPECT";
/// Most bytes of a `CURRENT` file that is ours.
const CURRENT_BYTES_MAX: u64 = 32;

/// The directory `index/`.
#[derive(Clone, Debug)]
pub(super) struct Place {
    root: PathBuf,
}

impl Place {
    /// Makes the directory if it is missing.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        }
        if let Some(parent) = root.parent().filter(|parent| *parent != Path::new("")) {
            sync_dir(parent)?;
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(super) fn dir(&self, generation: u64) -> PathBuf {
        self.root.join(format!("g{generation}"))
    }

    /// The generation that counts, if its directory is there.
    pub(super) fn current(&self) -> Option<u64> {
        let path = self.root.join(CURRENT);
        if fs::metadata(&path).ok()?.len() > CURRENT_BYTES_MAX {
            return None;
        }
        let generation = fs::read_to_string(&path).ok()?.trim().strip_prefix('g')?.parse().ok()?;
        self.dir(generation).is_dir().then_some(generation)
    }

    /// Whether so many bytes are free on the medium; one that cannot say has them.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let free = rustix::fs::statvfs(&self.root).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free.map_or(true, |free| free >= bytes)
    }

    /// A number no generation here has had; ready to be made.
    pub(super) fn next(&self) -> io::Result<u64> {
        let mut highest = 0;
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('g')?.parse::<u64>().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        let generation = highest.saturating_add(1);
        DirBuilder::new().mode(0o700).create(self.dir(generation))?;
        Ok(generation)
    }

    /// From now on `generation` counts; its contents must be stable already.
    pub(super) fn set_current(&self, generation: u64) -> io::Result<()> {
        let temporary = self.root.join("CURRENT.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(format!("g{generation}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.root.join(CURRENT))?;
        sync_dir(&self.root)
    }

    /// Removes every generation but `keep`; what resists is tried again at the next start.
    pub(super) fn sweep(&self, keep: u64) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        let keep = self.dir(keep);
        for path in entries.flatten().map(|entry| entry.path()) {
            let ours = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.strip_prefix('g').is_some_and(|rest| rest.parse::<u64>().is_ok()));
            if ours && path != keep {
                // Only space is at stake.
                fs::remove_dir_all(&path).ok();
            }
        }
    }

    /// Moves a damaged generation beside the index and forgets the one moved before; gives its new name.
    pub(super) fn set_aside(&self, generation: u64) -> io::Result<PathBuf> {
        let parent = self.root.parent().unwrap_or(Path::new("."));
        let stem = self.root.file_name().and_then(|name| name.to_str()).unwrap_or("index");
        let prefix = format!("{stem}.damaged-");
        let mut highest = 0;
        for path in fs::read_dir(parent)?.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(number) = name.strip_prefix(&prefix).and_then(|rest| rest.parse::<u64>().ok()) {
                highest = highest.max(number);
                fs::remove_dir_all(&path).ok();
            }
        }
        let aside = parent.join(format!("{prefix}{}", highest.saturating_add(1)));
        fs::rename(self.dir(generation), &aside)?;
        sync_dir(parent)?;
        fs::remove_file(self.root.join(SUSPECT)).ok();
        Ok(aside)
    }

    /// Remembers that the generation which counts is not to be trusted any more.
    pub(super) fn mark_suspect(&self) {
        // Nothing to do when this fails too: opening checks the contents anyway.
        File::create(self.root.join(SUSPECT)).and_then(|file| file.sync_all()).ok();
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.root.join(SUSPECT).exists()
    }
}

/// Makes the engine's files stable, since its own flush does not.
#[derive(Debug)]
pub(super) struct Barrier {
    dir: PathBuf,
    log: File,
    /// Files of large values are written once: those seen before are stable.
    blobs: HashSet<OsString>,
}

impl Barrier {
    /// For an engine that has been opened at `dir`; syncs everything that is there.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let log = File::open(dir.join("db"))?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        let mut barrier = Self { dir: dir.to_owned(), log, blobs: HashSet::new() };
        barrier.sync_blobs()?;
        sync_dir(dir)?;
        Ok(barrier)
    }

    /// After the engine's own flush: all it wrote is stable when this returns.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.log.sync_data()?;
        self.sync_blobs()
    }

    fn sync_blobs(&mut self) -> io::Result<()> {
        let dir = self.dir.join("blobs");
        let mut present = HashSet::new();
        let mut fresh = false;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if !self.blobs.contains(&entry.file_name()) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // The engine removed it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                fresh = true;
            }
            present.insert(entry.file_name());
        }
        self.blobs = present;
        if fresh { sync_dir(&dir) } else { Ok(()) }
    }
}

/// Bytes that the files below `dir` take on the medium.
pub(super) fn size_of(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += size_of(&entry.path())?,
            Ok(metadata) => bytes += metadata.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
