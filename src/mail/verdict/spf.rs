//! SPF of one message (RFC 7208), by mail-auth, and what mail-auth leaves open.
//!
//! mail-auth takes the first of several records, lets syntax errors pass and does not count questions that find nothing.
//! So every record that it used is looked at here, and if it should not have been used as it is, the check is made again
//! with what should: a domain with two records is `permerror` (section 4.5), so is a syntax error anywhere (section 4.6)
//! and a third void lookup (section 4.6.4).
//!
//! mail-auth also calls it trouble of DNS when a macro makes something that is no name, so that nobody can be asked. What
//! `EHLO` and the reverse-path hold is the client's choice: that is `permerror`, too, and excuses nobody. `temperror` is left
//! for questions that went out and were not answered, and for policies that ask for too much.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::spf::Spf as Record;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{DnsError, Error, MessageAuthenticator, Parameters, SpfOutput, SpfResult, Txt};

use super::lookups::{Lookups, Missing};
use super::{Spf, Word, policy};
use crate::clock;

/// Questions that may find nothing (RFC 7208 section 4.6.4).
const VOID_MAX: usize = 2;
/// How often a check is made because of records that were not what they seemed.
const ROUNDS_MAX: usize = 5;

/// Longest wait for the names of a client: its name servers may be silent, and others' answers must still come in time.
const POINTERS_TIME: Duration = Duration::from_secs(1);

/// Who sends.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Address of the client.
    pub client: IpAddr,
    /// Argument of its `EHLO`.
    pub helo: String,
    /// Reverse-path as given; empty for the null path.
    pub mail_from: String,
}

impl Sender {
    /// The domain that SPF is about: of the reverse-path, or of the greeting. A-labels where that is possible.
    #[must_use]
    pub fn domain(&self) -> String {
        let domain = self.mail_from.rsplit_once('@').map_or(self.helo.as_str(), |(_, domain)| domain);
        let domain = domain.trim_end_matches('.');
        idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_lowercase())
    }

    /// The greeting is checked, because the reverse-path is null.
    #[must_use]
    pub fn by_helo(&self) -> bool {
        !self.mail_from.contains('@')
    }
}

/// Checks a sender. `ours`: our name; `deadline`: when nobody waits any more.
pub(super) async fn check(
    authenticator: &MessageAuthenticator,
    lookups: &Lookups,
    sender: &Sender,
    ours: &str,
    deadline: Instant,
) -> SpfOutput {
    let domain = sender.domain();
    if domain.starts_with('[') || is_of_others(&domain) {
        return SpfOutput::new(domain); // an address literal has no policy, nor has a name below which other records lie
    }
    let client = sender.client.to_canonical();
    know(lookups, &domain, client.is_ipv4()).await;
    let local = sender.mail_from.rsplit_once('@').map_or("", |(local, _)| local);
    let from = format!("{local}@{domain}");
    let mut output = SpfOutput::new(domain.clone());
    for _ in 0..ROUNDS_MAX {
        lookups.begin();
        let parameters = if sender.by_helo() {
            SpfParameters::verify_ehlo(client, &domain, ours)
        } else {
            SpfParameters::verify_mail_from(client, &sender.helo, ours, &from)
        };
        let parameters = Parameters::new(parameters)
            .with_txt_cache(lookups)
            .with_mx_cache(lookups)
            .with_ptr_cache(lookups)
            .with_ipv4_cache(lookups)
            .with_ipv6_cache(lookups);
        output = authenticator.verify_spf(parameters).await;
        let mut changed = false;
        for name in lookups.texts().iter().filter(|name| !is_of_others(name)) {
            if lookups.is_over() {
                break;
            }
            changed |= know(lookups, name, client.is_ipv4()).await;
        }
        if lookups.wants_pointers() {
            let now = clock::monotonic();
            let left = deadline.saturating_duration_since(now);
            lookups.point(client, now + POINTERS_TIME.min(left / 2)).await;
            changed = true;
        }
        if !changed {
            break;
        }
    }
    if lookups.is_over() {
        return SpfOutput::new(domain).with_result(SpfResult::TempError);
    }
    if output.result() == SpfResult::TempError && lookups.is_no_name() {
        return SpfOutput::new(domain).with_result(SpfResult::PermError);
    }
    if !matches!(output.result(), SpfResult::TempError | SpfResult::None) && lookups.void() > VOID_MAX {
        return SpfOutput::new(domain).with_result(SpfResult::PermError);
    }
    output
}

/// Looks a domain's record up and remembers for mail-auth what it shall take it for. True when that is not what it took
/// it for.
async fn know(lookups: &Lookups, domain: &str, client_is_v4: bool) -> bool {
    let error = |error| Txt::Error(Error::Dns(error));
    let found = lookups.spf(domain).await;
    let mut records = found.iter().flatten().filter(|text| is_policy(text));
    let (answer, changed) = match (&found, records.next(), records.next()) {
        (Err(Missing::Unknown), ..) => (error(DnsError::Resolver("no answer".to_owned())), false),
        (_, None, _) => (error(DnsError::InvalidRecordType), false),
        (_, Some(_), Some(_)) => (Txt::Error(Error::ParseError), true),
        (_, Some(record), None) => match policy::read(record, client_is_v4) {
            Some(read) => (Txt::from(Record::parse(read.as_bytes())), read.as_bytes() != record.as_slice()),
            None => (Txt::Error(Error::ParseError), true),
        },
    };
    lookups.know(domain, answer);
    changed
}

/// Where DMARC policies and DKIM keys lie. What they are taken for is remembered by name, and a sender that names one of
/// them may not have it taken for a policy of SPF that is none: the author's own policy would be gone.
fn is_of_others(domain: &str) -> bool {
    let begins =
        |label: &str| label.eq_ignore_ascii_case("_dmarc") || label.eq_ignore_ascii_case("_domainkey");
    domain.split('.').any(begins)
}

/// RFC 7208 section 4.5.
fn is_policy(text: &[u8]) -> bool {
    text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"v=spf1"))
        && matches!(text.get(6), None | Some(b' '))
}

/// As it is stored.
pub(super) fn found(output: &SpfOutput, sender: &Sender) -> Spf {
    let (word, reason) = match output.result() {
        SpfResult::Pass => (Word::Pass, ""),
        SpfResult::Fail => (Word::Fail, "client may not send for this domain"),
        SpfResult::SoftFail => (Word::SoftFail, "client probably may not send for this domain"),
        SpfResult::Neutral => (Word::Neutral, "domain says nothing about this client"),
        SpfResult::TempError => (Word::TempError, "no answer from DNS"),
        SpfResult::PermError => (Word::PermError, "policy cannot be read"),
        SpfResult::None => (Word::None, ""),
    };
    Spf { word, domain: clip(&sender.domain()), helo: sender.by_helo(), reason: reason.to_owned() }
}

/// No name is longer than that.
fn clip(text: &str) -> String {
    text.chars().take(253).collect()
}
