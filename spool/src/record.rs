//! PURE: the bytes of every journal record. Exact layout in `DESIGN.md`; golden files hold it.
//!
//! A record is `len u32 | kind u8 | flags u8 | lsn u64 | payload | crc32c u32`, little-endian. The checksum
//! covers the payload first and the header after it, so that whoever streams a body computes the long part in
//! his own thread and the writer only adds fourteen bytes. It starts from the spool's secret seed, so that
//! no message content can imitate a record to a scan that lost its place.
//!
//! Decoding never panics and never believes a length before it has checked it.

use bincode::{Decode, Encode};

use crate::ids::{ItemId, Lsn};
use crate::types::{ChunkRef, Transition};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 14;
/// Bytes of a record beside its payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 4;
/// Largest payload, bytes: an item with a thousand targets and the chunk list of a 2 GiB body.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes in front of the message bytes in a chunk's payload: body id and chunk number.
pub const CHUNK_PREFIX_BYTES: usize = 20;
/// Version byte in front of every bincode payload.
const VERSION: u8 = 1;
/// The same for an item that is a submission.
const OUTBOUND_VERSION: u8 = 2;
/// Payload version of a mailbox with limits of its own for what it submits.
const LIMITS_VERSION: u8 = 2;

/// What a record says. Numbers are for ever; a kind that goes out of use keeps its number.
///
/// 18..=20 are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First record of a batch: everything before it was stable when it was written.
    Batch = 1,
    /// A piece of a body.
    BodyChunk = 2,
    /// Commits a body to its lanes.
    Item = 3,
    /// Moves items to another state.
    State = 4,
    /// A lane and its owner, whole.
    Mailbox = 5,
    /// A message whose sender may not have heard our 250.
    Twin = 6,
    /// Moves a submission to another state, and says when it is due.
    Step = 16,
    /// A right to become a mailbox, whole.
    Invitation = 17,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Batch,
            2 => Self::BodyChunk,
            3 => Self::Item,
            4 => Self::State,
            5 => Self::Mailbox,
            6 => Self::Twin,
            16 => Self::Step,
            17 => Self::Invitation,
            _ => return None,
        })
    }
}

/// The fixed part in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub len: u32,
    /// Kind number, not yet checked.
    pub kind: u8,
    /// Zero in this version.
    pub flags: u8,
    /// Where the record claims to lie.
    pub lsn: Lsn,
}

impl Header {
    /// Its fourteen bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&self.len.to_le_bytes());
        out[4] = self.kind;
        out[5] = self.flags;
        out[6..].copy_from_slice(&self.lsn.0.to_le_bytes());
        out
    }

    /// Reads the header of a record that must lie at `at`; `None` when these bytes cannot be one.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES], at: Lsn) -> Option<Self> {
        let header = Self {
            len: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            kind: bytes[4],
            flags: bytes[5],
            lsn: Lsn(u64::from_le_bytes(bytes[6..14].try_into().ok()?)),
        };
        (header.lsn == at && header.len as usize <= PAYLOAD_BYTES_MAX && header.kind != 0).then_some(header)
    }

    /// Bytes of the whole record.
    #[must_use]
    pub fn record_bytes(self) -> u64 {
        u64::from(self.len) + OVERHEAD_BYTES as u64
    }
}

/// Checksum of a payload alone, to be finished by [`seal`].
#[must_use]
pub fn payload_crc(seed: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, payload)
}

/// Checksum of the whole record from that of its payload.
#[must_use]
pub fn seal(payload_crc: u32, header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(payload_crc, header)
}

/// A payload does not decode; the checksum was right, so another program wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} payload does not decode: {problem}")]
pub struct PayloadError {
    /// What it claimed to be.
    pub kind: Kind,
    /// The codec's words.
    pub problem: String,
}

/// Payload of [`Kind::Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BatchRecord {
    /// Wall clock of the commit, milliseconds.
    pub at_ms: u64,
    /// An index that was applied to less than this lsn is of no use any more: segments are gone since.
    pub floor: u64,
    /// Boot epoch of the writer.
    pub epoch: u32,
}

