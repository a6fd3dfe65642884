//! PURE: from the answer about MX records to the hosts worth trying, best first (RFC 5321 section 5.1, RFC 7505).
//!
//! Promises: the domain itself stands in only when the answer was a certain "no MX" (O2, O4); hosts of one preference
//! come in the order of the dice; this relay and everything not better than it is left out (L7); names that cannot
//! be hosts are skipped; at most [`HOSTS_MAX`] come out.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::answer::{Answer, Exchange, RouteError};
use crate::mail::address::domain_key;

/// Most hosts that are looked up for one domain (O10).
pub const HOSTS_MAX: usize = 10;

/// Hosts to look up, in the order to try them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// At least one; A-labels, lower case.
    pub hosts: Vec<Candidate>,
    /// DNSSEC vouches for the way from the domain to the hosts.
    pub secure: bool,
    /// There is no MX record: the host is the domain itself.
    pub implicit: bool,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Lower is better.
    pub preference: u16,
    /// A-labels, lower case.
    pub host: String,
}

/// The hosts for mail to `domain` (A-labels, lower case).
///
/// * `own`: names of this relay, in the same form.
/// * `dice`: `dice(n)` draws from `0..n`, evenly.
///
/// # Errors
/// [`RouteError`] by rows O3 to O9 and L7 of the correctness list.
pub fn candidates(
    domain: &str,
    answer: &Answer<Exchange>,
    own: &[String],
    dice: &mut dyn FnMut(usize) -> usize,
) -> Result<Candidates, RouteError> {
    let found = match answer {
        Answer::Found(found) => found,
        Answer::NoRecords => return implicit(domain, own),
        Answer::NxDomain => {
            let text = format!("the domain {domain} does not exist");
            return Err(RouteError::Permanent { text, enhanced: "5.1.2" });
        }
        Answer::Temporary(why) => return Err(RouteError::dns(domain, why)),
    };
    // A null MX beside others is against RFC 7505 section 3; the others say that mail is wanted (O7).
    if found.records.iter().all(|exchange| exchange.host.is_empty()) {
        let text = format!("the domain {domain} takes no mail (null MX)");
        return Err(RouteError::Permanent { text, enhanced: "5.1.10" });
    }
    let mut hosts: Vec<Candidate> = Vec::new();
    for exchange in &found.records {
        let Some(host) = host_name(&exchange.host) else { continue };
        match hosts.iter_mut().find(|known| known.host == host) {
            Some(known) => known.preference = known.preference.min(exchange.preference),
            None => hosts.push(Candidate { preference: exchange.preference, host }),
        }
    }
    if hosts.is_empty() {
        let text = format!("the MX records of {domain} name no host");
        return Err(RouteError::unroutable(text));
    }
    shuffle(&mut hosts, dice);
    // Stable: the dice decide among equals.
    hosts.sort_by_key(|candidate| candidate.preference);
    let ours = hosts.iter().filter(|c| own.contains(&c.host)).map(|c| c.preference).min();
    hosts.retain(|candidate| ours.is_none_or(|ours| candidate.preference < ours));
    if hosts.is_empty() {
        return Err(RouteError::looped(domain));
    }
    hosts.truncate(HOSTS_MAX);
    Ok(Candidates { hosts, secure: found.secure, implicit: false })
}

fn implicit(domain: &str, own: &[String]) -> Result<Candidates, RouteError> {
    if own.iter().any(|name| name == domain) {
        return Err(RouteError::looped(domain));
    }
    let hosts = vec![Candidate { preference: 0, host: domain.to_owned() }];
    // No name was taken from the DNS, so none can have been forged.
    Ok(Candidates { hosts, secure: true, implicit: true })
}

/// The form in which hosts are compared; none for the root, for an address in place of a name (O9) and for what
/// is too long or no name at all (O17).
fn host_name(text: &str) -> Option<String> {
    let host = domain_key(text).ok()?;
    let literal = host.parse::<Ipv4Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok();
    (!literal).then_some(host)
}

