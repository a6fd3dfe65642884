//! Wiring of what stands in front of the services: gates behind proxies, and the admin API over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use super::StartError;
use crate::config::{Config, Tls};
use crate::http::AdminDoor;
use crate::http::guard::{Guard, Token};
use crate::observe::Metrics;
use crate::proxy::{Gate, Strangers};
use crate::secrets;

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

/// Who may use the admin API over HTTP, when there is a token for it.
pub(super) fn admin_guard(config: &Config) -> Result<Option<Guard>, StartError> {
    let Some(token) = admin_token(config)? else { return Ok(None) };
    let http = config.http.listen;
    if !http.ip().is_loopback() && config.http.tls_listen.is_none() {
        tracing::warn!(
            event = "relay.admin.http.plain", http = %http,
            "the admin API is not served: {http} is neither HTTPS nor loopback, and requests for it get 403; set `http.tls_listen`"
        );
    }
    let mut hosts = vec![config.hostname.clone()];
    if let Some(Tls::Acme(acme)) = &config.tls {
        hosts.extend(acme.names.iter().cloned());
    }
    Ok(Some(Guard::new(token, &hosts, deny_window(config))))
}

/// The token for the admin API over HTTP, if there is to be one.
pub(super) fn admin_token(config: &Config) -> Result<Option<Token>, StartError> {
    let Some(file) = &config.admin_http_token_file else { return Ok(None) };
    let text = secrets::read_text(file)
        .map_err(|error| StartError::Secret { key: "admin.http_token_file", error })?;
    Token::from_text(&text)
        .map(Some)
        .map_err(|error| StartError::WeakToken { file: file.display().to_string(), error })
}

/// How long wrong tokens are remembered, when limits hold.
pub(super) fn deny_window(config: &Config) -> Option<Duration> {
    config.limits.enabled.then(|| Duration::from_secs(config.limits.deny_window_seconds))
}

/// The admin API behind that guard.
pub(super) fn admin_door(
    config: &Config,
    guard: Guard,
    admin: &Router,
    metrics: &Arc<Metrics>,
) -> Arc<AdminDoor> {
    AdminDoor::new(admin.clone(), guard, config.http.trusted_proxies.clone(), Arc::clone(metrics))
}
