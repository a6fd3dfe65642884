//! The driver against real sockets: scripted servers, real TLS with certificates good and bad, and silence.

use core::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::LazyConfigAcceptor;

use super::super::values::TlsaRecord;
use super::*;

const HOST: &str = "mx.example.org";
const GREETING: &str = "220 mx\r\n";
const EHLO: &str = "250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000\r\n";
const EHLO_TLS: &str = "250-mx\r\n250-SIZE 7\r\n250 STARTTLS\r\n";

/// What a scripted server does, in order.
#[derive(Clone)]
enum Act {
    Say(&'static str),
    /// Reads until what came since the last `Read` ends in this.
    Read(&'static str),
    Handshake(Arc<ServerConfig>),
    /// Writes this where a handshake belongs.
    Garbage,
    /// Writes one octet every 20 ms for ever.
    Trickle,
    /// Keeps the connection open and does nothing.
    Sleep,
    /// Drops the connection with unread octets: RST.
    Close,
}
use Act::{Close, Garbage, Handshake, Read, Say, Sleep, Trickle};

/// What a server saw.
#[derive(Debug, Default)]
struct Seen {
    wire: Vec<u8>,
    sni: Option<String>,
    alpn: bool,
}

struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

/// Serves one connection per script, in order.
async fn server(scripts: &[&[Act]]) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let scripts: Vec<Vec<Act>> = scripts.iter().map(|script| script.to_vec()).collect();
    let task = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            for script in scripts {
                let (tcp, _) = listener.accept().await.unwrap();
                let mut one = Seen::default();
                play(tcp, &script, &mut one).await;
                seen.lock().unwrap().push(one);
            }
        }
    });
    Server { address, seen, task }
}

async fn play(tcp: TcpStream, script: &[Act], seen: &mut Seen) {
    let mut stream: Option<Box<dyn Stream>> = None;
    let mut plain = Some(tcp);
    for act in script {
        if let Handshake(config) = act {
            let tcp = plain.take().unwrap();
            let Ok(start) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await else {
                return;
            };
            let hello = start.client_hello();
            seen.sni = hello.server_name().map(str::to_owned);
            seen.alpn = hello.alpn().is_some();
            let Ok(tls) = start.into_stream(Arc::clone(config)).await else { return };
            stream = Some(Box::new(tls));
            continue;
        }
        let line: &mut dyn Stream = match (&mut stream, &mut plain) {
            (Some(tls), _) => tls,
            (None, Some(tcp)) => tcp,
            (None, None) => return,
        };
        match act {
            Say(text) => line.write_all(text.as_bytes()).await.unwrap_or_default(),
            Read(end) => {
                let from = seen.wire.len();
                while !seen.wire[from..].ends_with(end.as_bytes()) {
                    let mut octet = [0];
                    match line.read(&mut octet).await {
                        Ok(1) => seen.wire.push(octet[0]),
                        Ok(_) | Err(_) => return,
                    }
                }
            }
            Garbage => {
                line.write_all(b"this is no TLS record, and it is long enough\r\n").await.unwrap_or_default()
            }
            Trickle => {
                while line.write_all(b"2").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Sleep => tokio::time::sleep(Duration::from_secs(60)).await,
            Close => return,
            Handshake(_) => {}
        }
    }
}

/// A certificate authority and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    spki: Vec<u8>,
}

struct Leaf {
    config: Arc<ServerConfig>,
    der: CertificateDer<'static>,
    spki: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of the tests");
        let der = params.self_signed(&key).unwrap().der().clone();
        let spki = key.subject_public_key_info();
        Self { issuer: Issuer::new(params, key), der, spki }
    }

    /// Signs for `name`; `until` is the last year.
    fn leaf(&self, name: &str, until: i32) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let params = params(name, until);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        leaf(vec![der, self.der.clone()], &key)
    }

    fn trust(&self) -> Trust {
        Trust::with_extra(core::slice::from_ref(&self.der))
    }
}

fn params(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

fn self_signed(name: &str, until: i32) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let der = params(name, until).self_signed(&key).unwrap().der().clone();
    leaf(vec![der], &key)
}

