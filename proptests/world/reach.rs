//! What one wrong byte of the journal may take with it, as the journal said before.

use std::collections::BTreeSet;
use std::ops::Range;

use spool::ids::{ItemId, Lsn};
use spool::record::{self, HEADER_BYTES, Header, Kind, OVERHEAD_BYTES, Record};
use spool::segment::SEGMENT_HEADER_BYTES;

use super::*;

/// Items that may be harmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All: the byte belongs to no segment.
    Everything,
    /// These, and no others.
    Items(BTreeSet<ItemId>),
}

impl Reach {
    pub(super) fn has(&self, id: ItemId) -> bool {
        match self {
            Self::Everything => true,
            Self::Items(items) => items.contains(&id),
        }
    }
}

/// Number of the segment in a file of this name.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    name.rsplit('/').next()?.strip_suffix(".wsj")?.parse().ok()
}

/// Every record of a segment: where it begins and ends, and what it is.
pub(crate) fn records(number: u32, bytes: &[u8]) -> impl Iterator<Item = (Range<usize>, Kind, &[u8])> {
    let mut at = SEGMENT_HEADER_BYTES as usize;
    std::iter::from_fn(move || {
        let head = bytes.get(at..at + HEADER_BYTES)?.try_into().ok()?;
        let header = Header::decode(head, Lsn::at(number, at as u32))?;
        let all = at..at + header.record_bytes() as usize;
        let payload = bytes.get(at + HEADER_BYTES..all.end - (OVERHEAD_BYTES - HEADER_BYTES))?;
        at = all.end;
        Some((all, Kind::from_u8(header.kind)?, payload))
    })
}

impl Cut {
    /// What may be harmed by a wrong byte at `offset` of the file `name`: what its record speaks of; behind a segment's
    /// header all of it; behind its last record nothing.
    pub(crate) fn reach(&self, name: &str, offset: usize) -> Reach {
        let Some(number) = segment_number(name) else { return Reach::Everything };
        let bytes = self.disk.contents(name).unwrap_or_default();
        let header = offset < SEGMENT_HEADER_BYTES as usize;
        let hit = records(number, &bytes).filter(|(range, ..)| header || range.contains(&offset));
        Reach::Items(hit.flat_map(|(_, kind, payload)| self.spoken_of(kind, payload)).collect())
    }

    fn spoken_of(&self, kind: Kind, payload: &[u8]) -> Vec<ItemId> {
        let items = &self.committed().items;
        let at = |lane: u32, seq: u64| {
            items.iter().find(move |(_, item)| (item.lane, item.seq.0) == (lane, seq)).map(|(id, _)| *id)
        };
        match record::decode(kind, payload) {
            Ok(Record::BodyChunk { body, .. }) => {
                let Some(of) = items.get(&body) else { return Vec::new() };
                let same = items.iter().filter(|(_, item)| Arc::ptr_eq(&item.body, &of.body));
                same.map(|(id, _)| *id).collect()
            }
            Ok(Record::Item(item)) => item.targets.iter().map(|target| ItemId(target.id)).collect(),
            Ok(Record::State(state)) => {
                state.items.iter().filter_map(|item| at(item.lane, item.seq)).collect()
            }
            Ok(Record::Step(step)) => at(step.item.lane, step.item.seq).into_iter().collect(),
            Ok(Record::Mailbox(mailbox)) => {
                items.iter().filter(|(_, item)| item.lane == mailbox.lane).map(|(id, _)| *id).collect()
            }
            Ok(Record::Batch(_) | Record::Twin(_) | Record::Invitation(_)) | Err(_) => Vec::new(),
        }
    }
}
