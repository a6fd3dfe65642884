//! PURE: the two texts of MTA-STS (RFC 8461): the TXT record that announces a policy, and the policy.
//!
//! Promises: no input panics; what does not follow the grammar is no record and no policy; a policy is bounded in
//! size and life. A pattern that cannot be read matches nothing: the others keep their meaning.

use serde::{Deserialize, Serialize};

use crate::mail::address::domain_key;

/// Largest policy file, bytes (RFC 8461 section 3.3 suggests this bound).
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Longest life of a policy, seconds: about one year (RFC 8461 section 3.2).
pub const MAX_AGE_SECONDS_MAX: u64 = 31_557_600;
/// Most patterns kept of one policy.
pub const PATTERNS_MAX: usize = 200;
/// Longest id of a record, characters (RFC 8461 section 3.1).
const ID_CHARS_MAX: usize = 32;

/// What a domain wants to happen when a host does not fit its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Do not deliver there.
    Enforce,
    /// Deliver, and only say so.
    Testing,
    /// Nothing: the policy is being withdrawn.
    None,
}

/// A domain's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What happens to hosts that do not fit.
    pub mode: Mode,
    /// How long it may be remembered, at most [`MAX_AGE_SECONDS_MAX`].
    pub max_age_seconds: u64,
    /// Names of hosts, A-labels, lower case; `*.` in front stands for one label.
    pub mx: Vec<String>,
}

impl Policy {
    /// Whether the policy names this host (A-labels, lower case).
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => {
                host.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest == parent)
            }
            None => pattern == host,
        })
    }
}

/// The id that the domain's TXT records announce; none when there is not exactly one valid record
/// (RFC 8461 section 3.1).
#[must_use]
pub fn announced_id(records: &[Vec<u8>]) -> Option<String> {
    let mut ours = records.iter().filter(|record| is_ours(record));
    match (ours.next(), ours.next()) {
        (Some(record), None) => id_of(record),
        (Some(_) | None, _) => None,
    }
}

/// A record of another kind does not count; one of ours that is broken does.
fn is_ours(record: &[u8]) -> bool {
    let Some(rest) = record.strip_prefix(b"v=STSv1") else { return false };
    matches!(rest.iter().find(|byte| !matches!(byte, b' ' | b'\t')), None | Some(b';'))
}

fn id_of(record: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(record).ok()?;
    let mut id = None;
    let mut fields = text.split(';').skip(1).map(|field| field.trim_matches([' ', '\t'])).peekable();
    while let Some(field) = fields.next() {
        if field.is_empty() && fields.peek().is_none() {
            break;
        }
        let (name, value) = field.split_once('=')?;
        if !is_field_name(name) || value.is_empty() {
            return None;
        }
        if name == "id" {
            let well_formed =
                value.len() <= ID_CHARS_MAX && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !well_formed || id.is_some() {
                return None;
            }
            id = Some(value.to_owned());
        }
    }
    id
}

/// A file is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than [`POLICY_BYTES_MAX`].
    #[error("the policy is larger than 64 KB")]
    TooLarge,
    /// Octets that are not UTF-8.
    #[error("the policy is not UTF-8")]
    NotUtf8,
    /// A line without a colon, or with a field name that is none.
    #[error("a line of the policy cannot be read")]
    Line,
    /// No `version: STSv1`.
    #[error("the policy has no version that is known")]
    Version,
    /// No mode, or an unknown one.
    #[error("the policy has no mode that is known")]
    Mode,
    /// No `max_age`, or no number.
    #[error("the policy does not say how long it lives")]
    MaxAge,
    /// A policy to follow names no host.
    #[error("the policy names no mail server")]
    NoHost,
}

