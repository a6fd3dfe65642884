//! The MTA-STS policies of domains: kept on disk, fetched when the domain announces another one (RFC 8461 section 5).
//!
//! Promises: a policy that was seen counts until its life ends, whatever becomes of the domain's DNS or web server
//! (S5); it is looked for again after a day, so that it rarely ends; a failed fetch never makes a domain's protection
//! weaker than what is kept, and never delays mail by more than [`fetch`](super::fetch)'s limit, once in
//! [`RETRY_AFTER`].
//!
//! One small JSON file for each domain, replaced as a whole. At most [`POLICIES_MAX`]; the oldest go first. A file that
//! cannot be read or written is a warning: then the policy is fetched again.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use spool::ids::WallMs;

use super::answer::Answer;
use super::dns::{Dns, Eyes};
use super::fetch::Fetcher;
use super::mta_sts::{self, Policy};
use crate::clock;

/// Most policies kept.
pub const POLICIES_MAX: usize = 20_000;
/// How long after a failed or useless fetch the next one waits.
pub const RETRY_AFTER: Duration = Duration::from_secs(300);
/// Age after which a policy is looked for again although nothing was announced.
const REFRESH_AFTER_MS: u64 = 24 * 3600 * 1000;
/// Directory inside the data directory.
pub const DIR_NAME: &str = "mta-sts";
/// Longest domain whose policy is kept: names of files are limited.
const DOMAIN_BYTES_MAX: usize = 240;
/// Largest file read back, bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Most failed fetches remembered.
const TRIES_MAX: usize = 10_000;

/// A policy as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose policy it is.
    pub domain: String,
    /// Id that was announced when it was fetched.
    pub id: String,
    /// When it was fetched, milliseconds since 1970 UTC.
    pub fetched_ms: u64,
    /// What it says.
    pub policy: Policy,
}

impl Kept {
    /// Whether its life has ended.
    #[must_use]
    pub fn is_over(&self, now: WallMs) -> bool {
        now.0.saturating_sub(self.fetched_ms) > self.policy.max_age_seconds.saturating_mul(1000)
    }

    /// Whether it should be looked for again: after a day, or in the second half of a short life.
    #[must_use]
    pub fn is_stale(&self, now: WallMs) -> bool {
        let half_life_ms = self.policy.max_age_seconds.saturating_mul(500);
        now.0.saturating_sub(self.fetched_ms) > half_life_ms.min(REFRESH_AFTER_MS)
    }
}

/// Cheap handle; clones share what is remembered.
#[derive(Clone, Debug)]
pub struct Policies {
    dir: PathBuf,
    fetcher: Fetcher,
    tries: Arc<Mutex<HashMap<String, Instant>>>,
}

/// Whether a fetch is worth it although the kept policy looks good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Only when something else is announced, or the kept one is stale.
    IfNeeded,
    /// In any case: what is kept refuses all hosts, so it might be outdated.
    Again,
}

impl Policies {
    /// Keeps policies below `data_dir`, which must exist.
    #[must_use]
    pub fn new(data_dir: &Path, fetcher: Fetcher) -> Self {
        Self { dir: data_dir.join(DIR_NAME), fetcher, tries: Arc::default() }
    }

