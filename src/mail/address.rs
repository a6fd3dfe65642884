//! Mail addresses as they travel in `MAIL FROM` and `RCPT TO` (RFC 5321 §4.1.2, RFC 6531).
//!
//! Promises: what parses has no control character, keeps its spelling byte for byte
//! ([`Mailbox::verbatim`]), and compares by the A-label form of its domain. A source route is read and
//! forgotten, never followed. `Display` masks the local part, because it is personal.
//!
//! Does not: look anything up, decide whose domain it is, or repair what is not an address.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::fmt;

/// Longest local part, octets (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// Longest domain, octets (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Longest label of a domain in A-label form, octets (RFC 1035 §2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest path with its angle brackets, octets (RFC 5321 §4.5.3.1.3).
pub const PATH_BYTES_MAX: usize = 256;
/// Characters of the text form of a gateway key; such a local part may name a mailbox by itself.
const KEY_TEXT_CHARS: usize = crate::identity::key::KEY_TEXT_LEN;

/// A text is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not follow the grammar.
    #[error("address syntax")]
    Syntax,
    /// More than [`PATH_BYTES_MAX`] octets.
    #[error("path too long")]
    PathTooLong,
    /// More than [`LOCAL_PART_BYTES_MAX`] octets before the `@`.
    #[error("local part too long")]
    LocalPartTooLong,
    /// More than [`DOMAIN_BYTES_MAX`] octets, or a label of more than [`LABEL_BYTES_MAX`].
    #[error("domain too long")]
    DomainTooLong,
    /// Octets that are not UTF-8.
    #[error("address is not UTF-8")]
    NotUtf8,
    /// Well-formed UTF-8 beyond ASCII in a transaction without `SMTPUTF8`.
    #[error("address needs SMTPUTF8")]
    NeedsUtf8,
}

/// `local-part@domain`.
#[derive(Clone, PartialEq, Eq)]
pub struct Mailbox {
    verbatim: String,
    local: String,
    domain: String,
}

impl Mailbox {
    /// Reads `local-part@domain` without brackets and without a source route.
    ///
    /// `utf8` says whether the transaction was opened with `SMTPUTF8` (RFC 6531 §3.3).
    ///
    /// # Errors
    /// [`AddressError`], by the first rule that is broken.
    pub fn parse(text: &str, utf8: bool) -> Result<Self, AddressError> {
        if !utf8 && !text.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        let (local, rest) =
            if text.starts_with('"') { quoted_local_part(text)? } else { dotted_local_part(text)? };
        let spelled = text.len() - rest.len();
        if spelled > LOCAL_PART_BYTES_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        let domain = rest.strip_prefix('@').ok_or(AddressError::Syntax)?;
        let domain = if domain.starts_with('[') { literal(domain)? } else { domain_key(domain)? };
        Ok(Self { verbatim: text.to_owned(), local, domain })
    }

    /// The address byte for byte as it was given.
    #[must_use]
    pub fn verbatim(&self) -> &str {
        &self.verbatim
    }

    /// The local part without quoting, in its own case.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain in lower-case A-label form, or the address literal with its brackets in lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// True for `user@[192.0.2.1]`.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.domain.starts_with('[')
    }

    /// True when only a peer with `SMTPUTF8` can be told this address.
    #[must_use]
    pub fn needs_utf8(&self) -> bool {
        !self.verbatim.is_ascii()
    }

    /// Local part `postmaster` in any case (RFC 5321 §4.5.1).
    #[must_use]
    pub fn is_postmaster(&self) -> bool {
        self.local.eq_ignore_ascii_case("postmaster")
    }

    /// What the address is for the purpose of "the same recipient twice": `local@domain`, folded.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}@{}", self.local.to_lowercase(), self.domain)
    }

    /// The names under which a mailbox may be registered for this address, most specific first: the full
    /// address, the address without its `+tag`, then, when they look like a key text, the bare local
    /// parts. At most four.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let folded = self.local.to_lowercase();
        let base = folded.split_once('+').map(|(base, _)| base).filter(|base| !base.is_empty());
        let locals: Vec<&str> = std::iter::once(folded.as_str()).chain(base).collect();
        let full = locals.iter().map(|local| format!("{local}@{}", self.domain));
        let keys =
            locals.iter().filter(|local| local.len() == KEY_TEXT_CHARS).map(|local| (*local).to_owned());
        full.chain(keys).collect()
    }
}

/// Masked: first character of the local part, then dots.
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.local.chars().next().filter(|c| c.is_alphanumeric()).unwrap_or('?');
        write!(f, "{first}...@{}", self.domain)
    }
}

