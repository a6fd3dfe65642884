//! The driver that asks the DNS, and tells its answers apart.
//!
//! Promises: every question is answered within [`QUESTION_SECONDS_MAX`] or counts as temporary; what was learned is
//! remembered as long as its TTL allows, but never longer than an hour; names are asked for as they are, without
//! search domains and without the hosts file.
//!
//! Two resolvers stand side by side. The *plain* one asks and believes. The *validating* one follows the chain of
//! signatures from the root keys itself (hickory's validation), so it needs no trust in the path to the name server:
//! only a server that passes DNSSEC records on. [`Dns::validates`] finds out whether it does, by validating the root's
//! own key; where that fails the validating one is not used, else every domain would look forged. The AD bit of a
//! name server is not believed: whether its path is safe is nothing this process could know.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{DnssecSummary, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::answer::{Answer, Exchange, Found};
use super::dane::RawTlsa;
use crate::clock;

/// Longest wait for one answer, aliases and signatures included.
pub const QUESTION_SECONDS_MAX: u64 = 30;
/// Longest time that an answer is remembered.
const POSITIVE_SECONDS_MAX: u64 = 3600;
/// Longest time that "there is none" is remembered.
const NEGATIVE_SECONDS_MAX: u64 = 300;
/// Most records taken from one answer.
const RECORDS_MAX: usize = 100;
/// How long the outcome of the test of the validating resolver counts.
const PROBE_GOOD: Duration = Duration::from_secs(3600);
/// The same after a failure: the name server may have been starting.
const PROBE_BAD: Duration = Duration::from_secs(300);

/// What to ask, and whom to believe.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Name servers; the system's when empty.
    pub servers: Vec<SocketAddr>,
    /// How long one server has for one packet.
    pub timeout: Duration,
    /// Keys to trust, DNSKEY records in zone file syntax; the root's published keys when none are given.
    pub trust_anchor: Option<String>,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(5), trust_anchor: None }
    }
}

/// The resolvers could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DnsSetupError {
    /// The system's configuration, or the set-up of the resolver itself.
    #[error("the DNS resolver cannot be set up: {0}")]
    Resolver(#[from] NetError),
    /// The text is no list of DNSKEY records.
    #[error("the DNSSEC trust anchor cannot be read: {0}")]
    TrustAnchor(String),
}

/// Which resolver to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// Believe the answer.
    Plain,
    /// Check the signatures.
    Validating,
}

/// Cheap handle; clones share memory and connections.
#[derive(Clone)]
pub struct Dns {
    plain: TokioResolver,
    validating: TokioResolver,
    /// Zone whose key proves that signatures arrive.
    anchor: Name,
    probe: Arc<Mutex<Option<(Instant, bool)>>>,
    system: bool,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("system", &self.system).finish_non_exhaustive()
    }
}

impl Dns {
    /// Sets both resolvers up; asks nothing yet.
    ///
    /// # Errors
    /// [`DnsSetupError`].
    pub fn new(settings: &DnsSettings) -> Result<Self, DnsSetupError> {
        let system = settings.servers.is_empty();
        let (config, mut options) = if system {
            let (config, options) = hickory_resolver::system_conf::read_system_conf()?;
            (config, options)
        } else {
            let servers = settings.servers.iter().map(name_server).collect();
            (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
        };
        options.timeout = settings.timeout;
        options.attempts = 2;
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(Duration::from_secs(POSITIVE_SECONDS_MAX));
        options.negative_max_ttl = Some(Duration::from_secs(NEGATIVE_SECONDS_MAX));
        options.validate = false;
        let (anchors, anchor) = trust(settings.trust_anchor.as_deref())?;
        let build = |options: ResolverOpts| {
            let provider = TokioRuntimeProvider::default();
            TokioResolver::builder_with_config(config.clone(), provider).with_options(options)
        };
        let plain = build(options.clone()).build()?;
        options.validate = true;
        let validating = build(options).with_trust_anchor(Arc::new(anchors)).build()?;
        Ok(Self { plain, validating, anchor, probe: Arc::default(), system })
    }

    /// Whether the system's configuration is used.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.system
    }

    /// The resolver that believes what it is told, for others who look things up.
    #[must_use]
    pub fn plain(&self) -> &TokioResolver {
        &self.plain
    }

