//! The home side as a process, against a real tunnel: kills, replays, freezes, and the four destinations.

mod mail_out;
mod trust;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Ws;
use waystation::gateway::{Client, Options};
use waystation::identity::keyfile;
use waystation::tunnel::frame::{Frame, StartBody};

use crate::support::home::{GATEWAY_POINTS, Home, untop};
use crate::support::list_relay::{Fate, ListRelay};
use crate::support::process::waystation;
use crate::support::until;

/// A message body of about `size` bytes that no other number has.
fn body(n: usize, size: usize) -> Vec<u8> {
    let mut body = format!("Subject: message {n}\r\n\r\n").into_bytes();
    let line = format!("line of message {n}: .\u{e4}\u{f6}\r\n..dots\r\n");
    while body.len() < size {
        body.extend_from_slice(line.as_bytes());
    }
    body
}

fn fill(relay: &ListRelay, count: usize) {
    for n in 0..count {
        // Empty, small, more than one chunk, more than one staging piece.
        relay.put(match n % 4 {
            0 => Vec::new(),
            1 => body(n, 300),
            2 => body(n, 70_000),
            _ => body(n, 200_000),
        });
    }
}

/// Each item once, byte for byte, nothing half-written.
fn check_maildir(relay: &ListRelay, home: &Home) {
    assert!(home.maildir() == relay.wanted(), "the Maildir is not the lane");
    assert_eq!(home.names("tmp"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_arrives_in_the_maildir_in_order_and_byte_for_byte() {
    let relay = ListRelay::start().await;
    fill(&relay, 12);
    let home = Home::new(&relay.url());
    let running = home.start(None);
    relay.all_acked().await;
    check_maildir(&relay, &home);
    let seqs: Vec<usize> = home
        .names("new")
        .iter()
        .map(|name| name.split(".Q").nth(1).and_then(|rest| rest.split('-').next()).unwrap().parse().unwrap())
        .collect();
    assert_eq!(seqs, (1..=12).collect::<Vec<_>>());
    until("the status counts them", || home.status().is_some_and(|status| status["stored"] == 12)).await;
    let status = home.status().unwrap();
    assert_eq!((&status["tunnel"], &status["in_hand"]), (&2.into(), &0.into()));
    running.stop().await;
    assert!(home.status().is_none());
    // Mail that comes while nobody is at home waits, and new mail comes at once.
    fill(&relay, 3);
    let running = home.start(None);
    relay.all_acked().await;
    relay.put(body(99, 10));
    relay.all_acked().await;
    check_maildir(&relay, &home);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_it_neither_loses_nor_doubles() {
    // W9: die at the n-th passing of each point, come back, compare.
    for point in GATEWAY_POINTS {
        for count in [1, 3] {
            let relay = ListRelay::start().await;
            fill(&relay, 6);
            let home = Home::new(&relay.url());
            let mut doomed = home.start(Some(&format!("{point}:{count}")));
            // What is decided together shares one passing, so keep mail coming until it has died.
            let mut status = None;
            until(&format!("it died at {point}:{count}"), || {
                status = doomed.has_ended();
                if relay.look(|items| items.iter().all(|entry| entry.fate == Fate::Acked)) {
                    relay.put(body(1000, 300));
                }
                status.is_some()
            })
            .await;
            assert!(status.is_some_and(|status| !status.success()), "{point}:{count}");
            let running = home.start(None);
            relay.all_acked().await;
            check_maildir(&relay, &home);
            running.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_it_neither_loses_nor_doubles() {
    let relay = ListRelay::start().await;
    let home = Home::new(&relay.url());
    for round in 0..15_u64 {
        fill(&relay, 8);
        let running = home.start(None);
        // Wait for a different amount of progress each time, then kill in the middle of the rest.
        let want = usize::try_from(round * 5 % 8).unwrap();
        relay
            .wait("some are acked", |items| {
                items.iter().rev().take(8).filter(|entry| entry.fate == Fate::Acked).count() >= want
            })
            .await;
        running.kill();
    }
    let running = home.start(None);
    relay.all_acked().await;
    check_maildir(&relay, &home);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_acked_without_a_second_delivery() {
    let relay = ListRelay::start().await;
    fill(&relay, 8);
    let home = Home::new(&relay.url());
    let running = home.start(None);
    relay.all_acked().await;
    // A mail program takes some away, and shows others.
    let names = home.names("new");
    let maildir = home.path().join("Maildir");
    fs::remove_file(maildir.join("new").join(&names[0])).unwrap();
    fs::rename(maildir.join("new").join(&names[1]), maildir.join("cur").join(format!("{}:2,S", names[1])))
        .unwrap();
    relay.forget_acks();
    relay.all_acked().await;
    until("repeats are counted", || home.status().is_some_and(|status| status["repeats"] == 8)).await;
    running.stop().await;
    // Also by the next process.
    relay.forget_acks();
    let running = home.start(None);
    relay.all_acked().await;
    running.stop().await;
    assert_eq!(home.maildir().len(), 7);
    // And by a process that lost its memory, for what is still in the Maildir.
    fs::remove_dir_all(home.path().join("state")).unwrap();
    relay.forget_acks();
    let running = home.start(None);
    relay.all_acked().await;
    running.stop().await;
    check_maildir(&relay, &home);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_gateway_goes_on_where_it_was() {
    // W16
    let relay = ListRelay::start().await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    fill(&relay, 4);
    running.signal("STOP");
    fill(&relay, 20);
    running.signal("CONT");
    relay.all_acked().await;
    check_maildir(&relay, &home);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_goes_and_comes_back_is_found_again() {
    let relay = ListRelay::start().await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("connected", || relay.sessions() == 1).await;
    drop(relay);
    until("the loss is noticed", || {
        home.status()
            .is_some_and(|status| status["connected_since_ms"].is_null() && !status["last_error"].is_null())
    })
    .await;
    let relay = ListRelay::start().await;
    running.stop().await;
    home.configure(&relay.url(), "[maildir]\npath = \"Maildir\"\n");
    let running = home.start(None);
    fill(&relay, 2);
    relay.all_acked().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_turned_away() {
    // W11
    let relay = ListRelay::start().await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("connected", || relay.sessions() == 1).await;
    let mut second = home.start(None);
    assert_eq!(second.ended().await.code(), Some(75));
    assert!(home.log().contains("is in use by another gateway"), "{}", home.log());
    running.stop().await;
}

/// A script in the gateway's directory, for the command destination.
fn script(home: &Home, text: &str) {
    let path = home.path().join("deliver");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_says_later_gets_the_message_again() {
    let relay = ListRelay::start().await;
    fill(&relay, 4);
    let home = Home::new(&relay.url());
    let dir = home.path().display();
    home.configure(&relay.url(), &format!("[command]\nargv = [\"{dir}/deliver\", \"{{item_id}}\"]\n"));
    script(
        &home,
        &format!(
            "#!/bin/sh\ncat > {dir}/$1.part || exit 75\n[ -e {dir}/$1.seen ] || {{ touch {dir}/$1.seen; exit 75; }}\n\
             mv {dir}/$1.part {dir}/$1.mail\necho \"$WAYSTATION_SEQ\" >> {dir}/order\n"
        ),
    );
    let running = home.start(None);
    relay.all_acked().await;
    for (id, bytes) in relay.wanted() {
        assert!(untop(&fs::read(home.path().join(format!("{id}.mail"))).unwrap()) == bytes);
    }
    relay.look(|items| {
        for entry in items {
            assert_eq!(entry.nacks, [30_000], "the delay grows from half a minute");
        }
    });
    assert_eq!(fs::read_to_string(home.path().join("order")).unwrap().lines().count(), 4);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_refuses_leaves_the_message_on_hold_with_its_words() {
    let relay = ListRelay::start().await;
    fill(&relay, 2);
    let home = Home::new(&relay.url());
    let dir = home.path().display();
    home.configure(&relay.url(), &format!("[command]\nargv = [\"{dir}/deliver\"]\n"));
    script(&home, "#!/bin/sh\n[ \"$WAYSTATION_SEQ\" = 1 ] || exit 0\necho 'not this one' >&2\nexit 67\n");
    let running = home.start(None);
    relay.wait("both are decided", |items| items.iter().all(|entry| entry.fate != Fate::Ready)).await;
    relay.look(|items| {
        let Fate::Held(reason) = &items[0].fate else { panic!("{:?}", items[0].fate) };
        assert!(reason.ends_with("exited with 67: not this one"), "{reason}");
        assert_eq!(items[1].fate, Fate::Acked);
    });
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_away_gets_the_message_when_it_is_back() {
    let relay = ListRelay::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/in", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let got: Arc<Mutex<Vec<String>>> = Arc::default();
    let (count, keep) = (Arc::clone(&asked), Arc::clone(&got));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut item, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if let Some(value) = line.strip_prefix("x-waystation-item: ") {
                    item = value.to_owned();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut message = vec![0; length];
            stream.read_exact(&mut message).await.unwrap();
            let answer = if count.fetch_add(1, Ordering::SeqCst) == 0 {
                "503 Service Unavailable"
            } else {
                keep.lock().unwrap().push(item);
                "204 No Content"
            };
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let home = Home::with(&relay.url(), &format!("[webhook]\nurl = \"{url}\"\n"));
    fill(&relay, 3);
    let running = home.start(None);
    relay.all_acked().await;
    let want: Vec<String> =
        relay.look(|items| items.iter().map(|entry| entry.offer.item.to_string()).collect());
    assert_eq!(*got.lock().unwrap(), want, "once each, in order");
    // An outage is not the message's fault: nothing was sent back to the relay.
    relay.look(|items| assert!(items.iter().all(|entry| entry.nacks.is_empty() && entry.times_leased == 1)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_lmtp_server_gets_each_message_and_its_no_counts() {
    let relay = ListRelay::start().await;
    relay.put(body(1, 500));
    relay.put("Subject: never\r\n\r\nno\r\n");
    relay.put(body(3, 100_000));
    let home = Home::with(&relay.url(), "[lmtp]\naddress = \"unix:lmtp.sock\"\n");
    let listener = UnixListener::bind(home.path().join("lmtp.sock")).unwrap();
    let got: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let keep = Arc::clone(&got);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.get_mut().write_all(b"220 test LMTP\r\n").await.unwrap();
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line).await, Ok(1..)) {
                let command = String::from_utf8_lossy(&line[..4]).into_owned();
                line.clear();
                let answer = match command.as_str() {
                    "LHLO" => "250-test\r\n250-8BITMIME\r\n250 SIZE\r\n",
                    "DATA" => {
                        stream.get_mut().write_all(b"354 go\r\n").await.unwrap();
                        let mut message = Vec::new();
                        loop {
                            let start = message.len();
                            stream.read_until(b'\n', &mut message).await.unwrap();
                            if &message[start..] == b".\r\n" {
                                message.truncate(start);
                                break;
                            }
                            if message[start] == b'.' {
                                message.remove(start);
                            }
                        }
                        if message.windows(5).any(|bytes| bytes == b"never") {
                            "554 5.6.0 never\r\n"
                        } else {
                            keep.lock().unwrap().push(message);
                            "250 2.0.0 kept\r\n"
                        }
                    }
                    _ => "250 ok\r\n",
                };
                if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                    // It said QUIT and did not wait.
                    break;
                }
            }
        }
    });
    let running = home.start(None);
    relay.wait("all are decided", |items| items.iter().all(|entry| entry.fate != Fate::Ready)).await;
    relay.look(|items| {
        assert_eq!(items[1].fate, Fate::Held("LMTP: 554 5.6.0 never".to_owned()));
        let got: Vec<Vec<u8>> = got.lock().unwrap().iter().map(|bytes| untop(bytes).to_vec()).collect();
        assert!(got == [items[0].bytes(), items[2].bytes()]);
    });
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_hands_out_acks_nacks_and_rejects() {
    let relay = ListRelay::start().await;
    for n in 0..3 {
        relay.put(body(n, 100));
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(relay.url(), keyfile::generate(), dir.path());
    let mut client = Client::connect(options).await.unwrap();
    let first = client.next().await.unwrap();
    assert_eq!((first.seq(), first.mail_from()), (1, "sender@example.org"));
    relay.look(|items| assert!(untop(&fs::read(first.path()).unwrap()) == items[0].bytes()));
    let path = first.path().to_owned();
    first.ack();
    client.next().await.unwrap().nack(Duration::from_secs(5));
    client.next().await.unwrap().reject("not\r\nwanted");
    let again = client.next().await.unwrap();
    assert_eq!(again.seq(), 2);
    drop(again);
    let again = client.next().await.unwrap();
    again.ack();
    relay.wait("all are decided", |items| items.iter().all(|entry| entry.fate != Fate::Ready)).await;
    relay.look(|items| {
        assert_eq!(items[1].nacks, [5_000, 60_000]);
        assert_eq!(items[2].fate, Fate::Held("not wanted".to_owned()));
    });
    assert!(!path.exists(), "decided messages are cleaned away");
    client.close().await.unwrap();
    until("gone", || relay.sessions() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undecided_messages_are_offered_to_the_next_session_once() {
    // X5: the line is lost while a message is in hand; it comes again and is not handed out twice.
    let relay = ListRelay::start().await;
    relay.put(body(1, 100));
    let key = keyfile::generate();
    let dir = tempfile::tempdir().unwrap();
    let options = |dir: &std::path::Path| Options {
        reconnect_base_delay_ms: 10,
        reconnect_max_delay_ms: 20,
        ..Options::new(relay.url(), key.clone(), dir)
    };
    let mut client = Client::connect(options(dir.path())).await.unwrap();
    let message = client.next().await.unwrap();
    // Another session of the same key pushes the first one out, and leaves.
    let other_dir = tempfile::tempdir().unwrap();
    let mut other = Client::connect(options(other_dir.path())).await.unwrap();
    let same = other.next().await.unwrap();
    assert_eq!(same.item_id(), message.item_id());
    other.close().await.unwrap();
    drop(same);
    relay.wait("offered a third time", |items| items[0].times_leased >= 3).await;
    message.ack();
    relay.all_acked().await;
    relay.put(body(2, 100));
    assert_eq!(client.next().await.unwrap().seq(), 2, "the first one was handed out once");
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wss_works_with_a_private_ca_and_not_without_it() {
    let relay = ListRelay::start().await;
    fill(&relay, 3);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://localhost:{}/ws", listener.local_addr().unwrap().port());
    let acceptor = tls_acceptor();
    let (behind, refused) = (relay.address, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(stream).await else {
                    count.fetch_add(1, Ordering::SeqCst);
                    return;
                };
                let mut inner = tokio::net::TcpStream::connect(behind).await.expect("the relay");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    let home = Home::new(&url);
    let running = home.start(None);
    until("the certificate is refused", || refused.load(Ordering::SeqCst) > 0).await;
    running.stop().await;
    assert!(home.log().contains("TLS with localhost failed"), "{}", home.log());
    let ca = fixture("ca.pem");
    home.configure(&url, &format!("extra_ca_file = {ca:?}\n[maildir]\npath = \"Maildir\"\n"));
    let running = home.start(None);
    relay.all_acked().await;
    check_maildir(&relay, &home);
    running.stop().await;
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

fn tls_acceptor() -> tokio_rustls::TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(fixture("localhost.pem")).expect("certificate");
    let key = PrivateKeyDer::from_pem_file(fixture("localhost.key")).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().expect("certificates"), key)
        .expect("a certificate and its key");
    Arc::new(config).into()
}

/// An unmodified relay: the reference's messages, one mail in one chunk, no acks.
async fn legacy_relay(listener: TcpListener, mail: &'static [u8]) -> Vec<String> {
    let (stream, _) = listener.accept().await.expect("a gateway");
    let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a WebSocket");
    let mut heard = Vec::new();
    let text = async |socket: &mut WebSocketStream<_>| match socket.next().await {
        Some(Ok(Ws::Text(text))) => text.to_string(),
        other => panic!("{other:?}"),
    };
    let request = text(&mut socket).await;
    let key = serde_json::from_str::<serde_json::Value>(&request).expect("JSON")["publicKeyBase32"].clone();
    let id = "7b0b3ba6-2c3f-4e0a-9a51-6a3a4c1c8a52";
    let challenge = serde_json::json!({
        "type": "auth_challenge", "publicKeyBase32": key, "challengeId": id,
        "challengeText": format!("relay-auth:{id}:0f2c1f0e-9d56-4b7c-8f0e-1b2c3d4e5f60"),
        "expiresAt": "2026-01-01T00:00:00.000Z",
    });
    socket.send(Ws::text(challenge.to_string())).await.expect("sent");
    if let Some(Ok(Ws::Text(response))) = socket.next().await {
        heard.push(response.to_string());
    } else {
        return heard;
    }
    let ok = serde_json::json!({
        "type": "auth_ok", "publicKeyBase32": key, "emailLocalPart": key, "sessionRole": "inbound",
        "replacedSocketId": null,
    });
    socket.send(Ws::text(ok.to_string())).await.expect("sent");
    let stream = || "0123456789abcdef:home@example.net".to_owned();
    let start = StartBody {
        mail_from: "a@example.org".to_owned(),
        rcpt_to: "home@example.net".to_owned(),
        ..StartBody::default()
    };
    for frame in [
        Frame::Start { stream: stream(), start },
        Frame::Chunk { stream: stream(), bytes: mail.into() },
        Frame::End { stream: stream() },
    ] {
        socket.send(Ws::Binary(frame.encode().expect("a frame"))).await.expect("sent");
    }
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Ws::Text(text) => heard.push(text.to_string()),
            Ws::Binary(bytes) => heard.push(format!("{bytes:?}")),
            Ws::Ping(_) | Ws::Pong(_) | Ws::Close(_) | Ws::Frame(_) => {}
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_relay_is_served_where_that_is_allowed() {
    let mail: &'static [u8] = Vec::leak(body(1, 400_000));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let home = Home::new(&url);
    let running = home.start(None);
    assert_eq!(legacy_relay(listener, mail).await, [""; 0], "nothing was signed without permission");
    running.stop().await;
    assert!(home.log().contains("set allow_tunnel_1"), "{}", home.log());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    home.configure(&url, "allow_tunnel_1 = true\n[maildir]\npath = \"Maildir\"\n");
    let running = home.start(None);
    let relay = tokio::spawn(legacy_relay(listener, mail));
    until("the mail has arrived", || home.maildir().values().any(|bytes| bytes == mail)).await;
    running.stop().await;
    let heard = relay.await.unwrap();
    assert_eq!(heard.len(), 1, "after the login nothing is said to such a relay: {heard:?}");
}

#[test]
fn bootstrap_overwrites_nothing_and_says_what_is_next() {
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = |url: &str| {
        waystation()
            .args(["gateway", "bootstrap", url, "--offline", "--json", "--dir"])
            .arg(dir.path())
            .output()
            .unwrap()
    };
    let made = bootstrap("wss://relay.example.org/ws");
    assert!(made.status.success());
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["address"], format!("{}@mail.example.org", made["key"].as_str().unwrap()));
    assert_eq!(bootstrap("wss://relay.example.org/ws").status.code(), Some(2));
    assert_eq!(bootstrap("http://x").status.code(), Some(2));
}
