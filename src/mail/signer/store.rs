//! Where the relay's signing keys lie, and how one comes after another.
//!
//! * `DATA_DIR/attestation.key`, or the file that the configuration names: the first key.
//! * `DATA_DIR/attestation/ID.key`: a key that followed; `DATA_DIR/attestation/ID.json`: from when on it signs, how long
//!   the one before it is announced, and that one's word for it. The record makes the key count; a key file without one is
//!   taken up by the next rotation.
//!
//! Promises: each file appears whole and synced, or not at all, and no key file is ever overwritten; a crash at any point
//! of a rotation leaves the keys as they were before it, or as they are after it. A ring that was read is a chain: each
//! key was endorsed by the one before it.
//!
//! Failure policy: a chain that does not fit together is an error that names the file. Nobody guesses which key is right:
//! gateways have pinned one of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spool::ids::WallMs;

use super::ring::{Ring, RingKey};
use crate::crashpoint;
use crate::identity::key::SecretKey;
use crate::identity::keyfile::{self, KeyFileError};
use crate::mail::relay_keys::{Succession, TrustedKeys};
use crate::mail::signed::Signed;

/// The first key's file in the data directory.
pub const FILE: &str = "attestation.key";
/// Directory of the keys that followed.
pub const DIRECTORY: &str = "attestation";
/// Most keys that ever followed each other.
const KEYS_MAX: usize = 1024;
/// Longest record that is read, bytes.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Longest name of a key, bytes; a longer first name is clipped before its followers' number.
const KEY_ID_BYTES_MAX: usize = 64;

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A key file cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The key that the configuration names is not there.
    #[error(
        "attestation.key_file: there is no {}; `waystation keys attestation --out {}` makes one", path.display(), path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// No relay has started on this directory yet.
    #[error("there is no {} yet; the relay makes it on its first start, or `waystation keys attestation`", path.display())]
    NotYet {
        /// The file.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The keys do not follow each other.
    #[error("{}: {problem}; a key and those that followed it belong together: put the right ones back from a backup, or \
             move the directory away to begin anew, and have gateways trust the new key", path.display())]
    Chain {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another rotation has not ended.
    #[error("key {id} was made before and signs from {} on; rotate again when it does", crate::mail::signed::time_text(*signs_from))]
    UnderWay {
        /// Name of the next key.
        id: String,
        /// When it begins to sign.
        signs_from: WallMs,
    },
}

impl StoreError {
    /// A key is missing, is none, or does not follow the others: another start would find it so again. What the system
    /// refuses may pass.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Chain { .. } => true,
            Self::Key(error) => match error {
                KeyFileError::Secret(_) | KeyFileError::Content { .. } => true,
                KeyFileError::Exists { .. } | KeyFileError::Io { .. } => false,
            },
            Self::NotYet { .. } | Self::Io { .. } | Self::UnderWay { .. } => false,
        }
    }
}

/// Where the keys are.
#[derive(Clone, Debug)]
pub struct Store {
    data_dir: PathBuf,
    key_file: Option<PathBuf>,
    key_id: String,
}

/// What is known of a key that followed another one.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key_id: String,
    /// 2 of the first one that followed.
    generation: usize,
    signs_from_ms: u64,
    previous_until_ms: u64,
    endorsement: Signed,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { operation, path, source }
}

impl Store {
    /// The keys of a data directory; `key_file`: the first key, when it lies elsewhere; `key_id`: its name.
    #[must_use]
    pub fn new(data_dir: &Path, key_file: Option<&Path>, key_id: &str) -> Self {
        let key_file = key_file.map(Path::to_owned);
        Self { data_dir: data_dir.to_owned(), key_file, key_id: key_id.to_owned() }
    }

