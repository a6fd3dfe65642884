//! The relay's signed statement about the sender of one item (mail-tunnel protocol, section 10).
//!
//! The first five fields of the payload are those of the first protocol, byte for byte, so that its gateways verify it.
//! What follows is ours: which item and which bytes it is about, what the relay saw of the client, the verdicts in full,
//! and until when it counts. A reader that knows only the first five skips the rest.
//!
//! Promises: [`verify`] believes nothing before the signature; what it returns was said by a trusted key about exactly this
//! stream, sender and recipient. [`Verified::covers`] says whether it was said about these bytes. Statements without our
//! fields stay valid: they have no bytes and no expiry.

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::{Map, Value};
use spool::ids::WallMs;

use super::relay_keys::TrustedKeys;
use super::signed::{self, Reason, Signed};
use super::verdict::{DKIM_SIGNATURES_MAX, Dkim, Dmarc, Spf, Verdicts, Word};
use crate::identity::key::SecretKey;

/// First bytes of what is signed: none, as the first protocol has it. A payload begins with `{`, which no domain of
/// another statement does.
pub(super) const DOMAIN: &[u8] = b"";
/// How far the gateway's clock may be behind or ahead of the relay's before a statement counts as expired.
pub const CLOCK_SKEW_MS: u64 = 10 * 60 * 1000;

/// One of the three signals of the first protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// As it should be.
    Pass,
    /// Forged, broken, or not to be found out.
    Fail,
    /// Nothing is said either way.
    #[default]
    Unknown,
}

impl Signal {
    /// The word in the payload.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }

    /// The signal of a result (section 10.1).
    #[must_use]
    pub fn of(word: Word) -> Self {
        match word {
            Word::Pass => Self::Pass,
            Word::Fail | Word::SoftFail | Word::PermError | Word::TempError | Word::Policy => Self::Fail,
            Word::Neutral | Word::None => Self::Unknown,
        }
    }

    fn read(text: Option<&str>) -> Self {
        match text {
            Some("pass") => Self::Pass,
            Some("fail") => Self::Fail,
            Some(_) | None => Self::Unknown,
        }
    }
}

/// All three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// SPF.
    pub spf: Signal,
    /// DKIM: any pass, else any failure.
    pub dkim: Signal,
    /// DMARC.
    pub dmarc: Signal,
}

/// The signals that the first protocol would have for these verdicts (section 10.1).
#[must_use]
pub fn signals(verdicts: &Verdicts) -> Signals {
    let of_dkim = |signal| verdicts.dkim.iter().any(|one| Signal::of(one.attested()) == signal);
    let dkim = [Signal::Pass, Signal::Fail].into_iter().find(|signal| of_dkim(*signal)).unwrap_or_default();
    Signals { spf: Signal::of(verdicts.spf.word), dkim, dmarc: Signal::of(verdicts.dmarc.word) }
}

/// What is said about one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Id of the stream that carries it.
    pub stream_id: String,
    /// Envelope sender; empty for the null reverse-path.
    pub mail_from: String,
    /// The one envelope recipient.
    pub rcpt_to: String,
    /// When it was signed.
    pub issued_at: WallMs,
    /// The three signals.
    pub signals: Signals,
    /// What the first protocol does not have.
    pub details: Option<Details>,
}

/// Our part of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The relay's hostname.
    pub relay: String,
    /// The item's name.
    pub item_id: String,
    /// SHA-256 of the body as handed over, without what the relay put in front.
    pub sha256: [u8; 32],
    /// Bytes of the body.
    pub size: u64,
    /// Address of the client.
    pub client_ip: String,
    /// Its EHLO or HELO.
    pub helo: String,
    /// Version and cipher suite of its TLS; empty without.
    pub tls: String,
    /// What was found out, without the reasons.
    pub verdicts: Verdicts,
    /// Until when it counts.
    pub expires_at: WallMs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    stream_id: &'a str,
    mail_from: &'a str,
    rcpt_to: &'a str,
    issued_at: String,
    signals: SignalWords,
    #[serde(flatten)]
    details: Option<DetailsPayload<'a>>,
}

