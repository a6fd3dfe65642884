//! What the gateway submits: pieces to the lane, and what it is told in either tunnel.

use super::*;
use crate::tunnel::inflow::STREAM_PATIENCE;

fn start(stream: &str) -> Frame {
    Frame::Start { stream: stream.into(), start: StartBody::default() }
}

fn end(stream: &str) -> Frame {
    Frame::End { stream: stream.into() }
}

fn result(stream: &str, status: ResultStatus, result: Option<&str>) -> OutboundWord {
    OutboundWord::Result {
        stream: stream.into(),
        status,
        message_id: (status == ResultStatus::Sent).then(|| "<m@x>".to_owned()),
        error: (status != ResultStatus::Sent).then(|| "5.1.1 no".to_owned()),
        result: result.map(str::to_owned),
    }
}

fn accepted() -> OutboundWord {
    OutboundWord::Accepted { stream: "s".into(), submission: "01ID".into(), receipt: None }
}

/// Sends one whole stream; the lane answers its end with `words`.
fn submit(world: &mut World, words: Vec<OutboundWord>) {
    world.frame(&start("s"));
    world.words.push_back(words);
    world.frame(&end("s"));
}

fn told(piece: &OutboundPiece) -> Option<&[String]> {
    if let OutboundPiece::Results { told } = piece { Some(told) } else { None }
}

#[test]
fn a_session_looks_for_results_when_it_begins_and_when_the_bell_rings() {
    for mut world in [World::legacy(Lane::default()), World::two(Lane::default(), Habit::Acks)] {
        assert_eq!(world.pieces, [OutboundPiece::Results { told: Vec::new() }]);
        assert_eq!(world.said[0]["type"], "auth_ok", "the login is answered first");
        world.give(Input::Results);
        world.run();
        assert_eq!(world.pieces.len(), 2);
    }
}