/// Payload of [`Kind::Item`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRecord {
    /// Body id: the id of the first target.
    pub body: [u8; 16],
    /// Bytes of the body.
    pub body_bytes: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// Bytes handed out before the body.
    pub head: Vec<u8>,
    /// Opaque service metadata.
    pub meta: Vec<u8>,
    /// The body's pieces, in order.
    pub chunks: Vec<ChunkRef>,
    /// When it was accepted, milliseconds.
    pub accepted_ms: u64,
    /// What a repeat of the message would look like.
    pub fingerprint: Option<[u8; 32]>,
    /// Where it goes.
    pub targets: Vec<TargetRecord>,
    /// Set when one of the targets is a submission; such a record has payload version 2.
    pub outbound: Option<OutboundRecord>,
}

/// What an [`ItemRecord`] says of the submission among its targets.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutboundRecord {
    /// The target: its outbox.
    pub lane: u32,
    /// Name of the queue it waits in.
    pub destination: String,
    /// Not to be tried before, milliseconds.
    pub due_ms: u64,
    /// Attempts made so far.
    pub attempts: u8,
    /// Its gateway has the result.
    pub told: bool,
}

/// What version 1 and version 2 of an item's payload have in common.
#[derive(Encode, Decode)]
struct ItemV1 {
    body: [u8; 16],
    body_bytes: u64,
    sha256: [u8; 32],
    head: Vec<u8>,
    meta: Vec<u8>,
    chunks: Vec<ChunkRef>,
    accepted_ms: u64,
    fingerprint: Option<[u8; 32]>,
    targets: Vec<TargetRecord>,
}

/// Version 2: a submission is among the targets.
#[derive(Encode, Decode)]
struct ItemV2 {
    item: ItemV1,
    outbound: OutboundRecord,
}

impl ItemRecord {
    fn from_v1(item: ItemV1, outbound: Option<OutboundRecord>) -> Self {
        let ItemV1 { body, body_bytes, sha256, head, meta, chunks, accepted_ms, fingerprint, targets } = item;
        Self { body, body_bytes, sha256, head, meta, chunks, accepted_ms, fingerprint, targets, outbound }
    }

    /// Its payload.
    ///
    /// # Errors
    /// [`PayloadError`] when it is larger than a record may be.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        let item = ItemV1 {
            body: self.body,
            body_bytes: self.body_bytes,
            sha256: self.sha256,
            head: self.head.clone(),
            meta: self.meta.clone(),
            chunks: self.chunks.clone(),
            accepted_ms: self.accepted_ms,
            fingerprint: self.fingerprint,
            targets: self.targets.clone(),
        };
        match self.outbound.clone() {
            None => encode_as(VERSION, Kind::Item, &item),
            Some(outbound) => encode_as(OUTBOUND_VERSION, Kind::Item, &ItemV2 { item, outbound }),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.first() == Some(&OUTBOUND_VERSION) {
            let ItemV2 { item, outbound } = payload_as(OUTBOUND_VERSION, Kind::Item, bytes)?;
            return Ok(Self::from_v1(item, Some(outbound)));
        }
        Ok(Self::from_v1(payload(Kind::Item, bytes)?, None))
    }

    /// The body cannot be found by its own id alone: it has several items, or the first one is gone.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.targets.len() != 1 || self.targets.first().is_some_and(|target| target.id != self.body)
    }

    /// Bytes of journal that the item takes beside [`ItemRecord::size_bytes`], near enough to choose segments by.
    #[must_use]
    pub fn overhead_bytes(&self) -> u64 {
        const FIXED_BYTES: usize = 2 * OVERHEAD_BYTES + 100;
        const TARGET_BYTES: usize = 90;
        const CHUNK_BYTES: usize = OVERHEAD_BYTES + CHUNK_PREFIX_BYTES + 12;
        let targets: usize = self.targets.iter().map(|target| target.tag.len() + TARGET_BYTES).sum();
        (FIXED_BYTES + self.meta.len() + targets + self.chunks.len() * CHUNK_BYTES) as u64
    }

    /// Bytes handed to a gateway.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.head.len() as u64 + self.body_bytes
    }
}

