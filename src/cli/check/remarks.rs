//! What is to be said of a configuration that parses: whether its files can be used, and whether it makes sense.
//!
//! Promises: files are opened for reading and nothing is changed; secrets are checked as the relay checks them at its start, so
//! that what passes here starts. Addresses and names are judged in [`sense`], which is PURE.

use std::path::Path;

use super::sense;
use crate::config::{Config, Tls};
use crate::daemon;
use crate::daemon::ledger::SOCKET_PATH_MAX;
use crate::http::guard::Token;
use crate::identity::keyfile::{self, KeyFileError};
use crate::mail::signer::store::{Store, StoreError};
use crate::records::machine;
use crate::secrets::{self, SecretError};
use crate::tls::files::{Files, FilesError};

/// How much a remark weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// It was looked at, and is fine.
    Fine,
    /// It works, and is perhaps not what was meant.
    Doubtful,
    /// The relay does not start with it, or does not do what it says.
    Wrong,
}

/// One remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    /// How much it weighs.
    pub(crate) weight: Weight,
    /// The key.
    pub(crate) key: &'static str,
    /// What is wrong, or doubtful.
    pub(crate) problem: String,
    /// What to write instead.
    pub(crate) advice: String,
}

impl Remark {
    pub(super) fn wrong(key: &'static str, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { weight: Weight::Wrong, key, problem: problem.into(), advice: advice.into() }
    }

    pub(super) fn doubtful(key: &'static str, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { weight: Weight::Doubtful, key, problem: problem.into(), advice: advice.into() }
    }

    fn fine(key: &'static str, what: &Path) -> Self {
        Self { weight: Weight::Fine, key, problem: what.display().to_string(), advice: String::new() }
    }
}

/// Everything, by key.
pub(crate) fn of(config: &Config) -> Vec<Remark> {
    let mut remarks = sense::of(config, &machine::local());
    let adjusted = config.adjusted.iter().map(|told| Remark::doubtful(told.key, &told.problem, &told.used));
    remarks.extend(adjusted);
    directories(config, &mut remarks);
    tls(config, &mut remarks);
    dkim(config, &mut remarks);
    attestation(config, &mut remarks);
    token(config, &mut remarks);
    remarks
}

/// What systemd gives to the service is not there for whoever asks from a shell.
fn is_elsewhere(file: &Path) -> bool {
    secrets::is_credential(file) && secrets::resolve(file).is_err()
}

/// A file that only the service itself can see.
fn elsewhere(key: &'static str, file: &Path) -> Remark {
    let problem =
        format!("{} cannot be looked at from here: systemd gives it to the service only", file.display());
    Remark::doubtful(key, problem, "`systemctl show waystation -p LoadCredential` names the file behind it")
}

