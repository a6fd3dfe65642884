//! Wiring of what stands in front of the services: gates behind proxies, the admin API over HTTP, and the dashboard.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::StartError;
use crate::config::{Config, Tls};
use crate::dashboard::{Access, Dashboard, RANDOM_BYTES, Settings};
use crate::http::AdminDoor;
use crate::http::guard::{Guard, SharedGuard, Token};
use crate::observe::Metrics;
use crate::proxy::{Gate, Strangers};
use crate::secrets::{self, SecretError};

/// Its name in the data directory.
const DASHBOARD_TOKEN: &str = "dashboard.token";

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
pub(super) fn admin_guard(config: &Config) -> Result<Option<SharedGuard>, StartError> {
    let Some(token) = admin_token(config)? else { return Ok(None) };
    let http = config.http.listen;
    if !http.ip().is_loopback() && config.http.tls_listen.is_none() {
        tracing::warn!(
            event = "relay.admin.http.plain", http = %http,
            "the admin API is not served: {http} is neither HTTPS nor loopback, and requests for it get 403; set `http.tls_listen`"
        );
    }
    Ok(Some(guard(config, token)))
}

fn guard(config: &Config, token: Token) -> SharedGuard {
    let mut hosts = vec![config.hostname.clone()];
    if let Some(Tls::Acme(acme)) = &config.tls {
        hosts.extend(acme.names.iter().cloned());
    }
    Arc::new(Mutex::new(Guard::new(token, &hosts, deny_window(config))))
}

/// The file with the token of a dashboard for which none is configured.
pub(super) fn dashboard_token_file(config: &Config) -> PathBuf {
    config.data_dir.join(DASHBOARD_TOKEN)
}

/// The dashboard, and what guards it.
pub(super) struct Face {
    pub(super) pages: Arc<Dashboard>,
    /// `None`: it shares the guard of the admin API.
    pub(super) own: Option<OwnGuard>,
}

/// The guard of a dashboard for which no token is configured: its token is that of the start.
pub(super) struct OwnGuard {
    guard: SharedGuard,
    token: Token,
}

impl OwnGuard {
    /// Remembers wrong tokens as `config` says, from now on.
    pub(super) fn follow(&self, config: &Config) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.replace(self.token.clone(), deny_window(config));
    }
}

/// The dashboard, with the guard of the admin API. When there is none it has a token of its own, which is made at the first start, and is
/// served on a loopback listener only; `None`: there is no such listener.
///
/// * `http` – where HTTP listens.
pub(super) fn dashboard(
    config: &Config,
    http: &[SocketAddr],
    configured: Option<&SharedGuard>,
    admin: &Router,
    metrics: &Arc<Metrics>,
) -> Result<Option<Face>, StartError> {
    let (guard, access, own) = match configured {
        Some(guard) => (Arc::clone(guard), Access::Configured, None),
        None if has_loopback(http) => {
            let file = dashboard_token_file(config);
            let shown = std::path::absolute(&file).unwrap_or_else(|_| file.clone()).display().to_string();
            let token = own_token(&file)?;
            let guard = guard(config, token.clone());
            (Arc::clone(&guard), Access::Local { file: shown }, Some(OwnGuard { guard, token }))
        }
        None => return Ok(None),
    };
    let settings = Settings {
        hostname: config.hostname.clone(),
        access,
        trusted_proxies: config.http.trusted_proxies.clone(),
        random: rand::random,
    };
    let pages = Dashboard::new(settings, admin.clone(), guard, Arc::clone(metrics));
    Ok(Some(Face { pages, own }))
}

/// Whether [`dashboard`] would find its token, or could make one, with HTTP at these addresses.
pub(super) fn may_show(config: &Config, http: &[SocketAddr]) -> Result<(), StartError> {
    let file = dashboard_token_file(config);
    if config.admin_http_token_file.is_none() && has_loopback(http) && file.exists() {
        kept_token(&file)?;
    }
    Ok(())
}

fn has_loopback(addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(|address| address.ip().is_loopback())
}

/// Reads the token, or makes one.
fn own_token(file: &Path) -> Result<Token, StartError> {
    if !file.exists() {
        let drawn = Zeroizing::new(rand::random::<[u8; RANDOM_BYTES]>());
        let line =
            Zeroizing::new(format!("{}\n", &*Zeroizing::new(BASE64URL_NOPAD.encode(drawn.as_slice()))));
        secrets::replace(file, line.as_bytes()).map_err(unusable)?;
    }
    kept_token(file)
}

fn unusable(error: SecretError) -> StartError {
    StartError::Secret { key: "data_dir", error }
}

fn kept_token(file: &Path) -> Result<Token, StartError> {
    let text = secrets::read_text(file).map_err(unusable)?;
    Token::from_text(&text)
        .map_err(|error| StartError::DashboardToken { file: file.display().to_string(), error })
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
    guard: SharedGuard,
    admin: &Router,
    metrics: &Arc<Metrics>,
) -> Arc<AdminDoor> {
    AdminDoor::new(admin.clone(), guard, config.http.trusted_proxies.clone(), Arc::clone(metrics))
}
