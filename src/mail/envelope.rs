//! What travels beside a message and never inside it.
//!
//! [`Meta`] is what mail keeps in the spool with a message from outside, [`OutboundMeta`] with one that a gateway
//! submitted; [`Envelope`] is either. The spool holds them opaque. Their encoding is a version byte and bincode in
//! the legacy layout. A version is never changed, only followed by the next one; readers of old spools keep the old
//! arms.

use super::verdict::Verdicts;

/// Version of [`Meta`] written today.
const META_VERSION: u8 = 3;
/// Version of [`Meta`] without TLS and verdicts.
const META_V1: u8 = 1;
/// Version of [`OutboundMeta`] written today.
const OUTBOUND_VERSION: u8 = 2;
/// Longest encoding that is read back, bytes; a damaged length may not make us allocate.
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
    /// Version and cipher suite of the session's TLS, `TLSv1.3 TLS_AES_256_GCM_SHA384`; empty without.
    pub tls: String,
    /// What was found out about the sender.
    pub verdicts: Verdicts,
}

/// What version 1 of [`Meta`] has.
#[derive(bincode::Encode, bincode::Decode)]
struct MetaV1 {
    mail_from: String,
    client_ip: String,
    helo: String,
    protocol: String,
    smtputf8: bool,
    body: BodyType,
    received_at_ms: u64,
    transaction: String,
}

impl From<MetaV1> for Meta {
    fn from(old: MetaV1) -> Self {
        let MetaV1 { mail_from, client_ip, helo, protocol, smtputf8, body, received_at_ms, transaction } =
            old;
        let (tls, verdicts) = (String::new(), Verdicts::default());
        Self {
            mail_from,
            client_ip,
            helo,
            protocol,
            smtputf8,
            body,
            received_at_ms,
            transaction,
            tls,
            verdicts,
        }
    }
}

/// What is remembered of a submission beside its forward-path, which is its tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct OutboundMeta {
    /// Reverse-path as given, without brackets; empty for the null path.
    pub mail_from: String,
    /// The gateway's name for it: the id of the stream that brought it.
    pub stream: String,
    /// Id of the tunnel session that brought it.
    pub session: [u8; 16],
    /// The gateway acks results (tunnel 2 with `results`); if not, it waits 20 seconds and forgets.
    pub results: bool,
    /// When its stream began, milliseconds since 1970 UTC.
    pub started_at_ms: u64,
    /// Its header or envelope needs SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Its body has octets beyond ASCII, or not.
    pub body: BodyType,
    /// `Message-ID` with its angle brackets as it goes out; empty when there is none that can be repeated.
    pub message_id: String,
    /// `Subject` on one line, clipped, for whoever looks after the mail; empty when there is none.
    pub subject: String,
}

/// What the spool keeps with a message of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// It came by SMTP.
    Inbound(Meta),
    /// A gateway submitted it.
    Outbound(OutboundMeta),
}

impl Envelope {
    /// Reads what [`Meta::encode`] or [`OutboundMeta::encode`] wrote.
    ///
    /// # Errors
    /// [`MetaError`] for another version, damage, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        match bytes.first() {
            Some(&OUTBOUND_VERSION) => OutboundMeta::decode(bytes).map(Self::Outbound),
            Some(_) | None => Meta::decode(bytes).map(Self::Inbound),
        }
    }

    /// Reverse-path as given, without brackets; empty for the null path.
    #[must_use]
    pub fn mail_from(&self) -> &str {
        match self {
            Self::Inbound(meta) => &meta.mail_from,
            Self::Outbound(meta) => &meta.mail_from,
        }
    }
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
        encode(META_VERSION, self)
    }

    /// Inverse of [`Meta::encode`].
    ///
    /// # Errors
    /// [`MetaError`] for another version, damage, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        match bytes.first() {
            Some(&META_V1) => decode::<MetaV1>(META_V1, bytes).map(Self::from),
            Some(_) | None => decode(META_VERSION, bytes),
        }
    }
}

impl OutboundMeta {
    /// Version byte and bincode.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(OUTBOUND_VERSION, self)
    }

    /// Inverse of [`OutboundMeta::encode`].
    ///
    /// # Errors
    /// [`MetaError`] for another version, damage, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        decode(OUTBOUND_VERSION, bytes)
    }
}

fn encode(version: u8, value: &impl bincode::Encode) -> Vec<u8> {
    let mut bytes = vec![version];
    // Encoding owned strings and numbers into a vector has no way to fail.
    let _ = bincode::encode_into_std_write(value, &mut bytes, bincode::config::legacy());
    bytes
}

