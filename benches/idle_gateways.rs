//! Memory of the relay per idle authenticated gateway.
//!
//! `cargo bench --bench idle_gateways [-- COUNT]`: logs COUNT gateways in (10 000), waits until heartbeats have gone
//! both ways, and prints what each costs the relay. A second figure is taken after each has received one mail.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Relay, child, child_arguments, key, line, login, resident_bytes};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use waystation::clock;
use waystation::mail::envelope::Meta;

/// What one idle gateway may cost, bytes.
const TARGET_BYTES: u64 = 16 * 1024;
/// Gateways before the first figure, so that what all share is not counted.
const WARM_UP: u32 = 100;
/// Logins at a time.
const LOGINS: usize = 64;

#[tokio::main]
async fn main() {
    if let Some(arguments) = child_arguments() {
        return gateways(&arguments).await;
    }
    let count = std::env::args().skip(1).find_map(|text| text.parse::<u32>().ok()).unwrap_or(10_000);
    let relay = Relay::start(true).await;
    println!("idle_gateways: {count} gateways, release build: {}", !cfg!(debug_assertions));
    let before = resident_bytes();
    for n in 0..count + WARM_UP {
        let name = key(n).key_text().to_string();
        relay.spooler.call(move |spool| spool.register(&name, clock::wall()).map(drop)).await.ok();
    }
    let registered = resident_bytes();
    let warm = [relay.address.to_string(), count.to_string(), WARM_UP.to_string()];
    let (_warm_child, mut lines) = child(&[&["gateways".to_owned()], &warm[..]].concat());
    line(&mut lines).await;
    let base = resident_bytes();
    let started = clock::monotonic();
    let all = [relay.address.to_string(), "0".to_owned(), count.to_string()];
    let (mut gateways, mut lines) = child(&[&["gateways".to_owned()], &all[..]].concat());
    assert_eq!(line(&mut lines).await, "in");
    let took = started.elapsed();
    // One heartbeat each way has settled all buffers at their idle size.
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(relay.tunnel.sessions() as u64, u64::from(count + WARM_UP));
    let idle = resident_bytes();
    let each = idle.saturating_sub(base) / u64::from(count);
    println!(
        "  ledger, per registered mailbox    {:>8} bytes",
        (registered - before) / u64::from(count + WARM_UP)
    );
    println!("  logins                            {:>8.0} per second", f64::from(count) / took.as_secs_f64());
    println!("  relay, per idle gateway           {each:>8} bytes (target {TARGET_BYTES})");
    println!("  relay, resident altogether        {:>8} KiB", idle / 1024);

    for n in 0..count {
        put(&relay, n).await;
    }
    while relay
        .metrics
        .text()
        .lines()
        .filter(|l| l.starts_with("waystation_items_acked_total"))
        .map(number)
        .sum::<u64>()
        < u64::from(count)
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = resident_bytes();
    println!(
        "  the same after one 64 KiB mail    {:>8} bytes",
        after.saturating_sub(base) / u64::from(count)
    );
    if let Some(mut input) = gateways.stdin.take() {
        input.shutdown().await.ok();
    }
    assert!(each <= TARGET_BYTES, "an idle gateway costs {each} bytes");
}

fn number(line: &str) -> u64 {
    line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as u64
}

async fn put(relay: &Relay, n: u32) {
    let name = key(n).key_text().to_string();
    let Ok(Ok(Some(mailbox))) = relay.spooler.query(move |spool| spool.mailbox(&name)).await else { return };
    let mut body = relay.spooler.body();
    body.write(&[b'x'; 64 * 1024]).await.ok();
    let meta = Meta { mail_from: "a@sender.example".into(), ..Meta::default() }.encode();
    let tag = key(n).key_text().address("mail.example").into_bytes();
    body.commit(Vec::new(), meta, vec![(mailbox.lane, tag)], clock::wall()).await.ok();
}

/// The child: `ADDRESS FIRST COUNT`; logs in, says so, and answers pings until its input ends.
async fn gateways(arguments: &[String]) {
    let [address, first, count] = arguments else { return };
    let (Ok(address), Ok(first), Ok(count)) = (address.parse(), first.parse::<u32>(), count.parse::<u32>())
    else {
        return;
    };
    let places = Arc::new(Semaphore::new(LOGINS));
    let mut logins = tokio::task::JoinSet::new();
    for n in first..first + count {
        let place = Arc::clone(&places).acquire_owned().await.ok();
        logins.spawn(async move {
            let mut socket = login(address, &key(n), "").await;
            drop(place);
            tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
        });
    }
    while logins.join_next().await.is_some() {}
    println!("in");
    let _ = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
}
