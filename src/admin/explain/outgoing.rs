//! PURE: one paragraph that says why a submission is where it is, what happens next, and when.

use spool::ids::WallMs;
use spool::submission::Submission;
use spool::types::{State, Transition};

use super::super::words::outgoing::attempts_made;
use super::super::words::{age, operators, rfc3339, size};
use crate::mail::outbound::values::{Attempt, Note};

/// What the paragraph needs besides the submission.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// The time.
    pub now: WallMs,
    /// Reverse-path; `None` when the metadata cannot be read.
    pub mail_from: Option<&'a str>,
    /// Whether a relay runs that could do something about it.
    pub running: bool,
    /// Whether the gateway has a session; `None` when nobody can know.
    pub connected: Option<bool>,
    /// Whether the mailbox is revoked, so that no gateway can come.
    pub revoked: bool,
    /// Why all deliveries are paused, if they are.
    pub paused: Option<&'a str>,
    /// It is being tried at this moment.
    pub under_way: bool,
    /// Its destination did not answer and is left alone until then.
    pub left_alone_until: Option<WallMs>,
    /// Milliseconds until a submission that nobody takes fails.
    pub expire_ms: u64,
    /// Milliseconds a result stays.
    pub retain_ms: u64,
}

impl Outlook<'_> {
    fn expires_at(&self, submission: &Submission) -> WallMs {
        submission.info.accepted_at.plus(self.expire_ms)
    }
}

/// The paragraph.
#[must_use]
pub fn explain(submission: &Submission, timeline: &[Transition], o: &Outlook<'_>) -> String {
    let info = &submission.info;
    let from = match o.mail_from {
        Some(path) => format!("from <{path}> "),
        None => String::new(),
    };
    let what = format!(
        "Submission {} goes {from}to <{}>; it has {}, belongs to the mailbox {}, and was accepted {} ago, at {}.",
        info.id,
        String::from_utf8_lossy(&info.tag),
        size(info.size_bytes),
        submission.mailbox_name,
        age(o.now.since(info.accepted_at)),
        rfc3339(info.accepted_at)
    );
    let last = timeline.last().map(|step| Note::from_reason(&step.reason)).unwrap_or_default();
    let since = rfc3339(info.changed_at);
    let next = match info.state {
        State::Ready => format!("{}{}", story(submission, timeline, o), ready(submission, o)),
        State::Held => format!(
            "{}{} since {since}{}. It is not tried meanwhile; `waystation spool release {id}` makes it due at \
             once, `waystation spool cancel {id}` ends it. It would expire at {}: released after that, it fails \
             without another attempt.",
            story(submission, timeline, o),
            if operators(&last.text).is_some() { "An operator holds it" } else { "It is held" },
            because(&last.text),
            rfc3339(o.expires_at(submission)),
            id = info.id
        ),
        State::Armed => armed(&since, &last, o),
        State::Sent | State::Failed | State::Indeterminate => {
            format!("{} {}", result(submission, timeline), told(submission, o))
        }
        State::Quarantined => format!(
            "Its stored bytes are damaged{}; it is never sent. `waystation spool verify` shows the place.",
            because(&last.text)
        ),
        State::Purged => {
            format!(
                "An operator removed it at {since}{}. Its bytes are not shown or exported any more; this note is all that \
                 is left of it, until {}.",
                because(&last.text),
                rfc3339(info.changed_at.plus(o.retain_ms))
            )
        }
        State::Acked | State::Expired => format!("It is {} since {since}.", info.state.word()),
    };
    format!("{what} {next}")
}

/// `, because: ...`, or nothing.
fn because(text: &str) -> String {
    let text = operators(text).unwrap_or(text);
    if text.is_empty() { String::new() } else { format!(", because: {}", text.trim_end_matches('.')) }
}

