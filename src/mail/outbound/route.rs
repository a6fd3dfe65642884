//! From a recipient's domain to the places to try, with what TLS must be like there.
//!
//! * [`answer`], [`mx`], [`addresses`], [`dane`], [`mta_sts`], [`demand`]: PURE: what was learned, and what follows.
//! * [`dns`], [`policies`], [`fetch`], [`levels`]: the drivers: name servers, policy hosts, memory on disk.
//!
//! Promises: every call looks again (only the DNS' own TTLs are remembered, O14); what is not certain is temporary;
//! what is certain and hopeless is permanent with a sentence that says why; the list is bounded. A place is never
//! offered below the protection that the settings or the domain's own policy ask for: when none is left, that is a
//! temporary failure, never a delivery in the clear (S3, S6, S12).
//!
//! Does not: connect, or decide when to try again. It is told how connections went by [`Router::learned`].

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::{join, join_all};
use spool::ids::WallMs;

use super::values::{Endpoint, TlsDemand, TlsLevel};
use crate::clock;
use addresses::{ADDRESSES_MAX, Limits, Looked, Reach, Reachable};
pub use answer::RouteError;
use answer::{Answer, Found};
use dane::Dane;
use demand::{Known, Unusable};
use dns::{Dns, DnsSettings, DnsSetupError, Eyes};
use fetch::{FetchSettings, Fetcher};
use levels::Levels;
use mta_sts::{Mode, Policy};
use mx::{Candidate, Candidates};
use policies::{Look, Policies};

pub mod addresses;
pub mod answer;
pub mod dane;
pub mod demand;
pub mod dns;
pub mod fetch;
pub mod levels;
pub mod mta_sts;
pub mod mx;
pub mod policies;

/// Hosts of one domain that are looked up at once, two questions each.
const HOSTS_AT_ONCE: usize = 2;

/// How much protection mail needs (setting `delivery.tls_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// TLS when the host offers it, whatever its certificate.
    #[default]
    Opportunistic,
    /// What the domain publishes by DANE or MTA-STS counts; else opportunistic.
    DaneMtaSts,
    /// DANE or a valid certificate, for every domain.
    Require,
}

impl TlsPolicy {
    /// From the word in the configuration.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "opportunistic" => Some(Self::Opportunistic),
            "dane+mta-sts" => Some(Self::DaneMtaSts),
            "require" => Some(Self::Require),
            _ => None,
        }
    }
}

/// One host that takes all mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smarthost {
    /// A name, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Smarthost {
    /// Reads `host:port`, `192.0.2.1:25` or `[2001:db8::1]:25`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&port| port != 0)?;
        Some(Self { host: crate::mail::address::domain_key(host).ok()?, port })
    }
}

/// What a router is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name servers.
    pub dns: DnsSettings,
    /// Port of mail servers: 25.
    pub port: u16,
    /// Names of this relay, A-labels, lower case.
    pub own_names: Vec<String>,
    /// Where this relay takes mail.
    pub own_addresses: Vec<SocketAddr>,
    /// Takes all mail when set.
    pub smarthost: Option<Smarthost>,
    /// For all domains.
    pub tls_policy: TlsPolicy,
    /// Domains with [`TlsPolicy::Require`], A-labels, lower case.
    pub require_domains: Vec<String>,
    /// Loopback and private addresses may be connected to.
    pub allow_private_targets: bool,
    /// Where policies and levels are remembered; must exist.
    pub data_dir: PathBuf,
    /// Where MTA-STS policies are fetched.
    pub policies: FetchSettings,
}

/// Where to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// In the order to try; at least one, at most [`ADDRESSES_MAX`].
    pub endpoints: Vec<Endpoint>,
    /// A host is not among them that may be at another time: no address or no TLSA answer for now, or not named by
    /// the policy. What the limits cut off does not count.
    pub left_out: bool,
}

