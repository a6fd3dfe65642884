//! PURE: what was asked and what came back, and the questions that are still open.
//!
//! A judgement takes what it needs through an [`Inquiry`]. What is not there yet becomes an open question and, for the
//! moment, "no answer"; the driver asks and judges again until nothing is open. So there is one walk through all records,
//! and no second list of questions that could differ from it.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use crate::mail::outbound::route::addresses::Looked;
use crate::mail::outbound::route::answer::{Answer, Exchange};
use crate::mail::outbound::route::dane::RawTlsa;
use crate::mail::outbound::route::mta_sts::Policy;

/// Most questions of one check.
pub const QUESTIONS_MAX: usize = 1000;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// MX records.
    Mx(String),
    /// A and AAAA records.
    Host(String),
    /// TXT records.
    Txt(String),
    /// Names of an address.
    Ptr(IpAddr),
    /// TLSA records.
    Tlsa(String),
    /// CAA records.
    Caa(String),
    /// The MTA-STS policy of a domain, over HTTPS.
    Policy(String),
    /// What a mail server says first: `host:port`.
    Greeting(String),
    /// Whether the name server checks DNSSEC.
    Validates,
}

/// A CAA record (RFC 8659).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caa {
    /// `issue`, `issuewild`, `iodef`, ...; lower case.
    pub tag: String,
    /// Its value.
    pub value: String,
}

/// What became of a connection to a mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It said this.
    Said(String),
    /// Nothing came back.
    Silent,
    /// It was refused, or there is no way.
    Failed(String),
    /// Its name has no address, or nobody could say.
    Unresolved(String),
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Question::Mx`].
    Mx(Answer<Exchange>),
    /// To [`Question::Host`].
    Host(Looked),
    /// To [`Question::Txt`].
    Txt(Answer<Vec<u8>>),
    /// To [`Question::Ptr`].
    Ptr(Answer<String>),
    /// To [`Question::Tlsa`].
    Tlsa(Answer<RawTlsa>),
    /// To [`Question::Caa`].
    Caa(Answer<Caa>),
    /// To [`Question::Policy`].
    Policy(Result<Policy, String>),
    /// To [`Question::Greeting`].
    Greeting(Greeting),
    /// To [`Question::Validates`].
    Validates(bool),
}

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Answers(BTreeMap<Question, Reply>);

impl Answers {
    /// Adds one.
    pub fn add(&mut self, question: Question, reply: Reply) {
        self.0.insert(question, reply);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One walk through the answers.
#[derive(Debug)]
pub struct Inquiry<'a> {
    answers: &'a Answers,
    open: BTreeSet<Question>,
}

const NO_ANSWER: &str = "no answer in time";

impl<'a> Inquiry<'a> {
    /// Begins one.
    #[must_use]
    pub fn new(answers: &'a Answers) -> Self {
        Self { answers, open: BTreeSet::new() }
    }

    /// What is not known yet, at most as much as one check may ask.
    #[must_use]
    pub fn into_open(self) -> Vec<Question> {
        let room = QUESTIONS_MAX.saturating_sub(self.answers.len());
        self.open.into_iter().take(room).collect()
    }

    fn find(&mut self, question: Question) -> Option<&'a Reply> {
        let found = self.answers.0.get(&question);
        if found.is_none() {
            self.open.insert(question);
        }
        found
    }

    /// MX records of a domain.
    pub fn mx(&mut self, domain: &str) -> Answer<Exchange> {
        if let Some(Reply::Mx(answer)) = self.find(Question::Mx(domain.to_owned())) {
            return answer.clone();
        }
        Answer::Temporary(NO_ANSWER.to_owned())
    }

    /// Addresses of a host.
    pub fn host(&mut self, host: &str) -> Looked {
        if let Some(Reply::Host(looked)) = self.find(Question::Host(host.to_owned())) {
            return looked.clone();
        }
        let none = || Answer::Temporary(NO_ANSWER.to_owned());
        Looked { host: host.to_owned(), preference: 0, v4: none(), v6: none() }
    }

    /// TXT records of a name.
    pub fn txt(&mut self, name: &str) -> Answer<Vec<u8>> {
        if let Some(Reply::Txt(answer)) = self.find(Question::Txt(name.to_owned())) {
            return answer.clone();
        }
        Answer::Temporary(NO_ANSWER.to_owned())
    }

    /// Names of an address.
    pub fn ptr(&mut self, address: IpAddr) -> Answer<String> {
        if let Some(Reply::Ptr(answer)) = self.find(Question::Ptr(address)) {
            return answer.clone();
        }
        Answer::Temporary(NO_ANSWER.to_owned())
    }

    /// TLSA records of a name.
    pub fn tlsa(&mut self, name: &str) -> Answer<RawTlsa> {
        if let Some(Reply::Tlsa(answer)) = self.find(Question::Tlsa(name.to_owned())) {
            return answer.clone();
        }
        Answer::Temporary(NO_ANSWER.to_owned())
    }

    /// CAA records of a name.
    pub fn caa(&mut self, name: &str) -> Answer<Caa> {
        if let Some(Reply::Caa(answer)) = self.find(Question::Caa(name.to_owned())) {
            return answer.clone();
        }
        Answer::Temporary(NO_ANSWER.to_owned())
    }

    /// The MTA-STS policy of a domain.
    pub fn policy(&mut self, domain: &str) -> Result<Policy, String> {
        if let Some(Reply::Policy(found)) = self.find(Question::Policy(domain.to_owned())) {
            return found.clone();
        }
        Err(NO_ANSWER.to_owned())
    }

    /// What a mail server says first.
    pub fn greeting(&mut self, target: &str) -> Greeting {
        if let Some(Reply::Greeting(greeting)) = self.find(Question::Greeting(target.to_owned())) {
            return greeting.clone();
        }
        Greeting::Unresolved(NO_ANSWER.to_owned())
    }

    /// Whether the name server checks DNSSEC.
    pub fn validates(&mut self) -> bool {
        matches!(self.find(Question::Validates), Some(Reply::Validates(true)))
    }
}

/// Addresses of both families, and why the list may not be whole.
#[must_use]
pub fn addresses(looked: &Looked) -> (Vec<IpAddr>, Option<String>) {
    let found = [&looked.v4, &looked.v6].into_iter().filter_map(Answer::found);
    let all = found.flat_map(|found| found.records.iter().copied()).collect();
    let why = looked.v4.temporary().or_else(|| looked.v6.temporary());
    (all, why.map(str::to_owned))
}