/// One lane's part of an [`ItemRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TargetRecord {
    /// Lane number.
    pub lane: u32,
    /// Position in the lane.
    pub seq: u64,
    /// Item id.
    pub id: [u8; 16],
    /// Opaque per-target metadata.
    pub tag: Vec<u8>,
    /// The lane's chain after this item.
    pub chain: [u8; 32],
    /// Segment of the first record of this item; 0: this one is the first.
    pub first_segment: u32,
    /// What happened to it before this copy was made, oldest first; empty in the first record.
    pub history: Vec<Transition>,
}

/// The state number that removes an item entirely; see `DESIGN.md`, "Reclaim".
pub const STATE_RETIRED: u8 = 255;

/// Payload of [`Kind::State`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateRecord {
    /// Number of the state entered ([`crate::entry::state_code`], or [`STATE_RETIRED`]).
    pub to: u8,
    /// When, milliseconds.
    pub at_ms: u64,
    /// Why; may be empty.
    pub reason: String,
    /// Which items.
    pub items: Vec<StateRef>,
}

/// One item of a [`StateRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateRef {
    /// Lane number.
    pub lane: u32,
    /// Position.
    pub seq: u64,
    /// Lsn of the item's newest record at that time.
    pub item_lsn: u64,
    /// Segment of the item's first record: older copies lie between there and `item_lsn`.
    pub first_segment: u32,
    /// Lsn of the record of its previous state (the item record for the first change).
    pub previous_lsn: u64,
}

/// Payload of [`Kind::Step`]: where a submission stands, whole, so that the newest one is all that is needed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StepRecord {
    /// Number of the state it is in now ([`crate::entry::state_code`]).
    pub to: u8,
    /// When, milliseconds.
    pub at_ms: u64,
    /// The service's note.
    pub note: String,
    /// Not to be tried before, milliseconds.
    pub due_ms: u64,
    /// Attempts made so far.
    pub attempts: u8,
    /// Its gateway has the result.
    pub told: bool,
    /// Which submission.
    pub item: StateRef,
}

impl From<StepRecord> for StateRecord {
    fn from(step: StepRecord) -> Self {
        Self { to: step.to, at_ms: step.at_ms, reason: step.note, items: vec![step.item] }
    }
}

/// Payload of [`Kind::Mailbox`]: the whole lane, not a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxRecord {
    /// Lane number.
    pub lane: u32,
    /// Its name.
    pub name: String,
    /// Other names, sorted.
    pub aliases: Vec<String>,
    /// When it was registered, milliseconds.
    pub created_ms: u64,
    /// May no longer receive or connect.
    pub revoked: bool,
    /// Own limit of items.
    pub quota_items: Option<u64>,
    /// Own limit of bytes.
    pub quota_bytes: Option<u64>,
    /// Own limits of what it submits; a record with one of them has payload version 2.
    pub sending: SendingRecord,
    /// The seq the next item gets.
    pub next_seq: u64,
    /// The chain after the newest item.
    pub chain: [u8; 32],
}

/// Own limits of what a mailbox submits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SendingRecord {
    /// Submissions per hour.
    pub per_hour: Option<u32>,
    /// Recipients elsewhere per day.
    pub recipients_per_day: Option<u32>,
}

/// What version 1 and version 2 of a mailbox's payload have in common.
#[derive(Encode, Decode)]
struct MailboxV1 {
    lane: u32,
    name: String,
    aliases: Vec<String>,
    created_ms: u64,
    revoked: bool,
    quota_items: Option<u64>,
    quota_bytes: Option<u64>,
    next_seq: u64,
    chain: [u8; 32],
}

/// Version 2: it has limits of its own for what it submits.
#[derive(Encode, Decode)]
struct MailboxV2 {
    mailbox: MailboxV1,
    sending: SendingRecord,
}

