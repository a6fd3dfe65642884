//! A true lane, and everything that can be done to its receipts.

use super::*;
use crate::gateway::receipts::{Kept, Seen};
use crate::identity::key::SecretKey;
use crate::mail::signed::Signed;
use spool::ids::{ItemId, Seq};

const NOW: u64 = 1_800_000_000_000;
const LANE: &str = "lane";

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn keys() -> TrustedKeys {
    let mut keys = TrustedKeys::default();
    keys.pin("k", key().key_text()).unwrap();
    keys
}

fn receipt(seq: u64, before: &[u8; 32]) -> Receipt {
    let n = u8::try_from(seq).unwrap();
    let (id, sha256, head_sha256) = (ItemId::new(WallMs(NOW), [n; 10]), [n; 32], [n ^ 0xff; 32]);
    Receipt {
        kind: Kind::Item,
        relay: "mx.example".into(),
        id,
        lane: LANE.into(),
        seq: Seq(seq),
        sha256,
        size: 10,
        head_sha256,
        chain: chain_step(before, Seq(seq), id, &head_sha256, &sha256),
        at: WallMs(NOW + seq),
        stream_id: None,
    }
}

fn entry(receipt: &Receipt) -> Entry {
    Entry {
        id: receipt.id.to_string(),
        seq: receipt.seq.0,
        fate: Fate::Stored,
        at_ms: NOW + 1000,
        verdict: "ok".into(),
        receipt: Some(receipt.sign("k", &key())),
        seen: None,
        kept: None,
    }
}

/// A lane of `n` items, from its beginning.
fn lane_of(n: u64) -> Vec<Entry> {
    let mut chain = [0; 32];
    (1..=n)
        .map(|seq| {
            let receipt = receipt(seq, &chain);
            chain = receipt.chain;
            entry(&receipt)
        })
        .collect()
}

fn archive(entries: Vec<Entry>) -> Archive {
    let begin = Line::Begin { seq: 0, at_ms: NOW };
    Archive {
        lines: std::iter::once(begin).chain(entries.into_iter().map(Line::Entry)).collect(),
        ..Archive::default()
    }
}

fn look(archive: &Archive, delivered: &[u64]) -> Report {
    let delivered = delivered.iter().copied().collect();
    audit(&Evidence { archive, keys: &keys(), lane: LANE, delivered: &delivered })
}

fn found(entries: Vec<Entry>) -> Vec<(What, u64)> {
    look(&archive(entries), &[]).findings.iter().map(|finding| (finding.what, finding.seq)).collect()
}

#[test]
fn a_true_lane_adds_up_in_any_order_and_with_repeats() {
    let report = look(&archive(lane_of(5)), &[1, 2, 3, 4, 5]);
    assert_eq!(report.findings, []);
    assert_eq!((report.items, report.positions, report.verified), (5, Some((1, 5)), 5));
    assert!(
        report.to_text().starts_with("ok: 5 receipts of items (positions 1 to 5)"),
        "{}",
        report.to_text()
    );
    let mut shuffled = lane_of(5);
    shuffled.swap(1, 3);
    shuffled.push(shuffled[0].clone());
    assert_eq!(found(shuffled), []);
    assert_eq!(found(Vec::new()), []);
}

#[test]
fn gaps_are_found_and_explained() {
    let mut entries = lane_of(7);
    entries.drain(2..4);
    let report = look(&archive(entries), &[1, 2, 5, 6, 7]);
    assert_eq!(report.findings.len(), 1);
    let text = report.to_text();
    assert!(text.starts_with("Positions 3 to 4 have no receipt here, between item "), "{text}");
    assert!(text.contains("(position 2) (accepted 2027-01-15T08:00:00.002Z)"), "{text}");
    assert!(text.contains("purged by its operator"), "{text}");
    let mut entries = lane_of(3);
    entries.remove(0);
    assert_eq!(found(entries), [(What::Gap, 1)]);
}

#[test]
fn a_receipt_that_was_taken_out_is_no_gap() {
    let mut entries = lane_of(5);
    entries.remove(2);
    let report = look(&archive(entries), &[1, 2, 3, 4, 5]);
    assert_eq!((report.findings[0].what, report.findings[0].seq), (What::NoReceipt, 3));
    assert_eq!(report.findings.len(), 1);
    let mut entries = lane_of(5);
    entries.pop();
    let report = look(&archive(entries), &[1, 2, 3, 4, 5]);
    assert_eq!((report.findings[0].what, report.findings[0].seq), (What::NoReceipt, 5));
}