    /// The first key's file.
    #[must_use]
    pub fn first_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data_dir.join(FILE))
    }

    fn directory(&self) -> PathBuf {
        self.data_dir.join(DIRECTORY)
    }

    fn key_path(&self, id: &str) -> PathBuf {
        self.directory().join(format!("{id}.key"))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.directory().join(format!("{id}.json"))
    }

    /// Reads all keys. `make`: the first one is made when it is missing and the configuration names none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self, make: bool) -> Result<Ring, StoreError> {
        let first = RingKey::first(self.key_id.clone(), self.load_first(make)?);
        let mut records = self.records()?;
        records.sort_by_key(|record| record.generation);
        let mut followers: Vec<RingKey> = Vec::with_capacity(records.len());
        for (n, record) in records.into_iter().enumerate() {
            let path = self.record_path(&record.key_id);
            let chain = |problem: String| StoreError::Chain { path: path.clone(), problem };
            if record.generation != n + 2 {
                return Err(chain(format!("it is number {} and the {}. there", record.generation, n + 2)));
            }
            let secret = keyfile::load(&self.key_path(&record.key_id))?;
            let before = followers.last().unwrap_or(&first);
            let mut trusted = TrustedKeys::default();
            trusted.pin(&before.id, before.secret.key_text()).map_err(|error| chain(error.to_string()))?;
            let endorsed = Succession::verify(&record.endorsement, &trusted).ok();
            if !endorsed.is_some_and(|s| s.key_id == record.key_id && s.public_key == secret.key_text()) {
                return Err(chain(format!("it does not follow the key {} that is there", before.id)));
            }
            followers.push(RingKey {
                id: record.key_id,
                secret,
                signs_from: WallMs(record.signs_from_ms),
                previous_until: WallMs(record.previous_until_ms),
                endorsement: Some(record.endorsement),
            });
        }
        Ok(Ring::new(first, followers))
    }

    fn load_first(&self, make: bool) -> Result<SecretKey, StoreError> {
        let path = self.first_file();
        match (path.try_exists(), &self.key_file) {
            (Ok(true), _) => {}
            (Ok(false), Some(_)) => return Err(StoreError::Missing { path }),
            // A lost first key is not made again: what followed it would not fit to the new one.
            (Ok(false), None) if self.followers()? > 0 => {}
            (Ok(false), None) if make => {
                let key = keyfile::generate();
                self.put_key(&path, &key)?;
                return Ok(key);
            }
            (Ok(false), None) => return Err(StoreError::NotYet { path }),
            (Err(source), _) => return Err(failed("look at", &path)(source)),
        }
        Ok(keyfile::load(&path)?)
    }

    /// How many keys followed the first one; cheap, for whoever wants to know whether to load again.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn followers(&self) -> Result<usize, StoreError> {
        Ok(self.record_files()?.len())
    }

    fn record_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.directory();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &dir)(error)),
        };
        let mut files = Vec::new();
        for entry in entries.take(KEYS_MAX * 4) {
            let path = entry.map_err(failed("read", &dir))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
        Ok(files)
    }

    fn records(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for path in self.record_files()? {
            let file = File::open(&path).map_err(failed("open", &path))?;
            let mut text = String::new();
            file.take(RECORD_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", &path))?;
            let chain = |problem: String| StoreError::Chain { path: path.clone(), problem };
            let record: Record = serde_json::from_str(&text).map_err(|error| chain(error.to_string()))?;
            if path != self.record_path(&record.key_id) {
                return Err(chain(format!("it speaks of the key {}", record.key_id)));
            }
            records.push(record);
        }
        Ok(records)
    }

    /// Makes the key that follows `ring`'s newest and puts it on disk; it signs `overlap_ms` after `now`, and the one
    /// before it is announced for as long again. A key that would begin to sign later than that was made by a clock that
    /// was ahead: it is in nobody's way, and never signs.
    ///
    /// # Errors
    /// [`StoreError`]; the next load finds the keys as they were before, or with the new one.
    pub fn follow(&self, ring: &Ring, relay: &str, overlap_ms: u64, now: WallMs) -> Result<(), StoreError> {
        if let Some(next) = ring.next_by(now, now.plus(overlap_ms)) {
            return Err(StoreError::UnderWay { id: next.id.clone(), signs_from: next.signs_from });
        }
        let dir = self.directory();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        sync_directory_of(&dir)?;
        let (before, id) = (ring.newest(), self.next_id(ring));
        let (key_path, record_path) = (self.key_path(&id), self.record_path(&id));
        // A rotation that was cut short left a key that nobody has heard of.
        let key = if key_path.try_exists().map_err(failed("look at", &key_path))? {
            keyfile::load(&key_path)?
        } else {
            let key = keyfile::generate();
            self.put_key(&key_path, &key)?;
            key
        };
        crashpoint::reach("attestation.key_written");
        let signs_from = now.plus(overlap_ms);
        let succession = Succession {
            relay: relay.to_owned(),
            key_id: id.clone(),
            public_key: key.key_text(),
            issued_at: now,
        };
        let record = Record {
            generation: ring.len() + 1,
            signs_from_ms: signs_from.0,
            previous_until_ms: signs_from.plus(overlap_ms).0,
            endorsement: succession.sign(&before.id, &before.secret),
            key_id: id,
        };
        let text = serde_json::to_vec_pretty(&record).unwrap_or_default();
        let staged = stage(&record_path, &text)?;
        crashpoint::reach("attestation.record_staged");
        fs::rename(&staged, &record_path).map_err(failed("rename", &staged))?;
        sync_directory_of(&record_path)?;
        crashpoint::reach("attestation.record_written");
        Ok(())
    }

    /// The first key's name with the number of the key behind it.
    fn next_id(&self, ring: &Ring) -> String {
        let mut n = ring.len() + 1;
        loop {
            let number = format!("-{n}");
            // Names are ASCII, the configuration has seen to that.
            let stem: String = self.key_id.chars().take(KEY_ID_BYTES_MAX - number.len()).collect();
            let id = stem + &number;
            if !ring.has(&id) {
                return id;
            }
            n += 1;
        }
    }

    /// A key file that appears whole, where none was before.
    fn put_key(&self, path: &Path, key: &SecretKey) -> Result<(), StoreError> {
        let pem = key.to_pem().map_err(|source| KeyFileError::Content { path: path.to_owned(), source })?;
        let staged = stage(path, pem.as_bytes())?;
        crashpoint::reach("attestation.key_staged");
        let linked = match fs::hard_link(&staged, path) {
            // Some file systems have no links. Others than us do not write here while we look.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
                fs::rename(&staged, path)
            }
            linked => linked,
        };
        // Its name may be gone already, and its content is under the other one.
        let _ = fs::remove_file(&staged);
        match linked {
            Ok(()) => sync_directory_of(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyFileError::Exists { path: path.to_owned() }.into())
            }
            Err(error) => Err(failed("make", path)(error)),
        }
    }
}

