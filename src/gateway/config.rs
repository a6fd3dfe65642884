//! The gateway's configuration: TOML text to a checked [`Config`]. Pure.
//!
//! Every key stands with its default and its reason in the file that [`sample`] writes (`gateway bootstrap` uses it).
//! Unknown keys are refused with the nearest known one. Exactly one destination table must be present. Relative
//! paths are relative to the file's directory.

mod sample;

use core::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::gateway::keyring::Pin;
use crate::mail::relay_keys::TrustedKeys;
use crate::secrets;

pub use sample::{sample, sample_with};

/// Keys outside the tables, and the tables.
const KEYS: [&str; 25] = [
    "relay_url",
    "relay_name",
    "allow_tunnel_1",
    "key_file",
    "mail_domain",
    "aliases",
    "data_dir",
    "status_socket",
    "extra_ca_file",
    "unacked_items_max",
    "unacked_bytes_max",
    "max_message_bytes",
    "reconnect_base_delay_ms",
    "reconnect_max_delay_ms",
    "handshake_timeout_seconds",
    "heartbeat_interval_seconds",
    "idle_timeout_seconds",
    "log_level",
    "maildir",
    "lmtp",
    "command",
    "webhook",
    "submission",
    "outbox",
    "relay_keys",
];
/// Keys inside the tables.
const TABLE_KEYS: [(&str, &[&str]); 6] = [
    ("maildir", &["path"]),
    ("lmtp", &["address", "recipient", "timeout_seconds"]),
    ("command", &["argv", "timeout_seconds"]),
    ("webhook", &["url", "bearer_token_file", "timeout_seconds"]),
    ("submission", &["listen", "allow_remote", "max_message_bytes", "max_recipients"]),
    ("outbox", &["expire_after_seconds", "retain_results_seconds", "min_free_bytes"]),
];
/// Most recipients that a message may be allowed to have: each is a copy in the outbox.
const RECIPIENTS_MAX: usize = 1000;
/// Least similarity for a suggestion (Jaro-Winkler).
const SIMILAR: f64 = 0.8;

/// A configuration that cannot be used: which key, what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {key}: {problem}{}", file.display(), if advice.is_empty() { String::new() } else { format!("; {advice}") })]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The key, dotted; `-` for the whole file.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead; may be empty.
    pub advice: String,
}

/// A gateway's configuration; see [`sample`] for the meaning of each key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `ws://` or `wss://` URL of the relay's tunnel.
    pub relay_url: String,
    /// Name the relay has for itself; empty: the host in `relay_url`.
    #[serde(default)]
    pub relay_name: String,
    /// Whether a relay of tunnel 1 is good enough.
    #[serde(default)]
    pub allow_tunnel_1: bool,
    /// The private key.
    #[serde(default = "default_key_file")]
    pub key_file: PathBuf,
    /// Domain of the gateway's address; only shown, the relay decides.
    #[serde(default = "default_mail_domain")]
    pub mail_domain: String,
    /// Further addresses of this gateway, to send as.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Outbox, memory of delivered items, lock, messages being received.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Where `gateway status` asks; empty: `gateway.sock` in the data directory.
    #[serde(default)]
    pub status_socket: PathBuf,
    /// PEM file with certificates to trust besides the built-in ones; empty: none.
    #[serde(default)]
    pub extra_ca_file: PathBuf,
    /// Most items in flight.
    #[serde(default = "default_items")]
    pub unacked_items_max: u32,
    /// Most bytes in flight.
    #[serde(default = "default_bytes")]
    pub unacked_bytes_max: u64,
    /// Largest message taken.
    #[serde(default = "default_message_bytes")]
    pub max_message_bytes: u64,
    /// First delay before a new connection.
    #[serde(default = "default_base_ms")]
    pub reconnect_base_delay_ms: u64,
    /// Longest delay before a new connection.
    #[serde(default = "default_max_ms")]
    pub reconnect_max_delay_ms: u64,
    /// Longest login.
    #[serde(default = "default_seconds_30")]
    pub handshake_timeout_seconds: u64,
    /// Distance of our pings.
    #[serde(default = "default_seconds_30")]
    pub heartbeat_interval_seconds: u64,
    /// Silence after which the relay counts as gone.
    #[serde(default = "default_idle")]
    pub idle_timeout_seconds: u64,
    /// error, warn, info, debug or trace.
    #[serde(default = "default_level")]
    pub log_level: String,
    /// Deliver into a Maildir.
    pub maildir: Option<MaildirTable>,
    /// Deliver to an LMTP server.
    pub lmtp: Option<LmtpTable>,
    /// Deliver to a command.
    pub command: Option<CommandTable>,
    /// Deliver to an HTTP server.
    pub webhook: Option<WebhookTable>,
    /// Mail from local programs by SMTP.
    #[serde(default)]
    pub submission: SubmissionTable,
    /// Mail on its way to the relay.
    #[serde(default)]
    pub outbox: OutboxTable,
    /// The relay's keys; none: nothing it says is verified.
    #[serde(default)]
    pub relay_keys: Vec<RelayKeyTable>,
}

