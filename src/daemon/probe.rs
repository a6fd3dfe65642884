//! Whether another process would get as far as serving: found out while this one still serves.
//!
//! Two halves, because neither process knows all. [`probe`] runs in the next program and reads what its start would read:
//! configuration, keys, tokens, certificates, the spool's format, directories. [`HandOver::rehearse`] runs in the process that
//! has the sockets, and knows which addresses are taken by others.
//!
//! Promises: nothing is made, changed or taken away; what a start would make (a token, a first key, a directory) may be
//! missing, as long as it can be made.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, access};

use super::ledger::{self, LedgerError, SOCKET_PATH_MAX};
use super::{HandOver, StartError, custody, edge, listeners, records, reload};
use crate::acme::{self, KeptError};
use crate::config::{Config, Tls};
use crate::mail::signer::Signer;
use crate::mail::signer::store::StoreError;
use crate::observe::Metrics;

/// What group and others may not have in the data directory.
const OTHERS: u32 = 0o077;

/// Finds out whether [`start`](super::start) would get as far as serving; another process may have the spool open.
///
/// # Errors
/// What [`start`](super::start) would say.
pub fn probe(config: &Config) -> Result<(), StartError> {
    reload::read(config)?;
    data_dir(config)?;
    admin_socket(config)?;
    ledger::may_take_over(config)?;
    edge::may_show(config, &[config.http.listen])?;
    certificate(config)?;
    signing_keys(config)
}

impl HandOver {
    /// Finds out what the next process cannot before this one has ended: whether it could place our sockets by `config`, and
    /// listen where nobody does yet. It must be for our data directory: an empty spool and new keys would be served in another.
    ///
    /// # Errors
    /// What [`start`](super::start) would say, and for another data directory.
    pub fn rehearse(&self, config: &Config) -> Result<(), StartError> {
        stays(&self.data_dir, &config.data_dir)?;
        let http = listeners::rehearse(&self.sockets, config)?;
        edge::may_show(config, &http)
    }
}

/// Whether the data directory is the one of before, by whatever name.
fn stays(ours: &Path, wanted: &Path) -> Result<(), LedgerError> {
    let same = match (ours.canonicalize(), wanted.canonicalize()) {
        (Ok(ours), Ok(wanted)) => ours == wanted,
        (Err(_), _) | (_, Err(_)) => ours == wanted,
    };
    if same {
        return Ok(());
    }
    let error = Error::other(format!(
        "the mail and the keys are in {}, and a hand-over does not move them; stop the relay and move the directory instead",
        ours.display()
    ));
    Err(LedgerError::Directory { dir: wanted.to_owned(), error })
}

fn data_dir(config: &Config) -> Result<(), StartError> {
    for dir in [config.data_dir.clone(), ledger::spool_dir(&config.data_dir)] {
        private(&dir).map_err(|error| LedgerError::Directory { dir, error })?;
    }
    Ok(())
}

/// Whether a directory can be used, or made, and closed to others.
fn private(dir: &Path) -> std::io::Result<()> {
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(ErrorKind::NotADirectory.into()),
        Ok(meta) if meta.mode() & OTHERS != 0 && !may_close(meta.uid()) => {
            Err(Error::new(ErrorKind::PermissionDenied, "it is open to others, and belongs to somebody else"))
        }
        Ok(_) => writable(dir),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_there = |above: &&Path| above.as_os_str().is_empty() || above.exists();
            writable(dir.ancestors().skip(1).find(is_there).unwrap_or(dir))
        }
        Err(error) => Err(error),
    }
}

fn may_close(owner: u32) -> bool {
    let us = rustix::process::geteuid();
    us.is_root() || us.as_raw() == owner
}

/// Whether files can be made in a directory that is there.
pub(super) fn writable(dir: &Path) -> std::io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if !std::fs::metadata(dir)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    Ok(access(dir, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Who listens there, and whether it can be made, is asked by [`HandOver::rehearse`]: mostly it is the process before that
/// listens, and one from a service manager is not made by us.
fn admin_socket(config: &Config) -> Result<(), StartError> {
    let socket = &config.admin_socket;
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(LedgerError::LongSocket { socket: socket.clone() }.into());
    }
    if std::fs::symlink_metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) {
        let error = Error::other("there is something else with that name");
        return Err(StartError::Admin { socket: socket.clone(), error });
    }
    Ok(())
}

