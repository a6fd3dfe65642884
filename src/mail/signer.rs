//! The relay's signature: under what it says of an item, and under what it has taken.
//!
//! * `ring`: which key signs when, pure.
//! * `store`: where the keys lie.
//! * Here: the statements, made of what the ledger keeps, and the keys of the running process.
//!
//! Promises: a receipt is the same statement each time, before and after a restart, and when it is signed alone the same
//! bytes for as long as the key of its time is announced; after that it is under the current key. What goes out together
//! to a gateway that takes batches shares a signature. What is signed is the stored envelope and the
//! stored hashes, nothing that a gateway said. Signing holds no lock and touches no disk.
//!
//! Failure policy: without usable keys there is no [`Signer`]. A rotation that fails leaves the keys as they were.

pub mod ring;
pub mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use spool::ids::WallMs;
use spool::types::ItemInfo;

use self::ring::Ring;
use self::store::{Store, StoreError};
use super::attestation::{self, Details, Signal, Statement, signals};
use super::custody::{self, Kind, Receipt};
use super::envelope::{Envelope, Meta, OutboundMeta};
use super::signed::{self, Signed, time_text};
use super::verdict::Verdicts;
use crate::observe::{Metrics, SignedKind};
use crate::tunnel::signed::RelayKey;

/// How long a gateway may take an attestation for valid: far longer than an offer is under way, far shorter than an item
/// may wait, because it is signed anew for each offer. Milliseconds.
pub const ATTESTATION_VALID_MS: u64 = 7 * 24 * 3600 * 1000;
/// `with` word of a message that the relay wrote itself; no client's session has it.
pub const OWN_PROTOCOL: &str = "LOCAL";

/// What a signer needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host name of the relay; it is in every statement.
    pub relay: String,
    /// Where keys lie.
    pub data_dir: PathBuf,
    /// Name of the first key.
    pub key_id: String,
    /// The first key, when it does not lie in `data_dir`.
    pub key_file: Option<PathBuf>,
    /// How long a new key is announced before it signs, and an old one after; milliseconds.
    pub overlap_ms: u64,
}

/// See the module.
pub struct Signer {
    settings: Settings,
    store: Store,
    /// Replaced as a whole; read for the length of a clone.
    ring: RwLock<Arc<Ring>>,
    /// One change of the keys at a time.
    changing: Mutex<()>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the keys. `make`: the first one is made when there is none. Blocks for the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(settings: Settings, make: bool, metrics: Arc<Metrics>) -> Result<Arc<Self>, StoreError> {
        let store = Store::new(&settings.data_dir, settings.key_file.as_deref(), &settings.key_id);
        let ring = store.load(make)?;
        metrics.custody.set_keys(ring.len());
        let ring = RwLock::new(Arc::new(ring));
        Ok(Arc::new(Self { settings, store, ring, changing: Mutex::default(), metrics }))
    }

    /// The keys as they are.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Name of the relay in every statement.
    #[must_use]
    pub fn relay(&self) -> &str {
        &self.settings.relay
    }

    /// How long a new key is announced before it signs, milliseconds.
    #[must_use]
    pub fn overlap_ms(&self) -> u64 {
        self.settings.overlap_ms
    }

    /// What gateways are told of the keys.
    #[must_use]
    pub fn announcement(&self, now: WallMs) -> Vec<RelayKey> {
        self.ring().announcement(now)
    }

    /// What the relay knows about the sender of an item, for the frame that offers it.
    #[must_use]
    pub fn attest(
        &self,
        info: &ItemInfo,
        envelope: &Envelope,
        stream_id: &str,
        rcpt_to: &str,
        now: WallMs,
    ) -> Signed {
        let statement = statement(&self.settings.relay, info, envelope, stream_id, rcpt_to, now);
        let ring = self.ring();
        let key = ring.current(now);
        self.metrics.custody.signed(SignedKind::Attestation);
        attestation::sign(&statement, &key.id, &key.secret)
    }

    /// The receipt for what the ledger keeps: an item of a lane, or a submission of an outbox.
    #[must_use]
    pub fn receipt(&self, info: &ItemInfo, envelope: &Envelope, now: WallMs) -> Signed {
        self.sign_receipt(&receipt(&self.settings.relay, info, envelope), now)
    }

    /// A receipt that was put together elsewhere.
    #[must_use]
    pub fn sign_receipt(&self, receipt: &Receipt, now: WallMs) -> Signed {
        let ring = self.ring();
        let key = ring.current_for(receipt.at, now);
        self.metrics.custody.signed(SignedKind::Receipt);
        receipt.sign(&key.id, &key.secret)
    }

    /// Makes the next key. It is announced from now on, and signs after the overlap. Blocks for the disk.
    ///
    /// # Errors
    /// [`StoreError`]; the keys are as they were.
    pub fn rotate(&self, now: WallMs) -> Result<(), StoreError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // What another process has made meanwhile counts.
        let ring = self.store.load(false)?;
        self.store.follow(&ring, &self.settings.relay, self.settings.overlap_ms, now)?;
        let ring = self.store.load(false)?;
        let (before, newest) = (ring.current(now).id.clone(), ring.newest());
        tracing::info!(
            event = "relay.attestation.rotated",
            key_id = newest.id,
            after = before,
            signs_from = time_text(newest.signs_from),
            "the next signing key is announced"
        );
        self.replace(ring);
        Ok(())
    }

    /// Takes up keys that another process has made. Blocks for the disk. True when there were some.
    ///
    /// # Errors
    /// [`StoreError`]; the keys are as they were.
    pub fn refresh(&self) -> Result<bool, StoreError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.followers()? + 1 == self.ring().len() {
            return Ok(false);
        }
        self.replace(self.store.load(false)?);
        Ok(true)
    }

    fn replace(&self, ring: Ring) {
        self.metrics.custody.set_keys(ring.len());
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }
}

