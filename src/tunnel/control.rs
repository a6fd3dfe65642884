//! Control messages: the JSON text of the tunnel, both directions, as values.
//!
//! Promises: what a reader of the first protocol ignores is ignored here too: unknown fields, unknown
//! features, a session role that is neither word. An unknown `type` is a value ([`ToRelay::Unknown`],
//! [`ToGateway::Unknown`]), so that the reader decides. Fields are written in the order of the reference.
//!
//! Does not decide what may be said when; the sessions do.
//!
//! Failure policy: text that is too long, no JSON object, or lacks a required field is a [`ControlError`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Longest control message read from an authenticated peer, bytes.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Longest message read from a peer that has not proved who it is, bytes.
pub const UNPROVED_BYTES_MAX: usize = 4 * 1024;
/// Most feature words looked at in one message.
const FEATURE_WORDS_MAX: usize = 32;

/// What a session is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionRole {
    /// Receives the lane's items, and may send. One per key.
    #[default]
    Inbound,
    /// Only sends. Several per key.
    Outbound,
}

impl SessionRole {
    /// The word on the wire and in logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One thing that tunnel 2 adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// Items are acked by `item_ack` and `item_nack`; without it a session speaks tunnel 1.
    Ack = 1,
    /// Submissions are accepted with an id, results repeated until `delivery_result_ack`.
    Results = 2,
    /// The gateway limits what is in flight by `credit`.
    Credit = 4,
    /// The gateway may ask for acked items again by `replay_request`.
    Replay = 8,
}

impl Feature {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Ack, "ack"), (Self::Results, "results"), (Self::Credit, "credit"), (Self::Replay, "replay")];
}

/// A set of features; on the wire a list of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u8);

impl Features {
    /// No features: tunnel 1.
    pub const NONE: Self = Self(0);

    /// The set of these.
    #[must_use]
    pub fn of(features: &[Feature]) -> Self {
        Self(features.iter().fold(0, |set, &feature| set | feature as u8))
    }

    /// Whether `feature` is in it.
    #[must_use]
    pub fn has(self, feature: Feature) -> bool {
        self.0 & feature as u8 != 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(Feature::ALL.iter().filter(|(f, _)| self.has(*f)).map(|(_, word)| word))
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Value::Array(words) = Value::deserialize(deserializer)? else { return Ok(Self::NONE) };
        let known = |word: &Value| {
            Feature::ALL.iter().find(|(_, w)| word.as_str() == Some(w)).map_or(0, |(f, _)| *f as u8)
        };
        Ok(Self(words.iter().take(FEATURE_WORDS_MAX).fold(0, |set, word| set | known(word))))
    }
}

/// How much a gateway takes before it acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credit {
    /// Items in flight.
    pub items: u32,
    /// Bytes in flight.
    pub bytes: u64,
    /// Largest item it takes at all, bytes; larger ones are held back by the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_bytes_max: Option<u64>,
}

/// A gateway asks for a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthChallengeRequest {
    /// Key text as the peer spells it.
    pub public_key_base32: String,
    /// What the session is for; absent means inbound.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub session_role: Option<SessionRole>,
    /// Tunnel 2: what the gateway can do.
    #[serde(default, skip_serializing_if = "Features::is_none")]
    pub features: Features,
    /// Tunnel 2: how much it takes in flight.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub credit: Option<Credit>,
}

impl Features {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    fn is_none(&self) -> bool {
        self.is_empty()
    }
}

/// A gateway answers a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthChallengeResponse {
    /// Key text, the same as in the request.
    pub public_key_base32: String,
    /// From the challenge.
    pub challenge_id: String,
    /// Standard base64 of the 64-byte Ed25519 signature over the challenge text.
    pub signature_base64: String,
    /// What the session is for; absent means as in the request.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub session_role: Option<SessionRole>,
}

/// What a gateway did with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckStatus {
    /// It is on the gateway's stable storage.
    Stored,
    /// The gateway will never take it; the relay keeps it, held.
    Rejected,
}

