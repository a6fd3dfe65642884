//! PROXY protocol in front of SMTP and HTTP: rules V1 to V5.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use waystation::observe::Metrics;
use waystation::proxy::{Gate, Strangers, WAITING_MAX};

use crate::support::relay::MailRelay;
use crate::support::until;

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n";
/// What a client says, turn by turn.
const MAIL: [&str; 6] = [
    "EHLO client.example\r\n",
    "MAIL FROM:<a@far.example>\r\n",
    "RCPT TO:<home@our.example>\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\nhello\r\n.\r\n",
    "QUIT\r\n",
];

/// A header of version 2 for 203.0.113.7:40000 with that command octet and those TLVs.
fn v2(command: u8, tlvs: &[u8]) -> Vec<u8> {
    let mut octets = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    octets.extend([command, 0x11]);
    octets.extend(u16::try_from(12 + tlvs.len()).expect("short").to_be_bytes());
    octets.extend([203, 0, 113, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 25]);
    octets.extend(tlvs);
    octets
}

/// An intake that takes connections from `trusted` only, behind a header; and its gate's numbers.
async fn behind(trusted: &str) -> (MailRelay, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let trusted = vec![trusted.parse().expect("network")];
    let gate = Gate::new("smtp", trusted, Strangers::Refused, Arc::clone(&metrics));
    (MailRelay::start_with(|plan| plan.intake.gate = Some(gate)).await, metrics)
}

/// Everything that comes back after `octets`, up to the end.
async fn answer(to: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.expect("connects");
    stream.write_all(octets).await.expect("sent");
    let mut heard = Vec::new();
    // A connection closed with unread octets is reset: that is an end as well.
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8(heard).expect("text")
}

/// Says `header`, then one of `turns` after each reply; everything that came back.
async fn talk(to: SocketAddr, header: &[u8], turns: &[&str]) -> String {
    let mut stream = BufStream::new(TcpStream::connect(to).await.expect("connects"));
    stream.write_all(header).await.expect("sent");
    let mut heard = String::new();
    for turn in turns.iter().copied().map(Some).chain([None]) {
        stream.flush().await.expect("sent");
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
                return heard;
            }
            heard.push_str(&line);
            if line.get(3..4) == Some(" ") {
                break;
            }
        }
        if let Some(turn) = turn {
            stream.write_all(turn.as_bytes()).await.expect("sent");
        }
    }
    heard
}

async fn head_of_the_item(relay: &MailRelay) -> String {
    let items = relay.wait_for_items(1).await;
    String::from_utf8(items[0].head.clone()).expect("text")
}

#[tokio::test]
async fn the_client_is_who_the_header_names() {
    // V1
    for header in [V1.to_vec(), v2(0x21, &[]), v2(0x21, &[4, 0, 3, 0, 0, 0, 0x20, 0, 5, 1, 0, 0, 0, 0])] {
        let (relay, _) = behind("127.0.0.0/8").await;
        let heard = talk(relay.address, &header, &MAIL).await;
        assert!(heard.starts_with("220 ") && heard.contains("\r\n250 2.0.0"), "{heard}");
        let head = head_of_the_item(&relay).await;
        assert!(head.contains("[203.0.113.7]") && !head.contains("127.0.0.1"), "{head}");
        relay.stop().await;
    }
    let (relay, _) = behind("127.0.0.0/8").await;
    let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n";
    talk(relay.address, six, &MAIL).await;
    let head = head_of_the_item(&relay).await;
    assert!(head.contains("[IPv6:2001:db8::7]"), "{head}");
    relay.stop().await;
}

#[tokio::test]
async fn a_proxy_that_looks_after_us_is_itself() {
    // V1
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, &[])] {
        let (relay, _) = behind("127.0.0.0/8").await;
        talk(relay.address, &header, &MAIL).await;
        let head = head_of_the_item(&relay).await;
        assert!(head.contains("[127.0.0.1]"), "{head}");
        relay.stop().await;
    }
}

