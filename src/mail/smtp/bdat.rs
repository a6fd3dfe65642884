//! The body in counted chunks (CHUNKING, RFC 3030): no dots, no end marker, only a number.
//!
//! Promises: exactly the announced octets belong to the chunk, whatever they are; they go on untouched.

/// Octets of one chunk still to come.
#[derive(Clone, Debug)]
pub struct BdatReceiver {
    remaining: u64,
}

impl BdatReceiver {
    /// A chunk of `bytes` octets.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { remaining: bytes }
    }

    /// True once all announced octets were read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.remaining == 0
    }

    /// Takes what belongs to the chunk. Returns how many octets of `input` that were.
    pub fn push(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> usize {
        let used = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        sink(&input[..used]);
        self.remaining -= used as u64;
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_announced_octets_are_taken() {
        let (mut out, mut chunk) = (Vec::new(), BdatReceiver::new(9));
        assert_eq!(chunk.push(b"a\r\n", |bytes| out.extend_from_slice(bytes)), 3);
        assert_eq!(chunk.push(b".\r\n..bQUIT", |bytes| out.extend_from_slice(bytes)), 6); // G7
        assert!(chunk.has_ended());
        assert_eq!(out, b"a\r\n.\r\n..b");
        assert!(BdatReceiver::new(0).has_ended());
    }
}
