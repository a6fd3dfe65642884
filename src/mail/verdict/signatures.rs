//! PURE: the signatures of a message, and what can be said about each without asking anybody.
//!
//! Promises: at most [`DKIM_SIGNATURES_MAX`] DKIM signatures are looked at (M10), and of each at most
//! [`SIGNED_FIELDS_MAX`] signed fields, so that the time for one message is bounded. What may not count for anything
//! (RFC 8301: SHA-1; `l=`) is known before a key is asked for. A result bears the names that the key is asked for with.
//!
//! A field whose name has blanks or controls in it is another name to the library, and the same one to many readers
//! (`Subject : x`, RFC 5322 section 4.5). So it covers what a signature says about that name, and the signature is of no use.
//!
//! Words: a signature that does not make sense, has expired or comes from the future is `neutral` (RFC 8601 section
//! 2.7.1: not able to be processed); one that is not good enough is `policy`.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::{Algorithm, HashAlgorithm};
use mail_auth::common::headers::Header;
use mail_auth::dkim::{Canonicalization, Signature};

use super::body::Form;
use super::inspector::Flaw;
use super::tags::Tags;
use super::{DKIM_SIGNATURES_MAX, Dkim, Word};

/// Most names in `h=` that are followed.
pub const SIGNED_FIELDS_MAX: usize = 500;
/// Most ARC sets (RFC 8617 section 4.2.1).
pub const ARC_SETS_MAX: usize = 50;
/// How far in the future a signature may have been made, seconds: clocks differ.
const CLOCK_SKEW_SECONDS: u64 = 300;
/// Longest domain name or selector that is remembered, octets.
const NAME_BYTES_MAX: usize = 253;
/// Octets of `b=` that tell signatures apart (RFC 6008 asks for eight at least).
const B_PREFIX_BYTES: usize = 8;

/// How a signature covers the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its canonical form.
    pub form: Form,
    /// `l=`
    pub limit: Option<u64>,
}

/// One DKIM signature.
#[derive(Debug)]
pub struct Candidate<'h> {
    /// What is known so far; [`Word::None`] when a key must be asked for.
    pub found: Dkim,
    /// The beginning of `b=`.
    pub b: String,
    /// `l=` leaves a part of the body open.
    pub partial: bool,
    /// The signature, when a key must be asked for.
    pub header: Option<Header<'h, Signature>>,
}

impl Candidate<'_> {
    /// It cannot be processed.
    fn drop_for(&mut self, reason: &str) {
        self.header = None;
        (self.found.word, self.found.reason) = (Word::Neutral, reason.to_owned());
    }
}

/// A message's header with its signatures.
#[derive(Debug)]
pub struct Signed<'h> {
    /// As the library sees it; its DKIM signatures and errors are moved to `dkim`.
    pub message: AuthenticatedMessage<'h>,
    /// The first of the DKIM signatures.
    pub dkim: Vec<Candidate<'h>>,
    /// `From` fields.
    pub from_fields: usize,
    /// What can be said about ARC without asking: too many sets, not a set, too expensive.
    pub arc: Option<Word>,
}

/// How the signatures that will be checked cover the body.
///
/// # Errors
/// [`Flaw`] when the header makes no sense.
pub fn wanted(header: &[u8]) -> Result<Vec<Wanted>, Flaw> {
    // Without a time: what has expired is hashed in vain.
    let signed = read(header, None)?;
    let mut wanted: Vec<Wanted> = Vec::new();
    let covered = signed.dkim.iter().filter_map(|candidate| candidate.header.as_ref());
    let covered = covered.map(|header| coverage(&header.header));
    let last_seal = signed.arc.is_none().then(|| signed.message.ams_headers.last()).flatten();
    let sealed = last_seal.map(|header| {
        let (canonical, limit) = (header.header.cb, header.header.l);
        Wanted { form: form(canonical), limit: (limit > 0).then_some(limit) }
    });
    for one in covered.chain(sealed) {
        if !wanted.contains(&one) {
            wanted.push(one);
        }
    }
    Ok(wanted)
}

/// Reads a header that ends with its empty line, or with the message. `now`: seconds since 1970; without it no
/// signature is too old or too new.
///
/// # Errors
/// [`Flaw`] when the header makes no sense.
pub fn read(header: &[u8], now: Option<u64>) -> Result<Signed<'_>, Flaw> {
    // This runs in the session, which must outlive whatever the library does to a stranger's octets.
    catch_unwind(AssertUnwindSafe(|| parse(header, now))).unwrap_or(Err(Flaw::Unreadable))
}