#[derive(Serialize)]
struct SignalWords {
    spf: &'static str,
    dkim: &'static str,
    dmarc: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DetailsPayload<'a> {
    relay: &'a str,
    item_id: &'a str,
    sha256: String,
    size: u64,
    client_ip: &'a str,
    helo: &'a str,
    tls: &'a str,
    verdicts: VerdictsPayload<'a>,
    expires_at: String,
}

#[derive(Serialize)]
struct VerdictsPayload<'a> {
    spf: SpfPayload<'a>,
    dkim: Vec<DkimPayload<'a>>,
    dmarc: DmarcPayload<'a>,
    arc: ArcPayload,
}

#[derive(Serialize)]
struct SpfPayload<'a> {
    result: &'static str,
    domain: &'a str,
    scope: &'static str,
}

#[derive(Serialize)]
struct DkimPayload<'a> {
    result: &'static str,
    domain: &'a str,
    selector: &'a str,
    algorithm: &'a str,
}

#[derive(Serialize)]
struct DmarcPayload<'a> {
    result: &'static str,
    domain: &'a str,
    policy: &'a str,
}

#[derive(Serialize)]
struct ArcPayload {
    result: &'static str,
}

/// The bytes that are signed: JSON without blanks, keys in the protocol's order.
#[must_use]
pub fn payload(statement: &Statement) -> Vec<u8> {
    let Signals { spf, dkim, dmarc } = statement.signals;
    let payload = Payload {
        stream_id: &statement.stream_id,
        mail_from: &statement.mail_from,
        rcpt_to: &statement.rcpt_to,
        issued_at: signed::time_text(statement.issued_at),
        signals: SignalWords { spf: spf.as_str(), dkim: dkim.as_str(), dmarc: dmarc.as_str() },
        details: statement.details.as_ref().map(details_payload),
    };
    signed::json(&payload)
}

fn details_payload(details: &Details) -> DetailsPayload<'_> {
    let Verdicts { spf, dkim, dmarc, arc } = &details.verdicts;
    let dkim = dkim.iter().take(DKIM_SIGNATURES_MAX).map(|one| DkimPayload {
        result: one.word.as_str(),
        domain: &one.domain,
        selector: &one.selector,
        algorithm: &one.algorithm,
    });
    DetailsPayload {
        relay: &details.relay,
        item_id: &details.item_id,
        sha256: HEXLOWER.encode(&details.sha256),
        size: details.size,
        client_ip: &details.client_ip,
        helo: &details.helo,
        tls: &details.tls,
        verdicts: VerdictsPayload {
            spf: SpfPayload {
                result: spf.word.as_str(),
                domain: &spf.domain,
                scope: if spf.helo { "helo" } else { "mailfrom" },
            },
            dkim: dkim.collect(),
            dmarc: DmarcPayload { result: dmarc.word.as_str(), domain: &dmarc.domain, policy: &dmarc.policy },
            arc: ArcPayload { result: arc.as_str() },
        },
        expires_at: signed::time_text(details.expires_at),
    }
}

/// Signs a statement.
#[must_use]
pub fn sign(statement: &Statement, key_id: &str, key: &SecretKey) -> Signed {
    signed::seal(DOMAIN, &payload(statement), key_id, key)
}

/// What a trusted key said about an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Which key.
    pub key_id: String,
    /// The three signals; a missing one is unknown.
    pub signals: Signals,
    /// Our part; `None` from a relay that does not have it.
    pub details: Option<Details>,
}

