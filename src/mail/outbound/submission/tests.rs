//! Rows of the checklist, by their ids.

use std::sync::Arc;

use super::*;
use crate::mail::outbound::values::TlsDemand;

const NOW: WallMs = WallMs(1_000_000);
const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

fn terms() -> Terms {
    Terms {
        attempts: 0,
        expires_at: WallMs(NOW.0 + DAY),
        last_reason: String::new(),
        retry: Retry { waits_ms: Arc::from([MINUTE / 2, 5 * MINUTE]), greylist_ms: MINUTE },
        jitter_permille: 0,
    }
}

fn endpoint(host: &str) -> Endpoint {
    Endpoint {
        host: host.to_owned(),
        address: ([192, 0, 2, 1], 25).into(),
        tls: TlsDemand::Opportunistic { cleartext: true },
    }
}

fn routed(hosts: &[&str]) -> Event {
    Event::Routed { endpoints: hosts.iter().map(|host| endpoint(host)).collect(), left_out: false }
}

fn attempt(host: &str, text: &str) -> Attempt {
    Attempt { host: host.to_owned(), text: text.to_owned(), ..Attempt::default() }
}

/// An attempt that stands before the first of these hosts.
fn trying(hosts: &[&str]) -> Submission {
    let mut machine = Submission::new(terms());
    assert_eq!(machine.handle(Event::Begin, NOW), Step::Route);
    let step = machine.handle(routed(hosts), NOW);
    assert_eq!(step, hosts.first().map_or(step.clone(), |host| Step::Try(endpoint(host))));
    machine
}

fn ended(machine: &mut Submission, ending: Ending, host: &str) -> Step {
    machine.handle(Event::Ended(ending, attempt(host, "words")), NOW)
}

const SAFE: Ending = Ending::Safe { greylisted: false };

/// What a step comes to, without its note.
fn word(step: &Step) -> &'static str {
    match step {
        Step::Route => "route",
        Step::Try(_) => "next host",
        Step::Wait => "wait",
        Step::Defer { .. } => "retry",
        Step::Postpone { .. } => "postpone",
        Step::Settle { verdict, .. } => verdict.word(),
        Step::Leave => "leave",
    }
}

/// One host, one ending: what follows. The last column is what follows when another host is left.
#[test]
fn every_ending_has_its_row() {
    for (row, armed, ending, alone, with_another) in [
        ("Q1 connect, TLS, banner, EHLO, MAIL, RCPT loss or 4yz", false, SAFE, "retry", "next host"),
        ("Q2 loss after DATA", false, SAFE, "retry", "next host"),
        ("Q3 loss during the body; P10 4yz there", false, SAFE, "retry", "next host"),
        ("P2 5yz banner", false, Ending::Unwelcome, "failed", "next host"),
        ("P6, P7, P9 5yz to MAIL, RCPT, DATA", false, Ending::Refused, "failed", "failed"),
        ("Q4 armed write broke", true, Ending::Unknown, "indeterminate", "indeterminate"),
        ("Q5, Q6, Q7 armed, no complete reply", true, Ending::Unknown, "indeterminate", "indeterminate"),
        ("Q8, Q9 complete 2yz", true, Ending::Delivered, "sent", "sent"),
        ("Q10 complete 4yz", true, Ending::PutOff, "retry", "retry"),
        ("Q11 complete 5yz", true, Ending::Refused, "failed", "failed"),
        ("Q12 3yz or no SMTP", true, Ending::Unknown, "indeterminate", "indeterminate"),
        ("Q15 the armed record did not become stable", false, Ending::NotRecorded, "leave", "leave"),
        ("Q18 cancelled or held before arming", false, Ending::Withdrawn, "leave", "leave"),
        // What a driver may not mean: it never becomes a second copy.
        ("armed and yet safe", true, SAFE, "indeterminate", "indeterminate"),
        ("armed and yet unwelcome", true, Ending::Unwelcome, "indeterminate", "indeterminate"),
        ("armed and yet withdrawn", true, Ending::Withdrawn, "indeterminate", "indeterminate"),
        ("armed and yet not recorded", true, Ending::NotRecorded, "indeterminate", "indeterminate"),
    ] {
        for (hosts, expected) in [(&["a"][..], alone), (&["a", "b"][..], with_another)] {
            let mut machine = trying(hosts);
            if armed {
                assert_eq!(machine.handle(Event::Armed, NOW), Step::Wait, "{row}");
                assert!(machine.is_armed());
            }
            let step = ended(&mut machine, ending, "a");
            assert_eq!(word(&step), expected, "{row}, hosts {hosts:?}");
            assert_eq!(machine.is_over(), expected != "next host", "{row}");
            assert!(!machine.is_armed(), "{row}");
        }
    }
}

