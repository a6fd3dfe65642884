//! Broken, endless and half-open WebSockets, and logins with what belongs to somebody else (X1, X4, X8, X14).

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use waystation::http::UPTAKE_TIME;
use waystation::identity::key::SecretKey;

use super::prey::{PATIENCE, Prey, connect};
use crate::support::line::{Line, Log, Manner};
use crate::support::until;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Reads an HTTP head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time");
        let Ok(byte) = read else { break };
        head.push(byte);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// An upgraded connection.
async fn upgraded(from: [u8; 4], prey: &Prey, more: &str) -> TcpStream {
    let mut stream = connect(from, prey.http).await.expect("connected");
    stream.write_all(format!("{UPGRADE}{more}\r\n").as_bytes()).await.expect("sent");
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("extensions"), "compression is never negotiated: {head}");
    stream
}

/// One frame with the mask of zeros.
fn frame(first: u8, announced: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | 127];
    bytes.extend_from_slice(&announced.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.len() as u64, payload.as_bytes())
}

/// The next frame of the relay: opcode and payload; `None` at the end.
async fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let first = stream.read_u8().await.ok()?;
        let bytes = match stream.read_u8().await.ok()? {
            126 => usize::from(stream.read_u16().await.ok()?),
            short => usize::from(short),
        };
        let mut payload = vec![0; bytes];
        stream.read_exact(&mut payload).await.ok()?;
        Some((first & 15, payload))
    };
    timeout(PATIENCE, read).await.expect("a frame or the end in time")
}

/// The close code; 0 when the connection ended without one.
async fn close_code(stream: &mut TcpStream) -> u16 {
    while let Some((opcode, payload)) = next(stream).await {
        if opcode == 8 {
            return payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
        }
    }
    0
}

