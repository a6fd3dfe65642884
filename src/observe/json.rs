//! PURE: our own exposition text turned into JSON, so both answers of `/metrics` always agree.
//!
//! Reads only what [`super::Metrics::text`] writes. A line it does not understand is left out.

use serde_json::{Map, Value, json};

/// Turns an exposition into `{family: {type, help, samples: [{name, labels, value}]}}`.
#[must_use]
pub fn json_from_text(text: &str) -> Value {
    let mut families = Map::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            note(&mut families, rest);
        } else if let Some((name, labels, value)) = sample(line)
            && let Some(family) = family_of(&families, name)
            && let Some(Value::Array(samples)) = families.get_mut(&family).and_then(|f| f.get_mut("samples"))
        {
            samples.push(json!({ "name": name, "labels": labels, "value": value }));
        }
    }
    Value::Object(families)
}

/// `HELP name words`, `TYPE name kind`, `UNIT name unit`.
fn note(families: &mut Map<String, Value>, rest: &str) {
    let mut words = rest.splitn(3, ' ');
    let (Some(kind), Some(name), Some(text)) = (words.next(), words.next(), words.next()) else { return };
    let key = match kind {
        "HELP" => "help",
        "TYPE" => "type",
        "UNIT" => "unit",
        _ => return,
    };
    let family = families.entry(name).or_insert_with(|| json!({ "samples": [] }));
    if let Some(object) = family.as_object_mut() {
        object.insert(key.to_owned(), Value::from(text.trim_end_matches('.')));
    }
}

/// The longest family name that a sample's name begins with.
fn family_of(families: &Map<String, Value>, sample: &str) -> Option<String> {
    let suffixes = ["", "_total", "_bucket", "_sum", "_count", "_info"];
    suffixes
        .iter()
        .filter_map(|suffix| sample.strip_suffix(suffix))
        .find(|name| families.contains_key(*name))
        .map(str::to_owned)
}

/// `name{label="value",...} number`.
fn sample(line: &str) -> Option<(&str, Map<String, Value>, Value)> {
    let (head, number) = line.rsplit_once(' ')?;
    let value = if let Ok(n) = number.parse::<i64>() {
        Value::from(n)
    } else {
        // `+Inf` and `NaN` have no JSON number; they stay words.
        number.parse::<f64>().ok().filter(|f| f.is_finite()).map_or_else(|| Value::from(number), Value::from)
    };
    let Some((name, labels)) = head.split_once('{') else { return Some((head, Map::new(), value)) };
    Some((name, label_set(labels.strip_suffix('}')?), value))
}

fn label_set(mut text: &str) -> Map<String, Value> {
    let mut labels = Map::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let Some(end) = closing_quote(rest) else { break };
        let plain = rest[..end].replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\");
        labels.insert(name.to_owned(), Value::from(plain));
        text = rest[end + 1..].trim_start_matches(',');
    }
    labels
}

/// Where the label value ends: the first quote without a backslash before it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return Some(at),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Metrics, RefusalStage};

    #[test]
    fn samples_find_their_family() {
        let metrics = Metrics::new();
        metrics.refused(550, RefusalStage::Rcpt);
        metrics.acked(2, 20);
        let json = metrics.json();
        let refused = &json["waystation_inbound_refused"];
        assert_eq!(refused["type"], "counter");
        let samples = refused["samples"].as_array().expect("samples");
        let counted: Vec<_> = samples.iter().filter(|s| s["value"] == 1).collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0]["labels"], serde_json::json!({ "code": "550", "stage": "rcpt" }));
        let wait = json["waystation_item_wait_seconds"]["samples"].as_array().expect("samples");
        assert!(wait.iter().any(|s| s["name"] == "waystation_item_wait_seconds_count" && s["value"] == 1));
        assert!(json.as_object().expect("families").values().all(|f| f["help"].is_string()));
    }

    #[test]
    fn label_values_keep_quotes_and_commas() {
        let labels = label_set(r#"a="x,\"y\"",b="2""#);
        assert_eq!(labels["a"], r#"x,"y""#);
        assert_eq!(labels["b"], "2");
    }
}
