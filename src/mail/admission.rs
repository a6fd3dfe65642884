//! Who gets a lane: at the first proof of a key, with an invitation, or after an operator has allowed it.
//!
//! Runs on the ledger's thread, in one step with what it changes. Promises: a revoked key stays out whatever it brings;
//! an invitation is redeemed by one key or by none, and the key is registered with it or not at all.
//!
//! Failure policy: a spool that does not answer is [`ServiceError::Unavailable`], and the gateway comes back.

use spool::Spool;
use spool::error::{RequestError, SpoolError};
use spool::ids::WallMs;
use spool::invitations::InvitationError;

use crate::identity::challenge::AuthCode;
use crate::identity::key::KeyText;
use crate::tunnel::control::CONTROL_BYTES_MAX;
use crate::tunnel::ws::{Admitted, ServiceError};

/// Aliases that a gateway is told of at its login; it has more in `mailbox show`.
const ALIASES_TOLD_MAX: usize = 64;
/// Octets of the domains and aliases that a gateway is told of at its login, as JSON: half of the longest text that a
/// gateway reads. One with more would be refused by every gateway, and no mail would reach any of them.
const TOLD_BYTES_MAX: usize = CONTROL_BYTES_MAX / 2;

/// Who may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// The first proof of a key registers it.
    #[default]
    Open,
    /// Only keys that an operator has allowed, and those that redeem an invitation.
    AllowList,
}

/// How a key came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// It was known.
    Known,
    /// It is registered now.
    Registered,
    /// By an invitation.
    Invited,
}

/// Lets `key` in, and answers how, and the aliases of its mailbox. `invite` is the hash of the invitation it brings.
pub(super) fn admit(
    spool: &mut Spool,
    key: KeyText,
    invite: Option<[u8; 32]>,
    admission: Admission,
    now: WallMs,
) -> Result<(Entrance, Vec<String>), ServiceError> {
    let known = spool.mailbox(key.as_str()).map_err(|error| unavailable(&error))?;
    match &known {
        Some(mailbox) if mailbox.revoked => return Err(ServiceError::Refused(AuthCode::Revoked)),
        // The text is another mailbox's alias: an operator's mistake, not this peer's place.
        Some(mailbox) if mailbox.name != key.as_str() => {
            return Err(ServiceError::Refused(AuthCode::NotAdmitted));
        }
        Some(_) | None => {}
    }
    let mut entrance = Entrance::Known;
    if let Some(invite) = invite {
        redeem(spool, key, &invite, now)?;
        entrance = Entrance::Invited;
    } else if known.is_none() {
        register(spool, key, admission, now)?;
        entrance = Entrance::Registered;
    }
    let mailbox = spool.mailbox(key.as_str()).map_err(|error| unavailable(&error))?;
    let mut aliases = mailbox.map_or_else(Vec::new, |mailbox| mailbox.aliases);
    aliases.truncate(ALIASES_TOLD_MAX);
    Ok((entrance, aliases))
}

/// What of its addresses a gateway is told: the first domain, which is that of its own address, then as many aliases as
/// there is room for, then further domains.
pub(super) fn told(aliases: Vec<String>, domains: &[String]) -> Admitted {
    let mut left = TOLD_BYTES_MAX;
    let mut fits = |text: &String| {
        // With its quotes, escapes and comma; what cannot be written is not told.
        let bytes = serde_json::to_string(text).map_or(usize::MAX, |json| json.len() + 1);
        match left.checked_sub(bytes) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        }
    };
    let mut domains = domains.iter();
    let first = domains.next().filter(|first| fits(first)).cloned();
    let aliases = aliases.into_iter().take_while(&mut fits).collect();
    let domains = first.into_iter().chain(domains.take_while(|domain| fits(domain)).cloned()).collect();
    Admitted { aliases, domains }
}

/// Tells how a key came in; that is stable now.
pub(super) fn tell(entrance: Entrance, key: KeyText) {
    match entrance {
        Entrance::Known => {}
        Entrance::Registered => {
            tracing::info!(event = "relay.mailbox.added", lane = %key, "a key is registered by its first login");
        }
        Entrance::Invited => {
            tracing::info!(event = "relay.invitation.redeemed", lane = %key, "a key is admitted by invitation");
        }
    }
}

fn register(spool: &mut Spool, key: KeyText, admission: Admission, now: WallMs) -> Result<(), ServiceError> {
    if admission == Admission::AllowList {
        return Err(ServiceError::Refused(AuthCode::NotAdmitted));
    }
    match spool.register(key.as_str(), now) {
        Ok(_) => Ok(()),
        Err(RequestError::Spool(error)) => Err(unavailable(&error)),
        Err(error) => {
            tracing::warn!(event = "relay.mailbox.not_registered", lane = %key, %error, "cannot register a key");
            Err(ServiceError::Refused(AuthCode::NotAdmitted))
        }
    }
}

fn redeem(spool: &mut Spool, key: KeyText, invite: &[u8; 32], now: WallMs) -> Result<(), ServiceError> {
    match spool.redeem(invite, key.as_str(), now) {
        Ok(_) => Ok(()),
        Err(InvitationError::Request(RequestError::Spool(error))) => Err(unavailable(&error)),
        Err(error) => {
            tracing::warn!(event = "relay.invitation.refused", lane = %key, %error, "an invitation is no good");
            Err(ServiceError::Refused(AuthCode::InvitationRefused))
        }
    }
}

/// The spool does not answer a login.
pub(super) fn unavailable(error: &SpoolError) -> ServiceError {
    tracing::warn!(event = "relay.spool.unavailable", %error, "the spool does not answer a login");
    ServiceError::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize, of: &str) -> Vec<String> {
        (0..count).map(|n| format!("n{n:04}{of}")).collect()
    }

    #[test]
    fn a_gateway_is_told_what_it_can_read() {
        let (few, domains) = (many(3, "@a.example"), many(20, ".example"));
        let all = told(few.clone(), &domains);
        assert_eq!((&all.aliases, &all.domains), (&few, &domains));
        // However many there are, and however they are written.
        for of in [".example".to_owned(), "\"\\".repeat(100), "\u{e4}".repeat(120)] {
            let (aliases, domains) = (many(ALIASES_TOLD_MAX, &of), many(1000, &of));
            let told = told(aliases.clone(), &domains);
            let bytes = serde_json::to_string(&(&told.aliases, &told.domains)).unwrap().len();
            assert!(bytes <= TOLD_BYTES_MAX + 8, "{bytes}");
            assert!(aliases.starts_with(&told.aliases) && !told.aliases.is_empty());
            assert!(domains.starts_with(&told.domains) && !told.domains.is_empty());
        }
    }
}
