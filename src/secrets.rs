//! Files with a secret in them.
//!
//! Promises: a secret is read only from a regular file that nobody but its owner (or root) can read or change, as ssh does it;
//! it is bounded by [`SECRET_BYTES_MAX`], and wiped from memory when dropped. `credential:NAME`, or a path below
//! `$CREDENTIALS_DIRECTORY`, is what systemd's `LoadCredential=` put there at the start; a newer one needs a restart.
//! Failure policy: refuse, and say which command makes it right. A key that others have read is no secret any more, and a
//! warning in a log is read by nobody.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

/// Longest secret file, bytes: an RSA key of 16384 bits in PEM has 13 KiB.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Before the name of a systemd credential.
pub const CREDENTIAL: &str = "credential:";
/// Where systemd tells the directory of credentials.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// What group and others may not have.
const OTHERS: u32 = 0o077;
/// What group and others may not have in systemd's directory, where the group is root's: mode 0440.
const OTHERS_OF_CREDENTIALS: u32 = 0o037;

/// A secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
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
    /// Others may read or write it.
    #[error(
        "{} can be read or changed by others (mode {mode:04o}, owner {owner}), so what is in it is no secret; \
         `chmod 600 {}` ends that, and a key that others have read must be replaced", path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// It is a directory, a device, or something else that cannot be trusted to stay the same.
    #[error("{} is no regular file", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// It is longer than any secret.
    #[error("{} has more than {SECRET_BYTES_MAX} bytes; that is no key", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// There are no credentials, or the name is none.
    #[error(
        "`{name}` needs systemd's LoadCredential= in the unit of this service, which sets $CREDENTIALS_DIRECTORY"
    )]
    NoCredential {
        /// What was configured.
        name: String,
    },
}

/// Where systemd has put the credentials of this service; `None`: there are none.
#[must_use]
pub fn credentials() -> Option<PathBuf> {
    std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from)
}

/// The file that a configured path means: `credential:NAME` and `$CREDENTIALS_DIRECTORY/NAME` are systemd's, everything else is
/// itself.
///
/// # Errors
/// [`SecretError::NoCredential`].
pub fn resolve(configured: &Path) -> Result<PathBuf, SecretError> {
    resolve_in(configured, credentials().as_deref())
}

/// Whether a configured path names a credential of systemd's, and no file that could be relative to something.
#[must_use]
pub fn is_credential(configured: &Path) -> bool {
    configured.to_str().and_then(credential).is_some()
}

fn credential(text: &str) -> Option<&str> {
    let by_directory = || text.strip_prefix('$')?.strip_prefix(CREDENTIALS_DIRECTORY)?.strip_prefix('/');
    text.strip_prefix(CREDENTIAL).or_else(by_directory)
}

/// The same with [`credentials`] that were asked for before.
///
/// # Errors
/// [`SecretError::NoCredential`].
pub fn resolve_in(configured: &Path, directory: Option<&Path>) -> Result<PathBuf, SecretError> {
    let Some((text, name)) = configured.to_str().and_then(|text| Some((text, credential(text)?))) else {
        return Ok(configured.to_owned());
    };
    let refused = || SecretError::NoCredential { name: text.to_owned() };
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next(), directory) {
        (Some(Component::Normal(name)), None, Some(directory)) => Ok(directory.join(name)),
        _ => Err(refused()),
    }
}

/// Reads a secret from the file that `configured` means.
///
/// # Errors
/// [`SecretError`]; nothing of the contents is in it.
pub fn read(configured: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let path = resolve(configured)?;
    let file = open_private(&path)?;
    let failed = |source| SecretError::Io { operation: "read", path: path.clone(), source };
    let length = file.metadata().map_err(failed)?.len();
    if length > SECRET_BYTES_MAX {
        return Err(SecretError::Long { path });
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let room = usize::try_from(length).unwrap_or_default().saturating_add(1);
    let mut secret = Zeroizing::new(Vec::with_capacity(room));
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut secret).map_err(failed)?;
    if secret.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::Long { path });
    }
    Ok(secret)
}

