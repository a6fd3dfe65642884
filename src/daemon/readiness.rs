//! PURE: what was found when the relay looked at itself, turned into what `/ready` says.
//!
//! Policy: not ready is what keeps mail from being taken or from going on: the spool, free space, a listener, the
//! resolver. What an operator should know and mail survives is a warning. The words are for strangers too: they name no
//! address, file or reason of an operator.

use spool::error::{AcceptError, SpoolError};

use crate::observe::{Condition, Effect, ListenerStanding};

/// Questions in a row without an answer that make the resolver count as silent: one lost packet is none.
pub(super) const SILENT_PROBES: u32 = 3;
/// The listener that operators use, and no mail.
pub(super) const ADMIN: &str = "admin";

/// What one look at the spool found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SpoolFact {
    /// It did not answer in time, or not any more.
    Silent,
    /// It answered: whether it can be written, and whether it takes new mail.
    Answered(Result<(), SpoolError>, Result<(), AcceptError>),
}

/// How TLS is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateFact {
    /// Nobody wants any.
    NotWanted,
    /// There is none yet.
    Missing,
    /// It is good until then, milliseconds since 1970.
    Until(u64),
}

/// Everything that one look found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) spool: SpoolFact,
    pub(super) listeners: Vec<(&'static str, ListenerStanding)>,
    /// Questions in a row that no name server answered; 0 when nobody needs one.
    pub(super) unanswered_probes: u32,
    pub(super) certificate: CertificateFact,
    pub(super) deliveries_paused: bool,
    /// Wall clock, milliseconds since 1970.
    pub(super) now_ms: u64,
}

/// One thing that is wrong, and how it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) condition: Condition,
    pub(super) text: String,
}

impl Finding {
    pub(super) fn new(condition: Condition, text: impl Into<String>) -> Self {
        Self { condition, text: text.into() }
    }
}

/// The texts of those findings that have this effect.
pub(super) fn texts(findings: &[Finding], effect: Effect) -> Vec<String> {
    findings.iter().filter(|f| f.condition.effect() == effect).map(|f| f.text.clone()).collect()
}

/// What is wrong, the gravest first.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(spool(&facts.spool));
    for (listener, standing) in &facts.listeners {
        let condition = if *listener == ADMIN { Condition::AdminDown } else { Condition::ListenerDown };
        let text = match standing {
            ListenerStanding::Up => continue,
            ListenerStanding::Failing => format!("the {listener} listener cannot accept connections"),
            ListenerStanding::Ended => format!("the {listener} listener has ended"),
        };
        let finding = Finding::new(condition, text);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    if facts.unanswered_probes >= SILENT_PROBES {
        findings.push(Finding::new(Condition::ResolverSilent, "no name server answers"));
    }
    match facts.certificate {
        CertificateFact::NotWanted => {}
        CertificateFact::Missing => {
            findings.push(Finding::new(Condition::NoCertificate, "there is no certificate yet"));
        }
        CertificateFact::Until(end) if end <= facts.now_ms => {
            findings.push(Finding::new(Condition::CertificateExpired, "the certificate has run out"));
        }
        CertificateFact::Until(_) => {}
    }
    if facts.deliveries_paused {
        findings.push(Finding::new(Condition::DeliveriesPaused, "deliveries are paused"));
    }
    findings.sort_by_key(|finding| finding.condition.effect() == Effect::Warning);
    findings
}

