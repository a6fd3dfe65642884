//! PURE: what makes senders use TLS with us: MTA-STS, TLS-RPT, TLSA, CAA, DNSSEC.

use super::super::answers::Inquiry;
use super::super::{Site, StsMode, wanted};
use super::{Status, Verdict, readable};
use crate::mail::outbound::route::answer::Answer;
use crate::mail::outbound::route::dane::RawTlsa;
use crate::mail::outbound::route::mta_sts::{self, Mode, Policy};

/// Most labels that CAA records are looked for above a name.
const LABELS_MAX: usize = 8;
/// Policies that are forgotten sooner protect nobody (RFC 8461 section 10.2 wants weeks), seconds: a day.
const AGE_SECONDS_MIN: u64 = 86_400;

/// Record and policy of MTA-STS.
pub(super) fn mta_sts(site: &Site, domain: &str, ask: &mut Inquiry<'_>) -> Vec<Verdict> {
    let name = format!("_mta-sts.{domain}");
    let want = site.sts.map(|_| wanted::sts_record(site)).unwrap_or_default();
    let texts = match ask.txt(&name) {
        Answer::Found(found) => found.records,
        Answer::NoRecords | Answer::NxDomain => Vec::new(),
        Answer::Temporary(why) if site.sts.is_some() => {
            let verdict = Verdict::new(name, "TXT", want, Vec::new());
            return vec![verdict.with(Status::Unknown, format!("the DNS does not answer: {why}"))];
        }
        Answer::Temporary(_) => return Vec::new(),
    };
    let texts: Vec<_> = texts.into_iter().filter(|text| text.starts_with(b"v=STSv1")).collect();
    let mut verdict = Verdict::new(name, "TXT", want, texts.iter().map(|text| readable(text)).collect());
    if texts.is_empty() {
        if site.sts.is_none() {
            return Vec::new();
        }
        let advice =
            "senders are not told that this relay speaks TLS: publish it, or set smtp.mta_sts = \"off\"";
        return vec![verdict.with(Status::Missing, advice)];
    }
    let announced = mta_sts::announced_id(&texts);
    if announced.is_none() {
        verdict
            .say(Status::Wrong, "it must be one record like `v=STSv1; id=20260101` (RFC 8461 section 3.1)");
        return vec![verdict];
    }
    // The id is a hash of what this relay serves, so it only says something about that.
    let ours = wanted::sts_policy(site).and_then(|policy| mta_sts::parse(policy.as_bytes()).ok());
    let id = mta_sts::announced_id(&[wanted::sts_record(site).into_bytes()]);
    if ours.is_some_and(|ours| ask.policy(domain).is_ok_and(|found| found == ours)) && announced != id {
        let advice =
            "the id is not of the policy that is served: senders that know it keep the policy of before";
        verdict.say(Status::Risky, advice);
    }
    let policy = policy(site, domain, ask);
    vec![verdict, policy]
}

fn policy(site: &Site, domain: &str, ask: &mut Inquiry<'_>) -> Verdict {
    let name = format!("https://mta-sts.{domain}/.well-known/mta-sts.txt");
    let want = wanted::sts_policy(site).map(|policy| words(&policy)).unwrap_or_default();
    let found = match ask.policy(domain) {
        Ok(found) => found,
        Err(why) => {
            let host = format!("mta-sts.{domain}");
            // Whom files, or a proxy in front, have a certificate for is not known here.
            let names = Some(&site.certificate_names).filter(|names| site.sts.is_some() && !names.is_empty());
            let advice = if names.is_some_and(|names| !names.contains(&host)) {
                format!("{host} is not in tls.acme.names, so nobody can fetch the policy: {why}")
            } else {
                format!("the policy that the record announces cannot be fetched: {why}")
            };
            return Verdict::new(name, "HTTPS", want, Vec::new()).with(Status::Wrong, advice);
        }
    };
    let mut verdict = Verdict::new(name, "HTTPS", want, vec![shown(&found)]);
    let harm = match found.mode {
        Mode::Enforce => Status::Wrong,
        Mode::Testing => Status::Risky,
        Mode::None => Status::Info,
    };
    if !found.names(&site.hostname) && found.mode != Mode::None {
        let advice =
            format!("the policy does not name {}, so senders that heed it do not deliver", site.hostname);
        verdict.say(harm, advice);
    }
    if let Some(mx) =
        ask.mx(domain).found().and_then(|mx| mx.records.iter().find(|mx| !found.names(&mx.host)))
        && found.mode != Mode::None
    {
        verdict.say(harm, format!("the policy does not name the MX {}, so it gets no mail", mx.host));
    }
    if site.sts.is_none() && !site.tls && found.mode == Mode::Enforce {
        verdict.say(Status::Wrong, "the policy demands TLS, and this relay offers none: set up [tls]");
    }
    match (site.sts, found.mode) {
        (Some(StsMode::Enforce), Mode::Testing | Mode::None) => {
            verdict.say(Status::Risky, "the policy is not the one this relay serves: something else answers");
        }
        (_, Mode::Testing) => {
            verdict.say(Status::Info, "`testing` only reports; smtp.mta_sts = \"enforce\" protects")
        }
        (_, Mode::None) => verdict.say(Status::Info, "`none` says that there is no policy any more"),
        (Some(StsMode::Testing), Mode::Enforce) => {
            verdict.say(Status::Info, "the policy is not the one this relay serves: something else answers");
        }
        (Some(StsMode::Enforce) | None, Mode::Enforce) => {}
    }
    if found.max_age_seconds < AGE_SECONDS_MIN && found.mode == Mode::Enforce {
        verdict.say(Status::Risky, "it is forgotten within a day, so it protects little: a week is usual");
    }
    verdict
}

