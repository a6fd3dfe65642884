//! PURE: all answers to one verdict per record.
//!
//! [`judge`] walks through everything a relay needs. What it could not know yet comes back as open questions; ask them and
//! judge again.
//!
//! Policy: *missing* and *wrong* mean that mail is lost or refused; *risky* that some receivers will mind; *unknown* that nobody could
//! say, which is no verdict on the record; *info* is worth knowing. A broken look-up never makes a record wrong.

mod reach;
mod secure;
mod senders;

use serde_json::{Value, json};

use super::Site;
use super::answers::{Answers, Inquiry, Question};

/// Why nobody minds how an address of ours looks.
const THROUGH_SMARTHOST: &str = "of no weight while mail leaves through delivery.smarthost";

/// How it stands with one record, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// Nobody could say.
    Unknown,
    /// Some receivers will mind.
    Risky,
    /// Needed, and not there.
    Missing,
    /// There, and does harm.
    Wrong,
}

impl Status {
    /// As in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Unknown => "unknown",
            Self::Risky => "risky",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }

    /// Something must be done.
    #[must_use]
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Missing | Self::Wrong)
    }
}

/// One record, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Its type; or `DNSBL`, `HTTPS`, `SMTP`, `DNSSEC` for what is no record of ours.
    pub kind: &'static str,
    /// What it should be; may be empty.
    pub want: String,
    /// What was found.
    pub found: Vec<String>,
    /// How it stands.
    pub status: Status,
    /// One sentence; empty when there is nothing to do.
    pub advice: String,
}

impl Verdict {
    fn new(name: impl Into<String>, kind: &'static str, want: impl Into<String>, found: Vec<String>) -> Self {
        Self { name: name.into(), kind, want: want.into(), found, status: Status::Ok, advice: String::new() }
    }

    /// Makes it worse, never better; the words are those of the worst.
    fn say(&mut self, status: Status, advice: impl Into<String>) {
        if status > self.status || (status == self.status && self.advice.is_empty()) {
            self.status = status;
            self.advice = advice.into();
        }
    }

    /// Nobody minds what is wrong with it; `why` says so.
    fn soften(&mut self, why: &str) {
        if self.status > Status::Info {
            self.status = Status::Info;
            self.advice = format!("{why}: {}", self.advice);
        }
    }

    fn with(mut self, status: Status, advice: impl Into<String>) -> Self {
        self.say(status, advice);
        self
    }

    /// As in the admin API.
    #[must_use]
    pub fn object(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "want": self.want,
            "found": self.found,
            "status": self.status.word(),
            "advice": self.advice,
        })
    }
}

/// What else is to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Mail servers outside that a connection is tried to, `host:port`; one that answers is enough.
    pub egress: Vec<String>,
    /// Domains whose mail servers are tried, on port 25; one that answers is enough.
    pub egress_domains: Vec<String>,
}

/// Verdicts so far, and what must be asked to be certain.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// In a fixed order.
    pub verdicts: Vec<Verdict>,
    /// Empty when it is final.
    pub open: Vec<Question>,
}

/// Judges everything.
#[must_use]
pub fn judge(site: &Site, extent: &Extent, answers: &Answers) -> Judgement {
    let mut inquiry = Inquiry::new(answers);
    let ask = &mut inquiry;
    let mut verdicts = Vec::new();
    if !site.is_named() {
        verdicts.push(Verdict::new(&site.hostname, "A", "", Vec::new()).with(
            Status::Info,
            "this relay has no public name, so there is nothing to publish; set `hostname` and `domains` first",
        ));
        return Judgement { verdicts, open: Vec::new() };
    }
    let ours = reach::host(site, ask, &mut verdicts);
    if !site.domains.contains(&site.hostname) {
        verdicts.push(senders::helo(site, &ours, ask));
    }
    for domain in &site.domains {
        verdicts.push(reach::exchangers(site, domain, &ours, ask));
        verdicts.push(senders::spf(site, domain, &ours, ask));
        verdicts.extend(senders::dkim(site, domain, ask));
        verdicts.extend(senders::dmarc(site, domain, ask));
        verdicts.extend(secure::mta_sts(site, domain, ask));
        verdicts.extend(secure::tls_rpt(site, domain, ask));
        verdicts.push(secure::dnssec(domain, ask));
    }
    verdicts.extend(secure::tlsa(site, ask));
    verdicts.extend(secure::caa(site, ask));
    for address in &ours {
        let mut of_address = vec![reach::pointer(site, *address, ask)];
        of_address.extend(reach::listings(site, *address, ask));
        if site.smarthost.is_some() {
            // Whom the smarthost sends to sees its address, and not ours.
            of_address.iter_mut().for_each(|verdict| verdict.soften(THROUGH_SMARTHOST));
        }
        verdicts.extend(of_address);
    }
    verdicts.extend(reach::egress(extent, ask));
    Judgement { verdicts, open: inquiry.into_open() }
}

/// Nothing is missing and nothing is wrong.
#[must_use]
pub fn is_fine(verdicts: &[Verdict]) -> bool {
    !verdicts.iter().any(|verdict| verdict.status.is_bad())
}

/// Octets of a text, as a person reads them.
fn readable(text: &[u8]) -> String {
    text.iter().map(|&byte| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests;