/// `[[relay_keys]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayKeyTable {
    /// Its name at the relay.
    pub key_id: String,
    /// Standard base64 of the 32 raw bytes.
    pub public_key: String,
}

/// `[maildir]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaildirTable {
    /// The Maildir; made if missing.
    pub path: PathBuf,
}

/// `[lmtp]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmtpTable {
    /// `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// Recipient named to the server instead of the envelope's; empty: the envelope's.
    #[serde(default)]
    pub recipient: String,
    /// Limit of each wait for the server.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

/// `[command]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandTable {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Limit for one message.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

/// `[webhook]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookTable {
    /// `http://` or `https://` URL.
    pub url: String,
    /// File with the token for `Authorization: Bearer`; empty: none.
    #[serde(default)]
    pub bearer_token_file: PathBuf,
    /// Limit for one request.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

/// `[submission]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubmissionTable {
    /// Address and port; empty: no server.
    pub listen: String,
    /// Whether others than this machine may connect.
    pub allow_remote: bool,
    /// Largest message.
    pub max_message_bytes: u64,
    /// Most recipients of one message.
    pub max_recipients: usize,
}

impl Default for SubmissionTable {
    fn default() -> Self {
        Self {
            listen: String::new(),
            allow_remote: false,
            max_message_bytes: 25 * 1024 * 1024,
            max_recipients: 100,
        }
    }
}

/// `[outbox]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxTable {
    /// How long a submission waits for the relay.
    pub expire_after_seconds: u64,
    /// How long a result can be asked for.
    pub retain_results_seconds: u64,
    /// Free space below which no mail is taken.
    pub min_free_bytes: u64,
}

impl Default for OutboxTable {
    fn default() -> Self {
        Self {
            expire_after_seconds: 5 * 86_400,
            retain_results_seconds: 30 * 86_400,
            min_free_bytes: 64 * 1024 * 1024,
        }
    }
}

fn default_key_file() -> PathBuf {
    PathBuf::from("passport.key")
}
fn default_mail_domain() -> String {
    "localhost".to_owned()
}
fn default_data_dir() -> PathBuf {
    PathBuf::from("state")
}
fn default_items() -> u32 {
    64
}
fn default_bytes() -> u64 {
    16 * 1024 * 1024
}
fn default_message_bytes() -> u64 {
    100 * 1024 * 1024
}
fn default_base_ms() -> u64 {
    super::backoff::BASE_MS
}
fn default_max_ms() -> u64 {
    super::backoff::MAX_MS
}
fn default_seconds_30() -> u64 {
    30
}
fn default_idle() -> u64 {
    90
}
fn default_level() -> String {
    "info".to_owned()
}
fn default_timeout() -> u64 {
    300
}

