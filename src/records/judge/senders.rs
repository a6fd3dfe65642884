//! PURE: who may write as us: SPF, DKIM, DMARC.

use core::net::IpAddr;

use super::super::answers::Inquiry;
use super::super::spf::{self, LOOKUPS_MAX, VOIDS_MAX, Walk, Word};
use super::super::{DkimKey, Site, is_at_or_below, wanted};
use super::{Status, Verdict, readable};
use crate::mail::outbound::prepare::dkim::record_name;
use crate::mail::outbound::route::answer::Answer;
use crate::mail::verdict::key::usable;
use crate::mail::verdict::tags::Tags;

/// Most labels that a policy is looked for above a domain (the organizational domain is among them, RFC 7489 section 6.6.3).
const LABELS_MAX: usize = 8;
/// Most report addresses that are looked at.
const REPORTS_MAX: usize = 5;

/// SPF of a domain.
pub(super) fn spf(site: &Site, domain: &str, ours: &[IpAddr], ask: &mut Inquiry<'_>) -> Verdict {
    let ours = if site.smarthost.is_some() { &[] } else { ours };
    policy(domain, wanted::spf(site), ours, Status::Missing, ask)
}

/// SPF of the name the relay greets with; bounces are judged by it.
pub(super) fn helo(site: &Site, ours: &[IpAddr], ask: &mut Inquiry<'_>) -> Verdict {
    let ours = if site.smarthost.is_some() { &[] } else { ours };
    policy(&site.hostname, wanted::helo_spf(), ours, Status::Risky, ask)
}

fn policy(name: &str, want: String, ours: &[IpAddr], absent: Status, ask: &mut Inquiry<'_>) -> Verdict {
    let records = match ask.txt(name) {
        Answer::Found(found) => spf::policies(&found.records),
        Answer::NoRecords | Answer::NxDomain => Vec::new(),
        Answer::Temporary(why) => {
            return Verdict::new(name, "TXT", want, Vec::new())
                .with(Status::Unknown, format!("the DNS does not answer: {why}"));
        }
    };
    let mut verdict = Verdict::new(name, "TXT", want, records.clone());
    let record = match records.as_slice() {
        [] => {
            return verdict.with(absent, "there is no SPF record: anybody may send in this name");
        }
        [one] => one,
        [_, ..] => {
            let advice = "there may be one SPF record only: with several, none counts (RFC 7208 section 4.5)";
            return verdict.with(Status::Wrong, advice);
        }
    };
    if spf::passes_all(record) {
        verdict.say(Status::Wrong, "`+all` lets the whole world send in this name: end it with `-all`");
        return verdict;
    }
    let (mut lookups, mut voids) = (0, 0);
    // Without an address of ours there are still questions to count.
    let anywhere = [IpAddr::from([192, 0, 2, 1])];
    for address in if ours.is_empty() { &anywhere } else { ours } {
        let mut walk = Walk::new(ask);
        let word = walk.judge(name, record, *address);
        (lookups, voids) = (lookups.max(walk.lookups), voids.max(walk.voids));
        match word {
            Word::Broken(why) => verdict.say(Status::Wrong, format!("receivers cannot use it: {why}")),
            _ if ours.is_empty() => {}
            Word::Pass => {}
            Word::Fail | Word::SoftFail => {
                verdict
                    .say(Status::Wrong, format!("it does not allow {address}, from which this relay sends"));
            }
            Word::Neutral => {
                verdict.say(
                    Status::Risky,
                    format!("it says nothing about {address}, from which this relay sends"),
                );
            }
            Word::Unknown(why) => {
                verdict.say(Status::Unknown, format!("whether it allows {address} is not known: {why}"))
            }
        }
    }
    if lookups > LOOKUPS_MAX {
        let advice = format!(
            "it costs {lookups} look-ups, and more than {LOOKUPS_MAX} make it void (RFC 7208 section 4.6.4)"
        );
        verdict.say(Status::Wrong, advice);
    }
    if voids > VOIDS_MAX {
        let advice = format!(
            "{voids} of its look-ups find nothing, and some receivers use no policy with more than {VOIDS_MAX} such (RFC 7208 section 4.6.4)"
        );
        verdict.say(Status::Risky, advice);
    }
    verdict
}

