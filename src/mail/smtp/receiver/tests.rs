//! The session's table of transitions, by rule id, over a little world of known mailboxes.

mod starttls;

use std::time::Duration;

use spool::ids::WallMs;

use super::*;
use crate::clock;

/// A client and its surroundings: answers questions at once, stores in memory.
struct World {
    receiver: Receiver,
    now: Instant,
    wire: String,
    body: Option<Vec<u8>>,
    stored: Vec<(Acceptance, Vec<u8>)>,
    store_works: bool,
    /// The disk takes no body.
    body_refused: Option<Answer>,
    hold_store: bool,
    waiting: Option<Acceptance>,
    space: Answer,
    /// Unknown recipients: of the client, and around it.
    lately: (u32, u32),
}

fn lane(n: u32) -> Answer {
    Answer::Lane { lane: LaneId(n), name: format!("lane {n}") }
}

impl World {
    fn with(settings: Settings) -> Self {
        let now = clock::monotonic();
        let mut world = Self {
            receiver: Receiver::new(Arc::new(settings), false, now),
            now,
            wire: String::new(),
            body: None,
            stored: Vec::new(),
            store_works: true,
            body_refused: None,
            hold_store: false,
            waiting: None,
            space: Answer::Begin,
            lately: (0, 0),
        };
        world.perform();
        world
    }

    fn new() -> Self {
        Self::with(settings())
    }

    fn greeted() -> Self {
        let mut world = Self::new();
        world.say("EHLO client.example\r\n");
        world
    }

    fn ready_for_body() -> Self {
        let mut world = Self::greeted();
        world.say("MAIL FROM:<a@client.example>\r\nRCPT TO:<home@our.example>\r\n");
        world
    }

    fn perform(&mut self) {
        while let Some(output) = self.receiver.poll() {
            match output {
                Output::Write { reply, .. } => {
                    let mut bytes = Vec::new();
                    reply.encode(&mut bytes);
                    self.wire.push_str(&String::from_utf8(bytes).unwrap());
                }
                Output::Ask(Question::Transaction(_)) => self.receiver.answer(self.space.clone(), self.now),
                Output::Ask(Question::Recipient(path)) => {
                    let answer = match path.key().as_str() {
                        "postmaster" | "postmaster@our.example" => lane(0),
                        "home@our.example" | "home+tag@our.example" => lane(1),
                        "full@our.example" => Answer::OverQuota,
                        "gone@our.example" => Answer::Revoked,
                        key if key.starts_with("many") => lane(9),
                        _ => Answer::Unknown,
                    };
                    self.receiver.answer(answer, self.now);
                }
                Output::Ask(Question::Offence) => {
                    let (own, around) = self.lately;
                    self.receiver.answer(Answer::Offences { own, around }, self.now)
                }
                Output::Begin { .. } => {
                    assert!(self.body.replace(Vec::new()).is_none(), "one body at a time")
                }
                Output::Body(_) if self.body_refused.is_some() => {
                    self.body = None;
                    self.receiver.body_failed(self.body_refused.as_ref().unwrap());
                }
                Output::Body(bytes) => self.body.as_mut().unwrap().extend_from_slice(&bytes),
                Output::Abandon => assert!(self.body.take().is_some(), "abandoned what never began"),
                Output::Persist(acceptance) if self.hold_store => self.waiting = Some(*acceptance),
                Output::Persist(acceptance) => self.store(*acceptance),
                Output::StartTls => self.wire.push_str("<tls>"),
                Output::Close => self.wire.push_str("<closed>"),
            }
        }
    }

    fn store(&mut self, acceptance: Acceptance) {
        let ticket = acceptance.ticket;
        let Some(body) = self.body.take() else {
            return self.receiver.store_failed(ticket, Answer::Failed, self.now);
        };
        assert_eq!(body.len() as u64, acceptance.bytes);
        if self.store_works {
            self.stored.push((acceptance, body));
            self.receiver.persisted(ticket, ItemId::new(WallMs(1), [7; 10]), self.now);
        } else {
            self.receiver.store_failed(ticket, Answer::Failed, self.now);
        }
    }

