//! Whatever a server says, and however it is cut: one outcome per recipient, no completing octet before arming, and
//! the message that arrives is the message that was given.

use proptest::collection::vec;
use proptest::prelude::*;
use waystation::mail::smtp::data::DataReceiver;
use waystation::mail::smtp::sender::envelope::Envelope;
use waystation::mail::smtp::sender::outcome::Outcome;
use waystation::mail::smtp::sender::timeouts::Timeouts;
use waystation::mail::smtp::sender::{Loss, Output, Sender};

/// One thing that a server, or the network, does.
#[derive(Clone, Debug)]
enum Event {
    /// Octets, cut into pieces of so many.
    Octets(Vec<u8>, usize),
    Closed,
    TimedOut,
    TooSlow,
}

/// Everything that came out of a sender.
#[derive(Debug, Default)]
struct World {
    /// Written after the message began to be asked for, without the completing octets.
    body: Vec<u8>,
    in_body: bool,
    completed: Option<Vec<u8>>,
    permitted: bool,
    done: Vec<Vec<Outcome>>,
    pieces: std::collections::VecDeque<Vec<u8>>,
    refuses: bool,
}

impl World {
    fn perform(&mut self, sender: &mut Sender) {
        while let Some(output) = sender.poll() {
            match output {
                Output::Write(octets) => {
                    assert!(self.completed.is_none(), "nothing follows what completes a message");
                    if self.in_body {
                        self.body.extend_from_slice(&octets);
                    }
                }
                Output::Complete(octets) => {
                    assert!(self.permitted, "completing octets before arming");
                    assert!(self.completed.replace(octets).is_none());
                }
                Output::NeedBody => {
                    self.in_body = true;
                    sender.body(self.pieces.pop_front().as_deref());
                }
                Output::Arm(accepted) => {
                    assert!(accepted.contains(&true), "nobody to arm for");
                    if self.refuses {
                        sender.withheld("cancelled");
                    } else {
                        self.permitted = true;
                        sender.armed();
                    }
                }
                Output::Done(outcomes) => self.done.push(outcomes),
                Output::Wait(_)
                | Output::Greeted
                | Output::StartTls { .. }
                | Output::Failed(_)
                | Output::Close => {}
            }
        }
    }
}

fn words() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => Just(b"250 ok\r\n".to_vec()),
        4 => Just(b"354 go\r\n".to_vec()),
        2 => Just(b"250 ok\r\n250 ok\r\n354 go\r\n".to_vec()),
        2 => Just(b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n".to_vec()),
        1 => Just(b"450 later\r\n".to_vec()),
        1 => Just(b"552 5.3.4 big\n".to_vec()),
        1 => Just(b"421 bye\r\n".to_vec()),
        1 => Just(b"250-more\r\n".to_vec()),
        1 => Just(b"25".to_vec()),
        1 => vec(any::<u8>(), 0..12),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (words(), 1..10_usize).prop_map(|(octets, cut)| Event::Octets(octets, cut)),
        1 => Just(Event::Closed),
        1 => Just(Event::TimedOut),
        1 => Just(Event::TooSlow),
    ]
}

/// A message of lines; canonical, but for a missing end of the last line.
fn canonical() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![2 => Just(b'.'), 2 => Just(b'a'), 1 => Just(0x80_u8)];
    (vec(vec(octet, 0..4), 0..8), any::<bool>()).prop_map(|(lines, ended)| {
        let mut message = lines.join(&b"\r\n"[..]);
        if ended {
            message.extend_from_slice(b"\r\n");
        }
        message
    })
}

fn envelope(recipients: usize) -> Envelope {
    let rcpt_to = (0..recipients).map(|n| format!("u{n}@x.example")).collect();
    Envelope { mail_from: "a@b.example".into(), rcpt_to, size_bytes: 9, ..Envelope::default() }
}

/// A greeted sender and its world, with the message cut into pieces.
fn begin(pipelining: bool, chunking: bool, recipients: usize, message: &[u8], cut: usize) -> (Sender, World) {
    let mut sender = Sender::new("us.example", Timeouts::default());
    let mut world = World::default();
    sender.receive(b"220 mx\r\n");
    let (pipelining, chunking) =
        (if pipelining { "250-PIPELINING\r\n" } else { "" }, if chunking { "250-CHUNKING\r\n" } else { "" });
    sender.receive(format!("250-mx\r\n{pipelining}{chunking}250 HELP\r\n").as_bytes());
    world.perform(&mut sender);
    world.pieces = message.chunks(cut).map(<[u8]>::to_vec).collect();
    sender.begin(&envelope(recipients));
    world.perform(&mut sender);
    (sender, world)
}

