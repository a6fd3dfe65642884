//! PURE: messages in a table, and the search for them.

use maud::{Markup, html};
use serde_json::Value;

use super::{Frame, Place, ago, heading, item_link, lane_link, number, page, state, text, words};
use crate::dashboard::route::{Fields, lane_path};

/// Spans that a search offers.
pub(in crate::dashboard) const SPANS: [(&str, &str, u64); 6] = [
    ("15m", "15 minutes", 900),
    ("1h", "hour", 3600),
    ("6h", "6 hours", 21_600),
    ("24h", "24 hours", 86_400),
    ("7d", "7 days", 604_800),
    ("30d", "30 days", 2_592_000),
];
/// States that a search offers.
const STATES: [(&str, &str); 11] = [
    ("ready,leased", "waiting"),
    ("leased", "lent to a gateway"),
    ("held", "held"),
    ("acked", "delivered to a gateway"),
    ("expired", "expired"),
    ("quarantined", "damaged"),
    ("purged", "purged"),
    ("armed", "out: waiting for a verdict"),
    ("sent", "out: sent"),
    ("failed", "out: failed"),
    ("indeterminate", "out: unknown"),
];

/// What a search found.
#[derive(Clone, Copy, Debug)]
pub(in crate::dashboard) struct Search<'a> {
    pub(in crate::dashboard) fields: &'a Fields,
    /// The answer, or the sentence that says why there is none.
    pub(in crate::dashboard) answer: Result<&'a Value, &'a str>,
    /// A mailbox with the name that was looked for.
    pub(in crate::dashboard) mailbox: Option<&'a str>,
}

/// The search and what it found.
pub(in crate::dashboard) fn items(frame: &Frame<'_>, search: &Search<'_>) -> Markup {
    let fields = search.fields;
    let live = fields.get("after").is_empty().then_some("");
    let body = html! {
        (heading(&html! { "Messages" }, &html! { p.dim { "In and out, newest first." } }))
        (form(fields))
        @if let Some(name) = search.mailbox {
            p.notice { "There is a mailbox of that name: " a href=(lane_path(name)) { (words::clip(fields.get("q"), 80)) } "." }
        }
        @match search.answer {
            Err(problem) => p.notice.bad role="alert" { (words::clip(problem, 400)) },
            Ok(answer) => {
                section #items data-live=[live] {
                    (table(frame, answer, "Messages that match, newest first", nothing(answer)))
                }
                (pages(fields, answer))
            }
        }
    };
    page(frame, Place::Items, "Messages", live, &body)
}

fn nothing(answer: &Value) -> &'static str {
    if answer["next"].is_string() {
        "Nothing among the newest of them. Older ones were not looked at yet."
    } else {
        "Nothing matches."
    }
}

fn pages(fields: &Fields, answer: &Value) -> Markup {
    let found = answer["items"].as_array().map_or(0, Vec::len);
    html! {
        nav.pages aria-label="Pages of messages" {
            @if !fields.get("after").is_empty() { a.button href={ "/items?" (fields.with("after", "")) } { "Newest" } }
            @if let Some(next) = answer["next"].as_str() {
                a.button href={ "/items?" (fields.with("after", next)) } { @if found == 0 { "Look further back" } @else { "Older" } }
            }
        }
    }
}