    /// Sends, and returns what came back: codes only, in order.
    fn say(&mut self, text: impl AsRef<[u8]>) -> String {
        self.wire.clear();
        self.send(text.as_ref());
        codes(&self.wire)
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let used = self.receiver.receive(&bytes[at..], self.now);
            self.perform();
            if used == 0 && self.waiting.is_some() {
                return;
            }
            at += used;
        }
    }

    fn pass(&mut self, time: Duration) -> String {
        self.wire.clear();
        self.now += time;
        self.receiver.tick(self.now);
        self.perform();
        codes(&self.wire)
    }
}

fn settings() -> Settings {
    let domains = ["our.example".to_owned(), "bücher.example".to_owned()];
    Settings { message_bytes_max: 1000, recipients_max: 100, ..Settings::new("mx.our.example", &domains) }
}

/// `250 2.1.0` of every last reply line, `|` between; checks each line on the way (B18, B19, E11).
fn codes(wire: &str) -> String {
    let mut found = Vec::new();
    for line in wire.split_inclusive("\r\n") {
        if let Some(line) = line.strip_prefix("<tls>") {
            found.push("tls".to_owned());
            if line == "<closed>" {
                found.push("closed".to_owned());
            }
            continue;
        }
        if line == "<closed>" {
            found.push("closed".to_owned());
            continue;
        }
        assert!(line.ends_with("\r\n") && line.len() <= 512, "{line:?}");
        let numeric =
            |word: &&str| word.split('.').count() == 3 && word.split('.').all(|n| n.parse::<u16>().is_ok());
        let enhanced = line[4..].split(' ').next().filter(numeric);
        if let Some(enhanced) = enhanced {
            assert_eq!(enhanced.as_bytes()[0], line.as_bytes()[0], "{line:?}");
        }
        if line.as_bytes()[3] == b' ' {
            found.push([Some(&line[..3]), enhanced].into_iter().flatten().collect::<Vec<_>>().join(" "));
        }
    }
    found.join("|")
}

const MESSAGE: &str = "Subject: hi\r\n\r\nhello\r\n";

#[test]
fn greeting_and_capabilities() {
    let mut world = World::new();
    assert_eq!(world.wire, "220 mx.our.example ESMTP waystation\r\n"); // A1
    world.say("EHLO client.example\r\n");
    let keywords = "PIPELINING SIZE 1000 8BITMIME SMTPUTF8 CHUNKING ENHANCEDSTATUSCODES LIMITS";
    for keyword in keywords.split(' ') {
        assert!(world.wire.contains(keyword), "{keyword}"); // A4, H1, I1
    }
    assert!(world.wire.contains("250 LIMITS RCPTMAX=100 MAILMAX=1000")); // E12
    assert!(!world.wire.contains("STARTTLS") && !world.wire.contains("AUTH")); // J6, J9
    assert_eq!(world.say("HELO client.example\r\n"), "250"); // A5
    assert_eq!(world.say("MAIL FROM:<a@b.example> SIZE=1\r\n"), "555 5.5.4");
}

#[test]
fn without_a_domain_there_is_no_service() {
    let mut world = World::with(Settings { domains: Vec::new(), ..settings() });
    assert_eq!(codes(&world.wire), "554"); // A2
    assert_eq!(world.say("EHLO x\r\nMAIL FROM:<>\r\n"), "503 5.5.1|503 5.5.1");
    assert_eq!(world.say("QUIT\r\n"), "221 2.0.0|closed");
}

#[test]
fn early_talkers_are_sent_away() {
    let slow = || Settings { greet_delay: Duration::from_millis(200), ..settings() };
    let mut world = World::with(slow());
    assert_eq!(world.wire, "");
    assert_eq!(world.say("EHLO x\r\n"), "554 5.5.1|closed"); // A3
    let mut patient = World::with(slow());
    assert_eq!(patient.pass(Duration::from_millis(200)), "220");
    assert_eq!(patient.say("EHLO x\r\n"), "250");
}