#[test]
fn swaps_and_broken_chains_are_found() {
    let mut entries = lane_of(4);
    let other = Receipt { sha256: [0xaa; 32], ..receipt(3, &[0; 32]) };
    entries.push(entry(&other));
    assert_eq!(found(entries)[0], (What::Swap, 3));
    // History from position 3 on is another one, well signed.
    let mut entries = lane_of(2);
    entries.push(entry(&receipt(3, &[9; 32])));
    assert_eq!(found(entries), [(What::ChainBreak, 3)]);
    assert_eq!(found(vec![entry(&receipt(1, &[9; 32]))]), [(What::ChainBreak, 1)]);
}

#[test]
fn changed_foreign_and_moved_receipts_are_found() {
    let mut entries = lane_of(3);
    let signed = entries[1].receipt.as_mut().unwrap();
    signed.payload_base64 =
        entry(&Receipt { size: 11, ..receipt(2, &[0; 32]) }).receipt.unwrap().payload_base64;
    assert_eq!(found(entries), [(What::BadReceipt, 2)]);
    let mut entries = lane_of(3);
    entries[1].receipt = entries[1].receipt.take().map(|signed| Signed { key_id: "x".into(), ..signed });
    assert_eq!(found(entries), [(What::UnknownKey, 2)]);
    let mut entries = lane_of(3);
    entries[1].receipt = entries[0].receipt.clone();
    assert_eq!(found(entries), [(What::Misplaced, 2)]);
    let mut entries = lane_of(3);
    entries[1] = entry(&Receipt { lane: "other".into(), ..receipt(2, &[0; 32]) });
    assert_eq!(found(entries)[0], (What::Misplaced, 2));
    let mut entries = lane_of(3);
    entries[1].receipt = None;
    assert_eq!(found(entries)[0], (What::NoReceipt, 2));
}

fn seen(receipt: &Receipt) -> Seen {
    Seen {
        stream: receipt.stream_id.clone(),
        body: Some(Kept { size: receipt.size, sha256: HEXLOWER.encode(&receipt.sha256) }),
        head_sha256: Some(HEXLOWER.encode(&receipt.head_sha256)),
    }
}

#[test]
fn a_true_receipt_for_other_bytes_is_found() {
    let first = receipt(1, &[0; 32]);
    let swapped = Receipt { sha256: [0xbb; 32], ..first.clone() };
    let longer = Receipt { size: 11, ..first.clone() };
    let head = Receipt { head_sha256: [0xcc; 32], ..first.clone() };
    assert_eq!(found(vec![Entry { seen: Some(seen(&first)), ..entry(&first) }]), []);
    for came in [swapped, longer, head] {
        // Whatever the header field said then: the attestation's reason hides the receipt's.
        let verdict = "missing_attestation".to_owned();
        let other = Entry { seen: Some(seen(&came)), verdict, ..entry(&first) };
        assert_eq!(found(vec![other]), [(What::OtherBytes, 1)]);
    }
    let file = Entry { seen: Some(seen(&Receipt { size: 9, ..first.clone() })), ..entry(&first) };
    assert_eq!(expected(&file, &keys()).unwrap().0, 9, "the file is what came, whatever the receipt says");
}

#[test]
fn a_submission_has_a_receipt_for_itself() {
    let first = receipt(1, &[0; 32]);
    let first = Receipt { kind: Kind::Submission, stream_id: Some("s".into()), ..first };
    let handed = |seen: Seen, receipt: &Receipt| Entry {
        fate: Fate::Submitted,
        seq: 0,
        seen: Some(Seen { head_sha256: None, ..seen }),
        ..entry(receipt)
    };
    assert_eq!(found(vec![handed(seen(&first), &first)]), []);
    let of_another = Seen { stream: Some("t".into()), ..seen(&first) };
    assert_eq!(found(vec![handed(of_another, &first)]), [(What::Misplaced, 0)]);
    let other = seen(&Receipt { sha256: [0xbb; 32], ..first.clone() });
    assert_eq!(found(vec![handed(other.clone(), &first)]), [(What::OtherBytes, 1)]);
    // Refused at once: nothing of it was kept.
    assert_eq!(found(vec![handed(other, &Receipt { size: 0, ..first.clone() })]), []);
    let silent = Entry { receipt: None, id: "other".into(), ..handed(seen(&first), &first) };
    assert_eq!(found(vec![handed(seen(&first), &first), silent.clone()]), [(What::NoReceipt, 0)]);
    assert_eq!(found(vec![silent]), [], "a relay that gives none");
    // It had one, and is told again after the relay has forgotten its record.
    let again = Entry { receipt: None, ..handed(seen(&first), &first) };
    assert_eq!(found(vec![handed(seen(&first), &first), again]), []);
}

