//! What the DNS says about a client and about a sender's domain, asked while the session goes on.
//!
//! * Block lists: all zones at once, as soon as the client connects; the answer is waited for at the first RCPT.
//! * Null MX of the sender's domain (RFC 7505), at MAIL.
//!
//! Promises: one connection waits [`PATIENCE_MAX`] for the lists in all, and asks about `SENDERS_MAX` domains (U10);
//! what was learned is remembered by the resolver, as long as the DNS allows. Questions end with the session.
//!
//! Failure policy: no answer, or a broken one, is no reason to refuse mail.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::mail::address::ReversePath;
use crate::mail::blocklist::{self, Listing};
use crate::mail::outbound::route::answer::Answer;
use crate::mail::outbound::route::dns::{Dns, Eyes};
use crate::mail::verdict::patience::Patience;
use crate::observe::Metrics;

/// Longest wait for block lists, from the start of the connection, and for one sender's domain.
pub const PATIENCE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the text of a listing.
const TEXT_PATIENCE: Duration = Duration::from_secs(1);
/// Most zones that are asked.
pub const ZONES_MAX: usize = 16;
/// Most sender domains that one connection makes us ask about.
const SENDERS_MAX: u32 = 20;

/// Whom to ask about what.
#[derive(Debug)]
pub struct Screen {
    dns: Dns,
    zones: Vec<String>,
    null_mx: bool,
    patience: Duration,
    /// With the resolver, when it is asked about senders: one that is dead costs less and less.
    with_senders: Mutex<Patience>,
    metrics: Arc<Metrics>,
}

impl Screen {
    /// A screen that asks `dns`.
    ///
    /// * `zones` – block lists, the first [`ZONES_MAX`] of them.
    /// * `null_mx` – look at senders' domains.
    /// * `patience` – per question, at most [`PATIENCE_MAX`].
    #[must_use]
    pub fn new(
        dns: Dns,
        zones: &[String],
        null_mx: bool,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let zones = zones.iter().take(ZONES_MAX).cloned().collect();
        let patience = patience.min(PATIENCE_MAX);
        let with_senders = Mutex::new(Patience::new(patience));
        Arc::new(Self { dns, zones, null_mx, patience, with_senders, metrics })
    }

    /// Begins to ask about a client that has just connected.
    pub(super) fn look_up(self: &Arc<Self>, client: IpAddr) -> Lookup {
        if self.zones.is_empty() || !blocklist::concerns(client) {
            return Lookup::Known(None);
        }
        let screen = Arc::clone(self);
        Lookup::Asking(tokio::spawn(async move { screen.listing(client).await }))
    }

    async fn listing(&self, client: IpAddr) -> Option<Listing> {
        let ask = |zone: &'_ String| {
            let name = blocklist::question(client, zone);
            async move {
                let Ok(answer) = timeout(self.patience, self.dns.v4(Eyes::Plain, &name)).await else {
                    return false;
                };
                answer.found().is_some_and(|found| {
                    let listing = |address: &IpAddr| match address {
                        IpAddr::V4(v4) => blocklist::is_listing(*v4),
                        IpAddr::V6(_) => false,
                    };
                    found.records.iter().any(listing)
                })
            }
        };
        let listed = join_all(self.zones.iter().map(ask)).await;
        let (zone, _) = self.zones.iter().zip(listed).find(|(_, listed)| *listed)?;
        let name = blocklist::question(client, zone);
        let raw = timeout(TEXT_PATIENCE, self.dns.txt(Eyes::Plain, &name)).await.ok();
        let raw = raw.as_ref().and_then(|answer| answer.found()).and_then(|found| found.records.first());
        self.metrics.abuse.listed(zone);
        Some(Listing { zone: zone.clone(), text: raw.map_or_else(String::new, |raw| blocklist::text(raw)) })
    }

    /// True when the sender's domain certainly says that it takes no mail.
    async fn has_null_mx(&self, domain: &str) -> bool {
        let patience = || self.with_senders.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = patience().allowed();
        let Ok(answer) = timeout(allowed, self.dns.mx(Eyes::Plain, domain)).await else {
            patience().was_silent();
            return false;
        };
        match answer {
            Answer::Found(_) | Answer::NoRecords | Answer::NxDomain => patience().answered(),
            Answer::Temporary(_) => {}
        }
        answer.found().is_some_and(|found| matches!(found.records.as_slice(), [one] if one.host.is_empty()))
    }
}

/// What block lists say about one client.
#[derive(Debug)]
pub(super) enum Lookup {
    /// They were asked.
    Asking(JoinHandle<Option<Listing>>),
    /// They have answered, or were not asked.
    Known(Option<Listing>),
}

impl Lookup {
    /// The answer, waited for the first time.
    pub(super) async fn listing(&mut self) -> Option<&Listing> {
        if let Self::Asking(task) = self {
            let listing = task.await.unwrap_or(None);
            *self = Self::Known(listing);
        }
        match self {
            Self::Known(listing) => listing.as_ref(),
            Self::Asking(_) => None,
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if let Self::Asking(task) = self {
            task.abort();
        }
    }
}

/// What one connection has asked about senders.
#[derive(Debug, Default)]
pub(super) struct Senders {
    asked: u32,
    latest: Option<(String, bool)>,
}

impl Senders {
    /// True when `from` cannot be answered, as its domain says.
    pub(super) async fn unanswerable(&mut self, screen: &Screen, from: &ReversePath) -> bool {
        let ReversePath::Mailbox(mailbox) = from else { return false };
        if !screen.null_mx || mailbox.is_literal() {
            return false;
        }
        if let Some((domain, known)) = &self.latest
            && domain == mailbox.domain()
        {
            return *known;
        }
        if self.asked >= SENDERS_MAX {
            return false;
        }
        self.asked += 1;
        let found = screen.has_null_mx(mailbox.domain()).await;
        self.latest = Some((mailbox.domain().to_owned(), found));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::route::dns::DnsSettings;
    use crate::mail::verdict::patience::SILENT_MAX;

    #[tokio::test]
    async fn a_resolver_that_never_answers_costs_senders_less_and_less() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = vec![silent.local_addr().unwrap()];
        let dns = Dns::new(&DnsSettings { servers, ..DnsSettings::default() }).unwrap();
        let full = Duration::from_millis(200);
        let screen = Screen::new(dns, &[], true, full, Arc::new(Metrics::new()));
        for n in 0..SILENT_MAX {
            assert!(!screen.has_null_mx(&format!("d{n}.example")).await);
        }
        assert!(screen.with_senders.lock().unwrap().allowed() < full);
    }
}
