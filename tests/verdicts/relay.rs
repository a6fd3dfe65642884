//! A relay that checks its senders: what it stores, what it says, and what it does not send.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use spool::ids::WallMs;
use waystation::mail::envelope::Meta;
use waystation::mail::verdict::Word;
use waystation::mail::verdict::evaluate::Settings;

use super::world::{OURS, PATIENCE, resolver};
use crate::support::dns::Dns;
use crate::support::relay::MailRelay;

/// Sends one message with this reverse-path and gives the last reply; the body goes out in pieces.
async fn send(relay: SocketAddr, from: &str, message: &str, piece: usize) -> String {
    let (from, message) = (from.to_owned(), message.to_owned());
    let sent = tokio::task::spawn_blocking(move || {
        let mut socket = BufReader::new(TcpStream::connect(relay).expect("listens"));
        socket.get_ref().set_nodelay(true).expect("nodelay");
        let mut last = String::new();
        let mut say = |command: &str, pieces: usize| {
            for bytes in command.as_bytes().chunks(pieces.max(1)) {
                socket.get_mut().write_all(bytes).expect("sent");
            }
            loop {
                last.clear();
                socket.read_line(&mut last).expect("reply");
                if last.as_bytes().get(3) != Some(&b'-') {
                    return last.trim_end().to_owned();
                }
            }
        };
        say("", 1);
        say("EHLO h.test\r\n", 100);
        say(&format!("MAIL FROM:<{from}>\r\n"), 100);
        say("RCPT TO:<home@our.example>\r\n", 100);
        say("DATA\r\n", 100);
        say(&format!("{message}.\r\n"), piece)
    });
    sent.await.expect("sent")
}

async fn relay(dns: &Dns, refuse: bool) -> MailRelay {
    let settings = Settings { hostname: OURS.to_owned(), timeout: PATIENCE, refuse_dmarc_reject: refuse };
    let resolver = resolver(dns, Duration::from_secs(5)).plain().clone();
    MailRelay::start_with(|plan| plan.verify = Some((settings, resolver))).await
}

const FORGED: &str = "Authentication-Results: MX.our.example. 1;\r\n\tdmarc=pass header.from=bank.test\r\n\
                      Waystation-Attestation: forged\r\n";
const KEPT: &str = "Authentication-Results: mx.other.example; dmarc=pass\r\nFrom: <x@a.test>\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_out_stands_on_top_and_beside_the_message() {
    let dns = Dns::start().await;
    dns.txt("a.test", &["v=spf1 ip4:127.0.0.1 -all"]);
    dns.txt("_dmarc.a.test", &["v=DMARC1; p=reject"]);
    let relay = relay(&dns, true).await;
    for piece in [1, 13, 4096] {
        let message = format!("{FORGED}{KEPT}{}\r\nbody {piece}\r\n", FORGED.repeat(10));
        let said = send(relay.address, "x@a.test", &message, piece).await;
        assert!(said.starts_with("250"), "{said}");
    }
    for (item, piece) in relay.items().await.iter().zip([1, 13, 4096]) {
        let head = String::from_utf8(item.head.clone()).expect("text");
        let expected = "Authentication-Results: mx.our.example;\r\n\tspf=pass smtp.mailfrom=a.test;\r\n\tdkim=none;\r\n\
                        \tdmarc=pass (p=reject) header.from=a.test;\r\n\tarc=none\r\nReceived: from h.test";
        assert!(head.starts_with(expected), "{head}"); // M1, M2
        let body = String::from_utf8(relay.body(item).await).expect("text");
        assert_eq!(body, format!("{KEPT}\r\nbody {piece}\r\n"));
        let verdicts = Meta::decode(&item.meta).expect("meta").verdicts;
        let words = (verdicts.spf.word, verdicts.dmarc.word, verdicts.dmarc.domain.as_str());
        assert_eq!(words, (Word::Pass, Word::Pass, "a.test"));
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_rejection_is_obeyed_only_when_the_operator_says_so() {
    let dns = Dns::start().await;
    dns.txt("_dmarc.a.test", &["v=DMARC1; p=reject"]);
    dns.txt("_dmarc.q.test", &["v=DMARC1; p=quarantine"]);
    let (strict, lenient) = (relay(&dns, true).await, relay(&dns, false).await);
    let message = |domain: &str| format!("From: <x@{domain}>\r\n\r\nbody\r\n");
    let said = send(strict.address, "x@b.test", &message("a.test"), 100).await;
    assert!(said.starts_with("550 5.7.26 "), "{said}"); // M12
    assert!(strict.items().await.is_empty());
    assert!(send(strict.address, "x@b.test", &message("q.test"), 100).await.starts_with("250"));
    assert!(send(lenient.address, "x@b.test", &message("a.test"), 100).await.starts_with("250"));
    let verdicts = Meta::decode(&lenient.items().await[0].meta).expect("meta").verdicts;
    assert_eq!((verdicts.dmarc.word, verdicts.dmarc.policy.as_str()), (Word::Fail, "reject"));
    strict.stop().await;
    lenient.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_checks_nothing_is_written_and_forged_results_go_all_the_same() {
    let relay = MailRelay::start().await;
    let said = send(relay.address, "x@a.test", &format!("{FORGED}{KEPT}\r\nbody\r\n"), 100).await;
    assert!(said.starts_with("250"), "{said}");
    let item = relay.items().await.remove(0);
    assert!(item.head.starts_with(b"Received: "));
    assert_eq!(relay.body(&item).await, format!("{KEPT}\r\nbody\r\n").into_bytes());
    assert_eq!(Meta::decode(&item.meta).expect("meta").verdicts.spf.word, Word::None);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_mail_that_expires_sends_nothing_to_whoever_was_forged() {
    let dns = Dns::start().await;
    dns.txt("_dmarc.a.test", &["v=DMARC1; p=reject"]);
    let relay = relay(&dns, false).await;
    for from in ["victim@a.test", "x@b.test", ""] {
        let said = send(relay.address, from, "From: <victim@a.test>\r\n\r\nbody\r\n", 100).await;
        assert!(said.starts_with("250"), "{said}");
    }
    let later = WallMs(waystation::clock::wall().0 + 60 * 86_400_000);
    let expired =
        relay.spooler.call(move |spool| spool.maintain(later)).await.expect("spool").expect("maintained");
    assert_eq!(expired.expired.len(), 3);
    // Mail out leaves as submissions only; there is none, and nobody made a new item either (K6).
    let items = relay.items().await;
    assert!(items.iter().all(|item| item.outbound.is_none()), "{items:?}");
    assert_eq!(items.len(), 3);
    relay.stop().await;
}