fn parse(header: &[u8], now: Option<u64>) -> Result<Signed<'_>, Flaw> {
    let mut message = AuthenticatedMessage::parse_with_opts(header, None, false).unwrap_or_default();
    // The library reads up to the first line that is no field, and of a header that begins with one it says nothing.
    let whole = match message.headers.as_slice() {
        [] => header.trim_ascii().is_empty(),
        [_, ..] => header.ends_with(b"\n") && message.body_offset() == header.len(),
    };
    if !whole || message.headers.iter().any(|(name, _)| name.is_empty() || name.ends_with(b"\n")) {
        return Err(Flaw::HeaderMalformed);
    }
    message.dkim_headers.clear();
    message.errors.retain(|header| matches!(header.header, mail_auth::Error::Arc(_)));
    let named = |wanted: &'static [u8]| {
        message
            .headers
            .iter()
            .copied()
            .filter(move |(name, _)| name.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    let names = Names::of(&message);
    // One that the library reads is judged, however it is spelled. One that it does not see, or that stands beside another,
    // is there to be seen by others only.
    if names.odd_from && (names.from > 1 || message.from.is_empty()) {
        return Err(Flaw::HeaderMalformed);
    }
    let dkim = named(b"DKIM-Signature").take(DKIM_SIGNATURES_MAX);
    let dkim = dkim.map(|(name, value)| names.checked(seen(candidate(name, value, now), &message))).collect();
    let seals = named(b"ARC-Seal").count();
    let arc = arc(&message, seals, &names);
    Ok(Signed { message, dkim, from_fields: names.from, arc })
}

/// What is to be known about the names of a header's fields.
struct Names {
    /// Lower case, without what cannot be seen: those of fields that are spelled with blanks or controls.
    odd: HashSet<Vec<u8>>,
    /// `From` fields, in any spelling.
    from: usize,
    /// One of them is an odd one.
    odd_from: bool,
}

impl Names {
    fn of(message: &AuthenticatedMessage<'_>) -> Self {
        let mut names = Self { odd: HashSet::new(), from: 0, odd_from: false };
        for (spelled, _) in &message.headers {
            // As the inspector takes them: only what can be seen counts.
            let name = spelled.iter().filter(|octet| octet.is_ascii_graphic()).map(u8::to_ascii_lowercase);
            let name: Vec<u8> = name.collect();
            let odd = name.len() != spelled.len();
            if name == b"from" {
                names.from += 1;
                names.odd_from |= odd;
            }
            if odd {
                names.odd.insert(name);
            }
        }
        names
    }

    /// Whether there is an odd field that a reader may take for one of these.
    fn hide(&self, signed: &[String]) -> bool {
        !self.odd.is_empty()
            && signed.iter().any(|name| self.odd.contains(name.to_ascii_lowercase().as_bytes()))
    }

    fn checked<'h>(&self, mut candidate: Candidate<'h>) -> Candidate<'h> {
        if candidate.header.as_ref().is_some_and(|header| self.hide(&header.header.h)) {
            candidate.drop_for("a signed field is spelled with blanks");
        }
        candidate
    }
}

/// The library panics over a signature that it has not seen itself, and it does not see one in a field whose name has
/// odd blanks (a form feed) behind it.
fn seen<'h>(mut candidate: Candidate<'h>, message: &AuthenticatedMessage<'_>) -> Candidate<'h> {
    let known = candidate.header.as_ref().is_none_or(|Header { header, .. }| {
        let hash = HashAlgorithm::from(header.a);
        message
            .body_hashes
            .iter()
            .any(|(form, algorithm, limit, _)| (*form, *algorithm, *limit) == (header.cb, hash, header.l))
    });
    if !known {
        candidate.drop_for("malformed signature");
    }
    candidate
}

/// Puts the hashes of the body where the library looks for them. It demands one for every signature it saw.
pub fn fill(message: &mut AuthenticatedMessage<'_>, hashes: &[(Wanted, Option<[u8; 32]>)]) {
    for (canonical, algorithm, limit, hash) in &mut message.body_hashes {
        let one = Wanted { form: form(*canonical), limit: (*limit > 0).then_some(*limit) };
        let known = hashes.iter().find(|(wanted, _)| *wanted == one).and_then(|(_, hash)| *hash);
        // No hash equals an empty one.
        *hash =
            known.filter(|_| *algorithm == HashAlgorithm::Sha256).map_or_else(Vec::new, |hash| hash.to_vec());
    }
}

fn form(canonical: Canonicalization) -> Form {
    match canonical {
        Canonicalization::Simple => Form::Simple,
        Canonicalization::Relaxed => Form::Relaxed,
    }
}

fn coverage(signature: &Signature) -> Wanted {
    Wanted { form: form(signature.cb), limit: (signature.l > 0).then_some(signature.l) }
}

