//! One sentence after the other, for every state a submission can be in.

use spool::entry::Outbound;
use spool::ids::{ItemId, LaneId, Seq};
use spool::submission::{INTERRUPTED, TOLD};
use spool::types::ItemInfo;

use super::*;

const ACCEPTED: WallMs = WallMs(1_790_000_000_000);
const MINUTE: u64 = 60_000;

fn submission(state: State, attempts: u32) -> Submission {
    let info = ItemInfo {
        id: ItemId::new(WallMs(1000), [1; 10]),
        lane: LaneId(2),
        lane_name: "home".to_owned(),
        seq: Seq(4),
        state,
        leased: false,
        size_bytes: 2048,
        accepted_at: ACCEPTED,
        changed_at: ACCEPTED.plus(MINUTE),
        sha256: [0; 32],
        chain: [0; 32],
        meta: Vec::new(),
        tag: b"bob@far.example".to_vec(),
        head: Vec::new(),
        chunks: Vec::new(),
        outbound: Some(Outbound { attempts: attempts as u8, told: false }),
    };
    Submission {
        info,
        mailbox: LaneId(1),
        mailbox_name: "home".to_owned(),
        destination: "far.example".to_owned(),
        due: ACCEPTED.plus(5 * MINUTE),
        attempts,
        told: false,
    }
}

fn outlook() -> Outlook<'static> {
    Outlook {
        now: ACCEPTED.plus(2 * MINUTE),
        mail_from: Some("anna@home.example"),
        running: true,
        connected: Some(false),
        revoked: false,
        paused: None,
        under_way: false,
        left_alone_until: None,
        expire_ms: 86_400_000,
        retain_ms: 86_400_000,
    }
}

fn tried(code: Option<u16>, text: &str, tls: &str) -> Note {
    let attempt = Attempt {
        host: "mx.far.example".into(),
        address: "192.0.2.1:25".into(),
        tls: tls.into(),
        stage: "dot".into(),
        code,
        text: text.into(),
        ..Attempt::default()
    };
    Note { attempts: vec![attempt], ..Note::line(format!("mx.far.example: {text}")) }
}

fn step(state: State, note: &Note) -> Transition {
    Transition { state: state.word().into(), at_ms: ACCEPTED.0 + MINUTE, reason: note.to_reason() }
}

fn accepted() -> Transition {
    Transition { state: "ready".into(), at_ms: ACCEPTED.0, reason: "accepted".into() }
}

#[test]
fn every_state_has_full_sentences_without_holes() {
    for state in State::ALL {
        for attempts in [0, 1, 3] {
            for connected in [None, Some(true), Some(false)] {
                for note in [Note::default(), Note::line("some words."), tried(None, "it went away.", "")] {
                    let o = Outlook { connected, running: connected.is_some(), ..outlook() };
                    let timeline = [accepted(), step(state, &note)];
                    let text = explain(&submission(state, attempts), &timeline, &o);
                    assert!(text.starts_with("Submission ") && text.ends_with('.'), "{text}");
                    let holes = ["  ", "\n", "..", ": .", " ,", ":.", ", because: ,"];
                    assert!(!holes.iter().any(|hole| text.contains(hole)), "{text}");
                }
            }
        }
    }
}

