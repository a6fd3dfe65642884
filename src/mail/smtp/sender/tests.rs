//! Rows P and Q of the checklist against the machine: scripted servers as octets, at every split.

use super::*;

/// What a scripted server does when it is its turn.
#[derive(Clone, Debug)]
enum Turn {
    /// Says this, after everything that was written has been read.
    Say(&'static str),
    /// Ends the connection.
    Hang,
    /// Is silent for ever.
    Silence,
}
use Turn::{Hang, Say, Silence};

/// A machine, a message, and everything that came out.
struct World {
    sender: Sender,
    /// Everything written, `Complete` octets included.
    wire: Vec<u8>,
    /// Where in `wire` the completing octets begin.
    completed_at: Option<usize>,
    armed: Option<Vec<bool>>,
    failed: Option<Failure>,
    outcomes: Vec<Outcome>,
    greeted: bool,
    closed: bool,
    starttls: Option<usize>,
    /// What the server says between arming and the answer that it is durable.
    while_arming: &'static str,
    /// Refuse to arm.
    refuses: bool,
    pieces: VecDeque<Vec<u8>>,
    piece_bytes: usize,
}

impl World {
    fn new() -> Self {
        Self {
            sender: Sender::new("us.example", Timeouts::default()),
            wire: Vec::new(),
            completed_at: None,
            armed: None,
            failed: None,
            outcomes: Vec::new(),
            greeted: false,
            closed: false,
            starttls: None,
            while_arming: "",
            refuses: false,
            pieces: VecDeque::new(),
            piece_bytes: 3,
        }
    }

    /// Greeted with these capabilities.
    fn greeted(offers: &str) -> Self {
        let mut world = Self::new();
        world.perform();
        world.sender.receive(b"220 hi\r\n");
        world.perform();
        world.sender.receive(format!("250-mx.example\r\n{offers}250 HELP\r\n").as_bytes());
        world.perform();
        assert!(world.greeted);
        world.wire.clear();
        world
    }

    fn perform(&mut self) {
        while let Some(output) = self.sender.poll() {
            match output {
                Output::Wait(time) => assert!(time > Duration::ZERO),
                Output::Write(octets) => self.wire.extend_from_slice(&octets),
                Output::Complete(octets) => {
                    assert!(self.armed.is_some() && self.completed_at.is_none(), "not armed");
                    self.completed_at = Some(self.wire.len());
                    self.wire.extend_from_slice(&octets);
                }
                Output::Greeted => self.greeted = true,
                Output::StartTls { discarded_bytes } => self.starttls = Some(discarded_bytes),
                Output::NeedBody => self.sender.body(self.pieces.pop_front().as_deref()),
                Output::Arm(accepted) => {
                    self.armed = Some(accepted);
                    self.sender.receive(self.while_arming.as_bytes());
                    if self.refuses { self.sender.withheld("cancelled") } else { self.sender.armed() }
                }
                Output::Failed(failure) => self.failed = Some(failure),
                Output::Done(outcomes) => {
                    assert!(self.outcomes.is_empty(), "one result");
                    self.outcomes = outcomes;
                }
                Output::Close => self.closed = true,
            }
        }
    }

    fn play(&mut self, turns: &[Turn], cut: usize) {
        for turn in turns {
            match turn {
                Say(text) => {
                    let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
                    self.sender.receive(first);
                    self.perform();
                    self.sender.receive(second);
                }
                Hang => self.sender.lost(&Loss::Closed),
                Silence => self.sender.lost(&Loss::TimedOut),
            }
            self.perform();
        }
    }

    fn begin(&mut self, recipients: usize, body: &[u8]) {
        self.pieces = body.chunks(self.piece_bytes).map(<[u8]>::to_vec).collect();
        self.sender.begin(&envelope(recipients));
        self.perform();
    }

    fn wire(&self) -> String {
        String::from_utf8_lossy(&self.wire).into_owned()
    }

