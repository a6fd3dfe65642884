//! The bytes of every record and of the segment header, against `golden/records.txt`.
//!
//! Changing one of these lines is a change of the format: it needs a new version, a reader for the old one, and
//! an entry under *Format and wire* in the changelog.

use crate::ids::{ItemId, Lsn, WallMs};
use crate::record::{
    self, BatchRecord, Header, InvitationRecord, ItemRecord, Kind, MailboxRecord, OutboundRecord, Record,
    STATE_RETIRED, SendingRecord, StateRecord, StateRef, StepRecord, TargetRecord, TwinRecord,
};
use crate::segment::SegmentHeader;
use crate::types::{ChunkRef, Transition};

const SEED: u32 = 0x5eed_0001;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn whole(kind: Kind, lsn: Lsn, payload: &[u8]) -> Vec<u8> {
    let header = Header { len: payload.len() as u32, kind: kind as u8, flags: 0, lsn }.encode();
    let crc = record::seal(record::payload_crc(SEED, payload), &header);
    [&header[..], payload, &crc.to_le_bytes()].concat()
}

fn samples() -> Vec<(&'static str, Kind, Vec<u8>, Record)> {
    let id = ItemId::new(WallMs(1_800_000_000_000), [0xab; 10]);
    let batch = BatchRecord { at_ms: 1_800_000_000_000, floor: Lsn::at(2, 64).0, epoch: 3 };
    let item = ItemRecord {
        body: id.0,
        body_bytes: 5,
        sha256: [0x11; 32],
        head: b"Received: x\r\n".to_vec(),
        meta: vec![1, 2],
        chunks: vec![ChunkRef { lsn: Lsn::at(3, 103).0, len: 5 }],
        accepted_ms: 1_800_000_000_001,
        fingerprint: Some([0x44; 32]),
        targets: vec![TargetRecord {
            lane: 7,
            seq: 42,
            id: id.0,
            tag: b"home@x".to_vec(),
            chain: [0x22; 32],
            first_segment: 2,
            history: vec![Transition { state: "ready".to_owned(), at_ms: 5, reason: "accepted".to_owned() }],
        }],
        outbound: None,
    };
    let outbound = OutboundRecord {
        lane: 7,
        destination: "mx.example".to_owned(),
        due_ms: 1_800_000_000_002,
        attempts: 3,
        told: true,
    };
    let submission = ItemRecord { outbound: Some(outbound), ..item.clone() };
    let step = StepRecord {
        to: 7,
        at_ms: 9,
        note: "why".to_owned(),
        due_ms: 11,
        attempts: 4,
        told: false,
        item: StateRef { lane: 7, seq: 42, item_lsn: 1, first_segment: 1, previous_lsn: 2 },
    };
    let state = StateRecord {
        to: STATE_RETIRED,
        at_ms: 9,
        reason: "why".to_owned(),
        items: vec![StateRef { lane: 7, seq: 42, item_lsn: 1, first_segment: 1, previous_lsn: 2 }],
    };
    let mailbox = MailboxRecord {
        lane: 7,
        name: "key".to_owned(),
        aliases: vec!["home@x".to_owned()],
        created_ms: 8,
        revoked: true,
        quota_items: Some(1),
        quota_bytes: None,
        sending: SendingRecord::default(),
        next_seq: 43,
        chain: [0x22; 32],
    };
    let sending = SendingRecord { per_hour: Some(5), recipients_per_day: None };
    let sender = MailboxRecord { sending, ..mailbox.clone() };
    let invitation = InvitationRecord {
        code_sha256: [0x44; 32],
        label: "aunt".to_owned(),
        aliases: vec!["aunt@x".to_owned()],
        quota_items: Some(3),
        quota_bytes: None,
        sending,
        created_ms: 12,
        until_ms: 13,
        ended: Some((14, 7)),
    };
    let twin = TwinRecord { fingerprint: [0x33; 32], id: id.0, until_ms: 10 };
    let mut chunk = record::encode_chunk_prefix(id, 0).to_vec();
    chunk.extend_from_slice(b"hello");
    let enc = |payload: Result<Vec<u8>, record::PayloadError>| payload.unwrap();
    vec![
        ("batch", Kind::Batch, enc(record::encode(Kind::Batch, &batch)), Record::Batch(batch)),
        ("body chunk", Kind::BodyChunk, chunk, Record::BodyChunk { body: id, number: 0 }),
        ("item", Kind::Item, enc(item.encode()), Record::Item(item)),
        ("state", Kind::State, enc(record::encode(Kind::State, &state)), Record::State(state)),
        ("mailbox", Kind::Mailbox, enc(mailbox.encode()), Record::Mailbox(mailbox)),
        ("twin", Kind::Twin, enc(record::encode(Kind::Twin, &twin)), Record::Twin(twin)),
        ("submission", Kind::Item, enc(submission.encode()), Record::Item(submission)),
        ("step", Kind::Step, enc(record::encode(Kind::Step, &step)), Record::Step(step)),
        ("mailbox with limits", Kind::Mailbox, enc(sender.encode()), Record::Mailbox(sender)),
        (
            "invitation",
            Kind::Invitation,
            enc(record::encode(Kind::Invitation, &invitation)),
            Record::Invitation(invitation),
        ),
    ]
}

#[test]
fn record_v1_bytes_are_unchanged() {
    let mut text = String::from(
        "# Format version 1, checksum seed 5eed0001. One line a record: name, then header, payload, checksum.\n",
    );
    let header = SegmentHeader { number: 3, epoch: 3, seed: SEED, previous: 2, previous_end: 4711 };
    text.push_str(&format!("segment header {}\n", hex(&header.encode())));
    for (name, kind, payload, record) in samples() {
        let bytes = whole(kind, Lsn::at(3, 64), &payload);
        let (head, rest) = bytes.split_at(record::HEADER_BYTES);
        let (body, crc) = rest.split_at(payload.len());
        text.push_str(&format!("{name} {} {} {}\n", hex(head), hex(body), hex(crc)));
        assert_eq!(record::decode(kind, &payload), Ok(record), "{name}");
    }
    let golden = include_str!("../golden/records.txt");
    assert_eq!(text, golden, "the format changed; see the module's words");
}