/// Verifies in the order of section 10.3; `now` is compared with the expiry, where there is one.
///
/// # Errors
/// [`Reason`] of the first check that failed.
pub fn verify(
    attestation: Option<&Signed>,
    stream_id: &str,
    mail_from: &str,
    rcpt_to: &str,
    keys: &TrustedKeys,
    now: WallMs,
) -> Result<Verified, Reason> {
    let attestation = attestation.ok_or(Reason::MissingAttestation)?;
    let fields = signed::open(DOMAIN, attestation, keys)?;
    let said = ["streamId", "mailFrom", "rcptTo"].map(|name| signed::text(&fields, name));
    let [Some(stream), Some(from), Some(to)] = said else { return Err(Reason::ContextMismatch) };
    let details = details(&fields);
    let same = if details.is_some() {
        [stream, from, to] == [stream_id, mail_from, rcpt_to]
    } else {
        // The first protocol compares the hash of the three, joined; a newline inside one of them moves the border.
        format!("{stream}\n{from}\n{to}") == format!("{stream_id}\n{mail_from}\n{rcpt_to}")
    };
    if !same {
        return Err(Reason::ContextMismatch);
    }
    if fields.contains_key("expiresAt") {
        let expires_at = signed::time(&fields, "expiresAt").ok_or(Reason::InvalidPayload)?;
        if now > expires_at.plus(CLOCK_SKEW_MS) {
            return Err(Reason::Expired);
        }
    }
    let signal = |name| Signal::read(fields.get("signals").and_then(|all| all.get(name)?.as_str()));
    Ok(Verified {
        key_id: attestation.key_id.clone(),
        signals: Signals { spf: signal("spf"), dkim: signal("dkim"), dmarc: signal("dmarc") },
        details,
    })
}

impl Verified {
    /// Whether it speaks of this item and these bytes. A statement without our part speaks of no bytes at all, and
    /// nothing contradicts it.
    ///
    /// # Errors
    /// [`Reason::ItemMismatch`], [`Reason::BodyMismatch`].
    pub fn covers(&self, item_id: &str, sha256: &[u8; 32], size: u64) -> Result<(), Reason> {
        match &self.details {
            Some(details) if details.item_id != item_id => Err(Reason::ItemMismatch),
            Some(details) if details.sha256 != *sha256 || details.size != size => Err(Reason::BodyMismatch),
            Some(_) | None => Ok(()),
        }
    }
}

/// Our part, if all of it is there.
fn details(fields: &Map<String, Value>) -> Option<Details> {
    let text = |name| signed::text(fields, name).map(str::to_owned);
    Some(Details {
        relay: text("relay")?,
        item_id: text("itemId")?,
        sha256: signed::hash(fields, "sha256")?,
        size: signed::number(fields, "size")?,
        client_ip: text("clientIp")?,
        helo: text("helo")?,
        tls: text("tls")?,
        verdicts: verdicts(fields.get("verdicts")?.as_object()?)?,
        expires_at: signed::time(fields, "expiresAt")?,
    })
}

fn verdicts(fields: &Map<String, Value>) -> Option<Verdicts> {
    let part = |name: &str| fields.get(name)?.as_object();
    let word = |of: &Map<String, Value>| read_word(signed::text(of, "result")?);
    let text = |of: &Map<String, Value>, name| signed::text(of, name).unwrap_or_default().to_owned();
    let (spf, dmarc) = (part("spf")?, part("dmarc")?);
    let dkim = fields.get("dkim")?.as_array()?.iter().take(DKIM_SIGNATURES_MAX).map(|one| {
        let one = one.as_object()?;
        Some(Dkim {
            word: word(one)?,
            domain: text(one, "domain"),
            selector: text(one, "selector"),
            algorithm: text(one, "algorithm"),
            reason: String::new(),
        })
    });
    Some(Verdicts {
        spf: Spf {
            word: word(spf)?,
            domain: text(spf, "domain"),
            helo: signed::text(spf, "scope") == Some("helo"),
            reason: String::new(),
        },
        dkim: dkim.collect::<Option<_>>()?,
        dmarc: Dmarc {
            word: word(dmarc)?,
            domain: text(dmarc, "domain"),
            policy: text(dmarc, "policy"),
            reason: String::new(),
        },
        arc: word(part("arc")?)?,
    })
}

fn read_word(text: &str) -> Option<Word> {
    let all = [
        Word::None,
        Word::Pass,
        Word::Fail,
        Word::SoftFail,
        Word::Neutral,
        Word::Policy,
        Word::TempError,
        Word::PermError,
    ];
    all.into_iter().find(|word| word.as_str() == text)
}

#[cfg(test)]
mod tests;
