//! PURE: the overview: is it well, what waits, what happened in the last hour, what came last.

use maud::{Markup, html};
use serde_json::Value;

use super::chart::{self, Fold, History};
use super::{Frame, Place, done, heading, items, number, page, text, words};
use crate::dashboard::route::Switch;

/// Most destinations that are named.
const ALONE_MAX: usize = 10;
/// The warning that has a notice of its own, with the reason and the way to end it.
const PAUSED: &str = "deliveries are paused";

/// What the page shows.
#[derive(Clone, Copy, Debug)]
pub(in crate::dashboard) struct Overview<'a> {
    /// Of `/admin/overview`; `None`: this relay has none.
    pub(in crate::dashboard) numbers: Option<&'a Value>,
    /// The newest items, of `/admin/spool/items`.
    pub(in crate::dashboard) newest: &'a Value,
    pub(in crate::dashboard) done: Option<&'a str>,
}

pub(in crate::dashboard) fn overview(frame: &Frame<'_>, seen: &Overview<'_>) -> Markup {
    let none = Value::Null;
    let numbers = seen.numbers.unwrap_or(&none);
    let body = html! {
        (heading(&html! { "Overview" }, &uptime(numbers)))
        (done(seen.done))
        @if seen.numbers.is_some() {
            (health(numbers))
            (deliveries(numbers))
            (tiles(numbers))
            (charts(numbers))
        } @else {
            p.notice.warn role="status" { "The numbers of this relay cannot be read just now." }
        }
        section #newest data-live aria-labelledby="newest-title" {
            div.heading {
                h2 #newest-title { "Newest messages" }
                a href="/items" { "All messages" }
            }
            (items::table(frame, seen.newest, "The newest messages in and out, newest first", "No message has come yet."))
        }
    };
    page(frame, Place::Overview, "Overview", Some(""), &body)
}

fn uptime(numbers: &Value) -> Markup {
    html! {
        @if let Some(seconds) = numbers["uptime_seconds"].as_u64() {
            p.dim #uptime data-live { "up " (words::span(seconds)) @if let Some(version) = numbers["version"].as_str() { " · version " (version) } }
        }
    }
}

fn health(numbers: &Value) -> Markup {
    let said = |name: &str| -> Vec<&str> {
        numbers[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (problems, mut warnings) = (said("problems"), said("warnings"));
    if numbers["deliveries"]["paused"].is_string() {
        warnings.retain(|warning| *warning != PAUSED);
    }
    let is_ready = numbers["ready"].as_bool() == Some(true) && problems.is_empty();
    html! {
        section #health data-live aria-label="Readiness" {
            @if is_ready && warnings.is_empty() {
                p.health.good { span.dot aria-hidden="true" {} strong { "Ready for mail" } }
            } @else if is_ready {
                div.health.warn {
                    p { span.dot aria-hidden="true" {} strong { "Ready for mail" } " — but not all is well" }
                    ul { @for warning in warnings { li { (words::clip(warning, 300)) } } }
                }
            } @else {
                div.health.bad {
                    p { span.dot aria-hidden="true" {} strong { "Not ready for mail" } " — senders are asked to come again later" }
                    ul { @for reason in problems.iter().chain(&warnings) { li { (words::clip(reason, 300)) } } }
                }
            }
        }
    }
}

fn deliveries(numbers: &Value) -> Markup {
    let doing = &numbers["deliveries"];
    let alone = doing["left_alone"].as_array().map_or(&[][..], Vec::as_slice);
    html! {
        section #deliveries data-live aria-label="Deliveries" {
            @if let Some(reason) = doing["paused"].as_str() {
                div.notice.warn {
                    p { strong { "Deliveries are paused" } @if !reason.is_empty() { ": " (words::clip(reason, 300)) } }
                    a.button href={ "/deliveries/" (Switch::Resume.word()) } { "Resume…" }
                }
            }
            @if !alone.is_empty() {
                details.more {
                    summary { (alone.len()) " destination" (words::plural(alone.len() as u64)) " left alone for now" }
                    ul {
                        @for one in alone.iter().take(ALONE_MAX) {
                            li { span.mono { (words::clip(text(one, "destination"), 120)) } span.dim { " until " (words::clock(text(one, "until"))) } }
                        }
                        @if alone.len() > ALONE_MAX { li.dim { "and " (alone.len() - ALONE_MAX) " more" } }
                    }
                }
            }
        }
    }
}

