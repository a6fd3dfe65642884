//! PURE: text, environment and flags to one checked [`Config`].
//!
//! Order: defaults < file < environment < flags. Unknown keys are refused with the nearest known one. Reads no
//! file and no environment itself: the command line does, and hands both in. Known to `cli` and `daemon` only;
//! services take their own small settings structs.
//!
//! Failure policy: every problem is a [`ConfigError`] that says file, key, problem and advice; all problems of
//! one load are reported together, and nothing is started with a part of a configuration.

mod difference;
mod keys;
mod load;
mod outbound;
mod seed;
mod trust;

use core::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

pub use difference::{Difference, Keys};
pub use keys::{Effect, effect, example, reference, reload_table};

use load::Loader;

/// Environment variables of ours begin with this.
pub const ENV_PREFIX: &str = "WAYSTATION_";
/// Most problems that one load reports.
const PROBLEMS_MAX: usize = 50;

/// Something about the configuration is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct ConfigError {
    /// File name, `environment` or `command line`.
    pub file: String,
    /// Dotted path of the key; empty when the whole file is meant.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead; may be empty.
    pub advice: String,
}

impl ConfigError {
    fn sentence(&self) -> String {
        let mut text = self.file.clone();
        if !self.key.is_empty() {
            text.push_str(": ");
            text.push_str(&self.key);
        }
        text.push_str(": ");
        text.push_str(&self.problem);
        if !self.advice.is_empty() {
            text.push_str("\n    ");
            text.push_str(&self.advice);
        }
        text
    }
}

/// All problems of one load, in file order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// One value as found in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Whole(u64),
    Text(String),
    List(Vec<String>),
    Wholes(Vec<u64>),
}

/// A number of a `config.json` that is out of range here, and what is used instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjusted {
    /// Our key.
    pub key: &'static str,
    /// What the file says.
    pub problem: String,
    /// What is used.
    pub used: String,
}

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// Name and text of the file. A name that ends in `.json` is the seed relay's format.
    pub file: Option<(&'a str, &'a str)>,
    /// Environment; names without [`ENV_PREFIX`] are ignored.
    pub env: &'a [(String, String)],
    /// Dotted key and value of flags.
    pub flags: &'a [(&'static str, String)],
}

/// Who may register a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionMode {
    /// A first proof of possession registers the key.
    Open,
    /// Only keys that an operator added.
    Allowlist,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogShape {
    /// One readable line.
    Text,
    /// One JSON object.
    Json,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to listen for HTTPS; needs a [`Tls`].
    pub tls_listen: Option<SocketAddr>,
    /// Whose `X-Forwarded-For` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections of those begin with a PROXY header.
    pub proxy_protocol: bool,
}

/// How names are proved to an ACME server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// A file over plain HTTP (RFC 8555 §8.3).
    Http01,
    /// A certificate over TLS (RFC 8737).
    TlsAlpn01,
}

/// `[tls.acme]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// URL of the server's directory.
    pub directory_url: String,
    /// Mail address for its notices.
    pub contact: Option<String>,
    /// Names in the certificate, lower-case A-labels, not empty.
    pub names: Vec<String>,
    /// How they are proved.
    pub challenge: AcmeChallenge,
    /// Certificates to trust for the server itself; `None`: the public ones.
    pub ca_file: Option<PathBuf>,
}

/// `[tls]`: where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Two files, read again when they change.
    Files {
        /// Chain, PEM.
        cert: PathBuf,
        /// Private key, PEM.
        key: PathBuf,
    },
    /// An ACME server.
    Acme(Acme),
}

/// `[verify]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Check senders at all.
    pub enabled: bool,
    /// Milliseconds one message may wait for DNS.
    pub timeout_ms: u64,
    /// Refuse what DMARC says to reject.
    pub refuse_dmarc_reject: bool,
    /// Refuse senders whose domain has a null MX.
    pub refuse_null_mx_senders: bool,
}

