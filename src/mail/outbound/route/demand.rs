//! PURE: what TLS must be like at one host: the settings, DANE, MTA-STS and what was seen before, put together.
//!
//! | what is known | demand |
//! |---|---|
//! | DANE defers | none: the host is not tried now (S6) |
//! | usable TLSA records | they decide, also against MTA-STS (S8) |
//! | MTA-STS `enforce`, host named | a valid certificate for the host (S3) |
//! | MTA-STS `enforce`, host not named | none: the host is not tried |
//! | the settings require it | a valid certificate for the host |
//! | unusable TLSA records only | TLS with any certificate |
//! | nothing; TLS was seen at this domain before | TLS with any certificate (S12) |
//! | nothing; STARTTLS broke at this host lately | in the clear (S2) |
//! | nothing | TLS if offered, else in the clear (S1) |

use super::dane::Dane;
use super::mta_sts::{Mode, Policy};
use crate::mail::outbound::values::{TlsDemand, TlsLevel};

/// What is known about the domain.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The settings ask for authenticated TLS.
    pub required: bool,
    /// The domain's MTA-STS policy.
    pub policy: Option<&'a Policy>,
    /// Best protection ever seen at the domain.
    pub level: TlsLevel,
    /// STARTTLS broke at this host within the last hours.
    pub broken: bool,
}

/// The host is not to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The look-up of its TLSA records failed; why.
    Deferred(String),
    /// The domain's MTA-STS policy does not name it.
    NotInPolicy,
}

/// What TLS must be like at `host`.
///
/// # Errors
/// [`Unusable`] when the host may not be tried.
pub fn demand(host: &str, dane: &Dane, known: Known<'_>) -> Result<TlsDemand, Unusable> {
    let unusable_records = match dane {
        Dane::Defer(why) => return Err(Unusable::Deferred(why.clone())),
        Dane::Demand(TlsDemand::Encrypted) => true,
        Dane::Demand(demand) => return Ok(demand.clone()),
        Dane::Silent => false,
    };
    let enforced = known.policy.filter(|policy| policy.mode == Mode::Enforce);
    if enforced.is_some_and(|policy| !policy.names(host)) {
        return Err(Unusable::NotInPolicy);
    }
    if enforced.is_some() || known.required {
        return Ok(TlsDemand::WebPki { names: vec![host.to_owned()] });
    }
    if unusable_records {
        return Ok(TlsDemand::Encrypted);
    }
    let cleartext = known.level == TlsLevel::None;
    if cleartext && known.broken {
        return Ok(TlsDemand::Cleartext);
    }
    Ok(TlsDemand::Opportunistic { cleartext })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::values::TlsaRecord;

    const NOTHING: Known<'_> = Known { required: false, policy: None, level: TlsLevel::None, broken: false };

    fn policy(mode: Mode) -> Policy {
        Policy { mode, max_age_seconds: 1, mx: vec!["mx.x".into()] }
    }

    fn web_pki(host: &str) -> Result<TlsDemand, Unusable> {
        Ok(TlsDemand::WebPki { names: vec![host.into()] })
    }

    fn tlsa() -> TlsDemand {
        let record = TlsaRecord { usage: 3, selector: 1, matching: 1, data: vec![0; 32] };
        TlsDemand::Dane { records: vec![record], names: vec!["mx.x".into()] }
    }

    #[test]
    fn without_a_policy_anything_goes() {
        let open = Ok(TlsDemand::Opportunistic { cleartext: true });
        assert_eq!(demand("mx.x", &Dane::Silent, NOTHING), open); // S1
        let broken = Known { broken: true, ..NOTHING };
        assert_eq!(demand("mx.x", &Dane::Silent, broken), Ok(TlsDemand::Cleartext)); // S2
    }

    #[test]
    fn what_was_seen_encrypted_stays_encrypted() {
        for level in [TlsLevel::Unverified, TlsLevel::WebPki, TlsLevel::Dane] {
            for broken in [false, true] {
                let known = Known { level, broken, ..NOTHING };
                let closed = Ok(TlsDemand::Opportunistic { cleartext: false });
                assert_eq!(demand("mx.x", &Dane::Silent, known), closed); // S2, S12
            }
        }
    }

    #[test]
    fn enforce_names_hosts_and_asks_for_certificates() {
        let enforce = policy(Mode::Enforce);
        let known = Known { policy: Some(&enforce), broken: true, ..NOTHING };
        assert_eq!(demand("mx.x", &Dane::Silent, known), web_pki("mx.x")); // S3
        assert_eq!(demand("other.x", &Dane::Silent, known), Err(Unusable::NotInPolicy));
        assert_eq!(demand("mx.x", &Dane::Demand(TlsDemand::Encrypted), known), web_pki("mx.x"));
    }

    #[test]
    fn testing_and_none_change_nothing() {
        for mode in [Mode::Testing, Mode::None] {
            let policy = policy(mode);
            let known = Known { policy: Some(&policy), ..NOTHING };
            for host in ["mx.x", "other.x"] {
                let open = Ok(TlsDemand::Opportunistic { cleartext: true });
                assert_eq!(demand(host, &Dane::Silent, known), open); // S4
            }
        }
    }

    #[test]
    fn dane_beats_everything_when_its_records_are_usable() {
        let enforce = policy(Mode::Enforce);
        let known = Known { policy: Some(&enforce), required: true, level: TlsLevel::WebPki, broken: true };
        assert_eq!(demand("other.x", &Dane::Demand(tlsa()), known), Ok(tlsa())); // S8
        let deferred = Dane::Defer("bogus".into());
        assert_eq!(demand("mx.x", &deferred, NOTHING), Err(Unusable::Deferred("bogus".into()))); // S6
        let unusable = Dane::Demand(TlsDemand::Encrypted);
        assert_eq!(demand("mx.x", &unusable, NOTHING), Ok(TlsDemand::Encrypted));
    }

    #[test]
    fn require_asks_every_host_for_a_certificate() {
        let known = Known { required: true, broken: true, ..NOTHING };
        assert_eq!(demand("mx.x", &Dane::Silent, known), web_pki("mx.x"));
        assert_eq!(demand("mx.x", &Dane::Demand(TlsDemand::Encrypted), known), web_pki("mx.x"));
    }
}
