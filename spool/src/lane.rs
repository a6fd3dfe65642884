//! PURE: the record of a lane, and how the index keeps it: together with the block that its next item goes to.
//!
//! Every message changes its lane and that block. As one value they are one page of the index to find and one to write,
//! which is what counts when there are more lanes than pages in memory. A block that the next seq has left gets a pair of its own.

use bincode::{Decode, Encode};

use crate::entry;
use crate::error::SpoolError;
use crate::ids::Seq;
use crate::life;
use crate::record::SendingRecord;
use crate::types::{STATES, State};

/// State of a lane, as kept in the lane tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) created_ms: u64,
    pub(crate) revoked: bool,
    pub(crate) quota_items: Option<u64>,
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) sending: SendingRecord,
    /// The seq the next item gets; 0 stands for 1 in a lane that recovery has only heard of.
    pub(crate) next_seq: u64,
    /// Below and at this seq nothing waits.
    pub(crate) cursor: u64,
    /// No entry exists below this seq.
    pub(crate) first_seq: u64,
    pub(crate) chain: [u8; 32],
    /// Newest record that carries `next_seq` and `chain`.
    pub(crate) anchor: u64,
    /// Newest mailbox record; 0: none seen.
    pub(crate) defined: u64,
    pub(crate) items: [u64; STATES],
    pub(crate) bytes: [u64; STATES],
}

impl Lane {
    pub(crate) fn count(&mut self, state: State, bytes: u32) {
        let n = entry::state_code(state) as usize - 1;
        self.items[n] += 1;
        self.bytes[n] += u64::from(bytes);
    }

    pub(crate) fn uncount(&mut self, state: State, bytes: u32) {
        let n = entry::state_code(state) as usize - 1;
        self.items[n] = self.items[n].saturating_sub(1);
        self.bytes[n] = self.bytes[n].saturating_sub(u64::from(bytes));
    }

    /// The block that the next item goes to.
    pub(crate) fn open_block(&self) -> u64 {
        entry::block_of(Seq(self.next_seq.max(1)))
    }

    /// Items and bytes that somebody still waits for.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for state in [State::Ready, State::Held, State::Armed] {
            debug_assert!(life::waits(state));
            let n = entry::state_code(state) as usize - 1;
            sum = (sum.0 + self.items[n], sum.1 + self.bytes[n]);
        }
        sum
    }
}

/// Version of what the index holds, lanes and packed blocks alike, on the first octet of each lane; an index of another
/// one is emptied and rebuilt.
const INDEX_VERSION: u8 = 6;

/// A lane with its open block, as they are in the index or on their way there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) lane: Lane,
    /// Number of the block that is kept here.
    number: u64,
    /// That block, packed; empty: nothing in it.
    packed: Vec<u8>,
}

impl Kept {
    /// # Errors
    /// [`SpoolError::Index`]: none of ours, or of another version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SpoolError> {
        let Some((&INDEX_VERSION, rest)) = bytes.split_first() else {
            return Err(SpoolError::Index("lane of an unknown version".to_owned()));
        };
        let (lane, len): (Lane, _) = bincode::decode_from_slice(rest, bincode::config::standard())
            .map_err(|error| SpoolError::Index(format!("lane does not decode: {error}")))?;
        let packed = rest.get(len..).unwrap_or_default().to_vec();
        Ok(Self { number: lane.open_block(), lane, packed })
    }

    /// The value for the index. `changed`: the open block, packed, if it was changed meanwhile.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub(crate) fn encode(&self, changed: Option<&[u8]>) -> Result<Vec<u8>, SpoolError> {
        let mut out = vec![INDEX_VERSION];
        bincode::encode_into_std_write(&self.lane, &mut out, bincode::config::standard())
            .map_err(|error| SpoolError::Index(format!("lane does not encode: {error}")))?;
        let is_open = self.number == self.lane.open_block();
        out.extend_from_slice(changed.or(is_open.then_some(&self.packed)).unwrap_or_default());
        Ok(out)
    }

    /// As it is found in the index once it was written. `changed`: the open block, packed, if it was changed meanwhile.
    pub(crate) fn settled(&self, changed: Option<Vec<u8>>) -> Self {
        let number = self.lane.open_block();
        let own = || if self.keeps(number) { self.packed.clone() } else { Vec::new() };
        Self { lane: self.lane.clone(), number, packed: changed.unwrap_or_else(own) }
    }

    /// Number of the block kept here, unless that is empty.
    pub(crate) fn number(&self) -> Option<u64> {
        (!self.packed.is_empty()).then_some(self.number)
    }

    /// The block kept here.
    ///
    /// # Errors
    /// [`SpoolError::Index`]: it does not decode.
    pub(crate) fn block(&self) -> Result<Vec<u8>, SpoolError> {
        entry::unpacked(&self.packed)
    }

    /// How much memory it takes.
    pub(crate) fn packed_bytes(&self) -> usize {
        self.packed.len()
    }

    /// Is block `number` kept here, be it empty?
    pub(crate) fn keeps(&self, number: u64) -> bool {
        self.number == number
    }

    /// Forgets the block, which is kept elsewhere from now on.
    pub(crate) fn give_up(&mut self, number: u64) {
        if self.keeps(number) {
            self.packed = Vec::new();
        }
    }
}
