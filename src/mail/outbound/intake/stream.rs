//! One stream of a gateway while it comes in: filtered, hashed and written as it goes, never held whole.
//!
//! Promise: what a repeat of the stream is compared by covers every octet and both paths, whatever is stored of it.
//!
//! Failure policy: a refusal of the content is kept for the end, when it becomes the stream's result; the rest of the
//! stream is read and dropped. Trouble of the spool is the caller's.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use spool::error::AcceptError;
use spool::ids::WallMs;

use crate::mail::outbound::prepare::{Canonical, Draft, Refusal};
use crate::spooler::{BodyWriter, Spooler};
use crate::tunnel::frame::StartBody;

/// A stream under way.
#[derive(Debug)]
pub(super) struct Stream {
    start: StartBody,
    began_at: WallMs,
    octets: Sha256,
    state: State,
}

#[derive(Debug)]
enum State {
    Taking(Box<(Canonical, BodyWriter)>),
    Refused(Refusal),
}

/// A stream that has ended.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) mail_from: String,
    pub(super) rcpt_to: String,
    pub(super) began_at: WallMs,
    /// Its octets are those whose hash the start announced, if it did.
    pub(super) is_whole: bool,
    /// Equal for a repeat of the same stream alone.
    pub(super) identity: [u8; 32],
    pub(super) content: Result<(Draft, BodyWriter), Refusal>,
}

impl Stream {
    /// Begins; `hostname` is our name in `Received` fields, `began_at` the earliest time since which its gateway may wait.
    pub(super) fn begin(
        start: StartBody,
        bytes_max: u64,
        hostname: &str,
        spooler: &Spooler,
        began_at: WallMs,
    ) -> Self {
        let taking = (Canonical::new(bytes_max, hostname), spooler.body());
        Self { start, began_at, octets: Sha256::new(), state: State::Taking(Box::new(taking)) }
    }

    /// The next octets.
    ///
    /// # Errors
    /// [`AcceptError`]; the stream is of no use any more.
    pub(super) async fn take(&mut self, bytes: &[u8]) -> Result<(), AcceptError> {
        self.octets.update(bytes);
        let State::Taking(taking) = &mut self.state else { return Ok(()) };
        let (canonical, body) = taking.as_mut();
        let mut out = Vec::with_capacity(bytes.len());
        match canonical.feed(bytes, &mut out) {
            Ok(()) => body.write(&out).await,
            Err(refusal) => {
                self.state = State::Refused(refusal);
                Ok(())
            }
        }
    }

    /// It is longer than the tunnel carries.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.state = State::Refused(refusal);
        // Not all of its octets came this far.
        self.start.sha256 = None;
    }

    /// All of it is here.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub(super) async fn end(self) -> Result<Collected, AcceptError> {
        let Self { start: StartBody { mail_from, rcpt_to, sha256, .. }, began_at, mut octets, state } = self;
        let hash = HEXLOWER.encode(&octets.clone().finalize());
        let is_whole = sha256.is_none_or(|announced| announced.eq_ignore_ascii_case(&hash));
        for path in [&mail_from, &rcpt_to] {
            octets.update((path.len() as u64).to_be_bytes());
            octets.update(path);
        }
        let content = match state {
            State::Refused(refusal) => Err(refusal),
            State::Taking(taking) => {
                let (canonical, mut body) = *taking;
                let mut out = Vec::new();
                match canonical.finish(&mut out) {
                    Ok(draft) => {
                        body.write(&out).await?;
                        Ok((draft, body))
                    }
                    Err(refusal) => Err(refusal),
                }
            }
        };
        Ok(Collected { mail_from, rcpt_to, began_at, is_whole, identity: octets.finalize().into(), content })
    }
}
