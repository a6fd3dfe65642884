//! One gateway's frames against a reader that keeps everything.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::frame::StartBody;
use super::*;

fn now() -> Instant {
    crate::clock::monotonic()
}

fn start(stream: &str) -> Frame {
    Frame::Start { stream: stream.into(), start: StartBody::default() }
}

fn chunk(stream: &str, bytes: usize) -> Frame {
    Frame::Chunk { stream: stream.into(), bytes: vec![0; bytes].into() }
}

fn end(stream: &str) -> Frame {
    Frame::End { stream: stream.into() }
}

fn abort(stream: &str) -> Frame {
    Frame::Abort { stream: stream.into(), reason: String::new() }
}

/// Takes the next piece and finishes it.
fn work(inflow: &mut Inflow) -> Option<OutboundPiece> {
    let piece = inflow.next();
    inflow.done();
    piece
}

#[test]
fn a_stream_becomes_pieces_in_order_and_one_is_under_way() {
    let (mut inflow, at) = (Inflow::default(), now());
    assert!(!inflow.is_full());
    assert_eq!(inflow.hear(start("s"), at), Heard::Noted);
    assert!(inflow.is_full(), "the driver reads no further");
    assert!(matches!(inflow.next(), Some(OutboundPiece::Start { stream, .. }) if stream == "s"));
    assert!(inflow.is_full());
    inflow.hear(chunk("s", 3), at);
    assert_eq!(inflow.next(), None, "one at a time");
    inflow.done();
    assert!(matches!(work(&mut inflow), Some(OutboundPiece::Chunk { bytes, .. }) if bytes.len() == 3));
    inflow.hear(end("s"), at);
    assert_eq!(work(&mut inflow), Some(OutboundPiece::End { stream: "s".into() }));
    assert!(!inflow.is_full() && inflow.is_quiet());
    assert_eq!(inflow.hear(end("s"), at), Heard::Ignored("s".into()), "end twice");
}

#[test]
fn what_was_never_started_is_ignored() {
    let (mut inflow, at) = (Inflow::default(), now());
    for frame in [chunk("s", 1), end("s"), abort("s")] {
        assert_eq!(inflow.hear(frame, at), Heard::Ignored("s".into()));
    }
    assert_eq!(inflow.next(), None);
}

#[test]
fn streams_are_bounded_in_number_and_size() {
    let (mut inflow, at) = (Inflow::default(), now());
    for n in 0..STREAMS_MAX {
        assert_eq!(inflow.hear(start(&n.to_string()), at), Heard::Noted);
        work(&mut inflow);
    }
    assert_eq!(inflow.hear(start("one more"), at), Heard::TooMany("one more".into()));
    assert_eq!(inflow.hear(start("0"), at), Heard::Noted, "an open id starts again");
    work(&mut inflow);
    let big = Frame::Chunk { stream: "0".into(), bytes: Bytes::from(vec![0; 1 << 20]) };
    for _ in 0..64 {
        assert_eq!(inflow.hear(big.clone(), at), Heard::Noted);
        work(&mut inflow);
    }
    inflow.hear(big.clone(), at);
    assert!(matches!(work(&mut inflow), Some(OutboundPiece::TooLarge { stream, .. }) if stream == "0"));
    assert_eq!(inflow.hear(big, at), Heard::Ignored("0".into()));
}

#[test]
fn a_new_start_counts_from_the_beginning() {
    let (mut inflow, at) = (Inflow::default(), now());
    inflow.hear(start("s"), at);
    let most = usize::try_from(STREAM_BYTES_MAX).unwrap();
    for _ in 0..3 {
        inflow.hear(chunk("s", most), at);
        inflow.hear(start("s"), at);
    }
    while let Some(piece) = work(&mut inflow) {
        assert!(!matches!(piece, OutboundPiece::TooLarge { .. }));
    }
}

#[test]
fn half_a_stream_and_silence_is_given_up() {
    let (mut inflow, at) = (Inflow::default(), now());
    inflow.hear(start("a"), at);
    inflow.hear(start("b"), at + Duration::from_secs(10));
    inflow.hear(chunk("a", 1), at + Duration::from_secs(20));
    assert_eq!(inflow.deadline(), Some(at + Duration::from_secs(10) + STREAM_PATIENCE));
    assert_eq!(inflow.take_silent(at + STREAM_PATIENCE), None);
    let late = at + Duration::from_secs(15) + STREAM_PATIENCE;
    assert_eq!(inflow.take_silent(late).as_deref(), Some("b"));
    assert_eq!(inflow.take_silent(late), None);
    let pieces: Vec<_> = std::iter::from_fn(|| work(&mut inflow)).collect();
    assert_eq!(pieces.last(), Some(&OutboundPiece::Abort { stream: "b".into() }));
    assert_eq!(inflow.hear(chunk("b", 1), late), Heard::Ignored("b".into()));
}

