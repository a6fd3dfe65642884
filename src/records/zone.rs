//! PURE: wanted records, written down: for a zone file, for a person, for a program.
//!
//! Promises: a zone file loads as it is; names are absolute, so that it does not matter into which zone it is pasted; what
//! cannot go into a zone, or is not known, stands in comments.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::wanted::{self, Kind, Place, Record};
use super::{Site, is_at_or_below};

/// Longest character-string of a TXT record, octets (RFC 1035 section 3.3).
pub const TXT_STRING_BYTES_MAX: usize = 255;
/// How long others may keep the records, seconds.
pub const TTL_SECONDS: u32 = 3600;

/// The strings of a TXT record, quoted and escaped for a zone file (RFC 1035 section 5.1).
#[must_use]
pub fn strings(text: &str) -> Vec<String> {
    let quoted = |string: &[u8]| {
        let mut out = String::from("\"");
        for byte in string {
            match byte {
                b'"' | b'\\' => {
                    out.push('\\');
                    out.push(char::from(*byte));
                }
                b' '..=b'~' => out.push(char::from(*byte)),
                _ => {
                    let _ = write!(out, "\\{byte:03}");
                }
            }
        }
        out.push('"');
        out
    };
    if text.is_empty() {
        return vec!["\"\"".to_owned()];
    }
    text.as_bytes().chunks(TXT_STRING_BYTES_MAX).map(quoted).collect()
}

/// A TXT record's value for a zone file; several strings stand in parentheses, one per line.
#[must_use]
pub fn txt(text: &str) -> String {
    let strings = strings(text);
    match strings.as_slice() {
        [one] => one.clone(),
        many => format!("(\n    {} )", many.join("\n    ")),
    }
}

/// The value of a record, as a zone file wants it.
fn data(record: &Record) -> String {
    match record.kind {
        Kind::Txt => txt(&record.value),
        Kind::Mx | Kind::Cname | Kind::Ptr => format!("{}.", record.value),
        Kind::A | Kind::Aaaa | Kind::Tlsa | Kind::Caa => record.value.clone(),
    }
}

/// All records as a piece of a zone file, grouped by domain.
#[must_use]
pub fn file(site: &Site, records: &[Record]) -> String {
    let mut text = String::new();
    for (title, group) in groups(site, records) {
        let _ = write!(text, "; {title}\n\n");
        for record in group {
            if !record.note.is_empty() && record.place == Place::Zone {
                let _ = writeln!(text, "; {}", record.note);
            }
            let line = format!(
                "{}. {TTL_SECONDS} IN {} {}",
                record.name,
                record.kind.word(),
                if record.place == Place::Unknown { record.value.clone() } else { data(record) }
            );
            match record.place {
                Place::Zone => text.push_str(&line),
                Place::Provider | Place::Unknown => {
                    let _ = write!(text, "; {line}");
                }
            }
            text.push('\n');
        }
        text.push('\n');
    }
    if let Some(policy) = wanted::sts_policy(site) {
        text.push_str(&policy_words(site, &policy, "; "));
    }
    text
}

/// Heading and members, in the order of the domains; what others must set comes last.
fn groups<'a>(site: &Site, records: &'a [Record]) -> Vec<(String, Vec<&'a Record>)> {
    let mut tops: Vec<&str> = site.domains.iter().map(String::as_str).collect();
    if !tops.iter().any(|top| is_at_or_below(&site.hostname, top)) {
        tops.insert(0, &site.hostname);
    }
    let home = |record: &Record| {
        if record.kind == Kind::Ptr {
            return None;
        }
        let above = tops.iter().filter(|top| is_at_or_below(&record.name, top));
        above.max_by_key(|top| top.len()).copied()
    };
    let mut groups: Vec<(String, Vec<&Record>)> = tops
        .iter()
        .map(|top| (top.to_string(), records.iter().filter(|record| home(record) == Some(top)).collect()))
        .collect();
    let others: Vec<_> = records.iter().filter(|record| home(record).is_none()).collect();
    groups.push((format!("PTR: {}", others.first().map_or("", |record| record.note.as_str())), others));
    groups.retain(|(_, group)| !group.is_empty());
    groups
}

