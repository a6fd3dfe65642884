//! What one message asks the DNS.
//!
//! mail-auth offers to remember answers; here it remembers nothing, because the resolver does. The offer is used to see
//! every question go by: to count them against the budget of the connection (U10), to count those that found nothing
//! (RFC 7208 section 4.6.4), and to slip in answers that were checked more strictly than mail-auth does.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use mail_auth::common::resolver::ToFqdn as _;
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::net::{DnsError, NetError};
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::hickory_resolver::proto::rr::{Name, RData};
use mail_auth::{MX, RecordSet, ResolverCache, Txt};

/// Most different names that the messages of one connection may make us ask for.
pub const NAMES_PER_CONNECTION_MAX: usize = 1000;
/// So many must be left for the next message: its policies must not go unread because of the messages before it.
const NAMES_PER_MESSAGE: usize = 400;
/// Most records taken from one answer.
const RECORDS_MAX: usize = 100;

/// Names that a connection has made us ask for, as hashes.
#[derive(Clone, Debug, Default)]
pub struct Budget(HashSet<u64>);

impl Budget {
    /// True when there may be too little left for one more message.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.0.len() + NAMES_PER_MESSAGE > NAMES_PER_CONNECTION_MAX
    }

    /// True while the question is known or there is room for it.
    fn take(&mut self, question: Question) -> bool {
        let question = hash(&question);
        if !self.0.contains(&question) && self.0.len() >= NAMES_PER_CONNECTION_MAX {
            return false;
        }
        self.0.insert(question);
        true
    }
}

/// A question; of the name only a hash, because mail-auth shows no more of it.
type Question = (Kind, u64);

fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Txt,
    Mx,
    V4,
    V6,
    Ptr,
}

/// Why there are no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// There are none.
    None,
    /// Nobody can say now.
    Unknown,
}

/// The questions of one message.
pub(super) struct Lookups {
    resolver: TokioResolver,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    budget: Budget,
    over: bool,
    answered: bool,
    /// Answers that were checked before.
    known: HashMap<Box<str>, Txt>,
    /// What went by, in order.
    asked: Vec<Question>,
    /// What of it had records.
    found: HashSet<Question>,
    /// Names of TXT records that were found.
    texts: Vec<Box<str>>,
}

impl Lookups {
    pub(super) fn new(resolver: TokioResolver, budget: Budget) -> Self {
        Self { resolver, state: Mutex::new(State { budget, ..State::default() }) }
    }

    /// A panic while it was held has left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The connection's budget, with what this message took of it.
    pub(super) fn budget(&self) -> Budget {
        self.state().budget.clone()
    }

    /// The resolver has said something, and be it that there is nothing.
    pub(super) fn answered(&self) -> bool {
        self.state().answered
    }

    /// What a later question for this TXT record is answered with.
    pub(super) fn know(&self, name: &str, answer: Txt) {
        let key = name.to_fqdn().into_owned().into_boxed_str();
        self.state().known.insert(key, answer);
    }

    /// Forgets which questions went by.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.asked.clear();
        state.found.clear();
        state.texts.clear();
    }

    /// Names of the TXT records that were found and not known before.
    pub(super) fn texts(&self) -> Vec<Box<str>> {
        self.state().texts.clone()
    }

    /// How many of the questions for addresses and exchangers found nothing. Whether a name exists (`exists:`) is asked
    /// for both kinds of addresses, and nobody tells us what became of it; but when it does, nothing is asked after it.
    pub(super) fn void(&self) -> usize {
        let state = self.state();
        let last = state.asked.iter().rev().find(|(kind, _)| *kind != Kind::Txt);
        let open = |question: &Question| !state.found.contains(question);
        let void = state.asked.iter().filter(|&&(kind, name)| match kind {
            Kind::Mx => open(&(kind, name)),
            Kind::V4 => open(&(kind, name)) && !(last == Some(&(Kind::V6, name))),
            Kind::V6 => open(&(kind, name)) && !state.asked.contains(&(Kind::V4, name)),
            Kind::Txt | Kind::Ptr => false,
        });
        void.count()
    }

    /// TXT records, the strings of each put together.
    pub(super) async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, Missing> {
        if !self.may_ask(Kind::Txt, hash(name.to_fqdn().as_ref())) {
            return Err(Missing::Unknown);
        }
        let Ok(asked) = Name::from_str_relaxed(name.to_fqdn().as_ref()) else { return Err(Missing::None) };
        let lookup = self.resolver.txt_lookup(asked).await.map_err(|error| self.missing(&error))?;
        self.state().answered = true;
        let texts = lookup.answers().iter().filter_map(|record| {
            let RData::TXT(txt) = &record.data else { return None };
            Some(txt.txt_data.concat())
        });
        Ok(texts.take(RECORDS_MAX).collect())
    }

    fn missing(&self, error: &NetError) -> Missing {
        // The library's errors are many and may grow: only these are answers.
        let NetError::Dns(error) = error else { return Missing::Unknown };
        self.state().answered = true;
        let DnsError::NoRecordsFound(none) = error else { return Missing::Unknown };
        let empty = matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if empty { Missing::None } else { Missing::Unknown }
    }

    fn may_ask(&self, kind: Kind, name: u64) -> bool {
        let mut state = self.state();
        let may = state.budget.take((kind, name));
        state.over |= !may;
        may
    }

    fn asked(&self, kind: Kind, name: u64) {
        self.may_ask(kind, name);
        let mut state = self.state();
        if state.asked.len() < NAMES_PER_CONNECTION_MAX {
            state.asked.push((kind, name));
        }
    }

    fn found(&self, kind: Kind, name: u64) {
        let mut state = self.state();
        state.answered = true;
        state.found.insert((kind, name));
    }
}

/// What a question over the budget is answered with.
fn not_now() -> Txt {
    Txt::Error(mail_auth::Error::Dns(mail_auth::DnsError::Resolver("over the budget".to_owned())))
}

impl ResolverCache<Box<str>, Txt> for Lookups {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let known = self.state().known.get(name).cloned();
        if known.is_some() {
            return known;
        }
        self.asked(Kind::Txt, hash(name));
        self.state().over.then(not_now)
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, name: Box<str>, _: Txt, _: Instant) {
        let mut state = self.state();
        state.answered = true;
        state.texts.push(name);
    }
}

/// The other kinds are only watched.
macro_rules! watched {
    ($key:ty, $value:ty, $kind:expr) => {
        impl ResolverCache<$key, $value> for Lookups {
            fn get<Q>(&self, name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                self.asked($kind, hash(name));
                None
            }

            fn remove<Q>(&self, _: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                None
            }

            fn insert(&self, name: $key, _: $value, _: Instant) {
                self.found($kind, hash(&name));
            }
        }
    };
}

watched!(Box<str>, RecordSet<MX>, Kind::Mx);
watched!(Box<str>, RecordSet<Ipv4Addr>, Kind::V4);
watched!(Box<str>, RecordSet<Ipv6Addr>, Kind::V6);
watched!(IpAddr, RecordSet<Box<str>>, Kind::Ptr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_had_its_share_before_a_message_lacks_answers() {
        let mut budget = Budget::default();
        let mut asked = 0;
        while !budget.is_spent() {
            assert!(budget.take((Kind::Txt, asked)));
            asked += 1;
        }
        assert!(asked > 500); // U10
        let left = (0..NAMES_PER_MESSAGE as u64 + 100).filter(|n| budget.take((Kind::Mx, *n))).count();
        assert!(left >= NAMES_PER_MESSAGE - 1, "{left}");
        assert!(budget.is_spent());
    }
}
