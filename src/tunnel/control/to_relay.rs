//! What gateways say.
//!
//! Promises: every message that [`ToRelay::to_text`] writes is read back by [`ToRelay::parse`] as the same value.
//!
//! Failure policy: see [`ControlError`].

use serde::{Deserialize, Serialize};

use crate::identity::invite::Code;

use super::json::{self, ControlError, lenient, lenient_count, lenient_position};
use super::{Credit, Features, SessionRole};

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
    /// Tunnel 2: code of an invitation to redeem.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub invite: Option<Code>,
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

impl ToRelay {
    /// Reads one text message of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, ControlError> {
        let (kind, value) = json::open(text, bytes_max)?;
        Ok(match kind.as_str() {
            "auth_challenge_request" => Self::AuthChallengeRequest(json::fields(kind, value)?),
            "auth_challenge_response" => Self::AuthChallengeResponse(json::fields(kind, value)?),
            "item_ack" => Self::ItemAck(json::fields(kind, value)?),
            "item_nack" => Self::ItemNack(json::fields(kind, value)?),
            "replay_request" => Self::ReplayRequest(json::fields(kind, value)?),
            "delivery_result_ack" => Self::DeliveryResultAck(json::fields(kind, value)?),
            _ => Self::Unknown(kind),
        })
    }

    /// The text to send; empty for [`ToRelay::Unknown`], which nobody sends.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