fn leaf(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Leaf {
    let der = chain[0].clone();
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    Leaf { config: Arc::new(config), der, spki: key.subject_public_key_info() }
}

fn dialing(factor: f64) -> Dialing {
    Dialing { helo: "us.example".into(), timeouts: Timeouts::scaled(factor), ..Dialing::default() }
}

fn endpoint(server: &Server, tls: TlsDemand) -> Endpoint {
    Endpoint { host: HOST.into(), address: server.address, tls }
}

const CLEAR: TlsDemand = TlsDemand::Opportunistic { cleartext: true };

/// Pieces of a message.
struct Pieces(Vec<&'static [u8]>);

impl MessageSource for Pieces {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        let piece = if self.0.is_empty() { None } else { Some(Bytes::from_static(self.0.remove(0))) };
        Box::pin(async move { Ok(piece) })
    }
}

/// Remembers that it was asked, and what it says.
struct Permit {
    asked: Option<Vec<bool>>,
    refuses: bool,
}

impl Arm for Permit {
    fn arm<'a>(&'a mut self, accepted: &'a [bool]) -> BoxFuture<'a, Result<(), ArmRefused>> {
        self.asked = Some(accepted.to_vec());
        let refused = self.refuses.then(|| ArmRefused("cancelled".into()));
        Box::pin(async move { refused.map_or(Ok(()), Err) })
    }
}

fn letter(to: &[&str]) -> Envelope {
    let rcpt_to = to.iter().map(|text| (*text).to_owned()).collect();
    Envelope { mail_from: "a@b.example".into(), rcpt_to, size_bytes: 20, ..Envelope::default() }
}

async fn send(connection: &mut Connection) -> (Outcome, Permit) {
    let mut permit = Permit { asked: None, refuses: false };
    let mut message = Pieces(vec![b"Subject: x\r\n\r", b"\n.dot\r\n"]);
    let mut outcomes = connection.send(&letter(&["u@x.example"]), &mut message, &mut permit).await;
    assert_eq!(outcomes.len(), 1);
    (outcomes.remove(0), permit)
}

const ALL_OK: &str = "250 ok\r\n250 ok\r\n354 go\r\n";

#[tokio::test]
async fn two_messages_go_over_one_connection() {
    let script = &[
        Say(GREETING),
        Read("EHLO us.example\r\n"),
        Say(EHLO),
        Read("DATA\r\n"),
        Say(ALL_OK),
        Read("\r\n.\r\n"),
        Say("250 first\r\n"),
        Read("DATA\r\n"),
        Say("250 reset\r\n"),
        Say(ALL_OK),
        Read("\r\n.\r\n"),
        Say("250 second\r\n"),
        Read("QUIT\r\n"),
        Say("221 bye\r\n"),
        Close,
    ];
    let server = server(&[script]).await;
    let mut connection = Connection::open(&endpoint(&server, CLEAR), &dialing(0.05)).await.unwrap();
    assert_eq!((connection.tls().level, connection.tls().text.as_str()), (TlsLevel::None, "none"));
    for words in ["first", "second"] {
        assert!(connection.is_reusable());
        let (outcome, permit) = send(&mut connection).await;
        let Outcome::Delivered(acceptance) = outcome else { panic!("{outcome:?}") };
        assert_eq!((acceptance.text.as_str(), acceptance.tls.as_str()), (words, "none"));
        assert_eq!(permit.asked, Some(vec![true]));
    }
    connection.quit().await;
    let mut seen = Vec::new();
    while seen.is_empty() {
        tokio::task::yield_now().await;
        seen = core::mem::take(&mut *server.seen.lock().unwrap());
    }
    let wire = String::from_utf8(seen.remove(0).wire).unwrap();
    let message = "Subject: x\r\n\r\n..dot\r\n.\r\n";
    let group = "MAIL FROM:<a@b.example> SIZE=20\r\nRCPT TO:<u@x.example>\r\nDATA\r\n";
    assert_eq!(wire, format!("EHLO us.example\r\n{group}{message}RSET\r\n{group}{message}QUIT\r\n"));
}

#[tokio::test]
async fn the_end_of_the_connection_after_the_dot_is_indeterminate_and_before_it_safe() {
    let begin = [Say(GREETING), Read("\r\n"), Say(EHLO), Read("DATA\r\n")];
    for (rest, want) in [
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Close][..], "I Lost"), // Q5
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Say("250-que"), Close], "I Lost"), // Q7
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Sleep], "I TimedOut"), // Q6
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Trickle], "I TimedOut"), // Q6
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Say("451 no\r\n"), Close], "T Refused"), // Q10
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Say("554 no\r\n"), Close], "F Refused"), // Q11
        (&[Say(ALL_OK), Read("\r\n.\r\n"), Say("250 ok\r\n"), Close], "D"), // Q8
        (&[Close], "T Lost"),                                     // Q1
        (&[Say("250 ok\r\n"), Sleep], "T TimedOut"),              // R3
        (&[Say("250 ok\r\n"), Trickle], "T TimedOut"),            // P17
        (&[Say("250 ok\r\n550 5.1.1 no\r\n554 no\r\n"), Sleep], "F Refused"), // P8
    ] {
        let server = server(&[&[&begin[..], rest].concat()]).await;
        let factor = if want.ends_with("TimedOut") { 0.002 } else { 0.05 };
        let mut connection = Connection::open(&endpoint(&server, CLEAR), &dialing(factor)).await.unwrap();
        let (outcome, permit) = send(&mut connection).await;
        let kind = outcome.failure().map(|failure| format!(" {:?}", failure.kind)).unwrap_or_default();
        let letter = match outcome {
            Outcome::Delivered(_) => "D",
            Outcome::Temporary(_) => "T",
            Outcome::Failed(_) => "F",
            Outcome::Indeterminate(_) => "I",
        };
        assert_eq!(format!("{letter}{kind}"), want);
        assert_eq!(permit.asked.is_some(), rest.len() > 2 || matches!(rest, [Say(ALL_OK), ..]), "{want}");
    }
}