fn directories(config: &Config, remarks: &mut Vec<Remark>) {
    let dir = &config.data_dir;
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => {
            remarks.push(Remark::wrong(
                "data_dir",
                format!("{} is no directory", dir.display()),
                "name a directory",
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = dir.ancestors().skip(1).find(|above| above.as_os_str().is_empty() || above.exists());
            if let Some(parent) = parent.filter(|parent| parent.is_file()) {
                let problem = format!("{} cannot be made: {} is a file", dir.display(), parent.display());
                remarks.push(Remark::wrong("data_dir", problem, "name a directory"));
            }
        }
        Err(error) => {
            let problem = format!("{}: {error}", dir.display());
            remarks.push(Remark::wrong(
                "data_dir",
                problem,
                "the account of the service must be able to use it",
            ));
        }
    }
    if config.admin_socket.as_os_str().len() > SOCKET_PATH_MAX {
        let problem = format!("{} is longer than {SOCKET_PATH_MAX} bytes", config.admin_socket.display());
        remarks.push(Remark::wrong("admin.socket", problem, "name a shorter path"));
    }
}

fn tls(config: &Config, remarks: &mut Vec<Remark>) {
    match &config.tls {
        None => {}
        Some(Tls::Files { cert, key }) if is_elsewhere(cert) || is_elsewhere(key) => {
            let files = [("tls.cert_file", cert), ("tls.key_file", key)];
            let hidden = files.into_iter().filter(|(_, file)| is_elsewhere(file));
            remarks.extend(hidden.map(|(key, file)| elsewhere(key, file)));
        }
        Some(Tls::Files { cert, key }) => match (Files { cert: cert.clone(), key: key.clone() }).read() {
            Ok(pair) => {
                remarks.extend([Remark::fine("tls.cert_file", cert), Remark::fine("tls.key_file", key)]);
                remarks.extend(sense::certificate(config, pair.installed(), crate::clock::wall()));
            }
            Err(error) => {
                let key = match &error {
                    FilesError::Read { .. } | FilesError::Chain(_) => "tls.cert_file",
                    FilesError::Key(_) => "tls.key_file",
                    FilesError::Content { error, .. } if error.is_about_key() => "tls.key_file",
                    FilesError::Content { .. } => "tls.cert_file",
                };
                remarks.push(sentence(key, &error.to_string()));
            }
        },
        Some(Tls::Acme(acme)) => {
            if let Some(file) = &acme.ca_file {
                match crate::gateway::dial::Trust::new(Some(file)) {
                    Ok(_) => remarks.push(Remark::fine("tls.acme.ca_file", file)),
                    Err(error) => remarks.push(Remark::wrong(
                        "tls.acme.ca_file",
                        error.to_string(),
                        "it must hold the certificate of the ACME server's authority, PEM",
                    )),
                }
            }
        }
    }
}

/// Errors of these files say themselves what to do, behind a semicolon.
fn sentence(key: &'static str, text: &str) -> Remark {
    let (problem, advice) = text.split_once("; ").unwrap_or((text, ""));
    Remark::wrong(key, problem, advice)
}

fn dkim(config: &Config, remarks: &mut Vec<Remark>) {
    if !config.dkim.enabled {
        return;
    }
    let files = [
        ("dkim.rsa_key_file", &config.dkim.rsa_key_file),
        ("dkim.ed25519_key_file", &config.dkim.ed25519_key_file),
    ];
    let hidden: Vec<_> = files.iter().filter_map(|(key, file)| Some((*key, file.as_ref()?))).collect();
    let away: Vec<_> = hidden.iter().filter(|(_, file)| is_elsewhere(file)).collect();
    if !away.is_empty() {
        remarks.extend(away.into_iter().map(|(key, file)| elsewhere(key, file)));
        return;
    }
    match daemon::may_sign(config) {
        Ok(()) => remarks.extend(hidden.into_iter().map(|(key, file)| Remark::fine(key, file))),
        Err((key, text)) => {
            let advice = match key {
                "dkim.selector" => {
                    "write a shorter one; with an Ed25519 key, `-ed25519` must fit behind it, too"
                }
                _ => "`waystation keys dkim` makes keys",
            };
            let (problem, advice) = text.split_once("; ").unwrap_or((&text, advice));
            remarks.push(Remark::wrong(key, problem, advice));
        }
    }
}

fn attestation(config: &Config, remarks: &mut Vec<Remark>) {
    let key = "attestation.key_file";
    if !config.attestation.enabled {
        return;
    }
    if let Some(file) = &config.attestation.key_file {
        if is_elsewhere(file) {
            remarks.push(elsewhere(key, file));
            return;
        }
        match keyfile::load(file) {
            Ok(_) => remarks.push(Remark::fine(key, file)),
            Err(error) => {
                let advice = format!("`waystation keys attestation --out {}` makes one", file.display());
                let text = error.to_string();
                let (problem, advice) = text.split_once("; ").unwrap_or((&text, &advice));
                remarks.push(Remark::wrong(key, problem, advice));
                return;
            }
        }
    }
    if let Some(error) = chain(config) {
        let text = error.to_string();
        remarks.push(if is_hidden(&error) {
            Remark::doubtful(key, text, "the account of the service must be able to read it")
        } else {
            sentence(key, &text)
        });
    }
}

/// What is wrong with the keys that followed each other. None at all are fine: the relay makes the first one.
fn chain(config: &Config) -> Option<StoreError> {
    let given = &config.attestation;
    let store = Store::new(&config.data_dir, given.key_file.as_deref(), &given.key_id);
    store.load(false).err().filter(|error| !matches!(error, StoreError::NotYet { .. }))
}

/// Whoever asks from a shell may not be the one who starts the relay.
fn is_hidden(error: &StoreError) -> bool {
    match error {
        StoreError::Io { .. } => true,
        StoreError::Key(KeyFileError::Secret(SecretError::Io { source, .. })) => {
            source.kind() == std::io::ErrorKind::PermissionDenied
        }
        StoreError::Key(_)
        | StoreError::Missing { .. }
        | StoreError::NotYet { .. }
        | StoreError::Chain { .. }
        | StoreError::UnderWay { .. } => false,
    }
}

fn token(config: &Config, remarks: &mut Vec<Remark>) {
    let key = "admin.http_token_file";
    let Some(file) = &config.admin_http_token_file else { return };
    if is_elsewhere(file) {
        remarks.push(elsewhere(key, file));
        return;
    }
    let advice = format!("`waystation keys token --file {}` makes one", file.display());
    match secrets::read_text(file) {
        Err(error) => {
            let text = error.to_string();
            let (problem, advice) = text.split_once("; ").unwrap_or((&text, &advice));
            remarks.push(Remark::wrong(key, problem, advice));
        }
        Ok(text) => match Token::from_text(&text) {
            Ok(_) => remarks.push(Remark::fine(key, file)),
            Err(error) => {
                remarks.push(Remark::wrong(key, format!("{} is no token: {error}", file.display()), advice))
            }
        },
    }
}
