//! The newtypes that name things in the spool, with their text and key forms.
//!
//! Pure. What may not be mixed has a type of its own: a [`Seq`] is not a [`Lsn`] is not a count.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32HEX_NOPAD;

/// Wall clock, milliseconds since 1970-01-01 UTC. Always handed in, never read here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMs(pub u64);

impl WallMs {
    /// This instant plus `ms` milliseconds, saturating.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 when the clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Number of a lane inside one spool directory; assigned at registration, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// Position in a lane: starts at 1, grows by one, is never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record lies in the journal: segment number in the high 32 bits, byte offset in the low 32.
///
/// Grows with every record, so it orders all of them, and a record that carries its own lsn can never
/// be mistaken for one at another place or of an earlier life of a recycled segment file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The lsn of byte `offset` in segment `segment`.
    #[must_use]
    pub fn at(segment: u32, offset: u32) -> Self {
        Self((u64::from(segment) << 32) | u64::from(offset))
    }

    /// Number of the segment.
    #[must_use]
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Byte offset inside the segment file.
    #[must_use]
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

/// Number of this process's start on this directory; leases of an older epoch do not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootEpoch(pub u32);

/// One open consumer of a lane. Volatile: it means nothing after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Name of one accepted thing in one lane; the dedupe key shown to gateways, senders and logs.
///
/// 48 bits of milliseconds, then 80 random bits (the ULID layout), so that ids sort by time, and an id is
/// not handed out again after a backup was restored. Text form: 26 characters of lower-case base32hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub [u8; 16]);

impl ItemId {
    /// Builds an id from the time of acceptance and 80 random bits.
    #[must_use]
    pub fn new(now: WallMs, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The time that went into the id.
    #[must_use]
    pub fn time(self) -> WallMs {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.0[..6]);
        WallMs(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32HEX_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no item id: not 26 characters of base32hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an item id (26 characters of 0-9 and a-v)")]
pub struct ItemIdError;

impl FromStr for ItemId {
    type Err = ItemIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE32HEX_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| ItemIdError)?;
        Ok(Self(bytes.try_into().map_err(|_| ItemIdError)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_id_text_round_trips_and_keeps_time() {
        let id = ItemId::new(WallMs(1_790_000_000_123), [7; 10]);
        assert_eq!(id.time(), WallMs(1_790_000_000_123));
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse::<ItemId>(), Ok(id));
        assert_eq!("short".parse::<ItemId>(), Err(ItemIdError));
        assert_eq!("zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<ItemId>(), Err(ItemIdError));
    }

    #[test]
    fn lsn_splits_into_segment_and_offset() {
        let lsn = Lsn::at(3, 128);
        assert_eq!((lsn.segment(), lsn.offset()), (3, 128));
        assert!(Lsn::at(3, u32::MAX) < Lsn::at(4, 0));
    }
}