/// What was tried so far; ends with a space when it says anything.
fn story(submission: &Submission, timeline: &[Transition], o: &Outlook<'_>) -> String {
    let noted = |step: &Transition| (step.at_ms, Note::from_reason(&step.reason));
    let tried = timeline.iter().rev().map(noted).find(|(_, note)| !note.attempts.is_empty());
    let mut text = match (submission.attempts, tried) {
        (0, _) => "It was not tried yet. ".to_owned(),
        (1, Some((at, note))) => {
            format!("It was tried once, {} ago: {}. ", age(o.now.since(WallMs(at))), sentence(&note.text))
        }
        (n, Some((at, note))) => {
            let ago = age(o.now.since(WallMs(at)));
            format!("It was tried {n} times, last {ago} ago: {}. ", sentence(&note.text))
        }
        (n, None) => format!("It was tried {n} time{}. ", if n == 1 { "" } else { "s" }),
    };
    // A step back to `ready` without a host that was tried: it was put off, or let go again.
    if let [.., before, last] = timeline
        && last.state == State::Ready.word()
    {
        let note = Note::from_reason(&last.reason);
        let at = rfc3339(WallMs(last.at_ms));
        if before.state == State::Held.word() {
            text.push_str(&format!("It was released at {at}{}. ", because(&note.text)));
        } else if note.attempts.is_empty() && !note.text.is_empty() {
            text.push_str(&format!("Its time was set anew at {at}: {}. ", sentence(&note.text)));
        }
    }
    text
}

fn sentence(text: &str) -> &str {
    if text.is_empty() { "nothing was written down about it" } else { text.trim_end_matches('.') }
}

fn ready(submission: &Submission, o: &Outlook<'_>) -> String {
    let which = if submission.attempts == 0 { "first" } else { "next" };
    let due = submission.due;
    let expires = o.expires_at(submission);
    let expiry = if expires <= o.now {
        "Its time is over: the next look at it makes it failed".to_owned()
    } else {
        format!("If nobody takes it until {}, it fails", rfc3339(expires))
    };
    let wait = if due > o.now {
        format!("Its {which} attempt is due in {}, at {}.", age(due.since(o.now)), rfc3339(due))
    } else {
        format!("Its {which} attempt is due since {}.", rfc3339(due))
    };
    if !o.running {
        return format!("No relay runs on this directory. {wait} {expiry}.");
    }
    if let Some(reason) = o.paused {
        return format!(
            "{wait} But deliveries are {}, so nothing is tried until that ends; `waystation delivery status` says \
             more. {expiry}.",
            paused(reason)
        );
    }
    if o.under_way {
        return format!("An attempt is under way now, and nothing was handed over yet. {expiry}.");
    }
    match o.left_alone_until {
        Some(until) => format!(
            "{wait} But its destination {} does not answer, so all mail for it is left alone until {} ({} from \
             now); then one message tries it first. {expiry}.",
            submission.destination,
            rfc3339(until),
            age(until.since(o.now))
        ),
        None if due > o.now => format!("{wait} {expiry}."),
        None => {
            format!("{wait} It is tried when {} has a place for it. {expiry}.", submission.destination)
        }
    }
}

/// `paused by an operator: ...`, or `paused: ...` for a reason that does not say it itself.
fn paused(reason: &str) -> String {
    let reason = reason.trim_end_matches('.');
    if reason.starts_with("paused") { reason.to_owned() } else { format!("paused: {reason}") }
}

fn armed(since: &str, note: &Note, o: &Outlook<'_>) -> String {
    let whom = if note.text.is_empty() { "handed to the next hop" } else { note.text.trim_end_matches('.') };
    if !o.running {
        return format!(
            "It was {whom} at {since}, and no relay runs that could hear the answer: the next start makes it \
             indeterminate, because nobody can know whether it was taken."
        );
    }
    format!(
        "It is armed since {since}: {whom}, and the octets that complete the message may have left. Only that \
         host's answer decides now; it is sent or failed by a clear one, and indeterminate if none comes. Until \
         then it can be neither held nor cancelled, and no other host is tried."
    )
}

