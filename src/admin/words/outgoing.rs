//! PURE: submissions and their attempts as JSON objects with the documented names.

use serde_json::{Value, json};
use spool::ids::WallMs;
use spool::life;
use spool::submission::{Submission, TOLD};
use spool::types::{LaneStats, STATES, State, Transition};

use super::rfc3339;
use crate::mail::outbound::values::{Attempt, Note};

/// Adds what every listing of a submission says beside what it says of an item.
pub fn submission(object: &mut Value, submission: &Submission, now: WallMs) {
    let state = submission.info.state;
    object["result"] = life::is_result(state).then(|| state.word()).into();
    object["destination"] = submission.destination.as_str().into();
    object["attempts_made"] = submission.attempts.into();
    object["told"] = submission.told.into();
    let due = (state == State::Ready).then_some(submission.due);
    object["due_at"] = due.map(rfc3339).into();
    object["due_seconds"] = due.map(|due| due.since(now) / 1000).into();
}

/// Adds the hosts that were tried, over all steps, in order.
pub fn attempts(object: &mut Value, timeline: &[Transition]) {
    let notes = timeline.iter().map(|step| Note::from_reason(&step.reason));
    object["attempts"] = notes.flat_map(|note| note.attempts).map(|a| attempt(&a)).collect();
}

/// The steps of a submission: `at`, `state`, `reason` (one line), `enhanced_code`, `attempts`.
#[must_use]
pub fn timeline(steps: &[Transition]) -> Value {
    let steps = steps.iter().map(|step| {
        let note = Note::from_reason(&step.reason);
        json!({
            "at": rfc3339(WallMs(step.at_ms)),
            "state": step_word(step),
            "reason": note.text,
            "enhanced_code": note.enhanced_code,
            "attempts": note.attempts.iter().map(attempt).collect::<Value>(),
        })
    });
    steps.collect()
}

/// The word of a step: its state, and `told` for the one that says that the gateway has the result.
fn step_word(step: &Transition) -> &str {
    if step.reason == TOLD { "told" } else { &step.state }
}

/// The counters of an outbox: `queued`, `held`, `armed`, and results by their words.
#[must_use]
pub fn outbox(stats: &LaneStats) -> Value {
    counters(&stats.items)
}

/// Counters of submissions by state, under the words of an operator.
#[must_use]
pub fn counters(counts: &[u64; STATES]) -> Value {
    let of = |state: State| State::ALL.iter().zip(counts).find(|(s, _)| **s == state).map_or(0, |(_, n)| *n);
    json!({
        "queued": of(State::Ready),
        "held": of(State::Held),
        "armed": of(State::Armed),
        "sent": of(State::Sent),
        "failed": of(State::Failed),
        "indeterminate": of(State::Indeterminate),
    })
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "host": attempt.host,
        "address": attempt.address,
        "tls": attempt.tls,
        "stage": attempt.stage,
        "code": attempt.code,
        "enhanced_code": attempt.enhanced_code,
        "text": attempt.text,
        "started_at": rfc3339(WallMs(attempt.started_ms)),
        "duration_ms": attempt.duration_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_all_steps_stand_in_one_list_with_the_documented_names() {
        let tried = Attempt {
            host: "mx.far.example".into(),
            address: "192.0.2.1:25".into(),
            tls: "none".into(),
            stage: "rcpt".into(),
            code: Some(450),
            enhanced_code: "4.2.1".into(),
            text: "later".into(),
            started_ms: 1_767_323_045_678,
            duration_ms: 12,
        };
        let note = Note { attempts: vec![tried], ..Note::line("mx.far.example answered 450 later") };
        let step = |state: &str, reason: String| Transition { state: state.into(), at_ms: 0, reason };
        let steps =
            [step("ready", "accepted".into()), step("ready", note.to_reason()), step("sent", TOLD.into())];
        let mut object = json!({});
        attempts(&mut object, &steps);
        assert_eq!(object["attempts"].as_array().map(Vec::len), Some(1));
        let first = &object["attempts"][0];
        assert_eq!((first["code"].as_u64(), first["duration_ms"].as_u64()), (Some(450), Some(12)));
        assert_eq!(first["started_at"], "2026-01-02T03:04:05.678Z");
        for name in ["host", "address", "tls", "enhanced_code", "text"] {
            assert!(first[name].is_string(), "{name}");
        }
        let steps = timeline(&steps);
        assert_eq!(steps[1]["reason"], "mx.far.example answered 450 later");
        assert_eq!((&steps[0]["state"], &steps[2]["state"]), (&json!("ready"), &json!("told")));
    }
}