/// How a connection to an endpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// EHLO was answered at this level of protection.
    Reached(TlsLevel),
    /// STARTTLS was offered, and the handshake (not the certificate's check) broke.
    StarttlsBroke,
    /// STARTTLS was demanded and not offered, or refused.
    StarttlsMissing,
}

/// The router could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RouterSetupError {
    /// The resolvers.
    #[error(transparent)]
    Dns(#[from] DnsSetupError),
    /// The trust anchors for policy hosts.
    #[error("the trust anchors for MTA-STS cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// Finds routes; clones share what is remembered.
#[derive(Clone, Debug)]
pub struct Router {
    settings: Arc<Settings>,
    dns: Dns,
    policies: Policies,
    levels: Arc<Levels>,
}

/// A host with its addresses, and what TLS must be like there.
struct Judged<'a> {
    host: &'a Reachable,
    tls: Result<TlsDemand, Unusable>,
}

impl Router {
    /// Sets the resolvers up and reads what was remembered; asks nothing yet.
    ///
    /// # Errors
    /// [`RouterSetupError`].
    pub fn new(settings: Settings) -> Result<Self, RouterSetupError> {
        let dns = Dns::new(&settings.dns)?;
        let policies = Policies::new(&settings.data_dir, Fetcher::new(&settings.policies)?);
        let levels = Arc::new(Levels::open(&settings.data_dir));
        Ok(Self { settings: Arc::new(settings), dns, policies, levels })
    }

