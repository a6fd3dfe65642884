//! What the checks of senders need, made from the configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::mail::outbound::route::Router;
use crate::mail::verdict::evaluate::{Settings, Verifier};
use crate::observe::Metrics;

/// Checks senders with the resolver of deliveries: one configuration, one memory. `None`: `verify.enabled` is off.
pub(super) fn verifier(config: &Config, router: &Router, metrics: &Arc<Metrics>) -> Option<Arc<Verifier>> {
    let verify = &config.verify;
    let settings = Settings {
        hostname: config.hostname.clone(),
        timeout: Duration::from_millis(verify.timeout_ms),
        refuse_dmarc_reject: verify.refuse_dmarc_reject,
    };
    verify.enabled.then(|| Verifier::new(settings, router.dns().plain(), Arc::clone(metrics)))
}
