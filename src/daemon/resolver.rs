//! Whether a name server answers, asked from time to time while somebody needs one.
//!
//! Look-ups of mail cannot tell: what is remembered is answered without asking anybody, and a silent domain looks like a
//! silent resolver. So this is a question of its own, for the name servers of the root, which every resolver knows.
//!
//! Who needs one: checks of senders and block lists always; deliveries while there is something to deliver.
//! Failure policy: silence is counted, and judged elsewhere; a resolver that nobody needs is not asked and not judged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::mail::outbound::route::dns::Dns;
use crate::observe::Metrics;

/// See the module.
#[derive(Debug)]
pub(super) struct Resolver {
    /// Something needs it, whatever is in the queue.
    always: bool,
    /// The queue needs it.
    wanted: AtomicBool,
    unanswered: AtomicU32,
    metrics: Arc<Metrics>,
}

impl Resolver {
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>) -> Arc<Self> {
        let always = config.smtp.enabled && (config.verify.enabled || !config.smtp.dnsbl_zones.is_empty());
        let (wanted, unanswered) = (AtomicBool::new(false), AtomicU32::new(0));
        Arc::new(Self { always, wanted, unanswered, metrics: Arc::clone(metrics) })
    }

    /// Questions in a row that were not answered.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Whether there is something to deliver.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Asks every `every` until `stop`; never, when it is zero.
    pub(super) async fn run(self: Arc<Self>, dns: Dns, every: Duration, stop: CancellationToken) {
        if every.is_zero() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let silent = if self.always || self.wanted.load(Ordering::Relaxed) {
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
