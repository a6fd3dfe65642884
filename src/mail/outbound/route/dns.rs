//! The driver that asks the DNS, and tells its answers apart.
//!
//! Promises: every question is answered within [`QUESTION_SECONDS_MAX`] or counts as temporary; what was learned is
//! remembered as long as its TTL allows, but never longer than an hour; names are asked for as they are, without
//! search domains and without the hosts file. What is remembered is bounded: 512 answers, none of them with many records.
//!
//! DNSSEC is checked by the name server, not here: a *local validating* one (unbound, bind9, knot, a validating
//! systemd-resolved) says with the AD bit that it followed every signature up to the root, and answers forged
//! names with SERVFAIL. The bit is worth as much as the path to who says it, so it is believed only when every
//! configured name server is on a loopback address. Postfix does the same. hickory 0.26 could validate by itself, and was
//! tried against zones signed by bind9: it proved signed, unsigned and forged names right, but called valid answers
//! from a wildcard forged (the denial beside them is owned by the wildcard itself, which it does not count as covering).
//! Mail to such domains would be deferred until it fails.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use hickory_resolver::caching_client::CachingClient;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, RetryDnsHandle};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig, TokioResolver};
use rustls::{ClientConfig, RootCertStore};

use super::answer::{Answer, Exchange, Found};
use super::dane::RawTlsa;
use tokio::sync::Semaphore;

/// Longest wait for one answer, aliases and signatures included.
pub const QUESTION_SECONDS_MAX: u64 = 30;
/// Longest wait for the answer to [`Dns::probe`].
const PROBE_PATIENCE: Duration = Duration::from_secs(7);
/// Longest time that an answer is remembered.
const POSITIVE_SECONDS_MAX: u64 = 3600;
/// Longest time that "there is none" is remembered.
const NEGATIVE_SECONDS_MAX: u64 = 300;
/// Most records taken from one answer; one with more of them is not remembered. An address has sixteen octets on the wire, and
/// three hundred in memory.
const RECORDS_MAX: usize = 100;
/// Most answers that each of the two memories holds. The library counts them and not their octets, of which strangers choose
/// how many there are, up to 64 KB on the wire. A domain that is written to has half a dozen, and who asks again asks a name
/// server that remembers, too.
const ANSWERS_KEPT_MAX: u64 = 512;
/// Most questions at once; the others wait their turn. More than the usual number of deliveries at a time needs, so
/// that domains whose name servers are silent do not hold up the others.
const QUESTIONS_MAX: usize = 1024;
/// Asked where nothing else is configured.
const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// What to ask, and whom to believe.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Name servers; the system's when empty.
    pub servers: Vec<SocketAddr>,
    /// How long one server has for one packet.
    pub timeout: Duration,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(5) }
    }
}

/// The resolvers could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DnsSetupError {
    /// What the library says.
    #[error("the DNS resolver cannot be set up: {0}")]
    Resolver(#[from] NetError),
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// Nothing counts as secure.
    Plain,
    /// Ask for DNSSEC, and believe what the name server says about it; only by way of [`Dns::best_eyes`].
    Validating,
}

/// Straight to the name servers.
type Wire = RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>;

/// Cheap handle; clones share memory and connections.
#[derive(Clone)]
pub struct Dns {
    plain: TokioResolver,
    /// Asks with the DO bit; the AD bits of its answers are kept with them.
    validating: CachingClient<Wire>,
    /// Asks without any memory.
    wire: Wire,
    /// The path to every name server is inside this machine.
    trusted: bool,
    gate: Arc<Semaphore>,
    system: bool,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("system", &self.system).finish_non_exhaustive()
    }
}

/// Name servers are asked in the clear. The library wants to be ready for TLS all the same, and its own way needs the
/// certificates of the system, without which a small machine could not start.
fn no_tls() -> Result<ClientConfig, NetError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