/// `message` with the line end that its last line may lack.
fn ended(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        message.extend_from_slice(b"\r\n");
    }
    message
}

proptest! {
    #![proptest_config(crate::smtp_split::config())]

    #[test]
    fn every_recipient_gets_one_outcome_and_it_never_claims_too_much(
        events in vec(event(), 0..16),
        pipelining: bool,
        chunking: bool,
        recipients in 1..4_usize,
        message in prop_oneof![canonical(), vec(any::<u8>(), 0..20)],
        cut in 1..9_usize,
        refuses: bool,
    ) {
        let (mut sender, mut world) = begin(pipelining, chunking, recipients, &message, cut);
        world.refuses = refuses && cut == 1;
        for event in &events {
            match event {
                Event::Octets(octets, cut) => {
                    for piece in octets.chunks(*cut) {
                        sender.receive(piece);
                        world.perform(&mut sender);
                    }
                }
                Event::Closed => sender.lost(&Loss::Closed),
                Event::TimedOut => sender.lost(&Loss::TimedOut),
                Event::TooSlow => sender.lost(&Loss::TooSlow),
            }
            world.perform(&mut sender);
        }
        sender.lost(&Loss::Closed);
        world.perform(&mut sender);
        prop_assert_eq!(world.done.len(), 1);
        prop_assert_eq!(world.done[0].len(), recipients);
        let claims = |outcome: &Outcome| matches!(outcome, Outcome::Delivered(_) | Outcome::Indeterminate(_));
        if world.completed.is_none() {
            prop_assert!(!world.done[0].iter().any(claims), "nothing was handed over: {:?}", world.done);
        }
        if !chunking && world.in_body {
            // What left without permission is no complete message to any reader of RFC 5321.
            let mut receiver = DataReceiver::new(false);
            let mut heard = Vec::new();
            let used = receiver.push(&world.body, |octets| heard.extend_from_slice(octets));
            prop_assert!(!receiver.has_ended() && used == world.body.len());
            if let Some(complete) = &world.completed {
                let used = receiver.push(complete, |octets| heard.extend_from_slice(octets));
                prop_assert!(receiver.has_ended() && used == complete.len());
                prop_assert_eq!(heard, ended(&message)); // D3-D6
            }
        }
    }

    #[test]
    fn what_arrives_is_what_was_given(
        message in canonical(),
        cut in 1..9_usize,
        pipelining: bool,
        chunking: bool,
    ) {
        let (mut sender, mut world) = begin(pipelining, chunking, 1, &message, cut);
        for reply in ["250 ok\r\n", "250 ok\r\n", "354 go\r\n"].iter().take(if chunking { 2 } else { 3 }) {
            sender.receive(reply.as_bytes());
            world.perform(&mut sender);
        }
        let complete = world.completed.clone().unwrap_or_default();
        let wire = [&world.body[..], &complete].concat();
        let want = ended(&message);
        if chunking {
            prop_assert_eq!(wire, [format!("BDAT {} LAST\r\n", want.len()).as_bytes(), &want].concat());
        } else {
            let (mut receiver, mut heard) = (DataReceiver::new(false), Vec::new());
            prop_assert_eq!(receiver.push(&wire, |octets| heard.extend_from_slice(octets)), wire.len());
            prop_assert!(receiver.has_ended());
            prop_assert_eq!(heard, want);
        }
        sender.receive(b"250 ok\r\n");
        world.perform(&mut sender);
        prop_assert!(matches!(world.done[0][0], Outcome::Delivered(_)));
        prop_assert!(sender.is_reusable());
    }

    #[test]
    fn an_opening_survives_any_server(events in vec(event(), 0..16)) {
        let mut sender = Sender::new("us.example", Timeouts::default());
        let mut world = World::default();
        for event in &events {
            match event {
                Event::Octets(octets, cut) => octets.chunks(*cut).for_each(|piece| sender.receive(piece)),
                Event::Closed => sender.lost(&Loss::Closed),
                Event::TimedOut => sender.lost(&Loss::TimedOut),
                Event::TooSlow => sender.start_tls(),
            }
            world.perform(&mut sender);
        }
        prop_assert!(world.done.is_empty() && world.completed.is_none());
    }
}