fn form(fields: &Fields) -> Markup {
    let choice = |value: &str, name: &str, text: &str| html! { option value=(value) selected[fields.get(name) == value] { (text) } };
    html! {
        form.filters action="/items" method="get" role="search" aria-label="Messages" {
            div.field.grow {
                label for="q" { "Id, or part of an address" }
                input #q type="search" name="q" value=(fields.get("q")) autocomplete="off" spellcheck="false" maxlength="320";
            }
            div.field {
                label for="direction" { "Direction" }
                select #direction name="direction" { (choice("", "direction", "in and out")) (choice("in", "direction", "in")) (choice("out", "direction", "out")) }
            }
            div.field {
                label for="state" { "State" }
                select #state name="state" {
                    (choice("", "state", "any"))
                    @for (value, text) in STATES { (choice(value, "state", text)) }
                }
            }
            div.field {
                label for="since" { "Within the last" }
                select #since name="since" {
                    (choice("", "since", "any time"))
                    @for (value, text, _) in SPANS { (choice(value, "since", text)) }
                }
            }
            details.more open[has_more(fields)] {
                summary { "More" }
                div.filters {
                    div.field { label for="lane" { "Lane" } input #lane type="text" name="lane" value=(fields.get("lane")) placeholder="key, alias or address" autocomplete="off" spellcheck="false" maxlength="320"; }
                    div.field { label for="from" { "From" } input #from type="text" name="from" value=(fields.get("from")) autocomplete="off" spellcheck="false" maxlength="320"; }
                    div.field { label for="to" { "To" } input #to type="text" name="to" value=(fields.get("to")) autocomplete="off" spellcheck="false" maxlength="320"; }
                    div.field {
                        label for="until" { "At least this old" }
                        select #until name="until" { (choice("", "until", "any")) @for (value, text, _) in SPANS { (choice(value, "until", text)) } }
                    }
                    div.field {
                        label for="result" { "Result" }
                        select #result name="result" {
                            (choice("", "result", "any"))
                            @for (value, text) in [("sent", "sent"), ("failed", "failed"), ("indeterminate", "unknown"), ("failed,indeterminate", "failed or unknown")] { (choice(value, "result", text)) }
                        }
                    }
                }
            }
            div.actions { button.strong type="submit" { "Search" } a.button href="/items" { "Clear" } }
        }
    }
}

fn has_more(fields: &Fields) -> bool {
    ["lane", "from", "to", "until", "result"].iter().any(|name| !fields.get(name).is_empty())
}

/// Items as rows.
pub(in crate::dashboard) fn table(frame: &Frame<'_>, answer: &Value, caption: &str, none: &str) -> Markup {
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    html! {
        @if items.is_empty() {
            p.empty { (none) }
        } @else {
            table.items {
                caption.unseen { (caption) }
                thead { tr {
                    th.wide scope="col" { "State" }
                    th scope="col" { "Message" }
                    th.wide scope="col" { "Lane" }
                    th.num.wide scope="col" { "Size" }
                    th.num.wide scope="col" { "Age" }
                } }
                tbody { @for item in items { (row(frame, item)) } }
            }
        }
    }
}

fn row(frame: &Frame<'_>, item: &Value) -> Markup {
    let out = text(item, "direction") == "out";
    let id = text(item, "id");
    let from = words::short_address(item["mail_from"].as_str());
    let to = words::short_address(item["rcpt_to"].as_str());
    html! {
        tr {
            td.wide { (state(text(item, "state"))) }
            th scope="row" {
                // Where there is no room for columns.
                div.narrow { (state(text(item, "state"))) span.dim { (ago(text(item, "accepted_at"), frame.now_ms)) } }
                (item_link(id, &html! {
                    span.way { @if out { "out" } @else { "in" } } " "
                    span.path title=[item["mail_from"].as_str()] { (from) } " " span.arrow aria-hidden="true" { "→" } span.unseen { " to " } " " span.path title=[item["rcpt_to"].as_str()] { (to) }
                }))
                div.dim.mono { (id) @if let Some(next) = due(item) { span.due { " · " (next) } } }
            }
            td.wide { (lane_link(text(item, "lane"))) }
            td.num.wide { (words::size(number(item, "size_bytes"))) }
            td.num.wide { (ago(text(item, "accepted_at"), frame.now_ms)) }
        }
    }
}

/// What comes next of a submission that waits.
fn due(item: &Value) -> Option<String> {
    let seconds = item["due_seconds"].as_u64()?;
    let tried = item["attempts_made"].as_u64().unwrap_or(0);
    let next =
        if seconds == 0 { "due now".to_owned() } else { format!("next try in {}", words::span(seconds)) };
    Some(if tried == 0 { next } else { format!("{tried} attempt{} so far, {next}", words::plural(tried)) })
}
