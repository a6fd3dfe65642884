//! What goes to the gateway: order, window, replays, damaged bodies, and the answers to its own streams.

use super::*;

#[test]
fn auth_ok_is_the_first_word_and_names_what_was_agreed() {
    let legacy = World::legacy(Lane::default());
    let key = SecretKey::from_seed(&[1; 32]).key_text();
    let text = format!(
        r#"{{"type":"auth_ok","publicKeyBase32":"{key}","emailLocalPart":"{key}","sessionRole":"inbound","replacedSocketId":null}}"#
    );
    assert_eq!(legacy.said, [serde_json::from_str::<Value>(&text).unwrap()]);
    let two = World::new(&proof(&TWO, credit(5, 9_000, None)), Lane::default(), Habit::Acks);
    assert_eq!(two.said[0]["features"], serde_json::json!(["ack", "results", "credit", "replay"]));
    assert_eq!(two.said[0]["credit"], serde_json::json!({"items": 5, "bytes": 9000}));
}

#[test]
fn a_legacy_gateway_gets_everything_in_order_and_its_pongs_are_the_acks() {
    let mut world = World::legacy(Lane::with(&[10, 0, 200_000, 64 * 1024, 1]));
    let got: Vec<_> = world.done.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(got, (0..5).map(|at| world.whole(at)).collect::<Vec<_>>());
    assert_eq!(world.pings, 5);
    assert_eq!(world.lane.fates(), vec![Fate::Acked; 5]);
    assert!(world.wire_bytes_max <= HEADER_BYTES + STREAM_ID_BYTES_MAX + CHUNK_BYTES_MAX);
    let asked = world.lane.asked;
    world.pass(Duration::from_secs(300));
    assert_eq!(world.lane.asked, asked, "a dry lane is not asked again");
    world.lane.put(3);
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.done.len(), 6);
}

#[test]
fn a_legacy_window_closes_after_four_unanswered_streams() {
    // X9
    let world = World::new(&proof(&[], None), Lane::with(&[10; 9]), Habit::Frozen);
    assert_eq!(world.done.len(), 4);
    assert_eq!(world.lane.fates(), vec![Fate::Ready; 9]);
}

#[test]
fn an_ack_of_a_gateway_that_knows_no_ids_opens_its_window_when_it_is_stable() {
    // X9
    let mut world = World::new(&proof(&[], None), Lane::with(&[10; 9]), Habit::Frozen);
    world.lane.frozen = true;
    for acked in 0..2 {
        let id = world.lane.id(acked);
        world.give(Input::Pong(id.into()));
        world.run();
    }
    assert_eq!((world.done.len(), world.lane.waiting.len()), (4, 1), "the second ack waits for the first");
    world.lane.frozen = false;
    for stable in 5..=6 {
        let Some(batch) = world.lane.waiting.pop() else { break };
        world.lane.frozen = stable == 5;
        let settled = world.lane.carry_out(&batch);
        world.give(Input::Settled(settled));
        world.run();
        assert_eq!(world.done.len(), stable);
    }
    assert_eq!(world.lane.fates()[..3], [Fate::Acked, Fate::Acked, Fate::Ready]);
}

#[test]
fn what_was_not_acked_comes_again_under_the_same_stream_id() {
    let mut first = World::new(&proof(&[], None), Lane::with(&[10, 20]), Habit::Frozen);
    first.give(Input::Gone);
    assert!(first.session.is_done());
    let mut lane = std::mem::take(&mut first.lane);
    lane.new_session();
    let second = World::legacy(lane);
    assert_eq!(second.done, first.done);
    assert_eq!(second.lane.fates(), vec![Fate::Acked; 2]);
}

#[test]
fn credit_limits_items_and_bytes_in_flight() {
    // X9
    let mut world = World::new(&proof(&TWO, credit(3, 1 << 30, None)), Lane::with(&[10; 9]), Habit::Silent);
    assert_eq!(world.done.len(), 3);
    let id = world.lane.id(1);
    world.ack(&id);
    assert_eq!(world.done.len(), 4);

    let mut world =
        World::new(&proof(&TWO, credit(64, 1_000, None)), Lane::with(&[5_000, 400, 400, 400]), Habit::Silent);
    assert_eq!(world.done.len(), 1, "an item larger than the window goes alone");
    let id = world.lane.id(0);
    world.ack(&id);
    assert_eq!(world.done.len(), 3);
}

#[test]
fn an_item_above_the_gateways_limit_is_held_and_the_next_ones_flow() {
    // X11
    let lane = Lane::with(&[10, 5_000, 10]);
    let world = World::new(&proof(&TWO, credit(64, 1 << 20, Some(1_000))), lane, Habit::Acks);
    assert_eq!(world.done.len(), 2);
    let fates = world.lane.fates();
    assert_eq!((&fates[0], &fates[2]), (&Fate::Acked, &Fate::Acked));
    assert!(matches!(&fates[1], Fate::Held(reason) if reason.contains("1000")), "{fates:?}");
}

