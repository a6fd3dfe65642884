//! Control messages: the JSON text of the tunnel, both directions, as values.
//!
//! * `to_relay`: what gateways say; `to_gateway`: what relays say.
//! * `json`: how text becomes a value, and which mistakes are forgiven.
//! * Here: what both directions speak of.
//!
//! Promises: what a reader of the first protocol ignores is ignored here too: unknown fields, unknown
//! features, a session role that is neither word. An unknown `type` is a value ([`ToRelay::Unknown`],
//! [`ToGateway::Unknown`]), so that the reader decides. Fields are written in the order of the reference.
//!
//! Does not decide what may be said when; the sessions do.
//!
//! Failure policy: text that is too long, no JSON object, or lacks a required field is a [`ControlError`].

mod json;
#[cfg(test)]
mod tests;
mod to_gateway;
mod to_relay;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use json::ControlError;
pub use to_gateway::{
    AuthChallenge, AuthError, AuthOk, Drain, OutboundAccepted, RelayDeliveryResult, RelayKeys,
    ReplayAccepted, ToGateway,
};
pub use to_relay::{
    AckStatus, AuthChallengeRequest, AuthChallengeResponse, DeliveryResultAck, ItemAck, ItemNack,
    ReplayRequest, ToRelay,
};

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
    /// The gateway takes statements that share a signature.
    Batch = 16,
}

impl Feature {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Ack, "ack"),
        (Self::Results, "results"),
        (Self::Credit, "credit"),
        (Self::Replay, "replay"),
        (Self::Batch, "batch"),
    ];
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

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    fn is_none(&self) -> bool {
        self.is_empty()
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