fn spool(fact: &SpoolFact) -> Option<Finding> {
    let (healthy, accepts) = match fact {
        SpoolFact::Silent => return Some(Finding::new(Condition::SpoolSilent, "spool does not answer")),
        SpoolFact::Answered(healthy, accepts) => (healthy, accepts),
    };
    // The error itself may name files; the log has it.
    let failed = |error: &SpoolError| {
        if matches!(error, SpoolError::Poisoned { .. }) {
            Finding::new(Condition::SpoolPoisoned, "spool is poisoned")
        } else {
            Finding::new(Condition::SpoolFailed, "spool cannot be written")
        }
    };
    match (healthy, accepts) {
        (Err(error), _) | (Ok(()), Err(AcceptError::Spool(error))) => Some(failed(error)),
        (Ok(()), Err(AcceptError::NoSpace)) => {
            Some(Finding::new(Condition::NoSpace, AcceptError::NoSpace.to_string()))
        }
        (
            Ok(()),
            Err(
                AcceptError::UnknownLane
                | AcceptError::Revoked
                | AcceptError::OverQuota
                | AcceptError::NoBody,
            ),
        ) => Some(Finding::new(Condition::SpoolFailed, "spool takes no mail")),
        (Ok(()), Ok(())) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts {
            spool: SpoolFact::Answered(Ok(()), Ok(())),
            listeners: vec![("smtp", ListenerStanding::Up), ("http", ListenerStanding::Up)],
            unanswered_probes: 0,
            certificate: CertificateFact::NotWanted,
            deliveries_paused: false,
            now_ms: 1000,
        }
    }

    fn found(change: impl FnOnce(&mut Facts)) -> Vec<(Condition, String)> {
        let mut facts = well();
        change(&mut facts);
        judge(&facts).into_iter().map(|finding| (finding.condition, finding.text)).collect()
    }

    #[test]
    fn each_fact_has_its_finding_and_a_healthy_relay_has_none() {
        use Condition as C;
        use ListenerStanding as L;
        type Change = fn(&mut Facts);
        let poisoned = || SpoolError::Poisoned { reason: "sync of 0007.seg failed: EIO".to_owned() };
        let io =
            || SpoolError::Io { operation: "write", name: "secret".to_owned(), message: "no".to_owned() };
        let table: [(Change, &[(C, &str)]); 14] = [
            (|_| {}, &[]),
            (|f| f.spool = SpoolFact::Silent, &[(C::SpoolSilent, "spool does not answer")]),
            (
                |f| f.spool = SpoolFact::Answered(Ok(()), Err(AcceptError::NoSpace)),
                &[(C::NoSpace, "storage is below its free-space floor")],
            ),
            (|f| f.listeners[0].1 = L::Ended, &[(C::ListenerDown, "the smtp listener has ended")]),
            (
                |f| f.listeners = vec![("smtp", L::Failing), ("smtp", L::Failing), ("http", L::Up)],
                &[(C::ListenerDown, "the smtp listener cannot accept connections")],
            ),
            (
                |f| f.listeners = vec![("smtp", L::Failing), ("smtp", L::Ended)],
                &[
                    (C::ListenerDown, "the smtp listener cannot accept connections"),
                    (C::ListenerDown, "the smtp listener has ended"),
                ],
            ),
            (|f| f.listeners.push((ADMIN, L::Ended)), &[(C::AdminDown, "the admin listener has ended")]),
            (|f| f.unanswered_probes = SILENT_PROBES - 1, &[]),
            (|f| f.unanswered_probes = SILENT_PROBES, &[(C::ResolverSilent, "no name server answers")]),
            (
                |f| f.certificate = CertificateFact::Missing,
                &[(C::NoCertificate, "there is no certificate yet")],
            ),
            (|f| f.certificate = CertificateFact::Until(1001), &[]),
            (
                |f| f.certificate = CertificateFact::Until(1000),
                &[(C::CertificateExpired, "the certificate has run out")],
            ),
            (|f| f.deliveries_paused = true, &[(C::DeliveriesPaused, "deliveries are paused")]),
            (
                |f| (f.deliveries_paused, f.unanswered_probes) = (true, SILENT_PROBES),
                &[
                    (C::ResolverSilent, "no name server answers"),
                    (C::DeliveriesPaused, "deliveries are paused"),
                ],
            ),
        ];
        for (n, (change, expected)) in table.into_iter().enumerate() {
            let expected: Vec<_> = expected.iter().map(|(c, text)| (*c, (*text).to_owned())).collect();
            assert_eq!(found(change), expected, "row {n}");
        }
        for (error, condition, text) in [
            (poisoned(), C::SpoolPoisoned, "spool is poisoned"),
            (io(), C::SpoolFailed, "spool cannot be written"),
        ] {
            let expected = [(condition, text.to_owned())];
            let answered = |healthy, accepts| found(|f| f.spool = SpoolFact::Answered(healthy, accepts));
            assert_eq!(answered(Err(error.clone()), Ok(())), expected);
            assert_eq!(answered(Ok(()), Err(AcceptError::Spool(error))), expected);
        }
    }

    #[test]
    fn reasons_and_warnings_are_told_apart_and_reasons_come_first() {
        let mut facts = well();
        facts.listeners.insert(0, (ADMIN, ListenerStanding::Ended));
        facts.listeners.push(("http", ListenerStanding::Ended));
        let findings = judge(&facts);
        assert_eq!(findings[0].condition, Condition::ListenerDown);
        assert_eq!(texts(&findings, Effect::NotReady), ["the http listener has ended"]);
        assert_eq!(texts(&findings, Effect::Warning), ["the admin listener has ended"]);
    }
}