    /// A router by other settings that shares resolver, policies and memory with this one: name servers, the data
    /// directory and where policies are fetched stay as they are.
    #[must_use]
    pub fn by(&self, settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ..self.clone() }
    }

    /// The resolver, for others who look things up.
    #[must_use]
    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// What the operator should know at the start: DANE was asked for, and cannot engage (S7).
    pub async fn warning(&self) -> Option<&'static str> {
        let wanted =
            self.settings.tls_policy != TlsPolicy::Opportunistic || !self.settings.require_domains.is_empty();
        (wanted && !self.dns.validates().await).then_some(
            "DANE is off: it needs a local name server that validates DNSSEC (unbound on a loopback address, for \
             example), named in delivery.dns_servers or in the system's configuration",
        )
    }

    /// The places to try for mail to `domain` (A-labels in lower case, or an address literal with its brackets).
    ///
    /// # Errors
    /// [`RouteError`].
    pub async fn route(&self, domain: &str, now: WallMs) -> Result<Route, RouteError> {
        match self.find(domain, now).await {
            // A smarthost with a wrong name or address is a mistake of ours, and no reason to give mail up.
            Err(RouteError::Permanent { text, .. })
                if self.settings.smarthost.is_some() && !domain.starts_with('[') =>
            {
                let text = format!("delivery.smarthost cannot be used: {text}");
                Err(RouteError::Temporary { text, enhanced: "4.3.5" })
            }
            found => found,
        }
    }

    async fn find(&self, domain: &str, now: WallMs) -> Result<Route, RouteError> {
        if domain.starts_with('[') {
            let text = format!("mail is not sent to address literals ({domain})"); // O12
            return Err(RouteError::Permanent { text, enhanced: "5.1.2" });
        }
        let required = self.is_required(domain);
        let published = required || self.settings.tls_policy == TlsPolicy::DaneMtaSts;
        let eyes = if published { self.dns.best_eyes() } else { Eyes::Plain };
        let (candidates, port) = match &self.settings.smarthost {
            Some(smarthost) => (only(&smarthost.host), smarthost.port),
            None => (self.candidates(eyes, domain).await?, self.settings.port),
        };
        let hosts = self.look_up(eyes, &candidates).await;
        let is_own = |address| self.is_own(SocketAddr::new(address, port));
        let limits = Limits { private: self.settings.allow_private_targets, is_own: &is_own };
        let Reach { hosts: reachable, left_out } = addresses::reachable(domain, &hosts, &limits)?;

        let secure = candidates.secure && eyes == Eyes::Validating;
        let dane = join_all(reachable.iter().map(|host| async {
            let looked = hosts.iter().find(|looked| looked.host == host.host);
            match looked.filter(|looked| secure && looked.is_secure()) {
                Some(looked) => self.dane(domain, looked, port).await,
                None => Dane::Silent,
            }
        }))
        .await;
        // The policy is about the domain's MX hosts; a smarthost is not one.
        let publishes = published && self.settings.smarthost.is_none();
        let mut policy = if publishes { self.policy(eyes, domain, Look::IfNeeded, now).await } else { None };
        let mut judged = self.judge(domain, &reachable, &dane, policy.as_ref(), required, now);
        if publishes && judged.iter().all(|host| host.tls == Err(Unusable::NotInPolicy)) {
            policy = self.policy(eyes, domain, Look::Again, now).await;
            judged = self.judge(domain, &reachable, &dane, policy.as_ref(), required, now);
        }
        note_testing(domain, policy.as_ref(), &reachable);
        let route = endpoints(domain, &judged, port)?;
        Ok(Route { left_out: route.left_out || left_out, ..route })
    }

    /// Takes in how a connection to an endpoint of a route for `domain` went.
    ///
    /// Returns the endpoint to try next instead of giving the host up: the same one in the clear, on a new connection,
    /// when STARTTLS broke and nothing asks for TLS (S2).
    pub fn learned(&self, domain: &str, endpoint: &Endpoint, what: Learned, now: WallMs) -> Option<Endpoint> {
        let downgraded = match (&endpoint.tls, what) {
            (_, Learned::Reached(level)) => {
                self.levels.raise(self.subject(domain), level, now);
                false
            }
            (TlsDemand::Opportunistic { cleartext: true }, Learned::StarttlsBroke) => {
                self.levels.broke(&endpoint.host, clock::monotonic());
                return Some(Endpoint { tls: TlsDemand::Cleartext, ..endpoint.clone() });
            }
            (TlsDemand::Opportunistic { cleartext }, Learned::StarttlsBroke | Learned::StarttlsMissing) => {
                !*cleartext
            }
            (
                TlsDemand::WebPki { .. } | TlsDemand::Dane { .. } | TlsDemand::Encrypted,
                Learned::StarttlsBroke | Learned::StarttlsMissing,
            ) => true,
            (TlsDemand::Cleartext, Learned::StarttlsBroke | Learned::StarttlsMissing) => false,
        };
        if downgraded {
            tracing::warn!(
                event = "relay.route.tls.downgrade",
                domain,
                host = endpoint.host,
                known = ?self.levels.of(self.subject(domain), now),
                "a host without working TLS where TLS is needed: broken, or somebody strips STARTTLS"
            );
        }
        None
    }

    /// Whose protection is remembered.
    fn subject<'a>(&'a self, domain: &'a str) -> &'a str {
        self.settings.smarthost.as_ref().map_or(domain, |smarthost| smarthost.host.as_str())
    }

    fn is_required(&self, domain: &str) -> bool {
        self.settings.tls_policy == TlsPolicy::Require
            || self.settings.require_domains.iter().any(|known| known == domain)
    }

    async fn candidates(&self, eyes: Eyes, domain: &str) -> Result<Candidates, RouteError> {
        let answer = self.dns.mx(eyes, domain).await;
        mx::candidates(domain, &answer, &self.settings.own_names, &mut |n| rand::random_range(0..n))
    }

    async fn look_up(&self, eyes: Eyes, candidates: &Candidates) -> Vec<Looked> {
        let mut looked = Vec::with_capacity(candidates.hosts.len());
        for hosts in candidates.hosts.chunks(HOSTS_AT_ONCE) {
            let hosts = hosts.iter().map(|candidate| async move {
                let Candidate { preference, host } = candidate.clone();
                if let Ok(address) = host.parse::<IpAddr>() {
                    return literal(host, preference, address);
                }
                let (v4, v6) = join(self.dns.v4(eyes, &host), self.dns.v6(eyes, &host)).await;
                Looked { host, preference, v4, v6 }
            });
            looked.extend(join_all(hosts).await);
        }
        looked
    }

    /// What the TLSA records of a host with secure addresses say.
    async fn dane(&self, domain: &str, host: &Looked, port: u16) -> Dane {
        for base in dane::bases(&host.host, host.alias()) {
            let answer = self.dns.tlsa(&dane::record_name(base, port)).await;
            let verdict = dane::judge(&answer, &[base, &host.host, domain]);
            if verdict != Dane::Silent {
                return verdict;
            }
        }
        Dane::Silent
    }

    async fn policy(&self, eyes: Eyes, domain: &str, look: Look, now: WallMs) -> Option<Policy> {
        self.policies.of(&self.dns, eyes, domain, look, now).await
    }

    fn judge<'a>(
        &self,
        domain: &str,
        hosts: &'a [Reachable],
        dane: &[Dane],
        policy: Option<&Policy>,
        required: bool,
        now: WallMs,
    ) -> Vec<Judged<'a>> {
        let level = self.levels.of(self.subject(domain), now);
        let instant = clock::monotonic();
        let judge = |(host, dane): (&'a Reachable, &Dane)| {
            let broken = self.levels.is_broken(&host.host, instant);
            let known = Known { required, policy, level, broken };
            Judged { host, tls: demand::demand(&host.host, dane, known) }
        };
        hosts.iter().zip(dane).map(judge).collect()
    }

    /// Whether this relay takes mail at that address.
    fn is_own(&self, target: SocketAddr) -> bool {
        self.settings.own_addresses.iter().any(|own| {
            own.port() == target.port()
                && (own.ip() == target.ip() || (own.ip().is_unspecified() && is_local(target.ip())))
        })
    }
}

