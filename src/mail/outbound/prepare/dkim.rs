//! PURE: DKIM signatures (RFC 6376, RFC 8301, RFC 8463) on what goes out.
//!
//! Promises: both an RSA and an Ed25519 signature, RSA first, when both keys are there; relaxed/relaxed; no `l=`;
//! every line of a signature far below 998 octets whatever the selector (T7); only messages whose every author is
//! of the signing domain or below it are signed (T4), and a message that is not signed says why.
//!
//! The canonical forms and the field are ours, the keys are mail-auth's: its signer reads the clock by itself, and
//! in version 0.13 hashes a body that ends in a line of blanks as no verifier does (T9).
//!
//! Memory: the header of the message (at most [`HEADER_BYTES_MAX`] and our own fields) and one SHA-256; the body
//! only passes by.

pub mod body;
pub mod keys;

use data_encoding::BASE64;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use memchr::memmem;
use spool::ids::WallMs;

use self::body::BodyHash;
use super::draft::{Field, fields};
use super::sender::mailboxes;
use crate::mail::address::domain_key;
use crate::mail::smtp::content::HEADER_BYTES_MAX;

/// Fields that are signed when they are there (T2).
pub const SIGN_HEADERS: [&str; 17] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Sender",
    "Reply-To",
    "Cc",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];
/// Fields that are signed once more than they are there, so that nobody can add another (T2, RFC 6376 8.15).
pub const OVERSIGN_HEADERS: [&str; 4] = ["From", "To", "Subject", "Date"];
/// Our own fields in front of a stored header, octets.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Where a line of a signature is folded, octets.
const FOLD_BYTES: usize = 76;
/// Longest name of a field to sign, octets; with it a line of a signature stays below 998 (T7).
const FIELD_NAME_BYTES_MAX: usize = 200;
/// Longest name of a key record (RFC 1035 section 2.3.4, as text).
const RECORD_NAME_BYTES_MAX: usize = 253;

/// What signatures say, besides the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `d=`.
    pub domain: String,
    /// `s=` of the RSA key.
    pub selector: String,
    /// `s=` of the Ed25519 key: another one, because a name has one key record (RFC 8463 section 3).
    pub ed25519_selector: String,
    /// Fields to sign.
    pub sign_headers: Vec<String>,
    /// Fields to sign once more than they are there.
    pub oversign_headers: Vec<String>,
}

impl Settings {
    /// The usual fields; the Ed25519 key has the same selector with `-ed25519` behind it.
    #[must_use]
    pub fn new(domain: &str, selector: &str) -> Self {
        Self {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            ed25519_selector: ed25519_selector(selector),
            sign_headers: SIGN_HEADERS.map(str::to_owned).to_vec(),
            oversign_headers: OVERSIGN_HEADERS.map(str::to_owned).to_vec(),
        }
    }
}

/// The selector of the Ed25519 key beside an RSA key with `selector`.
#[must_use]
pub fn ed25519_selector(selector: &str) -> String {
    format!("{selector}-ed25519")
}

/// The name under which a public key is looked up (RFC 6376 section 3.6.2.1).
#[must_use]
pub fn record_name(selector: &str, domain: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// Settings that make no signer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The domain is no domain name.
    #[error("the DKIM domain `{0}` is no domain name")]
    Domain(String),
    /// The selector cannot be part of a name.
    #[error("the DKIM selector `{0}` cannot be part of a domain name")]
    Selector(String),
    /// `From` must be signed (RFC 6376 section 5.4), and names must be names.
    #[error("the list of signed headers must be field names and have From among them")]
    Headers,
    /// There is nothing to sign with.
    #[error("no DKIM key is configured")]
    NoKey,
}

/// Why a message goes out without a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSigned {
    /// An author is of another domain.
    #[error("From is of {from}, and the key of {domain}")]
    Foreign {
        /// Domain of the author.
        from: String,
        /// Domain of the key.
        domain: String,
    },
    /// There is no author that can be read without doubt.
    #[error("the message has no From field that can be signed for")]
    NoAuthor,
    /// The header is larger than any we store.
    #[error("the header is too large to sign")]
    HeaderTooLarge,
    /// The key library failed.
    #[error("the key does not sign: {0}")]
    Key(String),
}