#[tokio::test]
async fn a_server_that_reads_slowly_is_given_up_before_the_dot() {
    let script = &[Say(GREETING), Read("\r\n"), Say(EHLO), Read("DATA\r\n"), Say(ALL_OK), Sleep];
    let server = server(&[script]).await;
    let mut connection = Connection::open(&endpoint(&server, CLEAR), &dialing(0.001)).await.unwrap();
    let mut permit = Permit { asked: None, refuses: false };
    let mut message = Pieces(vec![megabyte(); 32]); // more than all socket buffers
    let outcomes = connection.send(&letter(&["u@x.example"]), &mut message, &mut permit).await;
    let failure = outcomes[0].failure().unwrap();
    assert_eq!((failure.stage, failure.kind), (Stage::Body, FailureKind::TimedOut)); // R5
    assert!(permit.asked.is_none() && matches!(outcomes[0], Outcome::Temporary(_)));
}

/// A megabyte of lines.
fn megabyte() -> &'static [u8] {
    let line = [&[b'x'; 62][..], b"\r\n"].concat();
    line.repeat(1 << 14).leak()
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_message_is_heard() {
    let script = &[
        Say(GREETING),
        Read("\r\n"),
        Say(EHLO),
        Read("DATA\r\n"),
        Say(ALL_OK),
        Read("x\r\n"),
        Say("452 4.3.1 full\r\n"),
        Close, // P10; with octets unread, so that a reset follows
    ];
    let server = server(&[script]).await;
    let mut connection = Connection::open(&endpoint(&server, CLEAR), &dialing(0.05)).await.unwrap();
    let mut permit = Permit { asked: None, refuses: false };
    let mut message = Pieces(vec![megabyte(); 16]);
    let outcomes = connection.send(&letter(&["u@x.example"]), &mut message, &mut permit).await;
    let failure = outcomes[0].failure().unwrap();
    assert!(matches!(outcomes[0], Outcome::Temporary(_)) && permit.asked.is_none());
    assert!(failure.code == Some(452) || failure.kind == FailureKind::Lost, "{failure:?}");
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn without_permission_the_dot_never_reaches_the_server() {
    let script = &[Say(GREETING), Read("\r\n"), Say(EHLO), Read("DATA\r\n"), Say(ALL_OK), Read("\r\n.\r\n")];
    let server = server(&[script]).await;
    let mut connection = Connection::open(&endpoint(&server, CLEAR), &dialing(0.05)).await.unwrap();
    let mut permit = Permit { asked: None, refuses: true };
    let mut message = Pieces(vec![b"x\r\n"]);
    let outcomes = connection.send(&letter(&["u@x.example"]), &mut message, &mut permit).await;
    assert!(matches!(&outcomes[0], Outcome::Temporary(failure) if failure.kind == FailureKind::Local)); // Q15
    drop(connection);
    while server.seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(server.seen.lock().unwrap()[0].wire.ends_with(b"DATA\r\nx\r\n"));
}

#[tokio::test]
async fn a_connection_that_went_away_while_it_waited_is_stale() {
    let goodbye = "421 4.4.2 idle\r\n";
    let script = &[
        Say(GREETING),
        Read("\r\n"),
        Say(EHLO),
        Read("DATA\r\n"),
        Say(ALL_OK),
        Read("\r\n.\r\n"),
        Say("250 ok\r\n"),
        Say(goodbye),
        Close,
    ];
    let server = server(&[script]).await;
    let mut connection = Connection::open(&endpoint(&server, CLEAR), &dialing(0.05)).await.unwrap();
    assert!(matches!(send(&mut connection).await.0, Outcome::Delivered(_)));
    while server.seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let (outcome, permit) = send(&mut connection).await;
    assert_eq!(outcome.failure().unwrap().kind, FailureKind::Stale); // P11
    assert!(permit.asked.is_none());
}

#[tokio::test]
async fn no_server_no_greeting_no_hello() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let nowhere = Endpoint { host: HOST.into(), address: nobody, tls: CLEAR };
    let failure = Connection::open(&nowhere, &dialing(0.05)).await.unwrap_err();
    assert_eq!((failure.stage, failure.kind), (Stage::Connect, FailureKind::Connect));
    for (script, stage, code) in [
        (&[Sleep][..], Stage::Greeting, None),
        (&[Trickle], Stage::Greeting, None), // P17
        (&[Say("554 no\r\n")], Stage::Greeting, Some(554)),
        (&[Say(GREETING), Read("\r\n"), Say("421 no\r\n")], Stage::Ehlo, Some(421)),
        (&[Say(GREETING), Read("\r\n"), Sleep], Stage::Ehlo, None),
    ] {
        let server = server(&[script]).await;
        let failure = Connection::open(&endpoint(&server, CLEAR), &dialing(0.001)).await.unwrap_err();
        assert_eq!((failure.stage, failure.code), (stage, code), "{failure:?}");
    }
}

