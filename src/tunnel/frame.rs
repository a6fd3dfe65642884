//! Tunnel frames: the codec of binary messages, for both ends.
//!
//! 1. One frame is one whole binary WebSocket message.
//! 2. Layout, integers big-endian: `version u8 = 1 | type u8 | S u8 | B u32 | stream id, S bytes | body, B bytes`;
//!    the message ends exactly there.
//! 3. A stream is `smtp_start`, any number of `smtp_chunk`, `smtp_end`; in tunnel 2 an `smtp_abort` may end it
//!    at any point.
//!
//! Promises: [`Frame::decode`] inverts [`Frame::encode`], takes any bytes without panic, and copies no chunk.
//! Does not know which streams are open, and sets no limit on a message but that of a start ([`START_BYTES_MAX`]): sessions and
//! drivers do.
//!
//! Failure policy: everything that is not exactly a frame is a [`FrameError`] with the evidence. Unknown
//! fields of a start body are skipped; known optional ones of a wrong type count as absent, as the first
//! protocol's readers do.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Dialect;
use super::signed::Signed;

/// The only version byte there is.
pub const VERSION: u8 = 1;
/// Bytes before the stream id.
pub const HEADER_BYTES: usize = 7;
/// Longest stream id, bytes of UTF-8: its length travels in one byte.
pub const STREAM_ID_BYTES_MAX: usize = 255;
/// Most body bytes that a relay puts into one frame for a gateway, and a gateway into one for a relay.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Longest body of an `smtp_start` that is read, bytes. Nobody has reason to write more than fits a frame, and it is kept as
/// long as its stream is open.
pub const START_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// Octets of an ordinary start with what is signed in it, and some.
const START_BYTES: usize = 4096;
/// Longest reason kept from an `smtp_abort`, bytes.
const ABORT_REASON_BYTES_MAX: usize = 512;

/// Every frame type there is or was; a number is never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Start = 1,
    Chunk = 2,
    End = 3,
    /// Tunnel 2 only; a tunnel-1 reader refuses it.
    Abort = 4,
}

impl Tag {
    fn read(byte: u8, dialect: Dialect) -> Result<Self, FrameError> {
        match (byte, dialect) {
            (1, _) => Ok(Self::Start),
            (2, _) => Ok(Self::Chunk),
            (3, _) => Ok(Self::End),
            (4, Dialect::Two) => Ok(Self::Abort),
            _ => Err(FrameError::Type(byte)),
        }
    }
}

/// The relay's signed statement about a mail's sender (mail-tunnel protocol, section 10); opaque here.
pub type AuthAttestation = Signed;

/// What begins a stream. Serialised in this order, absent fields left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartBody {
    /// Envelope sender; empty for the null reverse-path.
    pub mail_from: String,
    /// The one envelope recipient.
    pub rcpt_to: String,
    /// Relay to gateway only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_attestation: Option<AuthAttestation>,
    /// Tunnel 2: the item's id, the name under which it is acked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_id: Option<String>,
    /// Tunnel 2: its position in the lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Tunnel 2: the lane's running hash after this item, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Tunnel 2: bytes of the whole stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Tunnel 2: how many of them, at its start, were added by the relay (trace fields).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_bytes: Option<u64>,
    /// Tunnel 2: SHA-256 of the stream after `trace_bytes`, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Tunnel 2, relay to gateway only: the relay's receipt for the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Signed>,
}

impl StartBody {
    fn read(body: &[u8], dialect: Dialect) -> Result<Self, FrameError> {
        match serde_json::from_slice::<Self>(body) {
            // As every relay writes it; many times faster than the careful way.
            Ok(start) if start.is_plain() => Ok(match dialect {
                Dialect::Two => start,
                Dialect::One => Self {
                    mail_from: start.mail_from,
                    rcpt_to: start.rcpt_to,
                    auth_attestation: start.auth_attestation,
                    ..Self::default()
                },
            }),
            Ok(_) | Err(_) => Self::read_anything(body, dialect),
        }
    }

