//! nginx and Caddy with the files of `deploy/`, before a real relay: a gateway comes through over wss, its mail arrives, an idle
//! tunnel outlives the proxy's patience, and the relay sees who the client is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use waystation::clock::monotonic;

use super::logged::Logged;
use super::text;
use crate::layering::root;
use crate::support::home::Home;
use crate::support::post::send;
use crate::support::process::waystation;
use crate::support::programs::program;
use crate::support::until;
use crate::tls::Pki;

/// How long the proxy of the test waits for an idle tunnel; the files say an hour.
const PATIENCE: Duration = Duration::from_secs(3);
/// A client whose address is nobody's the relay trusts.
const CLIENT: &str = "127.0.0.7";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Replaces what a person would put his own into; each must be there.
fn filled(text: String, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "the file has no `{from}`");
        text.replace(from, to)
    })
}

struct World {
    dir: tempfile::TempDir,
    pki: Pki,
    relay: Logged,
    smtp: SocketAddr,
    http: SocketAddr,
    /// Where the proxy listens for HTTP and HTTPS.
    ports: [u16; 2],
}

impl World {
    /// A relay as the packaged configuration has it: HTTP on loopback, no TLS, pings more often than the proxy is patient.
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let pings = [("TUNNEL__HEARTBEAT_INTERVAL_SECONDS", "1")];
        let relay = Logged::relay(waystation(), dir.path(), &pings).await;
        let (smtp, http) = (relay.address("smtp"), relay.address("http"));
        Self { dir, pki: Pki::new(), relay, smtp, http, ports: [free_port(), free_port()] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn https(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[1]))
    }

    /// Asks the proxy over HTTPS as [`CLIENT`], with fields of its own; what came first.
    async fn ask(&self, target: &str, fields: &str) -> (impl AsyncStream + use<>, String) {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.pki.ca()).expect("PEM");
        roots.add(ca).expect("an authority");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{CLIENT}:0").parse().expect("an address")).expect("bound");
        let stream = socket.connect(self.https()).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.expect("an answer");
        (stream, String::from_utf8_lossy(&buffer[..read]).into_owned())
    }
}

trait AsyncStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncStream for T {}

