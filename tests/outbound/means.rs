//! The means of proof themselves: a sink that lies about what it received, or a name server that answers something
//! else than it was told, would prove nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::support::dns::{Dns, Trouble};
use crate::support::post;
use crate::support::programs::opensmtpd::{self, OpenSmtpd};
use crate::support::programs::postfix::{self, Postfix};
use crate::support::sink::{Act, Authority, BlackHole, Identity, Script, Sink, Step};
use crate::support::until;

/// Writes each text after something was answered to the one before; returns everything that was heard.
async fn talk(address: SocketAddr, says: &[&str]) -> String {
    let stream = TcpStream::connect(address).await.expect("connected");
    talk_over(stream, says).await
}

async fn talk_over(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    says: &[&str],
) -> String {
    let mut heard = Vec::new();
    let mut space = [0; 4096];
    for say in says {
        let n = stream.read(&mut space).await.unwrap_or_default();
        heard.extend_from_slice(&space[..n]);
        if stream.write_all(say.as_bytes()).await.is_err() {
            break;
        }
    }
    while let Ok(Ok(n @ 1..)) =
        tokio::time::timeout(Duration::from_millis(300), stream.read(&mut space)).await
    {
        heard.extend_from_slice(&space[..n]);
    }
    String::from_utf8(heard).expect("text")
}

const ENVELOPE: [&str; 3] =
    ["EHLO c.example\r\n", "MAIL FROM:<a@c.example> SIZE=9\r\n", "RCPT TO:<b@d.example>\r\n"];
const MESSAGE: &str = "X-Test-Id: t1\r\n\r\n..dot\r\nbare\n.\nend\r\n.\r\n";

fn with_message(last: &'static str) -> Vec<&'static str> {
    [&ENVELOPE[..], &["DATA\r\n", MESSAGE, last]].concat()
}

#[tokio::test]
async fn a_sink_records_what_it_received_and_whether_it_took_it() {
    let sink = Sink::start_on(&["127.0.0.1", "127.0.0.2"]).await;
    let heard = talk(sink.address(), &with_message("QUIT\r\n")).await;
    assert!(heard.ends_with("250 2.0.0 ok: kept\r\n221 2.0.0 bye\r\n"), "{heard}");
    let received = &sink.received()[0];
    assert_eq!(received.bytes, b"X-Test-Id: t1\r\n\r\n.dot\r\nbare\n.\nend\r\n");
    assert_eq!((&*received.mail_from, &*received.mail_parameters[0]), ("<a@c.example>", "SIZE=9"));
    assert_eq!(sink.copies("t1", "b@d.example"), 1);
    assert_eq!(sink.copies("t1", "other@d.example"), 0);

    // A refusal is no copy, silence is one.
    sink.play_in_turn(vec![
        Script::usual().on(Step::Dot, Act::say("550 5.7.1 no")),
        Script::usual().on(Step::Dot, Act::reset()),
        Script::usual().on(Step::Dot, Act::Last(b"25".to_vec())),
        Script::usual().on(Step::Body, Act::After(20, Box::new(Act::reset()))),
        Script::usual().on(Step::Body, Act::After(20, Box::new(Act::say("451 4.3.0 full")))),
        Script::usual().on_rcpt("b@d.example", Act::say("450 4.2.1 later")),
    ]);
    let other = SocketAddr::new([127, 0, 0, 2].into(), sink.port());
    for (copies, ends) in [(1, "550 5.7.1 no\r\n"), (2, "354 go on\r\n"), (3, "25"), (3, "354 go on\r\n")] {
        let heard = talk(other, &with_message("")).await;
        assert!(heard.ends_with(ends), "{heard}");
        assert_eq!(sink.copies("t1", "b@d.example"), copies, "{ends}");
    }
    let heard = talk(other, &with_message("")).await;
    assert!(heard.contains("354 go on\r\n451 4.3.0 full\r\n"), "{heard}");
    let heard = talk(other, &with_message("")).await;
    assert!(heard.contains("450 4.2.1 later\r\n503 5.5.1 no recipients\r\n"), "{heard}");
    assert_eq!(sink.copies("t1", "b@d.example"), 3);
    assert_eq!(sink.connections(), 7);
    until("all connections are over", || sink.open() == 0).await;
}

#[tokio::test]
async fn a_sink_takes_chunks() {
    let sink = Sink::start().await;
    sink.play(Script::offering(&["CHUNKING"]));
    let says = [&ENVELOPE[..], &["BDAT 18\r\nX-Test-Id: t2\r\n\r\n.", "BDAT 4 LAST\r\n.\r\n.", ""]].concat();
    let heard = talk(sink.address(), &says).await;
    assert!(heard.ends_with("250 2.0.0 chunk\r\n250 2.0.0 ok: kept\r\n"), "{heard}");
    let received = &sink.received()[0];
    assert!(received.chunked && received.bytes == b"X-Test-Id: t2\r\n\r\n..\r\n.", "{received:?}");
}

#[tokio::test]
async fn a_sink_speaks_tls() {
    let authority = Authority::new();
    let sink = Sink::start().await;
    sink.play(Script::usual().tls(&authority.issue(&["mx.d.example"])).offering_in_tls(&["SIZE 7"]));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for (script, name, is_good) in [
        (None, "mx.d.example", true),
        (None, "other.example", false),
        (Some(Script::usual().tls(&Identity::self_signed(&["mx.d.example"]))), "mx.d.example", false),
        (Some(Script::usual().tls(&authority.issue_expired(&["mx.d.example"]))), "mx.d.example", false),
    ] {
        if let Some(script) = script {
            sink.play(script);
        }
        let mut stream = TcpStream::connect(sink.address()).await.expect("connected");
        let mut space = [0; 1024];
        for say in ["EHLO c.example\r\n", "STARTTLS\r\n"] {
            let _ = stream.read(&mut space).await.expect("reply");
            stream.write_all(say.as_bytes()).await.expect("written");
        }
        let n = stream.read(&mut space).await.expect("reply");
        assert!(space[..n].starts_with(b"220"), "{:?}", &space[..n]);
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let done = connector.connect(name, stream).await;
        assert_eq!(done.is_ok(), is_good);
        if let Ok(mut stream) = done {
            stream.write_all(b"EHLO c.example\r\n").await.expect("written");
            let heard = talk_over(stream, &with_message("")[1..]).await;
            assert!(heard.starts_with("250-sink.example\r\n250 SIZE 7\r\n"), "{heard}");
        }
    }
    let tls = sink.received()[0].tls.clone().expect("TLS");
    assert_eq!((&*tls.version, tls.sni.as_deref(), tls.alpn), ("TLSv1_3", Some("mx.d.example"), false));
}

#[tokio::test]
async fn a_black_hole_never_answers() {
    let hole = BlackHole::start("127.0.0.1:0").await;
    let tried = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(hole.address())).await;
    assert!(tried.is_err());
}

