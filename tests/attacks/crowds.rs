//! Many at once: connections from one corner of the network, slow senders, large messages, too few descriptors.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::prey::{Client, PATIENCE, Prey, connect, honest};
use super::size;
use crate::support::until;

/// Most memory of one session in the middle of a message, KiB: read buffer, replies, one chunk of the body on its
/// way, one more in the journal's hands, and what the allocator rounds up.
const SESSION_KIB_MAX: u64 = 256;
/// What the process may grow by besides its sessions, KiB: caches of the ledger, metrics, heads of the allocator.
const SLACK_KIB: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_that_floods_is_capped_and_others_are_served() {
    // U1: 50 per address, 200 per /24 at a time, and both rates.
    let prey = Prey::start(&[("WAYSTATION_SMTP__GREET_DELAY_MS", "0")]).await;
    honest([127, 1, 1, 1], &prey).await;
    let (memory, descriptors) = (prey.memory(), prey.descriptors());
    let attempts = size("WAYSTATION_ATTACK_CONNECTIONS", 10_000);
    let (mut held, mut refused) = (Vec::new(), 0_usize);
    for n in 0..attempts {
        let from = [127, 66, 6, u8::try_from(n % 250).unwrap_or(0) + 1];
        let Ok(mut stream) = connect(from, prey.smtp).await else { continue };
        let mut first = [0; 3];
        match timeout(PATIENCE, stream.read_exact(&mut first)).await.expect("greeted or closed") {
            Ok(_) if &first == b"220" => held.push(stream),
            Ok(_) => {
                assert_eq!(&first, b"421"); // in place of the greeting
                refused += 1;
            }
            Err(_) => refused += 1,
        }
        if n == attempts / 2 {
            honest([127, 2, 2, 2], &prey).await; // in the middle of it
        }
    }
    let (memory_then, descriptors_then) = (prey.memory(), prey.descriptors());
    println!(
        "one prefix: {attempts} connections, {} held, {refused} refused; memory {memory} -> {memory_then} KiB \
         (peak {}), descriptors {descriptors} -> {descriptors_then}",
        held.len(),
        prey.memory_peak(),
    );
    assert!(held.len() <= 200, "{} are inside", held.len());
    assert_eq!(held.len() + refused, attempts);
    assert!(descriptors_then <= descriptors + held.len() + 80, "64 may be on their way out");
    assert!(prey.memory_peak() < memory + SLACK_KIB + 200 * SESSION_KIB_MAX);
    honest([127, 3, 3, 3], &prey).await;
    assert!(prey.metric("waystation_abuse_refused_total").await >= refused as f64);
    let lines = prey.log().len();
    assert!(lines < 2500, "{lines} lines of log for {attempts} attempts"); // U6
    drop(held);
    until("the descriptors have come back", || prey.descriptors() <= descriptors + 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_of_large_messages_cost_little_memory_each() {
    // U2, U3
    let prey = Prey::start(&[("WAYSTATION_SMTP__GREET_DELAY_MS", "0")]).await;
    honest([127, 1, 1, 1], &prey).await;
    let memory = prey.memory();
    let senders = size("WAYSTATION_ATTACK_SLOW_SENDERS", 200);
    let mut slow = Vec::new();
    let line = [vec![b'x'; 76], b"\r\n".to_vec()].concat();
    for n in 0..senders {
        let from = [127, 88, u8::try_from(n / 100).unwrap_or(0), u8::try_from(n % 100).unwrap_or(0) + 1];
        let mut client = Client::greeted(from, prey.smtp).await;
        assert!(client.say("MAIL FROM:<a@client.example> SIZE=20000000").await.starts_with("250"));
        assert!(client.say("RCPT TO:<postmaster>").await.starts_with("250"));
        assert!(client.say("DATA").await.starts_with("354"));
        client.send(b"Subject: slow\r\n\r\n").await.expect("taken");
        client.send(&line.repeat(4000)).await.expect("taken"); // and then it trickles
        slow.push(client);
    }
    for _ in 0..5 {
        for client in &mut slow {
            client.send(&line).await.expect("taken");
        }
        honest([127, 2, 2, 2], &prey).await;
    }
    let then = prey.memory_peak();
    println!(
        "slow senders: {senders} of 20 MB each, memory {memory} -> {then} KiB at most, {} KiB each",
        then.saturating_sub(memory) / senders as u64
    );
    assert!(then < memory + SLACK_KIB + senders as u64 * SESSION_KIB_MAX);
    // Nothing of what they began is a message.
    drop(slow);
    let mut accepted = 0.0;
    for _ in 0..2 {
        accepted = prey.metric("waystation_inbound_accepted_total").await;
    }
    assert_eq!(accepted, 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_of_the_largest_size_go_to_disk_and_not_into_memory() {
    // U3
    let bytes = 10 * 1024 * 1024;
    let env = [
        ("WAYSTATION_SMTP__GREET_DELAY_MS", "0"),
        ("WAYSTATION_SMTP__MAX_MESSAGE_BYTES", "10485760"),
        ("WAYSTATION_LIMITS__ENABLED", "false"),
    ];
    let prey = Prey::start(&env).await;
    honest([127, 1, 1, 1], &prey).await;
    let memory = prey.memory();
    let messages = size("WAYSTATION_ATTACK_LARGE_MESSAGES", 12);
    let mut senders = JoinSet::new();
    for n in 0..messages {
        let smtp = prey.smtp;
        senders.spawn(async move {
            let mut client = Client::greeted([127, 5, 5, 5], smtp).await;
            client.begin().await;
            client.send(format!("Subject: {n}\r\n\r\n").as_bytes()).await.expect("taken");
            let part = [vec![b'y'; 76], b"\r\n".to_vec()].concat().repeat(800);
            for _ in 0..bytes / part.len() - 1 {
                client.send(&part).await.expect("taken");
            }
            client.say(".").await
        });
    }
    while let Some(said) = senders.join_next().await {
        let said = said.expect("no panic");
        assert!(said.starts_with("250"), "{said}");
    }
    let then = prey.memory_peak();
    println!("large messages: {messages} of 10 MiB at a time, memory {memory} -> {then} KiB at most");
    assert!(then < memory + SLACK_KIB + messages as u64 * SESSION_KIB_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_descriptors_comes_back_on_every_listener() {
    // U8
    let prey = Prey::limited(72, &[("WAYSTATION_SMTP__GREET_DELAY_MS", "0")]).await;
    let mut crowd: Vec<TcpStream> = Vec::new();
    for n in 0..160_u8 {
        let to = if n % 2 == 0 { prey.smtp } else { prey.http };
        if let Ok(stream) = connect([127, 9, n, 1], to).await {
            crowd.push(stream);
        }
    }
    until("it has no descriptor left", || prey.descriptors() >= 70).await;
    println!("descriptors: {} of 72 with {} connections", prey.descriptors(), crowd.len());
    drop(crowd);
    until("the descriptors have come back", || prey.descriptors() < 60).await;
    honest([127, 1, 1, 1], &prey).await;
    assert!(prey.metric("waystation_smtp_connections_total").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_renewed_while_descriptors_were_short_is_served_later() {
    // U8
    let dir = tempfile::tempdir().expect("temporary directory");
    let (cert, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let renew = || {
        let pair = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec!["mx.our.example".to_owned()]).expect("parameters");
        let chain = params.self_signed(&pair).expect("certificate").pem();
        waystation::secrets::replace(&cert, chain.as_bytes()).expect("written");
        waystation::secrets::replace(&key, pair.serialize_pem().as_bytes()).expect("written");
    };
    renew();
    let env = [
        ("WAYSTATION_SMTP__GREET_DELAY_MS", "0"),
        ("WAYSTATION_TLS__CERT_FILE", cert.to_str().expect("path")),
        ("WAYSTATION_TLS__KEY_FILE", key.to_str().expect("path")),
    ];
    let prey = Prey::limited(72, &env).await;
    let said = |event: &str| prey.log().iter().filter(|line| line["event"] == event).count();
    assert_eq!(said("relay.tls.loaded"), 1);
    let mut crowd: Vec<TcpStream> = Vec::new();
    for n in 0..100_u8 {
        crowd.push(connect([127, 9, n, 1], prey.smtp).await.expect("connected"));
    }
    until("it has no descriptor left", || said("relay.ingress.accept_failed") > 0).await;
    renew();
    until("the new files cannot be read", || said("relay.tls.reload_failed") > 0).await;
    drop(crowd);
    until("they are read after all", || said("relay.tls.loaded") == 2).await;
    assert_eq!(said("relay.tls.reload_failed"), 1, "it is said once");
}
