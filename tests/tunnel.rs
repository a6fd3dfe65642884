//! Gateways against a real tunnel: sockets, HTTP upgrade, the ledger behind it. Each test is one promise.

mod admission;
mod custody;
mod loans;
mod relay;
mod submissions;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use relay::{Arrived, Gateway, Relay, eventually};
use spool::types::{MailboxChange, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use waystation::identity::key::SecretKey;
use waystation::mail::admission::Admission;
use waystation::tunnel::ws::{RateSettings, Settings};

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

#[tokio::test]
async fn mail_kept_while_a_gateway_was_away_reaches_it_in_order() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let bodies: Vec<Vec<u8>> =
        vec![b"first\r\n".to_vec(), vec![7; 300_000], Vec::new(), b"last\r\n".to_vec()];
    let mut ids = Vec::new();
    for body in &bodies {
        ids.push(relay.put(&key(1), body).await);
    }
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    for (id, body) in ids.iter().zip(&bodies) {
        let got = gateway.mail().await;
        let address = key(1).key_text().address("mail.example");
        assert_eq!(got.stream, format!("{id}:{address}"));
        assert_eq!(got.bytes, [b"Received: here\r\n".as_slice(), body].concat());
        assert_eq!((got.start.mail_from.as_str(), got.start.rcpt_to), ("a@sender.example", address));
        assert_eq!(got.start.item_id, None, "tunnel 1 has no item ids");
    }
    // The next ping is answered by reading on; then nothing is left.
    gateway.idle_until(async || relay.count(&key(1), State::Ready).await, 0).await;
    assert_eq!(relay.count(&key(1), State::Acked).await, 4);
    let later = relay.put(&key(1), b"while connected").await;
    assert!(gateway.mail().await.stream.starts_with(&later.to_string()));
}

#[tokio::test]
async fn what_was_not_ponged_comes_again_under_the_same_stream_id() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    relay.put(&key(1), b"one").await;
    let first = {
        let mut gateway = Gateway::login(&relay, &key(1)).await;
        gateway.mail().await
        // Gone before the ping behind it was read.
    };
    eventually("the session ends", async || relay.tunnel.sessions() == 0).await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    let second = gateway.mail().await;
    assert_eq!((first.stream, first.bytes), (second.stream, second.bytes));
    gateway.idle_until(async || relay.count(&key(1), State::Ready).await, 0).await;
}

#[tokio::test]
async fn a_gateway_that_knows_no_ids_gets_nothing_new_before_its_acks_are_stable() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    for n in 0..12 {
        relay.put(&key(1), format!("{n}").as_bytes()).await;
    }
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    let window = u64::from(Settings::default().session.legacy_items_max);
    for n in 0..12 {
        gateway.mail().await;
        let acked = relay.count_if_killed(&key(1), State::Acked);
        assert!(acked + window > n, "{n} were here before, {acked} of them cannot come again");
    }
}

#[tokio::test]
async fn unacked_mail_survives_a_restart_of_the_relay() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let id = relay.put(&key(1), b"precious").await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    let first = gateway.mail().await;
    drop(gateway);
    let relay = relay.restart().await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    let again = gateway.mail().await;
    assert_eq!(first.stream, again.stream);
    assert!(again.stream.starts_with(&id.to_string()));
}

#[tokio::test]
async fn a_frozen_gateway_is_found_and_its_mail_goes_to_the_next_session() {
    // X6: the peer's kernel still takes bytes, its process reads nothing.
    let relay = Relay::with(quick(), Admission::Open).await;
    relay.register(&key(1)).await;
    let frozen = Gateway::login(&relay, &key(1)).await;
    relay.put(&key(1), b"swallowed by the original relay").await;
    eventually("the frozen one is cut off", async || relay.tunnel.sessions() == 0).await;
    assert_eq!(relay.metrics.tunnel_dead_peers.get(), 1);
    assert_eq!(relay.count(&key(1), State::Ready).await, 1);
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    gateway.mail().await;
    gateway.idle_until(async || relay.count(&key(1), State::Ready).await, 0).await;
    drop(frozen);
}