/// A gateway has decided about an item (tunnel 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemAck {
    /// From `smtp_start`.
    pub item_id: String,
    /// What it did.
    pub status: AckStatus,
    /// Why it was rejected, one line.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// SHA-256 of what was stored, hex; an ack with another hash than the item's does not count.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A gateway cannot take an item now (tunnel 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemNack {
    /// From `smtp_start`.
    pub item_id: String,
    /// Not before this many milliseconds from now.
    #[serde(default, deserialize_with = "lenient_count")]
    pub retry_after_ms: u64,
}

/// A gateway wants acked items again (tunnel 2); `from_seq` wins when both are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayRequest {
    /// From this position on; negative numbers count as 0.
    #[serde(default, deserialize_with = "lenient_position", skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Accepted at or after this time, milliseconds since 1970 UTC; negative numbers count as 0.
    #[serde(default, deserialize_with = "lenient_position", skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// A gateway has noted a delivery result (tunnel 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryResultAck {
    /// From the result.
    pub result_id: String,
}

/// What gateways say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRelay {
    /// Asks for a challenge.
    AuthChallengeRequest(AuthChallengeRequest),
    /// Answers it.
    AuthChallengeResponse(AuthChallengeResponse),
    /// Has decided about an item.
    ItemAck(ItemAck),
    /// Cannot take an item now.
    ItemNack(ItemNack),
    /// Wants acked items again.
    ReplayRequest(ReplayRequest),
    /// Has noted a result.
    DeliveryResultAck(DeliveryResultAck),
    /// Something of a later protocol; its type word.
    #[serde(skip)]
    Unknown(String),
}

/// A relay's challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthChallenge {
    /// Canonical key text.
    pub public_key_base32: String,
    /// Names the challenge in the answer.
    pub challenge_id: String,
    /// Exactly these bytes are to be signed.
    pub challenge_text: String,
    /// RFC 3339, UTC, milliseconds.
    pub expires_at: String,
}

/// The gateway is who it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthOk {
    /// Canonical key text.
    pub public_key_base32: String,
    /// The same again: the local part of its address.
    pub email_local_part: String,
    /// The role in effect.
    #[serde(default, deserialize_with = "lenient_role")]
    pub session_role: SessionRole,
    /// The session that was pushed out, if any; written as null when none was.
    #[serde(default)]
    pub replaced_socket_id: Option<String>,
    /// Tunnel 2: the offered features that are in effect.
    #[serde(default, skip_serializing_if = "Features::is_none")]
    pub features: Features,
    /// Tunnel 2: the window in effect, the smaller of both sides' limits.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub credit: Option<Credit>,
}

/// The relay closes after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthError {
    /// One of the constant words of the protocol, section 3.4.
    pub code: String,
}

/// How a submission ended, in words that unmodified gateways know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayDeliveryResult {
    /// The outbound stream.
    pub stream_id: String,
    /// `sent`, `failed`, and in tunnel 2 `indeterminate`.
    pub status: String,
    /// With `sent`: the next hop's name for it, if any.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// With `failed`: why.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tunnel 2 `results`: repeated until this is acked.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub result_id: Option<String>,
}

/// A submission is on the relay's stable storage (tunnel 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundAccepted {
    /// The outbound stream.
    pub stream_id: String,
    /// Its name at the relay.
    pub submission_id: String,
}

/// A replay request was carried out (tunnel 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayAccepted {
    /// Acked items that are offered again; those whose retention is over are not among them.
    pub items: u64,
}

/// The relay is about to stop, or gives up waiting for acks (tunnel 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Come back not before this many milliseconds.
    #[serde(default, deserialize_with = "lenient_count")]
    pub reconnect_after_ms: u64,
}