impl MailboxRecord {
    fn from_v1(old: MailboxV1, sending: SendingRecord) -> Self {
        let MailboxV1 { lane, name, aliases, created_ms, revoked, quota_items, quota_bytes, next_seq, chain } =
            old;
        Self { lane, name, aliases, created_ms, revoked, quota_items, quota_bytes, sending, next_seq, chain }
    }

    /// Its payload.
    ///
    /// # Errors
    /// [`PayloadError`] when it is larger than a record may be.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        let mailbox = MailboxV1 {
            lane: self.lane,
            name: self.name.clone(),
            aliases: self.aliases.clone(),
            created_ms: self.created_ms,
            revoked: self.revoked,
            quota_items: self.quota_items,
            quota_bytes: self.quota_bytes,
            next_seq: self.next_seq,
            chain: self.chain,
        };
        if self.sending == SendingRecord::default() {
            return encode(Kind::Mailbox, &mailbox);
        }
        encode_as(LIMITS_VERSION, Kind::Mailbox, &MailboxV2 { mailbox, sending: self.sending })
    }

    fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.first() == Some(&LIMITS_VERSION) {
            let MailboxV2 { mailbox, sending } = payload_as(LIMITS_VERSION, Kind::Mailbox, bytes)?;
            return Ok(Self::from_v1(mailbox, sending));
        }
        Ok(Self::from_v1(payload(Kind::Mailbox, bytes)?, SendingRecord::default()))
    }
}

/// Payload of [`Kind::Invitation`]: the whole invitation, not a difference.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InvitationRecord {
    /// SHA-256 of the code.
    pub code_sha256: [u8; 32],
    /// Whom it is for, in the operator's words.
    pub label: String,
    /// Aliases of the mailbox that it becomes.
    pub aliases: Vec<String>,
    /// Own limit of items.
    pub quota_items: Option<u64>,
    /// Own limit of bytes.
    pub quota_bytes: Option<u64>,
    /// Own limits of what it submits.
    pub sending: SendingRecord,
    /// When it was made, milliseconds.
    pub created_ms: u64,
    /// Until when it may be redeemed, milliseconds.
    pub until_ms: u64,
    /// When it was redeemed and by which lane, or withdrawn (lane 0), milliseconds.
    pub ended: Option<(u64, u32)>,
}

/// Payload of [`Kind::Twin`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TwinRecord {
    /// What a repeat would look like.
    pub fingerprint: [u8; 32],
    /// The item that a repeat is answered with.
    pub id: [u8; 16],
    /// Until when, milliseconds.
    pub until_ms: u64,
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// See [`BatchRecord`].
    Batch(BatchRecord),
    /// See [`Kind::BodyChunk`]; the bytes stay where they are.
    BodyChunk {
        /// The body.
        body: ItemId,
        /// Number of the piece, from 0.
        number: u32,
    },
    /// See [`ItemRecord`].
    Item(ItemRecord),
    /// See [`StateRecord`].
    State(StateRecord),
    /// See [`MailboxRecord`].
    Mailbox(MailboxRecord),
    /// See [`TwinRecord`].
    Twin(TwinRecord),
    /// See [`StepRecord`].
    Step(StepRecord),
    /// See [`InvitationRecord`].
    Invitation(InvitationRecord),
}

fn codec() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<PAYLOAD_BYTES_MAX>()
}

/// A payload of one of our structs: version byte, then bincode in its `legacy` layout.
///
/// `value` must be one of this module's records: none of them can fail to encode below
/// [`PAYLOAD_BYTES_MAX`] when the limits of [`crate::types`] hold.
///
/// # Errors
/// [`PayloadError`] when the value is larger than a record may be.
pub fn encode<T: Encode>(kind: Kind, value: &T) -> Result<Vec<u8>, PayloadError> {
    encode_as(VERSION, kind, value)
}

fn encode_as<T: Encode>(version: u8, kind: Kind, value: &T) -> Result<Vec<u8>, PayloadError> {
    let mut out = vec![version];
    bincode::encode_into_std_write(value, &mut out, codec())
        .map_err(|error| PayloadError { kind, problem: error.to_string() })?;
    if out.len() > PAYLOAD_BYTES_MAX {
        return Err(PayloadError { kind, problem: format!("{} bytes are too many", out.len()) });
    }
    Ok(out)
}