fn candidate<'h>(name: &'h [u8], value: &'h [u8], now: Option<u64>) -> Candidate<'h> {
    let tags = Tags::parse(value).unwrap_or_default();
    let text = |tag| clipped(tags.get(tag).unwrap_or_default());
    let found = Dkim {
        domain: domain(tags.get("d").unwrap_or_default()),
        selector: text("s"),
        algorithm: text("a").to_ascii_lowercase(),
        ..Dkim::default()
    };
    let b = tags.get("b").unwrap_or_default().chars().take(B_PREFIX_BYTES).collect();
    let mut candidate = Candidate { found, b, partial: tags.get("l").is_some(), header: None };
    match acceptable(&tags, value, now) {
        Ok(signature) => {
            // The library reads tags more loosely than we do. What it has read is what the key is asked for with, and a
            // result in another name would be a forgery of ours.
            candidate.found.domain = domain(&signature.d);
            candidate.found.selector = clipped(&signature.s);
            algorithm(signature.a).clone_into(&mut candidate.found.algorithm);
            candidate.partial = signature.l > 0;
            candidate.header = Some(Header { name, value, header: signature });
        }
        Err((word, reason)) => {
            candidate.found.word = word;
            reason.clone_into(&mut candidate.found.reason);
        }
    }
    candidate
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RsaSha1 => "rsa-sha1",
        Algorithm::RsaSha256 => "rsa-sha256",
        Algorithm::Ed25519Sha256 => "ed25519-sha256",
    }
}

fn acceptable(tags: &Tags, value: &[u8], now: Option<u64>) -> Result<Signature, (Word, &'static str)> {
    let neutral = |reason| (Word::Neutral, reason);
    let number = |tag: &str| tags.get(tag).map(str::parse::<u64>).transpose();
    if tags.get("v") != Some("1") {
        return Err(neutral(if tags.get("d").is_some() {
            "version is not 1"
        } else {
            "malformed signature"
        }));
    }
    let mut signature = Signature::parse(value).map_err(|_| neutral("malformed signature"))?;
    if signature.a == Algorithm::RsaSha1 {
        return Err((Word::Policy, "rsa-sha1 is too weak")); // RFC 8301 section 3.1
    }
    if !signature.h.iter().any(|name| name.eq_ignore_ascii_case("from")) {
        return Err(neutral("From is not signed")); // RFC 6376 section 5.4
    }
    if signature.h.len() > SIGNED_FIELDS_MAX {
        return Err(neutral("too many signed fields"));
    }
    if signature.d.len() > NAME_BYTES_MAX || signature.s.len() > NAME_BYTES_MAX {
        return Err(neutral("malformed signature"));
    }
    if tags.lists("q", "dns/txt") == Some(false) {
        return Err(neutral("unknown way to ask for the key"));
    }
    let (Ok(made), Ok(expires), Ok(length)) = (number("t"), number("x"), number("l")) else {
        return Err(neutral("malformed signature"));
    };
    if length == Some(0) {
        return Err((Word::Policy, "nothing of the body is signed"));
    }
    if let (Some(made), Some(now)) = (made, now)
        && made > now.saturating_add(CLOCK_SKEW_SECONDS)
    {
        return Err(neutral("signed in the future"));
    }
    if expires
        .is_some_and(|expires| now.is_some_and(|now| expires <= now) || expires < made.unwrap_or_default())
    {
        return Err(neutral("signature has expired"));
    }
    // Reports and third-party signatures (RFC 6541, RFC 6651) would be more questions that a stranger chooses.
    (signature.r, signature.atps, signature.x) = (false, None, 0);
    Ok(signature)
}

/// What is wrong with the chain before its seals are looked at.
fn arc(message: &AuthenticatedMessage<'_>, seals: usize, names: &Names) -> Option<Word> {
    let (signatures, results) = (&message.ams_headers, &message.aar_headers);
    if message.has_arc_errors {
        return Some(Word::Fail);
    }
    if seals == 0 && signatures.is_empty() && results.is_empty() {
        return Some(Word::None);
    }
    let weak = |algorithm| algorithm == Algorithm::RsaSha1;
    let broken = signatures.len() > ARC_SETS_MAX
        || signatures.len() != message.as_headers.len()
        || signatures.len() != results.len()
        || signatures.iter().any(|header| header.header.h.len() > SIGNED_FIELDS_MAX || weak(header.header.a))
        || message.as_headers.iter().any(|header| weak(header.header.a))
        // Of the signatures only the last is checked.
        || signatures.last().is_some_and(|header| names.hide(&header.header.h));
    broken.then_some(Word::Fail)
}

/// Lower case, A-labels where that is possible, not longer than a name can be.
fn domain(text: &str) -> String {
    clipped(&idna::domain_to_ascii(text).unwrap_or_else(|_| text.to_lowercase()))
}

fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_BYTES_MAX).collect()
}
