//! Messages that were accepted just before a crash: their senders may not have read our answer, and will come
//! again (RFC 1047 seen from the server). A start remembers them as twins.
//!
//! An answer leaves right after its commit, so only messages accepted within [`WINDOW_MS`] before the last
//! record can be concerned. The wall clock may have jumped in between, so the newest [`ALWAYS`] are remembered whatever their time
//! is. To remember one whose sender had heard us does no harm: a repeat has the same bytes, envelope and corner of the network, so
//! it is the same message.

use std::collections::VecDeque;

use crate::error::SpoolError;
use crate::ids::{ItemId, Lsn, WallMs};
use crate::index::Tree;
use crate::record::{self, ItemRecord, Kind, Record, TwinRecord};
use crate::scan::{Found, Scanner};
use crate::spool::Spool;

/// How long before the last record an answer may still have been on its way, milliseconds.
const WINDOW_MS: u64 = 10_000;
/// The newest messages, remembered whatever the clock said: more than there are sessions that can wait for their answer at a
/// time, as a rule.
pub(crate) const ALWAYS: usize = 256;
/// Messages remembered at most, the newest.
const UNHEARD_MAX: usize = 65_536;
/// Bytes of journal read before the place from which the index is replayed.
const LOOK_BACK_BYTES: u32 = 4 * 1024 * 1024;

/// Gathers candidates while the journal is read.
#[derive(Debug, Default)]
pub(crate) struct Unheard {
    messages: VecDeque<(WallMs, [u8; 32], ItemId)>,
    /// The latest time that any record speaks of.
    last_at: WallMs,
}

impl Unheard {
    /// Takes note of a record.
    pub(crate) fn see(&mut self, record: &Record) {
        match record {
            Record::Batch(batch) => self.last_at = self.last_at.max(WallMs(batch.at_ms)),
            Record::Item(item) => self.see_item(item),
            Record::BodyChunk { .. }
            | Record::State(_)
            | Record::Mailbox(_)
            | Record::Twin(_)
            | Record::Step(_)
            | Record::Invitation(_) => {}
        }
    }

    fn see_item(&mut self, item: &ItemRecord) {
        self.last_at = self.last_at.max(WallMs(item.accepted_ms));
        // A copy made by compaction has a history; its sender is long gone.
        // A submission's gateway names it when it comes again.
        let fresh =
            item.outbound.is_none() && item.targets.first().is_some_and(|target| target.history.is_empty());
        if let Some(fingerprint) = item.fingerprint.filter(|_| fresh) {
            if self.messages.len() == UNHEARD_MAX {
                self.messages.pop_front();
            }
            self.messages.push_back((WallMs(item.accepted_ms), fingerprint, ItemId(item.body)));
        }
    }
}

impl Spool {
    /// Looks at what was written shortly before `applied`, which the replay of the index will not see.
    pub(crate) fn look_back(&self, applied: Lsn, unheard: &mut Unheard) -> Result<(), SpoolError> {
        let Some(segment) = self.journal.segments().get(&applied.segment()) else { return Ok(()) };
        let end = applied.offset().min(segment.end);
        let start = end.saturating_sub(LOOK_BACK_BYTES);
        let mut scanner =
            Scanner::new(segment.file.clone(), applied.segment(), self.journal.seed(), start, end);
        while let Some(found) = scanner.next()? {
            // The first bytes may lie inside a record, and are stepped over like damage.
            if let Found::Record { kind, payload, .. } = found
                && let Some(kind @ (Kind::Batch | Kind::Item)) = Kind::from_u8(kind)
                && let Ok(record) = record::decode(kind, payload)
            {
                unheard.see(&record);
            }
        }
        Ok(())
    }

    /// Makes twins of the candidates that are recent enough; answers how many.
    pub(crate) fn remember_unheard(&mut self, unheard: Unheard, now: WallMs) -> Result<u64, SpoolError> {
        let mut count = 0;
        let by_time = unheard.messages.len().saturating_sub(ALWAYS);
        for (at, (accepted_at, fingerprint, id)) in unheard.messages.into_iter().enumerate() {
            if at < by_time && unheard.last_at.since(accepted_at) >= WINDOW_MS
                || self.tail.get(Tree::Twin, &fingerprint)?.is_some()
            {
                continue;
            }
            // Who was not answered comes again after the start, however long that took.
            let until_ms = accepted_at.max(now).plus(self.options.unheard_keep_ms).0;
            let twin = TwinRecord { fingerprint, id: id.0, until_ms };
            self.append_upkeep(Kind::Twin, &Record::Twin(twin))?;
            count += 1;
        }
        if count > 0 {
            self.commit(now)?;
        }
        Ok(count)
    }
}
