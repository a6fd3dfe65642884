//! PURE: the DNS records that the relay needs, and what was found.

use maud::{Markup, html};
use serde_json::Value;

use super::{Frame, Place, copyable, heading, moment, page, prose, state, text, words};

/// Longest record shown, characters: a DKIM key of 4096 bits fits.
const RECORD_CHARS_MAX: usize = 2000;
/// Most values that were found for one name.
const FOUND_MAX: usize = 20;

/// * `answer` – of `/admin/dns`, or the sentence that says why there is none; `None`: this relay has no such question.
pub(in crate::dashboard) fn dns(frame: &Frame<'_>, answer: Option<Result<&Value, &str>>) -> Markup {
    let body = html! {
        (heading(&html! { "DNS" }, &html! {
            @if matches!(answer, Some(Ok(_))) { div.actions { a.button href="/dns?fresh=true" { "Check again" } } }
        }))
        @match answer {
            None => p.empty { "This relay does not check its DNS records here. " code { "waystation dns check" } " does." },
            Some(Err(problem)) => p.notice.bad role="alert" { (words::clip(problem, 400)) },
            Some(Ok(answer)) => (records(frame, answer)),
        }
    };
    page(frame, Place::Dns, "DNS", None, &body)
}

fn records(frame: &Frame<'_>, answer: &Value) -> Markup {
    let records = answer["records"].as_array().map_or(&[][..], Vec::as_slice);
    let trouble = |status: &str| matches!(status, "missing" | "wrong");
    let wrong = records.iter().filter(|record| trouble(text(record, "status"))).count();
    let risky = records.iter().filter(|record| text(record, "status") == "risky").count();
    html! {
        @if answer["ok"].as_bool() == Some(true) {
            p.health.good { span.dot aria-hidden="true" {} strong { "All records are as they should be" } }
        } @else if wrong > 0 {
            p.health.bad { span.dot aria-hidden="true" {} strong { (wrong) " record" (words::plural(wrong as u64)) " missing or wrong" } @if risky > 0 { ", " (risky) " risky" } }
        } @else {
            p.health.warn { span.dot aria-hidden="true" {} strong { "Mail works, and something could be better" } }
        }
        @if let Some(at) = answer["checked_at"].as_str() { p.dim { "Checked " (moment(at, frame.now_ms)) } }
        div.records {
            @for record in records { (card(record)) }
        }
    }
}

fn card(record: &Value) -> Markup {
    let want = words::clip(text(record, "want"), RECORD_CHARS_MAX);
    let found: Vec<&str> =
        record["found"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    html! {
        section.card.record {
            h2 { (state(text(record, "status"))) " " span.mono { (words::clip(text(record, "type"), 20)) } " " span.mono.wrap { (words::clip(text(record, "name"), 255)) } }
            @if !text(record, "advice").is_empty() { p { (prose(&words::clip(text(record, "advice"), 1000))) } }
            dl {
                @if !want.is_empty() { dt { "Wanted" } dd { (copyable(&want)) } }
                dt { "Found" }
                dd {
                    @if found.is_empty() { span.dim { "nothing" } }
                    @else { ul.plain { @for value in found.iter().take(FOUND_MAX) { li { code.mono { (words::clip(value, RECORD_CHARS_MAX)) } } } } }
                }
            }
        }
    }
}