    /// Every text of what is signed says something.
    fn is_plain(&self) -> bool {
        let full = |text: &str| !text.trim().is_empty();
        [&self.auth_attestation, &self.receipt].into_iter().flatten().all(|signed| {
            full(&signed.key_id)
                && full(&signed.payload_base64)
                && full(&signed.signature_base64)
                && signed.batch_path.as_deref().is_none_or(full)
        })
    }

    /// Fields of the wrong kind count as absent, the last of two counts, bad octets are replaced.
    fn read_anything(body: &[u8], dialect: Dialect) -> Result<Self, FrameError> {
        let text = lossy(body);
        let value: Value = serde_json::from_str(&text).map_err(|_| FrameError::StartNotJson)?;
        let Value::Object(mut fields) = value else { return Err(FrameError::StartNotJson) };
        let mut start = Self {
            mail_from: take_text(&mut fields, "mailFrom").ok_or(FrameError::StartField("mailFrom"))?,
            rcpt_to: take_text(&mut fields, "rcptTo").ok_or(FrameError::StartField("rcptTo"))?,
            auth_attestation: read_signed(&mut fields, "authAttestation"),
            ..Self::default()
        };
        if dialect == Dialect::Two {
            start.item_id = take_text(&mut fields, "itemId");
            start.seq = fields.get("seq").and_then(Value::as_u64);
            start.chain = take_text(&mut fields, "chain");
            start.size = fields.get("size").and_then(Value::as_u64);
            start.trace_bytes = fields.get("traceBytes").and_then(Value::as_u64);
            start.sha256 = take_text(&mut fields, "sha256");
            start.receipt = read_signed(&mut fields, "receipt");
        }
        Ok(start)
    }
}

fn take_text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match fields.remove(name) {
        Some(Value::String(text)) => Some(text),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => {
            None
        }
    }
}

/// All three texts non-blank, or nothing at all.
fn read_signed(fields: &mut Map<String, Value>, name: &str) -> Option<Signed> {
    let Some(Value::Object(mut inner)) = fields.remove(name) else { return None };
    let mut part = |name| take_text(&mut inner, name).filter(|text| !text.trim().is_empty());
    Some(Signed {
        key_id: part("keyId")?,
        payload_base64: part("payloadBase64")?,
        signature_base64: part("signatureBase64")?,
        batch_path: part("batchPath"),
    })
}

/// One frame. `stream` is opaque and at most [`STREAM_ID_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "frames live one at a time and only for a moment")]
pub enum Frame {
    /// Begins a stream; one that is open under this id is thrown away.
    Start {
        /// The stream's id.
        stream: String,
        /// What it carries.
        start: StartBody,
    },
    /// The next bytes of a stream, any number of them.
    Chunk {
        /// The stream's id.
        stream: String,
        /// Raw message bytes.
        bytes: Bytes,
    },
    /// The stream is complete.
    End {
        /// The stream's id.
        stream: String,
    },
    /// The stream will not be completed; forget it (tunnel 2).
    Abort {
        /// The stream's id.
        stream: String,
        /// Why, one line of UTF-8.
        reason: String,
    },
}

/// Bytes that are no frame, or a frame that has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("frame of {0} bytes is shorter than its header")]
    Short(usize),
    /// Another version byte.
    #[error("frame version {0} is not {VERSION}")]
    Version(u8),
    /// A type that this dialect does not have.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// The lengths in the header do not add up to the message.
    #[error("frame announces {announced} bytes and has {got}")]
    Length {
        /// Header, stream id and body as announced.
        announced: u64,
        /// Bytes of the message.
        got: usize,
    },
    /// The start body is no JSON object.
    #[error("body of smtp_start is no JSON object")]
    StartNotJson,
    /// The start body is longer than one may be.
    #[error("body of smtp_start has {0} bytes, more than {START_BYTES_MAX}")]
    StartLength(usize),
    /// A required text is missing in the start body.
    #[error("smtp_start has no text {0}")]
    StartField(&'static str),
    /// The stream id does not fit its length byte.
    #[error("stream id of {0} bytes is longer than {STREAM_ID_BYTES_MAX}")]
    StreamId(usize),
    /// The body does not fit its length field.
    #[error("frame body of {0} bytes is too long")]
    Body(usize),
}

