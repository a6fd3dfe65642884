//! PURE: from TLSA records to a demand on TLS (RFC 7672, RFC 6698).
//!
//! Promises: DANE engages only when DNSSEC vouches for every step from the domain to the TLSA records (S6); a failed
//! look-up defers the host, because an attacker could have caused it; records that all are unusable still forbid to
//! go in the clear.
//!
//! Does not: check certificates, that is done where the connection is made.

use super::answer::Answer;
use crate::mail::outbound::values::{TlsDemand, TlsaRecord};

/// Most records of one host that count.
pub const RECORDS_MAX: usize = 16;

/// One TLSA record as it was found, usable or not (RFC 6698 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Vec<u8>,
}

impl RawTlsa {
    /// Usages 0 and 1 are not for SMTP (RFC 7672 section 3.1.3); a digest has its length.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let whole = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && matches!(self.selector, 0 | 1) && whole
    }
}

/// What DANE has to say about one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dane {
    /// Nothing: not signed, or no records.
    Silent,
    /// Connect only like this.
    Demand(TlsDemand),
    /// Do not connect now; why.
    Defer(String),
}

/// The names to ask for TLSA records, in order, for a host whose addresses are secure: what an alias led to comes
/// first (RFC 7672 section 2.2.2).
#[must_use]
pub fn bases<'a>(host: &'a str, alias: Option<&'a str>) -> Vec<&'a str> {
    alias.into_iter().chain([host]).collect()
}

/// The name of the TLSA records of one base (RFC 6698 section 3).
#[must_use]
pub fn record_name(base: &str, port: u16) -> String {
    format!("_{port}._tcp.{base}")
}

/// What the answer for one base means.
///
/// * `names`: what a certificate may be called when an authority is named (usage 2): base, host, recipient's domain.
#[must_use]
pub fn judge(answer: &Answer<RawTlsa>, names: &[&str]) -> Dane {
    let found = match answer {
        Answer::Found(found) if found.secure => found,
        Answer::Found(_) | Answer::NoRecords | Answer::NxDomain => return Dane::Silent,
        Answer::Temporary(why) => return Dane::Defer(why.clone()),
    };
    let usable = found.records.iter().filter(|record| record.is_usable()).take(RECORDS_MAX);
    let records: Vec<TlsaRecord> = usable
        .map(|raw| TlsaRecord {
            usage: raw.usage,
            selector: raw.selector,
            matching: raw.matching,
            data: raw.data.clone(),
        })
        .collect();
    if records.is_empty() {
        return Dane::Demand(TlsDemand::Encrypted);
    }
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        if !unique.iter().any(|known| known == name) {
            unique.push((*name).to_owned());
        }
    }
    Dane::Demand(TlsDemand::Dane { records, names: unique })
}

#[cfg(test)]
mod tests {
    use super::super::answer::Found;
    use super::*;

    fn tlsa(usage: u8, selector: u8, matching: u8, bytes: usize) -> RawTlsa {
        RawTlsa { usage, selector, matching, data: vec![7; bytes] }
    }

    fn answer(secure: bool, records: &[RawTlsa]) -> Answer<RawTlsa> {
        Answer::Found(Found { records: records.to_vec(), secure, owner: "_25._tcp.mx.x".into() })
    }

    #[test]
    fn usable_records_authenticate_unusable_ones_encrypt() {
        // S6
        for good in [tlsa(3, 1, 1, 32), tlsa(2, 0, 2, 64), tlsa(3, 0, 0, 900)] {
            let demand = judge(&answer(true, &[tlsa(1, 0, 1, 32), good.clone()]), &["mx.x", "mx.x", "d.x"]);
            let Dane::Demand(TlsDemand::Dane { records, names }) = demand else { panic!("{good:?}") };
            assert_eq!((records.len(), names), (1, vec!["mx.x".to_owned(), "d.x".to_owned()]));
        }
        for bad in [
            tlsa(0, 0, 1, 32),
            tlsa(1, 1, 1, 32),
            tlsa(255, 1, 1, 32),
            tlsa(3, 2, 1, 32),
            tlsa(3, 1, 3, 32),
            tlsa(3, 1, 1, 31),
            tlsa(3, 1, 2, 32),
            tlsa(3, 1, 0, 0),
        ] {
            assert_eq!(judge(&answer(true, &[bad]), &["mx.x"]), Dane::Demand(TlsDemand::Encrypted));
        }
    }

    #[test]
    fn both_records_of_a_rollover_count() {
        let two = answer(true, &[tlsa(3, 1, 1, 32), tlsa(3, 1, 2, 64)]); // S6
        let Dane::Demand(TlsDemand::Dane { records, .. }) = judge(&two, &["mx.x"]) else { panic!() };
        assert_eq!(records.len(), 2);
        let many = answer(true, &vec![tlsa(3, 1, 1, 32); 100]);
        let Dane::Demand(TlsDemand::Dane { records, .. }) = judge(&many, &["mx.x"]) else { panic!() };
        assert_eq!(records.len(), RECORDS_MAX);
    }

    #[test]
    fn without_signatures_dane_is_silent_and_without_an_answer_it_defers() {
        assert_eq!(judge(&answer(false, &[tlsa(3, 1, 1, 32)]), &["mx.x"]), Dane::Silent); // S6, S7
        assert_eq!(judge(&Answer::NoRecords, &["mx.x"]), Dane::Silent);
        assert_eq!(judge(&Answer::NxDomain, &["mx.x"]), Dane::Silent);
        let bogus = Answer::Temporary("DNSSEC validation failed".into());
        assert!(matches!(judge(&bogus, &["mx.x"]), Dane::Defer(_)));
    }

    #[test]
    fn an_alias_is_asked_first() {
        assert_eq!(bases("mx.x", Some("real.y")), ["real.y", "mx.x"]);
        assert_eq!(bases("mx.x", None), ["mx.x"]);
        assert_eq!(record_name("mx.x", 25), "_25._tcp.mx.x");
    }
}
