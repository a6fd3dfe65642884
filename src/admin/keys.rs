//! What an operator is told of the relay's signing keys and of receipts.
//!
//! Promise: a receipt is made of what the ledger keeps and of nothing else, so it is the one that the gateway has.

use data_encoding::BASE64;
use serde_json::{Value, json};
use spool::ids::WallMs;
use spool::types::ItemInfo;

use super::ask::AskError;
use super::words::rfc3339;
use crate::mail::envelope::Envelope;
use crate::mail::relay_keys::{fingerprint, key_base64};
use crate::mail::signer::Signer;
use crate::mail::signer::store::StoreError;

/// There are no keys.
#[must_use]
pub fn off() -> AskError {
    AskError::Conflict("nothing is signed: attestation.enabled is false".to_owned())
}

/// `{"enabled", "relay", "overlap_seconds", "keys": [{"key_id", "status", "public_key", "public_key_pem",
/// "fingerprint", "signs_from", "announced_until", "endorsed_by"}]}`, the current key first.
#[must_use]
pub fn object(signer: Option<&Signer>, now: WallMs) -> Value {
    let Some(signer) = signer else { return json!({ "enabled": false, "keys": [] }) };
    let ring = signer.ring();
    let keys = ring.standings(now).into_iter().map(|standing| {
        let (key, public) = (standing.key, standing.key.secret.key_text());
        json!({
            "key_id": key.id,
            "status": standing.status.word(),
            "public_key": key_base64(&public),
            "public_key_pem": public.to_spki_pem(),
            "fingerprint": fingerprint(&public),
            "signs_from": (key.signs_from.0 > 0).then(|| rfc3339(key.signs_from)),
            "announced_until": standing.until.map(rfc3339),
            "endorsed_by": key.endorsement.as_ref().map(|signed| signed.key_id.clone()),
        })
    });
    json!({
        "enabled": true,
        "relay": signer.relay(),
        "overlap_seconds": signer.overlap_ms() / 1000,
        "keys": keys.collect::<Vec<_>>(),
    })
}

/// Makes the next key; answers as [`object`]. Blocks for the disk.
///
/// # Errors
/// [`AskError::Conflict`] when another rotation has not ended, or the disk does not take it; nothing changed.
pub fn rotate(signer: &Signer, now: WallMs) -> Result<Value, AskError> {
    signer.rotate(now).map_err(|error: StoreError| AskError::Conflict(error.to_string()))?;
    Ok(object(Some(signer), now))
}

/// `{"receipt": {"keyId", "payloadBase64", "signatureBase64"}, "payload": {...}, "public_key"}`: the relay's word for
/// what it keeps, as the gateway has it, and what is in it.
///
/// # Errors
/// [`AskError::Conflict`] when its envelope cannot be read.
pub fn receipt(signer: &Signer, info: &ItemInfo, now: WallMs) -> Result<Value, AskError> {
    let unreadable = |error: &dyn std::fmt::Display| AskError::Conflict(format!("{}: {error}", info.id));
    let envelope = Envelope::decode(&info.meta).map_err(|error| unreadable(&error))?;
    let signed = signer.receipt(info, &envelope, now);
    let payload = BASE64.decode(signed.payload_base64.as_bytes()).unwrap_or_default();
    let payload: Value = serde_json::from_slice(&payload).map_err(|error| unreadable(&error))?;
    let ring = signer.ring();
    let public = key_base64(&ring.current_for(info.accepted_at, now).secret.key_text());
    Ok(json!({ "receipt": signed, "payload": payload, "public_key": public }))
}