impl Frame {
    /// The id of the stream it belongs to.
    #[must_use]
    pub fn stream(&self) -> &str {
        match self {
            Self::Start { stream, .. }
            | Self::Chunk { stream, .. }
            | Self::End { stream }
            | Self::Abort { stream, .. } => stream,
        }
    }

    /// The bytes of one binary message.
    ///
    /// # Errors
    /// [`FrameError::StreamId`] or [`FrameError::Body`] when a length does not fit its field.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        match self {
            Self::Start { stream, start } => {
                let mut body = Vec::with_capacity(START_BYTES);
                serde_json::to_writer(&mut body, start).map_err(|_| FrameError::StartNotJson)?;
                join(Tag::Start, stream, &body)
            }
            Self::Chunk { stream, bytes } => join(Tag::Chunk, stream, bytes),
            Self::End { stream } => join(Tag::End, stream, &[]),
            Self::Abort { stream, reason } => join(Tag::Abort, stream, reason.as_bytes()),
        }
    }

    /// Reads one binary message. A stream id with invalid UTF-8 is taken with replacement characters.
    ///
    /// # Errors
    /// Any [`FrameError`] except [`FrameError::StreamId`] and [`FrameError::Body`].
    pub fn decode(message: &Bytes, dialect: Dialect) -> Result<Self, FrameError> {
        let (&[version, tag, id_bytes, b0, b1, b2, b3], _) =
            message.split_first_chunk::<HEADER_BYTES>().ok_or(FrameError::Short(message.len()))?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let tag = Tag::read(tag, dialect)?;
        let body_at = HEADER_BYTES + usize::from(id_bytes);
        let announced = body_at as u64 + u64::from(u32::from_be_bytes([b0, b1, b2, b3]));
        if announced != message.len() as u64 {
            return Err(FrameError::Length { announced, got: message.len() });
        }
        let stream = lossy(&message[HEADER_BYTES..body_at]).into_owned();
        let body = message.slice(body_at..);
        if tag == Tag::Start && body.len() > START_BYTES_MAX {
            return Err(FrameError::StartLength(body.len()));
        }
        Ok(match tag {
            Tag::Start => Self::Start { stream, start: StartBody::read(&body, dialect)? },
            Tag::Chunk => Self::Chunk { stream, bytes: body },
            Tag::End => Self::End { stream },
            Tag::Abort => {
                let kept = &body[..body.len().min(ABORT_REASON_BYTES_MAX)];
                let mut reason = String::from_utf8_lossy(kept).into_owned();
                // A replaced octet has become three.
                reason.truncate(reason.floor_char_boundary(ABORT_REASON_BYTES_MAX));
                Self::Abort { stream, reason }
            }
        })
    }
}

/// Text with each bad octet replaced. Nearly all is good, and finding that out is much faster than replacing.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

