//! Every stored value: decoding inverts encoding, and no bytes whatsoever make a decoder panic.

use proptest::prelude::*;
use spool::entry::{self, Entry};
use spool::ids::{ItemId, Lsn, Seq, WallMs};
use spool::record::{
    self, BatchRecord, Header, InvitationRecord, ItemRecord, Kind, MailboxRecord, OutboundRecord, Record,
    SendingRecord, StateRecord, StateRef, StepRecord, TargetRecord, TwinRecord,
};
use spool::segment::SegmentHeader;
use spool::types::{ChunkRef, Transition};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

fn transition() -> impl Strategy<Value = Transition> {
    ("[a-z]{0,12}", any::<u64>(), ".{0,40}").prop_map(|(state, at_ms, reason)| Transition {
        state,
        at_ms,
        reason,
    })
}

fn target() -> impl Strategy<Value = TargetRecord> {
    (any::<(u32, u64, [u8; 16], [u8; 32], u32)>(), bytes(60), proptest::collection::vec(transition(), 0..4))
        .prop_map(|((lane, seq, id, chain, first_segment), tag, history)| TargetRecord {
            lane,
            seq,
            id,
            tag,
            chain,
            first_segment,
            history,
        })
}

fn outbound() -> impl Strategy<Value = Option<OutboundRecord>> {
    let some = (any::<(u32, u64, u8, bool)>(), "[a-z.]{0,30}").prop_map(
        |((lane, due_ms, attempts, told), destination)| OutboundRecord {
            lane,
            destination,
            due_ms,
            attempts,
            told,
        },
    );
    proptest::option::of(some)
}

fn step() -> impl Strategy<Value = StepRecord> {
    (any::<(u8, u64, u64, u8, bool)>(), ".{0,60}", any::<(u32, u64, u64, u32, u64)>()).prop_map(
        |((to, at_ms, due_ms, attempts, told), note, (lane, seq, item_lsn, first_segment, previous_lsn))| {
            let item = StateRef { lane, seq, item_lsn, first_segment, previous_lsn };
            StepRecord { to, at_ms, note, due_ms, attempts, told, item }
        },
    )
}

fn item() -> impl Strategy<Value = ItemRecord> {
    let chunks = proptest::collection::vec(any::<(u64, u32)>(), 0..9);
    let targets = proptest::collection::vec(target(), 0..4);
    (
        any::<([u8; 16], u64, [u8; 32], u64, Option<[u8; 32]>)>(),
        bytes(90),
        bytes(90),
        chunks,
        targets,
        outbound(),
    )
        .prop_map(
            |(
                (body, body_bytes, sha256, accepted_ms, fingerprint),
                head,
                meta,
                chunks,
                targets,
                outbound,
            )| {
                ItemRecord {
                    body,
                    body_bytes,
                    sha256,
                    head,
                    meta,
                    chunks: chunks.into_iter().map(|(lsn, len)| ChunkRef { lsn, len }).collect(),
                    accepted_ms,
                    fingerprint,
                    targets,
                    outbound,
                }
            },
        )
}

fn state() -> impl Strategy<Value = StateRecord> {
    let items = proptest::collection::vec(any::<(u32, u64, u64, u32, u64)>(), 0..9);
    (any::<(u8, u64)>(), ".{0,60}", items).prop_map(|((to, at_ms), reason, items)| StateRecord {
        to,
        at_ms,
        reason,
        items: items
            .into_iter()
            .map(|(lane, seq, item_lsn, first_segment, previous_lsn)| StateRef {
                lane,
                seq,
                item_lsn,
                first_segment,
                previous_lsn,
            })
            .collect(),
    })
}

fn mailbox() -> impl Strategy<Value = MailboxRecord> {
    let aliases = proptest::collection::vec(".{0,30}", 0..5);
    let numbers =
        any::<(u32, u64, bool, Option<u64>, Option<u64>, (Option<u32>, Option<u32>), u64, [u8; 32])>();
    (numbers, ".{0,60}", aliases).prop_map(
        |((lane, created_ms, revoked, quota_items, quota_bytes, sending, next_seq, chain), name, aliases)| {
            MailboxRecord {
                lane,
                name,
                aliases,
                created_ms,
                revoked,
                quota_items,
                quota_bytes,
                sending: SendingRecord { per_hour: sending.0, recipients_per_day: sending.1 },
                next_seq,
                chain,
            }
        },
    )
}

fn invitation() -> impl Strategy<Value = InvitationRecord> {
    let numbers =
        any::<([u8; 32], Option<u64>, Option<u64>, Option<u32>, Option<u32>, u64, u64, Option<(u64, u32)>)>();
    (numbers, ".{0,60}", proptest::collection::vec(".{0,30}", 0..5)).prop_map(|(numbers, label, aliases)| {
        let (
            code_sha256,
            quota_items,
            quota_bytes,
            per_hour,
            recipients_per_day,
            created_ms,
            until_ms,
            ended,
        ) = numbers;
        let sending = SendingRecord { per_hour, recipients_per_day };
        InvitationRecord {
            code_sha256,
            label,
            aliases,
            quota_items,
            quota_bytes,
            sending,
            created_ms,
            until_ms,
            ended,
        }
    })
}

