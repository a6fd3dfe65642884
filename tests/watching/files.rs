//! `deploy/prometheus` and `deploy/grafana`: read by Prometheus' own checker, and true about the metrics there are.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{check, promtool};
use crate::layering::root;
use crate::support::process::run_text;

const RULES: &str = "waystation.rules.yml";
const TESTS: &str = "waystation.test.yml";

fn prometheus(file: &str) -> String {
    fs::read_to_string(root().join("deploy/prometheus").join(file)).expect(file)
}

fn dashboard() -> Value {
    let text = fs::read_to_string(root().join("deploy/grafana/waystation.json")).expect("dashboard");
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

/// Panels, those inside of rows too.
fn panels(of: &Value) -> Vec<&Value> {
    let own = of["panels"].as_array().into_iter().flatten();
    own.flat_map(|panel| std::iter::once(panel).chain(panels(panel))).collect()
}

/// All expressions of the dashboard, with Grafana's variables as Prometheus would get them.
fn expressions() -> Vec<String> {
    let dashboard = dashboard();
    let of_panels = panels(&dashboard).into_iter().flat_map(|panel| {
        panel["targets"].as_array().into_iter().flatten().filter_map(|target| target["expr"].as_str())
    });
    let notes = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    let of_notes = notes.filter_map(|note| note["expr"].as_str());
    let plain = |text: &str| {
        text.replace("$__rate_interval", "5m").replace("$job", "waystation").replace("$instance", ".*")
    };
    let found: Vec<_> = of_panels.chain(of_notes).map(plain).collect();
    assert!(found.len() > 50, "expressions were not found");
    found
}

/// Names of metrics in a text, without what a histogram adds.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("waystation_") || word.starts_with("process_"));
    ours.map(|name| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        family.unwrap_or(name).to_owned()
    })
    .collect()
}

/// What there is, by the reference, which a test holds against a real relay.
fn published() -> BTreeSet<String> {
    let reference = fs::read_to_string(root().join("docs/metrics.md")).expect("docs/metrics.md");
    let names = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

/// Names of alerts, in order.
fn alerts() -> Vec<String> {
    let rules = prometheus(RULES);
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_exist() {
    let published = published();
    for (file, text) in [
        (RULES, prometheus(RULES)),
        (TESTS, prometheus(TESTS)),
        ("waystation.json", expressions().join("\n")),
    ] {
        let asked = metrics_in(&text);
        assert!(asked.len() > 10, "{file}: names were not found");
        let unknown: Vec<_> = asked.difference(&published).collect();
        assert!(unknown.is_empty(), "{file} asks for metrics that no relay has: {unknown:?}");
    }
}

#[test]
fn every_panel_has_an_id_a_unit_and_a_description() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        assert!(
            panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
            "{title}: description"
        );
        let unit = match panel["type"].as_str() {
            Some("heatmap") => &panel["options"]["yAxis"]["unit"],
            _ => &panel["fieldConfig"]["defaults"]["unit"],
        };
        assert!(unit.is_string(), "{title}: unit");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title}: asks for something");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}: whoever imports it chooses");
            assert_ne!(target["legendFormat"], "", "{title}: legend");
        }
    }
}

#[test]
fn every_expression_of_the_dashboard_parses() {
    let Some(promtool) = promtool() else { return };
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (n, expression) in expressions().iter().enumerate() {
        let quoted = expression.replace('\'', "''");
        rules.push_str(&format!("      - record: panel:{n}\n        expr: '{quoted}'\n"));
    }
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("dashboard.yml"), rules).expect("written");
    check(&promtool, dir.path(), &["check", "rules", "dashboard.yml"], "");
}

#[test]
fn prometheus_takes_the_files_and_every_alert_behaves() {
    let Some(promtool) = promtool() else { return };
    let dir = root().join("deploy/prometheus");
    check(&promtool, &dir, &["check", "config", "scrape.example.yml"], "");
    check(&promtool, &dir, &["check", "rules", RULES], "");
    check(&promtool, &dir, &["test", "rules", TESTS], "");
}

#[test]
fn every_alert_is_grave_says_what_to_do_and_is_tested() {
    let (rules, tests) = (prometheus(RULES), prometheus(TESTS));
    let alerts = alerts();
    assert!(alerts.len() > 20, "alerts were not found");
    for (n, alert) in alerts.iter().enumerate() {
        let from = rules.find(&format!("- alert: {alert}\n")).expect("there");
        let to = alerts.get(n + 1).and_then(|next| rules.find(&format!("- alert: {next}\n")));
        let text = &rules[from..to.unwrap_or(rules.len())];
        let severities = ["severity: critical", "severity: warning"].map(|word| text.matches(word).count());
        assert_eq!(severities.iter().sum::<usize>(), 1, "{alert}: severity");
        assert!(text.contains("summary: ") && text.contains("description: "), "{alert}: texts");
        assert!(text.contains('`'), "{alert}: names no command, key or event");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} has no scenario in {TESTS}");
    }
}

#[test]
fn the_alert_about_deliveries_finds_what_was_refused_for_good() {
    let rules = prometheus(RULES);
    let from = rules.find("- alert: WaystationDeliveriesFail\n").expect("there");
    let text = rules[from..].split("- alert:").nth(1).expect("its text");
    // With 5yz a submission has failed: among those that wait, nobody finds it.
    for listing in ["--direction out --result failed", "--direction out --state ready"] {
        assert!(text.contains(&format!("`waystation spool ls {listing}")), "{listing} is not in {text}");
    }
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("troubleshooting");
    assert!(page.lines().any(|line| line.starts_with("| `failed`") && line.contains("--result failed")));
}

#[test]
fn commands_that_alerts_name_exist() {
    let rules = prometheus(RULES);
    let told = rules.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let one_line = told.collect::<Vec<_>>().join(" ");
    let commands = one_line.split('`').skip(1).step_by(2).filter_map(|text| text.strip_prefix("waystation "));
    let commands: BTreeSet<_> = commands.collect();
    assert!(commands.len() > 15, "commands were not found");
    for command in commands {
        let words: Vec<_> = command
            .split(' ')
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
            .collect();
        let verbs: Vec<_> = words.iter().copied().filter(|word| !word.starts_with('-')).take(2).collect();
        let help = [verbs.as_slice(), &["--help"]].concat();
        let (code, said, error) = run_text(&help);
        assert_eq!(code, 0, "`waystation {command}`: {error}");
        for flag in command.split(' ').filter(|word| word.starts_with("--")) {
            assert!(said.contains(flag), "`waystation {command}`: there is no {flag}");
        }
    }
}
