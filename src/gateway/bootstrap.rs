//! `gateway bootstrap`: a key and a configuration for a relay URL. Contacts nobody.
//!
//! Never overwrites: a key that exists is used, a configuration that exists is an error. Both are on stable storage
//! when [`bootstrap`] returns.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::gateway::config::{self, ConfigError};
use crate::gateway::dial::Endpoint;
use crate::gateway::staging::make_dir;
use crate::identity::key::KeyText;
use crate::identity::keyfile::{self, KeyFileError};

/// Name of the configuration file.
pub const CONFIG_NAME: &str = "gateway.toml";
/// Name of the key file.
pub const KEY_NAME: &str = "passport.key";

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Made {
    /// The configuration.
    pub config_file: PathBuf,
    /// The key's file.
    pub key_file: PathBuf,
    /// Whether the key was made now, or was there before.
    pub key_is_new: bool,
    /// The key's text.
    pub key: String,
    /// The gateway's mail address.
    pub address: String,
    /// The relay.
    pub relay_url: String,
}

/// Why nothing was made, or not all.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The URL is of no use.
    #[error(transparent)]
    Url(#[from] crate::gateway::dial::DialError),
    /// There is a configuration already.
    #[error("{} exists already and is not overwritten; choose another --dir, or edit it", .0.display())]
    Exists(PathBuf),
    /// The key cannot be made or read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The configuration made would not be usable: a value given by the user.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Makes `dir`, a key and a configuration in it. `maildir` is where mail will go; relative to `dir` if relative.
/// `mail_domain` overrides what [`infer_mail_domain`] would say.
///
/// # Errors
/// [`BootstrapError`]; nothing that existed before was changed.
pub fn bootstrap(
    relay_url: &str,
    dir: &Path,
    maildir: &Path,
    mail_domain: Option<&str>,
) -> Result<Made, BootstrapError> {
    let endpoint = Endpoint::relay(relay_url)?;
    let config_file = dir.join(CONFIG_NAME);
    let key_file = dir.join(KEY_NAME);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BootstrapError::Io { path, source }
    };
    if config_file.exists() {
        return Err(BootstrapError::Exists(config_file));
    }
    let domain = mail_domain.map_or_else(|| infer_mail_domain(relay_url), str::to_owned);
    let text = config::sample(&endpoint.url, &domain, &maildir.to_string_lossy());
    config::Config::parse(&text, &config_file)?;
    make_dir(dir).map_err(failed(dir))?;
    let (key, key_is_new) = key(&key_file)?;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).open(&config_file).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                BootstrapError::Exists(config_file.clone())
            } else {
                BootstrapError::Io { path: config_file.clone(), source: error }
            }
        })?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::File::open(dir)?.sync_all())
        .map_err(failed(&config_file))?;
    Ok(Made {
        config_file,
        key_file,
        key_is_new,
        key: key.to_string(),
        address: key.address(&domain),
        relay_url: endpoint.url,
    })
}

fn key(path: &Path) -> Result<(KeyText, bool), BootstrapError> {
    let fresh = keyfile::generate();
    match keyfile::save_new(path, &fresh) {
        Ok(()) => Ok((fresh.key_text(), true)),
        Err(KeyFileError::Exists { .. }) => Ok((keyfile::load(path)?.key_text(), false)),
        Err(error) => Err(error.into()),
    }
}

/// The mail domain that a relay URL suggests: its host, a leading `relay.` replaced by `mail.`; `localhost` for a text that
/// is no URL. The reference gateway infers the same.
#[must_use]
pub fn infer_mail_domain(relay_url: &str) -> String {
    let Ok(endpoint) = Endpoint::relay(relay_url) else { return "localhost".to_owned() };
    if endpoint.host.contains(':') {
        return format!("[{}]", endpoint.host);
    }
    match endpoint.host.strip_prefix("relay.") {
        Some(rest) => format!("mail.{rest}"),
        None => endpoint.host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const URL: &str = "wss://relay.example.org/ws";

    fn make(dir: &Path) -> Result<Made, BootstrapError> {
        bootstrap(URL, dir, Path::new("Maildir"), None)
    }

    #[test]
    fn key_and_configuration_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/b");
        let made = make(&dir).unwrap();
        assert!(made.key_is_new);
        assert_eq!(made.address, format!("{}@mail.example.org", made.key));
        let mode = fs::metadata(&made.key_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&made.config_file).unwrap();
        let config = config::Config::parse(&text, &made.config_file).unwrap();
        assert_eq!(config.maildir.unwrap().path, dir.join("Maildir"));
        assert_eq!(config.key_file, made.key_file);
        assert!(matches!(make(&dir), Err(BootstrapError::Exists(_))));
        assert_eq!(fs::read_to_string(&made.config_file).unwrap(), text);
    }

    #[test]
    fn an_existing_key_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = make(dir.path()).unwrap();
        fs::remove_file(&first.config_file).unwrap();
        let second = make(dir.path()).unwrap();
        assert_eq!((second.key_is_new, second.key), (false, first.key));
    }

    #[test]
    fn unusable_urls_make_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("x");
        assert!(matches!(bootstrap("http://h", &dir, Path::new("M"), None), Err(BootstrapError::Url(_))));
        assert!(!dir.exists());
    }

    #[test]
    fn domain_is_inferred_as_the_reference_does() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/mail-tunnel.json")).unwrap();
        for case in vectors["gateway"]["infer_mail_domain"].as_array().unwrap() {
            let url = case["relay_ws_url"].as_str().unwrap();
            assert_eq!(infer_mail_domain(url), case["inferred_mail_domain"].as_str().unwrap(), "{url}");
        }
    }
}
