//! One connection to a next hop: dialled, greeted, encrypted as demanded, and then one message after the other.
//!
//! Promises: everything that fails in [`Connection::open`] is safe to try again elsewhere; a message ends in exactly
//! one [`Outcome`] per recipient; the octets that complete it leave only after [`Arm::arm`] has said yes. What a
//! connection must look like is the endpoint's [`TlsDemand`], and nothing is said over one that does not meet it.
//!
//! Where the line runs: mail-send dials (with the source address of the right family) and does the TLS handshake.
//! Greeting, EHLO, STARTTLS and the transaction are [`Sender`]'s, because mail-send knows one time for all phases, takes
//! no EHLO answer beyond 4 KiB (P5), throws away what follows a reply and so cannot tell an injected one (P13), writes
//! addresses as they come, and cannot say which octet of a message was written (rows Q).
//!
//! Failure policy: a peer that is silent, slow or incomprehensible costs this connection, nothing else. Dropping the
//! future of [`Connection::send`] after the message was armed leaves its fate unknown; the caller must treat it so.

mod link;
#[cfg(test)]
mod tests;
mod tls;

use core::net::IpAddr;
use core::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mail_send::SmtpClient;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsConnector;

use self::link::{Heard, Link};
use self::tls::Judge;
pub use self::tls::Trust;
use super::values::{Endpoint, TlsDemand, TlsLevel, remote_text};
use crate::crashpoint;
pub use crate::mail::smtp::sender::capabilities::Capabilities;
pub use crate::mail::smtp::sender::envelope::Envelope;
pub use crate::mail::smtp::sender::outcome::{Acceptance, Failure, FailureKind, Outcome, Stage};
pub use crate::mail::smtp::sender::timeouts::Timeouts;
use crate::mail::smtp::sender::{Loss, Output, Sender};

/// Silence after which TCP keepalive begins, and the distance of its probes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// How connections are made.
#[derive(Clone, Debug, Default)]
pub struct Dialing {
    /// Our name in `EHLO`.
    pub helo: String,
    /// All waits.
    pub timeouts: Timeouts,
    /// Where connections come from: the first address of the family that is dialled; none: the system's choice.
    pub source_addresses: Vec<IpAddr>,
    /// Public authorities that count.
    pub trust: Trust,
}

/// How a connection is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// How well.
    pub level: TlsLevel,
    /// For records: `none`, `unverified TLSv1.3`, `web_pki TLSv1.3`, `dane TLSv1.2`.
    pub text: String,
    /// Why the certificate proves nothing, when TLS is unverified.
    pub problem: String,
}

/// The message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// A message in canonical form: lines end in CRLF, no dots added.
pub trait MessageSource: Send {
    /// The next piece, `None` at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>>;
}

/// The message must not be handed over: cancelled, held, or it could not be made durable that it would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ArmRefused(pub String);

/// Makes durable that a message is about to be handed over (Q0).
pub trait Arm: Send {
    /// Returns once it is durable for the recipients that the server accepted (true). Not limited in time: half an
    /// answer would be none, and the ledger's thread either answers or ends the process.
    fn arm<'a>(&'a mut self, accepted: &'a [bool]) -> BoxFuture<'a, Result<(), ArmRefused>>;
}

/// Where a message and the permission for it come from.
struct Work<'a> {
    message: &'a mut dyn MessageSource,
    arm: &'a mut dyn Arm,
}

/// Why the machine stopped asking for things.
enum Pause {
    Greeted,
    StartTls(usize),
    Failed(Failure),
    Done(Vec<Outcome>),
    Closed,
}

/// A connection that was greeted and, where demanded, encrypted.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    sender: Sender,
    timeouts: Timeouts,
    tls: TlsFacts,
    /// Runs while an answer or a write is awaited.
    patience: Pin<Box<Sleep>>,
}