#[test]
fn half_streams_are_those_whose_end_the_lane_was_not_given() {
    let (mut inflow, at) = (Inflow::default(), now());
    for stream in ["given", "ended", "open", "gone"] {
        inflow.hear(start(stream), at);
        work(&mut inflow);
    }
    inflow.hear(end("given"), at);
    assert_eq!(inflow.next(), Some(OutboundPiece::End { stream: "given".into() }));
    inflow.hear(end("ended"), at);
    inflow.hear(abort("gone"), at);
    inflow.hear(chunk("open", 1), at);
    assert!(inflow.has_open());
    assert_eq!(inflow.take_half(), ["ended", "open"]);
    assert_eq!(inflow.take_half(), [""; 0]);
    inflow.done();
    assert!(inflow.is_quiet() && !inflow.has_open());
    assert_eq!(inflow.hear(end("open"), at), Heard::Ignored("open".into()));
}

#[test]
fn acks_of_results_gather_while_one_batch_is_under_way() {
    let mut inflow = Inflow::default();
    inflow.look();
    assert_eq!(inflow.next(), Some(OutboundPiece::Results { told: Vec::new() }));
    for n in 0..TOLD_MAX {
        assert!(!inflow.is_full(), "acks are read on");
        inflow.told(n.to_string());
    }
    assert!(inflow.is_full());
    inflow.done();
    assert!(matches!(work(&mut inflow), Some(OutboundPiece::Results { told }) if told.len() == TOLD_MAX));
    assert_eq!(work(&mut inflow), None);
}

#[derive(Clone, Debug)]
enum Op {
    Hear(u8, u8),
    Work,
    Done,
    Pass(u16),
    GiveUp(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..4_u8, 0..20_u8).prop_map(|(kind, stream)| Op::Hear(kind, stream)),
        4 => Just(Op::Work),
        4 => Just(Op::Done),
        1 => (0..400_u16).prop_map(Op::Pass),
        1 => (0..20_u8).prop_map(Op::GiveUp),
    ];
    prop::collection::vec(op, 0..200)
}

proptest! {
    /// Whatever a gateway sends: the lane sees each stream as start, chunks, and at most one last piece, and never
    /// more than the limits.
    #[test]
    fn the_lane_sees_whole_streams_only(ops in ops()) {
        let (mut inflow, mut at, mut busy) = (Inflow::default(), now(), false);
        let mut open: HashMap<String, usize> = HashMap::new();
        let mut given_up = Vec::new();
        for op in ops {
            match op {
                Op::Hear(kind, stream) => {
                    let stream = stream.to_string();
                    let frame = match kind {
                        0 => start(&stream),
                        1 => chunk(&stream, 1),
                        2 => end(&stream),
                        _ => abort(&stream),
                    };
                    inflow.hear(frame, at);
                }
                Op::Work => if let Some(piece) = inflow.next() {
                    prop_assert!(!std::mem::replace(&mut busy, true), "two pieces under way");
                    match piece {
                        OutboundPiece::Start { stream, .. } => {
                            given_up.retain(|other| *other != stream);
                            open.insert(stream, 0);
                        }
                        OutboundPiece::Chunk { stream, .. } => match open.get_mut(&stream) {
                            Some(bytes) => *bytes += 1,
                            None => prop_assert!(given_up.contains(&stream), "a chunk before its start"),
                        },
                        OutboundPiece::End { stream } | OutboundPiece::Abort { stream }
                        | OutboundPiece::TooLarge { stream, .. } => {
                            let known = open.remove(&stream).is_some();
                            prop_assert!(known || given_up.contains(&stream), "an end without a start");
                        }
                        OutboundPiece::Results { .. } => {}
                    }
                },
                Op::Done => {
                    busy = false;
                    inflow.done();
                }
                Op::Pass(seconds) => {
                    at += Duration::from_secs(u64::from(seconds));
                    while inflow.take_silent(at).is_some() {}
                }
                Op::GiveUp(stream) => {
                    let stream = stream.to_string();
                    if inflow.give_up(&stream) {
                        open.remove(&stream);
                        given_up.push(stream);
                    }
                }
            }
            prop_assert!(inflow.open.len() <= STREAMS_MAX);
        }
    }
}