/// The places, or why there are none.
fn endpoints(domain: &str, hosts: &[Judged<'_>], port: u16) -> Result<Route, RouteError> {
    let mut endpoints = Vec::new();
    let mut deferred = None;
    for Judged { host, tls } in hosts {
        match tls {
            Ok(tls) => endpoints.extend(host.addresses.iter().map(|&address| Endpoint {
                host: host.host.clone(),
                address: SocketAddr::new(address, port),
                tls: tls.clone(),
            })),
            Err(Unusable::Deferred(why)) => {
                deferred.get_or_insert_with(|| {
                    RouteError::dns(&format!("the TLSA records of {}", host.host), why)
                });
            }
            Err(Unusable::NotInPolicy) => {}
        }
    }
    let left_out = hosts.iter().any(|host| host.tls.is_err());
    endpoints.truncate(ADDRESSES_MAX);
    if endpoints.is_empty() {
        let text = format!("the MTA-STS policy of {domain} names none of its mail servers");
        return Err(deferred.unwrap_or(RouteError::Temporary { text, enhanced: "4.7.0" }));
    }
    Ok(Route { endpoints, left_out })
}

/// S4: a policy on trial is only talked about.
fn note_testing(domain: &str, policy: Option<&Policy>, hosts: &[Reachable]) {
    let Some(policy) = policy.filter(|policy| policy.mode == Mode::Testing) else { return };
    for host in hosts.iter().filter(|host| !policy.names(&host.host)) {
        tracing::info!(
            event = "relay.route.mta_sts.would_refuse",
            domain,
            host = host.host,
            "the domain's MTA-STS policy, still in testing, does not name this host"
        );
    }
}

/// The way to a host that was configured.
fn only(host: &str) -> Candidates {
    let hosts = vec![Candidate { preference: 0, host: host.to_owned() }];
    Candidates { hosts, secure: true, implicit: false }
}

fn literal(host: String, preference: u16, address: IpAddr) -> Looked {
    let found = Answer::Found(Found { records: vec![address], secure: false, owner: host.clone() });
    Looked { host, preference, v4: found, v6: Answer::NoRecords }
}

/// Whether an address belongs to this machine: only then can a socket be bound to it. Sends nothing.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests;