    /// The outcomes as letters, with the stage: `D`, `T rcpt`, `F data`, `I dot`.
    fn told(&self) -> Vec<String> {
        self.outcomes.iter().map(told).collect()
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered(_) => "D".to_owned(),
        Outcome::Temporary(failure) => format!("T {}", failure.stage.as_str()),
        Outcome::Failed(failure) => format!("F {}", failure.stage.as_str()),
        Outcome::Indeterminate(failure) => format!("I {}", failure.stage.as_str()),
    }
}

fn envelope(recipients: usize) -> Envelope {
    let rcpt_to = (0..recipients).map(|n| format!("u{n}@x.example")).collect();
    Envelope { mail_from: "a@b.example".into(), rcpt_to, size_bytes: 9, ..Envelope::default() }
}

const BODY: &[u8] = b".a\r\nb\r\n";

/// Plays `turns` after the greeting for a message to `recipients`, with every reply cut at every place; the told
/// outcomes are the same for all, and are returned with the last world.
fn run(offers: &str, recipients: usize, turns: &[Turn]) -> (Vec<String>, World) {
    let longest = turns.iter().map(|turn| if let Say(text) = turn { text.len() } else { 0 }).max();
    let mut last = None;
    for cut in 0..=longest.unwrap_or(0) {
        let mut world = World::greeted(offers);
        world.begin(recipients, BODY);
        world.play(turns, cut);
        let told = world.told();
        if let Some((before, _)) = &last {
            assert_eq!(before, &told, "cut at {cut}");
        }
        last = Some((told, world));
    }
    last.unwrap()
}

const PIPE: &str = "250-PIPELINING\r\n";

#[test]
fn a_message_goes_step_by_step() {
    let mut world = World::new();
    world.perform();
    assert!(world.wire.is_empty(), "the server speaks first");
    world.play(&[Say("220 mx\r\n"), Say("250-mx\r\n250-SIZE 99\r\n250 8BITMIME\r\n")], 4);
    assert_eq!(world.wire(), "EHLO us.example\r\n");
    world.begin(2, BODY);
    assert!(world.wire().ends_with("\r\nMAIL FROM:<a@b.example> SIZE=9\r\n"), "{}", world.wire());
    world.play(&[Say("250 ok\r\n")], 0);
    assert!(world.wire().ends_with("\r\nRCPT TO:<u0@x.example>\r\n"));
    world.play(&[Say("250 ok\r\n"), Say("251 ok\r\n")], 0);
    assert!(world.wire().ends_with("<u1@x.example>\r\nDATA\r\n"));
    world.play(&[Say("354 go\r\n")], 0);
    assert!(world.wire().ends_with("DATA\r\n..a\r\nb\r\n.\r\n"));
    assert_eq!(world.completed_at, Some(world.wire.len() - 3));
    assert_eq!(world.armed, Some(vec![true, true]));
    assert!(world.sender.is_armed());
    world.play(&[Say("250 2.0.0 queued as 7\r\n")], 0);
    assert_eq!(world.told(), ["D", "D"]); // Q8
    let Outcome::Delivered(acceptance) = &world.outcomes[0] else { panic!("{:?}", world.outcomes) };
    assert_eq!((acceptance.code, acceptance.text.as_str()), (250, "queued as 7"));
    assert!(world.sender.is_reusable());
    world.sender.quit();
    world.perform();
    world.play(&[Silence], 0);
    assert!(world.closed && world.wire().ends_with("QUIT\r\n")); // P18
}

#[test]
fn openings_that_fail_are_told() {
    for (turns, stage, code, kind) in [
        (&[Say("554 no\r\n")][..], Stage::Greeting, Some(554), FailureKind::Refused), // P2
        (&[Say("421 busy\r\n")], Stage::Greeting, Some(421), FailureKind::Refused),
        (&[Say("450-a\r\n450 b\r\n")], Stage::Greeting, Some(450), FailureKind::Refused),
        (&[Hang], Stage::Greeting, None, FailureKind::Lost),
        (&[Say("220"), Hang], Stage::Greeting, None, FailureKind::Lost),
        (&[Silence], Stage::Greeting, None, FailureKind::TimedOut), // R1
        (&[Say("SSH-2.0-x\r\n")], Stage::Greeting, None, FailureKind::Protocol),
        (&[Say("220 a\r\n"), Say("421 no\r\n")], Stage::Ehlo, Some(421), FailureKind::Refused), // P4
        (&[Say("220 a\r\n"), Say("550 no\r\n")], Stage::Ehlo, Some(550), FailureKind::Refused),
        (
            &[Say("220 a\r\n"), Say("502 no\r\n"), Say("502 no\r\n")],
            Stage::Ehlo,
            Some(502),
            FailureKind::Refused,
        ),
        (&[Say("220 a\r\n"), Hang], Stage::Ehlo, None, FailureKind::Lost),
    ] {
        let mut world = World::new();
        world.perform();
        world.play(turns, 2);
        let failure = world.failed.unwrap_or_else(|| panic!("{turns:?}"));
        assert_eq!((failure.stage, failure.code, failure.kind), (stage, code, kind), "{turns:?}");
        assert!(world.closed && world.outcomes.is_empty());
    }
}

#[test]
fn helo_is_said_where_ehlo_is_unknown() {
    for refusal in ["500 what\r\n", "502 no\r\n", "504 no\r\n"] {
        let mut world = World::new();
        world.perform();
        world.sender.receive(b"220 old\r\n");
        world.perform();
        world.sender.receive(refusal.as_bytes());
        world.perform();
        assert!(world.wire().ends_with("HELO us.example\r\n")); // P3
        world.sender.receive(b"250 old\r\n");
        world.perform();
        assert!(world.greeted && *world.sender.capabilities() == Capabilities::default());
        world.begin(1, BODY);
        assert!(world.wire().ends_with("\r\nMAIL FROM:<a@b.example>\r\n"));
    }
}

#[test]
fn what_came_in_the_clear_is_forgotten_with_tls() {
    let mut world = World::greeted("250-STARTTLS\r\n250-SIZE 1\r\n");
    world.sender.start_tls();
    world.perform();
    assert_eq!(world.wire(), "STARTTLS\r\n");
    world.play(&[Say("220 go\r\n250-evil\r\n250 SIZE 2\r\n")], 0); // P13
    assert_eq!(world.starttls, Some(22));
    world.greeted = false;
    world.sender.secured();
    world.perform();
    assert!(world.wire().ends_with("STARTTLS\r\nEHLO us.example\r\n") && !world.greeted);
    assert_eq!(*world.sender.capabilities(), Capabilities::default());
    world.play(&[Say("250-mx\r\n250 STARTTLS\r\n")], 0);
    assert!(world.greeted && !world.sender.capabilities().size); // P14
    world.sender.start_tls();
    world.perform();
    assert!(world.wire().ends_with("EHLO us.example\r\n"), "no TLS in TLS");
    for (answer, code) in [("454 4.7.0 no\r\n", Some(454)), ("501 no\r\n", Some(501))] {
        let mut world = World::greeted("250-STARTTLS\r\n");
        world.sender.start_tls();
        world.perform();
        world.play(&[Say(answer)], 1);
        let failure = world.failed.unwrap();
        assert_eq!((failure.stage, failure.code), (Stage::Starttls, code));
    }
}

#[test]
fn before_the_dot_every_failure_is_safe() {
    let ok = Say("250 ok\r\n");
    let table: &[(&[Turn], &str, bool)] = &[
        (&[Say("450 later\r\n")], "T mail", true), // P6
        (&[Say("550 no\r\n")], "F mail", true),    // P6
        (&[Say("354 what\r\n")], "T mail", true),
        (&[Say("421 bye\r\n")], "T mail", false),
        (&[Hang], "T mail", false),    // Q1
        (&[Silence], "T mail", false), // R2
        (&[Say("garbage\r\n")], "T mail", false),
        (&[ok.clone(), Say("550 5.1.1 no\r\n")], "F rcpt", true), // P7, P8
        (&[ok.clone(), Say("450 grey\r\n")], "T rcpt", true),     // P16
        (&[ok.clone(), Say("452 many\r\n")], "T rcpt", true),
        (&[ok.clone(), Say("552 many\r\n")], "T rcpt", true), // E8
        (&[ok.clone(), Say("421 bye\r\n")], "T rcpt", false),
        (&[ok.clone(), Hang], "T rcpt", false), // Q1
        (&[ok.clone(), ok.clone(), Say("451 no\r\n")], "T data", true), // P9
        (&[ok.clone(), ok.clone(), Say("554 no\r\n")], "F data", true),
        (&[ok.clone(), ok.clone(), Say("250 no\r\n")], "T data", false),
        (&[ok.clone(), ok.clone(), Hang], "T data", false), // Q2
        (&[ok.clone(), ok.clone(), Silence], "T data", false), // R4
        (&[ok.clone(), ok, Say("35"), Hang], "T data", false),
    ];
    for (turns, want, keep) in table {
        let (told, world) = run("", 1, turns);
        assert_eq!(
            (told.as_slice(), world.sender.is_reusable()),
            (&[(*want).to_owned()][..], *keep),
            "{turns:?}"
        );
        assert_eq!(world.closed, !keep, "{turns:?}");
        assert_eq!(world.completed_at.is_some(), want.starts_with('I'), "{turns:?}");
    }
}

#[test]
fn after_the_dot_only_a_complete_reply_decides() {
    let table: &[(&[Turn], &str, bool)] = &[
        (&[Say("250 ok\r\n")], "D", true), // Q8
        (&[Say("250-a\r\n250 ok\n")], "D", true),
        (&[Say("200 ok\r\n")], "D", true), // Q9
        (&[Say("299\r\n")], "D", true),
        (&[Say("451 later\r\n")], "T dot", true),         // Q10
        (&[Say("421 bye\r\n")], "T dot", false),          // Q10
        (&[Say("552 big\r\n")], "F dot", true),           // Q11
        (&[Say("354 again\r\n")], "I dot", false),        // Q12
        (&[Say("hello\r\n")], "I dot", false),            // Q12
        (&[Say("650 x\r\n")], "I dot", false),            // Q12
        (&[Say("250-ok\r\n550 no\r\n")], "I dot", false), // Q12
        (&[Hang], "I dot", false),                        // Q5
        (&[Silence], "I dot", false),                     // Q6
        (&[Say("25"), Hang], "I dot", false),             // Q7
        (&[Say("250 ok"), Hang], "I dot", false),         // Q7
        (&[Say("250-queued\r\n"), Hang], "I dot", false), // Q7
        (&[Say("550 no\r"), Silence], "I dot", false),    // Q7
        (&[Say("250 ok\r\n421 bye\r\n")], "D", false),
        (&[Say("250 ok\r\n"), Hang], "D", false),
    ];
    for (turns, want, keep) in table {
        for offers in ["", PIPE, "250-CHUNKING\r\n"] {
            let replies: &[Turn] = match offers {
                "" => &[Say("250 ok\r\n"), Say("250 ok\r\n"), Say("354 go\r\n")],
                PIPE => &[Say("250 ok\r\n250 ok\r\n354 go\r\n")],
                _ => &[Say("250 ok\r\n"), Say("250 ok\r\n")],
            };
            let all = [replies, turns].concat();
            let (told, world) = run(offers, 1, &all);
            assert_eq!(
                (told.as_slice(), world.sender.is_reusable()),
                (&[(*want).to_owned()][..], *keep),
                "{all:?}"
            );
            assert!(world.completed_at.is_some());
        }
    }
    let (_, world) =
        run(PIPE, 1, &[Say("250 ok\r\n250 ok\r\n354 go\r\n"), Say("250-queued as 9\r\n25"), Hang]);
    let text = &world.outcomes[0].failure().unwrap().text;
    assert!(text.contains("heard only: 250-queued as 9 25"), "{text}"); // Q7: the fragment is kept
}

#[test]
fn each_recipient_has_its_own_answer() {
    let mixed = "250 ok\r\n250 a\r\n450 b\r\n550 c\r\n452 d\r\n552 e\r\n354 go\r\n"; // P7
    let (told, world) = run(PIPE, 5, &[Say(mixed), Say("250 ok\r\n")]);
    assert_eq!(told, ["D", "T rcpt", "F rcpt", "T rcpt", "T rcpt"]);
    assert_eq!(world.armed, Some(vec![true, false, false, false, false]));
    let (told, _) = run(PIPE, 2, &[Say("250 ok\r\n250 a\r\n550 b\r\n354 go\r\n"), Hang]);
    assert_eq!(told, ["I dot", "F rcpt"]); // Q16
    let (told, _) = run(PIPE, 2, &[Say("250 ok\r\n550 a\r\n"), Hang]);
    assert_eq!(told, ["F rcpt", "T rcpt"]);
    let (told, _) = run(PIPE, 2, &[Say("250 ok\r\n550 a\r\n421 bye\r\n")]);
    assert_eq!(told, ["F rcpt", "T rcpt"]);
    let replies =
        [Say("250 ok\r\n"), Say("550 a\r\n"), Say("250 b\r\n"), Say("354 go\r\n"), Say("554 no\r\n")];
    assert_eq!(run("", 2, &replies).0, ["F rcpt", "F dot"]);
}

#[test]
fn a_group_of_commands_leaves_in_one_write() {
    let (told, world) = run(PIPE, 2, &[Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"), Say("250 ok\r\n")]);
    assert_eq!(told, ["D", "D"]);
    let group = "MAIL FROM:<a@b.example>\r\nRCPT TO:<u0@x.example>\r\nRCPT TO:<u1@x.example>\r\nDATA\r\n"; // F8
    assert_eq!(world.wire(), format!("{group}..a\r\nb\r\n.\r\n"));
}

#[test]
fn a_lone_dot_for_nobody_is_not_armed() {
    for refused in ["250 ok\r\n550 no\r\n354 go\r\n", "550 no\r\n503 no\r\n354 go\r\n"] {
        let mut world = World::greeted(PIPE);
        world.begin(1, BODY);
        world.play(&[Say(refused)], 0);
        assert!(world.wire().ends_with("DATA\r\n.\r\n") && world.outcomes.is_empty()); // F2
        assert!(world.armed.is_none() && world.completed_at.is_none());
        world.play(&[Say("554 nobody\r\n")], 0);
        assert!(world.told()[0].starts_with('F') && world.sender.is_reusable());
    }
    let (told, world) = run(PIPE, 1, &[Say("250 ok\r\n550 no\r\n354 go\r\n"), Say("250 taken\r\n")]);
    assert!(told == ["F rcpt"] && world.closed, "nobody knows what it took");
    let (told, world) = run(PIPE, 1, &[Say("250 ok\r\n450 no\r\n554 nobody\r\n")]);
    assert!(told == ["T rcpt"] && world.sender.is_reusable());
}

#[test]
fn a_server_that_speaks_during_the_message_stops_it() {
    for (said, want) in
        [("452 full\r\n", "T body"), ("552 big\r\n", "F body"), ("250 ok\r\n", "T body"), ("x\r\n", "T body")]
    {
        for cut in 0..=said.len() {
            let mut world = World::greeted(PIPE);
            // While the last piece is on its way, that is before arming is durable.
            world.while_arming = &said[..cut];
            world.begin(1, BODY);
            world.play(&[Say("250 ok\r\n250 ok\r\n354 go\r\n")], 0);
            assert_eq!(world.completed_at.is_some(), cut == 0, "{said:?} {cut}"); // P10
            if cut > 0 {
                world.play(&[Say(&said[cut..])], 0);
                assert_eq!(world.told(), [want], "{said:?} {cut}");
                assert!(world.closed);
            }
        }
    }
}

#[test]
fn without_permission_the_dot_never_leaves() {
    for offers in [PIPE, "250-CHUNKING\r\n250-PIPELINING\r\n"] {
        let mut world = World::greeted(offers);
        world.refuses = true;
        world.begin(1, BODY);
        world
            .play(&[Say("250 ok\r\n250 ok\r\n"), Say("354 go\r\n")][..if offers == PIPE { 2 } else { 1 }], 0);
        assert!(world.completed_at.is_none() && world.closed); // Q15, Q18
        assert_eq!(world.told(), ["T body"]);
        assert_eq!(world.outcomes[0].failure().unwrap().kind, FailureKind::Local);
    }
}

#[test]
fn strays_in_the_message_are_never_completed() {
    for body in [&b"a\nb\r\n"[..], b"a\r\n.\rb\r\n", b"a\0\r\n", b"\n.\r\n", b"a\r"] {
        for offers in [PIPE, "250-CHUNKING\r\n250-PIPELINING\r\n"] {
            let mut world = World::greeted(offers);
            world.begin(1, body);
            world.play(
                &[Say("250 ok\r\n250 ok\r\n"), Say("354 go\r\n")][..if offers == PIPE { 2 } else { 1 }],
                0,
            );
            assert_eq!(world.told(), ["F body"], "{body:?}"); // C23
            assert!(world.completed_at.is_none() && world.closed);
        }
    }
}

#[test]
fn chunks_are_counted_and_the_last_octet_is_the_end() {
    let chunking = "250-CHUNKING\r\n250-PIPELINING\r\n";
    let (told, world) = run(chunking, 1, &[Say("250 ok\r\n250 ok\r\n"), Say("250 ok\r\n")]);
    assert_eq!(told, ["D"]);
    assert!(
        world.wire().ends_with("RCPT TO:<u0@x.example>\r\nBDAT 7 LAST\r\n.a\r\nb\r\n"),
        "{}",
        world.wire()
    );
    assert_eq!(world.completed_at, Some(world.wire.len() - 1));
    let mut world = World::greeted(chunking);
    world.begin(1, b"");
    world.play(&[Say("250 ok\r\n250 ok\r\n")], 0);
    assert!(world.wire().ends_with("\r\nBDAT 0 LAST\r\n"));
    assert_eq!(world.completed_at, Some(world.wire.len() - "BDAT 0 LAST\r\n".len()));
    let long = b"0123456789abcd\r\n".repeat(40_000); // 640 000 octets: two chunks and a rest
    for (last, want) in [("250 ok\r\n", "D"), ("452 full\r\n", "T body"), ("552 big\r\n", "F body")] {
        let mut world = World::greeted(chunking);
        world.piece_bytes = 10_000;
        world.begin(1, &long);
        world.play(&[Say("250 ok\r\n250 ok\r\n"), Say("250 more\r\n")], 0);
        assert!(world.completed_at.is_none());
        world.play(&[Say(last)], 0);
        if want == "D" {
            world.play(&[Say("250 ok\r\n")], 0);
            let counts: Vec<usize> = memchr::memmem::find_iter(&world.wire, "BDAT ").collect();
            assert_eq!(counts.len(), 3);
        }
        assert_eq!(world.told(), [want]); // G
    }
    let (told, world) = run(chunking, 1, &[Say("250 ok\r\n550 no\r\n")]);
    assert!(told == ["F rcpt"] && world.sender.is_reusable() && !world.wire().contains("BDAT"));
}

#[test]
fn a_kept_connection_begins_with_rset() {
    let mut world = World::greeted(PIPE);
    world.begin(1, BODY);
    world.play(&[Say("250 ok\r\n250 ok\r\n354 go\r\n"), Say("250 ok\r\n")], 0);
    assert_eq!(world.told(), ["D"]);
    for (turns, want, kind) in [
        (&[Say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"), Say("250 ok\r\n")][..], "D", None),
        (&[Say("421 bye\r\n")], "T mail", Some(FailureKind::Stale)), // P11
        (&[Say("500 what\r\n")], "T mail", Some(FailureKind::Stale)),
        (&[Say("250 ok\r\n421 bye\r\n")], "T mail", Some(FailureKind::Stale)),
        (&[Hang], "T mail", Some(FailureKind::Stale)),
        (&[Say("250 ok\r\n450 no\r\n503 no\r\n503 no\r\n")], "T mail", Some(FailureKind::Refused)),
        (&[Say("250 ok\r\n250 ok\r\n"), Hang], "T rcpt", Some(FailureKind::Lost)),
    ] {
        let mut world = World::greeted(PIPE);
        world.begin(1, BODY);
        world.play(&[Say("250 ok\r\n250 ok\r\n354 go\r\n"), Say("250 ok\r\n")], 0);
        (world.outcomes, world.armed, world.completed_at) = (Vec::new(), None, None);
        world.wire.clear();
        world.begin(1, BODY);
        assert!(world.wire().starts_with("RSET\r\nMAIL FROM:"));
        world.play(turns, 0);
        assert_eq!(world.told(), [want], "{turns:?}");
        assert_eq!(world.outcomes[0].failure().map(|failure| failure.kind), kind, "{turns:?}");
    }
    world.outcomes.clear();
    world.sender.receive(b"421 idle\r\n");
    world.perform();
    assert!(!world.sender.is_reusable() && world.closed);
    world.begin(1, BODY);
    assert_eq!(world.outcomes[0].failure().unwrap().kind, FailureKind::Stale);
}

#[test]
fn limits_of_the_server_end_the_reuse() {
    let mut world = World::greeted("250-PIPELINING\r\n250-LIMITS MAILMAX=1\r\n");
    assert!(world.sender.is_reusable());
    world.begin(1, BODY);
    world.play(&[Say("250 ok\r\n250 ok\r\n354 go\r\n"), Say("250 ok\r\n")], 0);
    assert!(!world.sender.is_reusable());
    assert!(!world.closed, "QUIT is still said");
}

#[test]
fn what_needs_no_server_is_told_without_a_word() {
    let mut world = World::greeted("250-SIZE 8\r\n");
    world.begin(2, BODY);
    assert_eq!(world.told(), ["F mail", "F mail"]); // P15
    assert!(world.wire.is_empty() && world.sender.is_reusable());
}

#[test]
fn inputs_out_of_place_change_nothing() {
    let mut world = World::new();
    world.sender.armed();
    world.sender.body(Some(b"x"));
    world.sender.secured();
    world.sender.start_tls();
    world.sender.withheld("x");
    world.perform();
    assert!(world.wire.is_empty() && !world.closed);
    world.begin(1, BODY);
    assert_eq!(world.told(), ["T mail"]);
    assert!(world.wire.is_empty());
}
