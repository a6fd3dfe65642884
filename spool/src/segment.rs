//! PURE: names and headers of segment files. Bytes in `DESIGN.md`.

use crate::ids::Lsn;

/// Bytes before the first record of a segment.
pub const SEGMENT_HEADER_BYTES: u32 = 64;
/// Directory of the journal.
pub const JOURNAL_DIR: &str = "journal";
/// First bytes of every segment.
const MAGIC: &[u8; 8] = b"WSJRNL\r\n";
/// Version of everything in the journal.
pub const FORMAT_VERSION: u32 = 1;

/// The first bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the segment; grows, never reused.
    pub number: u32,
    /// Boot epoch of its writer.
    pub epoch: u32,
    /// Start value of every checksum in it.
    pub seed: u32,
    /// Number of the segment written before; 0 for the first.
    pub previous: u32,
    /// Where the records of that segment end.
    pub previous_end: u32,
}

/// Why a file is no segment that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Not a header, or one of another segment (a recycled file whose renaming was cut short).
    Invalid,
    /// A version that this program does not know.
    Newer(u32),
}

impl SegmentHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = [0; SEGMENT_HEADER_BYTES as usize];
        out[..8].copy_from_slice(MAGIC);
        let fields = [FORMAT_VERSION, self.number, self.epoch, self.seed, self.previous, self.previous_end];
        for (n, field) in fields.into_iter().enumerate() {
            out[8 + 4 * n..12 + 4 * n].copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of segment `number`.
    ///
    /// # Errors
    /// [`HeaderError`] when these bytes are none, or of another segment or version.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES as usize], number: u32) -> Result<Self, HeaderError> {
        let field = |n: usize| {
            let at = 8 + 4 * n;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let crc = u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]);
        if &bytes[..8] != MAGIC || crc != crc32c::crc32c(&bytes[..60]) {
            return Err(HeaderError::Invalid);
        }
        if field(0) > FORMAT_VERSION {
            return Err(HeaderError::Newer(field(0)));
        }
        let header = Self {
            number: field(1),
            epoch: field(2),
            seed: field(3),
            previous: field(4),
            previous_end: field(5),
        };
        if header.number == number { Ok(header) } else { Err(HeaderError::Invalid) }
    }
}

/// File name of a segment.
#[must_use]
pub fn file_name(number: u32) -> String {
    format!("{JOURNAL_DIR}/{number:016}.wsj")
}

/// File name of a spare: space set aside for a segment to come.
#[must_use]
pub fn spare_name(n: u32) -> String {
    format!("{JOURNAL_DIR}/{n:016}.spare")
}

/// What a name in the journal directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A segment.
    Segment(u32),
    /// A spare.
    Spare(u32),
    /// Not ours.
    Foreign,
}

/// Reads a name of the journal directory (without the directory).
#[must_use]
pub fn file_kind(name: &str) -> FileKind {
    let number = |stem: &str| {
        (stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_digit())).then(|| stem.parse().ok()).flatten()
    };
    if let Some(n) = name.strip_suffix(".wsj").and_then(number) {
        FileKind::Segment(n)
    } else if let Some(n) = name.strip_suffix(".spare").and_then(number) {
        FileKind::Spare(n)
    } else {
        FileKind::Foreign
    }
}

/// Lsn of the first record of a segment.
#[must_use]
pub fn first_lsn(number: u32) -> Lsn {
    Lsn::at(number, SEGMENT_HEADER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_refuses_everything_else() {
        let header = SegmentHeader { number: 7, epoch: 2, seed: 99, previous: 6, previous_end: 1234 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes, 7), Ok(header));
        assert_eq!(SegmentHeader::decode(&bytes, 8), Err(HeaderError::Invalid), "recycled file");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped, 7).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn newer_version_is_told_apart_from_garbage() {
        let mut bytes = SegmentHeader { number: 7, epoch: 2, seed: 9, previous: 6, previous_end: 4 }.encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes, 7), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn names_round_trip() {
        let name = |full: String| full.rsplit('/').next().map(str::to_owned).unwrap_or_default();
        assert_eq!(file_kind(&name(file_name(12))), FileKind::Segment(12));
        assert_eq!(file_kind(&name(spare_name(3))), FileKind::Spare(3));
        assert_eq!(file_kind("notes.txt"), FileKind::Foreign);
        assert_eq!(file_kind("1.wsj"), FileKind::Foreign);
    }
}
