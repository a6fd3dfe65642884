//! What a gateway puts its signature under: nothing but a challenge of the known form. Pure.
//!
//! `relay-auth:<challenge id>:<nonce>` (tunnel 1), or the same with `:<relay host>` behind it (tunnel 2), where id and
//! nonce are UUIDs in canonical spelling and the id is the one the message names. Everything else is refused, so a
//! relay cannot make a gateway sign a text of its choice (X3), and a tunnel-2 text made for another relay cannot be
//! passed on (X1). A tunnel-1 text names nobody; whether it may be signed is the caller's setting.

use core::net::IpAddr;

use uuid::Uuid;

use crate::identity::key::KeyText;
use crate::tunnel::Dialect;
use crate::tunnel::control::AuthChallenge;

/// Why a challenge is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The challenge names another key than ours.
    #[error("the challenge was made for another key")]
    OtherKey,
    /// The text is not of the known form.
    #[error("the challenge text does not have the form of a challenge")]
    Form,
    /// The text is a challenge, but not the one the message names.
    #[error("the challenge text does not carry the challenge's id")]
    OtherChallenge,
    /// The text names another relay than the one we dialled: somebody passes it on.
    #[error(
        "the challenge was made by the relay {named:?}, and we expect {expected:?}; if that is its right name, set relay_name"
    )]
    OtherRelay {
        /// The host in the text.
        named: String,
        /// The host we expect.
        expected: String,
    },
}

/// Whether `challenge` may be signed by the key `key_text` on a connection to the relay named `relay_host` (without
/// port), and which dialect its form belongs to.
///
/// # Errors
/// [`Refusal`], in the order of its variants.
pub fn check(challenge: &AuthChallenge, key_text: &KeyText, relay_host: &str) -> Result<Dialect, Refusal> {
    if challenge.public_key_base32 != key_text.as_str() {
        return Err(Refusal::OtherKey);
    }
    let mut parts = challenge.challenge_text.splitn(4, ':');
    let (Some("relay-auth"), Some(id), Some(nonce)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::Form);
    };
    if !is_uuid(id) || !is_uuid(nonce) {
        return Err(Refusal::Form);
    }
    if id != challenge.challenge_id {
        return Err(Refusal::OtherChallenge);
    }
    match parts.next() {
        None => Ok(Dialect::One),
        Some("") => Err(Refusal::Form),
        Some(host) if host_matches(host, relay_host) => Ok(Dialect::Two),
        Some(host) => Err(Refusal::OtherRelay {
            named: crate::gateway::destination::one_line(host),
            expected: relay_host.to_owned(),
        }),
    }
}

/// Canonical spelling only: 36 characters, lower case, hyphens in place.
fn is_uuid(text: &str) -> bool {
    Uuid::try_parse(text).is_ok_and(|uuid| uuid.to_string() == text)
}

/// Equal without regard to case, a final dot, and the brackets of an IPv6 address. All names of this machine for itself
/// are one: a relay that was dialled on loopback may say `localhost`.
#[must_use]
pub fn host_matches(named: &str, dialled: &str) -> bool {
    let plain = |host: &str| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
    };
    let (named, dialled) = (plain(named), plain(dialled));
    !named.is_empty() && (named == dialled || (is_loopback(&named) && is_loopback(&dialled)))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key::SecretKey;

    const ID: &str = "7b0b3ba6-2c3f-4e0a-9a51-6a3a4c1c8a52";
    const NONCE: &str = "0f2c1f0e-9d56-4b7c-8f0e-1b2c3d4e5f60";

    fn check_text(text: &str) -> Result<Dialect, Refusal> {
        let key = SecretKey::from_seed(&[1; 32]).key_text();
        let challenge = AuthChallenge {
            public_key_base32: key.to_string(),
            challenge_id: ID.to_owned(),
            challenge_text: text.to_owned(),
            expires_at: String::new(),
        };
        check(&challenge, &key, "relay.example.org")
    }

    #[test]
    fn both_known_forms_are_told_apart() {
        assert_eq!(check_text(&format!("relay-auth:{ID}:{NONCE}")), Ok(Dialect::One));
        assert_eq!(check_text(&format!("relay-auth:{ID}:{NONCE}:relay.example.org")), Ok(Dialect::Two));
        assert_eq!(check_text(&format!("relay-auth:{ID}:{NONCE}:Relay.Example.org.")), Ok(Dialect::Two));
    }

    #[test]
    fn another_relays_challenge_is_not_signed() {
        // X1
        for host in ["evil.example", "relay.example.org.evil.example", "relay.example.org:evil", "."] {
            let text = format!("relay-auth:{ID}:{NONCE}:{host}");
            assert!(matches!(check_text(&text), Err(Refusal::OtherRelay { .. })), "{host}");
        }
    }

    #[test]
    fn loopback_has_many_names_and_nobody_else_has_them() {
        assert!(host_matches("localhost", "127.0.0.1") && host_matches("[::1]", "localhost"));
        assert!(!host_matches("localhost", "relay.example.org"));
        assert!(!host_matches("relay.example.org", "127.0.0.1"));
        assert!(!host_matches("", ""));
    }

    #[test]
    fn only_the_fixed_structure_is_signed() {
        // X3
        for text in [
            String::new(),
            "transfer all my mail".to_owned(),
            format!("relay-auth:{ID}"),
            format!("relay-auth:{ID}:"),
            format!("relay-auth:{ID}:{NONCE}:"),
            format!("relay-auth:{ID}:{NONCE}\n"),
            format!(" relay-auth:{ID}:{NONCE}"),
            format!("relay-auth:{}:{NONCE}", ID.to_uppercase()),
            format!("relay-auth:{}:{NONCE}", ID.replace('-', "")),
            format!("Relay-Auth:{ID}:{NONCE}"),
        ] {
            assert_eq!(check_text(&text), Err(Refusal::Form), "{text:?}");
        }
        assert_eq!(check_text(&format!("relay-auth:{NONCE}:{ID}")), Err(Refusal::OtherChallenge));
    }

    #[test]
    fn a_challenge_for_another_key_is_not_signed() {
        let challenge = AuthChallenge {
            public_key_base32: SecretKey::from_seed(&[2; 32]).key_text().to_string(),
            challenge_id: ID.to_owned(),
            challenge_text: format!("relay-auth:{ID}:{NONCE}"),
            expires_at: String::new(),
        };
        let ours = SecretKey::from_seed(&[1; 32]).key_text();
        assert_eq!(check(&challenge, &ours, "relay.example.org"), Err(Refusal::OtherKey));
    }
}
