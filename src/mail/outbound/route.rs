//! From a recipient's domain to the places to try, with what TLS must be like there.
//!
//! * [`route::answer`](answer), [`mx`], [`addresses`], [`dane`]: PURE: what answers of the DNS mean.
//! * [`dns`]: the driver that asks.
//!
//! Promises: every call looks again (only the DNS' own TTLs are remembered, O14); what is not certain is temporary;
//! what is certain and hopeless is permanent with a sentence that says why; the list is bounded. A place is never
//! offered below the protection that the settings or the domain's own policy ask for.
//!
//! Does not: connect, or decide when to try again.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use futures_util::future::{join, join_all};
use spool::ids::WallMs;

use super::values::{Endpoint, TlsDemand};
use addresses::{Limits, Looked, Reachable};
pub use answer::RouteError;
use dns::{Dns, DnsSettings, DnsSetupError, Eyes};
use mx::{Candidate, Candidates};

pub mod addresses;
pub mod answer;
pub mod dane;
pub mod dns;
pub mod mx;

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
    /// Where policies and levels are remembered.
    pub data_dir: PathBuf,
}

/// Where to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// In the order to try; at least one, at most [`addresses::ADDRESSES_MAX`].
    pub endpoints: Vec<Endpoint>,
}

/// Finds routes; clones share what is remembered.
#[derive(Clone, Debug)]
pub struct Router {
    settings: std::sync::Arc<Settings>,
    dns: Dns,
}

impl Router {
    /// Sets the resolvers up; asks nothing yet.
    ///
    /// # Errors
    /// [`DnsSetupError`].
    pub fn new(settings: Settings) -> Result<Self, DnsSetupError> {
        let dns = Dns::new(&settings.dns)?;
        Ok(Self { settings: std::sync::Arc::new(settings), dns })
    }

    /// The resolver, for others who look things up.
    #[must_use]
    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// The places to try for mail to `domain` (A-labels in lower case, or an address literal with its brackets).
    ///
    /// # Errors
    /// [`RouteError`].
    pub async fn route(&self, domain: &str, _now: WallMs) -> Result<Route, RouteError> {
        if domain.starts_with('[') {
            let text = format!("mail is not sent to address literals ({domain})"); // O12
            return Err(RouteError::Permanent { text, enhanced: "5.1.2" });
        }
        let (candidates, port) = match &self.settings.smarthost {
            Some(smarthost) => (only(&smarthost.host), smarthost.port),
            None => (self.candidates(domain).await?, self.settings.port),
        };
        let hosts = self.look_up(&candidates).await;
        let is_own = |address| self.is_own(SocketAddr::new(address, port));
        let limits = Limits { private: self.settings.allow_private_targets, is_own: &is_own };
        let reachable = addresses::reachable(domain, &hosts, &limits)?;
        let endpoints = reachable.iter().flat_map(|host| self.endpoints(domain, host, port)).collect();
        Ok(Route { endpoints })
    }

    async fn candidates(&self, domain: &str) -> Result<Candidates, RouteError> {
        let answer = self.dns.mx(Eyes::Plain, domain).await;
        mx::candidates(domain, &answer, &self.settings.own_names, &mut |n| rand::random_range(0..n))
    }

    async fn look_up(&self, candidates: &Candidates) -> Vec<Looked> {
        let hosts = candidates.hosts.iter().map(|candidate| async move {
            let Candidate { preference, host } = candidate.clone();
            if let Ok(address) = host.parse::<IpAddr>() {
                return literal(host, preference, address);
            }
            let (v4, v6) = join(self.dns.v4(Eyes::Plain, &host), self.dns.v6(Eyes::Plain, &host)).await;
            Looked { host, preference, v4, v6 }
        });
        join_all(hosts).await
    }

    fn endpoints<'a>(
        &'a self,
        domain: &str,
        host: &'a Reachable,
        port: u16,
    ) -> impl Iterator<Item = Endpoint> + 'a {
        let required = self.settings.tls_policy == TlsPolicy::Require
            || self.settings.require_domains.iter().any(|known| known == domain);
        let tls = if required {
            TlsDemand::WebPki { names: vec![host.host.clone()] }
        } else {
            TlsDemand::Opportunistic { cleartext: true }
        };
        host.addresses.iter().map(move |&address| Endpoint {
            host: host.host.clone(),
            address: SocketAddr::new(address, port),
            tls: tls.clone(),
        })
    }

    /// Whether this relay takes mail at that address.
    fn is_own(&self, target: SocketAddr) -> bool {
        self.settings.own_addresses.iter().any(|own| {
            own.port() == target.port()
                && (own.ip() == target.ip() || (own.ip().is_unspecified() && is_local(target.ip())))
        })
    }
}

/// The way to a host that was configured.
fn only(host: &str) -> Candidates {
    let hosts = vec![Candidate { preference: 0, host: host.to_owned() }];
    Candidates { hosts, secure: true, implicit: false }
}

fn literal(host: String, preference: u16, address: IpAddr) -> Looked {
    let found =
        answer::Answer::Found(answer::Found { records: vec![address], secure: false, owner: host.clone() });
    Looked { host, preference, v4: found, v6: answer::Answer::NoRecords }
}

/// Whether an address belongs to this machine: only then can a socket be bound to it. Sends nothing.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}
