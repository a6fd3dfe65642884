//! The secret key's file.
//!
//! Promises: a key file is read only when nobody else can; it is created with mode 0600, whole and synced or not at all, and never overwritten.
//!
//! Failure policy: every failure names the file; nothing is retried.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::key::{SecretKey, SecretKeyError};
use crate::secrets::{self, SecretError};

/// A key file could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is a file already; it stays as it is.
    #[error("{} exists and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It cannot be read, or others can read it, too.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The contents are no secret key.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SecretKeyError,
    },
}

/// Draws a new key from the system's random source.
#[must_use]
pub fn generate() -> SecretKey {
    let seed = Zeroizing::new(rand::random::<[u8; 32]>());
    SecretKey::from_seed(&seed)
}

/// Reads a key file that nobody but its owner can read, as ssh does it.
///
/// # Errors
/// [`KeyFileError::Secret`] or [`KeyFileError::Content`].
pub fn load(path: &Path) -> Result<SecretKey, KeyFileError> {
    let pem = secrets::read_text(path)?;
    SecretKey::from_pem(&pem).map_err(|source| KeyFileError::Content { path: path.to_owned(), source })
}

/// Writes a new key file, mode 0600, and syncs it and its directory.
///
/// # Errors
/// [`KeyFileError::Exists`] when there is a file of that name, whatever is in it; else
/// [`KeyFileError::Io`], and no file stays behind.
pub fn save_new(path: &Path, key: &SecretKey) -> Result<(), KeyFileError> {
    let pem = key.to_pem().map_err(|source| KeyFileError::Content { path: path.to_owned(), source })?;
    write_new(path, pem.as_bytes())
}

/// Writes a new file with a secret in it, mode 0600, and syncs it and its directory. Under its name it is whole from the
/// first moment on; a crash before that leaves `NAME.new`, which the next call replaces.
///
/// # Errors
/// [`KeyFileError::Exists`] when there is a file of that name, whatever is in it; else
/// [`KeyFileError::Io`], and no file stays behind.
pub fn write_new(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    // Asked first, so that nothing is written beside a key that is there; the link below is what decides.
    if path.symlink_metadata().is_ok() {
        return Err(KeyFileError::Exists { path: path.to_owned() });
    }
    let staged = path.with_added_extension("new");
    let written = stage(&staged, secret).and_then(|()| name(&staged, path));
    // Its content is under the other name by now, or of no use.
    let _ = fs::remove_file(&staged);
    written?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed("sync the directory of", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    move |source| KeyFileError::Io { operation, path: path.to_owned(), source }
}

/// Writes and syncs a file for the owner only; one that a crash left is replaced.
fn stage(staged: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    match fs::remove_file(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace", staged)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staged);
    let mut file = file.map_err(failed("create", staged))?;
    file.write_all(secret).and_then(|()| file.sync_all()).map_err(failed("write", staged))
}

/// Gives a whole file its name, unless somebody has it.
fn name(staged: &Path, path: &Path) -> Result<(), KeyFileError> {
    let named = match fs::hard_link(staged, path) {
        // Some file systems have no links. Others than us do not write here while we look.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && path.symlink_metadata().is_err() => {
            fs::rename(staged, path)
        }
        linked => linked,
    };
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeyFileError::Exists { path: path.to_owned() })
        }
        named => named.map_err(failed("make", path)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_saved_key_loads_again_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passport.key");
        let key = generate();
        save_new(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path).unwrap().key_text(), key.key_text());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&path), Err(KeyFileError::Secret(SecretError::Exposed { .. }))));
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passport.key");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(save_new(&path, &generate()), Err(KeyFileError::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is written beside it");
        let link = dir.path().join("link.key");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        assert!(matches!(save_new(&link, &generate()), Err(KeyFileError::Exists { .. })));
    }

    #[test]
    fn what_a_crash_left_is_replaced_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passport.key");
        fs::write(dir.path().join("passport.key.new"), "-----BEG").unwrap();
        let key = generate();
        save_new(&path, &key).unwrap();
        assert_eq!(load(&path).unwrap().key_text(), key.key_text());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let nowhere = dir.path().join("none/passport.key");
        assert!(matches!(save_new(&nowhere, &key), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn garbage_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passport.key");
        write_new(&path, b"not a key").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("passport.key"));
        assert!(matches!(load(&dir.path().join("none")), Err(KeyFileError::Secret(SecretError::Io { .. }))));
    }
}