/// What relays say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGateway {
    /// Sign this.
    AuthChallenge(AuthChallenge),
    /// You are in.
    AuthOk(AuthOk),
    /// You are not, or no more.
    AuthError(AuthError),
    /// Your submission ended.
    RelayDeliveryResult(RelayDeliveryResult),
    /// Your submission is stored.
    OutboundAccepted(OutboundAccepted),
    /// Your replay request was carried out.
    ReplayAccepted(ReplayAccepted),
    /// I am about to stop.
    Drain(Drain),
    /// Something of a later protocol; its type word.
    #[serde(skip)]
    Unknown(String),
}

/// A text that is no control message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Longer than the reader takes.
    #[error("control message of {0} bytes is too long")]
    TooLong(usize),
    /// Not a JSON object with a text `type`.
    #[error("control message is no JSON object with a type")]
    NotAnObject,
    /// A known type, but a required field is missing or of a wrong kind.
    #[error("control message {kind}: {problem}")]
    Field {
        /// The type word.
        kind: String,
        /// The parser's words.
        problem: String,
    },
}

impl ToRelay {
    /// Reads one text message of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, ControlError> {
        let (kind, value) = open(text, bytes_max)?;
        Ok(match kind.as_str() {
            "auth_challenge_request" => Self::AuthChallengeRequest(fields(kind, value)?),
            "auth_challenge_response" => Self::AuthChallengeResponse(fields(kind, value)?),
            "item_ack" => Self::ItemAck(fields(kind, value)?),
            "item_nack" => Self::ItemNack(fields(kind, value)?),
            "replay_request" => Self::ReplayRequest(fields(kind, value)?),
            "delivery_result_ack" => Self::DeliveryResultAck(fields(kind, value)?),
            _ => Self::Unknown(kind),
        })
    }

    /// The text to send; empty for [`ToRelay::Unknown`], which nobody sends.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl ToGateway {
    /// Reads one text message of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, ControlError> {
        let (kind, value) = open(text, bytes_max)?;
        Ok(match kind.as_str() {
            "auth_challenge" => Self::AuthChallenge(fields(kind, value)?),
            "auth_ok" => Self::AuthOk(fields(kind, value)?),
            "auth_error" => Self::AuthError(fields(kind, value)?),
            "relay_delivery_result" => Self::RelayDeliveryResult(fields(kind, value)?),
            "outbound_accepted" => Self::OutboundAccepted(fields(kind, value)?),
            "replay_accepted" => Self::ReplayAccepted(fields(kind, value)?),
            "drain" => Self::Drain(fields(kind, value)?),
            _ => Self::Unknown(kind),
        })
    }

    /// The text to send; empty for [`ToGateway::Unknown`], which nobody sends.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn open(text: &str, bytes_max: usize) -> Result<(String, Value), ControlError> {
    if text.len() > bytes_max {
        return Err(ControlError::TooLong(text.len()));
    }
    let value: Value = serde_json::from_str(text).map_err(|_| ControlError::NotAnObject)?;
    let kind = value.get("type").and_then(Value::as_str).ok_or(ControlError::NotAnObject)?.to_owned();
    Ok((kind, value))
}

fn fields<T: DeserializeOwned>(kind: String, value: Value) -> Result<T, ControlError> {
    serde_json::from_value(value).map_err(|error| ControlError::Field { kind, problem: error.to_string() })
}

/// An optional field: a value of a wrong kind counts as absent.
fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

fn lenient_role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SessionRole, D::Error> {
    Ok(lenient(deserializer)?.unwrap_or_default())
}

fn lenient_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(lenient_position(deserializer)?.unwrap_or_default())
}

