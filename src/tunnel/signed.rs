//! What the relay signs, as the tunnel carries it: opaque here, read by the mail codecs on both sides.
//!
//! Promise: bounded by the message that carries it. Nothing is verified here; a reader that does not know a status takes
//! the key for none.

use serde::{Deserialize, Serialize};

/// Most keys of one announcement that are looked at: current, next, and those that were before.
pub const RELAY_KEYS_MAX: usize = 8;

/// Bytes that the relay signed (mail-tunnel protocol, section 10.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// Which of the relay's keys signed.
    pub key_id: String,
    /// The bytes, standard base64.
    pub payload_base64: String,
    /// Ed25519 signature over them, or over a root that they lead to, standard base64.
    pub signature_base64: String,
    /// The way to that root, standard base64; only for gateways that take it ([`super::control::Feature::Batch`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_path: Option<String>,
}

/// What a key of the relay does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayKeyStatus {
    /// It signs.
    Current,
    /// It will sign, when everybody has had time to learn it.
    Next,
    /// It signed until a while ago; what it signed is still under way.
    Previous,
}

impl RelayKeyStatus {
    /// The word on the wire and in answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
            Self::Previous => "previous",
        }
    }
}

/// One key of a relay's announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayKey {
    /// Its name.
    pub key_id: String,
    /// The raw 32 bytes, standard base64.
    pub public_key: String,
    /// What it does.
    pub status: RelayKeyStatus,
    /// Name of the key that it follows, if it follows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsed_by: Option<String>,
    /// That key's word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<Signed>,
}