/// Opens a connection to a server with this certificate; gives its level, or the kind of failure.
async fn open_tls(
    config: &Arc<ServerConfig>,
    tls: TlsDemand,
    trust: &Trust,
) -> Result<TlsFacts, FailureKind> {
    let script = &[
        Say(GREETING),
        Read("\r\n"),
        Say(EHLO_TLS),
        Read("STARTTLS\r\n"),
        Say("220 go\r\n"),
        Handshake(config.clone()),
        Read("EHLO us.example\r\n"),
        Say(EHLO),
        Sleep,
    ];
    let server = server(&[script]).await;
    let dialing = Dialing { trust: trust.clone(), ..dialing(0.05) };
    let connection =
        Connection::open(&endpoint(&server, tls), &dialing).await.map_err(|failure| failure.kind)?;
    assert!(connection.offers().pipelining && connection.offers().size_bytes_max == Some(100_000)); // P14
    Ok(connection.tls().clone())
}

#[tokio::test]
async fn any_certificate_will_do_when_nothing_is_demanded() {
    let authority = Authority::new();
    let public = Trust::default();
    for (config, trust, level) in [
        (self_signed(HOST, 2099).config, &public, TlsLevel::Unverified), // S1
        (self_signed(HOST, 2020).config, &public, TlsLevel::Unverified),
        (authority.leaf("other.example", 2099).config, &authority.trust(), TlsLevel::Unverified),
        (authority.leaf(HOST, 2020).config, &authority.trust(), TlsLevel::Unverified),
        (authority.leaf(HOST, 2099).config, &public, TlsLevel::Unverified),
        (authority.leaf(HOST, 2099).config, &authority.trust(), TlsLevel::WebPki),
    ] {
        for demand in [CLEAR, TlsDemand::Opportunistic { cleartext: false }, TlsDemand::Encrypted] {
            let facts = open_tls(&config, demand, trust).await.unwrap();
            assert_eq!(facts.level, level, "{}", facts.problem);
            let word = if level == TlsLevel::WebPki { "web_pki" } else { "unverified" };
            assert_eq!(facts.text, format!("{word} TLSv1.3"));
            assert_eq!(facts.problem.is_empty(), level == TlsLevel::WebPki);
        }
    }
}