/// A whole number; a negative one is the beginning.
fn lenient_position<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_u64().or_else(|| value.as_i64().map(|_| 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_relay(text: &str) -> Result<ToRelay, ControlError> {
        ToRelay::parse(text, CONTROL_BYTES_MAX)
    }

    fn said_by_relay() -> Vec<(ToGateway, &'static str)> {
        vec![
            (
                ToGateway::AuthChallenge(AuthChallenge {
                    public_key_base32: "k".into(),
                    challenge_id: "c".into(),
                    challenge_text: "relay-auth:c:n".into(),
                    expires_at: "2026-03-09T00:00:00.000Z".into(),
                }),
                r#"{"type":"auth_challenge","publicKeyBase32":"k","challengeId":"c","challengeText":"relay-auth:c:n","expiresAt":"2026-03-09T00:00:00.000Z"}"#,
            ),
            (
                ToGateway::AuthOk(AuthOk {
                    public_key_base32: "k".into(),
                    email_local_part: "k".into(),
                    session_role: SessionRole::Inbound,
                    replaced_socket_id: None,
                    features: Features::NONE,
                    credit: None,
                }),
                r#"{"type":"auth_ok","publicKeyBase32":"k","emailLocalPart":"k","sessionRole":"inbound","replacedSocketId":null}"#,
            ),
            (
                ToGateway::AuthOk(AuthOk {
                    public_key_base32: "k".into(),
                    email_local_part: "k".into(),
                    session_role: SessionRole::Outbound,
                    replaced_socket_id: Some("s".into()),
                    features: Features::of(&[Feature::Ack, Feature::Replay]),
                    credit: Some(Credit { items: 4, bytes: 5, item_bytes_max: None }),
                }),
                r#"{"type":"auth_ok","publicKeyBase32":"k","emailLocalPart":"k","sessionRole":"outbound","replacedSocketId":"s","features":["ack","replay"],"credit":{"items":4,"bytes":5}}"#,
            ),
            (
                ToGateway::AuthError(AuthError { code: "invalid_signature".into() }),
                r#"{"type":"auth_error","code":"invalid_signature"}"#,
            ),
            (
                ToGateway::RelayDeliveryResult(RelayDeliveryResult {
                    stream_id: "s".into(),
                    status: "failed".into(),
                    message_id: None,
                    error: Some("no".into()),
                    result_id: None,
                }),
                r#"{"type":"relay_delivery_result","streamId":"s","status":"failed","error":"no"}"#,
            ),
            (
                ToGateway::OutboundAccepted(OutboundAccepted {
                    stream_id: "s".into(),
                    submission_id: "i".into(),
                }),
                r#"{"type":"outbound_accepted","streamId":"s","submissionId":"i"}"#,
            ),
            (
                ToGateway::ReplayAccepted(ReplayAccepted { items: 3 }),
                r#"{"type":"replay_accepted","items":3}"#,
            ),
            (ToGateway::Drain(Drain { reconnect_after_ms: 7 }), r#"{"type":"drain","reconnectAfterMs":7}"#),
        ]
    }

    fn said_by_gateway() -> Vec<(ToRelay, &'static str)> {
        vec![
            (
                ToRelay::AuthChallengeRequest(AuthChallengeRequest {
                    public_key_base32: "k".into(),
                    session_role: Some(SessionRole::Inbound),
                    features: Features::NONE,
                    credit: None,
                }),
                r#"{"type":"auth_challenge_request","publicKeyBase32":"k","sessionRole":"inbound"}"#,
            ),
            (
                ToRelay::AuthChallengeRequest(AuthChallengeRequest {
                    public_key_base32: "k".into(),
                    session_role: None,
                    features: Features::of(&[
                        Feature::Ack,
                        Feature::Results,
                        Feature::Credit,
                        Feature::Replay,
                    ]),
                    credit: Some(Credit { items: 64, bytes: 1 << 20, item_bytes_max: Some(9) }),
                }),
                r#"{"type":"auth_challenge_request","publicKeyBase32":"k","features":["ack","results","credit","replay"],"credit":{"items":64,"bytes":1048576,"itemBytesMax":9}}"#,
            ),
            (
                ToRelay::AuthChallengeResponse(AuthChallengeResponse {
                    public_key_base32: "k".into(),
                    challenge_id: "c".into(),
                    signature_base64: "AAAA".into(),
                    session_role: None,
                }),
                r#"{"type":"auth_challenge_response","publicKeyBase32":"k","challengeId":"c","signatureBase64":"AAAA"}"#,
            ),
            (
                ToRelay::ItemAck(ItemAck {
                    item_id: "i".into(),
                    status: AckStatus::Rejected,
                    reason: Some("policy".into()),
                    sha256: None,
                }),
                r#"{"type":"item_ack","itemId":"i","status":"rejected","reason":"policy"}"#,
            ),
            (
                ToRelay::ItemNack(ItemNack { item_id: "i".into(), retry_after_ms: 5 }),
                r#"{"type":"item_nack","itemId":"i","retryAfterMs":5}"#,
            ),
            (
                ToRelay::ReplayRequest(ReplayRequest { from_seq: Some(3), since_ms: None }),
                r#"{"type":"replay_request","fromSeq":3}"#,
            ),
            (
                ToRelay::DeliveryResultAck(DeliveryResultAck { result_id: "r".into() }),
                r#"{"type":"delivery_result_ack","resultId":"r"}"#,
            ),
        ]
    }

    #[test]
    fn messages_are_written_and_read_as_agreed() {
        for (message, text) in said_by_relay() {
            assert_eq!(message.to_text(), text);
            assert_eq!(ToGateway::parse(text, CONTROL_BYTES_MAX), Ok(message));
        }
        for (message, text) in said_by_gateway() {
            assert_eq!(message.to_text(), text);
            assert_eq!(to_relay(text), Ok(message));
        }
    }

    #[test]
    fn what_is_unknown_is_ignored_or_a_value() {
        let text = r#"{"type":"auth_challenge_request","publicKeyBase32":"k","sessionRole":"weird","features":["ack","teleport",7],"credit":"much","x":{}}"#;
        let Ok(ToRelay::AuthChallengeRequest(request)) = to_relay(text) else { panic!() };
        assert_eq!(request.session_role, None);
        assert_eq!(request.features, Features::of(&[Feature::Ack]));
        assert_eq!(request.credit, None);
        assert_eq!(to_relay(r#"{"type":"hello"}"#), Ok(ToRelay::Unknown("hello".into())));
        assert_eq!(
            ToGateway::parse(r#"{"type":"hello"}"#, CONTROL_BYTES_MAX),
            Ok(ToGateway::Unknown("hello".into()))
        );
    }

    #[test]
    fn negative_and_absurd_positions_are_clamped() {
        // X10
        let asked = |text| match to_relay(text) {
            Ok(ToRelay::ReplayRequest(request)) => request,
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(r#"{"type":"replay_request","fromSeq":-4}"#).from_seq, Some(0));
        assert_eq!(
            asked(r#"{"type":"replay_request","sinceMs":18446744073709551615}"#).since_ms,
            Some(u64::MAX)
        );
        assert_eq!(asked(r#"{"type":"replay_request","fromSeq":"x"}"#).from_seq, None);
    }

    #[test]
    fn what_is_no_control_message_is_an_error() {
        for text in ["", "{x", "null", "[]", "7", "{}", r#"{"type":7}"#] {
            assert_eq!(to_relay(text), Err(ControlError::NotAnObject), "{text}");
        }
        assert!(matches!(to_relay(r#"{"type":"item_ack","itemId":"i"}"#), Err(ControlError::Field { .. })));
        assert!(matches!(
            to_relay(r#"{"type":"item_ack","itemId":"i","status":"eaten"}"#),
            Err(ControlError::Field { .. })
        ));
        assert_eq!(ToRelay::parse("{}", 1), Err(ControlError::TooLong(2)));
        let deep = "[".repeat(CONTROL_BYTES_MAX);
        assert_eq!(to_relay(&deep), Err(ControlError::NotAnObject));
    }

    #[test]
    fn decoding_perturbed_text_never_panics() {
        for (_, text) in said_by_gateway() {
            for at in 0..text.len() {
                let mut broken = text.as_bytes().to_vec();
                broken[at] ^= 0x15;
                let _ = to_relay(&String::from_utf8_lossy(&broken));
                let _ = to_relay(&String::from_utf8_lossy(&text.as_bytes()[..at]));
            }
        }
    }
}