#[test]
fn a_message_is_stored_and_answered_with_its_id() {
    let mut world = World::ready_for_body();
    assert_eq!(world.say("DATA\r\n"), "354");
    assert_eq!(world.say(format!("{MESSAGE}.\r\n")), "250 2.0.0");
    let id = ItemId::new(WallMs(1), [7; 10]);
    assert_eq!(world.wire, format!("250 2.0.0 OK queued as {id}\r\n")); // K8
    let (acceptance, body) = &world.stored[0];
    assert_eq!(body, MESSAGE.as_bytes());
    assert_eq!((acceptance.helo.as_str(), acceptance.protocol), ("client.example", "ESMTP"));
    assert_eq!(world.say("QUIT\r\n"), "221 2.0.0|closed"); // A10
}

#[test]
fn no_reply_precedes_its_commit() {
    let mut world = World::ready_for_body();
    world.hold_store = true;
    world.say("DATA\r\n");
    assert_eq!(world.say(format!("{MESSAGE}.\r\n")), "");
    assert!(!world.receiver.wants_input() && world.receiver.deadline().is_none());
    assert_eq!(world.receiver.receive(b"NOOP\r\n", world.now), 0);
    let acceptance = world.waiting.take().unwrap();
    // A ticket that is not this one opens no door.
    world.receiver.persisted(Ticket(77), ItemId::new(WallMs(1), [7; 10]), world.now);
    world.perform();
    assert_eq!(world.wire, "");
    world.store(acceptance);
    world.perform();
    assert_eq!(codes(&world.wire), "250 2.0.0");
}

#[test]
fn order_of_commands() {
    let mut world = World::new();
    assert_eq!(world.say("MAIL FROM:<a@b.example> SIZE=1\r\n"), "503 5.5.1"); // A6
    world.say("EHLO x\r\n");
    assert_eq!(world.say("RCPT TO:<home@our.example>\r\nDATA\r\n"), "503 5.5.1|503 5.5.1");
    assert_eq!(world.say("MAIL FROM:<a@b.example>\r\nMAIL FROM:<c@d.example>\r\n"), "250 2.1.0|503 5.5.1");
    assert_eq!(world.say("RCPT TO:<home@our.example>\r\nDATA\r\n"), "250 2.1.5|354"); // B13
    world.say(".\r\n");
    assert_eq!(world.stored[0].0.from.verbatim(), "a@b.example");
    assert_eq!(world.say("MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\n"), "250 2.1.0|250 2.1.5");
    assert_eq!(world.say("EHLO x\r\n"), "250");
    assert_eq!(world.say("DATA\r\n"), "503 5.5.1"); // A7
    assert_eq!(
        world.say("MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\nRSET\r\n"),
        "250 2.1.0|250 2.1.5|250 2.0.0"
    );
    assert_eq!(world.say("RCPT TO:<home@our.example>\r\n"), "503 5.5.1"); // A16
    assert_eq!(
        world.say("MAIL FROM:<>\r\nRCPT TO:<nobody@our.example>\r\nDATA\r\n"),
        "250 2.1.0|550 5.1.1|554 5.5.1"
    ); // B14, F2
}

#[test]
fn recipients_are_decided_one_by_one() {
    let mut world = World::greeted();
    world.say("MAIL FROM:<a@our.example>\r\n");
    for (path, expected) in [
        ("home@our.example", "250 2.1.5"),
        ("HOME@OUR.example", "250 2.1.5"),
        ("nobody@our.example", "550 5.1.1"),           // K3
        ("full@our.example", "452 4.2.2"),             // K5, H7
        ("gone@our.example", "550 5.2.1"),             // K5
        ("u@other.example", "550 5.7.1"),              // K1
        ("@our.example:u@other.example", "550 5.7.1"), // K2
        ("u%other@our.example", "550 5.1.1"),
        ("\"u@other\"@our.example", "550 5.1.1"), // B6
        ("u@[127.0.0.1]", "550 5.1.2"),           // B7
        ("u@our.example.", "501 5.1.3"),          // I6
        ("PostMaster", "250 2.1.5"),              // B4
        ("home+tag@our.example", "250 2.1.5"),    // K11
    ] {
        assert_eq!(world.say(format!("RCPT TO:<{path}>\r\n")), expected, "{path}");
    }
    assert_eq!(world.say("DATA\r\n"), "354");
    world.say(".\r\n");
    let given: Vec<_> = world.stored[0].0.recipients.iter().map(|r| r.path.verbatim()).collect();
    assert_eq!(given, ["home@our.example", "PostMaster", "home+tag@our.example"]); // K10, B5
}