#[tokio::test]
async fn a_gateway_behind_a_line_that_went_dead_is_found() {
    // X6: no FIN ever comes; a middle box stops forwarding.
    let relay = Relay::with(quick(), Admission::Open).await;
    relay.register(&key(1)).await;
    let (middle, cut) = relay::middle_box(relay.address).await;
    let gateway = Gateway::login_at(middle, &key(1), "").await;
    assert_eq!(relay.tunnel.sessions(), 1);
    cut.cancel();
    eventually("the dead line is noticed", async || relay.tunnel.sessions() == 0).await;
    drop(gateway);
}

#[tokio::test]
async fn an_idle_gateway_that_answers_pings_stays() {
    let relay = Relay::with(quick(), Admission::Open).await;
    relay.register(&key(1)).await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    for _ in 0..12 {
        let ping = gateway.socket.next().await.unwrap().unwrap();
        assert!(matches!(ping, Message::Ping(_)), "{ping:?}");
    }
    assert_eq!(relay.tunnel.sessions(), 1);
}

#[tokio::test]
async fn broken_websocket_frames_end_only_their_own_connection() {
    // X14: unmasked frame, text with invalid UTF-8, a message of more than 64 MiB; before and after the login.
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    relay.register(&key(2)).await;
    let mut healthy = Gateway::login(&relay, &key(2)).await;
    let unmasked = [0x82, 0x01, 0x00].to_vec();
    let bad_text = [0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28].to_vec();
    let mut huge = vec![0x82, 0xff];
    huge.extend_from_slice(&(65_u64 << 20).to_be_bytes());
    huge.extend_from_slice(&[0; 4]);
    for (bytes, code) in [(unmasked, 1002), (bad_text, 1007), (huge, 1009)] {
        for login in [false, true] {
            let mut gateway = if login {
                Gateway::login(&relay, &key(1)).await
            } else {
                Gateway::connect(relay.address, "").await
            };
            gateway.socket.get_mut().write_all(&bytes).await.unwrap();
            assert_eq!(gateway.closed().await.0, code);
        }
    }
    relay.put(&key(2), b"still here").await;
    healthy.mail().await;
}

#[tokio::test]
async fn broken_tunnel_frames_and_keys_are_answered_and_others_go_on() {
    // X8: the original relay's process ended at each of these.
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    gateway.socket.send(Message::Binary(vec![1, 2, 3].into())).await.unwrap();
    assert_eq!(gateway.said().await["code"], "invalid_tunnel_frame");
    assert_eq!(gateway.closed().await, (4401, "invalid_tunnel_frame".into()));

    let mut stranger = Gateway::connect(relay.address, "").await;
    stranger.tell(r#"{"type":"auth_challenge_request","publicKeyBase32":"not-base32!"}"#).await;
    assert_eq!(stranger.said().await["code"], "invalid_message");
    assert_eq!(stranger.closed().await, (4401, "invalid_message".into()));
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    relay.put(&key(1), b"x").await;
    gateway.mail().await;
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody_else() {
    // X9: one gateway reads nothing of its large mails, another gets its own at once.
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    relay.register(&key(2)).await;
    for _ in 0..4 {
        relay.put(&key(1), &vec![1; 4 << 20]).await;
    }
    let mut slow = Gateway::login(&relay, &key(1)).await;
    let mut quick = Gateway::login(&relay, &key(2)).await;
    for n in 0..50_u8 {
        relay.put(&key(2), &[n; 1000]).await;
        assert_eq!(quick.mail().await.bytes.len(), 1016);
    }
    for _ in 0..4 {
        assert_eq!(slow.mail().await.bytes.len(), (4 << 20) + 16);
    }
    slow.idle_until(async || relay.count(&key(1), State::Ready).await, 0).await;
}

#[tokio::test]
async fn a_newer_login_replaces_the_older_session() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let mut older = Gateway::login(&relay, &key(1)).await;
    let mut newer = Gateway::login(&relay, &key(1)).await;
    assert!(newer.auth_ok["replacedSocketId"].is_string());
    assert_eq!(older.closed().await, (4400, "replaced_by_new_session".into()));
    relay.put(&key(1), b"for the newer").await;
    newer.mail().await;
    let outbound = Gateway::login_as(relay.address, &key(1), r#","sessionRole":"outbound""#, "").await;
    assert_eq!(outbound.auth_ok["replacedSocketId"], serde_json::Value::Null);
    assert_eq!(relay.tunnel.sessions(), 2);
}

#[tokio::test]
async fn an_open_session_of_tunnel_1_is_offered_names_that_fit_the_domains_of_now() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    let text = key(1).key_text();
    let (address, bare) = (text.address("mail.example"), text.to_string());
    for (domains, offered) in [
        (&["mail.example"][..], &address),
        (&["mail.example", "second.example"][..], &bare),
        (&["renamed.example"][..], &bare),
    ] {
        let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
        relay.lanes.replace(Admission::Open, domains);
        relay.put(&key(1), b"x").await;
        assert_eq!(gateway.mail().await.start.rcpt_to, *offered);
    }
}

#[tokio::test]
async fn a_newcomer_that_goes_away_while_it_has_to_wait_pushes_nobody_out() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    // Two quick replacements are nobody's fault; the third newcomer waits a second.
    let mut sitting = Gateway::login(&relay, &key(1)).await;
    for _ in 0..2 {
        sitting = Gateway::login(&relay, &key(1)).await;
    }
    for how in ["the socket is gone", "it says goodbye", "it speaks too early"] {
        let mut newcomer = Gateway::connect(relay.address, "").await;
        newcomer.prove(&key(1), "").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        match how {
            "it says goodbye" => newcomer.socket.close(None).await.unwrap(),
            "it speaks too early" => {
                newcomer.tell("{}").await;
                assert_eq!(newcomer.said().await["code"], "invalid_message");
            }
            _ => {}
        }
        drop(newcomer);
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        assert_eq!((relay.metrics.tunnel_replaced.get(), relay.tunnel.sessions()), (2, 1), "{how}");
        relay.put(&key(1), how.as_bytes()).await;
        sitting.mail().await;
    }
}

