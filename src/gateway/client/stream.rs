//! One stream on its way in: counted and hashed as it passes, compared with its announcement at its end.
//!
//! Promises: holds no bytes, so that an item of any size costs the same; what does not match is an error and never a
//! [`Done`].

use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};
use spool::ids::ItemId;

use super::{Received, Verdict};
use crate::tunnel::frame::StartBody;

/// First bytes of what the lane's chain hashes (see `spool/DESIGN.md`).
const CHAIN_TAG: &[u8] = b"waystation-lane-1\0";

/// What the driver wants of a stream.
#[derive(Debug)]
pub(super) enum Want {
    Keep,
    /// Count and hash it, hand nothing out, and answer this at its end.
    Discard(Verdict),
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) start: StartBody,
    pub(super) want: Want,
    pub(super) bytes: u64,
    trace: Sha256,
    rest: Sha256,
}

/// A stream that ended well.
pub(super) struct Done {
    pub(super) want: Want,
    pub(super) seq: Option<u64>,
    pub(super) chain: Option<[u8; 32]>,
    /// Hex of `rest_sha256`.
    pub(super) sha256: String,
    trace_sha256: [u8; 32],
    rest_sha256: [u8; 32],
    rest_bytes: u64,
}

/// The hash in a field of a start body.
pub(super) fn read_hash(text: Option<&str>) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text?.as_bytes()).ok()?.try_into().ok()
}

impl Stream {
    pub(super) fn new(start: StartBody, want: Want) -> Self {
        Self { start, want, bytes: 0, trace: Sha256::new(), rest: Sha256::new() }
    }

    pub(super) fn take(&mut self, bytes: &Bytes) {
        let trace_left = self.start.trace_bytes.unwrap_or(0).saturating_sub(self.bytes);
        let split = usize::try_from(trace_left).unwrap_or(usize::MAX).min(bytes.len());
        self.trace.update(&bytes[..split]);
        self.rest.update(&bytes[split..]);
        self.bytes += bytes.len() as u64;
    }

    /// Compares with the announcement; the error says what does not match.
    pub(super) fn finish(self) -> Result<Done, &'static str> {
        if self.start.size.is_some_and(|size| size != self.bytes) {
            return Err("size");
        }
        let rest_sha256: [u8; 32] = self.rest.finalize().into();
        let sha256 = HEXLOWER.encode(&rest_sha256);
        if self.start.sha256.as_ref().is_some_and(|announced| !announced.eq_ignore_ascii_case(&sha256)) {
            return Err("sha256");
        }
        let chain = read_hash(self.start.chain.as_deref());
        Ok(Done {
            want: self.want,
            seq: self.start.seq,
            chain,
            sha256,
            trace_sha256: self.trace.finalize().into(),
            rest_sha256,
            rest_bytes: self.bytes.saturating_sub(self.start.trace_bytes.unwrap_or(0)),
        })
    }
}

impl Done {
    /// The body as it arrived.
    pub(super) fn received(&self) -> Received {
        Received { sha256: self.rest_sha256, size: self.rest_bytes, head_sha256: Some(self.trace_sha256) }
    }

    /// Whether the lane's chain goes on from `before` by this item. True as long as one of both is not known.
    pub(super) fn continues(&self, before: Option<[u8; 32]>, item_id: &str) -> bool {
        let (Some(before), Some(after), Some(seq), Ok(id)) =
            (before, self.chain, self.seq, item_id.parse::<ItemId>())
        else {
            return true;
        };
        chain_step(&before, seq, id, &self.trace_sha256, &self.rest_sha256) == after
    }
}

/// Next value of the lane's chain, as the relay computes it.
pub(super) fn chain_step(
    before: &[u8; 32],
    seq: u64,
    id: ItemId,
    trace: &[u8; 32],
    rest: &[u8; 32],
) -> [u8; 32] {
    Sha256::new()
        .chain_update(CHAIN_TAG)
        .chain_update(before)
        .chain_update(seq.to_be_bytes())
        .chain_update(id.0)
        .chain_update(trace)
        .chain_update(rest)
        .finalize()
        .into()
}