#[tokio::test]
async fn limits_count_the_client_and_not_the_proxy() {
    let gate_metrics = Arc::new(Metrics::new());
    let gate = Gate::new("smtp", vec!["127.0.0.0/8".parse().expect("net")], Strangers::Refused, gate_metrics);
    let relay = MailRelay::start_with(|plan| {
        plan.intake.gate = Some(gate);
        plan.limits.enabled = true;
        plan.limits.connections_per_minute = 2;
    })
    .await;
    let to = relay.address;
    let greet =
        async |header: &str| talk(to, header.as_bytes(), &["QUIT\r\n"]).await.get(..3).map(str::to_owned);
    let one = "PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n";
    let other = "PROXY TCP4 198.51.100.9 198.51.100.1 40000 25\r\n";
    let mut codes = Vec::new();
    for header in [one, one, one, other] {
        codes.push(greet(header).await.unwrap_or_default());
    }
    assert_eq!(codes, ["220", "220", "421", "220"]);
    for _ in 0..5 {
        assert_eq!(
            greet("PROXY UNKNOWN\r\n").await.as_deref(),
            Some("220"),
            "health checks are not kept out"
        );
    }
}

#[tokio::test]
async fn without_a_header_that_counts_there_is_no_session() {
    let (relay, metrics) = behind("127.0.0.0/8").await; // V3, V4
    let mut long = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    long.extend([0x21, 0x11, 0xff, 0xff]);
    long.extend(vec![0; 65_535]);
    for octets in
        [b"EHLO client.example\r\n".as_slice(), b"PROXY TCP4 x y 1 2\r\n", b"GET / HTTP/1.1\r\n\r\n", &long]
    {
        assert_eq!(answer(relay.address, octets).await, "");
    }
    let line = r#"waystation_proxy_refused_total{listener="smtp",reason="invalid"} 4"#;
    until("all are counted", || metrics.text().contains(line)).await;
    assert!(relay.items().await.is_empty());
    relay.stop().await;
}

#[tokio::test]
async fn nobody_else_may_say_who_he_is() {
    let (relay, metrics) = behind("192.0.2.0/24").await; // V2
    for octets in [V1.to_vec(), v2(0x21, &[]), b"EHLO x\r\n".to_vec()] {
        assert_eq!(answer(relay.address, &octets).await, "");
    }
    let line = r#"waystation_proxy_refused_total{listener="smtp",reason="untrusted"} 3"#;
    until("all are counted", || metrics.text().contains(line)).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_header_where_none_belongs_is_a_bad_command() {
    let relay = MailRelay::start().await; // V3
    let mut stream = TcpStream::connect(relay.address).await.expect("connects");
    let mut greeting = [0; 512];
    let read = stream.read(&mut greeting).await.expect("greeting");
    assert!(greeting[..read].starts_with(b"220 "));
    stream.write_all(&[V1, b"QUIT\r\n"].concat()).await.expect("sent");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.expect("heard");
    assert!(heard.starts_with("500 "), "{heard}");
    relay.stop().await;
}

#[tokio::test]
async fn a_second_header_is_a_bad_command() {
    let (relay, _) = behind("127.0.0.0/8").await; // V5
    let spoof = "PROXY TCP4 198.51.100.99 198.51.100.1 40000 25\r\n";
    let turns = [&MAIL[..1], &[spoof], &MAIL[1..]].concat();
    let heard = talk(relay.address, V1, &turns).await;
    assert!(heard.contains("\r\n500 "), "{heard}");
    let head = head_of_the_item(&relay).await;
    assert!(head.contains("[203.0.113.7]") && !head.contains("198.51.100.99"), "{head}");
    relay.stop().await;
}

#[tokio::test]
async fn a_header_that_stalls_ends_and_keeps_nobody_else_out() {
    let (relay, metrics) = behind("127.0.0.0/8").await; // V4
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(relay.address).await.expect("connects");
        stream.write_all(&V1[..20]).await.expect("sent");
        stalled.push(stream);
    }
    assert!(stalled.len() < WAITING_MAX);
    let heard = talk(relay.address, V1, &MAIL).await;
    assert!(heard.contains("\r\n250 2.0.0"), "{heard}");
    for mut stream in stalled {
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert!(heard.is_empty());
    }
    let line = r#"waystation_proxy_refused_total{listener="smtp",reason="timeout"} 20"#;
    until("all are counted", || metrics.text().contains(line)).await;
    relay.stop().await;
}