impl Connection {
    /// Dials, waits for the greeting, says EHLO, and encrypts as the endpoint demands.
    ///
    /// # Errors
    /// [`Failure`]; nothing was handed over. [`FailureKind::StarttlsBroken`] means that [`Connection::open_in_clear`]
    /// may be tried (S2).
    pub async fn open(endpoint: &Endpoint, dialing: &Dialing) -> Result<Self, Failure> {
        let mut connection = Self::greet(endpoint, dialing).await?;
        if endpoint.tls == TlsDemand::Cleartext {
            return Ok(connection);
        }
        if connection.sender.capabilities().starttls {
            connection.encrypt(endpoint, dialing).await?;
        } else if !may_be_clear(endpoint) {
            return Err(connection.unmet("4.7.10", "the server does not offer STARTTLS")); // S3, S12
        }
        Ok(connection)
    }

    /// As [`Connection::open`], without STARTTLS even when it is offered.
    ///
    /// # Errors
    /// [`Failure`]; [`FailureKind::TlsUnmet`] at once when the endpoint does not allow mail in the clear.
    pub async fn open_in_clear(endpoint: &Endpoint, dialing: &Dialing) -> Result<Self, Failure> {
        if !may_be_clear(endpoint) {
            let text = "mail to this host must not go in the clear";
            return Err(Failure::own(Stage::Starttls, FailureKind::TlsUnmet, "4.7.10", text));
        }
        Self::greet(endpoint, dialing).await
    }

    /// How the connection is protected.
    #[must_use]
    pub fn tls(&self) -> &TlsFacts {
        &self.tls
    }

    /// What the server offers, after TLS if there is any.
    #[must_use]
    pub fn offers(&self) -> &Capabilities {
        self.sender.capabilities()
    }