/// The next JSON message.
async fn said(stream: &mut TcpStream) -> Value {
    loop {
        match next(stream).await.expect("open") {
            (1, payload) => return serde_json::from_slice(&payload).expect("JSON"),
            (8, payload) => return json!({ "close": payload.get(..2) }),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_and_endless_frames_end_their_own_connection() {
    let prey = Prey::start(&[("WAYSTATION_LIMITS__ENABLED", "false")]).await;
    let key = SecretKey::from_seed(&[3; 32]);
    let honest = Line::open(prey.http, &key, Manner::Two, &Log::default()).await.expect("logged in");
    let memory = prey.memory();
    let mut unmasked = vec![0x81, 5];
    unmasked.extend_from_slice(b"hello");
    let fragments: Vec<u8> = std::iter::once(vec![0x01, 0x81, 0, 0, 0, 0, b'x'])
        .chain(std::iter::repeat_n(vec![0x00, 0x81, 0, 0, 0, 0, b'x'], 1_000_000))
        .flatten()
        .collect();
    let mut close_in_parts = vec![0x08, 0x80, 0, 0, 0, 0];
    close_in_parts.extend_from_slice(&[0x80, 0x80, 0, 0, 0, 0]);
    let attacks: [(&str, Vec<u8>, &[u16]); 9] = [
        ("unmasked", unmasked, &[1002]), // X14
        ("invalid UTF-8", frame(0x81, 2, b"\xff\xfe"), &[1007]),
        ("100 MB announced", frame(0x82, 100 << 20, &[0; 4096]), &[1009]),
        ("longer than anything", frame(0x82, u64::MAX >> 1, b""), &[1009, 1002]),
        ("a million fragments", fragments, &[1009, 4401, 4408]),
        ("compressed", frame(0xc1, 3, b"abc"), &[1002]),
        ("reserved opcode", frame(0x83, 3, b"abc"), &[1002]),
        ("fragmented control frame", close_in_parts, &[1002]),
        ("a tunnel frame before the login", frame(0x82, 4, b"\x01\0\0\0"), &[4401]), // X4
    ];
    for (name, bytes, codes) in attacks {
        let mut stream =
            upgraded([127, 7, 7, 7], &prey, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
        let (mut read, mut write) = stream.split();
        let _ = &mut read;
        // The relay may end it in the middle.
        let sent = timeout(PATIENCE, write.write_all(&bytes)).await.expect("taken or closed in time");
        let code = close_code(&mut stream).await;
        assert!(codes.contains(&code) || (code == 0 && sent.is_err()), "{name}: {code}");
    }
    // Pings are answered, as far as the peer listens; the deadline of logins ends it.
    let mut stream = upgraded([127, 7, 7, 8], &prey, "").await;
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(100_000);
    let _ = timeout(PATIENCE, stream.write_all(&pings)).await.expect("taken or closed in time");
    let code = close_code(&mut stream).await;
    assert!([0, 4408].contains(&code), "ping flood: {code}");
    let then = prey.memory_peak();
    println!("websockets: memory {memory} -> {then} KiB at most");
    assert!(then < memory + 32 * 1024);
    assert!(honest.is_open(), "nobody else is disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_sockets_and_slow_heads_are_bounded_and_end() {
    // X4
    let prey = Prey::start(&[]).await;
    let descriptors = prey.descriptors();
    let mut open = Vec::new();
    let mut busy = 0;
    for _ in 0..300 {
        let mut stream = connect([127, 8, 8, 8], prey.http).await.expect("connected");
        stream.write_all(format!("{UPGRADE}\r\n").as_bytes()).await.expect("sent");
        let head = head(&mut stream).await;
        if head.starts_with("HTTP/1.1 101") {
            open.push(stream);
        } else {
            assert!(head.starts_with("HTTP/1.1 503"), "{head}");
            busy += 1;
        }
    }
    println!("half-open: {} of one address are inside, {busy} were sent away", open.len());
    assert!(open.len() <= 256 && busy >= 44);
    // Another address gets in at once.
    let mut other = upgraded([127, 8, 8, 9], &prey, "").await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = connect([127, 8, 8, 10], prey.http).await.expect("connected");
        stream.write_all(b"GET /ws HTTP/1.1\r\nHost:").await.expect("sent");
        slow.push(stream);
    }
    until("what is too much was closed", || prey.descriptors() <= descriptors + 256 + 256 + 8).await;
    let mut large = connect([127, 8, 8, 11], prey.http).await.expect("connected");
    let _ = large.write_all(format!("{UPGRADE}X: {}\r\n\r\n", "x".repeat(256 * 1024)).as_bytes()).await;
    let answer = head(&mut large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    // All of them end by themselves.
    assert_eq!(close_code(&mut other).await, 4408);
    for stream in &mut open {
        assert_eq!(close_code(stream).await, 4408);
    }
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
    }
    drop((open, slow, other, large));
    until("the descriptors have come back", || prey.descriptors() <= descriptors + 4).await;
    assert!(prey.metric("waystation_abuse_refused_total{limit=\"tunnel_strangers\"}").await >= 44.0);
    assert!(prey.metric("waystation_abuse_refused_total{limit=\"http_per_place\"}").await >= 44.0);
    let late = prey.metric("waystation_abuse_refused_total{limit=\"tunnel_handshake_timeout\"}").await;
    assert!(late >= 200.0, "{late}");
}

/// Clients of each kind that never read.
const DEAF: usize = 8;
/// The smallest segments that Linux agrees to, bytes: the relay's system then keeps some 25 KiB for a client, and not megabytes.
const SEGMENT_BYTES: u32 = 88;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_their_answers_are_cut() {
    // X4
    let prey = Prey::start(&[]).await;
    let descriptors = prey.descriptors();
    let many = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let one = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned();
    let mut deaf = Vec::new();
    for request in [many, one] {
        for _ in 0..DEAF {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(1).expect("as little as there is");
            socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT_BYTES).expect("small segments");
            let mut stream = socket.connect(prey.http).await.expect("connected");
            let request = request.clone();
            deaf.push(tokio::spawn(async move {
                // The relay reads no more while it cannot write, so not all of it may leave; and nothing is read here.
                let _ = stream.write_all(request.as_bytes()).await;
                std::future::pending::<()>().await;
            }));
        }
    }
    until("all of them are inside", || prey.descriptors() >= descriptors + 2 * DEAF).await;
    let begun = waystation::clock::monotonic();
    assert!(prey.metric("process_open_fds").await > 0.0, "others are served");
    // Who took something in the first window has a second one, and a slow machine a third.
    let cut = async {
        while prey.descriptors() > descriptors + 4 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(3 * UPTAKE_TIME, cut).await.expect("all of them were cut");
    println!("deaf: {} were cut after {:?}", deaf.len(), waystation::clock::monotonic() - begun);
    deaf.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_serves_one_key_on_one_connection_once() {
    // X1
    let prey = Prey::start(&[("WAYSTATION_LIMITS__ENABLED", "false")]).await;
    let (key, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let name = |key: &SecretKey| key.key_text().to_string();
    let ask = |key: &str| {
        text(
            &json!({ "type": "auth_challenge_request", "publicKeyBase32": key, "features": ["ack"] })
                .to_string(),
        )
    };
    let answer = |named: &str, challenge: &Value, signature: &[u8]| {
        let message = json!({
            "type": "auth_challenge_response", "publicKeyBase32": named,
            "challengeId": challenge["challengeId"], "signatureBase64": BASE64.encode(signature),
        });
        text(&message.to_string())
    };
    let words = |challenge: &Value| challenge["challengeText"].as_str().expect("a text").to_owned();
    let fresh = async || {
        let mut stream = upgraded([127, 0, 0, 1], &prey, "").await;
        stream.write_all(&ask(&name(&key))).await.expect("sent");
        let challenge = said(&mut stream).await;
        (stream, challenge)
    };
    let refused = async |mut stream: TcpStream, bytes: Vec<u8>, code: &str| {
        stream.write_all(&bytes).await.expect("sent");
        let told = said(&mut stream).await;
        assert_eq!(told["code"], code, "{told}");
        assert_eq!(close_code(&mut stream).await, 4401);
    };
    // Another key signs; another key is named; another relay's words are signed.
    let (stream, challenge) = fresh().await;
    refused(
        stream,
        answer(&name(&key), &challenge, &other.sign(words(&challenge).as_bytes())),
        "invalid_signature",
    )
    .await;
    let (stream, challenge) = fresh().await;
    refused(
        stream,
        answer(&name(&other), &challenge, &other.sign(words(&challenge).as_bytes())),
        "challenge_mismatch",
    )
    .await;
    let (stream, challenge) = fresh().await;
    let elsewhere = words(&challenge).rsplit_once(':').expect("a host").0.to_owned() + ":evil.example";
    refused(stream, answer(&name(&key), &challenge, &key.sign(elsewhere.as_bytes())), "invalid_signature")
        .await;
    // On another connection, while the first is open: passed on by somebody in the middle.
    let (first, challenge) = fresh().await;
    let signed = answer(&name(&key), &challenge, &key.sign(words(&challenge).as_bytes()));
    let (second, _) = fresh().await;
    refused(second, signed.clone(), "challenge_mismatch").await;
    // Where it was made it is good, once.
    let mut first = first;
    first.write_all(&signed).await.expect("sent");
    assert_eq!(said(&mut first).await["type"], "auth_ok");
    let (third, _) = fresh().await;
    refused(third, signed, "challenge_already_used").await;
    // Sixteen spellings decode to the same octets; one is the key's name.
    let canonical = name(&key);
    let last = canonical.chars().last().expect("52 characters");
    let spellings = "abcdefghijklmnopqrstuvwxyz234567".chars().filter(|c| *c != last);
    for spelling in spellings {
        let wrong = format!("{}{spelling}", &canonical[..51]);
        let mut stream = upgraded([127, 0, 0, 1], &prey, "").await;
        stream.write_all(&ask(&wrong)).await.expect("sent");
        let told = said(&mut stream).await;
        // `a` and `q` are both canonical, of two different keys; the other one cannot be proved by ours.
        assert!(told["code"] == "invalid_message" || "aq".contains(spelling), "{wrong}: {told}");
    }
    println!("challenges: none served twice, elsewhere, or for another key");
}
