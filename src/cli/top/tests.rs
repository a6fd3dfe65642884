//! Frames of `top`, as a terminal would show them.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::state::{Answer, Input, Pane, Top, Want};
use super::view::{Theme, draw};
use crate::admin::events::Told;

const HOME: &str = "homeqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";
const AUNT: &str = "auntqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";
const ITEM: &str = "06h4k2v0c8q1r5t7u9v3s6d0ag";

fn overview() -> Value {
    let series = |last: Value| {
        let mut steps = vec![Value::Null; 340];
        steps.extend((0..19).map(|n| json!(n)));
        steps.push(last);
        steps
    };
    json!({
        "version": "0.1.0", "hostname": "relay.example", "at": "2026-01-02T03:04:05.678Z", "uptime_seconds": 11_045,
        "ready": true, "problems": [], "sessions": 2, "leased": 3, "items": { "ready": 1300, "held": 2 },
        "submissions": { "ready": 66, "held": 0 },
        "mailboxes": 5, "oldest_ready_seconds": 7260, "journal_bytes": 123_456_789, "free_bytes": 9_876_543_210_u64,
        "index_bytes": 1_234_567, "commit": { "count": 10, "p50_ms": 1.234, "p99_ms": 4.5, "batch_mean": 2.0 },
        "deliveries": { "paused": null, "under_way": 1, "left_alone": [] },
        "history": { "series": {
            "accepted": series(json!(20)), "acked": series(json!(7)), "refused": vec![Value::Null; 360],
            "sent": series(json!(0)), "failed": series(json!(1)), "commit_p99_ms": series(json!(4.5)),
        } },
    })
}

fn stats() -> Value {
    let lane = |lane: &str, alias: &[&str], ready: u64, held: u64| {
        json!({ "lane": lane, "aliases": alias, "items": { "ready": ready, "held": held },
                "bytes": { "ready": ready * 2048, "held": 0 }, "oldest_ready_seconds": 7260 })
    };
    json!({ "lanes": [lane(HOME, &["home@mail.example"], 234, 2), lane(AUNT, &[], 1000, 0)] })
}

fn sessions() -> Value {
    let session = |lane: &str, tunnel: u8, items: u64| {
        json!({ "lane": lane, "tunnel": tunnel, "role": "inbound", "client": "192.0.2.7",
                "connected_at": "2026-01-02T03:00:00.000Z", "connected_seconds": 245, "in_flight_items": items,
                "in_flight_bytes": items * 4096, "acked": 17 })
    };
    json!({ "sessions": [session(AUNT, 1, 0), session(HOME, 2, 3)], "next": null })
}

fn happened(event: &str, fields: Value) -> Input {
    let mut data = json!({ "time": "2026-01-02T03:04:05.678Z", "level": "info", "event": event, "message": "it happened" });
    for (name, value) in fields.as_object().expect("fields") {
        data[name] = value.clone();
    }
    Input::Event(Told { event: event.to_owned(), data })
}

fn busy() -> Top {
    let mut top = Top::default();
    top.handle(Input::Answer(Answer::Overview(overview())));
    top.handle(Input::Answer(Answer::Sessions(sessions())));
    top.handle(Input::Answer(Answer::Stats(stats())));
    top.handle(Input::Found);
    let offered = json!({ "item.id": ITEM, "lane": HOME, "session.id": "s1", "size_bytes": 2048 });
    top.handle(happened("relay.item.offered", offered));
    let failed =
        json!({ "submission.id": ITEM, "lane": HOME, "destination": "far.example", "text": "550 no\x1b[2J" });
    top.handle(happened("relay.outbound.failed", failed));
    top
}

fn key(top: &mut Top, code: KeyCode) {
    top.handle(Input::Terminal(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))));
}

fn terminal(width: u16, height: u16, top: &mut Top, color: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, top, Theme { color })).expect("drawn");
    terminal
}

fn frame(width: u16, height: u16, top: &mut Top) -> String {
    let terminal = terminal(width, height, top, true);
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(width.into());
    let line = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
    rows.map(|row| line(row).trim_end().to_owned() + "\n").collect()
}

/// The frame that is kept beside the tests; with `WAYSTATION_NEW_FRAMES` it is written anew.
fn check(name: &str, frame: &str) {
    let file = format!("{}/src/cli/top/frames/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("WAYSTATION_NEW_FRAMES").is_some() {
        std::fs::write(&file, frame).expect("written");
    }
    let kept = std::fs::read_to_string(&file).expect("a frame is kept");
    assert_eq!(frame, kept, "{name}: WAYSTATION_NEW_FRAMES=1 keeps the new one");
}

#[test]
fn a_busy_relay_on_the_smallest_terminal() {
    check("busy-80x24", &frame(80, 24, &mut busy()));
}

#[test]
fn a_busy_relay_on_a_large_terminal() {
    check("busy-132x40", &frame(132, 40, &mut busy()));
}

#[test]
fn before_the_first_answer_nothing_is_made_up() {
    check("first-80x24", &frame(80, 24, &mut Top::default()));
}

#[test]
fn a_relay_that_went_away_is_told_and_comes_back() {
    let mut top = busy();
    top.handle(Input::Lost("the relay gave no answer\non its admin socket".into()));
    let away = frame(80, 24, &mut top);
    assert!(away.contains("THE RELAY IS AWAY: the relay gave no answer on its admin socket"), "{away}");
    assert!(away.contains("no gateway is connected"), "{away}");
    top.handle(Input::Found);
    assert!(frame(80, 24, &mut top).contains("ready for mail"));
}