/// What the policy host must answer.
fn policy_words(site: &Site, policy: &str, lead: &str) -> String {
    let mut text = format!("{lead}MTA-STS: this relay answers\n");
    for domain in &site.domains {
        let _ = writeln!(text, "{lead}    https://mta-sts.{domain}/.well-known/mta-sts.txt");
    }
    let _ = writeln!(text, "{lead}on its HTTPS listener, or through a proxy on port 443, with:");
    for line in policy.lines() {
        let _ = writeln!(text, "{lead}    {line}");
    }
    text
}

/// All records for a person: a line with name and type, and the value unbroken below it, without quotes.
#[must_use]
pub fn table(site: &Site, records: &[Record]) -> String {
    let mut text = String::new();
    for (title, group) in groups(site, records) {
        let _ = write!(text, "{title}\n\n");
        for record in group {
            let _ = writeln!(text, "  {:<5} {}", record.kind.word(), record.name);
            let _ = writeln!(text, "        {}", record.value);
            if !record.note.is_empty() && record.kind != Kind::Ptr {
                let _ = writeln!(text, "        ({})", record.note);
            }
        }
        text.push('\n');
    }
    if let Some(policy) = wanted::sts_policy(site) {
        text.push_str(&policy_words(site, &policy, ""));
    }
    text
}

/// One record for a program.
#[must_use]
pub fn object(record: &Record) -> Value {
    let place = match record.place {
        Place::Zone => "zone",
        Place::Provider => "provider",
        Place::Unknown => "unknown",
    };
    let strings = (record.kind == Kind::Txt).then(|| {
        let pieces = record.value.as_bytes().chunks(TXT_STRING_BYTES_MAX);
        pieces.map(|piece| String::from_utf8_lossy(piece).into_owned()).collect::<Vec<_>>()
    });
    json!({
        "name": record.name,
        "type": record.kind.word(),
        "value": record.value,
        "strings": strings,
        "ttl": TTL_SECONDS,
        "place": place,
        "note": record.note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_strings_of_255_octets_that_make_up_the_text() {
        assert_eq!(txt("v=spf1 mx -all"), "\"v=spf1 mx -all\"");
        assert_eq!(txt(""), "\"\"");
        assert_eq!(txt("a\"b\\c\u{e9}"), "\"a\\\"b\\\\c\\195\\169\"");
        let long = "x".repeat(600);
        let parts = strings(&long);
        assert_eq!(parts.iter().map(|part| part.len() - 2).collect::<Vec<_>>(), [255, 255, 90]);
        assert_eq!(parts.iter().map(|part| part.trim_matches('"')).collect::<String>(), long);
        assert!(txt(&long).starts_with("(\n    \"xxx") && txt(&long).ends_with("x\" )"));
    }

    #[test]
    fn what_is_not_known_or_not_ours_to_set_stands_in_comments() {
        let site = Site {
            hostname: "mx.host.example".to_owned(),
            domains: vec!["our.example".to_owned(), "sub.our.example".to_owned()],
            ..Site::default()
        };
        let text = file(&site, &wanted::records(&site));
        assert!(text.contains("; mx.host.example. 3600 IN A <IPv4 address>"), "{text}");
        assert!(text.contains("\nour.example. 3600 IN MX 10 mx.host.example.\n"), "{text}");
        let place = |what: &str| text.find(what).unwrap_or(usize::MAX);
        assert!(place("; mx.host.example\n") < place("; our.example\n"), "{text}");
        assert!(place("; sub.our.example\n") < place("sub.our.example. 3600 IN MX"), "{text}");
        for line in text.lines().filter(|line| line.contains('<')) {
            assert!(line.starts_with(';'), "{line}");
        }
    }
}