impl Dns {
    /// Sets both resolvers up; asks nothing yet.
    ///
    /// # Errors
    /// [`DnsSetupError`].
    pub fn new(settings: &DnsSettings) -> Result<Self, DnsSetupError> {
        let system = settings.servers.is_empty();
        let (config, mut options) =
            if system { system_configuration() } else { configured(&settings.servers) };
        options.timeout = settings.timeout;
        options.attempts = 2;
        options.max_active_requests = 2 * QUESTIONS_MAX;
        options.cache_size = ANSWERS_KEPT_MAX;
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(Duration::from_secs(POSITIVE_SECONDS_MAX));
        options.negative_max_ttl = Some(Duration::from_secs(NEGATIVE_SECONDS_MAX));
        let trusted = is_trusted(config.name_servers().iter().map(|server| server.ip));
        let provider = TokioRuntimeProvider::default();
        let context = Arc::new(PoolContext::new(options.clone(), TlsConfig { config: no_tls()? }));
        let pool = NameServerPool::from_config(config.name_servers().to_vec(), context, provider.clone());
        let handle = RetryDnsHandle::new(pool, options.attempts);
        let wire = handle.clone();
        let validating = CachingClient::new(options.cache_size, handle, true);
        let plain = TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .with_tls_config(no_tls()?)
            .build()?;
        let gate = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Ok(Self { plain, validating, wire, trusted, gate, system })
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

    /// How to ask when DNSSEC matters: with it, when what the name server says about it can be believed.
    #[must_use]
    pub fn best_eyes(&self) -> Eyes {
        if self.trusted { Eyes::Validating } else { Eyes::Plain }
    }

    /// Whether a local name server checks DNSSEC (S7): then it vouches for the root's own records.
    pub async fn validates(&self) -> bool {
        let root = self.ask(self.best_eyes(), Name::root(), RecordType::SOA, |_| Some(())).await;
        root.found().is_some_and(|found| found.secure)
    }

    /// Asks for the name servers of the root, past all memory: whether anybody answers, and more than "I cannot".
    pub async fn probe(&self) -> bool {
        let query = Query::query(Name::root(), RecordType::NS);
        let mut answers = self.wire.lookup(query, DnsRequestOptions::default());
        let code = match tokio::time::timeout(PROBE_PATIENCE, answers.next()).await {
            Ok(Some(Ok(response))) => Some(response.metadata.response_code),
            Ok(Some(Err(NetError::Dns(DnsError::NoRecordsFound(none))))) => Some(none.response_code),
            Ok(Some(Err(NetError::Dns(DnsError::ResponseCode(code))))) => Some(code),
            Ok(Some(Err(_)) | None) | Err(_) => None,
        };
        code.is_some_and(|code| code != ResponseCode::ServFail)
    }

    /// MX records.
    pub async fn mx(&self, eyes: Eyes, domain: &str) -> Answer<Exchange> {
        self.named(eyes, domain, RecordType::MX, |data| {
            let RData::MX(mx) = data else { return None };
            Some(Exchange { preference: mx.preference, host: plain_name(&mx.exchange) })
        })
        .await
    }

    /// A records.
    pub async fn v4(&self, eyes: Eyes, host: &str) -> Answer<IpAddr> {
        self.named(eyes, host, RecordType::A, |data| {
            let RData::A(a) = data else { return None };
            Some(IpAddr::V4(a.0))
        })
        .await
    }

    /// AAAA records.
    pub async fn v6(&self, eyes: Eyes, host: &str) -> Answer<IpAddr> {
        self.named(eyes, host, RecordType::AAAA, |data| {
            let RData::AAAA(aaaa) = data else { return None };
            Some(IpAddr::V6(aaaa.0))
        })
        .await
    }

    /// TXT records, the strings of each put together.
    pub async fn txt(&self, eyes: Eyes, name: &str) -> Answer<Vec<u8>> {
        self.named(eyes, name, RecordType::TXT, |data| {
            let RData::TXT(txt) = data else { return None };
            Some(txt.txt_data.concat())
        })
        .await
    }

    /// TLSA records.
    pub async fn tlsa(&self, name: &str) -> Answer<RawTlsa> {
        self.named(self.best_eyes(), name, RecordType::TLSA, |data| {
            let RData::TLSA(tlsa) = data else { return None };
            Some(RawTlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            })
        })
        .await
    }

    /// Names of an address.
    pub async fn ptr(&self, address: IpAddr) -> Answer<String> {
        self.ask(Eyes::Plain, Name::from(address.to_canonical()), RecordType::PTR, |data| {
            let RData::PTR(ptr) = data else { return None };
            Some(plain_name(ptr))
        })
        .await
    }

