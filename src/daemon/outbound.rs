//! What deliveries need, made from the configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Config, TlsWord};
use crate::current::Current;
use crate::mail::outbound::connection::{Dialing, Timeouts};
use crate::mail::outbound::delivery::standing::Standing;
use crate::mail::outbound::delivery::switch::Switch;
use crate::mail::outbound::delivery::{self, Deps, Plan};
use crate::mail::outbound::prepare::dkim::keys::{self, KeyError};
use crate::mail::outbound::prepare::dkim::{self, Signer, SignerError, ed25519_selector};
use crate::mail::outbound::route::dns::DnsSettings;
use crate::mail::outbound::route::fetch::FetchSettings;
use crate::mail::outbound::route::{self, Router, RouterSetupError, Smarthost, TlsPolicy};
use crate::mail::outbound::schedule::{self, Retry};
use crate::observe::{DeliveryClass, Metrics};
use crate::spooler::Spooler;

/// Deliveries cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Resolvers or trust anchors.
    #[error(transparent)]
    Router(#[from] RouterSetupError),
    /// A key file.
    #[error("{error}; `{key}` in the configuration names it")]
    Key {
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong.
        error: KeyError,
    },
    /// The signer's settings.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

impl SetupError {
    /// What is configured is wrong, and another start would find it so again.
    pub(super) fn is_configuration(&self) -> bool {
        match self {
            Self::Signer(_) => true,
            Self::Key { error, .. } => match error {
                KeyError::Secret(_) | KeyError::Content { .. } => true,
                KeyError::Generate(_) => false,
            },
            Self::Router(_) => false,
        }
    }
}

/// How deliveries are run.
pub(super) fn settings(config: &Config) -> delivery::Settings {
    let d = &config.delivery;
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    let percent = u32::try_from(d.timeouts_percent).unwrap_or(100);
    let timeouts = Timeouts {
        dot: Duration::from_secs(d.final_dot_timeout_seconds),
        ..Timeouts::scaled(f64::from(percent) / 100.0)
    };
    delivery::Settings {
        schedule: schedule::Settings {
            total_max: d.max_concurrent_total,
            per_destination_max: d.max_concurrent_per_destination,
            interval: Duration::from_millis(d.interval_per_destination_ms),
            retry: Retry {
                waits_ms: d.retry_schedule_seconds.iter().copied().map(ms).collect(),
                greylist_ms: ms(d.greylist_wait_seconds),
            },
        },
        dialing: Dialing {
            helo: config.hostname.clone(),
            timeouts,
            source_addresses: d.source_addresses.clone(),
            ..Dialing::default()
        },
        expire_ms: ms(d.expire_after_seconds),
        class: if d.smarthost.is_some() { DeliveryClass::Smarthost } else { DeliveryClass::Direct },
    }
}

/// What deliveries work with. `smtp`: where this relay takes mail itself.
pub(super) fn deps(
    config: &Config,
    smtp: &[SocketAddr],
    spooler: &Spooler,
    switch: &Arc<Switch>,
    standing: &Arc<Standing>,
    metrics: &Arc<Metrics>,
) -> Result<Deps, SetupError> {
    Ok(Deps {
        spooler: spooler.clone(),
        router: Router::new(route_settings(config, smtp))?,
        signer: signer(config)?.map(Arc::new),
        switch: Arc::clone(switch),
        standing: Arc::clone(standing),
        metrics: Arc::clone(metrics),
    })
}

/// What deliveries keep to at first.
pub(super) fn plan(config: &Config, deps: &Deps) -> Arc<Current<Plan>> {
    let (router, signer) = (deps.router.clone(), deps.signer.clone());
    Arc::new(Current::new(Plan { settings: settings(config), router, signer }))
}

/// Says what the operator should know, then delivers until `stop`.
pub(super) async fn run(plan: Arc<Current<Plan>>, deps: Deps, stop: CancellationToken) {
    let router = deps.router.clone();
    let warned = tokio::spawn(async move {
        if let Some(warning) = router.warning().await {
            tracing::warn!(event = "relay.outbound.warning", "{warning}");
        }
    });
    if let Err(error) = delivery::follow(plan, deps, stop).await {
        tracing::error!(event = "relay.spool.unavailable", %error, "deliveries did not start");
    }
    warned.abort();
}

pub(super) fn route_settings(config: &Config, smtp: &[SocketAddr]) -> route::Settings {
    let d = &config.delivery;
    let mut own_names = vec![config.hostname.clone()];
    own_names.extend(config.domains.iter().cloned());
    route::Settings {
        dns: DnsSettings { servers: d.dns_servers.clone(), ..DnsSettings::default() },
        port: d.port,
        own_names,
        own_addresses: smtp.to_vec(),
        smarthost: d.smarthost.as_deref().and_then(Smarthost::parse),
        tls_policy: match d.tls_policy {
            TlsWord::Opportunistic => TlsPolicy::Opportunistic,
            TlsWord::DaneMtaSts => TlsPolicy::DaneMtaSts,
            TlsWord::Require => TlsPolicy::Require,
        },
        require_domains: d.require_tls_domains.clone(),
        allow_private_targets: d.allow_private_targets,
        data_dir: config.data_dir.clone(),
        policies: FetchSettings {
            allow_private_targets: d.allow_private_targets,
            ..FetchSettings::default()
        },
    }
}

/// Whether outgoing mail could be signed as configured; reads the keys and changes nothing.
///
/// # Errors
/// The key of the configuration that is in the way, and why.
pub fn may_sign(config: &Config) -> Result<(), (&'static str, String)> {
    let Err(error) = signer(config) else { return Ok(()) };
    let key = match &error {
        SetupError::Key { key, error } => return Err((*key, error.to_string())),
        SetupError::Signer(error) => match error {
            SignerError::Domain(_) => "dkim.domain",
            SignerError::Selector(_) => "dkim.selector",
            SignerError::Headers => "dkim.sign_headers",
            SignerError::NoKey => "dkim.rsa_key_file",
        },
        SetupError::Router(_) => "delivery.dns_servers",
    };
    Err((key, error.to_string()))
}

/// Signs outgoing mail, if that is wanted.
pub(super) fn signer(config: &Config) -> Result<Option<Signer>, SetupError> {
    let d = &config.dkim;
    if !d.enabled {
        return Ok(None);
    }
    let wrong = |key| move |error| SetupError::Key { key, error };
    let rsa = d.rsa_key_file.as_deref().map(keys::load_rsa).transpose();
    let ed25519 = d.ed25519_key_file.as_deref().map(keys::load_ed25519).transpose();
    let settings = dkim::Settings {
        domain: d.domain.clone(),
        selector: d.selector.clone(),
        // The derived name is longer; without that key nobody looks it up, and it need not be one.
        ed25519_selector: match &d.ed25519_key_file {
            Some(_) => ed25519_selector(&d.selector),
            None => d.selector.clone(),
        },
        sign_headers: d.sign_headers.clone(),
        oversign_headers: d.oversign_headers.clone(),
    };
    let rsa = rsa.map_err(wrong("dkim.rsa_key_file"))?;
    let ed25519 = ed25519.map_err(wrong("dkim.ed25519_key_file"))?;
    Ok(Some(Signer::new(settings, rsa, ed25519)?))
}