#[tokio::test]
async fn of_many_logins_at_once_exactly_one_keeps_the_lane() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let key = key(1);
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(Gateway::connect(relay.address, "").await);
    }
    futures_util::future::join_all(gateways.iter_mut().map(|gateway| gateway.prove(&key, ""))).await;
    eventually("all were in", async || relay.metrics.tunnel_replaced.get() == 2).await;
    relay.put(&key, b"for the one").await;
    let mut kept = 0;
    for gateway in &mut gateways {
        kept += usize::from(gateway.mail_or_close().await.is_ok());
    }
    assert_eq!(kept, 1);
}

#[tokio::test]
async fn only_admitted_keys_get_a_session() {
    let relay = Relay::with(Settings::default(), Admission::AllowList).await;
    let (code, text) = Gateway::refused(&relay, &key(1)).await;
    assert_eq!((code, text.as_str()), (4401, "not_admitted"));
    relay.register(&key(1)).await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    // X13
    relay.change(&key(1), MailboxChange::Revoke).await;
    relay.tunnel.revoke(&key(1).key_text());
    assert_eq!(gateway.said().await["code"], "revoked");
    assert_eq!(gateway.closed().await.0, 4401);
    assert_eq!(Gateway::refused(&relay, &key(1)).await, (4401, "revoked".into()));
}

#[tokio::test]
async fn the_first_proof_registers_a_key_when_admission_is_open() {
    let relay = Relay::start().await;
    let _gateway = Gateway::login(&relay, &key(5)).await;
    assert_eq!(relay.count(&key(5), State::Ready).await, 0);
}

