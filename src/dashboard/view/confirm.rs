//! PURE: the question before a change. It is a page, so it is asked without script too.

use maud::{Markup, html};
use serde_json::Value;

use super::{Frame, Place, hidden_token, number, page, prose, state, text, words};
use crate::dashboard::route::{Switch, Verb, lane_path};

/// Longest reason that a form takes; as long as the relay keeps.
const REASON_CHARS_MAX: usize = 500;

/// What a button says.
pub(in crate::dashboard) fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Hold => "Hold",
        Verb::Release => "Release",
        Verb::Replay => "Replay",
        Verb::Retry => "Try now",
        Verb::Cancel => "Cancel delivery",
        Verb::Purge => "Purge",
    }
}

/// What a notice says afterwards.
pub(in crate::dashboard) fn done(verb: Verb) -> &'static str {
    match verb {
        Verb::Hold => "Held. It stays until you release it.",
        Verb::Release => "Released.",
        Verb::Replay => "It is offered to its gateway again.",
        Verb::Retry => "It is due now.",
        Verb::Cancel => "Cancelled. Its gateway is told that it failed.",
        Verb::Purge => "Purged. A note stays in its timeline.",
    }
}

fn consequence(verb: Verb, out: bool) -> &'static str {
    match (verb, out) {
        (Verb::Hold, false) => {
            "It stays in its lane and is not handed to its gateway until you release it. Mail behind it goes on."
        }
        (Verb::Hold, true) => "It is not tried until you release it. It does not expire meanwhile.",
        (Verb::Release, false) => "It is handed to its gateway again, in its old place.",
        (Verb::Release, true) => "It is due at once.",
        (Verb::Replay, _) => {
            "Its gateway had it already and gets it again. A gateway that still remembers it stores it only once."
        }
        (Verb::Retry, _) => "It is tried now and not at its next time.",
        (Verb::Cancel, _) => {
            "It is never tried again, and its gateway is told that it failed. This cannot be taken back."
        }
        (Verb::Purge, false) => {
            "Its bytes are given up and nobody gets it any more. This cannot be taken back."
        }
        (Verb::Purge, true) => {
            "Its record is given up; its gateway knows the result. This cannot be taken back."
        }
    }
}

/// Asks about one item.
///
/// * `failed` – why the change was refused just now.
pub(in crate::dashboard) fn item(
    frame: &Frame<'_>,
    record: &Value,
    verb: Verb,
    reason: &str,
    failed: Option<&str>,
) -> Markup {
    let (id, out) = (text(record, "id"), text(record, "direction") == "out");
    let title = format!("{} this message?", name(verb));
    let question = Question {
        title: &title,
        consequence: consequence(verb, out),
        back: &format!("/items/{id}"),
        action: &format!("/items/{id}/{}", verb.word()),
        button: name(verb),
        grave: matches!(verb, Verb::Purge | Verb::Cancel),
        failed,
    };
    let about = html! {
        p.line {
            (state(text(record, "state"))) " "
            span.path { (words::address(record["mail_from"].as_str())) } " "
            span.arrow aria-hidden="true" { "→" } span.unseen { " to " } " "
            span.path { (words::address(record["rcpt_to"].as_str())) }
        }
        p.dim.mono { (id) }
    };
    ask(frame, Place::Items, &question, &about, &reason_field(reason))
}

/// Asks about a lane.
pub(in crate::dashboard) fn replay(frame: &Frame<'_>, mailbox: &Value, failed: Option<&str>) -> Markup {
    let name = text(mailbox, "lane");
    let path = lane_path(name);
    let question = Question {
        title: "Replay delivered mail?",
        consequence: "The gateway of this mailbox gets again what it had already, in order, before new mail. A gateway that still \
                      remembers a message stores it only once.",
        back: &path,
        action: &format!("{path}/replay"),
        button: "Replay",
        grave: false,
        failed,
    };
    let about = html! {
        p.mono.wrap { (name) }
        p.dim { (words::count(number(&mailbox["items"], "acked"))) " delivered message" (words::plural(number(&mailbox["items"], "acked"))) " kept" }
    };
    let choice = html! {
        div.field {
            label for="span" { "Accepted within the last" }
            select #span name="since" {
                @for (value, text, _) in super::items::SPANS { option value=(value) selected[value == "1h"] { (text) } }
            }
        }
    };
    ask(frame, Place::Lanes, &question, &about, &choice)
}

/// Asks about all deliveries.
pub(in crate::dashboard) fn deliveries(
    frame: &Frame<'_>,
    switch: Switch,
    reason: &str,
    failed: Option<&str>,
) -> Markup {
    let (title, consequence, button) = match switch {
        Switch::Pause => (
            "Pause deliveries?",
            "Nothing is handed to other servers until you resume, also over a restart. Mail of gateways is still taken.",
            "Pause deliveries",
        ),
        Switch::Resume => ("Resume deliveries?", "What is due goes out at once.", "Resume deliveries"),
    };
    let action = format!("/deliveries/{}", switch.word());
    let question = Question { title, consequence, back: "/", action: &action, button, grave: false, failed };
    let fields = if switch == Switch::Pause {
        reason_field(reason)
    } else {
        html! {}
    };
    ask(frame, Place::Overview, &question, &html! {}, &fields)
}

fn reason_field(reason: &str) -> Markup {
    html! {
        div.field {
            label for="reason" { "Reason, for the timeline (optional)" }
            input #reason type="text" name="reason" value=(reason) maxlength=(REASON_CHARS_MAX) autocomplete="off";
        }
    }
}

struct Question<'a> {
    title: &'a str,
    consequence: &'a str,
    back: &'a str,
    action: &'a str,
    button: &'a str,
    grave: bool,
    failed: Option<&'a str>,
}

fn ask(frame: &Frame<'_>, place: Place, question: &Question<'_>, about: &Markup, fields: &Markup) -> Markup {
    let body = html! {
        div.question {
            h1 { (question.title) }
            @if let Some(failed) = question.failed { p.notice.bad role="alert" { (prose(&words::clip(failed, 400))) } }
            (about)
            p.lead { (question.consequence) }
            form action=(question.action) method="post" {
                (hidden_token(frame.form_token.unwrap_or("")))
                (fields)
                div.actions {
                    button.strong.danger[question.grave] type="submit" { (question.button) }
                    a.button href=(question.back) { "Go back" }
                }
            }
        }
    };
    page(frame, place, question.title, None, &body)
}
