//! The relay's signature: its keys at the start, and what is watched of them while the relay runs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::{AdmissionMode, Config};
use crate::current::Current;
use crate::http;
use crate::mail::signed::time_text;
use crate::mail::signer::store::StoreError;
use crate::mail::signer::{Settings, Signer};
use crate::observe::Metrics;
use crate::tunnel::ws::Tunnel;

/// Time between two looks at the keys: when another process has made one, it is announced this much later at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a signer needs to know of the configuration.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    let given = &config.attestation;
    Settings {
        relay: config.hostname.clone(),
        data_dir: config.data_dir.clone(),
        key_id: given.key_id.clone(),
        key_file: given.key_file.clone(),
        overlap_ms: given.overlap_seconds.saturating_mul(1000),
    }
}

/// The keys, made when there are none yet; `None` when nothing is to be signed. The data directory is ours by now.
pub(super) async fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Signer>>, StoreError> {
    if !config.attestation.enabled {
        return Ok(None);
    }
    let (settings, metrics) = (settings(config), Arc::clone(metrics));
    let opened = tokio::task::spawn_blocking(move || Signer::open(settings, true, metrics)).await;
    // The runtime ends before the start did: nothing is signed any more.
    let Ok(opened) = opened else { return Ok(None) };
    let signer = opened?;
    for (n, key) in signer.announcement(clock::wall()).into_iter().enumerate() {
        tracing::info!(
            event = "relay.attestation.key_loaded",
            key_id = key.key_id,
            status = key.status.word(),
            public_key = key.public_key,
            signs = n == 0,
            "a signing key is announced"
        );
    }
    Ok(Some(signer))
}

/// What anybody may know of this relay: `/.well-known/waystation`.
pub(super) struct About {
    hostname: String,
    policy: Current<Policy>,
    signer: Option<Arc<Signer>>,
}

/// The part of it that can change.
struct Policy {
    domains: Vec<String>,
    admission: &'static str,
}

impl Policy {
    fn of(config: &Config) -> Self {
        let admission = match config.admission.mode {
            AdmissionMode::Open => "open",
            AdmissionMode::Allowlist => "allowlist",
        };
        Self { domains: config.domains.clone(), admission }
    }
}

impl About {
    pub(super) fn new(config: &Config, signer: Option<Arc<Signer>>) -> Arc<Self> {
        let policy = Current::new(Policy::of(config));
        Arc::new(Self { hostname: config.hostname.clone(), policy, signer })
    }

    /// Says what `config` says, from now on.
    pub(super) fn follow(&self, config: &Config) {
        self.policy.set(Policy::of(config));
    }
}

impl http::About for About {
    fn object(&self) -> Value {
        let keys = self.signer.as_ref().map(|signer| signer.announcement(clock::wall())).unwrap_or_default();
        let policy = self.policy.get();
        json!({
            "hostname": self.hostname,
            "domains": policy.domains,
            "admission": policy.admission,
            "version": env!("CARGO_PKG_VERSION"),
            "keys": keys,
        })
    }
}

/// Takes up keys that were made meanwhile, says when another one begins to sign, and tells the sessions: one may live
/// longer than a key.
pub(super) async fn watch(signer: Arc<Signer>, tunnel: Arc<Tunnel>, stop: CancellationToken) {
    let mut announced = signer.announcement(clock::wall());
    let current = |signer: &Signer| signer.ring().current(clock::wall()).id.clone();
    let mut signs = current(&signer);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let looking = Arc::clone(&signer);
        match tokio::task::spawn_blocking(move || looking.refresh()).await {
            Ok(Ok(true)) => {
                failing = false;
                let ring = signer.ring();
                let newest = ring.newest();
                tracing::info!(
                    event = "relay.attestation.key_loaded",
                    key_id = newest.id,
                    signs_from = time_text(newest.signs_from),
                    "a signing key was made and is announced"
                );
            }
            Ok(Ok(false)) => failing = false,
            Ok(Err(error)) if !failing => {
                failing = true;
                tracing::error!(event = "relay.attestation.key_unreadable", %error, "keys stay as they were");
            }
            Ok(Err(_)) | Err(_) => {}
        }
        let announcement = signer.announcement(clock::wall());
        if announcement != announced {
            announced = announcement;
            tunnel.announce();
        }
        let now_signs = current(&signer);
        if now_signs != signs {
            tracing::info!(
                event = "relay.attestation.rotated",
                key_id = now_signs,
                after = signs,
                "another key signs from now on"
            );
            signs = now_signs;
        }
    }
}