#[tokio::test]
async fn attempts_are_counted_by_the_real_client_behind_a_trusted_proxy() {
    let settings = Settings {
        rates: Some(RateSettings { per_minute: 1, deny_window: Duration::from_secs(300) }),
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..Settings::default()
    };
    let relay = Relay::with(settings, Admission::Open).await;
    let forwarded = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let _a = Gateway::login_at(relay.address, &key(1), &forwarded("203.0.113.1")).await;
    let mut again = Gateway::connect(relay.address, &forwarded("198.51.100.9, 203.0.113.1")).await;
    again.tell(r#"{"type":"auth_challenge_request","publicKeyBase32":"x"}"#).await;
    assert_eq!(again.said().await["code"], "rate_limited");
    assert_eq!(again.closed().await, (4408, "rate_limited".into()));
    let counted = "waystation_abuse_refused_total{limit=\"tunnel_login_rate\"} 1\n";
    assert!(relay.metrics.text().contains(counted), "{}", relay.metrics.text());
    let _b = Gateway::login_at(relay.address, &key(2), &forwarded("203.0.113.2")).await;
}

#[tokio::test]
async fn as_many_gateways_as_the_limit_says_come_back_from_one_address_at_once() {
    let rates = Some(RateSettings { per_minute: 20, deny_window: Duration::from_secs(300) });
    let relay = Relay::with(Settings { rates, ..Settings::default() }, Admission::Open).await;
    let mut gateways = Vec::new();
    for n in 1..=20 {
        gateways.push(Gateway::login(&relay, &key(n)).await);
    }
    // As after a drain.
    drop(gateways);
    eventually("all have gone", async || relay.tunnel.sessions() == 0).await;
    let mut more = Gateway::connect(relay.address, "").await;
    let request = r#"{"type":"auth_challenge_request","publicKeyBase32":"x"}"#;
    let mut codes: Vec<String> = Vec::new();
    while codes.last().is_none_or(|code| code != "rate_limited") {
        // A token comes back every three seconds.
        assert!(codes.len() < 20, "{codes:?}");
        more.tell(request).await;
        codes.push(more.said().await["code"].as_str().unwrap().to_owned());
        more = Gateway::connect(relay.address, "").await;
    }
}

#[tokio::test]
async fn a_key_that_is_not_let_in_pays_twice_for_trying() {
    let rates = Some(RateSettings { per_minute: 2, deny_window: Duration::from_secs(300) });
    let relay = Relay::with(Settings { rates, ..Settings::default() }, Admission::AllowList).await;
    assert_eq!(Gateway::refused(&relay, &key(1)).await, (4401, "not_admitted".into()));
    let mut again = Gateway::connect(relay.address, "").await;
    again.tell(r#"{"type":"auth_challenge_request","publicKeyBase32":"x"}"#).await;
    assert_eq!(again.said().await["code"], "rate_limited");
}

#[tokio::test]
async fn tunnel_2_acks_nacks_rejects_and_replays() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    for n in 0..3 {
        relay.put(&key(1), &[n; 10]).await;
    }
    let features = r#","features":["ack","credit","replay"],"credit":{"items":8,"bytes":1000000}"#;
    let mut gateway = Gateway::login_as(relay.address, &key(1), features, "").await;
    assert_eq!(gateway.auth_ok["features"], serde_json::json!(["ack", "credit", "replay"]));
    let mails = [gateway.mail().await, gateway.mail().await, gateway.mail().await];
    let item = |n: usize| mails[n].start.item_id.clone().unwrap();
    assert_eq!(mails[1].start.seq, Some(2));
    assert_eq!(mails[1].start.trace_bytes, Some(16));
    gateway.tell(&format!(r#"{{"type":"item_ack","itemId":"{}","status":"stored"}}"#, item(0))).await;
    gateway.tell(&format!(r#"{{"type":"item_nack","itemId":"{}","retryAfterMs":1}}"#, item(1))).await;
    gateway
        .tell(&format!(r#"{{"type":"item_ack","itemId":"{}","status":"rejected","reason":"no"}}"#, item(2)))
        .await;
    let again = gateway.mail().await;
    assert_eq!((&again.stream, &again.bytes), (&mails[1].stream, &mails[1].bytes), "nacked, offered again");
    gateway.tell(&format!(r#"{{"type":"item_ack","itemId":"{}","status":"stored"}}"#, item(1))).await;
    eventually("two are acked", async || relay.count(&key(1), State::Acked).await == 2).await;
    assert_eq!(relay.count(&key(1), State::Held).await, 1);

    gateway.tell(r#"{"type":"replay_request","fromSeq":-5}"#).await;
    let accepted = gateway.said().await;
    assert_eq!((&accepted["type"], &accepted["items"]), (&"replay_accepted".into(), &2.into()));
    assert_eq!(gateway.mail().await.stream, mails[0].stream);
    assert_eq!(gateway.mail().await.stream, mails[1].stream);
}

#[tokio::test]
async fn an_item_that_came_back_five_times_is_held_and_counted() {
    // X12
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    relay.put(&key(1), b"poison").await;
    let mut gateway = Gateway::login_as(relay.address, &key(1), r#","features":["ack"]"#, "").await;
    for round in 1..=5 {
        let item = gateway.mail().await.start.item_id.unwrap();
        assert_eq!(relay.metrics.items_parked.get(), 0, "before refusal {round}");
        gateway.tell(&format!(r#"{{"type":"item_nack","itemId":"{item}","retryAfterMs":1}}"#)).await;
    }
    eventually("it is held and counted", async || relay.metrics.items_parked.get() == 1).await;
    assert_eq!(relay.count(&key(1), State::Held).await, 1);
    assert_eq!(relay.metrics.items_nacked.get(), 5);
}

#[tokio::test]
async fn a_stopping_relay_says_when_to_come_back_and_finishes_what_is_in_flight() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let mut gateway = Gateway::login_as(relay.address, &key(1), r#","features":["ack"]"#, "").await;
    relay.put(&key(1), b"x").await;
    let mail = gateway.mail().await;
    relay.stop.cancel();
    let drain = gateway.said().await;
    assert_eq!(drain["type"], "drain");
    let hint = drain["reconnectAfterMs"].as_u64().unwrap();
    assert!((2000..=3000).contains(&hint), "{hint}: by chance a little later than asked for");
    let item = mail.start.item_id.unwrap();
    gateway.tell(&format!(r#"{{"type":"item_ack","itemId":"{item}","status":"stored"}}"#)).await;
    assert_eq!(gateway.closed().await, (1012, "relay_restarts".into()));
    assert_eq!(relay.count(&key(1), State::Acked).await, 1);
}

#[tokio::test]
async fn upgrade_requests_are_answered_as_the_reference_does() {
    let relay = Relay::start().await;
    let upgrade = "Host: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let extras = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
                  Sec-WebSocket-Protocol: soap, wamp\r\nOrigin: https://elsewhere.example\r\n";
    let cases = [
        ("GET /ws HTTP/1.1\r\nHost: relay\r\n\r\n".to_owned(), "404", r#"{"error":"not_found"}"#),
        (format!("GET /ws?x=1 HTTP/1.1\r\n{upgrade}{key}{version}\r\n"), "404", r#"{"error":"not_found"}"#),
        (
            format!("GET /ws HTTP/1.1\r\n{upgrade}{version}\r\n"),
            "400",
            "Missing or invalid Sec-WebSocket-Key header",
        ),
        (
            format!("GET /ws HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Version: 99\r\n\r\n"),
            "400",
            "Missing or invalid Sec-WebSocket-Version header",
        ),
        (format!("POST /ws HTTP/1.1\r\n{upgrade}{key}{version}\r\n"), "405", "Invalid HTTP method"),
        (
            format!("GET /ws HTTP/1.1\r\n{upgrade}{key}{version}{extras}\r\n"),
            "101",
            "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ),
    ];
    for (request, status, part) in cases {
        let mut socket = tokio::net::TcpStream::connect(relay.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let mut filled = 0;
        while !String::from_utf8_lossy(&answer[..filled]).contains(part) {
            let n = socket.read(&mut answer[filled..]).await.unwrap();
            assert_ne!(n, 0, "{request} was answered {}", String::from_utf8_lossy(&answer[..filled]));
            filled += n;
        }
        let answer = String::from_utf8_lossy(&answer[..filled]).to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{request} was answered {answer}");
        assert_eq!(answer.contains("13, 8"), request.contains("99"));
        assert!(!answer.contains("sec-websocket-extensions"), "no compression");
        assert_eq!(answer.contains("sec-websocket-protocol: soap"), status == "101");
    }
}

#[tokio::test]
async fn frames_towards_gateways_stay_small() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    relay.put(&key(1), &vec![9; 1 << 20]).await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    let Arrived { message_bytes_max, .. } = gateway.mail().await;
    assert!(message_bytes_max <= 64 * 1024 + 7 + 255, "{message_bytes_max}");
}

/// Heartbeats that a test can wait for.
fn quick() -> Settings {
    let mut settings = Settings::default();
    settings.session.heartbeat_interval = Duration::from_millis(50);
    settings.session.idle_timeout = Duration::from_millis(400);
    settings
}