fn shuffle<T>(items: &mut [T], dice: &mut dyn FnMut(usize) -> usize) {
    for last in (1..items.len()).rev() {
        let drawn = dice(last + 1).min(last);
        items.swap(drawn, last);
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Found;
    use super::*;

    fn mx(records: &[(u16, &str)]) -> Answer<Exchange> {
        let record =
            |(preference, host): &(u16, &str)| Exchange { preference: *preference, host: (*host).to_owned() };
        let records = records.iter().map(record).collect();
        Answer::Found(Found { records, secure: false, owner: "d.example".into() })
    }

    fn order(answer: &Answer<Exchange>, own: &[&str]) -> Result<Vec<String>, (&'static str, bool)> {
        let own: Vec<String> = own.iter().map(|&name| name.to_owned()).collect();
        match candidates("d.example", answer, &own, &mut |_| 0) {
            Ok(found) => Ok(found.hosts.into_iter().map(|candidate| candidate.host).collect()),
            Err(RouteError::Temporary { enhanced, .. }) => Err((enhanced, true)),
            Err(RouteError::Permanent { enhanced, .. }) => Err((enhanced, false)),
        }
    }

    #[test]
    fn better_preferences_come_first_and_equals_in_any_order() {
        // O1
        let answer = mx(&[(20, "b.x"), (10, "a.x"), (20, "c.x")]);
        let mut seen = std::collections::BTreeMap::new();
        let mut state = 1_u32;
        for _ in 0..1000 {
            let mut dice = |n: usize| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) as usize % n
            };
            let found = candidates("d.example", &answer, &[], &mut dice).unwrap();
            let names: Vec<_> = found.hosts.iter().map(|c| c.host.clone()).collect();
            assert_eq!(names[0], "a.x");
            *seen.entry(names).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 2);
        assert!(seen.values().all(|&times| times > 400), "{seen:?}");
    }

    #[test]
    fn only_a_certain_no_lets_the_domain_stand_in() {
        let found = candidates("d.example", &Answer::NoRecords, &[], &mut |_| 0).unwrap(); // O2
        assert!(found.implicit);
        assert_eq!(found.hosts, [Candidate { preference: 0, host: "d.example".into() }]);
        assert_eq!(order(&Answer::Temporary("SERVFAIL".into()), &[]), Err(("4.4.3", true))); // O4
        assert_eq!(order(&Answer::NxDomain, &[]), Err(("5.1.2", false))); // O5
    }

    #[test]
    fn a_null_mx_alone_means_no_mail_and_beside_others_nothing() {
        assert_eq!(order(&mx(&[(0, "")]), &[]), Err(("5.1.10", false))); // O6
        assert_eq!(order(&mx(&[(0, ""), (5, "a.x")]), &[]), Ok(vec!["a.x".into()])); // O7
    }

    #[test]
    fn addresses_and_impossible_names_are_skipped() {
        let long = format!("{}.x", "l".repeat(64));
        let endless = "abc.".repeat(80);
        for odd in ["192.0.2.9", long.as_str(), endless.as_str(), "a b.x", "-x.y"] {
            assert_eq!(order(&mx(&[(1, odd), (5, "A.x")]), &[]), Ok(vec!["a.x".into()]), "{odd}"); // O9, O17
            assert_eq!(order(&mx(&[(1, odd)]), &[]), Err(("5.4.4", false)), "{odd}");
        }
    }

    #[test]
    fn we_and_everything_not_better_than_we_are_left_out() {
        let answer = mx(&[(5, "best.x"), (10, "US.x"), (10, "equal.x"), (20, "worse.x")]);
        assert_eq!(order(&answer, &["us.x"]), Ok(vec!["best.x".into()])); // L7
        assert_eq!(order(&answer, &["best.x"]), Err(("5.4.6", false)));
        assert_eq!(order(&Answer::NoRecords, &["d.example"]), Err(("5.4.6", false)));
    }

    #[test]
    fn many_and_repeated_hosts_are_capped() {
        let names: Vec<String> = (0..40).map(|n| format!("h{n}.x")).collect();
        let records: Vec<(u16, &str)> =
            names.iter().map(|name| (1, name.as_str())).chain([(9, "h0.x")]).collect();
        let hosts = order(&mx(&records), &[]).unwrap(); // O10
        assert_eq!(hosts.len(), HOSTS_MAX);
        assert_eq!(order(&mx(&[(9, "a.x"), (5, "b.x"), (1, "A.X")]), &[]).unwrap(), ["a.x", "b.x"]);
    }
}