/// `[attestation]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Sign at all.
    pub enabled: bool,
    /// Name of the key.
    pub key_id: String,
    /// The key; `None`: in the data directory, made when missing.
    pub key_file: Option<PathBuf>,
    /// Seconds that a new key is announced before it signs.
    pub overlap_seconds: u64,
}

/// How strictly senders shall take the MTA-STS policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtaSts {
    /// There is none.
    Off,
    /// They only report.
    Testing,
    /// They do not deliver without TLS.
    Enforce,
}

/// `[smtp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// Accept mail at all.
    pub enabled: bool,
    /// Where to listen; not empty when enabled.
    pub listen: Vec<SocketAddr>,
    /// Bytes.
    pub max_message_bytes: u64,
    /// Recipients of one message.
    pub max_recipients: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Seconds a silent client is kept.
    pub command_timeout_seconds: u64,
    /// Mail inside TLS only.
    pub require_tls: bool,
    /// Connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Milliseconds before the greeting.
    pub greet_delay_ms: u64,
    /// Block lists.
    pub dnsbl_zones: Vec<String>,
    /// The MTA-STS policy that is answered.
    pub mta_sts: MtaSts,
    /// Networks whose stray line ends are repaired instead of refused; empty when nobody's are.
    pub normalize_networks: Vec<IpNet>,
}

/// `[tunnel]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Seconds a challenge may be answered.
    pub challenge_ttl_seconds: u64,
    /// Seconds of silence before a ping.
    pub heartbeat_interval_seconds: u64,
    /// Seconds of silence before a gateway counts as dead.
    pub idle_timeout_seconds: u64,
    /// Items in flight to one gateway.
    pub unacked_items_max: u32,
    /// Bytes in flight to one gateway.
    pub unacked_bytes_max: u64,
    /// Items in flight to one gateway of tunnel 1.
    pub legacy_unacked_items_max: u32,
}

/// `[admission]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who may register.
    pub mode: AdmissionMode,
    /// Undelivered items of one mailbox.
    pub mailbox_items_max: u64,
    /// Undelivered bytes of one mailbox.
    pub mailbox_bytes_max: u64,
}

/// What TLS must be like towards other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsWord {
    /// TLS when it is offered.
    Opportunistic,
    /// What the recipient's domain publishes counts.
    DaneMtaSts,
    /// Never without a proven certificate.
    Require,
}

/// `[delivery]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Resolvers; empty: those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// Seconds between two questions that find out whether a name server answers; 0: none are asked.
    pub dns_probe_seconds: u64,
    /// Port of other servers.
    pub port: u16,
    /// Where mail leaves from, at most one of each family.
    pub source_addresses: Vec<IpAddr>,
    /// `host:port` that takes everything.
    pub smarthost: Option<String>,
    /// Seconds between attempts; not empty.
    pub retry_schedule_seconds: Vec<u64>,
    /// Least seconds after greylisting.
    pub greylist_wait_seconds: u64,
    /// Seconds after which nothing is tried any more.
    pub expire_after_seconds: u64,
    /// Seconds to wait for the answer to a whole message.
    pub final_dot_timeout_seconds: u64,
    /// Scale of all other waits.
    pub timeouts_percent: u64,
    /// Deliveries at a time.
    pub max_concurrent_total: usize,
    /// Deliveries at a time to one domain.
    pub max_concurrent_per_destination: usize,
    /// Milliseconds between starts to one domain.
    pub interval_per_destination_ms: u64,
    /// Loopback and private addresses may be connected to.
    pub allow_private_targets: bool,
    /// Seconds within which a repeat of an unnamed submission is its twin.
    pub resubmission_window_seconds: u64,
    /// For all domains.
    pub tls_policy: TlsWord,
    /// Domains that need a proven certificate, lower-case A-labels.
    pub require_tls_domains: Vec<String>,
}