    /// Whether DNSSEC signatures arrive and can be checked up to the trusted keys (S7); remembered for a while.
    pub async fn validates(&self) -> bool {
        let now = clock::monotonic();
        let known = *self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, good)) = known
            && now.duration_since(at) < if good { PROBE_GOOD } else { PROBE_BAD }
        {
            return good;
        }
        let answer = self.ask(Eyes::Validating, self.anchor.clone(), RecordType::SOA, |_| Some(())).await;
        let good = answer.found().is_some_and(|found| found.secure);
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, good));
        good
    }

    /// MX records.
    pub async fn mx(&self, eyes: Eyes, domain: &str) -> Answer<Exchange> {
        self.named(eyes, domain, RecordType::MX, |data| match data {
            RData::MX(mx) => Some(Exchange { preference: mx.preference, host: plain_name(&mx.exchange) }),
            _ => None,
        })
        .await
    }

    /// A records.
    pub async fn v4(&self, eyes: Eyes, host: &str) -> Answer<IpAddr> {
        self.named(eyes, host, RecordType::A, |data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        })
        .await
    }

    /// AAAA records.
    pub async fn v6(&self, eyes: Eyes, host: &str) -> Answer<IpAddr> {
        self.named(eyes, host, RecordType::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        })
        .await
    }

    /// TXT records, the strings of each put together.
    pub async fn txt(&self, eyes: Eyes, name: &str) -> Answer<Vec<u8>> {
        self.named(eyes, name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        })
        .await
    }

    /// TLSA records.
    pub async fn tlsa(&self, name: &str) -> Answer<RawTlsa> {
        self.named(Eyes::Validating, name, RecordType::TLSA, |data| match data {
            RData::TLSA(tlsa) => Some(RawTlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            }),
            _ => None,
        })
        .await
    }

    async fn named<T>(
        &self,
        eyes: Eyes,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Answer<T> {
        match Name::from_ascii(name) {
            Ok(mut name) => {
                name.set_fqdn(true);
                self.ask(eyes, name, kind, read).await
            }
            // What the DNS cannot even be asked for does not exist (O17).
            Err(_) => Answer::NxDomain,
        }
    }

    async fn ask<T>(
        &self,
        eyes: Eyes,
        name: Name,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Answer<T> {
        let resolver = match eyes {
            Eyes::Plain => &self.plain,
            Eyes::Validating => &self.validating,
        };
        let limit = Duration::from_secs(QUESTION_SECONDS_MAX);
        match tokio::time::timeout(limit, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => found(&lookup, kind, read),
            Ok(Err(error)) => failed(&error),
            Err(_) => Answer::Temporary("no answer in time".to_owned()),
        }
    }
}

fn found<T>(lookup: &Lookup, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Answer<T> {
    let of_kind: Vec<&Record> =
        lookup.answers().iter().filter(|record| record.record_type() == kind).collect();
    let records: Vec<T> = of_kind.iter().filter_map(|record| read(&record.data)).take(RECORDS_MAX).collect();
    match of_kind.first() {
        Some(first) if !records.is_empty() => Answer::Found(Found {
            records,
            secure: matches!(DnssecSummary::from_records(lookup.answers().iter()), DnssecSummary::Secure),
            owner: plain_name(&first.name),
        }),
        // Aliases that lead nowhere.
        Some(_) | None => Answer::NoRecords,
    }
}

fn failed<T>(error: &NetError) -> Answer<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => negative(none.response_code),
        // Proven not to be signed; a forged one is `DnssecBogus`.
        NetError::Dns(DnsError::Nsec { response, proof, .. }) if !proof.is_bogus() => {
            negative(response.metadata.response_code)
        }
        NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus) => {
            Answer::Temporary("DNSSEC validation failed".to_owned())
        }
        NetError::Dns(DnsError::ResponseCode(code)) => Answer::Temporary(format!("the server said {code}")),
        // The library's other errors are many and may grow: none of them is an answer.
        other => Answer::Temporary(other.to_string()),
    }
}

fn negative<T>(code: ResponseCode) -> Answer<T> {
    if code == ResponseCode::NXDomain {
        Answer::NxDomain
    } else if code == ResponseCode::NoError {
        Answer::NoRecords
    } else {
        Answer::Temporary(format!("the server said {code}"))
    }
}

/// Lower case, no final dot; empty for the root.
fn plain_name(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

fn trust(anchor: Option<&str>) -> Result<(TrustAnchors, Name), DnsSetupError> {
    let Some(text) = anchor else { return Ok((TrustAnchors::default(), Name::root())) };
    let bad = |why: String| DnsSetupError::TrustAnchor(why);
    let anchors: TrustAnchors = text.parse().map_err(|error| bad(format!("{error}")))?;
    let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with(';'));
    let owner = line.and_then(|line| line.split_whitespace().next()).unwrap_or(".");
    let name = Name::from_ascii(owner).map_err(|error| bad(error.to_string()))?;
    Ok((anchors, name))
}
