//! The socket over a real one, and texts for people.

use super::*;

fn report() -> Report {
    Report {
        relay_url: "wss://relay.example.org/ws".to_owned(),
        key: "k".to_owned(),
        address: "k@mail.example.org".to_owned(),
        destination: "maildir".to_owned(),
        submission: String::new(),
        pid: Some(77),
        started_ms: 1000,
        status: Status::default(),
        outbox: Counts::default(),
        submissions: Vec::new(),
    }
}

#[test]
fn the_report_reads_well_in_every_state() {
    let mut report = report();
    let now = WallMs(61_000);
    assert!(report.to_text(now).contains("connection   connecting\n"));
    report.status.next_retry_ms = Some(62_500);
    report.status.note("no route", WallMs(51_000));
    let text = report.to_text(now);
    assert!(text.contains("not connected, next try in 2 s\n") && text.contains("no route (10 s ago)"));
    report.status.connected_since_ms = Some(31_000);
    report.status.tunnel = Some(2);
    assert!(report.to_text(now).contains("connected for 30 s (tunnel 2)"));
    assert!(report.to_text(now).contains("running for  60 s\n"));
}

#[test]
fn what_a_relay_or_a_server_said_steers_no_terminal() {
    let evil = "550 \u{1b}[2Jno\u{9b}31m";
    let entry = Entry { relay_id: evil.to_owned(), text: evil.to_owned(), ..Entry::default() };
    let event = crate::gateway::outbox::Event { text: evil.to_owned(), ..Default::default() };
    let story = Story { entry: entry.clone(), events: vec![event] };
    let mut report = report();
    report.status.note(evil, WallMs(51_000));
    report.submissions.push(entry);
    for text in [story.to_text(), report.to_text(WallMs(61_000))] {
        assert!(text.contains("550 ?[2Jno?31m"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[tokio::test]
async fn the_status_socket_tells_the_board() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = listen(&path).unwrap();
    let board = StatusBoard::default();
    board.update(|status| status.stored = 7);
    let (outbox, _keeper) = open(dir.path());
    let own = Own::new("k@mail.example.org", &[]);
    let desk = Desk { report: report(), board, outbox, own, message_bytes_max: 100, recipients_max: 2 };
    let telling = tokio::spawn(serve(listener, desk));
    let told = ask(&path).await.unwrap();
    assert_eq!(told.status.stored, 7);
    assert_eq!(told.key, "k");
    telling.abort();
    let _ = telling.await;
    assert!(ask(&path).await.is_err());
    // A dead process's socket is no obstacle.
    listen(&path).unwrap();
}

fn open(dir: &Path) -> (Outbox, crate::gateway::outbox::Keeper) {
    let settings = crate::gateway::outbox::Settings {
        dir: dir.join("outbox"),
        key: "k".to_owned(),
        retain: Duration::from_secs(100),
        expire_after: Duration::from_secs(100),
        min_free_bytes: 0,
    };
    crate::gateway::outbox::open(settings).unwrap()
}

#[tokio::test]
async fn a_message_is_taken_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = listen(&path).unwrap();
    let (outbox, keeper) = open(dir.path());
    let own = Own::new("k@mail.example.org", &[]);
    let board = StatusBoard::default();
    let desk = Desk {
        report: report(),
        board,
        outbox: outbox.clone(),
        own,
        message_bytes_max: 100_000,
        recipients_max: 2,
    };
    let telling = tokio::spawn(serve(listener, desk));
    let to = |rcpts: &[&str]| rcpts.iter().map(|rcpt| (*rcpt).to_owned()).collect::<Vec<_>>();
    let me = "k@mail.example.org";
    let message = vec![b'x'; 70_000];
    let taken = submit(&path, me, &to(&["a@b.example", "c@d.example"]), &message).await.unwrap();
    assert_eq!((taken.ids.len(), taken.error.as_str()), (2, ""));
    let story = ask_about(&path, &taken.ids[1]).await.unwrap().unwrap();
    assert_eq!((story.entry.rcpt_to.as_str(), story.entry.size_bytes), ("c@d.example", 70_000));
    assert!(story.to_text().contains("state        queued\n"), "{}", story.to_text());
    assert_eq!(ask_about(&path, "nonsense").await.unwrap(), None);
    // Refusals, with the message already on its way.
    for (from, rcpts, bytes) in [
        ("you@b.example", to(&["a@b.example"]), message.clone()),
        (me, to(&["a@b", "c@d", "e@f"]), message.clone()),
        (me, to(&["a@b"]), vec![b'x'; 100_001]),
        (me, to(&["a@b"]), Vec::new()),
    ] {
        let taken = submit(&path, from, &rcpts, &bytes).await.unwrap();
        assert!(taken.ids.is_empty() && !taken.error.is_empty() && !taken.temporary, "{taken:?}");
    }
    // A client that dies before the end has sent nothing.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = Request::Submit { mail_from: me.to_owned(), rcpt_to: to(&["a@b"]) };
    stream.write_all(&serde_json::to_vec(&request).unwrap()).await.unwrap();
    stream.write_all(b"\n\0\0\0\x05hello").await.unwrap();
    drop(stream);
    let report = ask(&path).await.unwrap();
    assert_eq!(report.outbox, Counts { queued: 2, ..Counts::default() });
    assert_eq!(report.submissions.len(), 2);
    assert_eq!(report.submissions[0].id, taken.ids[1], "newest first");
    assert!(report.to_text(WallMs(61_000)).contains("mail out     2 queued, 0 accepted"));
    telling.abort();
    keeper.close().await;
}