/// Writes `bytes`, synced and for the owner only, beside `path`, where one that was left by a crash is replaced.
fn stage(path: &Path, bytes: &[u8]) -> Result<PathBuf, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let staged = PathBuf::from(name);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &staged)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged);
    let mut file = file.map_err(failed("create", &staged))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &staged))?;
    Ok(staged)
}

fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed("sync", directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DAY: u64 = 86_400_000;

    fn store(dir: &Path) -> Store {
        Store::new(dir, None, "relay-primary")
    }

    fn ids(ring: &Ring, now: u64) -> Vec<String> {
        ring.standings(WallMs(now)).iter().map(|s| format!("{} {:?}", s.key.id, s.status)).collect()
    }

    fn follow(store: &Store, now: u64) -> Result<Ring, StoreError> {
        store.follow(&store.load(false)?, "relay.example", DAY, WallMs(now))?;
        store.load(false)
    }

    #[test]
    fn the_first_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        assert!(matches!(store.load(false), Err(StoreError::NotYet { .. })));
        let made = store.load(true).unwrap().newest().secret.key_text();
        assert_eq!(store.load(true).unwrap().newest().secret.key_text(), made);
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_named_key_must_be_there_and_the_error_says_how_to_make_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sign.pem");
        let store = Store::new(dir.path(), Some(&file), "r");
        let said = store.load(true).unwrap_err().to_string();
        assert!(said.contains("keys attestation --out"), "{said}");
        keyfile::save_new(&file, &keyfile::generate()).unwrap();
        assert_eq!(store.load(true).unwrap().newest().id, "r");
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn keys_follow_each_other_with_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.load(true).unwrap();
        let ring = follow(&store, 5 * DAY).unwrap();
        assert_eq!(ids(&ring, 5 * DAY), ["relay-primary Current", "relay-primary-2 Next"]);
        assert_eq!(ids(&ring, 6 * DAY), ["relay-primary-2 Current", "relay-primary Previous"]);
        assert_eq!(ids(&ring, 7 * DAY), ["relay-primary-2 Current"]);
        assert!(matches!(follow(&store, 5 * DAY + 1), Err(StoreError::UnderWay { .. })));
        let ring = follow(&store, 20 * DAY).unwrap();
        assert_eq!(ids(&ring, 22 * DAY), ["relay-primary-3 Current"]);
        assert_eq!(store.followers().unwrap(), 2);
        let announced = ring.announcement(WallMs(20 * DAY));
        assert_eq!(announced[1].endorsed_by.as_deref(), Some("relay-primary-2"));
    }

    #[test]
    fn a_rotation_by_a_clock_that_was_ahead_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.load(true).unwrap();
        follow(&store, 900 * DAY).unwrap();
        // The clock is right again, and the second key would sign in 896 days.
        let ring = follow(&store, 5 * DAY).unwrap();
        assert_eq!(
            ids(&ring, 5 * DAY),
            ["relay-primary Current", "relay-primary-2 Next", "relay-primary-3 Next"]
        );
        let under_way = follow(&store, 5 * DAY + 1);
        assert!(matches!(under_way, Err(StoreError::UnderWay { id, .. }) if id == "relay-primary-3"));
        assert_eq!(
            ids(&ring, 6 * DAY),
            ["relay-primary-3 Current", "relay-primary-2 Previous", "relay-primary Previous"]
        );
        assert_eq!(ids(&ring, 7 * DAY), ["relay-primary-3 Current"], "the first one is let go in its time");
        assert_eq!(ids(&ring, 950 * DAY), ["relay-primary-3 Current"]);
        assert_eq!(ids(&follow(&store, 20 * DAY).unwrap(), 22 * DAY), ["relay-primary-4 Current"]);
    }

    #[test]
    fn a_key_without_a_record_is_taken_up_by_the_next_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let first = store.load(true).unwrap();
        fs::create_dir(dir.path().join(DIRECTORY)).unwrap();
        let orphan = keyfile::generate();
        store.put_key(&store.key_path("relay-primary-2"), &orphan).unwrap();
        fs::write(store.directory().join("relay-primary-2.json.new"), "{half").unwrap();
        fs::write(store.directory().join("relay-primary-2.key.new"), "-----BEG").unwrap();
        assert_eq!(ids(&store.load(false).unwrap(), DAY), ["relay-primary Current"], "nobody knows it yet");
        let ring = follow(&store, DAY).unwrap();
        assert_eq!(ring.newest().secret.key_text(), orphan.key_text());
        assert_eq!(ring.current(WallMs(DAY)).secret.key_text(), first.newest().secret.key_text());
    }

    #[test]
    fn no_key_file_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let store = store(dir.path());
        store.put_key(&path, &keyfile::generate()).unwrap();
        let before = fs::read(&path).unwrap();
        let again = store.put_key(&path, &keyfile::generate());
        assert!(matches!(again, Err(StoreError::Key(KeyFileError::Exists { .. }))));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_chain_that_does_not_fit_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let here = store(dir.path());
        here.load(true).unwrap();
        follow(&here, DAY).unwrap();
        let said = Store::new(dir.path(), None, "other").load(false).unwrap_err().to_string();
        assert!(said.contains("relay-primary-2.json") && said.contains("the key other"), "{said}");
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(matches!(here.load(true), Err(StoreError::Key(_))), "a lost first key is not made again");
        keyfile::save_new(&dir.path().join(FILE), &keyfile::generate()).unwrap();
        assert!(matches!(here.load(true), Err(StoreError::Chain { .. })));
        fs::write(here.record_path("relay-primary-2"), "{}").unwrap();
        assert!(matches!(here.load(true), Err(StoreError::Chain { .. })));
    }

    #[test]
    fn long_names_leave_room_for_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), None, &"x".repeat(KEY_ID_BYTES_MAX));
        store.load(true).unwrap();
        let ring = follow(&store, DAY).unwrap();
        assert_eq!(ring.newest().id.len(), KEY_ID_BYTES_MAX);
        assert!(ring.newest().id.ends_with("x-2"));
    }
}
