//! JSON text to values: the outer object first, then the fields of a known type.
//!
//! Promises: looks at no text longer than its reader takes; optional fields of a wrong kind count as absent, as the
//! reference has it, and negative positions as the beginning.
//!
//! Failure policy: everything else that is wrong is a [`ControlError`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::SessionRole;
use crate::tunnel::signed::{RELAY_KEYS_MAX, RelayKey};

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

pub(super) fn open(text: &str, bytes_max: usize) -> Result<(String, Value), ControlError> {
    if text.len() > bytes_max {
        return Err(ControlError::TooLong(text.len()));
    }
    let value: Value = serde_json::from_str(text).map_err(|_| ControlError::NotAnObject)?;
    let kind = value.get("type").and_then(Value::as_str).ok_or(ControlError::NotAnObject)?.to_owned();
    Ok((kind, value))
}

pub(super) fn fields<T: DeserializeOwned>(kind: String, value: Value) -> Result<T, ControlError> {
    serde_json::from_value(value).map_err(|error| ControlError::Field { kind, problem: error.to_string() })
}

/// An optional field: a value of a wrong kind counts as absent.
pub(super) fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

pub(super) fn lenient_role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SessionRole, D::Error> {
    Ok(lenient(deserializer)?.unwrap_or_default())
}

/// Keys of a list; what is none, or has a status of a later protocol, is left out.
pub(super) fn lenient_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RelayKey>, D::Error> {
    let Value::Array(keys) = Value::deserialize(deserializer)? else { return Ok(Vec::new()) };
    Ok(keys.into_iter().take(RELAY_KEYS_MAX).filter_map(|key| serde_json::from_value(key).ok()).collect())
}

pub(super) fn lenient_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(lenient(deserializer)?.unwrap_or_default())
}

pub(super) fn lenient_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(lenient_position(deserializer)?.unwrap_or_default())
}

/// A whole number; a negative one is the beginning.
pub(super) fn lenient_position<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_u64().or_else(|| value.as_i64().map(|_| 0)))
}
