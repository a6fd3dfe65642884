//! Programs that we did not write, over STARTTLS.

use tokio::process::Command;
use waystation::mail::envelope::Meta;

use super::{HOST, Pki};
use crate::support::programs::postfix::Postfix;
use crate::support::programs::{program, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaks_sends_over_starttls() {
    let Some(swaks) = swaks_with_tls().await else { return };
    let pki = Pki::new();
    let (relay, _) = pki.relay(|plan| plan.intake.session.require_tls = true).await;
    let mut command = Command::new(swaks);
    command.args(["--server", "127.0.0.1", "--port", &relay.address.port().to_string(), "--tls"]);
    command.args(["--tls-sni", HOST, "--ehlo", "client.example"]);
    command.args(["--from", "a@client.example", "--to", "home@our.example"]);
    let said = run(&mut command, b"").await;
    assert!(said.contains("TLS started") && said.contains("OK queued as"), "{said}");
    let item = relay.wait_for_items(1).await.remove(0);
    assert!(Meta::decode(&item.meta).expect("meta").tls.starts_with("TLSv1."));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_verifies_us_and_delivers() {
    let pki = Pki::new();
    let (relay, _) = pki.relay(|plan| plan.intake.session.require_tls = true).await;
    let main = format!(
        "relayhost = [127.0.0.1]:{}\nsmtp_tls_security_level = verify\nsmtp_tls_verify_cert_match = {HOST}\n\
         smtp_tls_CAfile = {}\nsmtp_tls_loglevel = 1\nminimal_backoff_time = 1s\nqueue_run_delay = 1s\n",
        relay.address.port(),
        pki.ca().display()
    );
    let started = Postfix::start(|_| main, &["tlsmgr unix - - n 1000? 1 tlsmgr"]).await;
    let Some(postfix) = started else { return relay.stop().await };
    postfix.submit(&["home@our.example"], "Subject: from postfix\n\nhello\n").await;
    let item = relay.wait_for_items(1).await.remove(0);
    assert_eq!(Meta::decode(&item.meta).expect("meta").protocol, "ESMTPS");
    assert!(postfix.log().contains("Verified TLS connection established"), "{}", postfix.log());
    postfix.stop().await;
    relay.stop().await;
}

/// swaks, if its module for TLS is installed, too.
pub(super) async fn swaks_with_tls() -> Option<std::path::PathBuf> {
    let swaks = program("swaks")?;
    let able = Command::new("perl").args(["-MNet::SSLeay", "-e", "1"]).output().await;
    if able.is_ok_and(|perl| perl.status.success()) {
        return Some(swaks);
    }
    eprintln!("SKIPPED: swaks has no Net::SSLeay (libnet-ssleay-perl)");
    None
}
