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
use crate::tunnel::ws::ServiceError;

/// Aliases that a gateway is told of at its login; it has more in `mailbox show`.
const ALIASES_TOLD_MAX: usize = 64;

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