fn payload<T: Decode<()>>(kind: Kind, bytes: &[u8]) -> Result<T, PayloadError> {
    payload_as(VERSION, kind, bytes)
}

fn payload_as<T: Decode<()>>(version: u8, kind: Kind, bytes: &[u8]) -> Result<T, PayloadError> {
    let refuse = |problem: String| PayloadError { kind, problem };
    match bytes.split_first() {
        Some((known, rest)) if *known == version => match bincode::decode_from_slice(rest, codec()) {
            Ok((value, used)) if used == rest.len() => Ok(value),
            Ok((_, used)) => Err(refuse(format!("{} bytes too many", rest.len() - used))),
            Err(error) => Err(refuse(error.to_string())),
        },
        Some((other, _)) => Err(refuse(format!("version {other} is unknown"))),
        None => Err(refuse("empty".to_owned())),
    }
}

/// Reads the payload of a record whose checksum was right.
///
/// # Errors
/// [`PayloadError`] when it is not what `kind` promises.
pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Record, PayloadError> {
    Ok(match kind {
        Kind::Batch => Record::Batch(payload(kind, bytes)?),
        Kind::BodyChunk => {
            let (body, number) = chunk_prefix(bytes)
                .ok_or_else(|| PayloadError { kind, problem: "shorter than its prefix".to_owned() })?;
            Record::BodyChunk { body, number }
        }
        Kind::Item => Record::Item(ItemRecord::decode(bytes)?),
        Kind::State => Record::State(payload(kind, bytes)?),
        Kind::Mailbox => Record::Mailbox(MailboxRecord::decode(bytes)?),
        Kind::Twin => Record::Twin(payload(kind, bytes)?),
        Kind::Step => Record::Step(payload(kind, bytes)?),
        Kind::Invitation => Record::Invitation(payload(kind, bytes)?),
    })
}

/// The first bytes of a chunk's payload.
#[must_use]
pub fn encode_chunk_prefix(body: ItemId, number: u32) -> [u8; CHUNK_PREFIX_BYTES] {
    let mut out = [0; CHUNK_PREFIX_BYTES];
    out[..16].copy_from_slice(&body.0);
    out[16..].copy_from_slice(&number.to_le_bytes());
    out
}

/// Body id and chunk number from the start of a chunk's payload.
#[must_use]
pub fn chunk_prefix(payload: &[u8]) -> Option<(ItemId, u32)> {
    let body = ItemId(payload.get(..16)?.try_into().ok()?);
    let number = u32::from_le_bytes(payload.get(16..20)?.try_into().ok()?);
    Some((body, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_of_another_place_is_refused() {
        let header = Header { len: 5, kind: 3, flags: 0, lsn: Lsn::at(1, 64) };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, Lsn::at(1, 64)), Some(header));
        assert_eq!(Header::decode(&bytes, Lsn::at(2, 64)), None);
        assert_eq!(Header::decode(&[0; HEADER_BYTES], Lsn(0)), None, "zero fill is no record");
    }

    #[test]
    fn seed_changes_the_checksum() {
        let header = Header { len: 1, kind: 3, flags: 0, lsn: Lsn(64) }.encode();
        assert_ne!(seal(payload_crc(1, b"x"), &header), seal(payload_crc(2, b"x"), &header));
    }

    #[test]
    fn unknown_version_and_trailing_bytes_are_typed_errors() {
        let batch = BatchRecord { at_ms: 1, floor: 2, epoch: 3 };
        let mut bytes = encode(Kind::Batch, &batch).unwrap();
        assert_eq!(decode(Kind::Batch, &bytes), Ok(Record::Batch(batch)));
        bytes.push(0);
        assert!(decode(Kind::Batch, &bytes).is_err());
        assert!(decode(Kind::Batch, &[9, 0]).is_err());
        assert!(decode(Kind::Batch, &[]).is_err());
        assert!(decode(Kind::BodyChunk, &[0; 19]).is_err());
    }
}
