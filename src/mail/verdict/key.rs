//! PURE: whether a published DKIM key may be used for mail (RFC 6376 section 3.6.1, RFC 8301 section 3.2).

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;

use super::Word;
use super::tags::Tags;

/// Longest key record that is read, octets. An RSA key of 16384 bits has 2800.
pub const KEY_RECORD_BYTES_MAX: usize = 8 * 1024;
/// Shortest RSA key that counts, bits (RFC 8301 section 3.2).
const RSA_BITS_MIN: usize = 1024;

/// Judges the records found at a selector, before a signature is checked with one of them.
///
/// # Errors
/// Word and reason when they cannot be used.
pub fn usable(records: &[Vec<u8>]) -> Result<DomainKey, (Word, &'static str)> {
    let neutral = |reason| (Word::Neutral, reason);
    if records.iter().any(|record| record.len() > KEY_RECORD_BYTES_MAX) {
        return Err(neutral("key record is too long"));
    }
    // Other texts may live there, too, below a wildcard.
    let mut keys = records.iter().filter_map(|record| {
        let tags = Tags::parse(record)?;
        tags.get("p").is_some().then_some((record, tags))
    });
    let (record, tags) = match (keys.next(), keys.next()) {
        (Some(key), None) => key,
        (Some(_), Some(_)) => return Err(neutral("several keys")),
        (None, _) => return Err(neutral(if records.is_empty() { "no key" } else { "malformed key record" })),
    };
    if tags.get("v").is_some_and(|version| version != "DKIM1") {
        return Err(neutral("malformed key record"));
    }
    if tags.get("p") == Some("") {
        return Err(neutral("key was revoked"));
    }
    if tags.lists("s", "*") == Some(false) && tags.lists("s", "email") == Some(false) {
        return Err(neutral("key is not for mail"));
    }
    if tags.lists("h", "sha256") == Some(false) {
        return Err(neutral("key is not for sha256"));
    }
    let key = DomainKey::parse(record).map_err(|_| neutral("malformed key record"))?;
    match key.p.public_key_bits() {
        0 => Err(neutral("malformed key record")),
        1..RSA_BITS_MIN => Err((Word::Policy, "key is shorter than 1024 bits")),
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_may_not_be_used_say_why() {
        let why = |records: &[&str]| {
            let records: Vec<Vec<u8>> = records.iter().map(|text| text.as_bytes().to_vec()).collect();
            usable(&records).map(|_| ()).map_err(|(_, reason)| reason)
        };
        let ed = "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        assert_eq!(why(&[ed]), Ok(()));
        assert_eq!(why(&["other", ed]), Ok(()));
        assert_eq!(why(&[&format!("v=DKIM1; s=email; h=sha1:sha256; {ed}")]), Ok(()));
        for (records, reason) in [
            (vec![], "no key"),
            (vec!["v=spf1 -all"], "malformed key record"),
            (vec![ed, ed], "several keys"),
            (vec!["v=DKIM1; p="], "key was revoked"), // M8
            (vec!["v=DKIM1; s=tlsrpt; p=AAAA"], "key is not for mail"),
            (vec!["v=DKIM1; h=sha1; p=AAAA"], "key is not for sha256"),
            (vec!["v=DKIM2; p=AAAA"], "malformed key record"),
            (vec!["v=DKIM1; p=AAAA"], "malformed key record"),
        ] {
            assert_eq!(why(&records), Err(reason));
        }
        assert_eq!(why(&[&format!("p={}", "A".repeat(16 * 1024))]), Err("key record is too long")); // M10
    }
}