/// Reads a policy file (RFC 8461 section 3.2). Of a field that may stand once the first counts.
///
/// # Errors
/// [`PolicyError`].
pub fn parse(bytes: &[u8]) -> Result<Policy, PolicyError> {
    if bytes.len() > POLICY_BYTES_MAX {
        return Err(PolicyError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::NotUtf8)?;
    let (mut version, mut mode, mut max_age) = (None, None, None);
    let mut mx = Vec::new();
    let mut hosts = 0_usize;
    for line in text.lines().map(|line| line.trim_end_matches([' ', '\t', '\r'])) {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(PolicyError::Line)?;
        let value = value.trim_matches([' ', '\t']);
        match name {
            "version" => version = version.or(Some(value)),
            "mode" => mode = mode.or(Some(value)),
            "max_age" => max_age = max_age.or(Some(value)),
            "mx" => {
                hosts += 1;
                if mx.len() < PATTERNS_MAX {
                    mx.extend(pattern(value));
                }
            }
            other if is_field_name(other) => {}
            _ => return Err(PolicyError::Line),
        }
    }
    if version != Some("STSv1") {
        return Err(PolicyError::Version);
    }
    let mode = match mode {
        Some("enforce") => Mode::Enforce,
        Some("testing") => Mode::Testing,
        Some("none") => Mode::None,
        Some(_) | None => return Err(PolicyError::Mode),
    };
    let max_age_seconds = max_age.and_then(seconds).ok_or(PolicyError::MaxAge)?;
    if hosts == 0 && mode != Mode::None {
        return Err(PolicyError::NoHost);
    }
    Ok(Policy { mode, max_age_seconds, mx })
}

fn pattern(value: &str) -> Option<String> {
    match value.strip_prefix("*.") {
        Some(parent) => Some(format!("*.{}", domain_key(parent).ok()?)),
        None => domain_key(value).ok(),
    }
}

/// `1*10(DIGIT)`, bounded.
fn seconds(value: &str) -> Option<u64> {
    let plain = (1..=10).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: u64 = if plain { value.parse().ok()? } else { return None };
    Some(seconds.min(MAX_AGE_SECONDS_MAX))
}

/// `(ALPHA / DIGIT) *31(ALPHA / DIGIT / "_" / "-" / ".")`.
fn is_field_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=32).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(records: &[&str]) -> Option<String> {
        let records: Vec<Vec<u8>> = records.iter().map(|text| text.as_bytes().to_vec()).collect();
        announced_id(&records)
    }

    #[test]
    fn exactly_one_valid_record_announces_a_policy() {
        // S5
        for good in ["v=STSv1; id=20260101;", "v=STSv1;id=20260101", "v=STSv1 ; x-y=z ; id=20260101 ; "] {
            assert_eq!(id(&[good]).as_deref(), Some("20260101"), "{good}");
            assert_eq!(id(&["v=spf1 -all", good, "v=STSv10; id=1"]).as_deref(), Some("20260101"));
            assert_eq!(id(&[good, good]), None);
            assert_eq!(id(&[good, "v=STSv1; id="]), None);
        }
        for bad in [
            "",
            "v=STSv1",
            "v=STSv1;",
            "v=STSv1; id=",
            "v=STSv1; id=a-b",
            "v=STSv1; id=1; id=2",
            "v=STSv1; id=123456789012345678901234567890123",
            "v=STSv1; id",
            "v=STSv1;; id=1",
            "v=stsv1; id=1",
            " v=STSv1; id=1",
            "V=STSv1; id=1",
            "id=1; v=STSv1",
        ] {
            assert_eq!(id(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn a_policy_is_read_as_the_rfc_says() {
        let text = "version: STSv1\r\nmode: enforce\r\nmx: Mail.Example.COM\r\nmx: *.example.net\r\n\
                    mx:*.b\u{fc}cher.example\r\nunknown-field: x\r\nmax_age: 604800\r\n";
        let policy = parse(text.as_bytes()).unwrap(); // S5
        assert_eq!((policy.mode, policy.max_age_seconds), (Mode::Enforce, 604_800));
        assert_eq!(policy.mx, ["mail.example.com", "*.example.net", "*.xn--bcher-kva.example"]);
        let with_lf = text.replace("\r\n", "\n");
        assert_eq!(parse(with_lf.as_bytes()).unwrap(), policy);
        assert_eq!(parse(with_lf.trim_end().as_bytes()).unwrap(), policy);
    }

    #[test]
    fn the_first_of_repeated_fields_counts_and_ages_are_bounded() {
        let twice = "version: STSv1\nmode: testing\nmode: enforce\nmax_age: 10\nmax_age: 99\nmx: a.x\n"; // S5
        let policy = parse(twice.as_bytes()).unwrap();
        assert_eq!((policy.mode, policy.max_age_seconds), (Mode::Testing, 10));
        let age = |text: &str| {
            let text = format!("version: STSv1\nmode: none\nmax_age: {text}\n");
            parse(text.as_bytes()).map(|policy| policy.max_age_seconds)
        };
        assert_eq!(age("0"), Ok(0));
        assert_eq!(age("9999999999"), Ok(MAX_AGE_SECONDS_MAX));
        for bad in ["", "-1", "+1", "1.5", "1e3", "99999999999", "\u{664}"] {
            assert_eq!(age(bad), Err(PolicyError::MaxAge), "{bad}");
        }
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (text, error) in [
            ("", PolicyError::Version),
            ("version: STSv2\nmode: none\nmax_age: 1\n", PolicyError::Version),
            ("version: STSv1\nmax_age: 1\n", PolicyError::Mode),
            ("version: STSv1\nmode: Enforce\nmax_age: 1\n", PolicyError::Mode),
            ("version: STSv1\nmode: enforce\nmax_age: 1\n", PolicyError::NoHost),
            ("version: STSv1\nmode: none\n", PolicyError::MaxAge),
            ("<!doctype html><title>404</title>", PolicyError::Line),
            ("<a href=\"http://x\">", PolicyError::Line),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(error), "{text}");
        }
        assert_eq!(parse(b"version: STSv1\xff"), Err(PolicyError::NotUtf8));
        assert_eq!(parse(&vec![b'\n'; POLICY_BYTES_MAX + 1]), Err(PolicyError::TooLarge));
        let many = format!("version: STSv1\nmode: enforce\nmax_age: 1\n{}", "mx: a.x\n".repeat(5000));
        assert_eq!(parse(many.as_bytes()).unwrap().mx.len(), PATTERNS_MAX);
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let policy = |mx: &str| Policy { mode: Mode::Enforce, max_age_seconds: 1, mx: vec![mx.into()] };
        let wild = policy("*.example.net"); // S5
        assert!(wild.names("mx1.example.net"));
        for other in ["example.net", "a.b.example.net", ".example.net", "mx.example.net.evil", "xexample.net"]
        {
            assert!(!wild.names(other), "{other}");
        }
        assert!(policy("mail.x").names("mail.x") && !policy("mail.x").names("a.mail.x"));
    }

    #[test]
    fn an_unreadable_pattern_matches_nothing() {
        let text = "version: STSv1\nmode: enforce\nmax_age: 1\nmx: *\nmx: a b\nmx: *.*.x\nmx: mail.*.x\n";
        assert_eq!(parse(text.as_bytes()).unwrap().mx, Vec::<String>::new());
    }
}