/// Statements that are signed together, in the order they were added: an attestation and a receipt of each item.
#[derive(Debug)]
pub struct Batched {
    now: WallMs,
    /// Kind, payload, and when what it speaks of was accepted if its key is that of that time.
    statements: Vec<(SignedKind, Vec<u8>, Option<WallMs>)>,
}

impl Batched {
    /// None yet.
    #[must_use]
    pub fn new(now: WallMs) -> Self {
        Self { now, statements: Vec::new() }
    }

    /// Adds what [`Signer::attest`] and [`Signer::receipt`] would sign.
    pub fn add(
        &mut self,
        signer: &Signer,
        info: &ItemInfo,
        envelope: &Envelope,
        stream_id: &str,
        rcpt_to: &str,
    ) {
        let relay = &signer.settings.relay;
        let statement = statement(relay, info, envelope, stream_id, rcpt_to, self.now);
        self.statements.push((SignedKind::Attestation, attestation::payload(&statement), None));
        let receipt = receipt(relay, info, envelope);
        self.statements.push((SignedKind::Receipt, receipt.payload(), Some(receipt.at)));
    }

    /// Signs them; those of one key share a signature.
    #[must_use]
    pub fn sign(self, signer: &Signer) -> Vec<Signed> {
        let ring = signer.ring();
        let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let key_of = |at: Option<WallMs>| match at {
            Some(at) => ring.current_for(at, self.now),
            None => ring.current(self.now),
        };
        for (n, (kind, _, at)) in self.statements.iter().enumerate() {
            signer.metrics.custody.signed(*kind);
            by_key.entry(&key_of(*at).id).or_default().push(n);
        }
        let mut signed: Vec<Option<Signed>> = vec![None; self.statements.len()];
        for of_key in by_key.into_values() {
            let statements: Vec<(&[u8], &[u8])> = of_key
                .iter()
                .map(|n| {
                    let (kind, payload, _) = &self.statements[*n];
                    let domain = match kind {
                        SignedKind::Attestation => attestation::DOMAIN,
                        SignedKind::Receipt => custody::DOMAIN,
                    };
                    (domain, payload.as_slice())
                })
                .collect();
            let Some((_, _, at)) = of_key.first().map(|n| &self.statements[*n]) else { continue };
            let key = key_of(*at);
            let together = signed::seal_together(&statements, &key.id, &key.secret);
            for (n, one) in of_key.into_iter().zip(together) {
                signed[n] = Some(one);
            }
        }
        signed.into_iter().flatten().collect()
    }
}

/// Whether the relay knows the author itself: it wrote the message, or a mailbox here submitted it, and then envelope
/// sender, `From` and `Sender` were found to be addresses of the key before it became an item (`prepare::check_sender`).
fn answers_for(envelope: &Envelope) -> bool {
    match envelope {
        Envelope::Inbound(meta) => meta.protocol == OWN_PROTOCOL,
        Envelope::Outbound(_) => true,
    }
}

/// What is said about an item. One that came from a mailbox here has no client, and nothing was found out about it: its
/// author is who the relay says. A gateway of the first protocol has no other word for that than a pass, and drops what has
/// none if it enforces its policy; DMARC is the check that speaks of the author.
#[must_use]
pub fn statement(
    relay: &str,
    info: &ItemInfo,
    envelope: &Envelope,
    stream_id: &str,
    rcpt_to: &str,
    now: WallMs,
) -> Statement {
    let (client_ip, helo, tls, verdicts) = match envelope {
        Envelope::Inbound(Meta { client_ip, helo, tls, verdicts, .. }) => {
            (client_ip.clone(), helo.clone(), tls.clone(), verdicts.clone())
        }
        Envelope::Outbound(_) => (String::new(), String::new(), String::new(), Verdicts::default()),
    };
    let mut signals = signals(&verdicts);
    if answers_for(envelope) {
        signals.dmarc = Signal::Pass;
    }
    Statement {
        stream_id: stream_id.to_owned(),
        mail_from: envelope.mail_from().to_owned(),
        rcpt_to: rcpt_to.to_owned(),
        issued_at: now,
        signals,
        details: Some(Details {
            relay: relay.to_owned(),
            item_id: info.id.to_string(),
            sha256: info.sha256,
            size: body_bytes(info),
            client_ip,
            helo,
            tls,
            verdicts,
            expires_at: now.plus(ATTESTATION_VALID_MS),
        }),
    }
}

/// What is said of having taken it; made of nothing but what the ledger keeps.
#[must_use]
pub fn receipt(relay: &str, info: &ItemInfo, envelope: &Envelope) -> Receipt {
    let stream_id = match envelope {
        Envelope::Outbound(OutboundMeta { stream, .. }) if info.outbound.is_some() => Some(stream.clone()),
        // What a mailbox here sent to another one is an item of that one's lane like any other.
        Envelope::Outbound(_) | Envelope::Inbound(_) => None,
    };
    Receipt {
        kind: if info.outbound.is_some() { Kind::Submission } else { Kind::Item },
        relay: relay.to_owned(),
        id: info.id,
        lane: info.lane_name.clone(),
        seq: info.seq,
        sha256: info.sha256,
        size: body_bytes(info),
        head_sha256: Sha256::digest(&info.head).into(),
        chain: info.chain,
        at: info.accepted_at,
        stream_id,
    }
}

fn body_bytes(info: &ItemInfo) -> u64 {
    info.size_bytes.saturating_sub(info.head.len() as u64)
}
