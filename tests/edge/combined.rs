//! Proxies of the field in front of a real relay process, and every combination of PROXY header and `X-Forwarded-For`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use waystation::identity::key::SecretKey;

use crate::support::process::{RelayProcess, run_text};
use crate::support::programs::program;
use crate::support::until;

/// A running HAProxy; ends when dropped.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Haproxy {
    /// Starts it with one listener for each way to a relay: its address, and how HAProxy sends on to which server.
    async fn start(dir: &Path, ways: &[(SocketAddr, SocketAddr, &str)]) -> Option<Self> {
        let haproxy = program("haproxy")?;
        let mut text = String::from(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n timeout check 5s\n",
        );
        for (n, (here, there, options)) in ways.iter().enumerate() {
            text.push_str(&format!("listen way{n}\n bind {here}\n server relay {there} {options}\n"));
        }
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, text).expect("written");
        let child = Command::new(haproxy)
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let haproxy = Self(child);
        for (here, ..) in ways {
            until("HAProxy listens", || std::net::TcpStream::connect(here).is_ok()).await;
        }
        Some(haproxy)
    }
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound")
}

/// Connects from another loopback address, so that client and proxy can be told apart.
async fn from(client: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind(format!("{client}:0").parse().expect("address")).expect("bound");
    socket.connect(to).await.expect("connects")
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_tells_who_sends_mail_and_who_logs_in() {
    // V1
    let dir = tempfile::tempdir().expect("directory");
    let env = [
        ("WAYSTATION_SMTP__PROXY_PROTOCOL", "true"),
        ("WAYSTATION_HTTP__PROXY_PROTOCOL", "true"),
        ("WAYSTATION_HTTP__TRUSTED_PROXIES", "127.0.0.1/32"),
        ("WAYSTATION_SMTP__GREET_DELAY_MS", "0"),
        ("WAYSTATION_VERIFY__ENABLED", "false"),
    ];
    let data = dir.path().join("data");
    let relay = RelayProcess::start_with(&data, &env);
    let (one, two, web) = (free_address().await, free_address().await, free_address().await);
    let ways = [
        (one, relay.smtp, "send-proxy check check-send-proxy inter 200"),
        (two, relay.smtp, "send-proxy-v2 proxy-v2-options crc32c,unique-id check check-send-proxy inter 200"),
        (web, relay.http, "send-proxy-v2"),
    ];
    let Some(_haproxy) = Haproxy::start(dir.path(), &ways).await else { return };
    for (n, way) in [one, two].into_iter().enumerate() {
        let client = format!("127.0.0.{}", n + 7);
        let mut stream = from(&client, way).await;
        let mut heard = String::new();
        let to = "postmaster@mail.localhost";
        for turn in [
            "EHLO client.example\r\n",
            "MAIL FROM:<a@far.example>\r\n",
            &format!("RCPT TO:<{to}>\r\n"),
            "DATA\r\n",
            "Subject: x\r\n\r\nhello\r\n.\r\n",
            "QUIT\r\n",
        ] {
            let mut reply = [0; 1024];
            let read = stream.read(&mut reply).await.expect("reply");
            heard.push_str(std::str::from_utf8(&reply[..read]).expect("text"));
            stream.write_all(turn.as_bytes()).await.expect("said");
        }
        assert!(heard.contains("250 2.0.0"), "{heard}");
        let data_dir = data.to_str().expect("path");
        let (_, listed, _) = run_text(&["--data-dir", data_dir, "--json", "spool", "ls"]);
        let last = listed.lines().last().expect("an item");
        let id = serde_json::from_str::<serde_json::Value>(last).expect("json")["id"].clone();
        let id = id.as_str().expect("id");
        let (_, raw, said) = run_text(&["--data-dir", data_dir, "spool", "show", id, "--raw"]);
        assert!(raw.contains(&format!("[{client}]")), "{raw}{said}");
    }
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{web}/ws"), from("127.0.0.9", web).await)
            .await
            .expect("opens");
    socket.close(None).await.expect("closes");
    assert_eq!(relay.terminate(), 0);
}

/// Status of a request for the admin API with a wrong token, over HTTPS through HAProxy, from that loopback address.
async fn guess(curl: &Path, from: &str, to: SocketAddr) -> String {
    let url = format!("https://{to}/admin/spool/stats");
    let args = ["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--interface", from, "-H"];
    let output = tokio::process::Command::new(curl)
        .args(args)
        .args(["Authorization: Bearer guess", &url])
        .output()
        .await
        .expect("curl runs");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_tells_who_comes_inside_tls() {
    // V1: the header stands before the handshake
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("directory");
    let (Some(curl), Some(_)) = (program("curl"), program("haproxy")) else { return };
    let at = |name: &str| dir.path().join(name).to_str().expect("path").to_owned();
    let key = rcgen::KeyPair::generate().expect("key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    std::fs::write(at("tls.key"), key.serialize_pem()).expect("written");
    std::fs::write(at("tls.pem"), params.self_signed(&key).expect("certificate").pem()).expect("written");
    std::fs::set_permissions(at("tls.key"), std::fs::Permissions::from_mode(0o600)).expect("mode");
    assert_eq!(run_text(&["keys", "token", "--file", &at("token")]).0, 0);
    let (token, cert, key, https) = (at("token"), at("tls.pem"), at("tls.key"), free_address().await);
    let listen = https.to_string();
    let env = [
        ("WAYSTATION_HTTP__PROXY_PROTOCOL", "true"),
        ("WAYSTATION_HTTP__TRUSTED_PROXIES", "127.0.0.1/32"),
        ("WAYSTATION_HTTP__TLS_LISTEN", listen.as_str()),
        ("WAYSTATION_TLS__CERT_FILE", &cert),
        ("WAYSTATION_TLS__KEY_FILE", &key),
        ("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", &token),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let way = free_address().await;
    let Some(_haproxy) = Haproxy::start(dir.path(), &[(way, https, "send-proxy-v2")]).await else { return };
    for _ in 0..5 {
        assert_eq!(guess(&curl, "127.0.0.7", way).await, "401");
    }
    assert_eq!(guess(&curl, "127.0.0.7", way).await, "429");
    assert_eq!(guess(&curl, "127.0.0.8", way).await, "401", "another client of the same proxy");
    assert_eq!(guess(&curl, "127.0.0.8", https).await, "401", "one that comes directly needs no header");
    assert_eq!(guess(&curl, "127.0.0.1", https).await, "000", "the proxy's own address needs one");
    assert_eq!(relay.terminate(), 0);
}

/// One login message over a connection that begins with `header`; what the relay says to it.
async fn login(http: SocketAddr, header: &str, forwarded: &str) -> String {
    let mut stream = TcpStream::connect(http).await.expect("connects");
    stream.write_all(header.as_bytes()).await.expect("sent");
    let mut request = format!("ws://{http}/ws").into_client_request().expect("request");
    if !forwarded.is_empty() {
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().expect("value"));
    }
    let Ok((mut socket, _)) = tokio_tungstenite::client_async(request, stream).await else {
        return "refused".to_owned();
    };
    let key = SecretKey::from_seed(&[7; 32]).key_text().to_string();
    let ask = json!({ "type": "auth_challenge_request", "publicKeyBase32": key, "sessionRole": "inbound" });
    socket.send(Message::text(ask.to_string())).await.expect("sent");
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            return text.to_string();
        }
    }
    "closed".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_logins_count_the_real_address_in_every_combination() {
    // V1, V2
    let dir = tempfile::tempdir().expect("directory");
    let header = |client: &str| format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n");
    for proxied in [true, false] {
        let on = proxied.to_string();
        let env = [
            ("WAYSTATION_HTTP__PROXY_PROTOCOL", on.as_str()),
            ("WAYSTATION_HTTP__TRUSTED_PROXIES", "127.0.0.1/32,10.0.0.0/8"),
            ("WAYSTATION_LIMITS__WS_AUTH_ATTEMPTS_PER_MINUTE_PER_IP", "1"),
            ("WAYSTATION_LIMITS__DENY_WINDOW_SECONDS", "86400"),
        ];
        let relay = RelayProcess::start_with(&dir.path().join(&on), &env);
        let mut limited = Vec::new();
        let cases: &[(String, &str)] = if proxied {
            &[
                (header("203.0.113.1"), ""),                       // 203.0.113.1, first
                (header("203.0.113.1"), "203.0.113.2"),            // again: it is no proxy of ours
                (header("10.0.0.1"), "203.0.113.3"),               // a proxy behind the proxy: 203.0.113.3
                (header("10.0.0.1"), "198.51.100.8, 203.0.113.3"), // again
                (header("10.0.0.1"), "203.0.113.3, 198.51.100.8"), // 198.51.100.8
                ("PROXY UNKNOWN\r\n".to_owned(), "198.51.100.8"),  // the proxy itself forwards for it: again
                ("PROXY UNKNOWN\r\n".to_owned(), "198.51.100.9"),  // 198.51.100.9
            ]
        } else {
            &[
                (String::new(), "203.0.113.1"),
                (String::new(), "203.0.113.1"),
                (String::new(), "203.0.113.1, 10.1.1.1"),
                (String::new(), "203.0.113.1, 203.0.113.2"),
                (header("203.0.113.77"), ""),
            ]
        };
        for (header, forwarded) in cases {
            let said = login(relay.http, header, forwarded).await;
            limited.push(if said.contains("rate_limited") {
                "limited"
            } else if said.contains("challenge") {
                "heard"
            } else {
                "refused"
            });
        }
        let expected: &[&str] = if proxied {
            &["heard", "limited", "heard", "limited", "heard", "limited", "heard"]
        } else {
            &["heard", "limited", "limited", "heard", "refused"]
        };
        assert_eq!(limited, expected, "PROXY protocol: {proxied}");
    }
}