fn decode<T: bincode::Decode<()>>(version: u8, bytes: &[u8]) -> Result<T, MetaError> {
    let config = bincode::config::legacy().with_limit::<META_BYTES_MAX>();
    match bytes.split_first() {
        Some((&first, payload)) if first == version => match bincode::decode_from_slice(payload, config) {
            Ok((value, used)) if used == payload.len() => Ok(value),
            Ok(_) | Err(_) => Err(MetaError::Damaged),
        },
        Some((&other, _)) => Err(MetaError::UnknownVersion(other)),
        None => Err(MetaError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::verdict::{Dkim, Spf, Word};

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
            tls: "TLSv1.3 X".into(),
            verdicts: Verdicts {
                spf: Spf { word: Word::SoftFail, domain: "b.example".into(), ..Spf::default() },
                dkim: vec![Dkim { word: Word::Pass, domain: "b.example".into(), ..Dkim::default() }],
                ..Verdicts::default()
            },
        }
    }

    /// What version 1 wrote for the same message.
    fn sample_v1() -> (Vec<u8>, Meta) {
        let Meta {
            mail_from, client_ip, helo, protocol, smtputf8, body, received_at_ms, transaction, ..
        } = sample();
        let old =
            MetaV1 { mail_from, client_ip, helo, protocol, smtputf8, body, received_at_ms, transaction };
        let bytes = encode(META_V1, &old);
        (bytes, Meta { tls: String::new(), verdicts: Verdicts::default(), ..sample() })
    }

    #[test]
    fn decode_inverts_encode() {
        assert_eq!(Meta::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn meta_v1_is_still_read() {
        let (bytes, meta) = sample_v1();
        let text = |s: &str| {
            let bytes = data_encoding::HEXLOWER.encode(s.as_bytes());
            format!("{:02x}00000000000000{bytes}", s.len())
        };
        let strings = ["a@b.example", "192.0.2.1", "mx", "ESMTP"].map(text).concat();
        let hex = format!("01{strings}00010000000100000000000000{}", text("t"));
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), hex);
        assert_eq!(Meta::decode(&bytes), Ok(meta));
    }

    #[test]
    fn meta_v3_bytes_are_unchanged() {
        let text = |s: &str| {
            let bytes = data_encoding::HEXLOWER.encode(s.as_bytes());
            format!("{:02x}00000000000000{bytes}", s.len())
        };
        let strings = ["a@b.example", "192.0.2.1", "mx", "ESMTP"].map(text).concat();
        let spf = format!("03000000{}00{}", text("b.example"), text(""));
        let dkim = "0100000000000000".to_owned() + "01000000" + &text("b.example") + &text("").repeat(3);
        let dmarc = "00000000".to_owned() + &text("").repeat(3);
        let rest = format!("{}{}{spf}{dkim}{dmarc}00000000", text("t"), text("TLSv1.3 X"));
        let hex = format!("03{strings}00010000000100000000000000{rest}");
        assert_eq!(data_encoding::HEXLOWER.encode(&sample().encode()), hex);
    }

    #[test]
    fn both_directions_are_told_apart() {
        let out =
            OutboundMeta { mail_from: "me@our.example".into(), results: true, ..OutboundMeta::default() };
        assert_eq!(Envelope::decode(&out.encode()), Ok(Envelope::Outbound(out.clone())));
        assert_eq!(Envelope::decode(&sample().encode()), Ok(Envelope::Inbound(sample())));
        assert_eq!(Meta::decode(&out.encode()), Err(MetaError::UnknownVersion(2)));
        assert_eq!(Envelope::decode(&[]), Err(MetaError::Damaged));
    }

    #[test]
    fn outbound_v2_bytes_are_unchanged() {
        let meta = OutboundMeta {
            mail_from: "m".into(),
            stream: "s".into(),
            session: [7; 16],
            results: true,
            started_at_ms: 1,
            smtputf8: false,
            body: BodyType::EightBit,
            message_id: "i".into(),
            subject: "t".into(),
        };
        let text = |c: char| format!("0100000000000000{:02x}", c as u32);
        let (m, s, i, t) = (text('m'), text('s'), text('i'), text('t'));
        let session = "07".repeat(16);
        let expected = format!("02{m}{s}{session}0101000000000000000001000000{i}{t}");
        assert_eq!(data_encoding::HEXLOWER.encode(&meta.encode()), expected);
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
