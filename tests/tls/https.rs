//! The whole relay as a process: HTTPS beside HTTP, a gateway over wss, a certificate that is renewed under it.

use tokio::process::Command;

use super::peers::swaks_with_tls;
use super::{HOST, Pki};
use crate::support::home::Home;
use crate::support::process::RelayProcess;
use crate::support::programs::run;
use crate::support::until;

fn start(pki: &Pki, data: &std::path::Path) -> RelayProcess {
    let (chain, key) = (pki.chain(), pki.key());
    let env = [
        ("WAYSTATION_HOSTNAME", "localhost"),
        ("WAYSTATION_HTTP__TLS_LISTEN", "127.0.0.1:0"),
        ("WAYSTATION_TLS__CERT_FILE", chain.to_str().expect("text")),
        ("WAYSTATION_TLS__KEY_FILE", key.to_str().expect("text")),
    ];
    RelayProcess::start_with(data, &env)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_over_wss_gets_its_mail() {
    let Some(swaks) = swaks_with_tls().await else { return };
    let (pki, data) = (Pki::new(), tempfile::tempdir().expect("temporary directory"));
    let relay = start(&pki, data.path());
    let url = format!("wss://localhost:{}/ws", relay.https.expect("HTTPS").port());
    let home = Home::with(
        &url,
        &format!("extra_ca_file = \"{}\"\n[maildir]\npath = \"Maildir\"\n", pki.ca().display()),
    );
    let _running = home.start(None);
    until("the gateway is connected", || home.log().contains("gateway.connected")).await;
    let log = home.log();
    let key = log.split("gateway of ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a key");
    let mut command = Command::new(swaks);
    command.args(["--server", "127.0.0.1", "--port", &relay.smtp.port().to_string(), "--tls"]);
    command.args(["--from", "a@client.example", "--to", &format!("{key}@mail.localhost")]);
    run(&mut command, b"").await;
    until("the message is at home", || home.maildir().len() == 1).await;
    let maildir = home.maildir();
    let message = String::from_utf8_lossy(maildir.values().next().expect("one")).into_owned();
    assert!(
        message.contains("(using TLSv1.3 with cipher TLS_") && message.contains("with ESMTPS id"),
        "{message}"
    );
    relay.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_resumes_sessions_and_sees_a_renewed_certificate() {
    let (pki, data) = (Pki::new(), tempfile::tempdir().expect("temporary directory"));
    let relay = start(&pki, data.path());
    let https = relay.https.expect("HTTPS");
    let file = pki.ca().with_file_name("session");
    let file = file.to_str().expect("text");
    let get = format!("GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    for version in ["-tls1_2", "-tls1_3"] {
        let args = [version, "-alpn", "h2,http/1.1", "-ign_eof", "-sess_out", file];
        let Some((_, first)) = pki.s_client(https, &args, get.as_bytes()).await else { return };
        assert!(first.contains("ALPN protocol: http/1.1") && first.contains("\"status\":\"ok\""), "{first}");
        let args = [version, "-ign_eof", "-sess_in", file];
        let (_, again) = pki.s_client(https, &args, get.as_bytes()).await.expect("installed");
        assert!(again.contains("Reused, TLSv1."), "{version}: {again}");
    }
    let chain = pki.renew();
    let shown = chain.lines().nth(1).expect("a line of the certificate").to_owned();
    for _ in 0..600 {
        let said = pki.s_client(https, &["-showcerts"], b"Q\n").await.expect("installed").1;
        if said.contains(&shown) {
            relay.terminate();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the renewed certificate was never shown");
}