impl Config {
    /// Reads and checks the text of `file`; relative paths in it become relative to the file's directory.
    ///
    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let wrong = |key: &str, problem: String, advice: &str| ConfigError {
            file: file.to_owned(),
            key: key.to_owned(),
            problem,
            advice: advice.to_owned(),
        };
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| wrong("-", error.to_string(), ""))?;
        known(&table, &KEYS, "").map_err(|(key, advice)| wrong(&key, "unknown key".to_owned(), &advice))?;
        for (name, keys) in TABLE_KEYS {
            if let Some(toml::Value::Table(inner)) = table.get(name) {
                known(inner, keys, name)
                    .map_err(|(key, advice)| wrong(&key, "unknown key".to_owned(), &advice))?;
            }
        }
        let mut config: Self = table.try_into().map_err(|error: toml::de::Error| {
            wrong("-", error.message().to_owned(), "see the comments that bootstrap writes")
        })?;
        config.check().map_err(|(key, problem, advice)| wrong(key, problem.to_owned(), advice))?;
        config.anchor(file.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, &'static str, &'static str)> {
        if super::dial::Endpoint::relay(&self.relay_url).is_err() {
            return Err(("relay_url", "not a usable URL", "write wss://HOST/ws or ws://HOST:PORT/ws"));
        }
        let destinations =
            [self.maildir.is_some(), self.lmtp.is_some(), self.command.is_some(), self.webhook.is_some()];
        match destinations.iter().filter(|present| **present).count() {
            1 => {}
            0 => {
                return Err((
                    "maildir",
                    "no destination",
                    "add one of [maildir], [lmtp], [command], [webhook]",
                ));
            }
            _ => return Err(("maildir", "more than one destination", "keep one table")),
        }
        for (key, value) in [
            ("unacked_items_max", u64::from(self.unacked_items_max)),
            ("unacked_bytes_max", self.unacked_bytes_max),
            ("max_message_bytes", self.max_message_bytes),
            ("reconnect_base_delay_ms", self.reconnect_base_delay_ms),
            ("handshake_timeout_seconds", self.handshake_timeout_seconds),
            ("heartbeat_interval_seconds", self.heartbeat_interval_seconds),
        ] {
            if value == 0 {
                return Err((key, "must be at least 1", ""));
            }
        }
        if self.reconnect_max_delay_ms < self.reconnect_base_delay_ms {
            return Err(("reconnect_max_delay_ms", "below reconnect_base_delay_ms", ""));
        }
        if self.idle_timeout_seconds <= self.heartbeat_interval_seconds {
            return Err((
                "idle_timeout_seconds",
                "not above heartbeat_interval_seconds",
                "use three times as much",
            ));
        }
        self.check_mail_out()?;
        let mut keys = TrustedKeys::default();
        let pins = self.pins();
        if pins.len() < self.relay_keys.len()
            || pins.iter().any(|pin| keys.pin(&pin.key_id, pin.key).is_err())
        {
            return Err((
                "relay_keys",
                "a key that cannot be read, or two keys of one name",
                "`waystation keys attestation --show` on the relay prints key_id and public_key",
            ));
        }
        if let Some(command) = &self.command
            && command.argv.first().is_none_or(String::is_empty)
        {
            return Err((
                "command.argv",
                "names no program",
                "write argv = [\"/usr/bin/program\", \"argument\"]",
            ));
        }
        if let Some(webhook) = &self.webhook
            && super::dial::Endpoint::http(&webhook.url).is_err()
        {
            return Err(("webhook.url", "not a usable URL", "write https://HOST/PATH"));
        }
        if let Some(lmtp) = &self.lmtp
            && !lmtp.address.strip_prefix("unix:").map_or(lmtp.address.contains(':'), |path| !path.is_empty())
        {
            return Err((
                "lmtp.address",
                "neither a socket nor host and port",
                "write unix:/PATH or HOST:PORT",
            ));
        }
        Ok(())
    }

    /// The pinned keys; [`Config::parse`] has seen that they can be read.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin> {
        let read = |table: &RelayKeyTable| Pin::read(&format!("{}:{}", table.key_id, table.public_key));
        self.relay_keys.iter().filter_map(read).collect()
    }

    fn check_mail_out(&self) -> Result<(), (&'static str, &'static str, &'static str)> {
        let SubmissionTable { listen, allow_remote, .. } = &self.submission;
        if !listen.is_empty() {
            let Ok(address) = listen.parse::<SocketAddr>() else {
                return Err(("submission.listen", "no address and port", "write 127.0.0.1:2525"));
            };
            if !address.ip().is_loopback() && !allow_remote {
                return Err((
                    "submission.listen",
                    "others could connect, and whoever connects may send as this gateway",
                    "write 127.0.0.1:2525, or set submission.allow_remote = true",
                ));
            }
        }
        for (key, value) in [
            ("submission.max_message_bytes", self.submission.max_message_bytes),
            ("submission.max_recipients", self.submission.max_recipients as u64),
            ("outbox.expire_after_seconds", self.outbox.expire_after_seconds),
            ("outbox.retain_results_seconds", self.outbox.retain_results_seconds),
        ] {
            if value == 0 {
                return Err((key, "must be at least 1", ""));
            }
        }
        if self.submission.max_recipients > RECIPIENTS_MAX {
            return Err(("submission.max_recipients", "more than 1000", ""));
        }
        if self.aliases.iter().any(|alias| !alias.contains('@')) {
            return Err(("aliases", "not a mail address", "write NAME@DOMAIN"));
        }
        Ok(())
    }

    fn anchor(&mut self, dir: &Path) {
        let anchored = |path: &mut PathBuf| {
            if !path.as_os_str().is_empty() && !secrets::is_credential(path) {
                *path = dir.join(&path);
            }
        };
        if self.status_socket.as_os_str().is_empty() {
            self.status_socket = self.data_dir.join("gateway.sock");
        }
        for path in [&mut self.key_file, &mut self.data_dir, &mut self.status_socket, &mut self.extra_ca_file]
        {
            anchored(path);
        }
        if let Some(maildir) = &mut self.maildir {
            anchored(&mut maildir.path);
        }
        if let Some(webhook) = &mut self.webhook {
            anchored(&mut webhook.bearer_token_file);
        }
        if let Some(lmtp) = &mut self.lmtp
            && let Some(path) = lmtp.address.strip_prefix("unix:")
        {
            lmtp.address = format!("unix:{}", dir.join(path).display());
        }
    }
}