/// Masked like [`fmt::Display`], so that a debug print cannot leak what a log line may not.
impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Argument of `MAIL FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`: a bounce, which must never bounce (RFC 5321 §4.5.5).
    Null,
    /// An address.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads what stood between the angle brackets.
    ///
    /// # Errors
    /// [`AddressError`], by the first rule that is broken.
    pub fn parse(inner: &[u8], utf8: bool) -> Result<Self, AddressError> {
        match path(inner)? {
            "" => Ok(Self::Null),
            text => Mailbox::parse(text, utf8).map(Self::Mailbox),
        }
    }

    /// The address as given, without brackets; empty for the null path.
    #[must_use]
    pub fn verbatim(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Mailbox(mailbox) => mailbox.verbatim(),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// Argument of `RCPT TO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain, which every server takes (RFC 5321 §4.1.1.3).
    Postmaster(String),
    /// An address.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// Reads what stood between the angle brackets. The null path is no forward path.
    ///
    /// # Errors
    /// [`AddressError`], by the first rule that is broken.
    pub fn parse(inner: &[u8], utf8: bool) -> Result<Self, AddressError> {
        let text = path(inner)?;
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster(text.to_owned()));
        }
        Mailbox::parse(text, utf8).map(Self::Mailbox)
    }

    /// The address as given, without brackets and route.
    #[must_use]
    pub fn verbatim(&self) -> &str {
        match self {
            Self::Postmaster(text) => text,
            Self::Mailbox(mailbox) => mailbox.verbatim(),
        }
    }

    /// Equal for two spellings of the same recipient.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Postmaster(_) => "postmaster".to_owned(),
            Self::Mailbox(mailbox) => mailbox.key(),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster(_) => f.write_str("postmaster"),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// Somebody else's words as a log may show them: what looks like an address is printed as [`Mailbox`] prints one. The record
/// of the message keeps them as they were said.
#[must_use]
pub fn masked_words(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('@') {
        let (words, local) = split_local(before);
        let is_address = !local.is_empty() && behind.starts_with(|c: char| c.is_alphanumeric() || c == '[');
        masked.push_str(words);
        if is_address {
            masked.push(local.chars().next().filter(|c| c.is_alphanumeric()).unwrap_or('?'));
            masked.push_str("...");
        } else {
            masked.push_str(local);
        }
        masked.push('@');
        rest = behind;
    }
    masked.push_str(rest);
    masked
}

/// Takes what may be a local part off the end of a text; a quoted one goes back to its opening quote.
fn split_local(before: &str) -> (&str, &str) {
    let open = before.strip_suffix('"').and_then(|inside| inside.rfind('"'));
    let at = open.unwrap_or_else(|| {
        let ends = |c: char| {
            c.is_whitespace() || matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | ',' | ';' | ':' | '"')
        };
        before.trim_end_matches(|c| !ends(c)).len()
    });
    before.split_at(at)
}

/// The form in which domains are compared: A-labels, lower case (RFC 5890, UTS 46).
///
/// # Errors
/// [`AddressError::Syntax`] for empty labels, a trailing dot, or characters no host name has;
/// [`AddressError::DomainTooLong`] by length.
pub fn domain_key(domain: &str) -> Result<String, AddressError> {
    if domain.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::DomainTooLong);
    }
    let ascii = if domain.is_ascii() {
        // Plain names are folded, not checked: a sender's odd `xn--` label is his affair.
        domain.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(domain).map_err(|_| AddressError::Syntax)?
    };
    if ascii.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::DomainTooLong);
    }
    for label in ascii.split('.') {
        // The underscore is in no host name, and in plenty of sender domains.
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') || !label.bytes().all(known) {
            return Err(AddressError::Syntax);
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(AddressError::DomainTooLong);
        }
    }
    Ok(ascii)
}

/// Checks `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3) and folds it to lower case.
///
/// # Errors
/// [`AddressError::Syntax`].
pub fn literal(text: &str) -> Result<String, AddressError> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(AddressError::Syntax)?;
    let tag = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    let known = match tag {
        Some(tag) => inner[tag.len()..].parse::<Ipv6Addr>().is_ok(),
        None => inner.parse::<Ipv4Addr>().is_ok(),
    };
    if known { Ok(text.to_ascii_lowercase()) } else { Err(AddressError::Syntax) }
}

/// Length and character set of a path, and the source route taken off (RFC 5321 appendix C: ignored).
fn path(inner: &[u8]) -> Result<&str, AddressError> {
    if inner.len() + 2 > PATH_BYTES_MAX {
        return Err(AddressError::PathTooLong);
    }
    let text = std::str::from_utf8(inner).map_err(|_| AddressError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(AddressError::Syntax);
    }
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, mailbox) = text.split_once(':').ok_or(AddressError::Syntax)?;
    for hop in route.split(',') {
        domain_key(hop.strip_prefix('@').ok_or(AddressError::Syntax)?)?;
    }
    if mailbox.is_empty() { Err(AddressError::Syntax) } else { Ok(mailbox) }
}