/// Q17: indeterminate wins over what other hosts said, and nobody else is asked.
#[test]
fn indeterminate_wins_over_everything_but_delivered() {
    let mut machine = trying(&["a", "b", "c"]);
    assert_eq!(word(&ended(&mut machine, SAFE, "a")), "next host");
    machine.handle(Event::Armed, NOW);
    let step = ended(&mut machine, Ending::Unknown, "b");
    let Step::Settle { verdict: Verdict::Indeterminate, note } = step else { panic!("{step:?}") };
    assert_eq!(note.attempts.len(), 2);
    assert_eq!(note.text, "b: words");
}

/// Q20, Q22: write-once; whatever comes later changes nothing.
#[test]
fn a_result_is_given_once() {
    let mut machine = trying(&["a", "b"]);
    machine.handle(Event::Armed, NOW);
    assert_eq!(word(&ended(&mut machine, Ending::Delivered, "a")), "sent");
    for event in [
        Event::Begin,
        Event::Armed,
        Event::TimeUp,
        Event::Stopping,
        routed(&["b"]),
        Event::Ended(Ending::Refused, attempt("b", "no")),
        Event::Unroutable { permanent: true, attempt: attempt("b", "no") },
    ] {
        assert_eq!(machine.handle(event.clone(), NOW), Step::Leave, "{event:?}");
    }
}

/// P2: a 5yz banner of all hosts is final, of some it is not.
#[test]
fn unwelcome_everywhere_is_final_and_unwelcome_somewhere_is_not() {
    let mut machine = trying(&["a", "a", "b"]);
    assert_eq!(word(&ended(&mut machine, SAFE, "a")), "next host");
    assert_eq!(word(&ended(&mut machine, Ending::Unwelcome, "a")), "next host", "the other address of it");
    assert_eq!(word(&ended(&mut machine, Ending::Unwelcome, "b")), "failed");

    let mut machine = trying(&["a", "b"]);
    assert_eq!(word(&ended(&mut machine, Ending::Unwelcome, "a")), "next host");
    assert_eq!(word(&ended(&mut machine, SAFE, "b")), "retry");
}

/// P2: nor is it final while there are hosts that this attempt cannot ask.
#[test]
fn unwelcome_is_not_final_while_a_host_is_left_out() {
    for (left_out, expected) in [(false, "failed"), (true, "retry")] {
        let mut machine = Submission::new(terms());
        machine.handle(Event::Begin, NOW);
        machine.handle(Event::Routed { endpoints: vec![endpoint("a")], left_out }, NOW);
        assert_eq!(word(&ended(&mut machine, Ending::Unwelcome, "a")), expected);
    }
}

/// O4 and O5, O6, O12, L7: what DNS cannot say now, and what it says for good.
#[test]
fn no_way_there_is_temporary_or_final_as_the_route_says() {
    for (permanent, expected) in [(false, "retry"), (true, "failed")] {
        let mut machine = Submission::new(terms());
        machine.handle(Event::Begin, NOW);
        let no_way = Event::Unroutable { permanent, attempt: attempt("d.example", "no way") };
        assert_eq!(word(&machine.handle(no_way, NOW)), expected);
    }
    assert_eq!(word(&Submission::new(terms()).handle(Event::Begin, NOW)), "route");
    let mut machine = Submission::new(terms());
    machine.handle(Event::Begin, NOW);
    assert_eq!(word(&machine.handle(routed(&[]), NOW)), "retry", "no host is no verdict");
}