    /// Whether another message may go over it.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.sender.is_reusable() && self.link.is_flushed()
    }

    /// Hands one message over. One outcome per recipient, in the order of the envelope.
    ///
    /// [`FailureKind::Stale`] in them says that a connection kept for reuse was gone: dial again, that was no attempt.
    pub async fn send(
        &mut self,
        envelope: &Envelope,
        message: &mut dyn MessageSource,
        arm: &mut dyn Arm,
    ) -> Vec<Outcome> {
        self.overhear().await; // a server that went away while the connection waited (P11)
        self.sender.begin(envelope);
        let mut outcomes = match self.converse(Some(Work { message, arm })).await {
            Pause::Done(outcomes) => outcomes,
            Pause::Greeted | Pause::StartTls(_) | Pause::Failed(_) | Pause::Closed => {
                let text = "the connection was gone before the message";
                let failure = Failure::own(Stage::Mail, FailureKind::Stale, "4.4.2", text);
                envelope.rcpt_to.iter().map(|_| Outcome::Temporary(failure.clone())).collect()
            }
        };
        for outcome in &mut outcomes {
            outcome.set_tls(&self.tls.text);
        }
        outcomes
    }

    /// Says goodbye, briefly (P18).
    pub async fn quit(mut self) {
        self.sender.quit();
        let _ = self.converse(None).await;
    }

    async fn greet(endpoint: &Endpoint, dialing: &Dialing) -> Result<Self, Failure> {
        let tcp = dial(endpoint, dialing).await?;
        let mut connection = Self {
            link: Link::new(tcp),
            sender: Sender::new(&dialing.helo, dialing.timeouts),
            timeouts: dialing.timeouts,
            tls: TlsFacts::default(),
            patience: Box::pin(sleep(dialing.timeouts.greeting)),
        };
        connection.opened().await?;
        "none".clone_into(&mut connection.tls.text);
        Ok(connection)
    }

    /// Until EHLO is answered.
    async fn opened(&mut self) -> Result<(), Failure> {
        match self.converse(None).await {
            Pause::Greeted => Ok(()),
            Pause::Failed(failure) => Err(Failure { tls: self.tls.text.clone(), ..failure }),
            Pause::StartTls(_) | Pause::Done(_) | Pause::Closed => {
                let text = "the connection ended before it began";
                Err(Failure::own(Stage::Ehlo, FailureKind::Lost, "4.4.2", text))
            }
        }
    }

    async fn encrypt(&mut self, endpoint: &Endpoint, dialing: &Dialing) -> Result<(), Failure> {
        self.sender.start_tls();
        match self.converse(None).await {
            Pause::StartTls(0) => {}
            Pause::StartTls(bytes) => {
                tracing::warn!(
                    event = "relay.outbound.starttls_leftovers",
                    host = endpoint.host,
                    bytes,
                    "discarded {bytes} octets that came in the clear after STARTTLS"
                );
            }
            // A server on its way out is not a server without TLS.
            Pause::Failed(failure) if failure.code == Some(421) => return Err(failure),
            Pause::Failed(failure) => {
                let kind = broken_tls(endpoint);
                return Err(Failure { kind, tls: self.tls.text.clone(), ..failure });
            }
            Pause::Greeted | Pause::Done(_) | Pause::Closed => {
                return Err(self.unmet("4.7.5", "the connection ended before TLS"));
            }
        }
        let judge = Judge::new(&endpoint.tls, host(endpoint), &dialing.trust);
        if let Err(problem) = self.handshake(endpoint, &judge).await {
            let kind = broken_tls(endpoint);
            let text = remote_text(format!("TLS failed: {problem}").as_bytes());
            return Err(Failure::own(Stage::Starttls, kind, "4.7.5", text));
        }
        let failed = match self.opened().await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        // With TLS 1.3 a server refuses a handshake only after we have seen its end.
        let lost = failed.code.is_none() && failed.kind == FailureKind::Lost;
        let kind = if lost { broken_tls(endpoint) } else { failed.kind };
        Err(Failure { kind, ..failed })
    }

    async fn handshake(&mut self, endpoint: &Endpoint, judge: &Arc<Judge>) -> Result<(), String> {
        let config = judge.client_config().map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = self.link.take_tcp().ok_or("the connection is gone")?;
        let client = SmtpClient { stream, timeout: self.timeouts.starttls };
        let client = client.into_tls(&connector, host(endpoint)).await.map_err(|error| error.to_string())?;
        let verdict = judge.verdict();
        let level = match verdict.level {
            TlsLevel::None => "none",
            TlsLevel::Unverified => "unverified",
            TlsLevel::WebPki => "web_pki",
            TlsLevel::Dane => "dane",
        };
        let version = match client.tls_connection().protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(_) | None => "TLSv1.3",
        };
        let text = format!("{level} {version}");
        self.tls = TlsFacts { level: verdict.level, text, problem: verdict.problem };
        self.link.secure(client.stream);
        self.sender.secured();
        Ok(())
    }

    fn unmet(&self, enhanced: &str, text: &str) -> Failure {
        let tls = self.tls.text.clone();
        Failure { tls, ..Failure::own(Stage::Starttls, FailureKind::TlsUnmet, enhanced, text) }
    }

    /// Does what the machine asks for, in order, until it has something to say.
    async fn converse(&mut self, mut work: Option<Work<'_>>) -> Pause {
        let mut whole = Box::pin(sleep(self.timeouts.transaction));
        loop {
            match self.sender.poll() {
                None if self.sender.is_over() => return Pause::Closed,
                None => self.hear(&mut whole).await,
                Some(Output::Wait(time)) => self.patience = Box::pin(sleep(time)),
                Some(Output::Write(octets)) => self.write(&octets, &mut whole).await,
                Some(Output::Complete(octets)) => {
                    crashpoint::reach("delivery.before_dot");
                    self.write(&octets, &mut whole).await;
                    crashpoint::reach("delivery.after_dot");
                }
                Some(Output::NeedBody) => self.give_body(&mut work).await,
                Some(Output::Arm(accepted)) => self.arm(&mut work, &accepted).await,
                Some(Output::Greeted) => return Pause::Greeted,
                Some(Output::StartTls { discarded_bytes }) => return Pause::StartTls(discarded_bytes),
                Some(Output::Failed(failure)) => return Pause::Failed(failure),
                Some(Output::Done(outcomes)) => return Pause::Done(outcomes),
                Some(Output::Close) => self.link.close(),
            }
        }
    }

    async fn write(&mut self, octets: &[u8], whole: &mut Pin<Box<Sleep>>) {
        self.link.queue(octets);
        while !self.link.is_flushed() && !self.sender.is_over() {
            self.hear(whole).await;
        }
    }

    /// Waits for the next thing that happens on the wire, or for the end of patience.
    async fn hear(&mut self, whole: &mut Pin<Box<Sleep>>) {
        let is_armed = self.sender.is_armed();
        let loss = tokio::select! {
            biased;
            heard = self.link.step() => return self.heard(heard),
            () = &mut self.patience => Loss::TimedOut,
            () = whole, if !is_armed => Loss::TooSlow, // P17; once armed only the reply counts
        };
        self.sender.lost(&loss);
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Octets(count) => self.sender.receive(self.link.octets(count)),
            Heard::Flushed => {}
            Heard::Closed => self.sender.lost(&Loss::Closed),
            Heard::Broken(error) => {
                self.sender.lost(&Loss::Broken(remote_text(error.to_string().as_bytes())))
            }
        }
    }

    /// Gives the machine what came by itself.
    async fn overhear(&mut self) {
        while !self.sender.is_over() {
            match self.link.overhear().await {
                Some(heard) => self.heard(heard),
                None => return,
            }
        }
    }

    async fn give_body(&mut self, work: &mut Option<Work<'_>>) {
        let Some(work) = work else { return self.sender.withheld("there is no message") };
        match work.message.next().await {
            Ok(piece) => self.sender.body(piece.as_deref()),
            Err(error) => self.sender.withheld(&error.0),
        }
    }

    async fn arm(&mut self, work: &mut Option<Work<'_>>, accepted: &[bool]) {
        let Some(work) = work else { return self.sender.withheld("there is no message") };
        let armed = work.arm.arm(accepted).await;
        self.overhear().await; // a refusal that came meanwhile keeps the message from being completed
        match armed {
            Ok(()) => self.sender.armed(),
            Err(refused) => self.sender.withheld(&refused.0),
        }
    }
}