#[test]
fn a_nack_in_the_middle_of_a_stream_stops_it() {
    let mut world = World::two(Lane::default(), Habit::Silent);
    world.blocked = true;
    world.lane.put(1 << 20);
    world.lane.put(5);
    world.give(Input::Bell);
    world.run();
    for _ in 0..4 {
        if let Some(message) = world.session.pull(world.now) {
            world.receive(message);
        }
        world.run();
    }
    assert!(world.streams.values().any(|body| body.len() > 100));
    world.blocked = false;
    let id = world.lane.id(0);
    world.tell(&format!(r#"{{"type":"item_nack","itemId":"{id}","retryAfterMs":5000}}"#));
    assert_eq!(world.aborted, [world.lane.items[0].offer.stream.clone()]);
    assert_eq!(world.lane.fates(), [Fate::Nacked, Fate::Ready]);
    assert_eq!(world.done.len(), 1, "the next item flows");
}

#[test]
fn a_damaged_body_is_set_aside_and_one_that_cannot_be_read_waits() {
    for (error, fate) in [
        (PieceError::Damaged("crc".into()), Fate::Damaged("crc".into())),
        (PieceError::Unreadable("EIO".into()), Fate::Postponed),
    ] {
        for features in [&TWO[..], &[]] {
            let mut world = World::new(&proof(features, None), Lane::default(), Habit::Legacy);
            world.damaged = Some(error.clone());
            world.lane.put(10);
            world.give(Input::Bell);
            world.run();
            assert_eq!(world.lane.fates()[0], fate);
            assert!(world.done.is_empty(), "half a mail was ended");
            assert_eq!(world.aborted.len(), usize::from(!features.is_empty()));
        }
    }
}

#[test]
fn transcripts_after_the_login_agree_with_the_reference() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/mail-tunnel.json")).unwrap();
    let mut played = 0;
    for transcript in vectors["websocket_transcripts"].as_array().unwrap() {
        if transcript["precondition"] != "authenticated" {
            continue;
        }
        let mut world = World::legacy(Lane::default());
        for step in transcript["steps"].as_array().unwrap() {
            if let Some(hex) = step["binary_hex"].as_str() {
                let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
                world.give(Input::Binary(bytes.into()));
                world.run();
            } else if step["from"] == "client" {
                world.tell(&step["text_json"].to_string());
            } else if let Some(code) = step["close_code"].as_u64() {
                let reason = step["close_reason"].as_str().unwrap();
                assert_eq!(world.closed.map(|(c, r)| (u64::from(c), r)), Some((code, reason)));
            } else if step["nothing"].as_bool() == Some(true) {
                assert_eq!((world.closed, world.said.len()), (None, 1));
                assert_eq!(world.notes.len(), 1);
            } else {
                assert_eq!(world.said.last(), Some(&step["text_json"]), "{}", transcript["name"]);
            }
        }
        played += 1;
    }
    assert_eq!(played, 7);
}

#[test]
fn a_replay_request_brings_acked_items_back_once_each() {
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Acks);
    assert_eq!(world.done.len(), 2);
    world.tell(r#"{"type":"replay_request","fromSeq":1}"#);
    assert_eq!(world.done.len(), 4);
    assert_eq!(world.last_said(), "replay_accepted");
    assert_eq!(world.said.last().unwrap()["items"], 2);
    assert_eq!(world.done[0], world.done[2]);
    // Tunnel 1 has no such message, and without position it asks for nothing.
    world.tell(r#"{"type":"replay_request"}"#);
    assert_eq!(world.done.len(), 4);
}

#[test]
fn a_blocked_socket_bounds_what_waits() {
    // X9
    let mut world = World::two(Lane::default(), Habit::Silent);
    world.blocked = true;
    for _ in 0..1_000 {
        world.lane.put(100);
        world.give(Input::Bell);
        world.run();
    }
    let leased = world.lane.items.iter().filter(|stored| stored.leased).count();
    assert!(leased <= 32, "{leased} leased");
    assert_eq!(world.done.len(), 0);
}

/// Items that each lease of a long replay asked for; the lane answers when the gateway has taken all that it had.
fn leases(habit: Habit, blocked: bool) -> Vec<u32> {
    let mut world = World::two(Lane::default(), habit);
    (0..2_000).for_each(|_| world.lane.put(10));
    world.lane.frozen = true;
    world.blocked = blocked;
    world.give(Input::Bell);
    world.run();
    let mut leases = Vec::new();
    while !world.lane.waiting.is_empty() && leases.len() < 100 {
        let batch = world.lane.waiting.remove(0);
        leases.extend(batch.lease.map(|room| room.items));
        let settled = world.lane.carry_out(&batch);
        world.give(Input::Settled(settled));
        world.run();
    }
    leases
}

#[test]
fn who_takes_offers_faster_than_they_are_made_gets_more_made_ready() {
    let fast = leases(Habit::Acks, false);
    assert_eq!((fast[0], fast.iter().max()), (32, Some(&256)), "{fast:?}");
    assert!(leases(Habit::Acks, true).iter().sum::<u32>() <= 32, "to a blocked socket");
    // The window, and what is kept ready beyond it.
    assert!(leases(Habit::Silent, false).iter().sum::<u32>() <= 64 + 128, "to one that acks nothing");
}