fn words(policy: &str) -> String {
    policy.trim_end().replace("\r\n", ", ")
}

fn shown(policy: &Policy) -> String {
    let mode = match policy.mode {
        Mode::Enforce => "enforce",
        Mode::Testing => "testing",
        Mode::None => "none",
    };
    let hosts: String = policy.mx.iter().take(10).map(|host| format!(", mx: {host}")).collect();
    format!("version: STSv1, mode: {mode}{hosts}, max_age: {}", policy.max_age_seconds)
}

/// Where senders report trouble with TLS.
pub(super) fn tls_rpt(site: &Site, domain: &str, ask: &mut Inquiry<'_>) -> Option<Verdict> {
    let name = format!("_smtp._tls.{domain}");
    let texts = match ask.txt(&name) {
        Answer::Found(found) => found.records,
        Answer::NoRecords | Answer::NxDomain => Vec::new(),
        Answer::Temporary(_) if site.sts.is_none() => return None,
        Answer::Temporary(why) => {
            let verdict = Verdict::new(name, "TXT", wanted::tls_rpt(domain), Vec::new());
            return Some(verdict.with(Status::Unknown, format!("the DNS does not answer: {why}")));
        }
    };
    let texts: Vec<_> = texts.into_iter().filter(|text| text.starts_with(b"v=TLSRPTv1")).collect();
    let want = if site.sts.is_some() { wanted::tls_rpt(domain) } else { String::new() };
    let mut verdict = Verdict::new(name, "TXT", want, texts.iter().map(|text| readable(text)).collect());
    match texts.as_slice() {
        [] if site.sts.is_none() => return None,
        [] => verdict
            .say(Status::Missing, "nobody tells you when TLS with this relay fails: publish it (RFC 8460)"),
        [one] => {
            let text = readable(one);
            let target = text.split(';').find_map(|field| field.trim().strip_prefix("rua="));
            if !target.is_some_and(|target| target.starts_with("mailto:") || target.starts_with("https:")) {
                verdict
                    .say(Status::Wrong, "it names nobody: write `rua=mailto:ADDRESS` (RFC 8460 section 3)");
            }
        }
        [_, ..] => verdict.say(
            Status::Wrong,
            "there may be one record only: with several, none counts (RFC 8460 section 3)",
        ),
    }
    Some(verdict)
}

/// Whether the answers about a domain are signed.
pub(super) fn dnssec(domain: &str, ask: &mut Inquiry<'_>) -> Verdict {
    let verdict = Verdict::new(domain, "DNSSEC", "", Vec::new());
    if !ask.validates() {
        let advice =
            "whether the zone is signed cannot be seen: no name server on this machine checks DNSSEC";
        return verdict.with(Status::Info, advice);
    }
    match ask.mx(domain) {
        Answer::Found(found) if found.secure => Verdict { found: vec!["signed".to_owned()], ..verdict },
        Answer::Found(_) | Answer::NoRecords | Answer::NxDomain => {
            let found = Verdict { found: vec!["not signed".to_owned()], ..verdict };
            found.with(Status::Info, "signed zones cannot be forged, and make DANE possible")
        }
        Answer::Temporary(why) => verdict.with(Status::Unknown, format!("the DNS does not answer: {why}")),
    }
}

