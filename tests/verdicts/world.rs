//! Checks without a relay around them: a name server, and messages that are inspected and judged.

use std::sync::Arc;
use std::time::Duration;

use waystation::mail::outbound::route::dns::{Dns as Resolver, DnsSettings};
use waystation::mail::verdict::Budget;
use waystation::mail::verdict::evaluate::{Judged, Settings, Verifier};
use waystation::mail::verdict::inspector::{Inspected, Inspector};
use waystation::mail::verdict::spf::Sender;
use waystation::observe::Metrics;

use crate::support::dns::Dns;

/// Our name.
pub(super) const OURS: &str = "mx.our.example";
/// Patience with DNS where the scenario is not about it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A name server and who asks it.
pub(super) struct World {
    pub(super) dns: Dns,
    metrics: Arc<Metrics>,
    pub(super) verifier: Arc<Verifier>,
}

/// Checks that ask `dns`, each packet for `packet` at most.
pub(super) fn resolver(dns: &Dns, packet: Duration) -> Resolver {
    Resolver::new(&DnsSettings { servers: vec![dns.address()], timeout: packet }).expect("a resolver")
}

impl World {
    pub(super) async fn start() -> Self {
        Self::patient(PATIENCE, Duration::from_secs(5)).await
    }

    /// `all`: for one message; `packet`: for one packet.
    pub(super) async fn patient(all: Duration, packet: Duration) -> Self {
        let dns = Dns::start().await;
        let settings = Settings { hostname: OURS.to_owned(), timeout: all, refuse_dmarc_reject: true };
        let metrics = Arc::new(Metrics::new());
        let verifier = Verifier::new(settings, resolver(&dns, packet).plain(), metrics.clone());
        Self { dns, metrics, verifier }
    }

    /// One line of the metrics, `name{labels}`, or 0.
    pub(super) fn number(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Judges a message from a client; `from` is the reverse-path.
    pub(super) async fn judge(&self, client: &str, helo: &str, from: &str, message: &[u8]) -> Judged {
        let (_, inspected) = inspect(message, 4096);
        let sender = Sender {
            client: client.parse().expect("an address"),
            helo: helo.to_owned(),
            mail_from: from.to_owned(),
        };
        self.verifier.judge(sender, inspected, Budget::default()).await
    }
}

/// What the inspector makes of a message that arrives in pieces.
pub(super) fn inspect(message: &[u8], piece: usize) -> (Vec<u8>, Inspected) {
    let (mut inspector, mut stored) = (Inspector::new(OURS, true), Vec::new());
    message.chunks(piece).for_each(|bytes| inspector.push(bytes, &mut stored));
    let inspected = inspector.finish(&mut stored);
    (stored, inspected)
}

/// Line ends as they are on the wire.
pub(super) fn crlf(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).expect("text");
    text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
}