#[test]
fn no_position_hides_what_came_without_a_receipt() {
    for seq in [0, 1, 3, u64::MAX] {
        let mut entries = lane_of(3);
        entries.push(Entry { id: "x".into(), seq, receipt: None, ..entries[2].clone() });
        let delivered: &[u64] = if seq == 0 { &[1, 2, 3] } else { &[1, 2, 3, seq] };
        let findings = look(&archive(entries), delivered).findings;
        assert_eq!((findings.len(), findings[0].what, findings[0].seq), (1, What::NoReceipt, seq));
    }
    // On its way when the relay began to give receipts.
    let mut entries = lane_of(3);
    let early = Entry { id: "x".into(), receipt: None, at_ms: NOW, ..entries[0].clone() };
    entries[0] = early;
    let delivered: BTreeSet<u64> = [1, 2, 3].into();
    let archive = archive(entries);
    assert_eq!(look(&archive, &[1, 2, 3]).findings, [], "{delivered:?}");
}

#[test]
fn the_last_position_there_is_is_no_trap() {
    let first = lane_of(1);
    let last = Receipt { seq: Seq(u64::MAX), ..receipt(2, &[0; 32]) };
    let mut entries = first;
    entries.push(entry(&last));
    assert_eq!(look(&archive(entries.clone()), &[1, u64::MAX]).findings.len(), 1, "a gap");
    let mut archive = archive(entries);
    archive.lines[0] = Line::Begin { seq: u64::MAX, at_ms: NOW };
    look(&archive, &[1, 2, u64::MAX]);
}

#[test]
fn times_that_cannot_be_are_found() {
    let mut entries = lane_of(2);
    entries[1].at_ms = NOW - SKEW_MS - 10;
    assert_eq!(found(entries), [(What::Clock, 2)]);
    let first = receipt(1, &[0; 32]);
    let mut entries = vec![entry(&first)];
    entries.push(entry(&Receipt { at: WallMs(NOW - SKEW_MS - 10), ..receipt(2, &first.chain) }));
    assert_eq!(found(entries), [(What::Clock, 2)]);
}

#[test]
fn submissions_are_a_lane_of_their_own() {
    let submitted = |seq, before: &[u8; 32]| {
        let receipt = Receipt { kind: Kind::Submission, stream_id: Some("s".into()), ..receipt(seq, before) };
        (receipt.chain, Entry { fate: Fate::Submitted, seq: 0, ..entry(&receipt) })
    };
    let (chain, first) = submitted(1, &[0; 32]);
    let (_, second) = submitted(2, &chain);
    let (_, odd) = submitted(4, &chain);
    let mut entries = lane_of(2);
    entries.extend([first, second]);
    let report = look(&archive(entries.clone()), &[]);
    assert_eq!((report.submissions, report.findings), (2, vec![]));
    entries.push(odd);
    assert_eq!(found(entries), [(What::Gap, 3)]);
}

#[test]
fn what_was_before_the_receipts_or_compacted_is_no_gap() {
    let late: Vec<Entry> = lane_of(6).split_off(3);
    let mut archive = archive(late);
    archive.lines[0] = Line::Begin { seq: 3, at_ms: NOW };
    assert_eq!(look(&archive, &[1, 2, 3, 4, 5, 6]).findings, []);
    let mark = |chain: [u8; 32]| Mark { seq: 3, chain: HEXLOWER.encode(&chain) };
    archive.lines.remove(0);
    let third = custody::verify(lane_of(3)[2].receipt.as_ref().unwrap(), &keys()).unwrap();
    archive.checkpoint =
        Some(crate::gateway::receipts::Checkpoint { items: mark(third.chain), ..Default::default() });
    assert_eq!(look(&archive, &[1, 2, 3, 4, 5, 6]).findings, []);
    archive.checkpoint =
        Some(crate::gateway::receipts::Checkpoint { items: mark([5; 32]), ..Default::default() });
    assert_eq!(look(&archive, &[]).findings[0].what, What::ChainBreak);
}

#[test]
fn without_a_pinned_key_nothing_is_claimed() {
    let delivered = BTreeSet::new();
    let (archive, keys) = (archive(lane_of(2)), TrustedKeys::default());
    let report = audit(&Evidence { archive: &archive, keys: &keys, lane: LANE, delivered: &delivered });
    assert_eq!(report.findings[0].what, What::NoKey);
    let empty = Archive::default();
    let report = audit(&Evidence { archive: &empty, keys: &keys, lane: LANE, delivered: &delivered });
    assert!(report.to_text().starts_with("nothing to audit"), "{}", report.to_text());
}

#[test]
fn damaged_lines_are_told() {
    let mut archive = archive(lane_of(2));
    archive.damaged.push(("x.log".into(), 3));
    let report = look(&archive, &[]);
    assert_eq!((report.findings[0].what, report.findings.len()), (What::DamagedLine, 1));
}
