//! `spool show`: the record of one item or submission, and its whole timeline.

use std::io::Write as _;

use serde_json::Value;
use spool::ids::ItemId;

use super::super::backend::Backend;
use super::super::screen::{self, Paint};
use super::super::{Exit, Global};
use super::text;

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The item or submission
    #[arg(value_name = "ID")]
    id: ItemId,
    /// Write the bytes as a gateway gets them, and nothing else
    #[arg(long)]
    raw: bool,
    /// Write the relay's signed receipt for it as JSON, and nothing else: proof of what was taken, and when
    #[arg(long, conflicts_with = "raw")]
    receipt: bool,
}

pub(super) fn show(global: &Global, paint: Paint, args: &ShowArgs) -> anyhow::Result<Exit> {
    let backend = Backend::open(global)?;
    if args.raw {
        let mut out = std::io::stdout().lock();
        backend.raw(args.id, &mut out)?;
        out.flush()?;
        return Ok(Exit::Done);
    }
    if args.receipt {
        screen::line(&backend.receipt(args.id)?)?;
        return Ok(Exit::Done);
    }
    let item = backend.item(args.id)?;
    if global.json {
        screen::line(&item)?;
    } else {
        screen::print(&page(paint, &item))?;
    }
    Ok(Exit::Done)
}

fn page(paint: Paint, item: &Value) -> String {
    let mut page = String::new();
    let mut field = |name: &str, value: &str| {
        page.push_str(&format!("{} {value}\n", paint.dim(&format!("{name:>12}"))));
    };
    field("id", &paint.strong(&said(&item["id"])));
    let is_out = item["direction"] == "out";
    if is_out {
        submission(paint, item, &mut field);
    } else {
        field("state", &paint.state(&said(&item["state"])));
        field("lane", &format!("{}, number {}", said(&item["lane"]), item["seq"]));
    }
    field("from", &format!("<{}>", said(&item["mail_from"])));
    field("to", &format!("<{}>", said(&item["rcpt_to"])));
    field("size", &screen::bytes(item["size_bytes"].as_u64().unwrap_or(0)));
    let age = screen::age(item["age_seconds"].as_u64().unwrap_or(0));
    field("accepted", &format!("{} ({age} ago)", said(&item["accepted_at"])));
    let client = [said(&item["client_ip"]), said(&item["helo"]), said(&item["protocol"])];
    if client.iter().any(|word| !word.is_empty()) {
        field("client", client.join(" ").trim());
    }
    if item["verdicts"].is_object() {
        field("checks", &checks(&item["verdicts"]));
    }
    field("sha256", &said(&item["sha256"]));
    page.push_str(&format!("{}\n", paint.dim("    timeline")));
    for step in item["timeline"].as_array().into_iter().flatten() {
        let width = if is_out { 13 } else { 11 };
        let state = format!("{:<width$}", said(&step["state"]));
        let line = format!("{}  {} {}", said(&step["at"]), paint.state(&state), said(&step["reason"]));
        page.push_str(&format!("{:>13}{}\n", "", line.trim_end()));
        for attempt in step["attempts"].as_array().into_iter().flatten() {
            page.push_str(&format!("{:>17}{}\n", "", paint.dim(&attempt_line(attempt))));
        }
    }
    let trace = text(&item["trace"]).trim_end();
    if !trace.is_empty() {
        page.push_str(&format!("{}\n", paint.dim("       trace")));
        for line in trace.lines() {
            page.push_str(&format!("{:>13}{}\n", "", screen::clean(line)));
        }
    }
    page
}

/// A word of the record, most of which strangers chose.
fn said(value: &Value) -> String {
    screen::clean(text(value))
}

/// `spf=pass (a.example) dkim=none dmarc=fail (b.example, reject) arc=none`.
fn checks(found: &Value) -> String {
    let about = |words: [&Value; 2]| {
        let words: Vec<String> = words.into_iter().map(said).filter(|word| !word.is_empty()).collect();
        if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
    };
    let none = Value::Null;
    let methods = [
        ("spf", about([&found["spf_domain"], &none])),
        ("dkim", String::new()),
        ("dmarc", about([&found["from_domain"], &found["policy"]])),
        ("arc", String::new()),
    ];
    let words = methods.map(|(method, about)| format!("{method}={}{about}", said(&found[method])));
    words.join(" ")
}