/// `Dot-string`: atoms with single dots between them. Returns it with what follows, from the `@` on.
fn dotted_local_part(text: &str) -> Result<(String, &str), AddressError> {
    let end = text.find('@').ok_or(AddressError::Syntax)?;
    let (local, rest) = text.split_at(end);
    if local.split('.').any(|atom| atom.is_empty() || !atom.chars().all(is_atext)) {
        return Err(AddressError::Syntax);
    }
    Ok((local.to_owned(), rest))
}

/// `Quoted-string`: returns its content with what follows the closing quote.
fn quoted_local_part(text: &str) -> Result<(String, &str), AddressError> {
    let mut local = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if local.is_empty() => return Err(AddressError::Syntax),
            '"' => return Ok((local, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, escaped)) if escaped.is_ascii() => local.push(escaped),
                Some(_) | None => return Err(AddressError::Syntax),
            },
            other => local.push(other),
        }
    }
    Err(AddressError::Syntax)
}

/// `atext` of RFC 5322 §3.2.3, and everything beyond ASCII (RFC 6531 §3.3; the caller has checked).
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(text: &str) -> Result<Mailbox, AddressError> {
        match ForwardPath::parse(text.as_bytes(), true)? {
            ForwardPath::Mailbox(mailbox) => Ok(mailbox),
            ForwardPath::Postmaster(_) => Err(AddressError::Syntax),
        }
    }

    #[test]
    fn null_reverse_path_parses_and_null_forward_path_does_not() {
        assert_eq!(ReversePath::parse(b"", false), Ok(ReversePath::Null)); // B3
        assert_eq!(ForwardPath::parse(b"", false), Err(AddressError::Syntax));
    }

    #[test]
    fn postmaster_needs_no_domain() {
        assert!(matches!(ForwardPath::parse(b"PostMaster", false), Ok(ForwardPath::Postmaster(_)))); // B4
        assert!(mailbox("postmasteR@x.example").unwrap().is_postmaster());
    }

    #[test]
    fn spelling_is_kept_and_comparison_is_folded() {
        let m = mailbox("AbC@Mail.EXAMPLE").unwrap(); // B5
        assert_eq!(m.verbatim(), "AbC@Mail.EXAMPLE");
        assert_eq!(m.key(), "abc@mail.example");
    }

    #[test]
    fn quoted_local_parts_are_unquoted_for_comparison_only() {
        for (text, local) in [
            (r#""a b"@x.example"#, "a b"),
            (r#""a\"b"@x.example"#, "a\"b"),
            (r#""a@b"@x.example"#, "a@b"),
            (r#""a>b"@x.example"#, "a>b"),
        ] {
            let m = mailbox(text).unwrap(); // B6
            assert_eq!(m.local(), local);
            assert_eq!(m.verbatim(), text);
        }
        assert_eq!(mailbox(r#"""@x.example"#), Err(AddressError::Syntax));
        assert_eq!(mailbox(r#""a"b@x.example"#), Err(AddressError::Syntax));
    }

    #[test]
    fn source_route_is_dropped_and_the_last_domain_counts() {
        assert_eq!(mailbox("@x.example,@y.example:u@our.example").unwrap().domain(), "our.example"); // B8
        assert_eq!(mailbox("@our.example:u@other.example").unwrap().domain(), "other.example"); // K2
        assert_eq!(mailbox("@x.example:"), Err(AddressError::Syntax));
        assert_eq!(mailbox("@:u@our.example"), Err(AddressError::Syntax));
    }

    #[test]
    fn classic_tricks_stay_in_the_local_part_or_are_refused() {
        assert_eq!(mailbox("u%other@our.example").unwrap().local(), "u%other"); // K2
        assert_eq!(mailbox("other!u@our.example").unwrap().local(), "other!u");
        assert_eq!(mailbox("u@other@our.example"), Err(AddressError::Syntax));
        assert_eq!(mailbox("u@our.example."), Err(AddressError::Syntax)); // I6
        for text in ["u", "@our.example", "u@", ".u@x.y", "u.@x.y", "a..b@x.y", "a b@x.y", "u@-x.y", "u@x..y"]
        {
            assert_eq!(mailbox(text), Err(AddressError::Syntax), "{text}");
        }
    }

    #[test]
    fn literals_are_checked() {
        assert!(mailbox("u@[127.0.0.1]").unwrap().is_literal()); // B7
        assert_eq!(mailbox("u@[IPv6:::1]").unwrap().domain(), "[ipv6:::1]");
        assert_eq!(mailbox("u@[127.0.0.256]"), Err(AddressError::Syntax));
        assert_eq!(mailbox("u@[x]y"), Err(AddressError::Syntax));
    }

    #[test]
    fn lengths_are_counted_in_octets() {
        let local = "l".repeat(64);
        assert!(mailbox(&format!("{local}@x.example")).is_ok()); // E1
        assert_eq!(mailbox(&format!("{local}l@x.example")), Err(AddressError::LocalPartTooLong));
        let label = "d".repeat(63);
        assert!(mailbox(&format!("u@{label}.example")).is_ok()); // E2
        assert_eq!(mailbox(&format!("u@{label}d.example")), Err(AddressError::DomainTooLong));
        let name = |n: usize| {
            let dotted = format!("{label}.{label}.{label}.");
            format!("{dotted}{}", "e".repeat(n - dotted.len()))
        };
        assert!(domain_key(&name(255)).is_ok());
        assert_eq!(domain_key(&name(256)), Err(AddressError::DomainTooLong));
        assert!(mailbox(&format!("u@{}", name(252))).is_ok()); // E3: 254 and two brackets
        assert_eq!(mailbox(&format!("u@{}", name(253))), Err(AddressError::PathTooLong));
    }

    #[test]
    fn utf8_needs_its_extension_and_must_be_utf8() {
        assert_eq!(ReversePath::parse("josé@b.example".as_bytes(), false), Err(AddressError::NeedsUtf8)); // I2
        assert!(ReversePath::parse("josé@b.example".as_bytes(), true).is_ok()); // I3
        assert_eq!(ReversePath::parse(b"\xff@b", true), Err(AddressError::NotUtf8)); // I4, B15
        assert_eq!(ReversePath::parse(b"\xc0\xaf@b", true), Err(AddressError::NotUtf8)); // overlong
        assert_eq!(ReversePath::parse(b"\xed\xa0\x80@b", true), Err(AddressError::NotUtf8)); // surrogate
        assert_eq!(ReversePath::parse(b"a\0@b", true), Err(AddressError::Syntax)); // B16
    }

    #[test]
    fn u_label_and_a_label_of_one_domain_are_equal() {
        let a = mailbox("u@xn--bcher-kva.example").unwrap(); // I5
        assert_eq!(mailbox("u@bücher.example").unwrap().key(), a.key());
        assert_eq!(mailbox("u@BÜCHER.example").unwrap().key(), a.key()); // I6
    }

    #[test]
    fn names_go_from_the_full_address_to_the_bare_key() {
        let key = "k".repeat(52);
        assert_eq!(mailbox("Home@our.example").unwrap().names(), ["home@our.example"]);
        let m = mailbox(&format!("{key}+Tag@our.example")).unwrap(); // K11
        assert_eq!(m.names(), [format!("{key}+tag@our.example"), format!("{key}@our.example"), key],);
        assert_eq!(mailbox("operator@our.example").unwrap().names(), ["operator@our.example"]);
    }

    #[test]
    fn printing_masks_the_local_part() {
        let m = mailbox("anna.secret@example.org").unwrap();
        assert_eq!(format!("{m} {m:?}"), "a...@example.org a...@example.org");
    }
    #[test]
    fn words_of_others_are_masked_where_they_name_somebody() {
        for (said, logged) in [
            (
                "550 5.1.1 <bob.secret@far.example>: no such user",
                "550 5.1.1 <b...@far.example>: no such user",
            ),
            (
                "bob@far.example unknown, ask eve@far.example.",
                "b...@far.example unknown, ask e...@far.example.",
            ),
            (
                "550 \"john doe\"@far.example (mailto:x+y@[192.0.2.1])",
                "550 ?...@far.example (mailto:x...@[192.0.2.1])",
            ),
            ("no <j\u{fc}rgen@b\u{fc}cher.example>", "no <j...@b\u{fc}cher.example>"),
            ("SRS0=hash=x=far.example=bob@gw.example", "S...@gw.example"),
            ("ask \"eve@far.example\"", "ask \"e...@far.example\""),
            ("a@b@c", "a...@b...@c"),
            ("250 2.0.0 Ok: queued as 4F2", "250 2.0.0 Ok: queued as 4F2"),
            ("noon @ home, @twitter, a@ b, \"@", "noon @ home, @twitter, a@ b, \"@"),
            ("", ""),
        ] {
            assert_eq!(masked_words(said), logged);
        }
    }
}