    /// CAA records, as tag and value.
    pub async fn caa<T>(&self, name: &str, read: impl Fn((String, String)) -> T) -> Answer<T> {
        self.named(self.best_eyes(), name, RecordType::CAA, |data| {
            let RData::CAA(caa) = data else { return None };
            Some(read((caa.tag.to_ascii_lowercase(), String::from_utf8_lossy(&caa.value).into_owned())))
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
        // Outside of the limit: those who are before us have limits too, and their silence is not this name's.
        let _turn = self.gate.acquire().await;
        let asking = async {
            match eyes {
                Eyes::Plain => self.plain.lookup(name.clone(), kind).await,
                Eyes::Validating => {
                    let mut options = DnsRequestOptions::default();
                    options.use_edns = true;
                    options.edns_set_dnssec_ok = true;
                    self.validating.lookup(Query::query(name.clone(), kind), options).await
                }
            }
        };
        let limit = Duration::from_secs(QUESTION_SECONDS_MAX);
        match tokio::time::timeout(limit, asking).await {
            Ok(Ok(lookup)) => {
                if lookup.answers().len() > RECORDS_MAX {
                    self.forget(eyes, name.clone(), kind);
                }
                found(&lookup, &name, kind, eyes == Eyes::Validating, read)
            }
            Ok(Err(error)) => failed(&error),
            Err(_) => Answer::Temporary("no answer in time".to_owned()),
        }
    }

    fn forget(&self, eyes: Eyes, name: Name, kind: RecordType) {
        match eyes {
            Eyes::Plain => self.plain.clear_lookup_cache(name, kind),
            Eyes::Validating => self.validating.clear_cache_query(&Query::query(name, kind)),
        }
    }
}

/// True when every name server is on a loopback address, and there is one.
fn is_trusted(servers: impl Iterator<Item = IpAddr>) -> bool {
    let mut servers = servers.peekable();
    servers.peek().is_some() && servers.all(|address| address.is_loopback())
}

fn found<T>(
    lookup: &Lookup,
    asked: &Name,
    kind: RecordType,
    believe: bool,
    read: impl Fn(&RData) -> Option<T>,
) -> Answer<T> {
    let of_kind: Vec<&Record> =
        lookup.answers().iter().filter(|record| record.record_type() == kind).collect();
    let records: Vec<T> = of_kind.iter().filter_map(|record| read(&record.data)).take(RECORDS_MAX).collect();
    // The bit speaks for one message. An alias that had to be followed by another question is outside of it.
    let whole = lookup.query().name() == asked;
    match of_kind.first() {
        Some(first) if !records.is_empty() => Answer::Found(Found {
            records,
            secure: believe && whole && lookup.message().metadata.authentic_data,
            owner: plain_name(&first.name),
        }),
        // Aliases that lead nowhere.
        Some(_) | None => Answer::NoRecords,
    }
}

fn failed<T>(error: &NetError) -> Answer<T> {
    // The library's errors are many and may grow: only these are answers.
    let NetError::Dns(error) = error else { return Answer::Temporary(error.to_string()) };
    if let DnsError::NoRecordsFound(none) = error {
        return negative(none.response_code);
    }
    if let DnsError::ResponseCode(code) = error {
        return Answer::Temporary(format!("the server said {code}"));
    }
    Answer::Temporary(error.to_string())
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

fn configured(servers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let servers = servers.iter().map(name_server).collect();
    (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
}

/// What the system says; where it says nothing, the name server of this machine, as resolv.conf(5) has it.
fn system_configuration() -> (ResolverConfig, ResolverOpts) {
    match hickory_resolver::system_conf::read_system_conf() {
        Ok((config, options)) if !config.name_servers().is_empty() => (config, options),
        Ok(_) => configured(&[LOCAL_SERVER]),
        Err(error) => {
            tracing::warn!(
                event = "relay.route.dns.no_configuration",
                %error,
                "cannot read the system's name servers; asking {LOCAL_SERVER}"
            );
            configured(&[LOCAL_SERVER])
        }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_servers_inside_this_machine_are_believed_about_signatures() {
        let trusted = |servers: &[&str]| is_trusted(servers.iter().map(|text| text.parse().unwrap()));
        assert!(trusted(&["127.0.0.1"]) && trusted(&["127.0.0.53", "::1"])); // S7
        assert!(!trusted(&["127.0.0.1", "192.0.2.1"]) && !trusted(&["10.0.0.1"]) && !trusted(&[]));
    }
}
