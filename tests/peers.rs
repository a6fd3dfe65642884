//! Mail programs that we did not write, as senders: Postfix with its own queue, swaks, smtp-source, Python.
//!
//! Goal: what the rest of the world runs can hand us mail, and what arrives is byte for byte what was sent.
//! Method: each program is started as a child of the test, talks to a relay on a free port, and the spool is
//! read. A program that is not installed is skipped, with a line that says so. Everything stays on loopback.

use std::time::Duration;

use spool::types::MailboxChange;
use tokio::process::Command;

use crate::support::programs::postfix::Postfix;
use crate::support::programs::{PATIENCE, program, run};
use crate::support::relay::{FULL, MailRelay};
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_smtplib_sends_dots_and_utf8() {
    let Some(python) = program("python3") else { return };
    let relay = MailRelay::start().await;
    let script = "import smtplib, sys\n\
        s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]), timeout=20)\n\
        body = 'Subject: dots\\r\\n\\r\\n.\\r\\n..a\\r\\n.b\\r\\nend\\r\\n'\n\
        refused = s.sendmail('a@client.example', ['home@our.example', 'nobody@our.example'], body)\n\
        assert refused['nobody@our.example'][0] == 550, refused\n\
        s.sendmail('jos\\u00e9@client.example', ['home@our.example'], 'Subject: \\u00fc\\r\\n\\r\\n\\u00fc\\r\\n'.encode(),\n\
                   mail_options=['SMTPUTF8', 'BODY=8BITMIME'])\n\
        s.quit()\n";
    run(Command::new(python).args(["-c", script]).arg(relay.address.port().to_string()), b"").await;
    let items = relay.items().await;
    assert_eq!(items.len(), 2);
    assert_eq!(relay.body(&items[0]).await, b"Subject: dots\r\n\r\n.\r\n..a\r\n.b\r\nend\r\n");
    assert_eq!(relay.body(&items[1]).await, "Subject: ü\r\n\r\nü\r\n".as_bytes());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaks_sends_one_by_one_and_pipelined() {
    let Some(swaks) = program("swaks") else { return };
    let relay = MailRelay::start().await;
    for pipeline in [false, true] {
        let mut command = Command::new(&swaks);
        command.args(["--server", "127.0.0.1", "--port", &relay.address.port().to_string()]).args([
            "--ehlo",
            "client.example",
            "--from",
            "a@client.example",
            "--to",
            "home@our.example",
        ]);
        if pipeline {
            command.arg("--pipeline");
        }
        let said = run(&mut command, b"").await;
        assert!(said.contains("OK queued as"), "{said}");
    }
    assert_eq!(relay.items().await.len(), 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smtp_source_sends_with_64_parallel_sessions() {
    let Some(smtp_source) = program("smtp-source") else { return };
    let relay = MailRelay::start().await;
    let mut command = Command::new(smtp_source);
    command
        .args(["-s", "64", "-m", "640", "-l", "4096", "-f", "a@client.example", "-t", "home@our.example"])
        .arg(format!("inet:127.0.0.1:{}", relay.address.port()));
    run(&mut command, b"").await;
    let items = relay.items().await;
    assert_eq!(items.len(), 640);
    assert_eq!(relay.metrics.inbound_accepted.get(), 640);
    assert!(items.iter().all(|item| item.size_bytes > 4096));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_hands_over_its_queue_and_tries_again_after_a_refusal() {
    let relay = MailRelay::start().await;
    let Some(postfix) = Postfix::sending_to(relay.address.port()).await else { return relay.stop().await };
    let message = "Subject: from postfix\nMessage-ID: <p1@client.example>\nDate: Thu, 1 Jan 2026 00:00:00 +0000\n\
                   From: a@client.example\nTo: home@our.example\n\n.\n..dots\nlast line\n";
    postfix.submit(&["home@our.example", "work@our.example"], message).await;
    let items = relay.wait_for_items(2).await;
    for item in &items {
        let body = String::from_utf8(relay.body(item).await).expect("text");
        assert!(body.ends_with("\r\n\r\n.\r\n..dots\r\nlast line\r\n"), "{body:?}");
        assert!(body.starts_with("Received: by postfix.client.example"), "{body:?}");
    }
    // One transaction for both recipients: one body, two lanes. Items are seen a moment before they are counted.
    until("it is counted", || relay.metrics.inbound_accepted.get() > 0).await;
    assert_eq!(relay.metrics.inbound_accepted.get(), 1);
    assert_ne!(items[0].lane, items[1].lane);
    // A full mailbox is a reason to come back: 452, kept in its queue, delivered when there is room.
    postfix.submit(&["full@our.example"], message).await;
    let refused = "inbound_refused_total{code=\"452\",stage=\"rcpt\"}";
    let mut waited = Duration::ZERO;
    while !relay.metrics.text().contains(refused) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += Duration::from_millis(20);
        assert!(waited < PATIENCE, "postfix never came");
    }
    assert_eq!(relay.items().await.len(), 2);
    let room = MailboxChange::Quota { items: None, bytes: None };
    let lifted = relay.spooler.call(|spool| spool.change_mailbox(FULL, room)).await;
    lifted.expect("commit").expect("changed");
    relay.wait_for_items(3).await;
    postfix.stop().await;
    relay.stop().await;
}
