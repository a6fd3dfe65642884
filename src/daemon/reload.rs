//! Takes a changed configuration into a running relay.
//!
//! Two steps: [`Reloader::prepare`] reads and checks everything that can fail (keys, tokens, certificates) and changes
//! nothing; [`Reloader::apply`] then replaces settings where they are read for each session, message or attempt. What is
//! under way keeps the settings it began with.
//!
//! Failure policy: a mistake anywhere is one typed error, and the relay goes on as it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use spool::error::SpoolError;

use super::edge::OwnGuard;
use super::resolver::Resolver;
use super::settings::{admission, intake_settings, submission_settings, terms, tunnel_settings};
use super::{StartError, abuse, custody, edge, ledger, outbound, records, tls, verify};
use crate::admin::api::Admin;
use crate::config::{Config, Tls};
use crate::current::Current;
use crate::http::AdminDoor;
use crate::http::StsPolicy;
use crate::http::guard::Token;
use crate::mail::intake::Intake;
use crate::mail::lane::Lanes;
use crate::mail::outbound::delivery::Plan;
use crate::mail::outbound::intake::Submissions;
use crate::mail::outbound::prepare::dkim::Signer;
use crate::mail::outbound::route::Router;
use crate::observe::Metrics;
use crate::records::{Site, look};
use crate::secrets;
use crate::spooler::Spooler;
use crate::tls::files::Files;
use crate::tunnel::ws::Tunnel;

/// Hashes of the secret files, by the key that names them: a changed file is a change, too.
type Secrets = BTreeMap<&'static str, [u8; 32]>;

/// Everything that can be changed while the relay runs.
pub struct Reloader {
    pub(super) intake: Intake,
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) submissions: Arc<Submissions>,
    pub(super) plan: Arc<Current<Plan>>,
    pub(super) router: Router,
    pub(super) smtp: Vec<SocketAddr>,
    pub(super) spooler: Spooler,
    pub(super) admin: Arc<Admin>,
    pub(super) door: Option<Arc<AdminDoor>>,
    /// Guards the dashboard, when no token is configured.
    pub(super) own_guard: Option<OwnGuard>,
    pub(super) tls: Option<tls::Served>,
    pub(super) about: Arc<custody::About>,
    pub(super) sts: Arc<Current<Option<StsPolicy>>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) secrets: Mutex<Secrets>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reloader")
    }
}

/// What a configuration names, read and checked.
pub(super) struct Read {
    signer: Option<Arc<Signer>>,
    site: (Site, look::Settings),
    token: Option<Token>,
    secrets: Secrets,
}

/// A configuration that was checked against the world, ready to be applied.
pub struct Prepared {
    config: Config,
    read: Read,
    /// Keys whose files have other contents than before.
    pub changed_files: Vec<&'static str>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("changed_files", &self.changed_files).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Reads what `config` names and checks it.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed.
    pub async fn prepare(&self, config: Config) -> Result<Prepared, StartError> {
        // Keys may lie on a slow disk, and RSA takes its time.
        let read = tokio::task::spawn_blocking(move || read(&config).map(|read| (config, read))).await;
        let (config, read) = read.unwrap_or_else(|_| {
            let dir = std::path::PathBuf::new();
            Err(ledger::LedgerError::Spool { dir, error: SpoolError::Closed }.into())
        })?;
        let before = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = |(key, hash): (&&'static str, &[u8; 32])| {
            before.get(*key).is_some_and(|known| known != hash).then_some(*key)
        };
        let changed_files = read.secrets.iter().filter_map(differs).collect();
        drop(before);
        Ok(Prepared { config, read, changed_files })
    }

    /// Makes it so.
    pub async fn apply(&self, prepared: Prepared) {
        let Prepared { config, read: Read { signer, site: (site, looking), token, secrets }, .. } = prepared;
        let router = self.router.by(outbound::route_settings(&config, &self.smtp));
        let screen = abuse::screen(&config, router.dns(), &self.metrics);
        let verifier = verify::verifier(&config, &router, &self.metrics);
        self.intake.replace(intake_settings(&config), abuse::limits(&config), screen, verifier);
        self.tunnel.replace(tunnel_settings(&config));
        self.lanes.replace(admission(&config), config.domains.clone());
        self.submissions.replace(submission_settings(&config));
        self.plan.set(Plan { settings: outbound::settings(&config), router, signer });
        self.admin.terms.set(terms(&config));
        self.about.follow(&config);
        self.resolver.follow(&config);
        self.metrics.set_min_free(config.spool.min_free_bytes);
        self.sts.set(records::sts_policy(&config));
        self.admin.records.follow(site, looking);
        if let (Some(door), Some(token)) = (&self.door, token) {
            door.replace(token, edge::deny_window(&config));
        }
        if let Some(guard) = &self.own_guard {
            guard.follow(&config);
        }
        if let (Some(served), Some(Tls::Files { cert, key })) = (&self.tls, &config.tls) {
            served.follow(Files { cert: cert.clone(), key: key.clone() });
        }
        let terms = ledger::options(&config);
        if let Err(error) = self.spooler.call(move |spool| spool.set_terms(&terms)).await {
            tracing::error!(event = "relay.spool.unavailable", %error, "retention and quotas stay as they were");
        }
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
    }
}

/// Everything that can fail.
pub(super) fn read(config: &Config) -> Result<Read, StartError> {
    let secrets = hashes(config);
    let signer = outbound::signer(config)?.map(Arc::new);
    let token = edge::admin_token(config)?;
    if let Some(Tls::Files { cert, key }) = &config.tls {
        Files { cert: cert.clone(), key: key.clone() }.read().map_err(tls::TlsError::from)?;
    }
    Ok(Read { signer, site: records::followed(config), token, secrets })
}

/// Hashes of the secret files that can be read; one that cannot is found out by whoever needs it.
pub(super) fn hashes(config: &Config) -> Secrets {
    let dkim = Some(&config.dkim).filter(|dkim| dkim.enabled);
    let files = [
        ("dkim.rsa_key_file", dkim.and_then(|dkim| dkim.rsa_key_file.as_ref())),
        ("dkim.ed25519_key_file", dkim.and_then(|dkim| dkim.ed25519_key_file.as_ref())),
        ("admin.http_token_file", config.admin_http_token_file.as_ref()),
        (
            "tls.key_file",
            match &config.tls {
                Some(Tls::Files { key, .. }) => Some(key),
                Some(Tls::Acme(_)) | None => None,
            },
        ),
    ];
    let hash = |(name, file): (&'static str, Option<&std::path::PathBuf>)| {
        Some((name, Sha256::digest(&*secrets::read(file?).ok()?).into()))
    };
    files.into_iter().filter_map(hash).collect()
}
