//! Wiring of what stands in front of the services: gates behind proxies.

use std::sync::Arc;

use crate::config::Config;
use crate::observe::Metrics;
use crate::proxy::{Gate, Strangers};

/// Behind a proxy, all mail comes through it.
pub(super) fn smtp_gate(config: &Config, metrics: &Arc<Metrics>) -> Option<Arc<Gate>> {
    gate("smtp", config, config.smtp.proxy_protocol, Strangers::Refused, metrics)
}

/// Gateways may come directly, too.
pub(super) fn http_gate(config: &Config, metrics: &Arc<Metrics>) -> Option<Arc<Gate>> {
    gate("http", config, config.http.proxy_protocol, Strangers::Served, metrics)
}

fn gate(
    name: &'static str,
    config: &Config,
    on: bool,
    strangers: Strangers,
    metrics: &Arc<Metrics>,
) -> Option<Arc<Gate>> {
    let trusted = || config.http.trusted_proxies.clone();
    on.then(|| Gate::new(name, trusted(), strangers, Arc::clone(metrics)))
}
