//! PURE: the mailboxes, and one of them.

use maud::{Markup, html};
use serde_json::Value;

use super::{Frame, Place, copyable, done, heading, items, moment, number, page, text, words};
use crate::dashboard::route::{Fields, escape, lane_path};

/// Names that a row shows.
const ALIASES_SHOWN: usize = 3;

/// All of them, a page at a time.
pub(in crate::dashboard) fn lanes(frame: &Frame<'_>, answer: &Value, fields: &Fields) -> Markup {
    let lanes = answer["mailboxes"].as_array().map_or(&[][..], Vec::as_slice);
    let body = html! {
        (heading(&html! { "Lanes" }, &html! { p.dim { "One for each mailbox: what waits for its gateway, in order." } }))
        form.filters action="/lanes" method="get" role="search" aria-label="Lanes" {
            div.field.grow {
                label for="name" { "Key, alias or address" }
                input #name type="search" name="q" value=(fields.get("q")) autocomplete="off" spellcheck="false" maxlength="320";
            }
            button type="submit" { "Open" }
        }
        @if !fields.get("q").is_empty() {
            p.notice.warn role="status" { "No mailbox is called “" (words::clip(fields.get("q"), 120)) "”." }
        }
        section #lanes data-live {
            @if lanes.is_empty() {
                p.empty { "No mailbox yet. The first gateway that connects makes one." }
            } @else {
                table {
                    caption.unseen { "Mailboxes in the order of their registration" }
                    thead { tr {
                        th scope="col" { "Mailbox" }
                        th scope="col" { "Gateway" }
                        th.num scope="col" { "Waiting" }
                        th.num.wide scope="col" { "Held" }
                        th.num.wide scope="col" { "Delivered" }
                        th.num.wide scope="col" { "Size" }
                        th.num scope="col" { "Oldest" }
                    } }
                    tbody { @for lane in lanes { (row(lane)) } }
                }
            }
        }
        @if let Some(next) = answer["next"].as_u64() {
            nav.pages aria-label="Pages of lanes" { a.button href={ "/lanes?after=" (next) } { "Next lanes" } }
        }
    };
    page(frame, Place::Lanes, "Lanes", Some(""), &body)
}

fn row(lane: &Value) -> Markup {
    let name = text(lane, "lane");
    let aliases: Vec<&str> =
        lane["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let waiting = number(&lane["items"], "ready");
    html! {
        tr {
            th scope="row" {
                a href=(lane_path(name)) title=(name) {
                    @match aliases.first() {
                        Some(alias) => (words::clip(alias, 60)),
                        None => span.mono { (words::short_key(name)) },
                    }
                }
                @if lane["revoked"].as_bool() == Some(true) { " " (super::state("revoked")) }
                @if !aliases.is_empty() {
                    div.dim {
                        span.mono { (words::short_key(name)) }
                        @for alias in aliases.iter().skip(1).take(ALIASES_SHOWN) { " · " (words::clip(alias, 60)) }
                        @if aliases.len() > ALIASES_SHOWN + 1 { " and " (aliases.len() - ALIASES_SHOWN - 1) " more" }
                    }
                }
            }
            td { @if lane["connected"].as_bool() == Some(true) { (super::state("connected")) } @else { (super::state("away")) } }
            td.num { (words::count(waiting)) }
            td.num.wide { (words::count(number(&lane["items"], "held"))) }
            td.num.wide { (words::count(number(&lane["items"], "acked"))) }
            td.num.wide { (words::size(number(&lane["bytes"], "ready") + number(&lane["bytes"], "held"))) }
            td.num { (lane["oldest_ready_seconds"].as_u64().map_or_else(|| "–".to_owned(), words::span)) }
        }
    }
}

/// What the page of one mailbox shows.
#[derive(Clone, Copy, Debug)]
pub(in crate::dashboard) struct Lane<'a> {
    /// Of `/admin/mailboxes/NAME`.
    pub(in crate::dashboard) mailbox: &'a Value,
    /// Its newest items.
    pub(in crate::dashboard) newest: &'a Value,
    pub(in crate::dashboard) done: Option<&'a str>,
}

/// One of them.
pub(in crate::dashboard) fn lane(frame: &Frame<'_>, seen: &Lane<'_>) -> Markup {
    let mailbox = seen.mailbox;
    let name = text(mailbox, "lane");
    let aliases: Vec<&str> =
        mailbox["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let title =
        aliases.first().copied().map_or_else(|| words::short_key(name), |alias| words::clip(alias, 80));
    let live = format!("lane={}", escape(name));
    let body = html! {
        p.crumbs { a href="/lanes" { "Lanes" } }
        (heading(&html! { (title) }, &html! {
            div.actions {
                a.button href={ (lane_path(name)) "/replay" } { "Replay…" }
                a.button href={ "/items?lane=" (escape(name)) } { "Search in it" }
            }
        }))
        (done(seen.done))
        section #lane data-live.columns {
            div.card {
                h2 { "Mailbox" }
                dl {
                    dt { "Key" } dd { (copyable(name)) }
                    @if !aliases.is_empty() {
                        dt { "Addresses" }
                        dd { ul.plain { @for alias in aliases.iter().take(50) { li { (words::clip(alias, 120)) } } } }
                    }
                    dt { "Registered" } dd { (moment(text(mailbox, "created_at"), frame.now_ms)) }
                    dt { "May connect" } dd { @if mailbox["revoked"].as_bool() == Some(true) { "no, revoked" } @else { "yes" } }
                    dt { "Gateway" }
                    dd { (gateway(frame, mailbox)) }
                }
            }
            div.card {
                h2 { "In this lane" }
                dl.numbers {
                    @for (word, state) in [("Waiting", "ready"), ("Held", "held"), ("Delivered, kept", "acked"), ("Expired", "expired"), ("Damaged", "quarantined")] {
                        dt { (word) }
                        dd { (words::count(number(&mailbox["items"], state))) span.dim { " " (words::size(number(&mailbox["bytes"], state))) } }
                    }
                    dt { "Oldest waiting" }
                    dd { (mailbox["oldest_ready_seconds"].as_u64().map_or_else(|| "–".to_owned(), words::span)) }
                    dt { "Next number" } dd { (words::count(number(mailbox, "next_seq"))) }
                }
            }
            div.card {
                h2 { "Sent by this mailbox" }
                dl.numbers {
                    @for (word, state) in [("Queued", "queued"), ("Held", "held"), ("Waiting for a verdict", "armed"), ("Sent", "sent"), ("Failed", "failed"), ("Unknown", "indeterminate"), ("Not told yet", "untold"), ("In the last hour", "last_hour")] {
                        dt { (word) } dd { (words::count(number(&mailbox["outgoing"], state))) }
                    }
                }
            }
        }
        section #lane-items data-live aria-labelledby="lane-items-title" {
            div.heading { h2 #lane-items-title { "Newest messages" } a href={ "/items?lane=" (escape(name)) } { "All of them" } }
            (items::table(frame, seen.newest, "The newest messages of this mailbox, newest first", "No message yet."))
        }
    };
    page(frame, Place::Lanes, &title, Some(&live), &body)
}

fn gateway(frame: &Frame<'_>, mailbox: &Value) -> Markup {
    html! {
        @if mailbox["connected"].as_bool() == Some(true) { (super::state("connected")) } @else { (super::state("away")) }
        @if let Some(seen) = mailbox["last_seen_at"].as_str() { span.dim { ", last heard " (super::ago(seen, frame.now_ms)) } }
    }
}