#[test]
fn utf8_needs_its_extension() {
    let mut world = World::greeted();
    assert_eq!(world.say("MAIL FROM:<josé@b.example>\r\n"), "553 5.6.7"); // I2
    assert_eq!(world.say("MAIL FROM:<josé@b.example> SMTPUTF8\r\n"), "250 2.1.0"); // I3
    assert_eq!(world.say(b"RCPT TO:<\xc0\xaf@our.example>\r\n"), "501 5.5.2"); // I4
    assert_eq!(world.say("RCPT TO:<many@BÜCHER.example>\r\n"), "250 2.1.5"); // I5
    assert_eq!(world.say("RCPT TO:<many2@xn--bcher-kva.example>\r\nDATA\r\n"), "250 2.1.5|354");
    world.say(".\r\n");
    assert_eq!(world.stored[0].0.protocol, "UTF8SMTP"); // I7
    assert_eq!(world.say(b"MAIL FROM:<\xff@b>\r\nNOOP\r\n"), "501 5.5.2|250 2.0.0"); // B15
}

#[test]
fn recipients_over_the_cap_are_deferred_and_the_others_stay() {
    let mut world = World::greeted();
    world.say("MAIL FROM:<>\r\n");
    for n in 0..100 {
        assert_eq!(world.say(format!("RCPT TO:<many{n}@our.example>\r\n")), "250 2.1.5");
    }
    assert_eq!(world.say("RCPT TO:<many100@our.example>\r\n"), "452 4.5.3"); // E7
    assert_eq!(world.say("RCPT TO:<many0@our.example>\r\nDATA\r\n"), "250 2.1.5|354");
    world.say(".\r\n");
    assert_eq!(world.stored[0].0.recipients.len(), 100);
}

#[test]
fn sizes_are_refused_early_when_declared_and_at_the_end_when_not() {
    let mut world = World::greeted();
    assert_eq!(world.say("MAIL FROM:<> SIZE=1001\r\n"), "552 5.3.4"); // H2
    assert_eq!(
        world.say("MAIL FROM:<> SIZE=10\r\nRCPT TO:<home@our.example>\r\nDATA\r\n"),
        "250 2.1.0|250 2.1.5|354"
    );
    let line = "x".repeat(98) + "\r\n";
    world.say(line.repeat(10)); // 1000 octets exactly
    assert_eq!(world.say("..\r\n\n.\r\nNOOP\r\n.\r\nNOOP\r\n"), "552 5.3.4|250 2.0.0"); // H4, C19
    assert_eq!((world.stored.len(), world.body.is_some()), (0, false));
    world.say("MAIL FROM:<> SIZE=1000\r\nRCPT TO:<home@our.example>\r\nDATA\r\n");
    // H8: 500 octets of stuffed lines count as 2 each without their dot.
    assert_eq!(world.say("..\r\n".repeat(333) + ".\r\n"), "250 2.0.0"); // H5
    assert_eq!(world.stored[0].1, b".\r\n".repeat(333));
}

#[test]
fn pipelining_keeps_order_and_violations_end_the_session() {
    let group = "MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\nRCPT TO:<x@our.example>\r\nDATA\r\n";
    let mut world = World::greeted();
    assert_eq!(world.say(group), "250 2.1.0|250 2.1.5|550 5.1.1|354"); // F1
    let next = format!("{MESSAGE}.\r\n{group}");
    assert_eq!(world.say(next), "250 2.0.0|250 2.1.0|250 2.1.5|550 5.1.1|354"); // F7
    let mut world = World::greeted();
    assert_eq!(world.say(format!("{group}{MESSAGE}.\r\n")), "250 2.1.0|250 2.1.5|550 5.1.1|554 5.5.0|closed"); // F3
    assert!(world.stored.is_empty());
    let mut world = World::new();
    assert_eq!(world.say("EHLO x\r\nMAIL FROM:<>\r\n"), "554 5.5.0|closed"); // F5
}

