//! How a message gets in: its body streams into the journal, and one record makes it visible.
//!
//! Nothing of a body can be seen before its item record is stable, and one record commits it to all of its
//! lanes, so that a crash leaves all or none. Chunks of a body that was abandoned, or whose session died with
//! the process, are garbage of their segments.

use sha2::{Digest, Sha256};

use crate::error::{AcceptError, SpoolError};
use crate::ids::{ItemId, LaneId, Seq, WallMs};
use crate::index::Tree;
use crate::journal::{AppendError, Class};
use crate::lane::Lane;
use crate::record::{self, CHUNK_PREFIX_BYTES, ItemRecord, Kind, Record, TargetRecord, TwinRecord};
use crate::spool::{OPEN_BODIES_MAX, OpenBody, Spool};
use crate::types::{
    BodyId, CHUNK_BYTES_MAX, ChunkRef, HEAD_BYTES_MAX, META_BYTES_MAX, NewMessage, TARGETS_MAX,
};

/// Largest body, bytes: sizes in the index are 32 bits wide.
pub const BODY_BYTES_MAX: u64 = 1 << 31;

/// One piece of a body, made ready by whoever streams it so that the ledger's thread need not touch the bytes.
#[derive(Debug)]
pub struct Chunk {
    payload: Vec<u8>,
    crc: u32,
}

/// Builds [`Chunk`]s of one body without copying what was read from the socket more than once.
#[derive(Debug)]
pub struct ChunkBuilder {
    body: BodyId,
    number: u32,
    seed: u32,
    payload: Vec<u8>,
}

impl ChunkBuilder {
    /// For the body `body`; `seed` is the reader's [`crate::reader::JournalReader::seed`].
    #[must_use]
    pub fn new(body: BodyId, seed: u32) -> Self {
        Self { body, number: 0, seed, payload: Vec::new() }
    }

    /// Bytes gathered for the next chunk.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.len().saturating_sub(CHUNK_PREFIX_BYTES)
    }

    /// Nothing gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes as much of `bytes` as fits into one chunk; answers how much.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        if self.payload.is_empty() {
            self.payload.extend_from_slice(&record::encode_chunk_prefix(self.body, self.number));
        }
        let room = CHUNK_BYTES_MAX - self.len();
        let taken = room.min(bytes.len());
        self.payload.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Nothing more fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == CHUNK_BYTES_MAX
    }

    /// The chunk gathered so far; the next one begins.
    pub fn finish(&mut self) -> Chunk {
        let payload = std::mem::take(&mut self.payload);
        self.number += 1;
        let crc = record::payload_crc(self.seed, &payload);
        Chunk { payload, crc }
    }
}

/// Next value of a lane's chain: SHA-256 over tag, value before, seq, id, hashes of head and body.
#[must_use]
pub fn chain_step(
    before: &[u8; 32],
    seq: Seq,
    id: ItemId,
    head_sha256: &[u8; 32],
    body_sha256: &[u8; 32],
) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"waystation-lane-1\0")
        .chain_update(before)
        .chain_update(seq.0.to_be_bytes())
        .chain_update(id.0)
        .chain_update(head_sha256)
        .chain_update(body_sha256)
        .finalize()
        .into()
}

impl Spool {
    /// Adds a piece to body `body`, which begins with its first piece.
    ///
    /// # Errors
    /// [`AcceptError::NoSpace`], [`AcceptError::NoBody`] when too many bodies are open or this one is too
    /// large, [`AcceptError::Spool`]. The body is abandoned then.
    pub fn stage_chunk(&mut self, body: BodyId, chunk: Chunk) -> Result<(), AcceptError> {
        if !self.open_bodies.contains_key(&body) && self.open_bodies.len() >= OPEN_BODIES_MAX {
            return Err(AcceptError::NoBody);
        }
        let len = (chunk.payload.len() - CHUNK_PREFIX_BYTES) as u32;
        let appended = self.journal.append(Kind::BodyChunk, chunk.payload, Some(chunk.crc), Class::Intake);
        let lsn = match appended {
            Ok(lsn) => lsn,
            Err(error) => {
                self.abandon_body(body);
                return Err(refusal(error));
            }
        };
        let open = self.open_bodies.entry(body).or_default();
        open.first_segment.get_or_insert(lsn.segment());
        open.bytes += u64::from(len);
        open.chunks.push(ChunkRef { lsn: lsn.0, len });
        if open.bytes > BODY_BYTES_MAX {
            self.abandon_body(body);
            return Err(AcceptError::NoBody);
        }
        Ok(())
    }