fn result(submission: &Submission, timeline: &[Transition]) -> String {
    let state = submission.info.state;
    // The step that made the result; later ones with the same state are notes about it.
    let step = timeline.iter().find(|step| step.state == state.word());
    let note = step.map(|step| Note::from_reason(&step.reason)).unwrap_or_default();
    let at = step.map_or(submission.info.changed_at, |step| WallMs(step.at_ms));
    let (at, id) = (rfc3339(at), submission.info.id);
    let code =
        if note.enhanced_code.is_empty() { String::new() } else { format!(" ({})", note.enhanced_code) };
    let tries = match attempts_made(submission.attempts.into(), timeline) {
        0 => String::new(),
        1 => " after one attempt".to_owned(),
        n => format!(" after {n} attempts"),
    };
    let result = match (state, note.attempts.last()) {
        (State::Sent, Some(last)) => {
            format!("{} took it at {at}{tries}, {}, and answered: {}.", host(last), tls(last), reply(last))
        }
        (State::Sent, None) => format!("It is sent since {at}{}.", because(&note.text)),
        (State::Indeterminate, last) => format!(
            "At {at} it became indeterminate: the octets that complete the message had left{}, and no clear answer \
             came{}. Nobody can know whether it was taken, so it is never sent again by itself: a second copy could \
             arrive. If one does no harm, `waystation spool resend {id} --i-know-it-may-duplicate` makes a new \
             submission of the same message.",
            last.map(|last| format!(" for {}", host(last))).unwrap_or_default(),
            because(&note.text)
        ),
        (_, _) => format!(
            "It failed at {at}{tries}{}{code}. Nobody took it, and it is not sent again.",
            because(&note.text)
        ),
    };
    let remarks = timeline.iter().skip_while(|step| step.state != state.word()).skip(1);
    let remarks = remarks.filter(|step| step.reason != spool::submission::TOLD && !step.reason.is_empty());
    remarks.fold(result, |text, step| {
        format!(
            "{text} Noted at {}: {}.",
            rfc3339(WallMs(step.at_ms)),
            sentence(&Note::from_reason(&step.reason).text)
        )
    })
}

/// `mx.far.example [192.0.2.1:25]`
fn host(attempt: &Attempt) -> String {
    if attempt.address.is_empty() {
        attempt.host.clone()
    } else {
        format!("{} [{}]", attempt.host, attempt.address)
    }
}

fn tls(attempt: &Attempt) -> String {
    match attempt.tls.split_once(' ') {
        Some(("unverified", version)) => format!("over {version} with a certificate that nobody vouched for"),
        Some(("web_pki", version)) => {
            format!("over {version} with a certificate that a public authority vouched for")
        }
        Some(("dane", version)) => format!("over {version} with a certificate that DNSSEC vouched for"),
        Some(_) => format!("over {}", attempt.tls),
        None => "in the clear".to_owned(),
    }
}

fn reply(attempt: &Attempt) -> String {
    let text = attempt.text.trim_end_matches('.');
    match attempt.code {
        Some(code) => format!("{code} {text}").trim_end().to_owned(),
        None => text.to_owned(),
    }
}

fn told(submission: &Submission, o: &Outlook<'_>) -> String {
    let gone = rfc3339(submission.info.changed_at.plus(o.retain_ms));
    if submission.told {
        return format!("Its gateway has the result; the record stays until {gone}.");
    }
    if o.revoked {
        return format!(
            "Its gateway was not told, and cannot be while its mailbox is revoked; `waystation mailbox allow {}` lets it \
             come.",
            submission.mailbox_name
        );
    }
    match o.connected {
        Some(true) => "Its gateway is connected, and has not confirmed the result yet.".to_owned(),
        Some(false) => {
            "Its gateway was not told yet, because it is not connected; it is told at its next session."
                .to_owned()
        }
        None => "Its gateway was not told yet; it is told when the relay runs and the gateway connects."
            .to_owned(),
    }
}

#[cfg(test)]
mod tests;