#[tokio::test]
async fn a_demand_for_public_proof_is_kept() {
    let authority = Authority::new();
    let trust = authority.trust();
    let demand = |name: &str| TlsDemand::WebPki { names: vec![name.to_owned()] };
    let good = authority.leaf(HOST, 2099).config;
    assert_eq!(open_tls(&good, demand(HOST), &trust).await.unwrap().level, TlsLevel::WebPki);
    let other = authority.leaf("*.example.org", 2099).config;
    assert_eq!(open_tls(&other, demand(HOST), &trust).await.unwrap().level, TlsLevel::WebPki);
    for (config, trust) in [
        (self_signed(HOST, 2099).config, &trust),
        (authority.leaf("other.example", 2099).config, &trust),
        (authority.leaf(HOST, 2020).config, &trust),
        (good, &Trust::default()),
    ] {
        assert_eq!(open_tls(&config, demand(HOST), trust).await, Err(FailureKind::TlsUnmet)); // S3
    }
}

#[tokio::test]
async fn records_of_dane_decide_by_their_own_rules() {
    let authority = Authority::new();
    let public = Trust::default();
    let record = |usage, selector, matching, data: &[u8]| TlsaRecord {
        usage,
        selector,
        matching,
        data: match matching {
            0 => data.to_vec(),
            1 => Sha256::digest(data).to_vec(),
            _ => Sha512::digest(data).to_vec(),
        },
    };
    let demand =
        |records: &[TlsaRecord]| TlsDemand::Dane { records: records.to_vec(), names: vec![HOST.into()] };
    let wrong_and_old = self_signed("other.example", 2020);
    for matching in 0..=2 {
        for (selector, data) in [(0, wrong_and_old.der.to_vec()), (1, wrong_and_old.spki.clone())] {
            let records = [record(3, 1, 1, b"old key"), record(3, selector, matching, &data)]; // a rollover
            let facts = open_tls(&wrong_and_old.config, demand(&records), &public).await.unwrap();
            assert_eq!((facts.level, facts.text.as_str()), (TlsLevel::Dane, "dane TLSv1.3")); // S6: 3 1 1
        }
        for (selector, data) in [(0, authority.der.to_vec()), (1, authority.spki.clone())] {
            let records = [record(2, selector, matching, &data)];
            let good = authority.leaf(HOST, 2099).config;
            assert_eq!(open_tls(&good, demand(&records), &public).await.unwrap().level, TlsLevel::Dane); // S6: 2 1 1
            for bad in [
                authority.leaf("other.example", 2099).config,
                authority.leaf(HOST, 2020).config,
                Authority::new().leaf(HOST, 2099).config,
            ] {
                assert_eq!(open_tls(&bad, demand(&records), &public).await, Err(FailureKind::TlsUnmet));
            }
        }
    }
    for bad in [
        record(3, 1, 1, b"another key"),
        record(3, 0, 1, &wrong_and_old.spki),
        record(1, 1, 1, &wrong_and_old.spki),
        record(3, 1, 7, &wrong_and_old.spki),
        record(3, 2, 0, &wrong_and_old.spki),
    ] {
        let got = open_tls(&wrong_and_old.config, demand(&[bad]), &public).await;
        assert_eq!(got, Err(FailureKind::TlsUnmet));
    }
}