#[test]
fn trouble_is_told_in_words_whatever_the_colours_are() {
    let mut trouble = overview();
    trouble["ready"] = json!(false);
    trouble["problems"] = json!(["no space: 12 MiB free"]);
    trouble["deliveries"]["paused"] = json!("moving house");
    let mut top = busy();
    top.handle(Input::Answer(Answer::Overview(trouble)));
    let text = frame(100, 24, &mut top);
    assert!(
        text.contains("NOT READY: no space: 12 MiB free") && text.contains("DELIVERIES PAUSED: moving house"),
        "{text}"
    );
    let plain = terminal(100, 24, &mut top, false);
    let colours =
        plain.backend().buffer().content().iter().filter(|cell| cell.fg != ratatui::style::Color::Reset);
    assert_eq!(colours.count(), 0, "monochrome");
    let coloured = terminal(100, 24, &mut top, true);
    let red =
        coloured.backend().buffer().content().iter().filter(|cell| cell.fg == ratatui::style::Color::Red);
    assert!(red.count() > 10);
}

#[test]
fn every_size_can_be_drawn() {
    let mut top = busy();
    for open in [false, true] {
        for width in [1, 2, 10, 40, 79, 80, 81, 200, 400] {
            for height in [1, 2, 5, 9, 23, 24, 33, 34, 35, 100] {
                frame(width, height, &mut top);
            }
        }
        top.help = !open;
        key(&mut top, KeyCode::Enter);
    }
}

#[test]
fn the_selected_lane_is_opened_and_stays_selected_when_others_overtake_it() {
    let mut top = busy();
    assert_eq!(top.lanes[0].key, AUNT, "the deepest first");
    key(&mut top, KeyCode::Down);
    let mut changed = stats();
    changed["lanes"][0]["items"]["ready"] = json!(5000);
    top.handle(Input::Answer(Answer::Stats(changed)));
    assert_eq!((top.lanes[0].key.as_str(), top.selected(Pane::Lanes)), (HOME, 0));
    key(&mut top, KeyCode::Enter);
    assert_eq!(top.want(), Some(Want::Items(HOME.to_owned())));
    assert_eq!(top.want(), None, "asked once");
    assert!(frame(80, 24, &mut top).contains("asking"));
    let item = json!({ "id": ITEM, "state": "ready", "age_seconds": 60, "size_bytes": 2048,
                       "mail_from": "a@far.example", "rcpt_to": "home@mail.example" });
    let other = Answer::Items { lane: AUNT.into(), page: json!({ "items": [] }) };
    top.handle(Input::Answer(other));
    let page = json!({ "items": [item.clone(), item] });
    top.handle(Input::Answer(Answer::Items { lane: HOME.into(), page }));
    key(&mut top, KeyCode::End);
    check("items-80x24", &frame(80, 24, &mut top));
    key(&mut top, KeyCode::Char('r'));
    assert_eq!(top.want(), Some(Want::Items(HOME.to_owned())));
    key(&mut top, KeyCode::Esc);
    assert!(top.open.is_none() && !top.is_over());
    key(&mut top, KeyCode::Esc);
    assert!(top.is_over());
}

#[test]
fn keys_that_end_it_end_it_and_help_is_left_first() {
    for (code, modifiers) in [
        (KeyCode::Char('q'), KeyModifiers::NONE),
        (KeyCode::Char('c'), KeyModifiers::CONTROL),
        (KeyCode::Esc, KeyModifiers::NONE),
    ] {
        let mut top = busy();
        top.handle(Input::Terminal(Event::Key(KeyEvent::new(code, modifiers))));
        assert!(top.is_over(), "{code:?}");
    }
    let mut top = busy();
    key(&mut top, KeyCode::Char('?'));
    assert!(frame(80, 24, &mut top).contains("the next pane"));
    key(&mut top, KeyCode::Esc);
    assert!(!top.is_over() && !frame(80, 24, &mut top).contains("the next pane"));
    key(&mut top, KeyCode::Char('c'));
    assert!(!top.is_over(), "without Control it is a letter");
}

#[test]
fn items_on_their_way_leave_with_their_ack_their_session_and_a_gap() {
    let offer = |id: &str, session: &str| {
        happened(
            "relay.item.offered",
            json!({ "item.id": id, "lane": HOME, "session.id": session, "size_bytes": 1 }),
        )
    };
    let mut top = Top::default();
    for (id, session) in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "2"), ("e", "2")] {
        top.handle(offer(id, session));
    }
    top.handle(happened("relay.item.acked", json!({ "item.id": "a" })));
    top.handle(happened("relay.item.nacked", json!({ "item.id": "b" })));
    assert_eq!(top.flying.keys().collect::<Vec<_>>(), ["c", "d", "e"]);
    top.handle(happened("relay.ws.closed", json!({ "session.id": "2" })));
    assert_eq!(top.flying.keys().collect::<Vec<_>>(), ["c"]);
    top.handle(Input::Event(Told { event: "lagged".into(), data: json!({ "missed": 4 }) }));
    assert!(top.flying.is_empty() && top.missed == 4);
}

#[test]
fn memory_is_bounded_and_an_older_event_stays_under_the_readers_eye() {
    let mut top = busy();
    for _ in 0..4 {
        key(&mut top, KeyCode::Tab);
    }
    assert_eq!(top.pane, Pane::Events);
    key(&mut top, KeyCode::Down);
    let looked_at = top.events[1].clone();
    top.handle(happened("relay.other", json!({})));
    assert_eq!(top.events[top.selected(Pane::Events)], looked_at);
    for n in 0..2000 {
        top.handle(happened("relay.outbound.sent", json!({ "n": n })));
    }
    assert_eq!((top.len(Pane::Events), top.len(Pane::Deliveries)), (500, 200));
    assert!(top.selected(Pane::Events) < 500);
    key(&mut top, KeyCode::BackTab);
    assert_eq!((top.pane, top.lower), (Pane::Deliveries, Pane::Deliveries));
}
