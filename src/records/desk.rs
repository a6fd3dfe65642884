//! Driver: the outcome of the latest check, for the admin API.
//!
//! Promises: an outcome is [`KEPT`] old at most; asked for afresh, the world is looked at again at most every [`FRESH_EVERY`];
//! one check runs at a time, and whoever asks meanwhile gets its outcome.

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

/// Looks, and remembers.
#[derive(Debug)]
pub struct Desk {
    /// What is looked at, and how.
    plan: Current<(Site, Settings)>,
    /// Where the certificate that is served can be seen.
    store: Option<std::sync::Arc<Store>>,
    latest: Mutex<Option<(Instant, Value)>>,
}

impl Desk {
    /// A desk that has looked at nothing yet.
    #[must_use]
    pub fn new(site: Site, settings: Settings, store: Option<std::sync::Arc<Store>>) -> Self {
        Self { plan: Current::new((site, settings)), store, latest: Mutex::new(None) }
    }

    /// Looks at something else from now on; what was seen before is forgotten.
    pub async fn follow(&self, site: Site, settings: Settings) {
        let mut latest = self.latest.lock().await;
        if self.plan.get().0 != site {
            *latest = None;
        }
        self.plan.set((site, settings));
    }

    /// `{"checked_at", "records": [...], "ok"}`.
    pub async fn outcome(&self, fresh: bool) -> Value {
        let mut latest = self.latest.lock().await;
        let age = latest.as_ref().map(|(at, _)| clock::monotonic().duration_since(*at));
        let good = if fresh { FRESH_EVERY } else { KEPT };
        if let (Some((_, outcome)), Some(age)) = (latest.as_ref(), age)
            && age < good
        {
            return outcome.clone();
        }
        let outcome = match look::look(&self.site(), &Extent::default(), &self.plan.get().1).await {
            Ok(verdicts) => object(&verdicts),
            Err(error) => {
                let mut object = object(&[]);
                object["problem"] = Value::String(error.to_string());
                object
            }
        };
        *latest = Some((clock::monotonic(), outcome.clone()));
        outcome
    }

    /// `{"records": [...], "dkim": [...]}`: what the relay wants published, and its public keys.
    #[must_use]
    pub fn wanted(&self) -> Value {
        let site = self.site();
        let keys: &[DkimKey] = site.dkim.as_ref().map_or(&[], |dkim| &dkim.keys);
        let records: Vec<_> = wanted::records(&site).iter().map(zone::object).collect();
        json!({ "records": records, "dkim": keys })
    }

    fn site(&self) -> Site {
        let served = self.store.as_ref().and_then(|store| store.installed());
        let key = served.and_then(|installed| installed.key_sha256());
        let site = self.plan.get().0.clone();
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
