//! PURE: what an SPF record says about our own addresses, and what it costs to find out (RFC 7208).
//!
//! The checks of strangers' mail are in `mail/verdict`; this one is for the operator: it walks all of a policy instead of
//! stopping at the first match, so that it can say how many questions the worst receiver must ask.
//! Policy: macros depend on the message, so what hangs on one is unknown, and counts as a question.

use core::net::IpAddr;

use ipnet::IpNet;

use super::answers::{Inquiry, addresses};
use crate::mail::outbound::route::answer::Answer;
use crate::mail::verdict::policy;

/// Questions that a policy may cost (section 4.6.4).
pub const LOOKUPS_MAX: usize = 10;
/// Questions of a policy that may find nothing (section 4.6.4).
pub const VOIDS_MAX: usize = 2;
/// Mail exchangers that one `mx` may have (section 4.6.4).
const EXCHANGERS_MAX: usize = 10;
/// Deepest chain of includes that is followed.
const DEPTH_MAX: usize = 12;
/// Most names whose policies are read; more would be far over the limit of questions anyway.
const POLICIES_MAX: usize = 40;

/// What the policy says about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It may send.
    Pass,
    /// It may not.
    Fail,
    /// It should not.
    SoftFail,
    /// Nothing.
    Neutral,
    /// The policy cannot be used.
    Broken(String),
    /// Nobody could say, or it depends on the message.
    Unknown(String),
}

/// Records of a domain that are SPF policies.
#[must_use]
pub fn policies(texts: &[Vec<u8>]) -> Vec<String> {
    let ours = texts.iter().filter(|text| {
        text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"v=spf1"))
            && matches!(text.get(6), None | Some(b' '))
    });
    ours.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Whether a record ends with a pass for everybody.
#[must_use]
pub fn passes_all(record: &str) -> bool {
    terms(record).any(|term| matches!(term.to_ascii_lowercase().as_str(), "all" | "+all"))
}

fn terms(record: &str) -> impl Iterator<Item = &str> {
    record.split(' ').skip(1).filter(|term| !term.is_empty())
}

/// One walk through the policy of a domain.
#[derive(Debug)]
pub struct Walk<'i, 'a> {
    inquiry: &'i mut Inquiry<'a>,
    /// Questions asked so far.
    pub lookups: usize,
    /// Those for addresses and exchangers that found nothing.
    pub voids: usize,
    policies: usize,
}

/// How a mechanism went.
enum Match {
    Yes,
    No,
    Open(String),
    Broken(String),
}

impl<'i, 'a> Walk<'i, 'a> {
    /// Begins one.
    pub fn new(inquiry: &'i mut Inquiry<'a>) -> Self {
        Self { inquiry, lookups: 0, voids: 0, policies: 0 }
    }

    /// What `record` of `domain` says about `address`.
    pub fn judge(&mut self, domain: &str, record: &str, address: IpAddr) -> Word {
        self.check(domain, record, address, 0)
    }

    fn check(&mut self, domain: &str, record: &str, address: IpAddr, depth: usize) -> Word {
        if [true, false].iter().any(|v4| policy::read(record.as_bytes(), *v4).is_none()) {
            return Word::Broken(format!("the record of {domain} has a syntax error"));
        }
        self.policies += 1;
        if depth > DEPTH_MAX || self.policies > POLICIES_MAX {
            return Word::Broken("the policies include one another without end".to_owned());
        }
        let (mut verdict, mut redirect) = (None, None);
        let mut open = None;
        for term in terms(record) {
            if let Some(target) = strip(term, "redirect=") {
                redirect = Some(target.to_owned());
                continue;
            }
            if term.find('=').is_some_and(|at| !term[..at].contains([':', '/'])) {
                continue; // another modifier
            }
            let (qualifier, mechanism) = qualified(term);
            let matched = self.mechanism(domain, mechanism, address, depth);
            if verdict.is_some() {
                continue; // only the questions of the rest count
            }
            match matched {
                Match::Yes => verdict = Some(open.take().map_or(qualifier, Word::Unknown)),
                Match::No => {}
                Match::Open(why) => open = open.or(Some(why)),
                Match::Broken(why) => verdict = Some(Word::Broken(why)),
            }
        }
        if let Some(target) = redirect.filter(|_| !terms(record).any(|term| qualified(term).1 == "all")) {
            self.lookups += 1;
            let followed = self.follow(&target, address, depth);
            verdict = verdict.or(Some(match (followed, open.take()) {
                (Ok(word), None) => word,
                (_, Some(why)) => Word::Unknown(why),
                (Err(word), None) => word,
            }));
        }
        verdict.unwrap_or_else(|| open.map_or(Word::Neutral, Word::Unknown))
    }

