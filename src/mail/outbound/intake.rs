//! From a gateway's streams to submissions in the spool, and their results back to the gateway.
//!
//! 1. Each stream is filtered, hashed and written while it comes in (`stream`).
//! 2. At its end it is decided once (`decide`), and becomes one submission in one commit: queued, delivered to a
//!    mailbox here, or failed with its reason. Only then it is accepted.
//! 3. Results are told by one session until the gateway has them (`desks`, `results`); what a gateway of tunnel 1
//!    cannot hear any more, or may have heard too late (`uplink`), becomes mail in its own lane (`late`). Of streams
//!    that its line cut off it hears on the next one (`cut`).
//!
//! Promises: the same stream id with the same octets is the same submission, before and after a restart; with other
//! octets it is an `id_conflict` that touches nothing. A stream is never half accepted. Memory: the header and one
//! chunk for each open stream; nothing for an idle session.
//!
//! Failure policy: whatever is wrong with a message is a `failed` result, never silence. When nothing can be stored
//! (disk, spool) a gateway of tunnel 2 is told to come later, and one of tunnel 1 that it failed: it takes silence for
//! success, and what it sends again because of it finds what was stored before as its twin. A spool that is gone ends
//! the session; only of a commit that failed with it nobody is told, because nobody knows.

mod cut;
mod decide;
mod desks;
mod hand;
mod late;
mod noted;
mod quotas;
mod receipts;
mod results;
mod stream;
mod submitter;
#[cfg(test)]
mod tests;
mod uplink;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use spool::ids::{LaneId, WallMs};

use self::cut::Cut;
use self::desks::Desks;
use self::late::Late;
use self::quotas::{Allowance, Quotas};
use self::results::Ended;
pub use self::submitter::Submitter;
use self::submitter::Who;
use crate::current::Current;
use crate::identity::key::KeyText;
use crate::mail::limits::Monotonic;
use crate::mail::signer::Signer;
use crate::observe::Metrics;
use crate::spooler::Spooler;
use crate::tunnel::ws::Opening;

/// How long a gateway of tunnel 1 waits for a result, from the first frame of its stream (mail-tunnel protocol,
/// section 7.4).
pub const LEGACY_WAIT: Duration = Duration::from_secs(20);
/// What a gateway may submit at least, bytes with CR LF. `smtp.max_message_bytes` is for mail from outside; the relay
/// that gateways of tunnel 1 knew before had no limit for theirs, and they notice none but by a failure.
pub const MESSAGE_BYTES_LEAST: u64 = 26_214_400;
/// Most results told and not acked in one session.
pub const RESULTS_IN_FLIGHT_MAX: usize = 64;

/// How submissions are taken.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in `Received` fields.
    pub hostname: String,
    /// Domains whose mailboxes are here, lower-case A-labels; not empty.
    pub domains: Vec<String>,
    /// Mailbox that gets postmaster mail: an address or key text, or empty.
    pub postmaster: String,
    /// Largest message, bytes with CR LF.
    pub message_bytes_max: u64,
    /// Whether the two limits hold.
    pub limited: bool,
    /// Submissions of one mailbox per hour.
    pub messages_per_hour: u32,
    /// Recipients of one mailbox outside this relay per day.
    pub recipients_per_day: u32,
    /// Within this time a repeat from a gateway that cannot name its submissions is its twin, milliseconds.
    pub resubmission_window_ms: u64,
    /// How long stream ids are remembered, milliseconds: at least as long as a submission and its result can be there.
    pub remember_ms: u64,
    /// How long a gateway of tunnel 1 waits; [`LEGACY_WAIT`] but for tests.
    pub legacy_wait: Duration,
}

impl Settings {
    /// The configuration's defaults around these names.
    #[must_use]
    pub fn new(hostname: &str, domains: &[String]) -> Self {
        Self {
            hostname: hostname.to_owned(),
            domains: domains.to_vec(),
            postmaster: String::new(),
            message_bytes_max: MESSAGE_BYTES_LEAST,
            limited: true,
            messages_per_hour: 500,
            recipients_per_day: 2000,
            resubmission_window_ms: 120_000,
            remember_ms: 3_024_000_000,
            legacy_wait: LEGACY_WAIT,
        }
    }
}

/// What all sessions share.
pub struct Submissions {
    settings: Current<Settings>,
    spooler: Spooler,
    metrics: Arc<Metrics>,
    signer: Option<Arc<Signer>>,
    quotas: Quotas,
    desks: Arc<Desks>,
    late: Arc<Late>,
    cut: Cut,
}

impl fmt::Debug for Submissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submissions").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Submissions {
    /// Over this spool; `signer` gives receipts for what is taken. [`Submissions::run`] must run beside it.
    #[must_use]
    pub fn new(
        settings: Settings,
        spooler: Spooler,
        metrics: Arc<Metrics>,
        signer: Option<Arc<Signer>>,
    ) -> Arc<Self> {
        let quotas = Quotas::new(settings.allowance(), &Monotonic);
        Arc::new(Self {
            settings: Current::new(settings),
            spooler,
            metrics,
            signer,
            quotas,
            desks: Arc::default(),
            late: Arc::default(),
            cut: Cut::default(),
        })
    }

    /// Other settings, for every stream that ends from now on.
    pub fn replace(&self, settings: Settings) {
        self.quotas.replace(settings.allowance());
        self.settings.set(settings);
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.get()
    }

    /// One session's view, for the mailbox whose lane is `mailbox`.
    #[must_use]
    pub fn enter(self: &Arc<Self>, opening: &Opening, mailbox: LaneId) -> Arc<Submitter> {
        let Opening { id: session, key, dialect, role, results, .. } = *opening;
        let place = self.desks.enter(mailbox, session, results, Arc::clone(&opening.results_bell));
        Submitter::new(Arc::clone(self), Who { session, key, mailbox, dialect, role, results }, place)
    }
}

impl Settings {
    fn allowance(&self) -> Allowance {
        Allowance {
            enabled: self.limited,
            per_hour: self.messages_per_hour,
            recipients_per_day: self.recipients_per_day,
        }
    }

    fn legacy_wait_ms(&self) -> u64 {
        u64::try_from(self.legacy_wait.as_millis()).unwrap_or(u64::MAX)
    }

    /// Until when a gateway of tunnel 1 certainly waits for this result: from the earliest time at which it may have
    /// begun to.
    fn surely_awaited_until(&self, ended: &Ended) -> WallMs {
        WallMs(ended.meta.started_at_ms).plus(self.legacy_wait_ms())
    }

    /// Until when it perhaps waits for it: from the time at which all of the stream was here.
    fn perhaps_awaited_until(&self, ended: &Ended) -> WallMs {
        match ended.meta.started_at_ms {
            // No stream: an operator had it sent again.
            0 => WallMs(0),
            _ => ended.info.accepted_at.plus(self.legacy_wait_ms()),
        }
    }
}

/// The idempotency key: the same stream id of another mailbox is another submission.
fn submission_key(mailbox: &KeyText, stream: &str) -> [u8; 32] {
    key("waystation submission 1", mailbox, stream.as_bytes())
}

/// The same words from another mailbox are another mail.
fn twin_key(mailbox: &KeyText, fingerprint: &[u8; 32]) -> [u8; 32] {
    key("waystation resubmission 1", mailbox, fingerprint)
}

fn key(kind: &str, mailbox: &KeyText, rest: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(kind);
    hash.update([0]);
    hash.update(mailbox.as_str());
    hash.update([0]);
    hash.update(rest);
    hash.finalize().into()
}