/// The keys of a domain.
pub(super) fn dkim(site: &Site, domain: &str, ask: &mut Inquiry<'_>) -> Vec<Verdict> {
    let Some(dkim) = site.dkim_for(domain) else {
        let (status, advice) = match &site.dkim {
            Some(other) => {
                (Status::Risky, format!("mail from {domain} is not signed: dkim.domain is {}", other.domain))
            }
            None => (
                Status::Risky,
                "outgoing mail is not signed: `waystation keys dkim` makes keys and says what to configure"
                    .to_owned(),
            ),
        };
        return vec![Verdict::new(record_name("*", domain), "TXT", "", Vec::new()).with(status, advice)];
    };
    if dkim.domain != domain && site.domains.contains(&dkim.domain) {
        return Vec::new(); // said where it belongs
    }
    if dkim.keys.is_empty() {
        let advice = "the key files cannot be read from here, so the records cannot be compared";
        return vec![
            Verdict::new(record_name("*", &dkim.domain), "TXT", "", Vec::new()).with(Status::Unknown, advice),
        ];
    }
    dkim.keys.iter().map(|key| key_record(key, &record_name(&key.selector, &dkim.domain), ask)).collect()
}

fn key_record(key: &DkimKey, name: &str, ask: &mut Inquiry<'_>) -> Verdict {
    let records = match ask.txt(name) {
        Answer::Found(found) => found.records,
        Answer::NoRecords | Answer::NxDomain => Vec::new(),
        Answer::Temporary(why) => {
            return Verdict::new(name, "TXT", &key.record, Vec::new())
                .with(Status::Unknown, format!("the DNS does not answer: {why}"));
        }
    };
    let mut verdict =
        Verdict::new(name, "TXT", &key.record, records.iter().map(|text| readable(text)).collect());
    if records.is_empty() {
        let advice = "the public key is not published, so signatures count for nothing";
        return verdict.with(Status::Missing, advice);
    }
    let value =
        |record: &[u8], tag: &str| Tags::parse(record).and_then(|tags| tags.get(tag).map(str::to_owned));
    let published: Vec<_> =
        records.iter().filter_map(|record| value(record, "p").map(|p| (record, p))).collect();
    if let [(_, revoked)] = published.as_slice()
        && revoked.is_empty()
    {
        let advice =
            "the empty `p=` revokes the key that this relay signs with: publish it, or sign with another";
        return verdict.with(Status::Wrong, advice);
    }
    let ours = value(key.record.as_bytes(), "p");
    match usable(&records) {
        Err((_, why)) => verdict.say(Status::Wrong, format!("receivers cannot use it: {why}")),
        Ok(_) if published.iter().any(|(_, p)| Some(p) == ours.as_ref()) => {}
        Ok(_) => verdict.say(
            Status::Wrong,
            "it is another key than the one this relay signs with, so every signature fails",
        ),
    }
    let testing = published
        .iter()
        .any(|(record, _)| Tags::parse(record).and_then(|tags| tags.lists("t", "y")) == Some(true));
    if testing {
        verdict.say(Status::Risky, "`t=y` says that the key is only being tried out: remove it");
    }
    verdict
}