/// Q19: too late before it began, too late during it, and the wait for the dot that is not cut short.
#[test]
fn expiry_fails_what_is_unarmed_and_waits_for_what_is_armed() {
    let late = WallMs(NOW.0 + DAY);
    let mut machine = Submission::new(Terms { last_reason: "a: refused".into(), ..terms() });
    let step = machine.handle(Event::Begin, late);
    let Step::Settle { verdict: Verdict::Failed, note } = step else { panic!("{step:?}") };
    assert_eq!((note.text.as_str(), note.enhanced_code.as_str()), ("expired; a: refused", "4.4.7"));

    let mut machine = trying(&["a"]);
    let step = machine.handle(Event::Ended(SAFE, attempt("a", "no answer")), late);
    let Step::Settle { verdict: Verdict::Failed, note } = step else { panic!("{step:?}") };
    assert_eq!(note.text, "expired; a: no answer");
    assert_eq!(note.attempts.len(), 1);

    let mut machine = trying(&["a"]);
    assert_eq!(word(&machine.handle(Event::TimeUp, late)), "failed");

    let mut machine = trying(&["a"]);
    machine.handle(Event::Armed, NOW);
    assert_eq!(machine.handle(Event::TimeUp, late), Step::Wait);
    assert_eq!(word(&ended(&mut machine, Ending::Unknown, "a")), "indeterminate");
}

/// P17 and an orderly stop: unarmed work ends without a trace of harm, armed work waits for its verdict.
#[test]
fn time_up_and_stop_never_touch_what_is_armed() {
    for event in [Event::TimeUp, Event::Stopping] {
        let mut machine = trying(&["a"]);
        machine.handle(Event::Armed, NOW);
        assert_eq!(machine.handle(event, NOW), Step::Wait);
        assert_eq!(word(&ended(&mut machine, Ending::Delivered, "a")), "sent");
    }
    assert_eq!(word(&trying(&["a"]).handle(Event::TimeUp, NOW)), "retry");
    assert_eq!(word(&trying(&["a"]).handle(Event::Stopping, NOW)), "leave");
}

/// P16 and the schedule.
#[test]
fn retries_follow_the_schedule_and_greylisting_waits_a_minute() {
    let due = |attempts, ending| {
        let mut machine = Submission::new(Terms { attempts, ..terms() });
        machine.handle(Event::Begin, NOW);
        machine.handle(routed(&["a"]), NOW);
        let step = ended(&mut machine, ending, "a");
        let Step::Defer { due, .. } = step else { panic!("{step:?}") };
        due.0 - NOW.0
    };
    assert_eq!(due(0, SAFE), MINUTE / 2);
    assert_eq!(due(1, SAFE), 5 * MINUTE);
    assert_eq!(due(9, SAFE), 5 * MINUTE);
    assert_eq!(due(0, Ending::Safe { greylisted: true }), MINUTE);
    assert_eq!(due(0, Ending::PutOff), MINUTE / 2);
}

#[test]
fn no_retry_is_planned_beyond_the_end() {
    let mut machine = Submission::new(Terms { expires_at: WallMs(NOW.0 + 1_000), ..terms() });
    machine.handle(Event::Begin, NOW);
    machine.handle(routed(&["a"]), NOW);
    let step = ended(&mut machine, SAFE, "a");
    assert!(matches!(step, Step::Defer { due, .. } if due.0 == NOW.0 + 1_000), "{step:?}");
}

/// O15: hosts that are known to be dead are not dialled, and no attempt is counted.
#[test]
fn dead_hosts_only_postpone() {
    let mut machine = Submission::new(terms());
    machine.handle(Event::Begin, NOW);
    let until = WallMs(NOW.0 + 7_000);
    let step = machine.handle(Event::AllDead { until, reason: "no answer".into() }, NOW);
    assert_eq!(step, Step::Postpone { due: until, note: Note::line("no answer") });
}

/// Q23 in small: after any sequence of events there was at most one result, and never a host after arming.
#[test]
fn any_order_of_events_gives_at_most_one_result() {
    let events = [
        Event::Begin,
        routed(&["a", "b"]),
        Event::Armed,
        Event::Ended(SAFE, attempt("a", "x")),
        Event::Ended(Ending::Unknown, attempt("a", "x")),
        Event::Ended(Ending::Delivered, attempt("a", "x")),
        Event::TimeUp,
    ];
    let count = events.len();
    for mut seed in 0..count.pow(6) {
        let mut machine = Submission::new(terms());
        let (mut results, mut armed) = (0, false);
        for _ in 0..6 {
            let event = events[seed % count].clone();
            seed /= count;
            let step = machine.handle(event, NOW);
            assert!(!(armed && matches!(step, Step::Try(_) | Step::Defer { .. })), "sent on after arming");
            armed |= machine.is_armed();
            results += usize::from(matches!(step, Step::Settle { .. }));
        }
        assert!(results <= 1);
    }
}