/// The first key of `table` that is not in `keys`, with advice.
fn known(table: &toml::Table, keys: &[&str], prefix: &str) -> Result<(), (String, String)> {
    for key in table.keys() {
        if keys.contains(&key.as_str()) {
            continue;
        }
        let similar = |known: &&&str| strsim::jaro_winkler(key, known);
        let nearest = keys.iter().max_by(|a, b| similar(a).total_cmp(&similar(b)));
        let advice = match nearest.filter(|near| similar(near) >= SIMILAR) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known here: {}", keys.join(", ")),
        };
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        return Err((key, advice));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/gw/gateway.toml";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new(FILE))
    }

    fn minimal(more: &str) -> String {
        format!("relay_url = \"ws://127.0.0.1:8080/ws\"\n{more}\n[maildir]\npath = \"M\"\n")
    }

    #[test]
    fn the_sample_with_every_key_uncommented_says_the_defaults() {
        let sample = sample("wss://relay.example.org/ws", "mail.example.org", "Maildir");
        let plain = parse(&sample).unwrap();
        let (settings, _) = sample.split_once("# Where the mail goes").unwrap();
        let uncommented: String = settings
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let full = parse(&format!("{uncommented}[maildir]\npath = \"Maildir\"\n")).unwrap();
        assert_eq!(plain, full);
        for key in KEYS {
            assert!(sample.contains(key), "{key} is missing in the sample");
        }
        for (_, keys) in TABLE_KEYS {
            assert!(keys.iter().all(|key| sample.contains(key)));
        }
    }

    #[test]
    fn the_other_destinations_in_the_sample_are_valid() {
        let sample = sample("wss://relay.example.org/ws", "d", "M");
        for name in ["lmtp", "command", "webhook"] {
            let (_, table) = sample.split_once(&format!("#[{name}]\n")).unwrap();
            let table = table.split("\n\n").next().unwrap();
            let table: String = table
                .lines()
                .filter(|line| !line.starts_with("##"))
                .map(|line| format!("{}\n", line.trim_start_matches('#')))
                .collect();
            let config = parse(&format!("relay_url = \"wss://r/ws\"\n[{name}]\n{table}")).unwrap();
            assert!(config.maildir.is_none());
        }
    }

    #[test]
    fn the_tables_of_mail_out_in_the_sample_say_the_defaults() {
        let sample = sample("wss://relay.example.org/ws", "d", "M");
        for name in ["submission", "outbox"] {
            let (_, table) = sample.split_once(&format!("#[{name}]\n")).unwrap();
            let table: String = table
                .lines()
                .take_while(|line| line.starts_with('#'))
                .map(|line| line.trim_start_matches('#').split("   ").next().unwrap())
                .flat_map(|line| [line, "\n"])
                .collect();
            let full = parse(&minimal(&format!("[{name}]\n{table}"))).unwrap();
            assert_eq!(parse(&minimal("")).unwrap(), full);
        }
        let remote = minimal("[submission]\nlisten = \"[::]:25\"\nallow_remote = true");
        assert!(parse(&remote).unwrap().submission.allow_remote);
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(&minimal("data_dir = \"d\"\nextra_ca_file = \"/abs.pem\"")).unwrap();
        assert_eq!(config.key_file, Path::new("/etc/gw/passport.key"));
        assert_eq!(config.status_socket, Path::new("/etc/gw/d/gateway.sock"));
        assert_eq!(config.extra_ca_file, Path::new("/abs.pem"));
        assert_eq!(config.maildir.unwrap().path, Path::new("/etc/gw/M"));
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_known_one() {
        let error = parse(&minimal("relay_nam = \"x\"")).unwrap_err();
        assert_eq!((error.key.as_str(), error.advice.as_str()), ("relay_nam", "did you mean relay_name?"));
        let error = parse("relay_url = \"ws://h/ws\"\n[webhook]\nurll = \"x\"\n").unwrap_err();
        assert_eq!((error.key.as_str(), error.advice.as_str()), ("webhook.urll", "did you mean url?"));
        assert!(error.to_string().starts_with(FILE));
    }

    #[test]
    fn each_defect_names_its_key() {
        for (text, key) in [
            ("relay_url = \"http://h\"\n[maildir]\npath = \"M\"".to_owned(), "relay_url"),
            ("relay_url = \"ws://h/ws\"".to_owned(), "maildir"),
            (minimal("") + "[webhook]\nurl = \"http://h/\"", "maildir"),
            (minimal("unacked_items_max = 0"), "unacked_items_max"),
            (minimal("aliases = [\"me\"]"), "aliases"),
            (minimal("[submission]\nlisten = \"localhost\""), "submission.listen"),
            (minimal("[submission]\nlisten = \"0.0.0.0:2525\""), "submission.listen"),
            (minimal("[submission]\nmax_recipients = 2000"), "submission.max_recipients"),
            (minimal("[submission]\nport = 1"), "submission.port"),
            (minimal("[outbox]\nexpire_after_seconds = 0"), "outbox.expire_after_seconds"),
            (minimal("idle_timeout_seconds = 30"), "idle_timeout_seconds"),
            (minimal("reconnect_max_delay_ms = 1"), "reconnect_max_delay_ms"),
            ("relay_url = \"ws://h/ws\"\n[command]\nargv = []".to_owned(), "command.argv"),
            ("relay_url = \"ws://h/ws\"\n[webhook]\nurl = \"ftp://h\"".to_owned(), "webhook.url"),
            ("relay_url = \"ws://h/ws\"\n[lmtp]\naddress = \"here\"".to_owned(), "lmtp.address"),
            ("relay_url = 7".to_owned(), "-"),
            ("relay_url".to_owned(), "-"),
        ] {
            assert_eq!(parse(&text).unwrap_err().key, key, "{text}");
        }
    }
}