fn submission(paint: Paint, item: &Value, field: &mut impl FnMut(&str, &str)) {
    let told = match (item["result"].is_null(), item["told"] == true) {
        (true, _) => "",
        (false, true) => ", and its gateway knows",
        (false, false) => ", its gateway was not told yet",
    };
    field("submission", &format!("{}{told}", paint.state(&said(&item["state"]))));
    field("mailbox", &format!("{}, number {}", said(&item["lane"]), item["seq"]));
    for (name, key) in [("subject", "subject"), ("message-id", "message_id"), ("stream", "stream")] {
        if !text(&item[key]).is_empty() {
            field(name, &said(&item[key]));
        }
    }
    field("destination", &said(&item["destination"]));
    field("attempts", &item["attempts_made"].to_string());
    if let Some(seconds) = item["due_seconds"].as_u64() {
        let wait = if seconds == 0 { "now".to_owned() } else { format!("in {}", screen::age(seconds)) };
        field("next attempt", &format!("{} ({wait})", said(&item["due_at"])));
    }
}

/// `mx.far.example [192.0.2.1:25] unverified TLSv1.3, rcpt, 120 ms: 450 4.2.1 later`
fn attempt_line(attempt: &Value) -> String {
    let mut line = said(&attempt["host"]);
    if !text(&attempt["address"]).is_empty() {
        line.push_str(&format!(" [{}]", said(&attempt["address"])));
    }
    for (before, word) in [(" ", "tls"), (", ", "stage")] {
        let word = said(&attempt[word]);
        if !word.is_empty() {
            line.push_str(&format!("{before}{}", if word == "none" { "no TLS" } else { word.as_str() }));
        }
    }
    line.push_str(&format!(", {} ms:", attempt["duration_ms"]));
    if let Some(code) = attempt["code"].as_u64() {
        line.push_str(&format!(" {code}"));
    }
    let (code, words) = (said(&attempt["enhanced_code"]), said(&attempt["text"]));
    if !code.is_empty() && !words.starts_with(&code) {
        line.push_str(&format!(" {code}"));
    }
    format!("{line} {words}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_attempt_is_one_line_and_names_a_code_once() {
        let attempt = json!({ "host": "mx.far.example", "address": "192.0.2.1:25", "tls": "none", "stage": "rcpt",
            "code": 450, "enhanced_code": "4.2.1", "text": "4.2.1 later", "duration_ms": 120 });
        assert_eq!(
            attempt_line(&attempt),
            "mx.far.example [192.0.2.1:25] no TLS, rcpt, 120 ms: 450 4.2.1 later"
        );
        let early = json!({ "host": "far.example", "address": "", "tls": "", "stage": "dns", "code": null,
            "enhanced_code": "4.4.3", "text": "no answer", "duration_ms": 5000 });
        assert_eq!(attempt_line(&early), "far.example, dns, 5000 ms: 4.4.3 no answer");
    }
    #[test]
    fn what_strangers_said_steers_no_terminal() {
        let evil = "\u{1b}[2J\u{9b}31m\u{7}";
        let words = |direction: &str| {
            json!({
                "id": evil, "direction": direction, "state": evil, "lane": evil, "mail_from": evil, "rcpt_to": evil,
                "accepted_at": evil, "client_ip": evil, "helo": evil, "protocol": evil, "sha256": evil, "subject": evil,
                "message_id": evil, "stream": evil, "destination": evil, "due_at": evil, "due_seconds": 1, "seq": 1,
                "verdicts": { "spf": evil, "spf_domain": evil, "from_domain": evil, "policy": evil },
                "timeline": [{ "at": evil, "state": evil, "reason": evil, "attempts": [{
                    "host": evil, "address": evil, "tls": evil, "stage": evil, "enhanced_code": evil, "text": evil,
                }] }],
                "trace": format!("Received: {evil}\r\n\tby {evil}\r\n"),
            })
        };
        for direction in ["in", "out"] {
            let page = page(Paint::new(false), &words(direction));
            assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{page:?}");
            assert!(page.contains("Received:  [2J") && page.contains("timeline"), "{page}");
        }
    }
}
