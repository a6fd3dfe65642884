//! PURE: the relay at a glance, as one object.

use serde_json::{Map, Value, json};
use spool::ids::WallMs;
use spool::types::SpoolStats;

use super::ask::Terms;
use super::deliveries;
use super::words::{by_state, rfc3339};
use crate::observe::history::{STEP_MS, View};

/// Most destinations that are named.
const LEFT_ALONE_MAX: usize = 100;

/// Knows how the relay is. The daemon's pulse implements it.
pub trait Condition: Send + Sync + 'static {
    /// When it started.
    fn started_at(&self) -> WallMs;
    /// Seconds since then, as a clock that nobody sets tells them.
    fn uptime_seconds(&self) -> u64;
    /// Why mail cannot be taken now; empty when it can.
    fn problems(&self) -> Vec<String>;
    /// What somebody should look at although mail is taken.
    fn warnings(&self) -> Vec<String>;
    /// When the certificate that is served runs out, whatever lies in its files; `None`: none is served.
    fn certificate_until(&self) -> Option<WallMs>;
    /// The last hour.
    fn history(&self) -> View;
    /// The spool's counters, a moment ago; `None`: it was never asked.
    fn stats(&self) -> Option<SpoolStats>;
}

/// What the overview is made of.
#[derive(Debug)]
pub struct Glance<'a> {
    /// The configuration.
    pub terms: &'a Terms,
    /// The time.
    pub now: WallMs,
    /// When the relay started.
    pub started_at: WallMs,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// Why mail cannot be taken.
    pub problems: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// End of the certificate that is served.
    pub certificate_until: Option<WallMs>,
    /// Gateways connected.
    pub sessions: usize,
    /// The spool's counters.
    pub stats: SpoolStats,
    /// What deliveries do.
    pub deliveries: &'a deliveries::Now,
    /// The last hour.
    pub history: View,
}

/// The object that `docs/operating.md` describes.
#[must_use]
pub fn object(glance: &Glance<'_>) -> Value {
    let Glance { terms, stats, deliveries, history, .. } = glance;
    let alone = deliveries.left_alone.iter().take(LEFT_ALONE_MAX);
    let alone = alone.map(|(name, until)| json!({ "destination": name, "until": rfc3339(*until) }));
    let commits = history.commits;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "hostname": terms.hostname,
        "domains": terms.domains,
        "at": rfc3339(glance.now),
        "started_at": rfc3339(glance.started_at),
        "uptime_seconds": glance.uptime_seconds,
        "ready": glance.problems.is_empty(),
        "problems": glance.problems,
        "warnings": glance.warnings,
        "certificate_not_after": glance.certificate_until.map(rfc3339),
        "sessions": glance.sessions,
        "leased": stats.leased,
        "items": by_state(&stats.items),
        "submissions": by_state(&stats.submissions),
        "bytes": by_state(&stats.bytes),
        "mailboxes": stats.lanes,
        "oldest_ready_seconds": stats.oldest_ready.map(|at| glance.now.since(at) / 1000),
        "journal_bytes": stats.segments.iter().map(|s| s.used_bytes).sum::<u64>(),
        "free_bytes": stats.free_bytes,
        "index_bytes": stats.index_bytes,
        "commit": {
            "count": commits.count,
            "p50_ms": commits.p50_ms.map(rounded),
            "p99_ms": commits.p99_ms.map(rounded),
            "batch_mean": commits.batch_mean.map(rounded),
        },
        "deliveries": {
            "paused": deliveries.paused,
            "under_way": deliveries.under_way.len(),
            "left_alone": alone.collect::<Vec<_>>(),
            "left_alone_count": deliveries.left_alone_count,
        },
        "history": {
            "step_seconds": STEP_MS / 1000,
            "length": history.commit_p99_ms.len(),
            "until": rfc3339(history.until),
            "series": series(history),
        },
    })
}

fn series(history: &View) -> Value {
    let counted = history.series.iter().map(|(name, steps)| ((*name).to_owned(), json!(steps)));
    let mut all: Map<String, Value> = counted.collect();
    let p99: Vec<_> = history.commit_p99_ms.iter().map(|step| step.map(rounded)).collect();
    all.insert("commit_p99_ms".to_owned(), json!(p99));
    Value::Object(all)
}

/// Three decimals: more would be noise of the interpolation.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::history::History;

    #[test]
    fn a_relay_that_just_started_has_nulls_and_no_invented_numbers() {
        let now = WallMs(1_767_323_045_678);
        let terms =
            Terms { hostname: "relay.example".into(), domains: vec!["d.example".into()], ..Terms::default() };
        let mut deliveries = deliveries::Now { paused: Some("moving".into()), ..deliveries::Now::default() };
        deliveries.left_alone = vec![("silent.example".into(), now.plus(60_000))];
        deliveries.left_alone_count = 1;
        let glance = Glance {
            terms: &terms,
            now,
            started_at: now,
            uptime_seconds: 0,
            problems: vec!["relay is starting".into()],
            warnings: vec!["there is no certificate yet".into()],
            certificate_until: None,
            sessions: 2,
            stats: SpoolStats { items: [3, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..SpoolStats::default() },
            deliveries: &deliveries,
            history: History::new(now).view(),
        };
        let object = object(&glance);
        assert_eq!((&object["ready"], &object["problems"][0]), (&json!(false), &json!("relay is starting")));
        assert_eq!(object["warnings"][0], "there is no certificate yet");
        assert!(object["certificate_not_after"].is_null());
        assert_eq!(
            object["commit"],
            json!({ "count": 0, "p50_ms": null, "p99_ms": null, "batch_mean": null })
        );
        assert_eq!((&object["items"]["ready"], &object["oldest_ready_seconds"]), (&json!(3), &Value::Null));
        assert_eq!(object["deliveries"]["left_alone"][0]["until"], "2026-01-02T03:05:05.678Z");
        let history = &object["history"];
        assert_eq!((&history["step_seconds"], &history["length"]), (&json!(10), &json!(360)));
        assert_eq!(history["until"], "2026-01-02T03:04:00.000Z");
        let series = history["series"].as_object().expect("series");
        for name in [
            "accepted",
            "refused",
            "acked",
            "replayed",
            "attempts",
            "sent",
            "failed",
            "indeterminate",
            "ready",
            "sessions",
            "commit_p99_ms",
        ] {
            let steps = series[name].as_array().expect(name);
            assert!(steps.len() == 360 && steps.iter().all(Value::is_null), "{name}");
        }
        assert_eq!(series.len(), 11);
    }
}