#[test]
fn a_gateway_that_acks_hears_of_the_commit_and_of_every_result_under_its_name() {
    let mut world = World::two(Lane::default(), Habit::Acks);
    submit(&mut world, vec![accepted(), result("s", ResultStatus::Indeterminate, Some("01ID"))]);
    let said = &world.said[1..];
    assert_eq!(
        said[0],
        serde_json::json!({"type": "outbound_accepted", "streamId": "s", "submissionId": "01ID"})
    );
    assert_eq!(
        said[1],
        serde_json::json!({"type": "relay_delivery_result", "streamId": "s", "status": "indeterminate",
            "error": "5.1.1 no", "resultId": "01ID"})
    );
    assert_eq!(world.pings, 0);
    world.tell(r#"{"type":"delivery_result_ack","resultId":"01ID"}"#);
    assert_eq!(told(world.pieces.last().unwrap()), Some(&["01ID".to_owned()][..]));
}

#[test]
fn a_gateway_of_tunnel_1_hears_the_words_it_knows_and_a_ping_proves_that_it_read_them() {
    let mut world = World::legacy(Lane::default());
    submit(&mut world, vec![accepted(), result("s", ResultStatus::Sent, Some("01ID"))]);
    assert_eq!(
        world.said[1..],
        [
            serde_json::json!({"type": "relay_delivery_result", "streamId": "s", "status": "sent", "messageId": "<m@x>"})
        ]
    );
    assert_eq!(told(world.pieces.last().unwrap()), Some(&["01ID".to_owned()][..]), "its pong is the ack");
    submit(&mut world, vec![result("s", ResultStatus::Indeterminate, Some("01ID"))]);
    assert_eq!(world.said.len(), 2, "there is no word for that");
    submit(&mut world, vec![result("s", ResultStatus::Failed, None)]);
    assert_eq!(
        world.said.last().unwrap(),
        &serde_json::json!({"type": "relay_delivery_result", "streamId": "s", "status": "failed", "error": "5.1.1 no"})
    );
}

#[test]
fn tunnel_2_without_results_is_told_as_tunnel_1_is() {
    let mut world = World::new(&proof(&[Feature::Ack], None), Lane::default(), Habit::Acks);
    submit(&mut world, vec![accepted(), result("s", ResultStatus::Failed, Some("01ID"))]);
    assert_eq!((world.said.len(), world.said[1]["resultId"].as_str()), (2, None));
    assert_eq!(told(world.pieces.last().unwrap()), Some(&["01ID".to_owned()][..]));
    world.tell(r#"{"type":"delivery_result_ack","resultId":"01XX"}"#);
    assert_eq!(told(world.pieces.last().unwrap()), Some(&["01ID".to_owned()][..]), "not agreed on");
}

#[test]
fn nothing_is_read_while_the_lane_has_a_piece_and_pieces_keep_their_order() {
    let mut world = World::two(Lane::default(), Habit::Acks);
    assert!(!world.session.is_full());
    world.busy = true;
    world.frame(&start("s"));
    assert!(world.session.is_full());
    // What the driver had read before.
    world.frame(&Frame::Chunk { stream: "s".into(), bytes: Bytes::from_static(b"x") });
    assert_eq!(world.pieces.len(), 2, "one at a time");
    world.busy = false;
    world.give(Input::Words(Vec::new()));
    world.run();
    assert!(matches!(world.pieces[2], OutboundPiece::Chunk { .. }));
    assert!(!world.session.is_full());
}

/// What an unmodified gateway is told of a stream that is nothing.
fn failed(stream: &str, error: &str) -> Value {
    serde_json::json!({
        "type": "relay_delivery_result", "streamId": stream, "status": "failed", "error": error
    })
}

#[test]
fn what_the_lane_cannot_take_is_given_up_and_tunnel_1_hears_that_it_failed() {
    let mut world = World::two(Lane::default(), Habit::Acks);
    let later = || vec![OutboundWord::NotNow { stream: "s".into(), reason: "disk\r\nfull".into() }];
    world.words.push_back(later());
    world.frame(&start("s"));
    assert_eq!(world.aborted, ["s"]);
    let pieces = world.pieces.len();
    world.frame(&end("s"));
    assert_eq!(world.pieces.len(), pieces);
    assert_eq!(world.notes.last(), Some(&Note::StreamIgnored("s".into())));
    // Silence would be success to it, and nobody would have the mail.
    let mut world = World::legacy(Lane::default());
    submit(&mut world, later());
    assert_eq!(world.said[1..], [failed("s", "4.3.1 disk  full")]);
    assert_eq!(world.pings, 0, "nothing is kept that a pong could be noted at");
    world.words.push_back(later());
    world.frame(&start("s"));
    assert_eq!(world.said.len(), 3, "at once, not at its end");
    world.frame(&end("s"));
    assert_eq!((world.said.len(), world.closed), (3, None));
}

#[test]
fn half_a_stream_then_silence_is_given_up() {
    let mut world = World::two(Lane::default(), Habit::Acks);
    world.frame(&start("s"));
    world.pass(STREAM_PATIENCE + Duration::from_secs(1));
    assert_eq!(world.pieces.last(), Some(&OutboundPiece::Abort { stream: "s".into() }));
    assert_eq!((world.aborted.as_slice(), world.closed), (&["s".to_owned()][..], None));
    assert_eq!(world.notes, [Note::StreamSilent("s".into())]);
    let mut world = World::legacy(Lane::default());
    world.frame(&start("s"));
    world.pass(STREAM_PATIENCE + Duration::from_secs(1));
    assert_eq!(world.said[1..], [failed("s", "4.4.2 the stream stood still")]);
    assert_eq!(world.closed, None);
}

#[test]
fn a_stop_lets_tunnel_1_finish_its_streams() {
    let mut world = World::legacy(Lane::default());
    world.frame(&start("s"));
    world.give(Input::Drain { reconnect_after_ms: 0, settle: DRAIN_TIME_MAX });
    world.run();
    world.frame(&Frame::Chunk { stream: "s".into(), bytes: Bytes::from_static(b"x") });
    assert_eq!(world.closed, None, "half a mail is here");
    world.words.push_back(vec![accepted()]);
    world.frame(&end("s"));
    assert_eq!(world.closed, Some((1012, "relay_restarts")));
    assert_eq!(world.said.len(), 1, "it is stored, and its result comes later: {:?}", world.said);
    // Tunnel 2 was told to come back, and has a name to send it again by.
    let mut world = World::two(Lane::default(), Habit::Acks);
    world.frame(&start("s"));
    world.give(Input::Drain { reconnect_after_ms: 0, settle: DRAIN_TIME_MAX });
    world.run();
    assert_eq!((world.closed, world.last_said()), (Some((1012, "relay_restarts")), "drain"));
}

#[test]
fn a_stop_that_waited_long_enough_fails_what_tunnel_1_has_not_finished() {
    let mut world = World::legacy(Lane::default());
    for stream in ["half", "whole", "waits", "more"] {
        world.frame(&start(stream));
    }
    // The lane is at the end of one and is not given the end of the next.
    world.busy = true;
    world.frame(&end("whole"));
    world.frame(&end("waits"));
    world.give(Input::Drain { reconnect_after_ms: 0, settle: DRAIN_TIME_MAX });
    world.pass(DRAIN_TIME_MAX - Duration::from_millis(1));
    assert_eq!((world.closed, world.said.len()), (None, 1));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.closed, Some((1012, "relay_restarts")));
    let mut told: Vec<_> = world.said[1..].to_vec();
    told.sort_by_key(|said| said["streamId"].to_string());
    let error = "4.3.2 not all of the mail was here: relay restarts";
    assert_eq!(told, ["half", "more", "waits"].map(|stream| failed(stream, error)), "not the other one");
}

#[test]
fn whatever_ends_a_session_of_tunnel_1_its_half_streams_fail() {
    let ends: [(Input, u16); 4] = [
        (Input::LaneLost, 1013),
        (Input::Evict(Eviction::Replaced), 4400),
        (Input::Evict(Eviction::Revoked), 4401),
        (Input::Text("x".into()), 4401),
    ];
    for (input, code) in ends {
        let mut world = World::legacy(Lane::default());
        world.frame(&start("half"));
        world.give(input.clone());
        world.run();
        assert_eq!(world.closed.map(|(code, _)| code), Some(code), "{input:?}");
        let last = world.said.last().unwrap();
        assert_eq!((&last["streamId"], &last["status"]), (&"half".into(), &"failed".into()), "{input:?}");
        // In tunnel 2 the gateway knows that half a stream is nothing.
        let mut world = World::two(Lane::default(), Habit::Acks);
        world.frame(&start("half"));
        world.give(input);
        world.run();
        assert!(world.said.iter().all(|said| said["type"] != "relay_delivery_result"), "{:?}", world.said);
        assert!(world.aborted.is_empty());
    }
}

#[test]
fn a_lane_that_is_lost_ends_the_session() {
    let mut world = World::legacy(Lane::default());
    world.busy = true;
    world.frame(&start("s"));
    world.give(Input::LaneLost);
    world.run();
    assert_eq!(world.closed, Some((1013, "try_again_later")));
    assert!(world.session.is_done());
}

#[test]
fn an_idle_session_is_small() {
    // Design section 9: 16 KiB all in; the socket's buffers are most of it.
    assert!(size_of::<Session>() <= 1024, "{}", size_of::<Session>());
}

#[test]
fn a_session_that_only_sends_never_gets_items_and_submits_like_any_other() {
    let mut outbound = proof(&[], None);
    outbound.role = SessionRole::Outbound;
    let mut world = World::new(&outbound, Lane::with(&[10]), Habit::Legacy);
    submit(&mut world, vec![result("s", ResultStatus::Sent, Some("01ID"))]);
    assert_eq!(world.lane.asked, 0);
    assert_eq!(world.said.last().unwrap()["status"], "sent");
    assert_eq!(told(world.pieces.last().unwrap()), Some(&["01ID".to_owned()][..]));
}