async fn dial(endpoint: &Endpoint, dialing: &Dialing) -> Result<TcpStream, Failure> {
    let timeout = dialing.timeouts.connect;
    let source = dialing.source_addresses.iter().find(|ip| ip.is_ipv4() == endpoint.address.is_ipv4());
    let client = match source {
        Some(ip) => SmtpClient::connect_using(*ip, endpoint.address, timeout).await,
        None => SmtpClient::connect(endpoint.address, timeout).await,
    };
    let failed = |text: String| {
        Failure::own(Stage::Connect, FailureKind::Connect, "4.4.1", remote_text(text.as_bytes()))
    };
    let tcp =
        client.map_err(|error| failed(format!("cannot connect to {}: {error}", endpoint.address)))?.stream;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let tuned = tcp.set_nodelay(true).and_then(|()| SockRef::from(&tcp).set_tcp_keepalive(&keepalive));
    tuned.map_err(|error| failed(format!("cannot use the connection to {}: {error}", endpoint.address)))?;
    Ok(tcp)
}

/// Whether mail may go to this endpoint without TLS.
fn may_be_clear(endpoint: &Endpoint) -> bool {
    match endpoint.tls {
        TlsDemand::Opportunistic { cleartext } => cleartext,
        TlsDemand::Cleartext => true,
        TlsDemand::WebPki { .. } | TlsDemand::Dane { .. } | TlsDemand::Encrypted => false,
    }
}

/// What TLS that was offered and does not work means for the caller (S2, S12).
fn broken_tls(endpoint: &Endpoint) -> FailureKind {
    if may_be_clear(endpoint) { FailureKind::StarttlsBroken } else { FailureKind::TlsUnmet }
}

fn host(endpoint: &Endpoint) -> &str {
    endpoint.host.trim_end_matches('.')
}