fn tiles(numbers: &Value) -> Markup {
    let state = |word: &str| number(&numbers["items"], word);
    let submitted = |word: &str| number(&numbers["submissions"], word);
    let waiting = state("ready").saturating_sub(submitted("ready"));
    let held = state("held");
    let oldest = numbers["oldest_ready_seconds"].as_u64();
    let p99 = numbers["commit"]["p99_ms"].as_f64();
    let failed = submitted("failed") + submitted("indeterminate");
    html! {
        section #tiles.tiles data-live aria-label="Now" {
            (tile("Gateways", &words::count(number(numbers, "sessions")), &format!("of {} lanes", words::count(number(numbers, "mailboxes"))), Some("/lanes")))
            (tile("Waiting", &words::count(waiting), &format!("{} lent out", words::count(number(numbers, "leased"))), Some("/items?state=ready%2Cleased&direction=in")))
            (tile("Oldest waiting", &oldest.map_or_else(|| "–".to_owned(), words::span), "in any lane", None))
            (tile("Going out", &words::count(submitted("ready") + submitted("armed")), &format!("{} tried now", words::count(number(&numbers["deliveries"], "under_way"))), Some("/items?direction=out&state=ready%2Carmed")))
            (tile("Held", &words::count(held), "kept back", Some("/items?state=held")))
            (tile("Undelivered", &words::count(failed), "failed or unknown", Some("/items?result=failed%2Cindeterminate")))
            (tile("Commit, p99", &p99.map_or_else(|| "idle".to_owned(), words::latency), "last minute", None))
            (tile("Disk free", &words::size(number(numbers, "free_bytes")), &format!("journal {}", words::size(number(numbers, "journal_bytes"))), None))
        }
    }
}

fn tile(name: &str, value: &str, note: &str, path: Option<&str>) -> Markup {
    let inside = html! { span.name { (name) } span.value { (value) } span.note { (note) } };
    html! {
        @match path {
            Some(path) => a.tile href=(path) { (inside) },
            None => div.tile { (inside) },
        }
    }
}

fn charts(numbers: &Value) -> Markup {
    let history = History::new(&numbers["history"]);
    let sum = |key, name, tone| history.series(key, name, tone, Fold::Sum);
    let max = |key, name, tone| history.series(key, name, tone, Fold::Max);
    let taken = [sum("accepted", "accepted", "c-good"), sum("refused", "refused", "c-bad")];
    let given = [sum("acked", "delivered", "c-good"), sum("replayed", "replayed", "c-warn")];
    let sent = [
        sum("sent", "sent", "c-good"),
        sum("failed", "failed", "c-bad"),
        sum("indeterminate", "unknown", "c-warn"),
    ];
    let (ready, sessions, commit) = (
        max("ready", "waiting", "c-wait"),
        max("sessions", "connected", "c-wait"),
        max("commit_p99_ms", "commit", "c-wait"),
    );
    let now = |one: &chart::Series<'_>| one.minutes.last().copied().flatten();
    html! {
        section #charts data-live aria-labelledby="charts-title" {
            h2 #charts-title { "Last hour" }
            div.charts {
                (chart::columns("chart-in", "Mail in", &history, &taken))
                (chart::columns("chart-gateways", "To gateways", &history, &given))
                (chart::columns("chart-out", "Mail out", &history, &sent))
                (chart::line("chart-ready", "Waiting", &history, &ready, now(&ready), chart::whole_text))
                (chart::line("chart-sessions", "Gateways connected", &history, &sessions, now(&sessions), chart::whole_text))
                (chart::line("chart-commit", "Commit, p99", &history, &commit, now(&commit), words::latency))
            }
        }
    }
}