/// The same as text.
///
/// # Errors
/// [`SecretError`]; octets that are no UTF-8 are an [`io::ErrorKind::InvalidData`].
pub fn read_text(configured: &Path) -> Result<Zeroizing<String>, SecretError> {
    let secret = read(configured)?;
    match str::from_utf8(&secret) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(SecretError::Io {
            operation: "read",
            path: configured.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, "it is no text"),
        }),
    }
}

/// Opens a file if nobody but its owner (or root) can read or change it.
///
/// # Errors
/// [`SecretError::Exposed`], [`SecretError::NoFile`], [`SecretError::Io`].
pub fn open_private(path: &Path) -> Result<File, SecretError> {
    let failed = |operation| move |source| SecretError::Io { operation, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed("open"))?;
    // Asked of the open file: what the name means may change.
    let meta = file.metadata().map_err(failed("look at"))?;
    if !meta.is_file() {
        return Err(SecretError::NoFile { path: path.to_owned() });
    }
    let of_systemd = meta.uid() == 0 && credentials().is_some_and(|directory| path.starts_with(directory));
    let others = if of_systemd { OTHERS_OF_CREDENTIALS } else { OTHERS };
    if meta.mode() & others != 0 {
        return Err(SecretError::Exposed {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
            owner: meta.uid(),
        });
    }
    Ok(file)
}

/// Replaces a file with a secret in it: mode 0600, whole and stable, or as it was before.
///
/// # Errors
/// [`SecretError::Io`].
pub fn replace(path: &Path, secret: &[u8]) -> Result<(), SecretError> {
    let failed = |operation| move |source| SecretError::Io { operation, path: path.to_owned(), source };
    let new = path.with_added_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed("write"))?;
    file.write_all(secret).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    std::fs::rename(&new, path).map_err(failed("replace"))?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed("sync the directory of"))
}

/// Makes a directory for secrets, mode 0700; one that is there stays as it is.
///
/// # Errors
/// [`SecretError::Io`].
pub fn private_dir(path: &Path) -> Result<(), SecretError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| SecretError::Io {
        operation: "make",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "psst").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn only_the_owners_own_files_are_read() {
        for mode in [0o600, 0o400] {
            let (_dir, path) = file(mode);
            assert_eq!(*read(&path).unwrap(), b"psst");
        }
        for mode in [0o640, 0o604, 0o660, 0o620, 0o602, 0o644, 0o440, 0o610] {
            let (_dir, path) = file(mode);
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains("chmod 600") && !said.contains("psst"), "{mode:o}: {said}");
        }
    }

    #[test]
    fn a_link_counts_by_what_it_leads_to() {
        let (dir, path) = file(0o644);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(SecretError::Exposed { .. })));
    }

    #[test]
    fn what_is_no_secret_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(SecretError::NoFile { .. })));
        assert!(matches!(read(&dir.path().join("none")), Err(SecretError::Io { .. })));
        let long = dir.path().join("long");
        fs::write(&long, vec![b'x'; 70_000]).unwrap();
        fs::set_permissions(&long, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&long), Err(SecretError::Long { .. })));
    }

    #[test]
    fn credentials_are_names_in_systemds_directory() {
        let directory = Path::new("/run/credentials/waystation.service");
        let resolved = |text: &str| resolve_in(Path::new(text), Some(directory));
        assert_eq!(resolved("credential:tls.key").unwrap(), directory.join("tls.key"));
        assert_eq!(resolved("$CREDENTIALS_DIRECTORY/tls.key").unwrap(), directory.join("tls.key"));
        assert_eq!(resolved("/etc/tls.key").unwrap(), Path::new("/etc/tls.key"));
        for wrong in ["credential:", "credential:../x", "credential:a/b", "credential:/etc/passwd"] {
            assert!(matches!(resolved(wrong), Err(SecretError::NoCredential { .. })), "{wrong}");
        }
        assert!(resolve_in(Path::new("credential:x"), None).is_err());
    }

    #[test]
    fn a_replaced_file_is_private() {
        let (_dir, path) = file(0o644);
        replace(&path, b"new").unwrap();
        replace(&path, b"newer").unwrap();
        assert_eq!(*read(&path).unwrap(), b"newer");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