#[test]
fn chunks_are_counted_not_read() {
    let mut world = World::ready_for_body();
    assert_eq!(world.say("BDAT 5\r\nhelloBDAT 0 LAST\r\n"), "250 2.0.0|250 2.0.0"); // G1, G10
    assert_eq!(world.stored[0].1, b"hello"); // G8
    let mut world = World::ready_for_body();
    assert_eq!(world.say("BDAT 6\r\na\r\n.\r\nBDAT 3 LAST\r\n..b"), "250 2.0.0|250 2.0.0");
    assert_eq!(world.stored[0].1, b"a\r\n.\r\n..b"); // G7
    let mut world = World::ready_for_body();
    assert_eq!(world.say("BDAT 9 LAST\r\na\n.\nb\r\n.\rNOOP\r\n"), "554 5.6.0|250 2.0.0"); // C22
    let mut world = World::greeted();
    assert_eq!(world.say("BDAT 6\r\nNOOP\r\nNOOP\r\n"), "503 5.5.1|250 2.0.0"); // G2
    let mut world = World::ready_for_body();
    assert_eq!(world.say("BDAT 99999999999999999999\r\n"), "501 5.5.4|closed"); // G5
}

#[test]
fn a_broken_chunked_message_waits_for_rset() {
    let mut world = World::ready_for_body();
    assert_eq!(
        world.say("BDAT 2\r\nhiDATA\r\nBDAT 2 LAST\r\nhiRSET\r\n"),
        "250 2.0.0|503 5.5.1|503 5.5.1|250 2.0.0"
    ); // G3
    assert!(world.body.is_none());
    let mut world = World::ready_for_body();
    assert_eq!(world.say("BDAT 2\r\nhi"), "250 2.0.0");
    let chunk = format!("BDAT 999\r\n{}", "x".repeat(999));
    assert_eq!(world.say(format!("{chunk}{chunk}")), "552 5.3.4|503 5.5.1"); // G4
    assert_eq!(world.say("RCPT TO:<home@our.example>\r\nRSET\r\n"), "503 5.5.1|250 2.0.0");
    let whole = format!("BDAT 1001 LAST\r\n{}", "x".repeat(1001));
    world.say("MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\n");
    assert_eq!(world.say(whole + "MAIL FROM:<>\r\n"), "552 5.3.4|250 2.1.0");
    assert!(world.stored.is_empty());
}

#[test]
fn storage_trouble_is_temporary_and_leaves_nothing() {
    let mut world = World::ready_for_body();
    world.store_works = false;
    world.say("DATA\r\n");
    assert_eq!(world.say(".\r\n"), "451 4.3.0"); // K7
    world.space = Answer::NoSpace;
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "452 4.3.1"); // H6
    world.space = Answer::Busy;
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "450 4.7.1");
    for (answer, reply) in [(Answer::Failed, "451 4.3.0"), (Answer::NoSpace, "452 4.3.1")] {
        let mut world = World::ready_for_body();
        world.say("DATA\r\n");
        world.say("hello");
        world.receiver.body_failed(&answer);
        assert_eq!(world.say(" again\r\n.\r\nNOOP\r\n"), format!("{reply}|250 2.0.0")); // U7
        assert!(world.body.is_none());
        let mut world = World::ready_for_body();
        world.say("BDAT 10\r\nhello");
        world.receiver.body_failed(&answer);
        world.receiver.body_failed(&Answer::Failed); // the first word stands
        assert_eq!(world.say("again"), reply);
        assert_eq!(world.say("BDAT 0 LAST\r\nRSET\r\n"), "503 5.5.1|250 2.0.0");
        assert!(world.body.is_none());
    }
}

#[test]
fn a_refusal_of_the_last_piece_is_given_in_its_own_words() {
    for (answer, reply) in [(Answer::Failed, "451 4.3.0"), (Answer::NoSpace, "452 4.3.1")] {
        for text in [format!("DATA\r\n|{MESSAGE}.\r\n"), "BDAT 4 LAST\r\n|a: b".to_owned()] {
            let mut world = World::ready_for_body();
            world.body_refused = Some(answer.clone());
            let (command, body) = text.split_once('|').unwrap();
            world.say(command);
            assert_eq!(world.say(body), reply, "{text}"); // H6, U7
            world.body_refused = None;
            assert_eq!(
                world.say("MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\nDATA\r\n"),
                "250 2.1.0|250 2.1.5|354"
            );
            assert_eq!(world.say(".\r\n"), "250 2.0.0", "the next message has words of its own");
        }
    }
}