async fn ask(dns: &Dns, at: &str, kind: RecordType) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let mut question = Message::query();
    question.metadata.id = 7;
    question.add_query(Query::query(Name::from_ascii(at).expect("a name"), kind));
    socket.send_to(&question.to_vec().expect("encodes"), dns.address()).await.expect("sent");
    let mut space = [0; 4096];
    let n =
        tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut space)).await.ok()?.expect("read");
    Some(Message::from_vec(&space[..n]).expect("a message"))
}

#[tokio::test]
async fn a_name_server_says_what_it_was_told() {
    let dns = Dns::start().await;
    dns.mail_domain("d.example", "127.0.0.2");
    dns.cname("www.d.example", "mx.d.example");
    let mx = ask(&dns, "D.example.", RecordType::MX).await.expect("answer");
    assert_eq!(mx.answers.len(), 1);
    let alias = ask(&dns, "www.d.example.", RecordType::A).await.expect("answer");
    assert_eq!(alias.answers.len(), 2);
    for (at, kind, code) in [
        ("d.example.", RecordType::A, ResponseCode::NoError),
        ("mx.d.example.", RecordType::AAAA, ResponseCode::NoError),
        ("nothing.example.", RecordType::MX, ResponseCode::NXDomain),
    ] {
        let reply = ask(&dns, at, kind).await.expect("answer");
        assert!(reply.answers.is_empty() && reply.metadata.response_code == code, "{at} {kind}");
    }
    dns.trouble("d.example", Some(RecordType::MX), Some(Trouble::ServFail));
    let broken = ask(&dns, "d.example.", RecordType::MX).await.expect("answer");
    assert_eq!(broken.metadata.response_code, ResponseCode::ServFail);
    dns.trouble("d.example", Some(RecordType::MX), Some(Trouble::Timeout));
    assert!(ask(&dns, "d.example.", RecordType::MX).await.is_none());
    dns.trouble("d.example", Some(RecordType::MX), Some(Trouble::Truncated));
    assert!(ask(&dns, "d.example.", RecordType::MX).await.expect("answer").metadata.truncation);
    dns.trouble("d.example", Some(RecordType::MX), None);
    dns.mx("d.example", &[(0, ".")]);
    assert_eq!(ask(&dns, "d.example.", RecordType::MX).await.expect("answer").answers.len(), 1);
    assert_eq!(dns.queries("d.example", RecordType::MX), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_receivers_take_mail() {
    let message = b"Subject: probe\r\n\r\n..\r\n.\r\nend\r\n";
    let stored = b"\n\n..\n.\nend\n";
    let sink = Sink::start().await;
    let at = SocketAddr::new([127, 0, 0, 9].into(), sink.port());
    let send = |to: String| {
        tokio::task::spawn_blocking(move || post::send(at, &to, message)).map(|sent| sent.expect("sent"))
    };
    let key = rcgen::KeyPair::generate().expect("key");
    let certificate = rcgen::CertificateParams::new(vec!["mx.postfix.test".to_owned()]).expect("parameters");
    let tls = key.serialize_pem() + &certificate.self_signed(&key).expect("certificate").pem();
    if let Some(receiver) = Postfix::receiving_at(at, &tls).await {
        send(format!("u@{}", postfix::DOMAIN)).await.expect("taken");
        assert!(send(format!("bad@{}", postfix::DOMAIN)).await.expect_err("refused").starts_with("550"));
        assert!(send(format!("later@{}", postfix::DOMAIN)).await.expect_err("refused").starts_with("450"));
        until("postfix has delivered it", || !receiver.delivered().is_empty()).await;
        let file = String::from_utf8(receiver.delivered().remove(0)).expect("text");
        assert!(file.as_bytes().ends_with(stored), "{file:?}");
        receiver.stop().await;
    }
    if let Some(receiver) = OpenSmtpd::receiving_at(at).await {
        send(format!("u@{}", opensmtpd::DOMAIN)).await.expect("taken");
        until("opensmtpd has delivered it", || !receiver.delivered().is_empty()).await;
        let file = String::from_utf8(receiver.delivered().remove(0)).expect("text");
        assert!(file.as_bytes().ends_with(stored), "{file:?}");
    }
}