/// The certificate that an ACME server gave before. One that is damaged is ordered anew, one that others can read is not used.
fn certificate(config: &Config) -> Result<(), StartError> {
    let Some(Tls::Acme(given)) = &config.tls else { return Ok(()) };
    let dir = records::acme_dir(&config.data_dir);
    if let Err(KeptError::Secret(error)) = acme::kept(&dir, &given.directory_url) {
        return Err(StartError::Secret { key: "data_dir", error });
    }
    if dir.exists() {
        writable(&dir).map_err(|error| LedgerError::Directory { dir, error })?;
    }
    Ok(())
}

/// The keys that followed each other. None at all are fine: the start makes the first one.
fn signing_keys(config: &Config) -> Result<(), StartError> {
    if !config.attestation.enabled {
        return Ok(());
    }
    match Signer::open(custody::settings(config), false, Arc::new(Metrics::new())) {
        Ok(_) | Err(StoreError::NotYet { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::config::Sources;

    fn said(data_dir: &Path, more: &str) -> String {
        let text =
            format!("data_dir = \"{}\"\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n{more}", data_dir.display());
        let config = Config::load(&Sources { file: Some(("x.toml", &text)), ..Sources::default() }).unwrap();
        probe(&config).err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_the_start_makes_may_be_missing_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(said(dir.path(), ""), "");
        assert_eq!(said(&dir.path().join("new/data"), ""), "");
        assert_eq!(names(dir.path()), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(said(&file, "").contains("not a directory"));
        assert!(said(&file.join("data"), "").contains("ot a directory"));
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("other/spool"), "").unwrap();
        assert!(said(&dir.path().join("other"), "").contains("other/spool"));
    }

    #[test]
    fn an_admin_socket_must_not_be_in_the_way_of_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let socket = |path: &str| format!("[admin]\nsocket = \"{}\"\n", dir.path().join(path).display());
        assert_eq!(said(&data, &socket("admin.sock")), "");
        assert_eq!(said(&data, &socket("none/admin.sock")), "", "it may be a service manager's");
        assert!(said(&data, &socket(&"x".repeat(120))).contains("admin.socket"));
        let _ours = UnixListener::bind(dir.path().join("admin.sock")).unwrap();
        assert_eq!(said(&data, &socket("admin.sock")), "", "that may be the process before");
        fs::write(dir.path().join("precious"), "").unwrap();
        assert!(said(&data, &socket("precious")).contains("something else"));
    }

    #[test]
    fn the_data_directory_stays_by_whatever_name() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, link) = (dir.path().join("data"), dir.path().join("link"));
        fs::create_dir(&ours).unwrap();
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        assert!(stays(&ours, &ours).is_ok() && stays(&ours, &link).is_ok());
        assert!(stays(&ours, &dir.path().join("other")).is_err() && stays(&ours, dir.path()).is_err());
        assert!(stays(Path::new("gone"), Path::new("gone")).is_ok());
    }

    #[test]
    fn a_token_or_a_certificate_that_others_can_read_is_told_before() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("dashboard.token");
        fs::write(&token, "k3Jx0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cE\n").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(said(dir.path(), "").contains("chmod 600"));
        assert_eq!(said(dir.path(), "[http]\nlisten = \"192.0.2.1:80\"\n"), "", "nobody would read it");
        fs::write(&token, "weak\n").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(said(dir.path(), "").contains("is no token"));
        fs::remove_file(&token).unwrap();

        let acme = "[tls.acme]\nenabled = true\nnames = [\"mx.our.example\"]\ndirectory_url = \"https://ca.example/dir\"\n";
        assert_eq!(said(dir.path(), acme), "");
        assert!(!dir.path().join("acme").exists());
        fs::write(dir.path().join("acme"), "").unwrap();
        assert!(said(dir.path(), acme).contains("acme"));
    }
}