#[test]
fn sessions_are_capped() {
    let mut world = World::greeted();
    for _ in 0..20 {
        assert_eq!(world.say("FROB\r\n"), "500 5.5.2");
    }
    assert_eq!(world.say("FROB\r\n"), "421 4.7.0|closed"); // A17, C20
    let mut world = World::greeted();
    for _ in 0..99 {
        assert_eq!(world.say("NOOP\r\n"), "250 2.0.0");
    }
    assert_eq!(world.say("NOOP\r\n"), "421 4.7.0|closed"); // A17: EHLO was the first
    let mut world = World::with(Settings { messages_max: 2, ..settings() });
    world.say("EHLO x\r\n");
    for _ in 0..2 {
        assert_eq!(world.say("MAIL FROM:<>\r\nRSET\r\n"), "250 2.1.0|250 2.0.0");
    }
    assert_eq!(world.say("MAIL FROM:<>\r\n"), "421 4.7.0|closed");
    let mut world = World::greeted();
    world.say("MAIL FROM:<>\r\n");
    let harvest: String = (0..21).map(|n| format!("RCPT TO:<x{n}@our.example>\r\n")).collect();
    assert!(world.say(harvest).ends_with("550 5.1.1|421 4.7.1|closed")); // K9
}

#[test]
fn unknown_recipients_wait_longer_and_longer_and_in_order() {
    let delay = Duration::from_secs(2);
    let mut world = World::with(Settings { unknown_recipient_delay: delay, ..settings() });
    world.say("EHLO x\r\n");
    world.say("MAIL FROM:<>\r\n");
    let rcpt = "RCPT TO:<nobody@our.example>\r\n";
    assert_eq!(world.say(format!("{rcpt}{rcpt}")), "550 5.1.1|550 5.1.1");
    // The third waits, and what lies behind it waits too (K9).
    let pipelined = format!("{rcpt}NOOP\r\n");
    let taken = world.receiver.receive(pipelined.as_bytes(), world.now);
    world.perform();
    assert_eq!(taken, rcpt.len());
    assert!(world.receiver.is_held() && !world.receiver.wants_input());
    assert_eq!(world.receiver.deadline(), Some(world.now + delay));
    assert_eq!(world.receiver.receive(&pipelined.as_bytes()[taken..], world.now), 0);
    assert_eq!(world.pass(delay), "550 5.1.1");
    assert_eq!(world.say("NOOP\r\n"), "250 2.0.0");
    assert_eq!(world.say("RCPT TO:<home@our.example>\r\n"), "250 2.1.5");
    assert_eq!(world.say(rcpt), "");
    assert_eq!(world.pass(delay), "");
    assert_eq!(world.pass(delay), "550 5.1.1");
    // No room in the tarpit: at once.
    world.say(rcpt);
    world.receiver.release(world.now);
    world.wire.clear();
    assert!(!world.receiver.is_held());
    // What the client did elsewhere counts; far too much of it ends the session.
    let mut world = World::with(Settings { unknown_recipient_delay: delay, ..settings() });
    world.say("EHLO x\r\n");
    world.say("MAIL FROM:<>\r\n");
    world.lately = (1, 5);
    assert_eq!(world.say(rcpt), "");
    assert_eq!(world.receiver.deadline(), Some(world.now + delay * 3));
    world.receiver.drain(Grace { until: world.now, newcomers: false });
    world.perform();
    assert_eq!(codes(&world.wire), "421 4.3.2|closed");
    let mut world = World::with(Settings { unknown_recipient_delay: delay, ..settings() });
    world.say("EHLO x\r\n");
    world.say("MAIL FROM:<>\r\n");
    // What the neighbours did makes it wait, and denies it nothing.
    world.lately = (1, 100_000);
    assert_eq!(world.say(rcpt), "");
    assert_eq!(world.pass(TARPIT_DELAY_MAX), "550 5.1.1"); // K9
    world.lately = (101, 0);
    assert_eq!(world.say(rcpt), "421 4.7.1|closed");
}