/// `[dkim]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dkim {
    /// Sign at all.
    pub enabled: bool,
    /// Signing domain, lower-case A-labels.
    pub domain: String,
    /// Name of the key record.
    pub selector: String,
    /// RSA private key; set when enabled.
    pub rsa_key_file: Option<PathBuf>,
    /// Ed25519 private key.
    pub ed25519_key_file: Option<PathBuf>,
    /// Fields that are signed when they are there.
    pub sign_headers: Vec<String>,
    /// Fields nobody can add.
    pub oversign_headers: Vec<String>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whether any of them holds.
    pub enabled: bool,
    /// SMTP connections per minute and address.
    pub smtp_connections_per_minute_per_ip: u32,
    /// SMTP connections of one address at a time.
    pub smtp_connections_max_per_ip: u32,
    /// Messages per minute and address.
    pub smtp_messages_per_minute_per_ip: u32,
    /// Tunnel logins per minute and address.
    pub ws_auth_attempts_per_minute_per_ip: u32,
    /// Seconds an address over its limit is refused.
    pub deny_window_seconds: u64,
    /// Milliseconds by which answers to unknown recipients get later.
    pub unknown_recipient_delay_ms: u64,
    /// Submissions per hour and mailbox.
    pub outbound_messages_per_hour_per_mailbox: u32,
    /// Recipients outside this relay per day and mailbox.
    pub outbound_recipients_per_day_per_mailbox: u32,
}

/// `[spool]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolKeys {
    /// Seconds acked items stay.
    pub retain_acked_seconds: u64,
    /// Seconds settled submissions stay.
    pub retain_results_seconds: u64,
    /// Seconds until an unfetched item expires.
    pub expire_undelivered_seconds: u64,
    /// Free bytes below which intake pauses.
    pub min_free_bytes: u64,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Shape of a line.
    pub format: LogShape,
    /// Level or filter directives; checked when logging is set up.
    pub level: String,
    /// Collector of traces; `None`: none are made.
    pub otlp_endpoint: Option<String>,
    /// Traces that are kept, of a hundred.
    pub otlp_sample_percent: u64,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Our name.
    pub hostname: String,
    /// Domains we accept mail for, lower-case A-labels, not empty.
    pub domains: Vec<String>,
    /// Address or key text that gets postmaster mail; `None`: the operator lane.
    pub postmaster: Option<String>,
    /// `[http]`
    pub http: Http,
    /// `[tls]`; `None`: no TLS is served.
    pub tls: Option<Tls>,
    /// `[smtp]`
    pub smtp: Smtp,
    /// `[tunnel]`
    pub tunnel: Tunnel,
    /// `[verify]`
    pub verify: Verify,
    /// `[attestation]`
    pub attestation: Attestation,
    /// `[admission]`
    pub admission: Admission,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[dkim]`
    pub dkim: Dkim,
    /// `[limits]`
    pub limits: Limits,
    /// `[spool]`
    pub spool: SpoolKeys,
    /// Path of the admin socket.
    pub admin_socket: PathBuf,
    /// File with the token for the admin API over HTTP; `None`: not served there.
    pub admin_http_token_file: Option<PathBuf>,
    /// `[log]`
    pub log: Log,
    /// Serve `/metrics`.
    pub metrics_enabled: bool,
    /// Fields of a `config.json` that mean nothing here.
    pub unused: Vec<String>,
    /// Fields of a `config.json` that are out of range here.
    pub adjusted: Vec<Adjusted>,
}

impl Config {
    /// Loads a configuration.
    ///
    /// # Errors
    /// Every problem found, at most 50; nothing is half loaded.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigErrors> {
        Self::load_keys(sources).map(|(config, _)| config)
    }

    /// The same, with the value of every key beside it, for a later comparison.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_keys(sources: &Sources<'_>) -> Result<(Self, Keys), ConfigErrors> {
        let mut loader = Loader::default();
        if let Some((name, text)) = sources.file {
            loader.file(name, text);
        }
        loader.environment(sources.env);
        for (path, value) in sources.flags {
            loader.spelled("command line", path, value);
        }
        loader.done()
    }
}

#[cfg(test)]
mod tests;
