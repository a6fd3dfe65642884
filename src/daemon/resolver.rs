//! Whether a name server answers, asked from time to time while somebody needs one.
//!
//! Look-ups of mail cannot tell: what is remembered is answered without asking anybody, and a silent domain looks like a
//! silent resolver. So this is a question of its own, for the name servers of the root, which every resolver knows.
//!
//! Who needs one: checks of senders and block lists always; deliveries while there is something to deliver.
//! Failure policy: silence is counted, and judged elsewhere; a resolver that nobody needs is not asked and not judged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::mail::outbound::route::dns::Dns;
use crate::observe::Metrics;

/// Time between two looks at the settings while nothing is asked.
const IDLE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Resolver {
    /// Something needs it, whatever is in the queue.
    always: AtomicBool,
    /// The queue needs it.
    wanted: AtomicBool,
    /// Time between two questions; 0: none are asked.
    every_seconds: AtomicU64,
    unanswered: AtomicU32,
    metrics: Arc<Metrics>,
}

impl Resolver {
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>) -> Arc<Self> {
        let this = Self {
            always: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            every_seconds: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
            metrics: Arc::clone(metrics),
        };
        this.follow(config);
        Arc::new(this)
    }

    /// Takes what has changed, from the next question on.
    pub(super) fn follow(&self, config: &Config) {
        let always = config.smtp.enabled && (config.verify.enabled || !config.smtp.dnsbl_zones.is_empty());
        self.always.store(always, Ordering::Relaxed);
        self.every_seconds.store(config.delivery.dns_probe_seconds, Ordering::Relaxed);
    }

    /// Questions in a row that were not answered.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Whether there is something to deliver.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Asks from time to time until `stop`.
    pub(super) async fn run(self: Arc<Self>, dns: Dns, stop: CancellationToken) {
        loop {
            let every = self.every_seconds.load(Ordering::Relaxed);
            let pause = if every == 0 { IDLE } else { Duration::from_secs(every) };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let needed = self.always.load(Ordering::Relaxed) || self.wanted.load(Ordering::Relaxed);
            let silent = if every > 0 && needed {
                tokio::select! {
                    () = stop.cancelled() => return,
                    answered = dns.probe() => !answered,
                }
            } else {
                false
            };
            let unanswered = if silent { self.unanswered().saturating_add(1) } else { 0 };
            self.unanswered.store(unanswered, Ordering::Relaxed);
            self.metrics.conditions.set_unanswered(unanswered);
        }
    }
}