fn any_record() -> impl Strategy<Value = (Kind, Record, Vec<u8>)> {
    let encoded = |kind, record: Record| {
        let encoded = match &record {
            Record::Item(item) => item.encode(),
            Record::State(state) => record::encode(kind, state),
            Record::Mailbox(mailbox) => mailbox.encode(),
            Record::Invitation(invitation) => record::encode(kind, invitation),
            Record::Twin(twin) => record::encode(kind, twin),
            Record::Step(step) => record::encode(kind, step),
            Record::Batch(batch) => record::encode(kind, batch),
            Record::BodyChunk { body, number } => Ok(record::encode_chunk_prefix(*body, *number).to_vec()),
        };
        (kind, record, encoded.unwrap_or_default())
    };
    prop_oneof![
        item().prop_map(move |value| encoded(Kind::Item, Record::Item(value))),
        state().prop_map(move |value| encoded(Kind::State, Record::State(value))),
        step().prop_map(move |value| encoded(Kind::Step, Record::Step(value))),
        mailbox().prop_map(move |value| encoded(Kind::Mailbox, Record::Mailbox(value))),
        invitation().prop_map(move |value| encoded(Kind::Invitation, Record::Invitation(value))),
        any::<([u8; 32], [u8; 16], u64)>().prop_map(move |(fingerprint, id, until_ms)| {
            encoded(Kind::Twin, Record::Twin(TwinRecord { fingerprint, id, until_ms }))
        }),
        any::<(u64, u64, u32)>().prop_map(move |(at_ms, floor, epoch)| {
            encoded(Kind::Batch, Record::Batch(BatchRecord { at_ms, floor, epoch }))
        }),
        any::<([u8; 16], u32)>().prop_map(move |(body, number)| {
            encoded(Kind::BodyChunk, Record::BodyChunk { body: ItemId(body), number })
        }),
    ]
}

const KINDS: [Kind; 7] =
    [Kind::Batch, Kind::BodyChunk, Kind::Item, Kind::State, Kind::Mailbox, Kind::Twin, Kind::Step];

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn decode_inverts_encode((kind, record, bytes) in any_record()) {
        prop_assert_eq!(record::decode(kind, &bytes), Ok(record));
    }

    #[test]
    fn decode_inverts_encode_of_headers(
        len in 0..record::PAYLOAD_BYTES_MAX as u32, kind in 1..=255u8, flags in any::<u8>(), lsn in any::<u64>(),
        fields in any::<(u32, u32, u32, u32, u32)>(),
    ) {
        let header = Header { len, kind, flags, lsn: Lsn(lsn) };
        prop_assert_eq!(Header::decode(&header.encode(), Lsn(lsn)), Some(header));
        let (number, epoch, seed, previous, previous_end) = fields;
        let header = SegmentHeader { number, epoch, seed, previous, previous_end };
        prop_assert_eq!(SegmentHeader::decode(&header.encode(), number), Ok(header));
    }

    #[test]
    fn decode_inverts_encode_of_entries(
        code in 1..=10u8, outbound in proptest::option::of((0..=entry::ATTEMPTS_MAX, any::<bool>())),
        numbers in any::<(u32, u16, u32, u64, u64, u64, u64)>(), seq in 0..1u64 << 60,
    ) {
        let (size_bytes, overhead_bytes, first_segment, item_lsn, state_lsn, accepted_at, changed_at) = numbers;
        let value = Entry {
            state: entry::state_from_code(code).unwrap(),
            size_bytes,
            overhead_bytes,
            first_segment,
            item_lsn: Lsn(item_lsn),
            state_lsn: Lsn(state_lsn),
            accepted_at: WallMs(accepted_at),
            changed_at: WallMs(changed_at),
            outbound: outbound.map(|(attempts, told)| entry::Outbound { attempts, told }),
        };
        let mut block = Vec::new();
        entry::put(&mut block, Seq(seq), value);
        prop_assert_eq!(entry::get(&block, Seq(seq)), Some(value));
        prop_assert_eq!(entry::entries(entry::block_of(Seq(seq)), &block).count(), 1);
    }

    #[test]
    fn decoding_perturbed_bytes_never_panics(
        (kind, _, mut bytes) in any_record(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(), noise in bytes(120),
    ) {
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        let shorter = &bytes[..cut.index(bytes.len() + 1)];
        for kind in KINDS.into_iter().chain([kind]) {
            let _ = (record::decode(kind, &bytes), record::decode(kind, shorter), record::decode(kind, &noise));
        }
        let _ = (entry::get(&noise, Seq(3)), entry::entries(7, &noise).count());
        let _ = (entry::bucket_entries(&noise).count(), entry::due_of_key(&noise));
        let _ = (entry::block_of_key(&noise), entry::lane_of_key(&noise), record::chunk_prefix(&noise));
    }
}
