//! Acks, nacks and rejections: which of them count, when the lane learns them, and when one is missing too long.

use super::*;

#[test]
fn acks_of_tunnel_2_may_come_in_any_order() {
    let mut world = World::two(Lane::with(&[10; 3]), Habit::Silent);
    assert_eq!((world.done.len(), world.pings), (3, 0));
    let ids: Vec<_> = (0..3).map(|at| world.lane.id(at)).collect();
    world.ack(&ids[2]);
    world.ack(&ids[0]);
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Ready, Fate::Acked]);
}

#[test]
fn a_gateway_that_lives_but_never_acks_is_sent_away() {
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Silent);
    world.pass(ACK_PATIENCE / 2);
    let ids: Vec<_> = (0..2).map(|at| world.lane.id(at)).collect();
    world.ack(&ids[0]);
    world.lane.put(10);
    world.give(Input::Bell);
    world.run();
    assert_eq!((world.done.len(), world.closed), (3, None));
    world.pass(ACK_PATIENCE / 2 - Duration::from_millis(1));
    assert_eq!(world.closed, None, "it still has time");
    world.pass(Duration::from_millis(1));
    assert_eq!((world.closed, world.last_said()), (Some((1013, "ack_timeout")), "drain"));
    assert_eq!(world.notes, [Note::AckTimeout(ids[1].parse().unwrap())]);
    assert!(world.session.is_done());

    let mut lane = world.lane;
    lane.new_session();
    let world = World::two(lane, Habit::Acks);
    assert_eq!(world.lane.fates(), vec![Fate::Acked; 3], "the next session is offered them again");
}

#[test]
fn who_answers_for_each_item_in_time_is_never_sent_away() {
    let mut world = World::two(Lane::default(), Habit::Silent);
    for n in 0..5 {
        world.lane.put(10);
        world.give(Input::Bell);
        world.run();
        world.pass(ACK_PATIENCE - Duration::from_secs(1));
        let id = world.lane.id(n);
        world.ack(&id);
    }
    world.pass(3 * ACK_PATIENCE);
    assert_eq!(world.closed, None);
}

#[test]
fn acks_that_belong_to_nothing_in_flight_change_nothing() {
    // X7
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Silent);
    let first = world.lane.id(0);
    world.ack("not an id");
    world.ack(&ItemId::new(WallMs(77), [9; 10]).to_string());
    assert_eq!(world.lane.fates(), [Fate::Ready, Fate::Ready]);
    world.ack(&first);
    world.ack(&first);
    world.tell(&format!(r#"{{"type":"item_ack","itemId":"{first}","status":"rejected"}}"#));
    world.tell(&format!(r#"{{"type":"item_nack","itemId":"{first}","retryAfterMs":1}}"#));
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Ready]);
    assert_eq!(world.closed, None);
    assert_eq!(world.notes.len(), 5);
}

#[test]
fn an_ack_before_the_last_chunk_does_not_count() {
    // X7
    let mut world = World::two(Lane::default(), Habit::Silent);
    world.blocked = true;
    world.lane.put(100);
    world.give(Input::Bell);
    world.run();
    world.blocked = false;
    let start = world.session.pull(world.now).unwrap();
    world.receive(start);
    let id = world.lane.id(0);
    world.give(Input::Text(format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#)));
    world.run();
    assert_eq!(world.done.len(), 1);
    assert_eq!(world.lane.fates(), [Fate::Ready]);
    assert_eq!(world.notes.len(), 1);
}

#[test]
fn an_ack_with_another_hash_offers_the_item_again() {
    // X7
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    let id = world.lane.id(0);
    let ack =
        |hash: &str| format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored","sha256":"{hash}"}}"#);
    world.tell(&ack(&"00".repeat(32)));
    assert_eq!(world.lane.fates(), [Fate::Nacked]);
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    world.tell(&ack(&"01".repeat(32)));
    assert_eq!(world.lane.fates(), [Fate::Acked]);
}

#[test]
fn nacks_and_rejections_reach_the_lane() {
    // X12
    let mut world = World::two(Lane::with(&[10, 10, 10]), Habit::Silent);
    let ids: Vec<_> = (0..3).map(|at| world.lane.id(at)).collect();
    world.tell(&format!(r#"{{"type":"item_nack","itemId":"{}","retryAfterMs":5000}}"#, ids[0]));
    world.tell(&format!(
        r#"{{"type":"item_ack","itemId":"{}","status":"rejected","reason":"no\nsuch persona"}}"#,
        ids[1]
    ));
    assert_eq!(world.lane.fates(), [Fate::Nacked, Fate::Held("no such persona".into()), Fate::Ready]);
}

#[test]
fn acks_that_come_while_the_lane_is_busy_share_the_next_batch() {
    let mut world = World::two(Lane::default(), Habit::Acks);
    for _ in 0..40 {
        world.lane.put(10);
    }
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.lane.fates(), vec![Fate::Acked; 40]);
    world.lane.frozen = true;
    for _ in 0..3 {
        world.lane.put(10);
    }
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.lane.waiting.len(), 1);
    let settled = world.lane.carry_out(&world.lane.waiting[0].clone());
    world.give(Input::Settled(settled));
    world.run();
    // Three acks came: the first, or none, went alone; the rest wait together for the answer.
    assert_eq!(world.lane.waiting.len(), 2);
    world.give(Input::Settled(Settled::default()));
    world.run();
    let acks: BTreeMap<_, _> =
        world.lane.waiting[1..].iter().flat_map(|b| &b.changes).map(|c| (format!("{c:?}"), 1)).collect();
    assert_eq!(acks.len(), 3);
    assert!(world.lane.waiting.len() <= 3);
}

#[test]
fn acks_before_the_end_still_reach_the_lane() {
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Silent);
    world.lane.frozen = true;
    let ids: Vec<_> = (0..2).map(|at| world.lane.id(at)).collect();
    world.ack(&ids[0]);
    world.ack(&ids[1]);
    world.give(Input::Gone);
    assert!(!world.session.is_done());
    world.lane.frozen = false;
    let batch = world.lane.waiting[0].clone();
    let settled = world.lane.carry_out(&batch);
    world.give(Input::Settled(settled));
    world.run();
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Acked]);
    assert!(world.session.is_done());
}
