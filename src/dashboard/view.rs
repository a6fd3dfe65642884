//! PURE: values of the admin API in, pages out.
//!
//! Promises: what strangers wrote (addresses, header fields, names, answers of servers) is text and never markup, bounded in length;
//! no script, style or event handler is inside a page; each page works without script. Does not: ask anything.

pub(super) mod chart;
pub(super) mod confirm;
pub(super) mod dns;
pub(super) mod item;
pub(super) mod items;
pub(super) mod lanes;
pub(super) mod login;
pub(super) mod overview;
pub(super) mod words;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::assets::Assets;
use super::route::{escape, lane_path};

/// The mark: a tray between two gates.
const MARK: &str = r#"<svg class="mark" viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" focusable="false"><path d="M4 4v16M20 4v16" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" fill="none"/><path d="M8 9h8M8 13h8" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" fill="none" opacity=".55"/><path d="M8 17h5" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" fill="none" opacity=".3"/></svg>"#;

/// What every page knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) hostname: &'a str,
    pub(super) assets: &'a Assets,
    /// Of a person who is logged in.
    pub(super) form_token: Option<&'a str>,
    /// Wall clock, milliseconds since 1970 UTC.
    pub(super) now_ms: u64,
}

/// Which entry of the navigation a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Lanes,
    Items,
    Dns,
    Nowhere,
}

/// A whole page.
///
/// * `live` – the query of the event stream that makes it refresh itself; `None`: it does not.
pub(super) fn page(
    frame: &Frame<'_>,
    place: Place,
    title: &str,
    live: Option<&str>,
    body: &Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · " (frame.hostname) }
                link rel="stylesheet" href=(frame.assets.style());
                link rel="icon" href=(frame.assets.icon()) type="image/svg+xml";
                script src=(frame.assets.script()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                @if let Some(form_token) = frame.form_token {
                    (top(frame, place, form_token, live.is_some()))
                }
                main #main tabindex="-1" data-live=[live] { (body) }
                footer.foot {
                    span { "Waystation " (env!("CARGO_PKG_VERSION")) }
                    span { "Times are UTC" }
                }
            }
        }
    }
}

fn top(frame: &Frame<'_>, place: Place, form_token: &str, live: bool) -> Markup {
    let entries = [
        (Place::Overview, "/", "Overview"),
        (Place::Lanes, "/lanes", "Lanes"),
        (Place::Items, "/items", "Messages"),
        (Place::Dns, "/dns", "DNS"),
    ];
    html! {
        header.top {
            a.brand href="/" { (PreEscaped(MARK)) span { (frame.hostname) } }
            nav aria-label="Pages" {
                ul {
                    @for (entry, path, name) in entries {
                        li { a href=(path) aria-current=[(entry == place).then_some("page")] { (name) } }
                    }
                }
            }
            form.find action="/items" method="get" role="search" {
                label.unseen for="find" { "Find a message by id or address" }
                input #find type="search" name="q" placeholder="Find id or address" autocomplete="off" spellcheck="false" maxlength="320";
                kbd aria-hidden="true" { "/" }
            }
            div.session {
                @if live {
                    button.quiet #pulse type="button" hidden aria-pressed="false" { span.dot aria-hidden="true" {} span { "Live" } }
                }
                form action="/logout" method="post" {
                    (hidden_token(form_token))
                    button.quiet type="submit" { "Log out" }
                }
            }
        }
    }
}

/// The field without which no form of ours is taken.
pub(super) fn hidden_token(form_token: &str) -> Markup {
    html! { input type="hidden" name="form_token" value=(form_token); }
}

/// The head of a page's content.
pub(super) fn heading(title: &Markup, after: &Markup) -> Markup {
    html! { div.heading { h1 { (title) } (after) } }
}

/// What was done on the way to a page.
pub(super) fn done(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { p.notice.good role="status" { (text) } } }
}

/// A page that says why there is no other.
pub(super) fn problem(frame: &Frame<'_>, title: &str, text: &str, way_on: (&str, &str)) -> Markup {
    let body = html! {
        (heading(&html! { (title) }, &html! {}))
        p.lead { (text) }
        p { a.button href=(way_on.0) { (way_on.1) } }
    };
    page(frame, Place::Nowhere, title, None, &body)
}

/// A state as a word with a dot whose colour only repeats it.
pub(super) fn state(word: &str) -> Markup {
    let tone = match word {
        "ready" | "leased" | "armed" | "noted" => "wait",
        "acked" | "sent" | "told" | "ok" | "connected" => "good",
        "held" | "expired" | "indeterminate" | "risky" => "warn",
        "failed" | "quarantined" | "missing" | "wrong" => "bad",
        _ => "dull",
    };
    html! { span.state.(tone) { span.dot aria-hidden="true" {} (word) } }
}

/// A mailbox as a link: the first characters of its key, all of it on request.
pub(super) fn lane_link(name: &str) -> Markup {
    html! { a.mono href=(lane_path(name)) title=(name) { (words::short_key(name)) } }
}

/// A text to be copied whole.
pub(super) fn copyable(text: &str) -> Markup {
    html! {
        span.copyable {
            code.mono { (text) }
            button.copy type="button" hidden data-copy=(text) { "Copy" }
        }
    }
}

/// An item's id as a link.
pub(super) fn item_link(id: &str, text: &Markup) -> Markup {
    html! { a href={ "/items/" (escape(id)) } { (text) } }
}

/// A paragraph of the relay; what stands between backticks is a command or a name.
pub(super) fn prose(text: &str) -> Markup {
    html! {
        @for (n, piece) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

/// A moment, with how long ago that was.
pub(super) fn moment(at: &str, now_ms: u64) -> Markup {
    let ago = words::millis(at).map(|ms| words::relative(ms, now_ms));
    html! {
        time datetime=(at) {
            (words::clock(at))
            @if let Some(ago) = ago { " " span.dim { "(" (ago) ")" } }
        }
    }
}

/// How long ago a moment was, with the moment itself on request.
pub(super) fn ago(at: &str, now_ms: u64) -> Markup {
    let text = words::millis(at).map_or_else(|| at.to_owned(), |ms| words::relative(ms, now_ms));
    html! { time datetime=(at) title={ (words::clock(at)) " UTC" } { (text) } }
}

/// A text field of an object; empty when there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("")
}

/// A number of an object; 0 when there is none.
pub(super) fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests;