    /// The policy that counts for `domain` now.
    pub async fn of(&self, dns: &Dns, eyes: Eyes, domain: &str, look: Look, now: WallMs) -> Option<Policy> {
        let record = dns.txt(eyes, &format!("_mta-sts.{domain}")).await;
        let announced = match &record {
            Answer::Found(found) => mta_sts::announced_id(&found.records),
            Answer::NoRecords | Answer::NxDomain | Answer::Temporary(_) => None,
        };
        let kept = self.load(domain).await.filter(|kept| !kept.is_over(now));
        let wanted = match (&announced, &kept) {
            (Some(id), Some(kept)) => kept.id != *id || kept.is_stale(now) || look == Look::Again,
            (Some(_), None) => true,
            // No announcement does not take a policy back; only the policy itself does (RFC 8461 section 5.1).
            (None, Some(kept)) => kept.is_stale(now) || look == Look::Again,
            (None, None) => false,
        };
        if !wanted || !self.may_try(domain, announced.as_deref(), look) {
            return kept.map(|kept| kept.policy);
        }
        match self.fetcher.fetch(dns, domain).await {
            Ok(policy) => {
                let id = announced.or(kept.map(|kept| kept.id)).unwrap_or_default();
                let fresh = Kept { domain: domain.to_owned(), id, fetched_ms: now.0, policy };
                tracing::info!(
                    event = "relay.route.mta_sts.fetched",
                    domain,
                    mode = ?fresh.policy.mode,
                    max_age_seconds = fresh.policy.max_age_seconds,
                    "fetched an MTA-STS policy"
                );
                self.store(fresh.clone()).await;
                Some(fresh.policy)
            }
            Err(error) => {
                tracing::warn!(
                    event = "relay.route.mta_sts.fetch_failed",
                    domain,
                    %error,
                    kept = kept.is_some(),
                    "cannot fetch an announced MTA-STS policy"
                );
                kept.map(|kept| kept.policy)
            }
        }
    }

    /// One try of one announcement in a while, not one for every message of a queue.
    fn may_try(&self, domain: &str, announced: Option<&str>, look: Look) -> bool {
        let now = clock::monotonic();
        let key = format!("{domain} {} {look:?}", announced.unwrap_or_default());
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= TRIES_MAX {
            tries.retain(|_, at| now.saturating_duration_since(*at) < RETRY_AFTER);
        }
        let lately = tries.get(&key).is_some_and(|at| now.saturating_duration_since(*at) < RETRY_AFTER);
        if lately || tries.len() >= TRIES_MAX {
            return false;
        }
        tries.insert(key, now);
        true
    }

    fn path(&self, domain: &str) -> Option<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = domain.len() <= DOMAIN_BYTES_MAX && !domain.starts_with('.') && domain.bytes().all(plain);
        fits.then(|| self.dir.join(format!("{domain}.json")))
    }

    async fn load(&self, domain: &str) -> Option<Kept> {
        let path = self.path(domain)?;
        let read = tokio::task::spawn_blocking(move || read(&path)).await.ok()?;
        read.filter(|kept| kept.domain == domain)
    }

    async fn store(&self, kept: Kept) {
        let Some(path) = self.path(&kept.domain) else { return };
        let dir = self.dir.clone();
        let done = tokio::task::spawn_blocking(move || write(&dir, &path, &kept)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(event = "relay.route.mta_sts.store_failed", %error, "cannot keep an MTA-STS policy");
        }
    }
}

fn read(path: &Path) -> Option<Kept> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let kept = serde_json::from_str(&text);
    if kept.is_err() {
        tracing::warn!(event = "relay.route.mta_sts.damaged", path = %path.display(), "a kept policy cannot be read");
    }
    kept.ok()
}

fn write(dir: &Path, path: &Path, kept: &Kept) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if !path.exists() {
        make_room(dir)?;
    }
    let text = serde_json::to_string(kept).map_err(std::io::Error::other)?;
    // Two fetches of one domain at once must not write into one file.
    let beside = dir.join(format!(".{:016x}.new", rand::random::<u64>()));
    let mut file = std::fs::File::create(&beside)?;
    let renamed = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    renamed?;
    std::fs::File::open(dir)?.sync_all()
}

/// Removes the oldest tenth when the directory is full.
fn make_room(dir: &Path) -> std::io::Result<()> {
    let entries: Vec<_> = std::fs::read_dir(dir)?.filter_map(Result::ok).collect();
    if entries.len() < POLICIES_MAX {
        return Ok(());
    }
    let mut by_age: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    by_age.sort();
    for (_, path) in by_age.iter().take(POLICIES_MAX / 10) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
