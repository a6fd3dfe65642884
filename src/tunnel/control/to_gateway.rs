//! What relays say.
//!
//! Promises: every message that [`ToGateway::to_text`] writes is read back by [`ToGateway::parse`] as the same value.
//!
//! Failure policy: see [`ControlError`].

use serde::{Deserialize, Serialize};

use super::json::{self, ControlError, lenient, lenient_count, lenient_keys, lenient_role, lenient_texts};
use super::{Credit, Features, SessionRole};
use crate::tunnel::signed::{RelayKey, Signed};

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Tunnel 2: addresses of the mailbox beside the key's own.
    #[serde(default, deserialize_with = "lenient_texts", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Tunnel 2: domains of the relay; the first is that of the key's own address.
    #[serde(default, deserialize_with = "lenient_texts", skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// Tunnel 2: the window in effect, the smaller of both sides' limits.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub credit: Option<Credit>,
    /// Tunnel 2: the keys with which the relay signs attestations and receipts; empty when it signs nothing.
    #[serde(default, deserialize_with = "lenient_keys", skip_serializing_if = "Vec::is_empty")]
    pub relay_keys: Vec<RelayKey>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundAccepted {
    /// The outbound stream.
    pub stream_id: String,
    /// Its name at the relay.
    pub submission_id: String,
    /// The relay's receipt for it; the same one each time it is told.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Signed>,
}

/// A replay request was carried out (tunnel 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayAccepted {
    /// Acked items that are offered again; those whose retention is over are not among them.
    pub items: u64,
}

/// The relay's signing keys are others than at the login (tunnel 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayKeys {
    /// All of them, as in `auth_ok`.
    #[serde(default, deserialize_with = "lenient_keys")]
    pub keys: Vec<RelayKey>,
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
    /// I sign with these keys now.
    RelayKeys(RelayKeys),
    /// I am about to stop.
    Drain(Drain),
    /// Something of a later protocol; its type word.
    #[serde(skip)]
    Unknown(String),
}

impl ToGateway {
    /// Reads one text message of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, ControlError> {
        let (kind, value) = json::open(text, bytes_max)?;
        Ok(match kind.as_str() {
            "auth_challenge" => Self::AuthChallenge(json::fields(kind, value)?),
            "auth_ok" => Self::AuthOk(json::fields(kind, value)?),
            "auth_error" => Self::AuthError(json::fields(kind, value)?),
            "relay_delivery_result" => Self::RelayDeliveryResult(json::fields(kind, value)?),
            "outbound_accepted" => Self::OutboundAccepted(json::fields(kind, value)?),
            "replay_accepted" => Self::ReplayAccepted(json::fields(kind, value)?),
            "relay_keys" => Self::RelayKeys(json::fields(kind, value)?),
            "drain" => Self::Drain(json::fields(kind, value)?),
            _ => Self::Unknown(kind),
        })
    }

    /// The text to send; empty for [`ToGateway::Unknown`], which nobody sends.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