/// One masked text message of a client (RFC 6455), with a mask of zeros.
fn message(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    let length = u16::try_from(text.len()).expect("short");
    let mut frame = vec![0x81, 0xfe];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// What is promised of a proxy's file.
async fn is_a_good_door(world: &World) {
    let url = format!("wss://localhost:{}/ws", world.ports[1]);
    let ca = world.pki.ca();
    let home =
        Home::with(&url, &format!("extra_ca_file = \"{}\"\n[maildir]\npath = \"Maildir\"\n", ca.display()));
    let gateway = home.start(None);
    until("the gateway is connected", || home.log().contains("gateway.connected")).await;
    let connected = home.status().expect("it runs")["connected_since_ms"].clone();
    let since = monotonic();
    let key = home.status().expect("it runs")["key"].as_str().expect("a key").to_owned();
    send(world.smtp, &format!("{key}@mail.localhost"), b"Subject: one\r\n\r\nhello\r\n").expect("accepted");
    until("the first message is at home", || home.maildir().len() == 1).await;

    // The client's own address, whatever it says itself.
    let key = waystation::identity::key::SecretKey::from_seed(&[0x5d; 32]).key_text().to_string();
    let fields = "X-Forwarded-For: 198.51.100.66\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (mut stream, answer) = world.ask("/ws", fields).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let hello = json!({ "type": "auth_challenge_request", "publicKeyBase32": key, "features": ["ack"] });
    stream.write_all(&message(&hello)).await.expect("sent");
    until("the login is logged", || world.relay.event("relay.ws.auth.attempted", "lane", &key).is_some())
        .await;
    let event = world.relay.event("relay.ws.auth.attempted", "lane", &key).expect("logged");
    assert_eq!(event["client.ip"], CLIENT);

    // What is for the operator alone stays inside; what is for everybody is there.
    for (target, status) in [
        ("/metrics", "404"),
        ("/metrics?a=b", "404"),
        ("/admin", "404"),
        ("/admin/spool/stats", "404"),
        ("/health", "200"),
        ("/ready", "200"),
        ("/.well-known/waystation", "200"),
    ] {
        let (_, answer) = world.ask(target, "Connection: close\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
    }

    // The tunnel says nothing but pings for longer than the proxy waits for an idle connection.
    until("the proxy's patience is over", || since.elapsed() > PATIENCE + Duration::from_secs(1)).await;
    let key = home.status().expect("it runs")["key"].as_str().expect("a key").to_owned();
    send(world.smtp, &format!("{key}@mail.localhost"), b"Subject: two\r\n\r\nhello\r\n").expect("accepted");
    until("the second message is at home", || home.maildir().len() == 2).await;
    assert_eq!(home.status().expect("it runs")["connected_since_ms"], connected, "the tunnel was cut");
    gateway.stop().await;
}

/// Answers on the port for HTTP without TLS: status and `Location`.
fn plain(port: u16, target: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connects");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_is_a_good_door_for_gateways() {
    let Some(nginx) = program("nginx") else { return };
    let world = World::new().await;
    let [http, https] = world.ports;
    let (chain, key, upstream) = (world.pki.chain(), world.pki.key(), world.http.to_string());
    let site = filled(
        text("nginx/waystation.conf"),
        &[
            ("listen 80;", &format!("listen 127.0.0.1:{http};")),
            ("    listen [::]:80;\n", ""),
            ("listen 443 ssl;", &format!("listen 127.0.0.1:{https} ssl;")),
            ("    listen [::]:443 ssl;\n", ""),
            ("/etc/letsencrypt/live/relay.example.org/fullchain.pem", text_of(&chain)),
            ("/etc/letsencrypt/live/relay.example.org/privkey.pem", text_of(&key)),
            ("relay.example.org", "localhost"),
            ("127.0.0.1:8080", &upstream),
            ("proxy_read_timeout 1h", &format!("proxy_read_timeout {}s", PATIENCE.as_secs())),
            ("proxy_send_timeout 1h", &format!("proxy_send_timeout {}s", PATIENCE.as_secs())),
        ],
    );
    std::fs::write(world.path("site.conf"), site).expect("written");
    let dir = world.dir.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {dir}/{of};\n"))
        .concat();
    let main = format!(
        "daemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}include {dir}/site.conf;\n}}\n"
    );
    std::fs::write(world.path("nginx.conf"), main).expect("written");
    let mut command = Command::new(nginx);
    command.args([
        "-e",
        text_of(&world.path("error.log")),
        "-p",
        text_of(world.dir.path()),
        "-c",
        text_of(&world.path("nginx.conf")),
    ]);
    // As a group: its workers end with it.
    let running = Logged::start(&mut command, world.path("nginx.log"));
    until("nginx listens", || std::net::TcpStream::connect(world.https()).is_ok()).await;
    is_a_good_door(&world).await;
    let redirect = plain(http, "/x?y");
    assert!(
        redirect.starts_with("HTTP/1.1 308 ") && redirect.contains("https://localhost/x?y"),
        "{redirect}"
    );
    let quit =
        Command::new("kill").args(["-s", "QUIT", &running.child.id().to_string()]).status().expect("kill");
    assert!(quit.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_is_a_good_door_for_gateways() {
    let caddy = root().join("target/peers/caddy/usr/bin/caddy");
    let Some(caddy) = Some(caddy).filter(|path| path.is_file()).or_else(|| program("caddy")) else { return };
    let world = World::new().await;
    let https = world.ports[1];
    let upstream = world.http.to_string();
    let site = filled(
        text("caddy/Caddyfile"),
        &[
            (
                "relay.example.org {\n",
                &format!(
                    "https://localhost:{https} {{\n\tbind 127.0.0.1\n\ttls {} {}\n",
                    world.pki.chain().display(),
                    world.pki.key().display()
                ),
            ),
            ("127.0.0.1:8080", &upstream),
        ],
    );
    std::fs::write(world.path("Caddyfile"), format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}"))
        .expect("written");
    let mut command = Command::new(caddy);
    command.args(["run", "--config", text_of(&world.path("Caddyfile")), "--adapter", "caddyfile"]);
    command
        .env("HOME", world.dir.path())
        .env("XDG_DATA_HOME", world.dir.path())
        .env("XDG_CONFIG_HOME", world.dir.path());
    let _running = Logged::start(&mut command, world.path("caddy.log"));
    until("caddy listens", || std::net::TcpStream::connect(world.https()).is_ok()).await;
    is_a_good_door(&world).await;
}
