//! Mail from local programs: a submission server on loopback (RFC 6409), in front of the outbox.
//!
//! Promises: `250` after the message comes after the outbox's commit; a message is taken for all its recipients or for
//! none; a sender that is not the gateway's own address is refused at `MAIL`, because the relay would refuse it later. A
//! connection costs one read buffer and one chunk per recipient. A client faster than the disk is slowed down by TCP.
//!
//! Does not: change the message in any way (no `Received`, no `From` rewritten), ask for a password (who may connect is
//! who may send, hence loopback), or speak TLS.
//!
//! Failure policy: an outbox that cannot take mail now is 451 or 452, and the client tries again.

mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::outbox::Outbox;
use crate::mail::address::{AddressError, ForwardPath, Mailbox, ReversePath};
use crate::mail::smtp::receiver;

/// Connections at one time; more wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 64;
/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long messages under way may take to finish after a stop.
const DRAIN: Duration = Duration::from_secs(10);

/// The addresses that are the gateway's own.
#[derive(Clone, Debug)]
pub struct Own {
    address: String,
    names: Vec<String>,
}

/// A submission that is not taken, with advice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The sender is somebody else.
    #[error("{sender} is not an address of this gateway; send as {own}, or name it in `aliases`")]
    NotOwned {
        /// Who.
        sender: String,
        /// Who it may be.
        own: String,
    },
    /// A sender or recipient is no address.
    #[error("{address:?} is no mail address: {error}")]
    Address {
        /// The text.
        address: String,
        /// What is wrong.
        error: AddressError,
    },
    /// A recipient without a domain.
    #[error("{0:?} has no domain; write NAME@DOMAIN")]
    NoDomain(String),
    /// Nobody is named.
    #[error("no recipients; name them as arguments, or use -t")]
    NoRecipients,
    /// More than a message may have.
    #[error("more than {0} recipients")]
    TooMany(usize),
}

impl Own {
    /// The gateway's address and its aliases.
    #[must_use]
    pub fn new(address: &str, aliases: &[String]) -> Self {
        let names = std::iter::once(address).chain(aliases.iter().map(String::as_str));
        let key =
            |name| Mailbox::parse(name, true).map_or_else(|_| name.to_lowercase(), |mailbox| mailbox.key());
        Self { address: address.to_owned(), names: names.map(key).collect() }
    }

    /// The address to send as.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether this sender may be used. The null sender may: it belongs to nobody, and the relay looks at the header.
    #[must_use]
    pub fn owns(&self, sender: &ReversePath) -> bool {
        match sender {
            ReversePath::Null => true,
            ReversePath::Mailbox(mailbox) => mailbox.names().iter().any(|name| self.names.contains(name)),
        }
    }

    /// Checks an envelope; gives its recipients, each once.
    ///
    /// # Errors
    /// [`Refusal`], by the first thing that is wrong.
    pub fn check(
        &self,
        mail_from: &str,
        rcpt_to: &[String],
        recipients_max: usize,
    ) -> Result<Vec<String>, Refusal> {
        let no_address = |address: &str| {
            let address = address.to_owned();
            move |error| Refusal::Address { address, error }
        };
        let sender = ReversePath::parse(mail_from.as_bytes(), true).map_err(no_address(mail_from))?;
        if !self.owns(&sender) {
            let (sender, own) = (mail_from.to_owned(), self.address.clone());
            return Err(Refusal::NotOwned { sender, own });
        }
        let mut seen = Vec::new();
        let mut recipients = Vec::new();
        for text in rcpt_to {
            if !text.contains('@') {
                return Err(Refusal::NoDomain(text.clone()));
            }
            let path = ForwardPath::parse(text.as_bytes(), true).map_err(no_address(text))?;
            if !seen.contains(&path.key()) {
                seen.push(path.key());
                recipients.push(path.verbatim().to_owned());
            }
            if recipients.len() > recipients_max {
                return Err(Refusal::TooMany(recipients_max));
            }
        }
        if recipients.is_empty() { Err(Refusal::NoRecipients) } else { Ok(recipients) }
    }
}

/// What every session shares.
#[derive(Debug)]
struct Shared {
    outbox: Outbox,
    own: Own,
    settings: Arc<receiver::Settings>,
    /// Between commands, go.
    stop: CancellationToken,
    /// At once, go.
    kill: CancellationToken,
}

/// How the submission server is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in the greeting.
    pub hostname: String,
    /// Largest message, bytes.
    pub message_bytes_max: u64,
    /// Most recipients of one message.
    pub recipients_max: usize,
}

/// Serves `listener` until `stop`; returns when the last session has ended.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    outbox: Outbox,
    own: Own,
    stop: CancellationToken,
) {
    let session = receiver::Settings {
        any_domain: true,
        message_bytes_max: settings.message_bytes_max,
        recipients_max: settings.recipients_max,
        ..receiver::Settings::new(&settings.hostname, &[])
    };
    let kill = CancellationToken::new();
    let shared =
        Arc::new(Shared { outbox, own, settings: Arc::new(session), stop: stop.clone(), kill: kill.clone() });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let shared = Arc::clone(&shared);
                tracker.spawn(async move {
                    session::serve(stream, peer, &shared).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(event = "gateway.submission.accept_failed", %error, "cannot accept connections, trying on");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        kill.cancel();
        tracker.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, SocketAddr, Option<tokio::sync::OwnedSemaphorePermit>)> {
    // Never closed; without a place the connection waits in the listener's queue.
    let place = Arc::clone(places).acquire_owned().await.ok();
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Own {
        Own::new("Key@mail.example.org", &["me@example.org".to_owned()])
    }

    #[test]
    fn own_addresses_are_own_in_any_spelling_and_with_a_tag() {
        for sender in ["key@MAIL.example.org", "key+shop@mail.example.org", "Me@example.org", ""] {
            assert!(own().check(sender, &["x@y.example".to_owned()], 10).is_ok(), "{sender}");
        }
        for sender in ["key@example.org", "you@example.org", "me@example.com"] {
            let refused = own().check(sender, &["x@y.example".to_owned()], 10).unwrap_err();
            assert!(refused.to_string().contains("send as Key@mail.example.org"), "{refused}");
        }
    }

    #[test]
    fn recipients_are_addresses_and_each_is_named_once() {
        let check = |rcpts: &[&str]| {
            let rcpts: Vec<String> = rcpts.iter().map(|rcpt| (*rcpt).to_owned()).collect();
            own().check("", &rcpts, 2)
        };
        assert_eq!(check(&["A@b.example", "a@B.example", "c@d"]).unwrap(), ["A@b.example", "c@d"]);
        assert_eq!(check(&[]), Err(Refusal::NoRecipients));
        assert_eq!(check(&["root"]), Err(Refusal::NoDomain("root".to_owned())));
        assert!(matches!(check(&["a b@c"]), Err(Refusal::Address { .. })));
        assert_eq!(check(&["a@b", "c@d", "e@f"]), Err(Refusal::TooMany(2)));
    }
}