/// Signs for one domain. Keys are changed by making a new one.
pub struct Signer {
    settings: Settings,
    rsa: Option<RsaKey<Sha256>>,
    ed25519: Option<Ed25519Key>,
}

/// Without the keys.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = (self.rsa.is_some(), self.ed25519.is_some());
        f.debug_struct("Signer").field("settings", &self.settings).field("rsa, ed25519", &keys).finish()
    }
}

impl Signer {
    /// Checks the settings and takes the keys; at least one.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn new(
        mut settings: Settings,
        rsa: Option<RsaKey<Sha256>>,
        ed25519: Option<Ed25519Key>,
    ) -> Result<Self, SignerError> {
        if rsa.is_none() && ed25519.is_none() {
            return Err(SignerError::NoKey);
        }
        settings.domain = domain_key(&settings.domain).map_err(|_| SignerError::Domain(settings.domain))?;
        for selector in [&mut settings.selector, &mut settings.ed25519_selector] {
            let name = domain_key(selector).map_err(|_| SignerError::Selector(selector.clone()))?;
            if record_name(&name, &settings.domain).len() > RECORD_NAME_BYTES_MAX {
                return Err(SignerError::Selector(name));
            }
            *selector = name;
        }
        let named = |name: &str| {
            let plain = |b: u8| matches!(b, 33..=126) && !b":;".contains(&b);
            !name.is_empty() && name.len() <= FIELD_NAME_BYTES_MAX && name.bytes().all(plain)
        };
        let headers = [&settings.sign_headers, &settings.oversign_headers].into_iter().flatten();
        let from = settings.sign_headers.iter().any(|name| name.eq_ignore_ascii_case("From"));
        if !from || !headers.into_iter().all(|name| named(name)) {
            return Err(SignerError::Headers);
        }
        Ok(Self { settings, rsa, ed25519 })
    }

    /// Whether mail from `domain` (A-label, lower case) is ours to sign: the signing domain, or below it.
    #[must_use]
    pub fn covers(&self, domain: &str) -> bool {
        let above = domain.strip_suffix(self.settings.domain.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }

    /// Begins with a message; feed it whole, from its first header field on.
    #[must_use]
    pub fn begin(&self) -> Signing<'_> {
        Signing { signer: self, header: Vec::new(), body: None, too_large: false }
    }

    /// Signs a message that is in memory.
    ///
    /// # Errors
    /// [`NotSigned`].
    pub fn sign(&self, message: &[u8], now: WallMs) -> Result<Vec<u8>, NotSigned> {
        let mut signing = self.begin();
        signing.feed(message);
        signing.finish(now)
    }
}

/// One message on its way past a [`Signer`].
#[derive(Debug)]
pub struct Signing<'a> {
    signer: &'a Signer,
    header: Vec<u8>,
    body: Option<BodyHash>,
    too_large: bool,
}

impl Signing<'_> {
    /// The next octets of the message in canonical form: what goes on the wire before dot-stuffing (T1).
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Some(body) = &mut self.body {
            body.feed(bytes);
            return;
        }
        if self.too_large {
            return;
        }
        let from = self.header.len().saturating_sub(3);
        self.header.extend_from_slice(bytes);
        let end = memmem::find(&self.header[from..], b"\r\n\r\n").map(|at| from + at + 2);
        if end.unwrap_or(self.header.len()) > HEADER_BYTES_MAX + HEAD_BYTES_MAX {
            self.too_large = true;
            self.header = Vec::new();
        } else if let Some(end) = end {
            let mut body = BodyHash::default();
            body.feed(&self.header[end + 2..]);
            self.header.truncate(end);
            self.body = Some(body);
        }
    }

    /// The `DKIM-Signature` fields to put in front of the message, each with its CR LF.
    ///
    /// # Errors
    /// [`NotSigned`]; the message may go out all the same.
    pub fn finish(self, now: WallMs) -> Result<Vec<u8>, NotSigned> {
        if self.too_large {
            return Err(NotSigned::HeaderTooLarge);
        }
        self.check_author()?;
        let Signer { settings, rsa, ed25519 } = self.signer;
        let body_hash = BASE64.encode(&self.body.unwrap_or_default().finish());
        let (names, canonical) = signed_fields(&self.header, settings);
        let mut out = Vec::new();
        let unsigned = |algorithm: &str, selector: &str| {
            let mut text = Folded::new(&format!("DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;"));
            text.push(&format!(" d={};", settings.domain));
            text.push(&format!(" s={selector};"));
            text.push(&format!(" t={};", now.0 / 1000));
            for (n, name) in names.iter().enumerate() {
                let before = if n == 0 { " h=" } else { "" };
                let after = if n + 1 == names.len() { ";" } else { ":" };
                text.push(&format!("{before}{name}{after}"));
            }
            text.push(&format!(" bh={body_hash};"));
            text.push(" b=");
            text
        };
        if let Some(key) = rsa {
            out.extend(complete(unsigned("rsa-sha256", &settings.selector), &canonical, key)?);
        }
        if let Some(key) = ed25519 {
            out.extend(complete(unsigned("ed25519-sha256", &settings.ed25519_selector), &canonical, key)?);
        }
        Ok(out)
    }

    fn check_author(&self) -> Result<(), NotSigned> {
        let mut from = fields(&self.header).filter(|field| field.is("From"));
        let (Some(field), None) = (from.next(), from.next()) else { return Err(NotSigned::NoAuthor) };
        let authors = mailboxes(&field.value()).ok_or(NotSigned::NoAuthor)?;
        match authors.iter().find(|author| !self.signer.covers(author.domain())) {
            None => Ok(()),
            Some(author) => Err(NotSigned::Foreign {
                from: author.domain().to_owned(),
                domain: self.signer.settings.domain.clone(),
            }),
        }
    }
}