/// The DMARC policy of a domain.
pub(super) fn dmarc(site: &Site, domain: &str, ask: &mut Inquiry<'_>) -> Vec<Verdict> {
    let want = wanted::dmarc(site, domain);
    let (at, records) = match policies_above(domain, ask) {
        Ok(found) => found,
        Err(why) => {
            return vec![
                Verdict::new(format!("_dmarc.{domain}"), "TXT", want, Vec::new())
                    .with(Status::Unknown, format!("the DNS does not answer: {why}")),
            ];
        }
    };
    let mut verdict = Verdict::new(format!("_dmarc.{at}"), "TXT", want, records.clone());
    let record = match records.as_slice() {
        [] => {
            let advice = "there is no DMARC policy: large receivers want one from everybody who sends";
            return vec![verdict.with(Status::Missing, advice)];
        }
        [one] => one,
        [_, ..] => {
            let advice =
                "there may be one DMARC record only: with several, none counts (RFC 7489 section 6.6.3)";
            return vec![verdict.with(Status::Wrong, advice)];
        }
    };
    let Some(tags) = Tags::parse(record.as_bytes()) else {
        return vec![
            verdict.with(Status::Wrong, "receivers cannot read it: tags are NAME=VALUE, with `;` between"),
        ];
    };
    let below = at != domain;
    let asked = tags.get("sp").filter(|_| below).or_else(|| tags.get("p"));
    match asked.map(str::to_ascii_lowercase).as_deref() {
        Some("quarantine" | "reject") => {}
        Some("none") => verdict.say(
            Status::Info,
            "`p=none` only watches: go to `quarantine` when the reports show nothing of yours failing",
        ),
        Some(other) => {
            verdict.say(Status::Wrong, format!("`{other}` is no policy: write none, quarantine or reject"))
        }
        None => verdict.say(Status::Wrong, "it has no `p=`, so it is no policy"),
    }
    let mut verdicts = vec![verdict];
    let reports = tags.get("rua").unwrap_or_default().to_owned();
    for report in reports.split(',').take(REPORTS_MAX) {
        let address = report.split('!').next().unwrap_or_default();
        let Some((_, host)) = address.strip_prefix("mailto:").and_then(|mail| mail.rsplit_once('@')) else {
            continue;
        };
        let host = host.to_ascii_lowercase();
        if !are_related(&host, &at) {
            verdicts.extend(authorisation(&at, &host, ask));
        }
    }
    verdicts
}

/// The closest name at or above a domain with a policy, and the policies there.
fn policies_above(domain: &str, ask: &mut Inquiry<'_>) -> Result<(String, Vec<String>), String> {
    let mut at = domain;
    for _ in 0..LABELS_MAX {
        match ask.txt(&format!("_dmarc.{at}")) {
            Answer::Found(found) => {
                let policy =
                    |text: &&Vec<u8>| text.get(..8).is_some_and(|v| v.eq_ignore_ascii_case(b"v=DMARC1"));
                let records: Vec<_> =
                    found.records.iter().filter(policy).map(|text| readable(text)).collect();
                if !records.is_empty() {
                    return Ok((at.to_owned(), records));
                }
            }
            Answer::NoRecords | Answer::NxDomain => {}
            Answer::Temporary(why) => return Err(why),
        }
        match at.split_once('.') {
            Some((_, above)) if above.contains('.') => at = above,
            Some(_) | None => break,
        }
    }
    Ok((domain.to_owned(), Vec::new()))
}

/// Whether two names belong to one organisation, as far as names tell: one is above the other, or both have the same
/// two last labels.
fn are_related(one: &str, other: &str) -> bool {
    let last = |name: &str| name.rsplitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
    is_at_or_below(one, other) || is_at_or_below(other, one) || last(one) == last(other)
}

/// Others get reports only when they say that they want them (RFC 7489 section 7.1).
fn authorisation(domain: &str, host: &str, ask: &mut Inquiry<'_>) -> Option<Verdict> {
    let name = format!("{domain}._report._dmarc.{host}");
    let texts = match ask.txt(&name) {
        Answer::Found(found) => found.records,
        Answer::NoRecords | Answer::NxDomain => Vec::new(),
        Answer::Temporary(_) => return None,
    };
    let agrees = |text: &Vec<u8>| text.get(..8).is_some_and(|v| v.eq_ignore_ascii_case(b"v=DMARC1"));
    let found = texts.iter().map(|text| readable(text)).collect();
    let verdict = Verdict::new(name, "TXT", "v=DMARC1", found);
    Some(if texts.iter().any(agrees) {
        verdict
    } else {
        verdict.with(
            Status::Info,
            format!("{host} does not say that it takes reports about {domain}, so it gets none"),
        )
    })
}
