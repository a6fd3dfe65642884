//! SPF of one message (RFC 7208), by mail-auth, and what mail-auth leaves open.
//!
//! mail-auth takes the first of several records and does not count questions that find nothing. Both are looked at
//! here: a domain with two records is `permerror` (section 4.5), so is a third void lookup (section 4.6.4).

use std::net::IpAddr;

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::spf::Spf as Record;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{DnsError, Error, MessageAuthenticator, Parameters, SpfOutput, SpfResult, Txt};

use super::lookups::{Lookups, Missing};
use super::{Spf, Word};

/// Questions that may find nothing (RFC 7208 section 4.6.4).
const VOID_MAX: usize = 2;
/// How often a check is made again because a record turned out to be two.
const ROUNDS_MAX: usize = 3;

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

/// Checks a sender. `ours`: our name.
pub(super) async fn check(
    authenticator: &MessageAuthenticator,
    lookups: &Lookups,
    sender: &Sender,
    ours: &str,
) -> SpfOutput {
    let domain = sender.domain();
    if domain.starts_with('[') {
        return SpfOutput::new(domain); // an address literal has no policy
    }
    know(lookups, &domain).await;
    let local = sender.mail_from.rsplit_once('@').map_or("", |(local, _)| local);
    let from = format!("{local}@{domain}");
    let mut output = SpfOutput::new(domain.clone());
    for _ in 0..ROUNDS_MAX {
        lookups.begin();
        let parameters = if sender.by_helo() {
            SpfParameters::verify_ehlo(sender.client, &domain, ours)
        } else {
            SpfParameters::verify_mail_from(sender.client, &sender.helo, ours, &from)
        };
        let parameters = Parameters::new(parameters)
            .with_txt_cache(lookups)
            .with_mx_cache(lookups)
            .with_ptr_cache(lookups)
            .with_ipv4_cache(lookups)
            .with_ipv6_cache(lookups);
        output = authenticator.verify_spf(parameters).await;
        let mut doubled = false;
        for name in lookups.texts() {
            doubled |= know(lookups, &name).await;
        }
        if !doubled {
            break;
        }
    }
    if !matches!(output.result(), SpfResult::TempError | SpfResult::None) && lookups.void() > VOID_MAX {
        return SpfOutput::new(domain).with_result(SpfResult::PermError);
    }
    output
}

/// Looks a domain's policy up and remembers it for mail-auth. True when there is more than one.
async fn know(lookups: &Lookups, domain: &str) -> bool {
    let found = lookups.txt(domain).await;
    let several = found.as_ref().is_ok_and(|texts| texts.iter().filter(|text| is_policy(text)).count() > 1);
    let error = |error| Txt::Error(Error::Dns(error));
    let answer = match found {
        Ok(_) if several => Txt::Error(Error::ParseError),
        Ok(texts) => match texts.iter().find(|text| is_policy(text)) {
            Some(text) => Txt::from(Record::parse(text)),
            None => error(DnsError::InvalidRecordType),
        },
        Err(Missing::None) => error(DnsError::InvalidRecordType),
        Err(Missing::Unknown) => error(DnsError::Resolver("no answer".to_owned())),
    };
    lookups.know(domain, answer);
    several
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
