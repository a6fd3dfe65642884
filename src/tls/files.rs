//! Driver: a chain and its key in two files, read at the start and again whenever they change.
//!
//! Promises: what is served is always a whole, checked pair. A new pair is tried when both files have been left alone
//! for one look, because a tool that renews writes one after the other; a reload that is asked for does not wait.
//! Failure policy: at the start a typed error; later a broken pair is logged once, and what was served is still served. A pair that
//! cannot be read is logged once, too, and tried again at each look.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{CertError, Installed, Pair, Store};
use crate::clock;
use crate::current::Current;
use crate::observe::Metrics;
use crate::secrets::{self, SecretError};

/// Time between two looks at the files.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Largest chain file that is read; a chain of real certificates has some kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// An end of validity that is nearer is worth a warning, milliseconds: two weeks.
const SOON_MS: u64 = 14 * 24 * 3600 * 1000;
/// Time between two such warnings, milliseconds: a day.
const WARN_EVERY_MS: u64 = 24 * 3600 * 1000;

/// The pair cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The chain cannot be read.
    #[error(
        "cannot read {}: {error}; the account the relay runs as must be able to, and `tls.cert_file` names it",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// The chain is a credential of systemd's, and there is none.
    #[error("{0}; `tls.cert_file` names it")]
    Chain(SecretError),
    /// The key file is missing, or no secret.
    #[error("{0}; `tls.key_file` names it")]
    Key(#[from] SecretError),
    /// What is in them is wrong.
    #[error("{}: {error}", path.display())]
    Content {
        /// The file it is about.
        path: PathBuf,
        /// What is wrong with it.
        error: CertError,
    },
}

/// Two files, or credentials of systemd's (`credential:NAME`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Which version of the files one look saw; `None` for a file that is not there.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Files {
    /// Reads and checks both.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn read(&self) -> Result<Pair, FilesError> {
        self.read_in(secrets::credentials().as_deref())
    }

    fn read_in(&self, credentials: Option<&Path>) -> Result<Pair, FilesError> {
        let chain = read(&secrets::resolve_in(&self.cert, credentials).map_err(FilesError::Chain)?)?;
        let key = secrets::read(&secrets::resolve_in(&self.key, credentials)?)?;
        Pair::read(&chain, &key).map_err(|error| {
            let path = if error.is_about_key() { &self.key } else { &self.cert };
            FilesError::Content { path: path.clone(), error }
        })
    }

    fn stamp(&self) -> Stamp {
        self.stamp_in(secrets::credentials().as_deref())
    }

    fn stamp_in(&self, credentials: Option<&Path>) -> Stamp {
        [&self.cert, &self.key].map(|configured| {
            let path = secrets::resolve_in(configured, credentials).ok()?;
            let seen = std::fs::metadata(path).ok()?; // follows links: a renewal may move one
            // The time of the last change of anything: `chmod 600`, as an error advises, is one too.
            Some((seen.ino(), seen.size(), seen.ctime(), seen.ctime_nsec()))
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    let wrong = |error| FilesError::Read { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB")));
    }
    Ok(bytes)
}

/// Keeps a store in step with two files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    files: Arc<Current<Files>>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    every: Duration,
    asked: Arc<Notify>,
    /// What the loop starts from.
    loaded: Stamp,
    /// The version that could not be read, and of which that was said.
    unread: Arc<Current<Option<Stamp>>>,
}

impl Watch {
    /// Loads the files into the store; [`Watch::run`] keeps it in step from then on.
    ///
    /// * `every` – time between two looks, [`LOOK_EVERY`] outside of tests.
    ///
    /// # Errors
    /// [`FilesError`]; the store is as it was.
    pub fn start(
        files: Files,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        every: Duration,
    ) -> Result<Self, FilesError> {
        let loaded = files.stamp();
        let pair = files.read()?;
        let files = Arc::new(Current::new(files));
        let (asked, unread) = (Arc::default(), Arc::default());
        let watch = Self { files, store, metrics, every, asked, loaded, unread };
        watch.serve(pair);
        Ok(watch)
    }

    /// Looks at other files from now on, the first time at once.
    pub fn follow(&self, files: Files) {
        self.files.set(files);
        self.reload();
    }

    /// Looks now, instead of at the next turn.
    pub fn reload(&self) {
        self.asked.notify_one();
    }

    /// Looks at the files until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (mut loaded, mut seen) = (self.loaded, self.loaded);
        let mut warned_ms = 0;
        loop {
            self.warn_of_the_end(&mut warned_ms);
            let at_once = tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => true,
                () = tokio::time::sleep(self.every) => false,
            };
            let (watch, before) = (self.clone(), (loaded, seen));
            // A panic in there would be a bug; the next look is another try.
            let look = tokio::task::spawn_blocking(move || watch.look(before.0, before.1, at_once)).await;
            (loaded, seen) = look.unwrap_or(before);
        }
    }

    fn look(&self, loaded: Stamp, seen: Stamp, at_once: bool) -> (Stamp, Stamp) {
        let files = self.files.get();
        let now = files.stamp();
        if !at_once && (now == loaded || now != seen) {
            return (loaded, now);
        }
        match files.read() {
            Ok(pair) => {
                self.unread.set(None);
                self.serve(pair);
                (now, now)
            }
            Err(error @ FilesError::Content { .. }) => {
                tracing::error!(
                    event = "relay.tls.reload_failed", %error,
                    "the certificate files have changed and cannot be used, the old certificate stays: {error}"
                );
                (now, now)
            }
            // It may pass without a change of the files: descriptors ran out, a disk stuttered. The next look tries again.
            Err(error @ (FilesError::Read { .. } | FilesError::Chain(_) | FilesError::Key(_))) => {
                if *self.unread.get() != Some(now) {
                    tracing::error!(
                        event = "relay.tls.reload_failed", %error,
                        "the certificate files have changed and cannot be read, the old certificate stays until they can: {error}"
                    );
                }
                self.unread.set(Some(now));
                (loaded, now)
            }
        }
    }

    fn serve(&self, pair: Pair) {
        let installed = self.store.serve(pair);
        note(&installed, &self.metrics);
    }

    fn warn_of_the_end(&self, warned_ms: &mut u64) {
        let now = clock::wall();
        let Some(end) = self.store.not_after() else { return };
        if end.0.saturating_sub(now.0) < SOON_MS && now.0.saturating_sub(*warned_ms) >= WARN_EVERY_MS {
            *warned_ms = now.0;
            let files = self.files.get();
            let then = if secrets::is_credential(&files.cert) {
                "and restart the service: systemd hands credentials over at a start"
            } else {
                "the new files are read by themselves"
            };
            tracing::warn!(
                event = "relay.tls.expires_soon",
                not_after = rfc3339(end.0),
                cert_file = %files.cert.display(),
                "the certificate runs out at {}; renew it, {then}",
                rfc3339(end.0)
            );
        }
    }
}

/// Says which certificate is served from now on. Whoever installs one calls this.
pub fn note(installed: &Installed, metrics: &Metrics) {
    metrics.tls.set_expiry(installed.not_after.0);
    tracing::info!(
        event = "relay.tls.loaded",
        names = installed.names.join(", "),
        not_after = rfc3339(installed.not_after.0),
        "serving a certificate for {}",
        installed.names.join(", ")
    );
}

/// RFC 3339 in UTC, of milliseconds since 1970, for the log.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    time.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
