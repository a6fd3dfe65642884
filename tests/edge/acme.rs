//! Certificates from a real ACME server: Pebble, with name service and ports of our own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waystation::acme::plan::{PAUSES, Pauses};
use waystation::acme::{Answers, Client, Proof, Settings};
use waystation::http::{self, Challenges, Door, Extras, Vitals};
use waystation::observe::Metrics;
use waystation::tls::{self, Store};

use crate::support::dns::Dns;
use crate::support::process::RelayProcess;
use crate::support::programs::program;
use crate::support::until;

/// Name that is proved.
const NAME: &str = "mx.our.example";
/// Quick failures, so that the next try is soon.
const SOON: Pauses = Pauses { first: Duration::from_millis(100), most: Duration::from_millis(500) };

/// A running Pebble; ends when dropped.
struct Pebble {
    child: Child,
    directory_url: String,
    ca_file: PathBuf,
    log: PathBuf,
    dns: Dns,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pebble {
    /// Starts it; it validates on those ports, and its certificates live for so many seconds. `None`: not installed.
    async fn start(dir: &Path, http_port: u16, tls_port: u16, lifetime_seconds: u64) -> Option<Self> {
        let pebble = program("pebble")?;
        let dns = Dns::start().await;
        dns.host(NAME, &["127.0.0.1"]);
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("root");
        let key = KeyPair::generate().expect("key");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &root).expect("certificate");
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let ca_file = file("ca.pem", &root.pem());
        let port = free_port().await;
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": "",
            "certificate": file("pebble.pem", &leaf.pem()),
            "privateKey": file("pebble.key", &key.serialize_pem()),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "certificateValidityPeriod": lifetime_seconds,
        }});
        let log = dir.join("pebble.log");
        let out = std::fs::File::create(&log).expect("log");
        let child = Command::new(pebble)
            .arg("-config")
            .arg(file("pebble.json", &config.to_string()))
            .args(["-dnsserver", &dns.address().to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("log"))
            .stderr(out)
            .spawn()
            .expect("it starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until("Pebble listens", || std::net::TcpStream::connect(address).is_ok()).await;
        let directory_url = format!("https://localhost:{port}/dir");
        Some(Self { child, directory_url, ca_file, log, dns })
    }

    fn settings(&self, dir: &Path, proof: Proof) -> Settings {
        Settings {
            dir: dir.join("acme"),
            directory_url: self.directory_url.clone(),
            contact: Some("postmaster@our.example".to_owned()),
            names: vec![NAME.to_owned()],
            proof,
            ca_file: Some(self.ca_file.clone()),
            pauses: PAUSES,
        }
    }

    fn orders(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).expect("log");
        log.matches("Issued certificate").count()
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound").port()
}

struct Well;

impl Vitals for Well {
    fn connections(&self) -> u64 {
        0
    }
    fn uptime_seconds(&self) -> u64 {
        0
    }
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

struct Bridge(Arc<Answers>);

impl Challenges for Bridge {
    fn answer(&self, token: &str) -> Option<String> {
        self.0.answer(token)
    }
}

/// The listeners of a relay, as far as validations see them; both end when dropped.
struct Relay {
    store: Arc<Store>,
    answers: Arc<Answers>,
    metrics: Arc<Metrics>,
    http: SocketAddr,
    tls: SocketAddr,
    /// Protocols of the TLS handshakes seen.
    spoken: Arc<Mutex<Vec<Option<Vec<u8>>>>>,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Relay {
    async fn start() -> Self {
        let (store, answers) = (Store::new(), Arc::new(Answers::default()));
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let extras = Extras { challenges: Some(Arc::new(Bridge(answers.clone()))), ..Extras::default() };
        let router = http::router(Arc::new(Well), None, Router::new(), extras);
        let plain = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let secure = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (http, tls) = (plain.local_addr().expect("bound"), secure.local_addr().expect("bound"));
        let served = http::serve(plain, Door::default(), router, stop.clone(), TaskTracker::new());
        let acceptor = tls::https_acceptor(&store).expect("acceptor");
        let spoken = Arc::new(Mutex::new(Vec::new()));
        let heard = spoken.clone();
        let secured = async move {
            while let Ok((stream, _)) = secure.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                    heard.lock().expect("lock").push(protocol);
                }
            }
        };
        let tasks = vec![tokio::spawn(served), tokio::spawn(secured)];
        Self { store, answers, metrics, http, tls, spoken, tasks, stop }
    }

