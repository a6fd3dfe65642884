//! `gateway bootstrap`: a key and a configuration for a relay URL. What the relay says about itself was fetched before
//! (`wellknown.rs`); this contacts nobody.
//!
//! Never overwrites: a key that exists is used, a configuration that exists is an error. Both are on stable storage
//! when [`bootstrap`] returns.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::gateway::config::{self, ConfigError};
use crate::gateway::dial::Endpoint;
use crate::gateway::keyring::Pin;
use crate::gateway::staging::make_dir;
use crate::identity::key::SecretKey;
use crate::identity::keyfile::{self, KeyFileError};
use crate::mail::relay_keys::fingerprint;

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
    /// Further addresses.
    pub aliases: Vec<String>,
    /// The relay's keys that were pinned: name and fingerprint.
    pub relay_keys: Vec<String>,
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

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The relay's tunnel.
    pub relay_url: &'a str,
    /// Where key and configuration go.
    pub dir: &'a Path,
    /// Where mail will go; relative to `dir` if relative.
    pub maildir: &'a Path,
    /// Domain of the address; `None`: what [`infer_mail_domain`] says.
    pub mail_domain: Option<&'a str>,
    /// Certificates to trust besides the built-in ones.
    pub extra_ca_file: Option<&'a Path>,
    /// Further addresses.
    pub aliases: &'a [String],
    /// Keys of the relay.
    pub pins: &'a [Pin],
}

/// Makes the directory, a key and a configuration in it.
///
/// # Errors
/// [`BootstrapError`]; nothing that existed before was changed.
pub fn bootstrap(plan: &Plan<'_>) -> Result<Made, BootstrapError> {
    let Plan { relay_url, dir, maildir, mail_domain, extra_ca_file, aliases, pins } = *plan;
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
    let extra_ca_file = match extra_ca_file {
        Some(file) => Some(std::path::absolute(file).map_err(failed(file))?.to_string_lossy().into_owned()),
        None => None,
    };
    let maildir = maildir.to_string_lossy();
    let text = config::sample_with(&endpoint.url, &domain, &maildir, extra_ca_file.as_deref(), aliases, pins);
    config::Config::parse(&text, &config_file)?;
    make_dir(dir).map_err(failed(dir))?;
    let (key, key_is_new) = key(&key_file)?;
    let key = key.key_text();
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
        aliases: aliases.to_vec(),
        relay_keys: pins.iter().map(|pin| format!("{} {}", pin.key_id, fingerprint(&pin.key))).collect(),
    })
}

/// Makes `dir` and the key in it, or reads the one that is there.
///
/// # Errors
/// [`BootstrapError::Exists`] when there is a configuration already, [`BootstrapError::Key`], [`BootstrapError::Io`].
pub fn prepare_key(dir: &Path) -> Result<SecretKey, BootstrapError> {
    let config_file = dir.join(CONFIG_NAME);
    if config_file.exists() {
        return Err(BootstrapError::Exists(config_file));
    }
    make_dir(dir).map_err(|source| BootstrapError::Io { path: dir.to_owned(), source })?;
    Ok(key(&dir.join(KEY_NAME))?.0)
}

fn key(path: &Path) -> Result<(SecretKey, bool), BootstrapError> {
    let fresh = keyfile::generate();
    match keyfile::save_new(path, &fresh) {
        Ok(()) => Ok((fresh, true)),
        Err(KeyFileError::Exists { .. }) => Ok((keyfile::load(path)?, false)),
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

    fn plan<'a>(relay_url: &'a str, dir: &'a Path) -> Plan<'a> {
        Plan {
            relay_url,
            dir,
            maildir: Path::new("Maildir"),
            mail_domain: None,
            extra_ca_file: None,
            aliases: &[],
            pins: &[],
        }
    }

    fn make(dir: &Path) -> Result<Made, BootstrapError> {
        bootstrap(&plan(URL, dir))
    }

    #[test]
    fn pinned_keys_and_addresses_are_in_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let pins = [1, 2]
            .map(|n| Pin { key_id: format!("relay-{n}"), key: SecretKey::from_seed(&[n; 32]).key_text() });
        let aliases = ["me@example.org".to_owned(), "\"q\"@example.org".to_owned()];
        let made = bootstrap(&Plan { aliases: &aliases, pins: &pins, ..plan(URL, dir.path()) }).unwrap();
        assert_eq!(made.relay_keys.len(), 2);
        let text = fs::read_to_string(&made.config_file).unwrap();
        let config = config::Config::parse(&text, &made.config_file).unwrap();
        assert_eq!((config.pins(), config.aliases), (pins.to_vec(), aliases.to_vec()));
    }

    #[test]
    fn a_private_ca_is_in_the_configuration_wherever_that_lies() {
        let dir = tempfile::tempdir().unwrap();
        let made =
            bootstrap(&Plan { extra_ca_file: Some(Path::new("ca.pem")), ..plan(URL, dir.path()) }).unwrap();
        let text = fs::read_to_string(&made.config_file).unwrap();
        let config = config::Config::parse(&text, &made.config_file).unwrap();
        assert_eq!(config.extra_ca_file, std::env::current_dir().unwrap().join("ca.pem"));
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
        assert!(matches!(bootstrap(&plan("http://h", &dir)), Err(BootstrapError::Url(_))));
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
