//! The moment between the final dot and our reply (RFC 1047, Q30-Q35), and the end of the process (A12).

use std::time::Duration;

use spool::Spool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::relay::MailRelay;

const MESSAGE: &str = "Subject: once\r\nMessage-ID: <1@client.example>\r\n\r\nhello\r\n.\r\n";

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn in_data(relay: &MailRelay) -> Self {
        let stream = TcpStream::connect(relay.address).await.expect("connected");
        let mut client = Self { stream };
        client.expect("220").await;
        for (line, code) in [
            ("EHLO client.example\r\n", "250"),
            ("MAIL FROM:<a@client.example>\r\n", "250"),
            ("RCPT TO:<home@our.example>\r\n", "250"),
            ("DATA\r\n", "354"),
        ] {
            client.send(line).await;
            client.expect(code).await;
        }
        client
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
    }

    async fn expect(&mut self, code: &str) -> String {
        let mut reply = String::new();
        let mut buffer = [0; 1024];
        while !reply.ends_with("\r\n") {
            let read = timeout(Duration::from_secs(10), self.stream.read(&mut buffer)).await;
            let read = read.expect("a reply").expect("connection");
            assert_ne!(read, 0, "closed, wanted {code}");
            reply.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        }
        assert!(reply.starts_with(code), "wanted {code}, got {reply:?}");
        reply
    }

    /// Sends the message and leaves without a look at the answer.
    async fn send_and_vanish(mut self, message: &str) {
        self.send(message).await;
        drop(self);
    }
}

/// Waits until the relay has noticed that `n` sessions are over.
async fn sessions_over(relay: &MailRelay) {
    for _ in 0..2000 {
        if relay.metrics.smtp_connections_open.get() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("a session never ended");
}

#[tokio::test]
async fn a_message_whose_250_was_lost_is_kept_and_its_repeat_is_answered_with_the_first_id() {
    let relay = MailRelay::start().await;
    Client::in_data(&relay).await.send_and_vanish(MESSAGE).await; // Q30
    let first = relay.wait_for_items(1).await.remove(0);
    sessions_over(&relay).await;
    let mut again = Client::in_data(&relay).await;
    again.send(MESSAGE).await;
    let reply = again.expect("250 2.0.0").await; // Q31
    assert!(reply.contains(&first.id.to_string()), "{reply:?}");
    assert_eq!(relay.items().await.len(), 1);
    assert_eq!(relay.metrics.inbound_twins.get(), 1);
    // Q32: another body is another message.
    let mut other = Client::in_data(&relay).await;
    other.send(&MESSAGE.replace("<1@", "<2@")).await;
    other.expect("250 2.0.0").await;
    assert_eq!(relay.items().await.len(), 2);
    drop((again, other));
    relay.stop().await;
}

#[tokio::test]
async fn a_message_without_date_and_id_is_recognised_by_nobody() {
    let relay = MailRelay::start().await;
    let notice = "Subject: UPS on battery\r\n\r\n.\r\n";
    Client::in_data(&relay).await.send_and_vanish(notice).await;
    relay.wait_for_items(1).await;
    sessions_over(&relay).await;
    let mut again = Client::in_data(&relay).await;
    again.send(notice).await;
    again.expect("250 2.0.0").await; // Q32: the next notice, as far as anybody can tell
    assert_eq!(relay.items().await.len(), 2);
    assert_eq!(relay.metrics.inbound_twins.get(), 0);
    drop(again);
    relay.stop().await;
}

#[tokio::test]
async fn a_message_whose_250_was_heard_may_be_sent_twice() {
    let relay = MailRelay::start().await;
    for _ in 0..2 {
        let mut client = Client::in_data(&relay).await;
        client.send(MESSAGE).await;
        client.expect("250 2.0.0").await;
        client.send("QUIT\r\n").await;
        client.expect("221").await;
    }
    assert_eq!(relay.items().await.len(), 2);
    relay.stop().await;
}

#[tokio::test]
async fn twins_can_be_switched_off() {
    let relay = MailRelay::start_with(|plan| plan.intake.suppress_twins = false).await;
    Client::in_data(&relay).await.send_and_vanish(MESSAGE).await;
    relay.wait_for_items(1).await;
    sessions_over(&relay).await;
    let mut again = Client::in_data(&relay).await;
    again.send(MESSAGE).await;
    again.expect("250 2.0.0").await;
    assert_eq!(relay.items().await.len(), 2);
    drop(again);
    relay.stop().await;
}

#[tokio::test]
async fn stopping_ends_idle_sessions_and_finishes_a_message_under_way() {
    let relay = MailRelay::start().await;
    let mut idle = Client { stream: TcpStream::connect(relay.address).await.expect("connected") };
    idle.expect("220").await;
    let mut busy = Client::in_data(&relay).await;
    busy.send("Subject: half\r\n").await;
    relay.ask_to_stop();
    idle.expect("421 4.3.2").await; // A12
    busy.send("\r\nthe rest\r\n.\r\n").await;
    let replies = busy.expect("250 2.0.0").await;
    if !replies.contains("421 4.3.2") {
        busy.expect("421 4.3.2").await;
    }
    assert_eq!(relay.items().await.len(), 1);
    relay.stop().await;
}

#[tokio::test]
async fn a_message_that_does_not_finish_in_time_is_dropped_unanswered() {
    let relay = MailRelay::start_with(|plan| plan.intake.leave.whole = Duration::from_millis(100)).await;
    let mut busy = Client::in_data(&relay).await;
    busy.send("Subject: half\r\n").await;
    relay.ask_to_stop();
    let mut rest = Vec::new();
    // The end may come as a reset; a reply may not come.
    let _ = timeout(Duration::from_secs(10), busy.stream.read_to_end(&mut rest)).await.expect("it closes");
    assert_eq!(String::from_utf8_lossy(&rest), "");
    assert!(relay.items().await.is_empty());
    relay.stop().await;
}

/// Records in the journal so far.
async fn records(relay: &MailRelay) -> u64 {
    relay.spooler.query(|spool| spool.counters().records).await.expect("spool")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_takes_too_long_is_answered_451_and_its_repeat_is_no_second_message() {
    let relay = MailRelay::start_with(|plan| plan.intake.commit_timeout = Duration::from_secs(1)).await;
    let mut client = Client::in_data(&relay).await;
    let before = records(&relay).await;
    // The ledger is busy with something else until we let go.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let spooler = relay.spooler.clone();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let stall = tokio::spawn(async move {
        let busy = move |_: &mut Spool| {
            let _ = begin.send(());
            released.recv().is_err()
        };
        spooler.call(busy).await
    });
    begun.await.expect("the ledger is busy");
    client.send(MESSAGE).await;
    client.expect("451 4.3.0").await; // Q33
    drop(release);
    stall.await.expect("task").expect("commit");
    // It came through after all: chunk, item, and the memory of an unheard 250.
    while records(&relay).await < before + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // When the sender tries again he is told of that one.
    let first = relay.wait_for_items(1).await.remove(0);
    client.send("QUIT\r\n").await;
    client.expect("221").await;
    let mut again = Client::in_data(&relay).await;
    again.send(MESSAGE).await;
    let reply = again.expect("250 2.0.0").await;
    assert!(reply.contains(&first.id.to_string()), "{reply:?}");
    assert_eq!(relay.items().await.len(), 1);
    drop(again);
    relay.stop().await;
}