/// Signs, and puts the signature behind `b=`.
fn complete(unsigned: Folded, canonical: &[u8], key: &impl SigningKey) -> Result<Vec<u8>, NotSigned> {
    let mut input = canonical.to_vec();
    let (name, raw) = unsigned.text.split_once(':').unwrap_or_default();
    relax(Field { name: name.as_bytes(), raw: raw.as_bytes() }, &mut input);
    input.truncate(input.len() - 2); // The signature's own field is hashed without its line end.
    let signature = key.sign(input.as_slice()).map_err(|e| NotSigned::Key(e.to_string()))?;
    let mut text = unsigned;
    for piece in BASE64.encode(&signature).as_bytes().chunks(FOLD_BYTES - 8) {
        text.push(&String::from_utf8_lossy(piece));
    }
    text.text.push_str("\r\n");
    Ok(text.text.into_bytes())
}

/// The `h=` names in order, and the canonical form of the fields they choose (RFC 6376 section 5.4.2: from the
/// bottom up; a name beyond the last of its fields stands for the absence of another).
fn signed_fields(header: &[u8], settings: &Settings) -> (Vec<String>, Vec<u8>) {
    let (mut names, mut canonical): (Vec<String>, Vec<u8>) = (Vec::new(), Vec::new());
    let wanted = settings.sign_headers.iter().chain(&settings.oversign_headers);
    for name in wanted.map(|name| name.to_ascii_lowercase()) {
        if names.contains(&name) {
            continue;
        }
        let found: Vec<_> = fields(header).filter(|field| field.is(&name)).collect();
        found.iter().rev().for_each(|field| relax(*field, &mut canonical));
        let once_more = settings.oversign_headers.iter().any(|over| over.eq_ignore_ascii_case(&name));
        let times = found.len() + usize::from(once_more);
        names.extend(std::iter::repeat_n(name, times));
    }
    (names, canonical)
}

/// The relaxed form of one field with its CR LF (RFC 6376 section 3.4.2).
fn relax(field: Field<'_>, out: &mut Vec<u8>) {
    out.extend(field.name.trim_ascii_end().to_ascii_lowercase());
    out.push(b':');
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let words = field.raw.split(blank).filter(|word| !word.is_empty());
    for (n, word) in words.enumerate() {
        if n > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

/// A field that is folded between the pieces it is made of.
struct Folded {
    text: String,
    line_bytes: usize,
}

impl Folded {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), line_bytes: text.len() }
    }

    /// A blank in front of a piece goes when a fold takes its place.
    fn push(&mut self, piece: &str) {
        let mut piece = piece;
        if self.line_bytes + piece.len() > FOLD_BYTES {
            piece = piece.trim_start();
            self.text.push_str("\r\n\t");
            self.line_bytes = 1;
        }
        self.text.push_str(piece);
        self.line_bytes += piece.len();
    }
}

#[cfg(test)]
mod tests;