#[test]
fn one_that_waits_says_what_happened_when_it_goes_on_and_when_it_ends() {
    let first = explain(&submission(State::Ready, 0), &[accepted()], &outlook());
    assert!(
        first.contains("not tried yet") && first.contains("first attempt is due in 3 minutes"),
        "{first}"
    );
    let later = [accepted(), step(State::Ready, &tried(Some(450), "450 later", "none"))];
    let text = explain(&submission(State::Ready, 1), &later, &outlook());
    assert!(text.contains("tried once, 1 minute ago: mx.far.example: 450 later"), "{text}");
    assert!(text.contains("If nobody takes it until"), "{text}");
    let paused = Outlook { paused: Some("paused by an operator: new host"), ..outlook() };
    let text = explain(&submission(State::Ready, 1), &later, &paused);
    assert!(text.contains("deliveries are paused by an operator: new host"), "{text}");
    let down = Outlook { left_alone_until: Some(ACCEPTED.plus(6 * MINUTE)), ..outlook() };
    let text = explain(&submission(State::Ready, 1), &later, &down);
    assert!(text.contains("far.example does not answer") && text.contains("4 minutes from now"), "{text}");
    let put_off = [accepted(), step(State::Ready, &Note::line("no host answered a short while ago"))];
    let text = explain(&submission(State::Ready, 0), &put_off, &outlook());
    assert!(text.contains("set anew at") && text.contains(": no host answered"), "{text}");
    let stopped = explain(&submission(State::Ready, 0), &put_off, &Outlook { running: false, ..outlook() });
    assert!(stopped.contains("No relay runs"), "{stopped}");
}

#[test]
fn a_result_says_who_how_and_whether_it_was_told() {
    let sent = [accepted(), step(State::Sent, &tried(Some(250), "2.0.0 queued", "unverified TLSv1.3"))];
    let text = explain(&submission(State::Sent, 1), &sent, &outlook());
    assert!(text.contains("mx.far.example [192.0.2.1:25] took it at"), "{text}");
    assert!(text.contains("over TLSv1.3") && text.contains("250 2.0.0 queued"), "{text}");
    assert!(text.contains("was not told yet, because it is not connected"), "{text}");
    let mut told = submission(State::Sent, 1);
    told.told = true;
    let steps = [&sent[..], &[Transition { reason: TOLD.into(), ..step(State::Sent, &Note::default()) }]];
    let text = explain(&told, &steps.concat(), &outlook());
    assert!(text.contains("Its gateway has the result") && !text.contains("Noted"), "{text}");
}

#[test]
fn an_indeterminate_one_says_that_it_is_never_sent_again_and_how_it_can_be() {
    let note = Note::line(INTERRUPTED);
    let text = explain(
        &submission(State::Indeterminate, 1),
        &[accepted(), step(State::Indeterminate, &note)],
        &outlook(),
    );
    for words in [INTERRUPTED, "never sent again", "--i-know-it-may-duplicate", "spool resend"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn an_armed_one_names_its_host_and_what_a_stop_means() {
    let note = Note::line("handed to mx.far.example [192.0.2.1:25]");
    let timeline = [accepted(), step(State::Armed, &note)];
    let text = explain(&submission(State::Armed, 0), &timeline, &outlook());
    assert!(
        text.contains("handed to mx.far.example") && text.contains("neither held nor cancelled"),
        "{text}"
    );
    let text = explain(&submission(State::Armed, 0), &timeline, &Outlook { running: false, ..outlook() });
    assert!(text.contains("the next start makes it indeterminate"), "{text}");
}

#[test]
fn an_operators_hold_and_purge_say_so_and_keep_his_words_apart() {
    let step = |word: &str| Transition {
        state: word.into(),
        at_ms: ACCEPTED.0 + MINUTE,
        reason: "by an operator: asked by anna".into(),
    };
    let held = explain(&submission(State::Held, 0), &[accepted(), step("held")], &outlook());
    assert!(
        held.contains("An operator holds it since") && held.contains(", because: asked by anna."),
        "{held}"
    );
    let purged = explain(&submission(State::Purged, 1), &[accepted(), step("purged")], &outlook());
    assert!(
        purged.contains("An operator removed it at") && purged.contains(", because: asked by anna."),
        "{purged}"
    );
    assert!(!format!("{held}{purged}").contains("by an operator"), "{held}{purged}");
}

#[test]
fn a_result_that_a_revoked_mailbox_cannot_be_told_says_so() {
    let failed = Transition { state: "failed".into(), at_ms: ACCEPTED.0 + MINUTE, reason: String::new() };
    let o = Outlook { revoked: true, ..outlook() };
    let text = explain(&submission(State::Failed, 1), &[accepted(), failed], &o);
    assert!(text.contains("its mailbox is revoked; `waystation mailbox allow home`"), "{text}");
}