    /// Forgets a body that will not be committed; its chunks become garbage.
    pub fn abandon_body(&mut self, body: BodyId) {
        if let Some(open) = self.open_bodies.remove(&body) {
            self.freed_bytes += open.bytes;
        }
    }

    /// Would one more small item be taken for `lane`?
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn room(&self, lane: LaneId) -> Result<(), AcceptError> {
        self.accepts()?;
        self.room_in(lane, |_| ())
    }

    /// The lane that mail for `name` goes to and its mailbox's name, when one more small item would be taken for it;
    /// `None`: nobody is called that.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn room_by_name(&self, name: &str) -> Result<Option<(LaneId, String)>, AcceptError> {
        let Some(id) = self.lane_by_name(name)? else { return Ok(None) };
        self.accepts()?;
        Ok(Some((id, self.room_in(id, |lane| lane.name.clone())?)))
    }

    /// What `take` takes of the lane, unless it is full. One that is not takes a whole message, however large: a message that
    /// had been promised to it together with others could otherwise reach none of them, for as long as it is too large for
    /// one (K7).
    fn room_in<T>(&self, id: LaneId, take: impl FnOnce(&Lane) -> T) -> Result<T, AcceptError> {
        let options = &self.options;
        let found = self.tail.of_lane(id, |lane| {
            if lane.defined == 0 {
                return Err(AcceptError::UnknownLane);
            }
            if lane.revoked {
                return Err(AcceptError::Revoked);
            }
            let (waiting_items, waiting_bytes) = lane.waiting();
            let items_max = lane.quota_items.unwrap_or(options.lane_items_max);
            let bytes_max = lane.quota_bytes.unwrap_or(options.lane_bytes_max);
            if waiting_items >= items_max || waiting_bytes >= bytes_max {
                return Err(AcceptError::OverQuota);
            }
            Ok(take(lane))
        })?;
        found.unwrap_or(Err(AcceptError::UnknownLane))
    }

    /// Makes a streamed body visible in all of its lanes, or in none. Answers the seq in each lane, in order.
    ///
    /// Stable, and to be told, after [`Spool::commit`].
    ///
    /// # Errors
    /// [`AcceptError`]; the body is abandoned then.
    pub fn accept(&mut self, message: NewMessage, now: WallMs) -> Result<Vec<Seq>, AcceptError> {
        let first_is_body = message.targets.first().is_some_and(|target| target.id == message.body);
        let item = self.item_record(message, now)?;
        if !first_is_body {
            return Err(AcceptError::NoBody);
        }
        let seqs = item.targets.iter().map(|target| Seq(target.seq)).collect();
        self.append_item(&item)?;
        Ok(seqs)
    }

    /// The record that makes a streamed body visible; the body is taken, or abandoned.
    pub(crate) fn item_record(
        &mut self,
        message: NewMessage,
        now: WallMs,
    ) -> Result<ItemRecord, AcceptError> {
        let open = match self.open_bodies.remove(&message.body) {
            Some(open) => open,
            None if message.body_bytes == 0 => OpenBody::default(),
            None => return Err(AcceptError::NoBody),
        };
        self.accepts()?;
        let too_large = message.head.len() > HEAD_BYTES_MAX
            || message.meta.len() > META_BYTES_MAX
            || message.targets.iter().any(|target| target.tag.len() > META_BYTES_MAX);
        if open.bytes != message.body_bytes || too_large || message.targets.len() > TARGETS_MAX {
            return Err(AcceptError::NoBody);
        }
        let targets = self.target_records(&message)?;
        Ok(ItemRecord {
            body: message.body.0,
            body_bytes: message.body_bytes,
            sha256: message.sha256,
            head: message.head,
            meta: message.meta,
            chunks: open.chunks,
            accepted_ms: now.0,
            fingerprint: message.fingerprint,
            targets,
            outbound: None,
        })
    }

    /// Journals and applies an item's record, and rings its lanes after the commit.
    pub(crate) fn append_item(&mut self, item: &ItemRecord) -> Result<(), AcceptError> {
        let payload = item.encode().map_err(|_| AcceptError::NoBody)?;
        let lsn = self.journal.append(Kind::Item, payload, None, Class::Intake).map_err(refusal)?;
        self.apply_item(lsn, item)?;
        self.rings.extend(item.targets.iter().map(|target| LaneId(target.lane)));
        Ok(())
    }

    fn target_records(&self, message: &NewMessage) -> Result<Vec<TargetRecord>, AcceptError> {
        let head_sha256: [u8; 32] = Sha256::digest(&message.head).into();
        let mut out: Vec<TargetRecord> = Vec::with_capacity(message.targets.len());
        for target in &message.targets {
            let next = self.room_in(target.lane, |lane| (lane.next_seq.max(1), lane.chain))?;
            let (seq, before) = out
                .iter()
                .rfind(|record| record.lane == target.lane.0)
                .map_or(next, |record| (record.seq + 1, record.chain));
            out.push(TargetRecord {
                lane: target.lane.0,
                seq,
                id: target.id.0,
                tag: target.tag.clone(),
                chain: chain_step(&before, Seq(seq), target.id, &head_sha256, &message.sha256),
                first_segment: 0,
                history: Vec::new(),
            });
        }
        Ok(out)
    }

    /// Remembers a message whose sender may not have heard our 250, so that its repeat is not stored again.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn remember_twin(
        &mut self,
        fingerprint: [u8; 32],
        id: ItemId,
        until: WallMs,
    ) -> Result<(), SpoolError> {
        let twin = TwinRecord { fingerprint, id: id.0, until_ms: until.0 };
        self.append_upkeep(Kind::Twin, &Record::Twin(twin))
    }

    /// The item that a message with this fingerprint would repeat.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn twin(&self, fingerprint: &[u8; 32], now: WallMs) -> Result<Option<ItemId>, SpoolError> {
        let value = self.tail.get(Tree::Twin, fingerprint)?;
        Ok(value.as_deref().and_then(twin_fields).filter(|(_, until, _)| *until > now).map(|(id, _, _)| id))
    }

    /// Appends and applies a record that keeps promises already made.
    pub(crate) fn append_upkeep(&mut self, kind: Kind, record: &Record) -> Result<(), SpoolError> {
        self.append_as(Class::Upkeep, kind, record)
    }

    /// Appends and applies a record, if there is room for its class.
    pub(crate) fn append_as(&mut self, class: Class, kind: Kind, record: &Record) -> Result<(), SpoolError> {
        let payload = match record {
            Record::Item(item) => item.encode(),
            Record::State(state) => record::encode(kind, state),
            Record::Mailbox(mailbox) => mailbox.encode(),
            Record::Twin(twin) => record::encode(kind, twin),
            Record::Step(step) => record::encode(kind, step),
            Record::Invitation(invitation) => record::encode(kind, invitation),
            Record::Batch(batch) => record::encode(kind, batch),
            Record::BodyChunk { body, number } => {
                Ok(record::encode_chunk_prefix(*body, *number).to_vec()) // an empty piece
            }
        }
        .map_err(|error| SpoolError::Corrupt { lsn: self.journal.position(), problem: error.to_string() })?;
        let lsn = self.journal.append(kind, payload, None, class)?;
        self.apply(lsn, record)
    }
}

/// Item, end and record lsn of a value of the twin tree.
pub(crate) fn twin_fields(value: &[u8]) -> Option<(ItemId, WallMs, u64)> {
    let id = ItemId(value.get(..16)?.try_into().ok()?);
    let until = u64::from_be_bytes(value.get(16..24)?.try_into().ok()?);
    let lsn = u64::from_be_bytes(value.get(24..32)?.try_into().ok()?);
    Some((id, WallMs(until), lsn))
}

fn refusal(error: AppendError) -> AcceptError {
    match error {
        AppendError::NoSpace => AcceptError::NoSpace,
        AppendError::Spool(error) => AcceptError::Spool(error),
    }
}
