//! PURE: the page that says what every metric means, written from what the relay publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// Labels whose values are not ours to list, and what they hold.
const OPEN: [(&str, &str); 3] = [
    ("code", "the reply's three digits"),
    ("zone", "a zone of `smtp.dnsbl_zones`"),
    ("version", "a version"),
];

/// The page, from [`super::json_from_text`] of a registry in which every family has a sample.
#[must_use]
pub(super) fn page(families: &Value) -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What `GET /metrics` says, written from the code. By `Accept` it speaks OpenMetrics 1.0\n\
         (`application/openmetrics-text`), the classic text format (`text/plain; version=0.0.4`, also when nothing is asked\n\
         for) and JSON (`application/json`). Names never change their meaning. No label holds anything that a stranger can\n\
         choose: no address, no key, no domain of a sender or a recipient.\n\n\
         A histogram `NAME` has the samples `NAME_bucket`, `NAME_sum` and `NAME_count`. Counters start at 0 with the process.\n\
         `deploy/prometheus/` has a scrape configuration and alert rules, `deploy/grafana/` a dashboard.\n\n\
         | name | type | unit | labels | what it says |\n|---|---|---|---|---|\n",
    );
    let empty = serde_json::Map::new();
    for (family, about) in families.as_object().unwrap_or(&empty) {
        let word = |key: &str| about[key].as_str().unwrap_or("");
        let suffix = match word("type") {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "| `{family}{suffix}` | {} | {} | {} | {} |",
            word("type"),
            word("unit"),
            labels(&about["samples"]),
            word("help").replace('|', "\\|"),
        );
    }
    text
}

/// Every label with its values, like `` `state`: ready, held ``.
fn labels(samples: &Value) -> String {
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for labels in samples.as_array().into_iter().flatten().filter_map(|sample| sample["labels"].as_object()) {
        for (name, value) in labels.iter().filter(|(name, _)| *name != "le") {
            values.entry(name).or_default().extend(value.as_str());
        }
    }
    let described: Vec<_> = values
        .into_iter()
        .map(|(name, values)| match OPEN.iter().find(|(open, _)| *open == name && !is_tls(&values)) {
            Some((_, what)) => format!("`{name}`: {what}"),
            None => format!("`{name}`: {}", values.into_iter().collect::<Vec<_>>().join(", ")),
        })
        .collect();
    described.join("; ")
}

/// The versions of TLS are ours to list.
fn is_tls(values: &BTreeSet<&str>) -> bool {
    values.iter().any(|value| value.starts_with("TLS"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn the_reference_of_metrics_is_up_to_date() {
        let metrics = Metrics::new();
        metrics.abuse.listed("dnsbl.example");
        let _watches = ["smtp", "http", "https", "admin"].map(|listener| metrics.listeners.watch(listener));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        let written = page(&metrics.json());
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&file, &written).expect("docs/metrics.md can be written");
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        let again = "regenerate: WRITE_DOCS=1 cargo test --lib the_reference_of_metrics_is_up_to_date";
        assert_eq!(kept, written, "{again}");
    }
}