    /// The policy of another name; `Err` when there is none to use.
    fn follow(&mut self, name: &str, address: IpAddr, depth: usize) -> Result<Word, Word> {
        if name.contains('%') {
            return Err(Word::Unknown(format!("`{name}` depends on the message")));
        }
        let name = plain(name);
        match self.inquiry.txt(&name) {
            Answer::Found(found) => match policies(&found.records).as_slice() {
                [one] => Ok(self.check(&name, &one.clone(), address, depth + 1)),
                [] => Err(Word::Broken(format!("{name} has no SPF record"))),
                _ => Err(Word::Broken(format!("{name} has several SPF records"))),
            },
            Answer::NoRecords | Answer::NxDomain => Err(Word::Broken(format!("{name} has no SPF record"))),
            Answer::Temporary(why) => Err(Word::Unknown(format!("{name}: {why}"))),
        }
    }

    fn mechanism(&mut self, domain: &str, mechanism: &str, address: IpAddr, depth: usize) -> Match {
        let lower = mechanism.to_ascii_lowercase();
        let at = lower.find([':', '/']).unwrap_or(lower.len());
        let (name, rest) = (&lower[..at], &lower[at..]);
        match name {
            "all" => Match::Yes,
            "ip4" | "ip6" => within(rest.trim_start_matches(':'), address),
            "include" => {
                self.lookups += 1;
                match self.follow(rest.trim_start_matches(':'), address, depth) {
                    Ok(Word::Pass) => Match::Yes,
                    Ok(Word::Fail | Word::SoftFail | Word::Neutral) => Match::No,
                    Ok(Word::Broken(why)) | Err(Word::Broken(why)) => Match::Broken(why),
                    Ok(Word::Unknown(why)) | Err(Word::Unknown(why)) => Match::Open(why),
                    Err(Word::Pass | Word::Fail | Word::SoftFail | Word::Neutral) => Match::No,
                }
            }
            "a" | "mx" => {
                self.lookups += 1;
                let (target, lengths) = target(rest, domain);
                if target.contains('%') {
                    return Match::Open(format!("`{mechanism}` depends on the message"));
                }
                let hosts = if name == "a" { Ok(vec![target.clone()]) } else { self.exchangers(&target) };
                match hosts {
                    Ok(hosts) if hosts.len() > EXCHANGERS_MAX => {
                        Match::Broken(format!("{target} has more than {EXCHANGERS_MAX} mail exchangers"))
                    }
                    Ok(hosts) => self.hosts(&hosts, lengths, address),
                    Err(why) => Match::Open(why),
                }
            }
            "exists" => {
                self.lookups += 1;
                if rest.contains('%') {
                    return Match::Open(format!("`{mechanism}` depends on the message"));
                }
                self.hosts_exist(&plain(rest.trim_start_matches(':')))
            }
            // Nobody should publish it, and many receivers skip it (section 5.5).
            "ptr" => {
                self.lookups += 1;
                Match::No
            }
            other => Match::Broken(format!("`{other}` is no mechanism")),
        }
    }

    fn exchangers(&mut self, domain: &str) -> Result<Vec<String>, String> {
        match self.inquiry.mx(domain) {
            Answer::Found(found) => {
                Ok(found.records.into_iter().map(|mx| mx.host).filter(|host| !host.is_empty()).collect())
            }
            Answer::NoRecords | Answer::NxDomain => {
                self.voids += 1;
                Ok(Vec::new())
            }
            Answer::Temporary(why) => Err(format!("{domain}: {why}")),
        }
    }

    fn hosts(&mut self, hosts: &[String], lengths: [u8; 2], address: IpAddr) -> Match {
        let mut open = None;
        for host in hosts {
            let looked = self.inquiry.host(host);
            let of_family = if address.is_ipv4() { &looked.v4 } else { &looked.v6 };
            self.voids += usize::from(is_void(of_family));
            let (found, why) = addresses(&looked);
            let length = lengths[usize::from(address.is_ipv6())];
            let covers = |found: &IpAddr| {
                found.is_ipv4() == address.is_ipv4()
                    && IpNet::new(*found, length).is_ok_and(|net| net.contains(&address))
            };
            if found.iter().any(covers) {
                return Match::Yes;
            }
            open = open.or(why.map(|why| format!("{host}: {why}")));
        }
        open.map_or(Match::No, Match::Open)
    }