    /// Starts the client, and returns what ends it.
    fn client(&self, settings: Settings) -> CancellationToken {
        let stop = self.stop.child_token();
        let client = Client::start(settings, self.store.clone(), self.answers.clone(), self.metrics.clone())
            .expect("starts");
        tokio::spawn(client.run(stop.clone()));
        stop
    }

    fn counted(&self, outcome: &str) -> u64 {
        let text = self.metrics.text();
        let line = format!("waystation_acme_orders_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().expect("number"))
    }

    /// When the server is asked next, seconds since 1970; 0 when it is not known yet.
    fn next_attempt(&self) -> f64 {
        next_attempt(&self.metrics.text())
    }
}

fn next_attempt(metrics: &str) -> f64 {
    let begin = "waystation_acme_next_attempt_timestamp_seconds ";
    metrics.lines().find_map(|l| l.strip_prefix(begin)).map_or(0.0, |at| at.parse().expect("number"))
}

/// Seconds since 1970.
#[expect(clippy::cast_precision_loss, reason = "a date")]
fn now_seconds() -> f64 {
    (waystation::clock::wall().0 / 1000) as f64
}

fn certificate_file(dir: &Path) -> PathBuf {
    let place = std::fs::read_dir(dir.join("acme")).expect("directory").next().expect("one").expect("entry");
    place.path().join("certificate.pem")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_either_proof_and_a_restart_orders_none() {
    for proof in [Proof::Http01, Proof::TlsAlpn01] {
        let dir = tempfile::tempdir().expect("directory");
        let relay = Relay::start().await;
        let lifetime = 90 * 86_400;
        let Some(pebble) = Pebble::start(dir.path(), relay.http.port(), relay.tls.port(), lifetime).await
        else {
            return;
        };
        let stop = relay.client(pebble.settings(dir.path(), proof));
        until("there is a certificate", || relay.store.ready()).await;
        let installed = relay.store.installed().expect("installed");
        assert!(installed.covers(NAME), "{installed:?}");
        let validated =
            relay.spoken.lock().expect("lock").iter().any(|p| p.as_deref() == Some(tls::ALPN_ACME));
        assert_eq!(validated, proof == Proof::TlsAlpn01, "proved the other way");
        until("it is counted", || relay.counted("installed") == 1).await;
        stop.cancel();

        use std::os::unix::fs::PermissionsExt as _;
        let file = certificate_file(dir.path());
        for file in [file.clone(), file.with_file_name("account.json")] {
            let mode = std::fs::metadata(&file).expect("kept").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
        }

        let again = Relay::start().await;
        let stop = again.client(pebble.settings(dir.path(), proof));
        assert!(again.store.ready(), "it is served at once");
        assert_eq!(again.store.not_after(), Some(installed.not_after));
        let next = "waystation_acme_next_attempt_timestamp_seconds ";
        until("the next order is planned", || {
            let text = again.metrics.text();
            let at = text.lines().find_map(|l| l.strip_prefix(next)).and_then(|n| n.parse::<f64>().ok());
            #[expect(clippy::cast_precision_loss, reason = "a date")]
            let end = (installed.not_after.0 / 1000) as f64;
            at.is_some_and(|at| at > end - 34.0 * 86_400.0 && at < end - 29.0 * 86_400.0)
        })
        .await;
        assert_eq!((again.counted("installed"), pebble.orders()), (0, 1));
        stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_ends() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start().await;
    let Some(pebble) = Pebble::start(dir.path(), relay.http.port(), relay.tls.port(), 6).await else {
        return;
    };
    let _stop = relay.client(Settings { pauses: SOON, ..pebble.settings(dir.path(), Proof::Http01) });
    until("there is a certificate", || relay.store.ready()).await;
    let first = relay.store.not_after();
    let key = || relay.store.installed().expect("installed").key_sha256().expect("a key");
    let first_key = key();
    let kept = std::fs::read(certificate_file(dir.path())).expect("kept");
    until("another is served", || relay.store.not_after() != first).await;
    until("and kept", || std::fs::read(certificate_file(dir.path())).expect("kept") != kept).await;
    assert_eq!(relay.counted("failed"), 0);
    assert_eq!(key(), first_key, "TLSA records of the key must stay right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_and_tried_again() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start().await;
    let Some(pebble) = Pebble::start(dir.path(), relay.http.port(), relay.tls.port(), 86_400).await else {
        return;
    };
    pebble.dns.host(NAME, &["127.0.0.66"]); // nobody listens there
    let _stop = relay.client(Settings { pauses: SOON, ..pebble.settings(dir.path(), Proof::Http01) });
    until("it failed twice", || relay.counted("failed") >= 2).await;
    assert!(!relay.store.ready());
    pebble.dns.host(NAME, &["127.0.0.1"]);
    until("it came right", || relay.store.ready()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_our_account_gets_a_new_one() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start().await;
    let (http, tls) = (relay.http.port(), relay.tls.port());
    let Some(pebble) = Pebble::start(dir.path(), http, tls, 86_400).await else { return };
    let settings = Settings { pauses: SOON, ..pebble.settings(dir.path(), Proof::Http01) };
    let stop = relay.client(settings.clone());
    until("there is a certificate", || relay.store.ready()).await;
    stop.cancel();
    let file = certificate_file(dir.path());
    let account = file.with_file_name("account.json");
    let kept = std::fs::read_to_string(&account).expect("account");
    let mut other: serde_json::Value = serde_json::from_str(&kept).expect("json");
    other["id"] = format!("{}0", other["id"].as_str().expect("id")).into();
    waystation::secrets::replace(&account, other.to_string().as_bytes()).expect("written");
    std::fs::remove_file(&file).expect("removed");
    // Validations still come to the first relay's listener; what is new is the store.
    let store = Store::new();
    let client =
        Client::start(settings, store.clone(), relay.answers.clone(), relay.metrics.clone()).expect("starts");
    tokio::spawn(client.run(relay.stop.child_token()));
    until("there is a certificate again", || store.ready()).await;
    assert!(account.with_extension("json.unknown").exists());
}

/// A server that is not there.
async fn nobody(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("acme"),
        directory_url: format!("https://127.0.0.1:{}/dir", free_port().await),
        contact: None,
        names: vec![NAME.to_owned()],
        proof: Proof::Http01,
        ca_file: None,
        pauses: SOON,
    }
}

#[tokio::test]
async fn no_server_at_all_is_a_failure_as_any_other() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start().await;
    let settings = nobody(dir.path()).await;
    let _stop = relay.client(settings);
    until("it failed", || relay.counted("failed") >= 2).await;
    assert!(TcpStream::connect(relay.http).await.is_ok(), "the listeners go on");
}

#[tokio::test]
async fn starts_in_a_row_are_no_way_around_the_pauses() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start().await;
    let settings = nobody(dir.path()).await;
    let stop = relay.client(settings.clone());
    until("it failed three times", || relay.counted("failed") >= 3).await;
    stop.cancel();
    let settings = Settings { pauses: PAUSES, ..settings };
    let next = Relay::start().await;
    let stop = next.client(settings.clone());
    until("the next order is planned", || next.next_attempt() > 0.0).await;
    let planned = next.next_attempt() - now_seconds();
    assert!((5.0 * 60.0..7.0 * 3600.0).contains(&planned), "in {planned} s");
    assert_eq!(next.counted("failed"), 0);
    stop.cancel();
    // Whoever has repaired what was wrong need not wait.
    std::fs::remove_file(certificate_file(dir.path()).with_file_name("tries.json")).expect("there is one");
    let repaired = Relay::start().await;
    let _stop = repaired.client(settings);
    until("it is tried at once", || repaired.counted("failed") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_certificate_that_runs_out_is_warned_of() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().expect("directory");
    let directory_url = format!("https://127.0.0.1:{}/dir", free_port().await);
    let env = [
        ("WAYSTATION_HOSTNAME", NAME),
        ("WAYSTATION_TLS__ACME__ENABLED", "true"),
        ("WAYSTATION_TLS__ACME__DIRECTORY_URL", &directory_url),
        ("WAYSTATION_TLS__ACME__CHALLENGE", "http-01"),
    ];
    let data = dir.path().join("data");
    assert_eq!(RelayProcess::start_with(&data, &env).terminate(), 0, "it makes the place");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("parameters");
    let now = i64::try_from(waystation::clock::wall().0 / 1000).expect("a date");
    let day = |n: i64| time::OffsetDateTime::from_unix_timestamp(now + n * 86_400).expect("a date");
    (params.not_before, params.not_after) = (day(-87), day(3));
    let chain = params.self_signed(&key).expect("certificate").pem();
    let kept = format!("{}{chain}", key.serialize_pem());
    waystation::secrets::replace(&certificate_file(&data), kept.as_bytes()).expect("kept");
    let relay = RelayProcess::start_with(&data, &env);
    let mut planned = 0.0;
    for _ in 0..600 {
        let mut stream = TcpStream::connect(relay.http).await.expect("connected");
        let ask = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        planned = next_attempt(&answer);
        if planned > now_seconds() + 60.0 {
            break; // the order that was due has failed
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(planned > now_seconds() + 60.0, "the order did not fail");
    let (code, log) = relay.terminate_with_log();
    assert_eq!(code, 0);
    let warnings = log.iter().filter(|line| line.contains("relay.tls.expires_soon")).count();
    assert_eq!(warnings, 1, "{log:#?}");
}

/// The answer to a request for `/health` over HTTPS, from a certificate that only Pebble vouches for.
async fn health_over_tls(to: SocketAddr) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let verifier = Arc::new(Named);
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
    let stream = TcpStream::connect(to).await.ok()?;
    let name = NAME.try_into().expect("name");
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    let ask = format!("GET /health HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.ok()?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    Some(answer)
}

/// Believes any issuer, and asks for the name.
#[derive(Debug)]
struct Named;

impl rustls::client::danger::ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        server_name: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_name(&parsed, server_name)?;
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_relay_gets_its_certificate_and_keeps_it_over_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    for challenge in ["http-01", "tls-alpn-01"] {
        let dir = dir.path().join(challenge);
        std::fs::create_dir(&dir).expect("directory");
        let (http, https) = (free_port().await, free_port().await);
        let Some(pebble) = Pebble::start(&dir, http, https, 90 * 86_400).await else { return };
        let (listen, tls_listen) = (format!("127.0.0.1:{http}"), format!("127.0.0.1:{https}"));
        let env = [
            ("WAYSTATION_HTTP__LISTEN", listen.as_str()),
            ("WAYSTATION_HTTP__TLS_LISTEN", &tls_listen),
            ("WAYSTATION_HOSTNAME", NAME),
            ("WAYSTATION_TLS__ACME__ENABLED", "true"),
            ("WAYSTATION_TLS__ACME__DIRECTORY_URL", &pebble.directory_url),
            ("WAYSTATION_TLS__ACME__CA_FILE", pebble.ca_file.to_str().expect("path")),
            ("WAYSTATION_TLS__ACME__CHALLENGE", challenge),
        ];
        let at = tls_listen.parse().expect("address");
        for round in 0..2 {
            let relay = RelayProcess::start_with(&dir.join("data"), &env);
            let mut answer = None;
            for _ in 0..600 {
                answer = health_over_tls(at).await;
                if answer.is_some() {
                    break;
                }
                assert_eq!(round, 0, "after a restart it is served at once");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(answer.is_some_and(|a| a.contains("200 OK")), "{challenge}");
            assert_eq!(relay.terminate(), 0);
        }
        assert_eq!(pebble.orders(), 1, "{challenge}");
    }
}