fn join(tag: Tag, stream: &str, body: &[u8]) -> Result<Bytes, FrameError> {
    let id_bytes = u8::try_from(stream.len()).map_err(|_| FrameError::StreamId(stream.len()))?;
    let body_bytes = u32::try_from(body.len()).map_err(|_| FrameError::Body(body.len()))?;
    let mut out = BytesMut::with_capacity(HEADER_BYTES + stream.len() + body.len());
    out.put_u8(VERSION);
    out.put_u8(tag as u8);
    out.put_u8(id_bytes);
    out.put_u32(body_bytes);
    out.put_slice(stream.as_bytes());
    out.put_slice(body);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn the_fast_way_reads_what_the_careful_way_reads() {
        let signed = r#"{"keyId":"k","payloadBase64":"e30=","signatureBase64":"AA=="}"#;
        let texts = [
            format!(
                r#"{{"mailFrom":"","rcptTo":"b","authAttestation":{signed},"seq":7,"receipt":{signed},"x":[1]}}"#
            ),
            r#"{"mailFrom":"a","rcptTo":"b","seq":-1,"size":1.5,"itemId":null,"chain":7}"#.to_owned(),
            r#"{"mailFrom":"a","mailFrom":"c","rcptTo":"b"}"#.to_owned(),
            format!(r#"{{"mailFrom":"a","rcptTo":"b","receipt":{}}}"#, signed.replace("\"k\"", "\" \"")),
            format!(
                r#"{{"mailFrom":"a","rcptTo":"b","receipt":{}}}"#,
                signed.replace('}', r#","batchPath":""}"#)
            ),
            format!(
                r#"{{"mailFrom":"a","rcptTo":"b","receipt":{}}}"#,
                signed.replace('}', r#","batchPath":"AA=="}"#)
            ),
            r#"{"mailFrom":"a","rcptTo":"b","authAttestation":"no"}"#.to_owned(),
            r#"{"mailFrom":"a"}"#.to_owned(),
            r#"{"mailFrom":"a","rcptTo":1}"#.to_owned(),
            "[]".to_owned(),
            String::new(),
        ];
        for text in texts {
            for dialect in [Dialect::One, Dialect::Two] {
                let (fast, careful) = (
                    StartBody::read(text.as_bytes(), dialect),
                    StartBody::read_anything(text.as_bytes(), dialect),
                );
                assert_eq!(fast, careful, "{text}");
            }
        }
        let bad = b"{\"mailFrom\":\"a\xff\",\"rcptTo\":\"b\"}";
        assert_eq!(StartBody::read(bad, Dialect::One), StartBody::read_anything(bad, Dialect::One));
    }

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/mail-tunnel.json")).unwrap()
    }

    fn hex(value: &Value) -> Bytes {
        HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap().into()
    }

    /// The frame that a vector describes in JSON.
    fn described(json: &Value) -> Frame {
        let stream = json["streamId"].as_str().unwrap().to_owned();
        match json["type"].as_str().unwrap() {
            "smtp_start" => {
                let body = serde_json::to_vec(json).unwrap();
                Frame::Start { stream, start: StartBody::read(&body, Dialect::One).unwrap() }
            }
            "smtp_chunk" => Frame::Chunk { stream, bytes: hex(&json["chunk_hex"]) },
            "smtp_end" => Frame::End { stream },
            other => panic!("{other}"),
        }
    }

    /// One of each, with everything in it.
    fn samples() -> Vec<Frame> {
        let stream = || "0fkhv3nsg1a2b3c4d5e6f7g8h9:a@b.example".to_owned();
        vec![
            Frame::Start {
                stream: stream(),
                start: StartBody {
                    mail_from: "alice@sender.example".into(),
                    rcpt_to: "a@b.example".into(),
                    auth_attestation: Some(AuthAttestation {
                        key_id: "relay-primary".into(),
                        payload_base64: "e30=".into(),
                        signature_base64: "AAAA".into(),
                        batch_path: None,
                    }),
                    item_id: Some("0fkhv3nsg1a2b3c4d5e6f7g8h9".into()),
                    seq: Some(7),
                    chain: Some("00ff".into()),
                    size: Some(1234),
                    trace_bytes: Some(200),
                    sha256: Some("ff00".into()),
                    receipt: None,
                },
            },
            Frame::Chunk { stream: stream(), bytes: Bytes::from_static(b"Subject: hi\r\n\r\nbody\r\n") },
            Frame::End { stream: stream() },
            Frame::Abort { stream: stream(), reason: "body unreadable".into() },
        ]
    }

    #[test]
    fn frames_agree_with_the_reference_byte_for_byte() {
        for case in vectors()["frames"]["valid"].as_array().unwrap() {
            let frame = described(&case["frame"]);
            let wire = hex(&case["wire_hex"]);
            assert_eq!(frame.encode().unwrap(), wire, "{}", case["name"]);
            for dialect in [Dialect::One, Dialect::Two] {
                assert_eq!(Frame::decode(&wire, dialect).as_ref(), Ok(&frame), "{}", case["name"]);
            }
        }
    }

    #[test]
    fn parse_cases_agree_with_the_reference() {
        for case in vectors()["frames"]["parse_cases"].as_array().unwrap() {
            let got = Frame::decode(&hex(&case["wire_hex"]), Dialect::One);
            if case["accepted"].as_bool().unwrap() {
                assert_eq!(got.unwrap(), described(&case["parsed"]), "{}", case["name"]);
            } else {
                assert!(got.is_err(), "{}: {got:?}", case["name"]);
            }
        }
    }

    #[test]
    fn golden_bytes_are_unchanged() {
        let golden = include_str!("../../tests/golden/tunnel_frames.hex");
        let bytes: Vec<_> = golden
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().replace(' ', ""))
            .collect::<Vec<_>>()
            .split(String::is_empty)
            .map(|lines| lines.concat())
            .filter(|hex| !hex.is_empty())
            .map(|hex| Bytes::from(HEXLOWER.decode(hex.as_bytes()).unwrap()))
            .collect();
        assert_eq!(bytes.len(), samples().len());
        for (frame, wire) in samples().iter().zip(&bytes) {
            assert_eq!(HEXLOWER.encode(&frame.encode().unwrap()), HEXLOWER.encode(wire));
        }
    }

    #[test]
    fn decode_inverts_encode() {
        for frame in samples() {
            assert_eq!(Frame::decode(&frame.encode().unwrap(), Dialect::Two), Ok(frame));
        }
    }

    #[test]
    fn tunnel_1_knows_no_abort_and_reads_no_tunnel_2_fields() {
        let [start, _, _, abort] = samples().try_into().unwrap();
        assert_eq!(Frame::decode(&abort.encode().unwrap(), Dialect::One), Err(FrameError::Type(4)));
        match Frame::decode(&start.encode().unwrap(), Dialect::One).unwrap() {
            Frame::Start { start, .. } => {
                assert_eq!((start.item_id, start.seq, start.sha256), (None, None, None))
            }
            other @ (Frame::Chunk { .. } | Frame::End { .. } | Frame::Abort { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_receipt_is_read_in_tunnel_2_only() {
        let signed = Signed {
            key_id: "r".into(),
            payload_base64: "e30=".into(),
            signature_base64: "AA==".into(),
            batch_path: None,
        };
        let start = StartBody { receipt: Some(signed.clone()), ..StartBody::default() };
        let wire = Frame::Start { stream: "s".into(), start }.encode().unwrap();
        for (dialect, receipt) in [(Dialect::One, None), (Dialect::Two, Some(signed))] {
            match Frame::decode(&wire, dialect).unwrap() {
                Frame::Start { start, .. } => assert_eq!(start.receipt, receipt),
                other @ (Frame::Chunk { .. } | Frame::End { .. } | Frame::Abort { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
    }

    #[test]
    fn a_start_longer_than_a_frame_is_not_read() {
        let wire = |bytes: usize| {
            let mut body = br#"{"mailFrom":"a","rcptTo":"b"}"#.to_vec();
            body.resize(bytes, b' ');
            join(Tag::Start, "s", &body).unwrap()
        };
        for dialect in [Dialect::One, Dialect::Two] {
            assert!(Frame::decode(&wire(START_BYTES_MAX), dialect).is_ok());
            assert_eq!(
                Frame::decode(&wire(START_BYTES_MAX + 1), dialect),
                Err(FrameError::StartLength(START_BYTES_MAX + 1))
            );
        }
    }

    #[test]
    fn decoding_perturbed_bytes_never_panics() {
        for frame in samples() {
            let wire = frame.encode().unwrap();
            for at in 0..wire.len() {
                for bit in 0..8 {
                    let mut broken = wire.to_vec();
                    broken[at] ^= 1 << bit;
                    for dialect in [Dialect::One, Dialect::Two] {
                        let _ = Frame::decode(&Bytes::from(broken.clone()), dialect);
                    }
                }
                assert!(Frame::decode(&wire.slice(..at), Dialect::Two).is_err());
            }
            let mut longer = wire.to_vec();
            longer.push(0);
            assert!(matches!(Frame::decode(&longer.into(), Dialect::Two), Err(FrameError::Length { .. })));
        }
    }

    #[test]
    fn a_chunk_is_not_copied() {
        let wire = samples()[1].encode().unwrap();
        let Ok(Frame::Chunk { bytes, .. }) = Frame::decode(&wire, Dialect::One) else { panic!() };
        assert_eq!(bytes.as_ptr_range().end, wire.as_ptr_range().end);
    }

    #[test]
    fn a_stream_id_over_255_bytes_has_no_frame() {
        assert_eq!(Frame::End { stream: "z".repeat(256) }.encode(), Err(FrameError::StreamId(256)));
    }
}
