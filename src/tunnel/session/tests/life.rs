//! How a session lives and ends: silence, newer logins, drains, broken peers.

use super::*;

#[test]
fn a_peer_that_answers_no_ping_is_found_dead() {
    // X6
    let mut world = World::new(&proof(&[], None), Lane::with(&[10]), Habit::Frozen);
    world.pass(Duration::from_secs(119));
    assert_eq!(world.closed, None);
    assert_eq!(world.pings, 1 + 3);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.closed, Some((4408, "heartbeat_timeout")));
    assert_eq!(world.notes, [Note::PeerDead]);
    assert_eq!(world.lane.fates(), [Fate::Ready]);
}

#[test]
fn a_peer_that_talks_but_refuses_the_pong_it_owes_is_cut_off() {
    let mut world = World::new(&proof(&[], None), Lane::with(&[10]), Habit::Frozen);
    let ignored = Frame::End { stream: "x".into() }.encode().unwrap();
    for _ in 0..12 {
        world.pass(Duration::from_secs(10));
        world.give(Input::Binary(ignored.clone()));
        world.run();
    }
    assert_eq!(world.closed, Some((4408, "heartbeat_timeout")));
}

#[test]
fn an_idle_peer_that_answers_lives_for_ever() {
    let mut world = World::legacy(Lane::default());
    world.pass(Duration::from_secs(86_400));
    assert_eq!(world.closed, None);
    assert_eq!(world.pings, 86_400 / 30);
}

#[test]
fn a_slow_reader_lives_while_a_stream_moves_and_a_dead_line_does_not() {
    let mut world = World::new(&proof(&[], None), Lane::default(), Habit::Frozen);
    world.blocked = true;
    world.lane.put(1 << 20);
    world.give(Input::Bell);
    world.run();
    for _ in 0..100 {
        world.pass(Duration::from_secs(60));
        let message = loop {
            match world.session.pull(world.now) {
                Some(message) => break message,
                None => world.run(), // fetches the next piece
            }
        };
        world.receive(message);
        world.give(Input::Progress);
        world.run();
    }
    assert_eq!(world.closed, None);
    // From here on only pings leave.
    for _ in 0..3 {
        world.pass(Duration::from_secs(60));
        world.give(Input::Progress);
        world.run();
    }
    assert_eq!(world.closed, Some((4408, "heartbeat_timeout")));
}

#[test]
fn broken_control_messages_end_a_tunnel_2_session() {
    for text in
        ["{x", "null", r#"{"type":"item_ack"}"#, r#"{"type":"auth_challenge_request","publicKeyBase32":"k"}"#]
    {
        let mut world = World::two(Lane::default(), Habit::Acks);
        world.tell(text);
        assert_eq!(world.closed, Some((4401, "invalid_message")), "{text}");
        assert_eq!(world.last_said(), "auth_error");
    }
    let mut world = World::two(Lane::default(), Habit::Acks);
    world.tell(r#"{"type":"something_of_tunnel_3"}"#);
    assert_eq!(world.closed, None);
}

#[test]
fn a_newer_login_closes_the_session() {
    let mut world = World::legacy(Lane::default());
    world.give(Input::Evict(Eviction::Replaced));
    world.run();
    assert_eq!(world.closed, Some((4400, "replaced_by_new_session")));
    assert!(world.session.is_done());
    let mut world = World::legacy(Lane::default());
    world.give(Input::Evict(Eviction::Revoked));
    world.run();
    assert_eq!(world.closed, Some((4401, "revoked")));
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_starts_nothing() {
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    world.give(Input::Drain { reconnect_after_ms: 1_500, settle: DRAIN_TIME_MAX });
    world.lane.put(10);
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.last_said(), "drain");
    assert_eq!((world.done.len(), world.closed), (1, None));
    let id = world.lane.id(0);
    world.ack(&id);
    assert_eq!(world.closed, Some((1012, "relay_restarts")));
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Ready]);

    let mut stuck = World::new(&proof(&[], None), Lane::with(&[10]), Habit::Frozen);
    stuck.give(Input::Drain { reconnect_after_ms: 0, settle: DRAIN_TIME_MAX });
    stuck.run();
    stuck.pass(DRAIN_TIME_MAX);
    assert_eq!(stuck.closed, Some((1012, "relay_restarts")));
    assert_eq!(stuck.said.len(), 1, "tunnel 1 knows no drain message");
}

#[test]
fn a_lost_lane_ends_the_session() {
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    world.give(Input::LaneLost);
    world.run();
    assert_eq!(world.closed, Some((1013, "try_again_later")));
    assert!(world.session.is_done());
}

#[test]
fn any_input_in_any_state_is_answered_without_panic() {
    // X8: a little generator of nonsense, the same every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..300 {
        let features: &[Feature] = if round % 2 == 0 { &TWO } else { &[] };
        let mut world = World::new(&proof(features, None), Lane::with(&[10, 70_000]), Habit::Silent);
        for _ in 0..40 {
            let id = world.lane.id(draw(2) as usize);
            let input = match draw(12) {
                0 => Input::Text(format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#)),
                1 => Input::Text(format!(r#"{{"type":"item_nack","itemId":"{id}"}}"#)),
                2 => Input::Text(r#"{"type":"replay_request","fromSeq":0}"#.into()),
                3 => Input::Pong(id.into()),
                4 => Input::Bell,
                5 => Input::Progress,
                6 => Input::Drain { reconnect_after_ms: 1, settle: Duration::from_millis(500) },
                7 => Input::Piece {
                    item: id.parse().unwrap(),
                    n: draw(3) as usize,
                    bytes: Ok(Bytes::from_static(b"stray")),
                },
                8 => Input::Binary((0..draw(12)).map(|_| draw(256) as u8).collect::<Vec<_>>().into()),
                9 if draw(20) == 0 => Input::Evict(Eviction::Replaced),
                10 if draw(20) == 0 => Input::Gone,
                _ => Input::Tick,
            };
            if world.closed.is_some() {
                world.session.handle(input, world.now, WallMs(0));
                continue;
            }
            world.give(input);
            world.run();
            world.pass(Duration::from_secs(draw(20)));
        }
    }
}
