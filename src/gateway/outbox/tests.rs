//! The outbox on a real directory: what a commit, a start and time do to it.

use std::path::Path;

use super::*;
use crate::gateway::outbox::ledger::{expire, look, newest};

const ME: &str = "me@example.net";

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("outbox"),
        key: "k".to_owned(),
        retain: Duration::from_secs(1000),
        expire_after: Duration::from_secs(1000),
        min_free_bytes: 0,
    }
}

async fn queue(outbox: &Outbox, rcpts: &[&str], body: &[u8]) -> Vec<ItemId> {
    let rcpts: Vec<String> = rcpts.iter().map(|rcpt| (*rcpt).to_owned()).collect();
    let mut draft = outbox.draft(rcpts.len());
    draft.write(body).await.unwrap();
    draft.commit(ME, &rcpts).await.unwrap()
}

async fn state(outbox: &Outbox, id: ItemId) -> (State, bool) {
    let entry = outbox.story(id).await.unwrap().unwrap().entry;
    (entry.state, entry.pending)
}

async fn due(outbox: &Outbox) -> Vec<ItemId> {
    outbox.look(HashSet::new(), 100).await.unwrap().due.iter().map(|due| due.id).collect()
}

#[tokio::test]
async fn a_message_is_one_submission_per_recipient_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let body = vec![b'x'; 150_000];
    let ids = queue(&outbox, &["a@b.example", "c@d.example"], &body).await;
    let found = outbox.look(HashSet::new(), 10).await.unwrap();
    assert_eq!(found.due.iter().map(|due| due.id).collect::<Vec<_>>(), ids);
    for due in &found.due {
        let mut read = Vec::new();
        for n in 0..due.submission.pieces {
            read.extend_from_slice(&outbox.piece(&due.info, n).await.unwrap());
        }
        assert!(read == body);
        assert_eq!((due.submission.mail_from.as_str(), due.handed), (ME, false));
        assert_eq!(due.submission.stream, due.id.to_string());
    }
    let one = outbox.look(HashSet::from([ids[0]]), 1).await.unwrap();
    assert_eq!(one.due[0].id, ids[1], "what is under way is left out");
    let first = outbox.look(HashSet::new(), 1).await.unwrap();
    assert!(first.more && first.due.len() == 1);
    assert!(matches!(outbox.draft(1).commit(ME, &[]).await, Err(DraftError::Recipients)));
    assert!(matches!(open(settings(dir.path())), Err(OutboxError::InUse(_))));
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn a_commit_that_a_crash_has_torn_is_taken_out_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let whole = queue(&outbox, &["a@b.example", "c@d.example", "e@f.example"], b"whole").await;
    // What is left of a commit for three when the last record did not reach the disk.
    let rcpts = ["g@h.example", "i@j.example", "k@l.example"].map(str::to_owned);
    let mut draft = outbox.draft(3);
    draft.write(b"torn").await.unwrap();
    let torn = draft.commit_torn(ME, &rcpts, 2).await;
    assert_eq!(torn.len(), 2);
    drop(outbox);
    keeper.close().await;
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    assert_eq!(due(&outbox).await, whole);
    assert_eq!(outbox.counts().await.unwrap(), Counts { queued: 3, ..Counts::default() });
    let listed: Vec<String> = outbox.recent(10).await.unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(listed, whole.iter().rev().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(outbox.untold(None, 10).await.unwrap(), [], "nobody hears of it");
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn a_message_whose_last_part_is_gone_by_retention_is_not_torn() {
    let dir = tempfile::tempdir().unwrap();
    let forgetful = || Settings { retain: Duration::ZERO, ..settings(dir.path()) };
    let (outbox, keeper) = open(forgetful()).unwrap();
    let rcpts = ["waits@b.example", "accepted@d.example", "sent@f.example"];
    let ids = queue(&outbox, &rcpts, b"whole").await;
    outbox.accepted(ids[1], "at-relay".to_owned()).await.unwrap();
    outbox.end(ids[2], End::Sent, "so".to_owned()).await.unwrap();
    for _ in 0..10 {
        outbox.spooler().call(|spool| spool.maintain(clock::wall())).await.unwrap().unwrap();
    }
    assert!(outbox.story(ids[2]).await.unwrap().is_none());
    drop(outbox);
    keeper.close().await;
    // Also where the index has to be built anew.
    for index_is_lost in [false, true] {
        if index_is_lost {
            std::fs::remove_dir_all(dir.path().join("outbox/index")).unwrap();
        }
        let (outbox, keeper) = open(forgetful()).unwrap();
        assert_eq!(due(&outbox).await, ids[..1], "index lost: {index_is_lost}");
        assert_eq!(state(&outbox, ids[1]).await, (State::Accepted, true));
        drop(outbox);
        keeper.close().await;
    }
}

#[tokio::test]
async fn results_are_written_once_and_successes_need_no_telling() {
    // Q1, Q20
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["a@b.example", "c@d.example", "e@f.example"], b"x").await;
    for (&id, end, state_then) in [
        (&ids[0], End::Sent, State::Sent),
        (&ids[1], End::Failed, State::Failed),
        (&ids[2], End::Indeterminate, State::Indeterminate),
    ] {
        outbox.accepted(id, "at-relay".to_owned()).await.unwrap();
        assert_eq!(state(&outbox, id).await, (State::Accepted, true));
        assert_eq!(outbox.end(id, end, "so".to_owned()).await.unwrap(), Noted::New);
        for other in [End::Sent, End::Failed, End::Indeterminate] {
            assert_eq!(outbox.end(id, other, "again".to_owned()).await.unwrap(), Noted::Late);
        }
        assert_eq!(state(&outbox, id).await, (state_then, false));
        // What comes late changes nothing.
        outbox.accepted(id, "again".to_owned()).await.unwrap();
        outbox.later(id, clock::wall(), "again".to_owned()).await.unwrap();
        assert_eq!(state(&outbox, id).await, (state_then, false));
    }
    assert_eq!(due(&outbox).await, []);
    assert_eq!(outbox.untold(None, 10).await.unwrap(), ids[1..]);
    outbox.told(ids[1]).await.unwrap();
    outbox.told(ids[2]).await.unwrap();
    assert_eq!(outbox.untold(None, 10).await.unwrap(), []);
    let unknown = ItemId::new(WallMs(1), [1; 10]);
    assert_eq!(outbox.end(unknown, End::Sent, String::new()).await.unwrap(), Noted::Unknown);
    let story = outbox.story(ids[0]).await.unwrap().unwrap();
    assert_eq!(story.entry.relay_id, "at-relay");
    let states: Vec<State> = story.events.iter().map(|event| event.state).collect();
    assert_eq!(states, [State::Queued, State::Accepted, State::Sent]);
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn what_a_relay_with_ids_has_is_repeatable_and_what_another_has_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["a@b.example", "c@d.example", "e@f.example"], b"x").await;
    let found = outbox.look(HashSet::new(), 10).await.unwrap().due;
    assert!(outbox.seal(&found[0], true).await.unwrap());
    assert!(outbox.seal(&found[1], false).await.unwrap());
    assert!(outbox.seal(&found[2], false).await.unwrap());
    outbox.unseal(ids[2]).await.unwrap();
    assert_eq!(state(&outbox, ids[0]).await, (State::Queued, true));
    assert_eq!(state(&outbox, ids[1]).await, (State::Indeterminate, true));
    assert!(!outbox.seal(&found[1], false).await.unwrap(), "armed once");
    drop(outbox);
    keeper.close().await;
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    assert_eq!(state(&outbox, ids[0]).await, (State::Queued, true));
    assert_eq!(state(&outbox, ids[1]).await, (State::Indeterminate, false));
    let again = outbox.look(HashSet::new(), 10).await.unwrap().due;
    assert_eq!(
        again.iter().map(|due| (due.id, due.handed)).collect::<Vec<_>>(),
        [(ids[0], true), (ids[2], false)]
    );
    assert_eq!(outbox.untold(None, 10).await.unwrap(), [ids[1]]);
    // A relay with ids may have the first one; one without them must not get it.
    assert!(!outbox.seal(&again[0], false).await.unwrap());
    assert_eq!(state(&outbox, ids[0]).await, (State::Indeterminate, false));
    assert!(outbox.seal(&again[1], false).await.unwrap());
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn what_was_put_off_comes_forward_one_at_a_time_the_next_one_first() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["a@b.example", "c@d.example", "e@f.example"], b"x").await;
    assert_eq!(outbox.hasten(HashSet::new()).await.unwrap(), None, "all are due");
    for (id, seconds) in [(ids[0], 200), (ids[1], 100), (ids[2], 290)] {
        outbox.later(id, clock::wall().plus(seconds * 1000), "disk full".to_owned()).await.unwrap();
    }
    outbox.accepted(ids[2], "at-relay".to_owned()).await.unwrap();
    assert_eq!(due(&outbox).await, []);
    assert_eq!(outbox.hasten(HashSet::new()).await.unwrap(), Some(ids[1]));
    assert_eq!(due(&outbox).await, [ids[1]]);
    assert_eq!(outbox.hasten(HashSet::new()).await.unwrap(), Some(ids[0]));
    assert_eq!(
        outbox.hasten(HashSet::new()).await.unwrap(),
        None,
        "what waits for its result is not handed over again"
    );
    // Both may have come forward in the same millisecond.
    assert_eq!(HashSet::from_iter(due(&outbox).await), HashSet::from([ids[0], ids[1]]));
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn what_has_to_wait_for_itself_is_not_brought_forward_and_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["a@b.example", "c@d.example"], b"x").await;
    let alone = HashSet::from([ids[0]]);
    for (id, seconds) in [(ids[0], 100), (ids[1], 200)] {
        outbox.later(id, clock::wall().plus(seconds * 1000), "not now".to_owned()).await.unwrap();
    }
    assert_eq!(outbox.hasten(alone.clone()).await.unwrap(), Some(ids[1]));
    assert_eq!(outbox.hasten(alone.clone()).await.unwrap(), None);
    // Longer than anything else is put off, and nobody says that this is a clock's fault.
    outbox.later(ids[0], clock::wall().plus(2 * PUT_OFF_MS_MAX), "not now".to_owned()).await.unwrap();
    let found = outbox.look(alone, 10).await.unwrap();
    assert_eq!(found.due.iter().map(|due| due.id).collect::<Vec<_>>(), [ids[1]]);
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn a_time_that_a_clock_ahead_has_set_is_not_waited_for() {
    // P19
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["a@b.example", "c@d.example"], b"x").await;
    let soon = clock::wall().plus(PUT_OFF_MS_MAX - 60_000);
    outbox.later(ids[0], soon, "disk full".to_owned()).await.unwrap();
    outbox.later(ids[1], clock::wall().plus(86_400_000), "disk full".to_owned()).await.unwrap();
    let found = outbox.look(HashSet::new(), 10).await.unwrap();
    assert_eq!(found.due.iter().map(|due| due.id).collect::<Vec<_>>(), [ids[1]]);
    assert_eq!(found.next, Some(soon));
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn what_waits_too_long_ends_as_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["never@b.example", "perhaps@d.example", "has@f.example"], b"x").await;
    let found = outbox.look(HashSet::new(), 10).await.unwrap().due;
    outbox.seal(&found[1], true).await.unwrap();
    outbox.accepted(ids[2], String::new()).await.unwrap();
    let expire = async |for_results, seconds: u64| {
        let (patience, later) = (outbox.settings().expire_after, clock::wall().plus(seconds * 1000));
        outbox
            .spooler()
            .call(move |spool| expire(spool, patience, for_results, later))
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(expire(true, 900).await, 0, "too early");
    assert_eq!(expire(true, 1500).await, 2);
    assert_eq!(state(&outbox, ids[0]).await, (State::Failed, false));
    assert_eq!(state(&outbox, ids[1]).await, (State::Indeterminate, false));
    assert_eq!(state(&outbox, ids[2]).await, (State::Accepted, true));
    assert_eq!(expire(false, 2500).await, 0, "no session, no answer");
    assert_eq!(expire(true, 2500).await, 1);
    assert_eq!(state(&outbox, ids[2]).await, (State::Indeterminate, false));
    assert!(!outbox.seal(&found[0], true).await.unwrap(), "an end cannot be sent any more");
    assert!(!outbox.seal(&Due { handed: true, ..found[1].clone() }, true).await.unwrap());
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn a_damaged_record_ends_and_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    let ids = queue(&outbox, &["damaged@b.example", "whole@d.example"], b"x").await;
    let journal = dir.path().join("outbox/journal");
    for file in std::fs::read_dir(journal).unwrap().map(|file| file.unwrap().path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        let found: Vec<usize> = memchr::memmem::find_iter(&bytes, "damaged@b.example").collect();
        found.iter().for_each(|&at| bytes[at] ^= 1);
        if !found.is_empty() {
            // In place: the outbox has the file open.
            std::os::unix::fs::FileExt::write_all_at(
                &std::fs::File::options().write(true).open(&file).unwrap(),
                &bytes,
                0,
            )
            .unwrap();
        }
    }
    assert_eq!(due(&outbox).await, ids[1..]);
    assert!(outbox.record(ids[0]).await.is_err(), "it is damaged");
    outbox.accepted(ids[0], String::new()).await.unwrap();
    let late = clock::wall().plus(1_500_000);
    let patience = outbox.settings().expire_after;
    let ended = outbox.spooler().call(move |spool| expire(spool, patience, true, late)).await.unwrap();
    assert_eq!(ended, Ok(2));
    assert_eq!(outbox.untold(None, 10).await.unwrap(), ids);
    assert_eq!(outbox.counts().await.unwrap(), Counts { failed: 1, indeterminate: 1, ..Counts::default() });
    drop(outbox);
    keeper.close().await;
}

#[tokio::test]
async fn the_newest_is_found_and_lists_are_short() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, keeper) = open(settings(dir.path())).unwrap();
    assert_eq!(outbox.recent(5).await.unwrap(), []);
    let mailbox = outbox.mailbox();
    let mut ids = Vec::new();
    for _ in 0..75 {
        ids.extend(queue(&outbox, &["a@b.example"], b"x").await);
        let found = outbox
            .spooler()
            .query(move |spool| {
                let lane = spool.outbox(mailbox).unwrap().unwrap();
                newest(spool, lane).unwrap().map(|info| info.id)
            })
            .await
            .unwrap();
        assert_eq!(found, ids.last().copied());
    }
    let listed: Vec<String> = outbox.recent(5).await.unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(listed, ids.iter().rev().take(5).map(ToString::to_string).collect::<Vec<_>>());
    // A minute before they came.
    let before = clock::wall().0 - 60_000;
    let later = outbox
        .spooler()
        .query(move |spool| {
            look(spool, &HashSet::new(), 10, WallMs(before)).map(|look| (look.due.len(), look.next.is_some()))
        })
        .await
        .unwrap();
    assert_eq!(later, Ok((0, true)), "nothing is due before its time");
    drop(outbox);
    keeper.close().await;
}
