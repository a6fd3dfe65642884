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
    object["attempts_made"] = attempts_made(object["attempts_made"].as_u64().unwrap_or(0), timeline).into();
}

/// How often it was tried: what the spool counted, or what the timeline tells. The spool does not know whether one that
/// failed without being armed was tried at all.
#[must_use]
pub fn attempts_made(counted: u64, timeline: &[Transition]) -> u64 {
    let tried = timeline.iter().filter(|step| !Note::from_reason(&step.reason).attempts.is_empty());
    counted.max(tried.count() as u64)
}

/// The steps of a submission: `at`, `state`, `reason` (one line), `enhanced_code`, `attempts`.
#[must_use]
pub fn timeline(steps: &[Transition]) -> Value {
    let mut ended = false;
    let steps = steps.iter().map(|step| {
        let word = step_word(step, &mut ended);
        let note = Note::from_reason(&step.reason);
        json!({
            "at": rfc3339(WallMs(step.at_ms)),
            "state": word,
            "reason": note.text,
            "enhanced_code": note.enhanced_code,
            "attempts": note.attempts.iter().map(attempt).collect::<Value>(),
        })
    });
    steps.collect()
}

/// The word of a step: its state; `told` for the one that says that the gateway has the result, `noted` for what was
/// added to the result later.
fn step_word<'a>(step: &'a Transition, ended: &mut bool) -> &'a str {
    let is_result = State::from_word(&step.state).is_some_and(life::is_result);
    let had_one = std::mem::replace(ended, *ended || is_result);
    match (step.reason == TOLD, is_result && had_one) {
        (true, _) => "told",
        (false, true) => "noted",
        (false, false) => &step.state,
    }
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
        let steps = [
            step("ready", "accepted".into()),
            step("failed", note.to_reason()),
            step("failed", TOLD.into()),
            step("failed", "sent again".into()),
        ];
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
        let words: Vec<_> = (0..4).map(|n| steps[n]["state"].as_str().unwrap_or("")).collect();
        assert_eq!(words, ["ready", "failed", "told", "noted"]);
        assert_eq!(object["attempts_made"], 1, "it failed before it was armed");
    }
}
