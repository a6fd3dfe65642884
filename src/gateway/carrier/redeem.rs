//! Redeems an invitation: one login with its code, which tells the addresses of the mailbox.
//!
//! Takes no mail: the session ends as soon as the login is answered, and what the relay has begun to offer it offers
//! again to the next one. A code that was redeemed by this key before is answered as the first time.

use std::time::Duration;

use crate::clock;
use crate::gateway::client::{ClientSession, LanePosition, Notice, Output, Settings};
use crate::gateway::destination::one_line;
use crate::gateway::dial::{Endpoint, Trust};
use crate::identity::invite::Code;
use crate::identity::key::SecretKey;
use crate::tunnel::control::Credit;

use super::link::{self, Happened};

/// Longest wait for all of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a message that are read; the mail of the lane is not for this session.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What the relay said to the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redeemed {
    /// Addresses of the mailbox beside the key's own.
    pub aliases: Vec<String>,
    /// Domains of the relay; the first is that of the key's own address.
    pub domains: Vec<String>,
}

/// Why the code was not redeemed.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// The relay does not take it.
    #[error(
        "the relay refuses the invitation ({0}): it is unknown, expired, used by another key or withdrawn"
    )]
    Refused(String),
    /// No login came about.
    #[error("cannot redeem the invitation: {0}")]
    Lost(String),
}

/// Logs in once with the code. The relay must have the name in the URL.
///
/// # Errors
/// [`RedeemError`].
pub async fn redeem(
    relay_url: &str,
    trust: &Trust,
    key: SecretKey,
    code: Code,
) -> Result<Redeemed, RedeemError> {
    let lost = |error: &dyn std::fmt::Display| RedeemError::Lost(error.to_string());
    let endpoint = Endpoint::relay(relay_url).map_err(|error| lost(&error))?;
    let login = log_in(&endpoint, trust, settings(key, endpoint.host.clone(), code));
    tokio::time::timeout(PATIENCE, login).await.unwrap_or_else(|_| Err(lost(&"no answer in time")))
}

fn settings(key: SecretKey, relay_host: String, code: Code) -> Settings {
    Settings {
        key,
        relay_host,
        allow_tunnel_1: false,
        // No largest item: a relay holds what is larger for its operator, and this session judges no mail.
        credit: Credit { items: 1, bytes: 1, item_bytes_max: None },
        handshake_timeout: PATIENCE,
        heartbeat_every: PATIENCE,
        silence_max: PATIENCE * 2,
        submits: false,
        invite: Some(code),
    }
}

async fn log_in(endpoint: &Endpoint, trust: &Trust, settings: Settings) -> Result<Redeemed, RedeemError> {
    let lost = |error: link::Lost| RedeemError::Lost(error.to_string());
    let mut line = link::connect(endpoint, trust, MESSAGE_BYTES_MAX).await.map_err(lost)?;
    let mut session = ClientSession::new(settings, LanePosition::default(), clock::monotonic());
    let mut reason = String::new();
    loop {
        while let Some(output) = session.poll() {
            match output {
                Output::Text(text) => line.send(tokio_tungstenite::tungstenite::Message::text(text)),
                Output::Ready { aliases, domains, .. } => {
                    line.close(1000, "redeemed").await;
                    let plain = |texts: Vec<String>| texts.iter().map(|text| one_line(text)).collect();
                    return Ok(Redeemed { aliases: plain(aliases), domains: plain(domains) });
                }
                Output::Notice(Notice::AuthRefused(code)) => return Err(RedeemError::Refused(code)),
                Output::Notice(Notice::ProofRefused(refusal)) => reason = refusal.to_string(),
                Output::Notice(Notice::TunnelOneRefused) => {
                    "the relay speaks tunnel 1 only, which knows no invitations".clone_into(&mut reason);
                }
                Output::Close { reason: word, .. } => {
                    let reason = if reason.is_empty() { word.to_owned() } else { reason };
                    return Err(RedeemError::Lost(reason));
                }
                // Nothing else is said before the login is done.
                Output::Binary(_)
                | Output::Seal { .. }
                | Output::Submitted(_)
                | Output::Ping
                | Output::RelayKeys(_)
                | Output::Begin { .. }
                | Output::Append { .. }
                | Output::Complete { .. }
                | Output::Abandon { .. }
                | Output::Notice(_) => {}
            }
        }
        match line.next(true).await {
            Happened::Heard(message) => link::hear(message, &mut session).map_err(lost)?,
            Happened::Flushed => {}
            Happened::Broken(error) => return Err(lost(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_gives_the_relay_no_reason_to_hold_mail() {
        let settings =
            settings(SecretKey::from_seed(&[1; 32]), "relay.example".to_owned(), Code::from_random(&[2; 15]));
        assert_eq!(settings.credit.item_bytes_max, None);
        let offered = settings.credit;
        let session = &mut ClientSession::new(settings, LanePosition::default(), clock::monotonic());
        let Some(Output::Text(request)) = session.poll() else { panic!("a login begins with a request") };
        assert!(!request.contains("itemBytesMax"), "{request}");
        assert_eq!((offered.items, offered.bytes), (1, 1));
    }
}