    fn hosts_exist(&mut self, host: &str) -> Match {
        let looked = self.inquiry.host(host).v4;
        self.voids += usize::from(is_void(&looked));
        match looked {
            Answer::Found(_) => Match::Yes,
            Answer::NoRecords | Answer::NxDomain => Match::No,
            Answer::Temporary(why) => Match::Open(format!("{host}: {why}")),
        }
    }
}

fn is_void<T>(answer: &Answer<T>) -> bool {
    matches!(answer, Answer::NoRecords | Answer::NxDomain)
}

fn strip<'t>(term: &'t str, name: &str) -> Option<&'t str> {
    let (start, rest) = term.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(rest)
}

fn qualified(term: &str) -> (Word, &str) {
    let rest = term.get(1..).unwrap_or_default();
    match term.as_bytes().first() {
        Some(b'+') => (Word::Pass, rest),
        Some(b'-') => (Word::Fail, rest),
        Some(b'~') => (Word::SoftFail, rest),
        Some(b'?') => (Word::Neutral, rest),
        Some(_) | None => (Word::Pass, term),
    }
}

/// `:domain/24//64` as name and prefix lengths.
fn target(rest: &str, domain: &str) -> (String, [u8; 2]) {
    let (name, lengths) = rest.split_once('/').unwrap_or((rest, ""));
    let (v4, v6) = match lengths.strip_prefix('/') {
        Some(v6) => ("", v6),
        None => lengths.split_once("//").unwrap_or((lengths, "")),
    };
    let name = match name.trim_start_matches(':') {
        "" => domain.to_owned(),
        name => plain(name),
    };
    (name, [v4.parse().unwrap_or(32), v6.parse().unwrap_or(128)])
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn within(network: &str, address: IpAddr) -> Match {
    let net = network.parse::<IpNet>().or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
    match net {
        Ok(net) if net.contains(&address) => Match::Yes,
        Ok(_) => Match::No,
        Err(_) => Match::Broken(format!("`{network}` is no network")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::route::addresses::Looked;
    use crate::mail::outbound::route::answer::{Exchange, Found};
    use crate::records::answers::{Answers, Question, Reply};

    fn found<T>(records: Vec<T>) -> Answer<T> {
        Answer::Found(Found { records, secure: false, owner: String::new() })
    }

    fn world() -> Answers {
        let mut answers = Answers::default();
        let mut txt = |name: &str, text: &str| {
            answers.add(Question::Txt(name.to_owned()), Reply::Txt(found(vec![text.as_bytes().to_vec()])));
        };
        txt("inner.example", "v=spf1 ip4:192.0.2.0/28 ip6:2001:db8::/64 -all");
        txt("loop.example", "v=spf1 include:loop.example -all");
        txt("text.example", "hello");
        let mx = Exchange { preference: 10, host: "mx.our.example".to_owned() };
        answers.add(Question::Mx("our.example".to_owned()), Reply::Mx(found(vec![mx])));
        for name in ["mx.our.example", "our.example"] {
            let looked = Looked {
                host: name.to_owned(),
                preference: 0,
                v4: found(vec!["192.0.2.25".parse().unwrap()]),
                v6: Answer::NoRecords,
            };
            answers.add(Question::Host(name.to_owned()), Reply::Host(looked));
        }
        answers.add(
            Question::Txt("down.example".to_owned()),
            Reply::Txt(Answer::Temporary("no answer".to_owned())),
        );
        answers
    }

    fn judge(record: &str, address: &str) -> (Word, usize) {
        let answers = world();
        let mut inquiry = Inquiry::new(&answers);
        let mut walk = Walk::new(&mut inquiry);
        let word = walk.judge("our.example", record, address.parse().unwrap());
        (word, walk.lookups)
    }

    #[test]
    fn a_policy_says_whether_an_address_may_send_and_what_it_costs() {
        let table = [
            ("v=spf1 mx -all", "192.0.2.25", Word::Pass, 1),
            ("v=spf1 mx -all", "192.0.2.26", Word::Fail, 1),
            ("v=spf1 a ~all", "192.0.2.26", Word::SoftFail, 1),
            ("v=spf1 a/24 ~all", "192.0.2.26", Word::Pass, 1),
            ("v=spf1 a//64 -all", "192.0.2.26", Word::Fail, 1),
            ("v=spf1 a:mx.our.example/31 -all", "192.0.2.24", Word::Pass, 1),
            ("v=spf1 ip4:192.0.2.25", "192.0.2.25", Word::Pass, 0),
            ("v=spf1 ip4:192.0.2.25", "192.0.2.26", Word::Neutral, 0),
            ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::1", Word::Pass, 0),
            ("v=spf1 include:inner.example -all", "192.0.2.1", Word::Pass, 1),
            ("v=spf1 include:inner.example ~all", "192.0.2.99", Word::SoftFail, 1),
            ("v=spf1 INCLUDE:Inner.Example. ~ALL", "192.0.2.1", Word::Pass, 1),
            ("v=spf1 -include:inner.example +all", "192.0.2.1", Word::Fail, 1),
            ("v=spf1 redirect=inner.example", "192.0.2.1", Word::Pass, 1),
            ("v=spf1 redirect=inner.example", "192.0.2.99", Word::Fail, 1),
            ("v=spf1 mx redirect=inner.example -all", "192.0.2.1", Word::Fail, 1),
            ("v=spf1 ?all", "192.0.2.1", Word::Neutral, 0),
            ("v=spf1", "192.0.2.1", Word::Neutral, 0),
            ("v=spf1 ip4:192.0.2.25 mx a ptr include:inner.example -all", "192.0.2.25", Word::Pass, 4),
        ];
        for (record, address, word, lookups) in table {
            assert_eq!(judge(record, address), (word, lookups), "{record} for {address}");
        }
    }

    #[test]
    fn questions_that_find_nothing_are_counted() {
        let mut answers = world();
        for name in ["gone1.example", "gone2.example", "gone3.example"] {
            let (v4, v6) = (Answer::NxDomain, Answer::NxDomain);
            let looked = Looked { host: name.to_owned(), preference: 0, v4, v6 };
            answers.add(Question::Host(name.to_owned()), Reply::Host(looked));
        }
        answers.add(Question::Mx("gone1.example".to_owned()), Reply::Mx(Answer::NoRecords));
        for (record, address, voids) in [
            ("v=spf1 mx a -all", "192.0.2.25", 0),
            ("v=spf1 mx a -all", "2001:db8::25", 2), // each has an IPv4 address only
            ("v=spf1 a:gone1.example mx:gone1.example exists:gone1.example -all", "192.0.2.25", 3),
            ("v=spf1 mx a:gone1.example a:gone2.example a:gone3.example -all", "192.0.2.25", 3),
            ("v=spf1 a:%{d} include:down.example ptr -all", "192.0.2.25", 0),
        ] {
            let mut inquiry = Inquiry::new(&answers);
            let mut walk = Walk::new(&mut inquiry);
            walk.judge("our.example", record, address.parse().unwrap());
            assert_eq!(walk.voids, voids, "{record} for {address}");
        }
    }

    #[test]
    fn what_cannot_be_used_and_what_nobody_knows_are_told_apart() {
        for (record, broken) in [
            ("v=spf1 include:text.example -all", true),
            ("v=spf1 include:loop.example -all", true),
            ("v=spf1 ip4:300.0.0.1 -all", true),
            ("v=spf1 unknown -all", true),
            ("v=spf1 include:down.example -all", false),
            ("v=spf1 exists:%{i}.our.example -all", false),
            ("v=spf1 include:%{d}.our.example -all", false),
        ] {
            let (word, _) = judge(record, "192.0.2.77");
            match word {
                Word::Broken(why) => assert!(broken && !why.is_empty(), "{record}: {why}"),
                Word::Unknown(why) => assert!(!broken && !why.is_empty(), "{record}: {why}"),
                word @ (Word::Pass | Word::Fail | Word::SoftFail | Word::Neutral) => {
                    panic!("{record}: {word:?}")
                }
            }
        }
        assert_eq!(judge("v=spf1 ip4:192.0.2.25 include:down.example -all", "192.0.2.25").0, Word::Pass);
    }

    #[test]
    fn policies_are_told_from_other_texts() {
        let texts: Vec<Vec<u8>> =
            ["v=spf1 -all", "V=SPF1", "v=spf10 x", "hello"].iter().map(|t| t.as_bytes().to_vec()).collect();
        assert_eq!(policies(&texts), ["v=spf1 -all", "V=SPF1"]);
        assert!(passes_all("v=spf1 mx +ALL") && passes_all("v=spf1 all") && !passes_all("v=spf1 mx -all"));
    }
}
