//! A gateway comes back to a hundred thousand kept messages.
//!
//! `cargo bench --bench replay [-- COUNT [unsigned]]`: keeps COUNT messages of 2 KiB (100 000) in one lane, then lets a
//! gateway of each protocol fetch and ack them all; `unsigned`: from a relay that attests nothing. Prints messages per second and what memory the relay needed for it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Relay, child, child_arguments, key, line, login, resident_bytes};
use futures_util::{SinkExt, StreamExt};
use spool::types::State;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;
use waystation::clock;
use waystation::mail::envelope::Meta;
use waystation::tunnel::Dialect;
use waystation::tunnel::frame::Frame;

/// Size of one message.
const BODY_BYTES: usize = 2048;
/// Messages accepted at a time.
const WRITERS: usize = 256;

#[tokio::main]
async fn main() {
    if let Some(arguments) = child_arguments() {
        return gateway(&arguments).await;
    }
    let count = std::env::args().skip(1).find_map(|text| text.parse::<u32>().ok()).unwrap_or(100_000);
    let signed = !std::env::args().any(|text| text == "unsigned");
    println!(
        "replay: {count} messages of {BODY_BYTES} bytes, signed: {signed}, release build: {}",
        !cfg!(debug_assertions)
    );
    for tunnel in ["1", "2"] {
        let relay = Relay::start(signed).await;
        let name = key(0).key_text().to_string();
        let lane = relay.spooler.call(move |spool| spool.register(&name, clock::wall())).await;
        let Ok(Ok(lane)) = lane else { panic!("no lane") };
        let started = clock::monotonic();
        fill(&relay, lane, count).await;
        let filled = started.elapsed();
        let before = resident_bytes();
        let started = clock::monotonic();
        let arguments =
            ["gateways", &relay.address.to_string(), &count.to_string(), tunnel].map(str::to_owned);
        let (_child, mut lines) = child(&arguments);
        let watch = tokio::spawn(async {
            loop {
                MOST.fetch_max(resident_bytes(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(line(&mut lines).await, "all");
        let received = started.elapsed();
        while ready(&relay).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let acked = started.elapsed();
        watch.abort();
        let most = MOST.swap(0, Ordering::Relaxed);
        let rate = |time: Duration| f64::from(count) / time.as_secs_f64();
        println!("  tunnel {tunnel}: accepted {:>8.0} per second, {WRITERS} writers", rate(filled));
        println!("  tunnel {tunnel}: received {:>8.0} per second", rate(received));
        println!("  tunnel {tunnel}: all acked, durably, after {:.2} s", acked.as_secs_f64());
        println!(
            "  tunnel {tunnel}: relay resident {} KiB before, at most {} KiB during",
            before / 1024,
            most / 1024
        );
    }
}

/// Most resident memory seen since it was last taken.
static MOST: AtomicU64 = AtomicU64::new(0);

async fn fill(relay: &Relay, lane: spool::ids::LaneId, count: u32) {
    let places = Arc::new(Semaphore::new(WRITERS));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let spooler = relay.spooler.clone();
        writers.spawn(async move {
            let mut body = spooler.body();
            body.write(&[b'x'; BODY_BYTES]).await.ok();
            let meta = Meta { mail_from: "a@sender.example".into(), ..Meta::default() }.encode();
            let tag = b"home@mail.example".to_vec();
            let head = b"Received: from sender.example by relay.example\r\n".to_vec();
            let accepted = body.commit(head, meta, vec![(lane, tag)], clock::wall()).await;
            drop(place);
            assert!(accepted.is_ok(), "{accepted:?}");
        });
        while writers.try_join_next().is_some() {}
    }
    while writers.join_next().await.is_some() {}
}

async fn ready(relay: &Relay) -> u64 {
    let name = key(0).key_text().to_string();
    match relay.spooler.query(move |spool| spool.mailbox(&name)).await {
        Ok(Ok(Some(mailbox))) => mailbox.stats.items[State::Ready as usize],
        _ => 0,
    }
}

/// The child: `ADDRESS COUNT TUNNEL`; receives and acks everything, then says so and stays until killed.
async fn gateway(arguments: &[String]) {
    let [address, count, tunnel] = arguments else { return };
    let (Ok(address), Ok(count)) = (address.parse(), count.parse::<u32>()) else { return };
    let features = if tunnel == "2" { r#","features":["ack"]"# } else { "" };
    let mut socket = login(address, &key(0), features).await;
    let (mut received, mut item) = (0, None);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(message) = message else { continue };
        match Frame::decode(&message, Dialect::Two) {
            Ok(Frame::Start { start, .. }) => item = start.item_id,
            Ok(Frame::End { .. }) => {
                received += 1;
                if let Some(item) = item.take() {
                    let ack = format!(r#"{{"type":"item_ack","itemId":"{item}","status":"stored"}}"#);
                    socket.send(Message::text(ack)).await.ok();
                }
                if received == count {
                    println!("all");
                }
            }
            Ok(Frame::Chunk { .. } | Frame::Abort { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