/// TLSA records of the host.
pub(super) fn tlsa(site: &Site, ask: &mut Inquiry<'_>) -> Option<Verdict> {
    let name = wanted::tlsa_name(&site.hostname);
    let want = site.certificate_key.as_ref().map(wanted::tlsa_value).unwrap_or_default();
    let (records, secure) = match ask.tlsa(&name) {
        Answer::Found(found) => (found.records, found.secure),
        Answer::NoRecords | Answer::NxDomain => (Vec::new(), false),
        Answer::Temporary(why) if site.dane => {
            let verdict = Verdict::new(name, "TLSA", want, Vec::new());
            return Some(verdict.with(Status::Unknown, format!("the DNS does not answer: {why}")));
        }
        Answer::Temporary(_) => return None,
    };
    let text = |r: &RawTlsa| {
        format!("{} {} {} {}", r.usage, r.selector, r.matching, data_encoding::HEXLOWER.encode(&r.data))
    };
    let mut verdict = Verdict::new(name, "TLSA", want, records.iter().map(text).collect());
    if records.is_empty() {
        return site.dane.then(|| verdict.with(Status::Missing, "publish it, in a zone signed with DNSSEC"));
    }
    let usable: Vec<_> = records.iter().filter(|record| record.is_usable()).collect();
    let ours = |record: &&&RawTlsa| {
        let digest = site.certificate_key.as_ref().map(|key| key.as_slice());
        (record.usage, record.selector, record.matching) == (3, 1, 1)
            && digest == Some(record.data.as_slice())
    };
    match (site.certificate_key.is_some(), usable.iter().any(|record| ours(&record))) {
        _ if !site.tls => verdict
            .say(Status::Wrong, "it demands TLS, and this relay offers none: set up [tls] or remove it"),
        (_, true) => {}
        (false, false) => {
            verdict.say(Status::Unknown, "the certificate cannot be read from here, so it cannot be compared")
        }
        // Other forms can be right; only these are of the key itself.
        (true, false)
            if usable.iter().any(|record| (record.usage, record.selector, record.matching) != (3, 1, 1)) =>
        {
            verdict
                .say(Status::Unknown, "only `3 1 1` records are compared with the certificate; prefer them");
        }
        (true, false) => verdict.say(
            Status::Wrong,
            "it is not of the key in the certificate that is served: senders with DANE do not deliver",
        ),
    }
    if ask.validates() && !secure {
        verdict.say(Status::Risky, "its zone is not signed with DNSSEC, so nobody heeds it");
    }
    Some(verdict)
}

/// Whether the certificate authority may issue for our names.
pub(super) fn caa(site: &Site, ask: &mut Inquiry<'_>) -> Vec<Verdict> {
    let Some(issuer) = &site.issuer else { return Vec::new() };
    let mut verdicts: Vec<Verdict> = Vec::new();
    for name in &site.certificate_names {
        let Some(verdict) = caa_of(name, issuer, ask) else { continue };
        // Several names are often judged by the same record above them.
        if !verdicts.contains(&verdict) {
            verdicts.push(verdict);
        }
    }
    verdicts
}

/// The closest set of records at or above a name counts (RFC 8659 section 3).
fn caa_of(name: &str, issuer: &str, ask: &mut Inquiry<'_>) -> Option<Verdict> {
    let mut at = name;
    for _ in 0..LABELS_MAX {
        match ask.caa(at) {
            Answer::Found(found) => {
                let text = |caa: &super::super::answers::Caa| format!("{} \"{}\"", caa.tag, caa.value);
                let texts = found.records.iter().map(text).collect();
                let verdict = Verdict::new(at, "CAA", wanted::caa_value(issuer), texts);
                let mut issues = found.records.iter().filter(|caa| caa.tag == "issue").peekable();
                if issues.peek().is_none() {
                    return Some(verdict);
                }
                let named = |value: &str| value.split(';').next().is_some_and(|who| who.trim() == issuer);
                return Some(if issues.any(|caa| named(&caa.value)) {
                    verdict
                } else {
                    let advice = format!("{issuer} may not issue certificates for {name}: add it");
                    verdict.with(Status::Wrong, advice)
                });
            }
            Answer::NoRecords | Answer::NxDomain => {}
            Answer::Temporary(why) => {
                let verdict = Verdict::new(at, "CAA", wanted::caa_value(issuer), Vec::new());
                let advice =
                    format!("the DNS does not answer, and certificate authorities issue nothing then: {why}");
                return Some(verdict.with(Status::Unknown, advice));
            }
        }
        match at.split_once('.') {
            Some((_, above)) if above.contains('.') => at = above,
            Some(_) | None => break,
        }
    }
    None
}
