//! PURE: one message: why it is where it is, what happened to it, and what can be done.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    Frame, Place, copyable, done, heading, lane_link, moment, number, page, prose, state, text, words,
};
use crate::dashboard::head::Head;
use crate::dashboard::route::Verb;

/// Most steps that are shown; the first and the newest ones are.
const STEPS_MAX: usize = 200;
/// Longest text of a server or an operator, characters.
const TEXT_CHARS_MAX: usize = 1000;

/// What the page shows.
#[derive(Clone, Copy, Debug)]
pub(in crate::dashboard) struct Item<'a> {
    /// Of `/admin/spool/items/ID`.
    pub(in crate::dashboard) record: &'a Value,
    /// The paragraph of `explain`.
    pub(in crate::dashboard) explanation: Option<&'a str>,
    /// Its header, when its bytes are there.
    pub(in crate::dashboard) head: Option<&'a Head>,
    pub(in crate::dashboard) done: Option<&'a str>,
}

pub(in crate::dashboard) fn item(frame: &Frame<'_>, seen: &Item<'_>) -> Markup {
    let record = seen.record;
    let id = text(record, "id");
    let (direction, word) = (text(record, "direction"), text(record, "state"));
    let subject = seen.head.and_then(|head| head.subject.as_deref());
    let title = subject.filter(|subject| !subject.is_empty()).unwrap_or("(no subject)");
    let live = format!("item={id}");
    let body = html! {
        p.crumbs { a href="/items" { "Messages" } }
        (heading(&html! { (words::clip(title, 160)) }, &actions(id, direction, word)))
        (done(seen.done))
        section #story data-live.story aria-label="What is going on" {
            p.line {
                (state(word)) " "
                span.path { (words::address(record["mail_from"].as_str())) } " "
                span.arrow aria-hidden="true" { "→" } span.unseen { " to " } " "
                span.path { (words::address(record["rcpt_to"].as_str())) }
            }
            @if let Some(explanation) = seen.explanation { p.lead { (prose(explanation)) } }
        }
        div.split {
            section #timeline data-live aria-labelledby="timeline-title" {
                h2 #timeline-title { "Timeline" }
                (timeline(frame, record))
            }
            aside aria-label="Record" {
                section #record data-live.card { h2 { "Record" } (facts(frame, record)) }
                @if record["verdicts"].is_object() { section.card { h2 { "Sender checks" } (verdicts(&record["verdicts"])) } }
            }
        }
        section aria-labelledby="head-title" {
            h2 #head-title { "Header" }
            @match seen.head {
                Some(head) => (header(id, head)),
                None => p.empty { "The bytes of this message are not kept any more." },
            }
        }
    };
    page(frame, Place::Items, &words::clip(title, 80), Some(&live), &body)
}

fn actions(id: &str, direction: &str, state: &str) -> Markup {
    html! {
        div.actions #actions data-live {
            @for verb in Verb::for_state(direction, state) {
                a.button.danger[matches!(verb, Verb::Purge | Verb::Cancel)] href={ "/items/" (id) "/" (verb.word()) } { (super::confirm::name(*verb)) "…" }
            }
        }
    }
}

fn timeline(frame: &Frame<'_>, record: &Value) -> Markup {
    let steps = record["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    let left_out = steps.len().saturating_sub(STEPS_MAX);
    let shown = steps.iter().enumerate().filter(|(n, _)| *n == 0 || *n > left_out);
    html! {
        ol.timeline {
            @for (n, step) in shown {
                @if left_out > 0 && n == left_out + 1 { li.gap { (left_out) " steps left out" } }
                li.step {
                    p.when { (state(text(step, "state"))) " " (moment(text(step, "at"), frame.now_ms)) }
                    @if !text(step, "reason").is_empty() { p.why { (prose(&words::clip(text(step, "reason"), TEXT_CHARS_MAX))) } }
                    @for attempt in step["attempts"].as_array().into_iter().flatten() { (attempt_of(attempt)) }
                }
            }
            @if let Some(due) = record["due_at"].as_str() {
                li.step.next { p.when { span.state.dull { span.dot aria-hidden="true" {} "next try" } " " (moment(due, frame.now_ms)) } }
            }
        }
    }
}

fn attempt_of(attempt: &Value) -> Markup {
    let answer = match (attempt["code"].as_u64(), text(attempt, "enhanced_code")) {
        (Some(code), "") => code.to_string(),
        (Some(code), enhanced) => format!("{code} {enhanced}"),
        (None, _) => "no answer".to_owned(),
    };
    let address = text(attempt, "address");
    html! {
        div.attempt {
            p {
                span.mono { (words::clip(text(attempt, "host"), 120)) }
                @if !address.is_empty() { " " span.dim.mono { (words::clip(address, 60)) } }
            }
            p {
                strong { (answer) } " "
                span.said { (words::clip(text(attempt, "text"), TEXT_CHARS_MAX)) }
            }
            p.dim {
                (words::clock(text(attempt, "started_at"))) ", " (words::span_ms(number(attempt, "duration_ms")))
                @if !text(attempt, "stage").is_empty() { ", at " (words::clip(text(attempt, "stage"), 40)) }
                @if !text(attempt, "tls").is_empty() { ", TLS " (words::clip(text(attempt, "tls"), 60)) }
            }
        }
    }
}

fn facts(frame: &Frame<'_>, record: &Value) -> Markup {
    let optional = [
        ("Destination", "destination"),
        ("Came from", "client_ip"),
        ("Called itself", "helo"),
        ("By", "protocol"),
        ("Stream", "stream"),
        ("Message-ID", "message_id"),
    ];
    html! {
        dl {
            dt { "Id" } dd { (copyable(text(record, "id"))) }
            dt { "Lane" } dd { (lane_link(text(record, "lane"))) ", number " (number(record, "seq")) }
            dt { "Accepted" } dd { (moment(text(record, "accepted_at"), frame.now_ms)) }
            @if record["changed_at"] != record["accepted_at"] { dt { "Changed" } dd { (moment(text(record, "changed_at"), frame.now_ms)) } }
            dt { "Size" } dd { (words::size(number(record, "size_bytes"))) }
            @for (name, field) in optional {
                @if !text(record, field).is_empty() { dt { (name) } dd.mono { (words::clip(text(record, field), 200)) } }
            }
            @if let Some(made) = record["attempts_made"].as_u64() { dt { "Attempts" } dd { (made) } }
            @if let Some(told) = record["told"].as_bool() { dt { "Gateway told" } dd { @if told { "yes" } @else { "not yet" } } }
            dt { "SHA-256" } dd { (copyable(text(record, "sha256"))) }
        }
    }
}

fn verdicts(found: &Value) -> Markup {
    html! {
        dl.numbers {
            @for (name, value) in found.as_object().into_iter().flatten() {
                @if let Some(word) = value.as_str().filter(|word| !word.is_empty()) { dt { (name.replace('_', " ")) } dd { (words::clip(word, 120)) } }
            }
        }
    }
}

fn header(id: &str, head: &Head) -> Markup {
    html! {
        div.head {
            table {
                caption.unseen { "Header fields as they came" }
                tbody {
                    @for (name, value) in &head.fields {
                        tr { th scope="row" { (name) } td { (value) } }
                    }
                }
            }
            @if head.cut { p.dim { "The header is longer; the rest is in the message itself." } }
        }
        p { a.button href={ "/items/" (id) "/raw" } download={ (id) ".eml" } { "Download the message" } }
    }
}
