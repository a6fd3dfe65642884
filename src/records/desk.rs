//! Driver: the outcome of the latest check, for the admin API.
//!
//! Promises: an outcome is [`KEPT`] old at most; asked for afresh, the world is looked at again at most every [`FRESH_EVERY`];
//! one check runs at a time, and whoever asks meanwhile gets its outcome; another plan is taken at once, also while a check
//! runs, which may take as long as name servers are silent.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::judge::{Extent, Status, Verdict, is_fine};
use super::look::{self, Settings};
use super::{DkimKey, Site, wanted, zone};
use crate::clock;
use crate::current::Current;
use crate::mail::signed::time_text;
use crate::tls::Store;

/// How long an outcome is shown.
pub const KEPT: Duration = Duration::from_secs(300);
/// Least time between two checks.
pub const FRESH_EVERY: Duration = Duration::from_secs(30);

/// What is looked at, and how.
#[derive(Debug)]
struct Plan {
    site: Site,
    settings: Settings,
    /// Grows with another site: what was seen of the one before is of no use then.
    generation: u64,
}

/// An outcome.
#[derive(Debug)]
struct Kept {
    at: Instant,
    /// Of the plan that was looked by.
    generation: u64,
    outcome: Value,
}

/// Looks, and remembers.
#[derive(Debug)]
pub struct Desk {
    plan: Current<Plan>,
    /// Where the certificate that is served can be seen.
    store: Option<std::sync::Arc<Store>>,
    /// Locked for as long as a check runs.
    latest: Mutex<Option<Kept>>,
}

impl Desk {
    /// A desk that has looked at nothing yet.
    #[must_use]
    pub fn new(site: Site, settings: Settings, store: Option<std::sync::Arc<Store>>) -> Self {
        let plan = Plan { site, settings, generation: 0 };
        Self { plan: Current::new(plan), store, latest: Mutex::new(None) }
    }

    /// Looks at something else from now on; what was seen before is forgotten. Waits for nobody.
    pub fn follow(&self, site: Site, settings: Settings) {
        let before = self.plan.get();
        let generation = before.generation + u64::from(before.site != site);
        self.plan.set(Plan { site, settings, generation });
    }

    /// `{"checked_at", "records": [...], "ok"}`.
    pub async fn outcome(&self, fresh: bool) -> Value {
        let mut latest = self.latest.lock().await;
        // Read behind the lock: whoever waited for a check by an older plan looks by this one.
        let plan = self.plan.get();
        let good = if fresh { FRESH_EVERY } else { KEPT };
        if let Some(kept) = latest.as_ref().filter(|kept| kept.generation == plan.generation)
            && clock::monotonic().duration_since(kept.at) < good
        {
            return kept.outcome.clone();
        }
        let outcome = match look::look(&self.site(&plan), &Extent::default(), &plan.settings).await {
            Ok(verdicts) => object(&verdicts),
            Err(error) => {
                let mut object = object(&[]);
                object["problem"] = Value::String(error.to_string());
                object
            }
        };
        *latest =
            Some(Kept { at: clock::monotonic(), generation: plan.generation, outcome: outcome.clone() });
        outcome
    }

    /// `{"records": [...], "dkim": [...]}`: what the relay wants published, and its public keys.
    #[must_use]
    pub fn wanted(&self) -> Value {
        let site = self.site(&self.plan.get());
        let keys: &[DkimKey] = site.dkim.as_ref().map_or(&[], |dkim| &dkim.keys);
        let records: Vec<_> = wanted::records(&site).iter().map(zone::object).collect();
        json!({ "records": records, "dkim": keys })
    }

    fn site(&self, plan: &Plan) -> Site {
        let served = self.store.as_ref().and_then(|store| store.installed());
        let key = served.and_then(|installed| installed.key_sha256());
        let site = plan.site.clone();
        Site { certificate_key: key.or(site.certificate_key), ..site }
    }
}

/// As in the admin API.
#[must_use]
pub fn object(verdicts: &[Verdict]) -> Value {
    json!({
        "checked_at": time_text(clock::wall()),
        "records": verdicts.iter().map(Verdict::object).collect::<Vec<_>>(),
        "ok": is_fine(verdicts),
    })
}

/// How many verdicts have each status, the worst first.
#[must_use]
pub fn counts(verdicts: &[Verdict]) -> Vec<(Status, usize)> {
    let all = [Status::Wrong, Status::Missing, Status::Risky, Status::Unknown, Status::Info, Status::Ok];
    let count = |status| verdicts.iter().filter(|verdict| verdict.status == status).count();
    all.into_iter().map(|status| (status, count(status))).filter(|(_, n)| *n > 0).collect()
}