#[test]
fn a_session_that_never_brings_a_message_has_an_end() {
    let mut world = World::with(Settings { idle_commands_max: 10_000, ..settings() });
    world.say("EHLO x\r\n");
    let mut minutes = 0;
    while world.pass(Duration::from_secs(60)).is_empty() {
        minutes += 1;
        assert_eq!(world.say("RSET\r\n"), "250 2.0.0");
    }
    assert_eq!(minutes, 29);
    let mut world = World::ready_for_body();
    world.pass(Duration::from_secs(200));
    for _ in 0..20 {
        world.say("DATA\r\n");
        assert_eq!(world.say(".\r\n"), "250 2.0.0"); // each message gives new patience
        assert_eq!(world.pass(Duration::from_secs(200)), "");
        world.say("MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\n");
    }
}

#[test]
fn a_refusal_of_the_surroundings_is_given_in_their_words() {
    let mut world = World::greeted();
    world.space = Answer::Refused(Reply::null_mx_sender());
    assert_eq!(
        world.say("MAIL FROM:<a@nomail.example>\r\nRCPT TO:<home@our.example>\r\n"),
        "550 5.7.27|503 5.5.1"
    );
}

#[test]
fn other_protocols_and_floods_end_the_session() {
    assert_eq!(World::new().say("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "554 5.5.1|closed"); // A15
    assert_eq!(World::new().say(b"\x16\x03\x01\x02\0\x01"), "554 5.5.1|closed");
    assert_eq!(World::new().say(vec![b'x'; 1 << 20]), "500 5.5.2|closed"); // E5
    assert_eq!(
        World::new().say([vec![b'x'; 5000], b"\r\nNOOP\r\n".to_vec()].concat()),
        "500 5.5.2|250 2.0.0"
    ); // E4
    let mut world = World::greeted();
    assert_eq!(world.say("MAIL FROM:<a@b>\nRCPT TO:<home@our.example>\r\nDATA\r\n"), "500 5.5.2|503 5.5.1"); // C21
}

#[test]
fn silence_and_trickle_end_in_421() {
    let mut world = World::greeted();
    assert_eq!(world.pass(Duration::from_secs(299)), "");
    world.say("NOO"); // F6: no new patience for a part of a command
    assert_eq!(world.pass(Duration::from_secs(1)), "421 4.4.2|closed"); // R7
    let mut world = World::ready_for_body();
    world.say("DATA\r\n");
    world.say("hello");
    assert_eq!(world.pass(Duration::from_secs(180)), "421 4.4.2|closed"); // R9
    assert!(world.body.is_none());
    let mut world = World::ready_for_body();
    world.say("DATA\r\n");
    let mut seconds = 0;
    while world.pass(Duration::from_secs(10)).is_empty() {
        world.say("x");
        seconds += 10;
    }
    assert_eq!(seconds, 290); // 30 octets in 300 s
    let mut world = World::greeted();
    world.receiver.set_load(Load::of(1, 1));
    assert_eq!(world.pass(Duration::from_secs(10)), "421 4.4.2|closed"); // R10
}

#[test]
fn who_never_stops_sending_is_under_the_clock_too() {
    let second = Duration::from_secs(1);
    // Empty chunks bring nobody further.
    let mut world = World::ready_for_body();
    let said = world.say("BDAT 0\r\n".repeat(200));
    assert!(said.ends_with("250 2.0.0|421 4.7.0|closed"), "{said}"); // A17, G1
    assert!(world.body.is_none() && said.matches("250").count() <= 100);
    // Nobody calls `tick` here: there is always something to read. One octet a second, each in a chunk of its own.
    let mut world = World::ready_for_body();
    let mut seconds = 0;
    while world.say("BDAT 1\r\nx") == "250 2.0.0" {
        world.now += second;
        seconds += 1;
    }
    assert!((300..=303).contains(&seconds), "{seconds}"); // R9
    assert!(world.body.is_none() && world.stored.is_empty());
    // Not even a chunk that is refused may go on for ever.
    let mut world = World::ready_for_body();
    world.say("BDAT 999999999999\r\n");
    world.now += second * 6 * 3600;
    assert_eq!(world.say("x"), "421 4.4.2|closed");
    // A session without a message, whatever it asks for.
    let mut world = World::with(Settings { idle_commands_max: 10_000, ..settings() });
    world.say("EHLO x\r\n");
    world.now += second * 1800;
    assert_eq!(world.say("NOOP\r\nNOOP\r\n"), "421 4.4.2|closed");
    // Silence may be ours: what the client has sent in the meantime is taken.
    let mut world = World::ready_for_body();
    world.say("DATA\r\n");
    world.say("hello");
    world.now += second * 200;
    assert_eq!(world.say("\r\n.\r\n"), "250 2.0.0");
    // An honest message in chunks has the time that it has after DATA.
    let mut world = World::with(Settings { message_bytes_max: 10_000_000, ..settings() });
    world.say("EHLO x\r\n");
    world.say("MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\n");
    let chunk = format!("BDAT 102\r\n{}\r\n", "x".repeat(100)).repeat(1000);
    for _ in 0..40 {
        assert!(world.say(&chunk).ends_with("250 2.0.0|250 2.0.0"));
        assert_eq!(world.pass(second * 60), "");
    }
    assert_eq!(world.say("BDAT 0 LAST\r\n"), "250 2.0.0");
}

#[test]
fn draining_ends_between_commands_and_finishes_what_is_under_way() {
    let grace = Duration::from_secs(3);
    let drain_as = |world: &mut World, newcomers| {
        world.wire.clear();
        world.receiver.drain(Grace { until: world.now + grace, newcomers });
        world.perform();
        codes(&world.wire)
    };
    let drain = |world: &mut World| drain_as(world, false);
    assert_eq!(drain(&mut World::greeted()), "421 4.3.2|closed"); // A12
    // An open transaction may go on, for a while.
    let mut world = World::ready_for_body();
    assert_eq!(drain(&mut world), "");
    assert_eq!(world.pass(grace), "421 4.3.2|closed");
    let mut world = World::ready_for_body();
    assert_eq!(drain(&mut world), "");
    world.say("DATA\r\n");
    world.say("hello");
    assert_eq!(world.pass(grace), "");
    assert_eq!(world.say("\r\n.\r\n"), "250 2.0.0|421 4.3.2|closed");
    // Whoever has come just now may bring one message, when that is wanted.
    let mut world = World::greeted();
    assert_eq!(drain_as(&mut world, true), "");
    assert_eq!(world.say("MAIL FROM:<a@client.example>\r\n"), "250 2.1.0");
    assert_eq!(world.say("RSET\r\n"), "250 2.0.0");
    assert_eq!(world.pass(grace), "421 4.3.2|closed");
    let mut world = World::with(Settings { greet_delay: Duration::from_secs(1), ..settings() });
    assert_eq!(drain_as(&mut world, true), "");
    assert_eq!(world.pass(Duration::from_secs(1)), "220");
    let mut world = World::ready_for_body();
    world.say("DATA\r\n");
    world.say("hello");
    assert_eq!(drain(&mut world), "");
    assert_eq!(world.say("\r\n.\r\n"), "250 2.0.0|421 4.3.2|closed");
    assert_eq!(world.stored.len(), 1);
    let mut world = World::ready_for_body();
    world.say("DATA\r\n");
    world.say("hello");
    drain(&mut world);
    world.receiver.hang_up();
    world.perform();
    assert_eq!((world.body.is_none(), world.stored.len()), (true, 0)); // A11
}

#[test]
fn commands_without_effect_are_answered_for_a_while_only() {
    let mut world = World::greeted();
    world.space = Answer::Busy;
    let said = world.say("MAIL FROM:<a@client.example>\r\n".repeat(200));
    assert!(said.ends_with("450 4.7.1|421 4.7.0|closed"), "{said}");
    assert!(said.matches("450").count() > 50); // a sender with a full queue is told for each message
    let mut world = World::ready_for_body();
    let again = "RCPT TO:<home@our.example>\r\n";
    assert!(!world.say(again.repeat(1000)).contains("421")); // K10
    assert_eq!(world.say(again), "421 4.7.0|closed");
    let mut world = World::greeted();
    world.space = Answer::Spent;
    assert_eq!(world.say("MAIL FROM:<a@client.example>\r\n"), "421 4.7.0|closed"); // U10
}
