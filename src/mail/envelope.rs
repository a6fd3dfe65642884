//! What travels beside a message and never inside it.
//!
//! [`Meta`] is what mail keeps in the spool with every message; the spool holds it opaque. Its encoding
//! is a version byte and bincode in the legacy layout. A version is never changed, only followed by the
//! next one; readers of old spools keep the old arms.

/// Version of [`Meta`] written today.
const META_VERSION: u8 = 1;
/// Longest encoded [`Meta`] that is read back, bytes; a damaged length may not make us allocate.
const META_BYTES_MAX: usize = spool::types::META_BYTES_MAX;

/// `BODY=` of the transaction (RFC 6152).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum BodyType {
    /// Not declared, or `7BIT`.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBit,
}

/// What is remembered of the transaction that brought a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Meta {
    /// Reverse-path as given, without brackets; empty for the null path.
    pub mail_from: String,
    /// Address of the client, textual; an IPv4 client of a dual-stack socket appears as IPv4.
    pub client_ip: String,
    /// Argument of its `EHLO` or `HELO`.
    pub helo: String,
    /// Word of the `with` clause: `SMTP`, `ESMTP`, `UTF8SMTP` (RFC 3848, RFC 6531 §4.3).
    pub protocol: String,
    /// `SMTPUTF8` was asked for.
    pub smtputf8: bool,
    /// `BODY=`.
    pub body: BodyType,
    /// When the end of the data arrived, milliseconds since 1970 UTC.
    pub received_at_ms: u64,
    /// Name of the transaction: the id in our `Received` field and in the `250`.
    pub transaction: String,
}

/// Stored metadata cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Written by a newer version of this program.
    #[error("mail metadata version {0} is unknown")]
    UnknownVersion(u8),
    /// Damaged or empty.
    #[error("mail metadata is damaged")]
    Damaged,
}

impl Meta {
    /// Version byte and bincode.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![META_VERSION];
        // Encoding owned strings and numbers into a vector has no way to fail.
        let _ = bincode::encode_into_std_write(self, &mut bytes, bincode::config::legacy());
        bytes
    }

    /// Inverse of [`Meta::encode`].
    ///
    /// # Errors
    /// [`MetaError`] for another version, damage, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let config = bincode::config::legacy().with_limit::<META_BYTES_MAX>();
        match bytes.split_first() {
            Some((&META_VERSION, payload)) => match bincode::decode_from_slice(payload, config) {
                Ok((meta, used)) if used == payload.len() => Ok(meta),
                Ok(_) | Err(_) => Err(MetaError::Damaged),
            },
            Some((&other, _)) => Err(MetaError::UnknownVersion(other)),
            None => Err(MetaError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Meta {
        Meta {
            mail_from: "a@b.example".into(),
            client_ip: "192.0.2.1".into(),
            helo: "mx".into(),
            protocol: "ESMTP".into(),
            smtputf8: false,
            body: BodyType::EightBit,
            received_at_ms: 1,
            transaction: "t".into(),
        }
    }

    #[test]
    fn decode_inverts_encode() {
        assert_eq!(Meta::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn meta_v1_bytes_are_unchanged() {
        let hex = data_encoding::HEXLOWER.encode(&sample().encode());
        let text = |s: &str| {
            let bytes = data_encoding::HEXLOWER.encode(s.as_bytes());
            format!("{:02x}00000000000000{bytes}", s.len())
        };
        let strings = ["a@b.example", "192.0.2.1", "mx", "ESMTP"].map(text).concat();
        assert_eq!(hex, format!("01{strings}00010000000100000000000000{}", text("t")));
    }

    #[test]
    fn damage_is_noticed_and_never_panics() {
        let bytes = sample().encode();
        for n in 0..bytes.len() {
            assert!(Meta::decode(&bytes[..n]).is_err());
            let mut flipped = bytes.clone();
            flipped[n] ^= 0xff;
            let _ = Meta::decode(&flipped);
        }
        assert_eq!(Meta::decode(&[2]), Err(MetaError::UnknownVersion(2)));
        assert_eq!(Meta::decode(&[&bytes[..], b"x"].concat()), Err(MetaError::Damaged));
    }
}