#[tokio::test]
async fn the_handshake_names_the_host_and_no_protocol() {
    let leaf = self_signed(HOST, 2099);
    let script = &[
        Say(GREETING),
        Read("\r\n"),
        Say(EHLO_TLS),
        Read("STARTTLS\r\n"),
        Say("220 go\r\n"),
        Handshake(leaf.config.clone()),
        Read("\r\n"),
        Say(EHLO),
        Read("QUIT\r\n"),
        Close,
    ];
    let server = server(&[script]).await;
    Connection::open(&endpoint(&server, CLEAR), &dialing(0.05)).await.unwrap().quit().await;
    while server.seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let seen = server.seen.lock().unwrap();
    assert_eq!((seen[0].sni.as_deref(), seen[0].alpn), (Some(HOST), false)); // S10
    assert_eq!(seen[0].wire, b"EHLO us.example\r\nSTARTTLS\r\nEHLO us.example\r\nQUIT\r\n");
}

#[tokio::test]
async fn what_is_injected_before_tls_is_not_believed() {
    let leaf = self_signed(HOST, 2099);
    let injected = "220 go\r\n250-evil\r\n250-PIPELINING\r\n250 CHUNKING\r\n"; // P13
    let script = &[
        Say(GREETING),
        Read("\r\n"),
        Say(EHLO_TLS),
        Read("STARTTLS\r\n"),
        Say(injected),
        Handshake(leaf.config.clone()),
        Read("EHLO us.example\r\n"),
        Say("250 mx\r\n"),
        Sleep,
    ];
    let server = server(&[script]).await;
    let connection = Connection::open(&endpoint(&server, CLEAR), &dialing(0.05)).await.unwrap();
    assert_eq!(*connection.offers(), Capabilities::default());
    assert_eq!(connection.tls().level, TlsLevel::Unverified);
}

#[tokio::test]
async fn broken_tls_is_told_and_leads_to_a_new_connection_only_where_that_is_allowed() {
    let hello = [Say(GREETING), Read("\r\n"), Say(EHLO_TLS), Read("STARTTLS\r\n")];
    let plain = [Say(GREETING), Read("\r\n"), Say(EHLO_TLS), Read("QUIT\r\n"), Close];
    for broken in [
        &[Say("220 go\r\n"), Garbage, Sleep][..],
        &[Say("220 go\r\n"), Close],
        &[Say("454 4.7.0 not now\r\n"), Sleep],
        &[Close],
        &[Say("220 go\r\n"), Sleep],
    ] {
        let script = [&hello[..], broken].concat();
        let server = server(&[&script, &plain]).await;
        let end = endpoint(&server, CLEAR);
        let failure = Connection::open(&end, &dialing(0.002)).await.unwrap_err();
        assert_eq!(
            (failure.stage, failure.kind),
            (Stage::Starttls, FailureKind::StarttlsBroken),
            "{failure:?}"
        ); // S2
        if !broken.iter().any(|act| matches!(act, Sleep)) {
            let clear = Connection::open_in_clear(&end, &dialing(0.05)).await.unwrap();
            assert_eq!(clear.tls().text, "none");
            clear.quit().await;
        }
    }
    let strict = [
        TlsDemand::Opportunistic { cleartext: false },
        TlsDemand::Encrypted,
        TlsDemand::WebPki { names: vec![HOST.into()] },
        TlsDemand::Dane { records: Vec::new(), names: vec![HOST.into()] },
    ];
    for demand in strict {
        let broken = [&hello[..], &[Say("220 go\r\n"), Garbage, Close]].concat();
        let server = server(&[&broken, &[Say(GREETING), Read("\r\n"), Say(EHLO), Sleep]]).await;
        let end = endpoint(&server, demand);
        for _ in ["broken", "not offered"] {
            let failure = Connection::open(&end, &dialing(0.05)).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::TlsUnmet, "{failure:?}"); // S3, S12
        }
        let refused = Connection::open_in_clear(&end, &dialing(0.05)).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::TlsUnmet);
    }
    let server = server(&[&plain]).await;
    let clear = Connection::open(&endpoint(&server, TlsDemand::Cleartext), &dialing(0.05)).await.unwrap();
    assert_eq!(clear.tls().level, TlsLevel::None);
}
