//! What one message asks the DNS.
//!
//! mail-auth offers to remember answers; here it remembers nothing, because the resolver does. The offer is used to see
//! every question go by: to count them against the budget of the connection (U10), to count those that found nothing
//! (RFC 7208 section 4.6.4), and to slip in answers that were checked more strictly than mail-auth does.
//!
//! Whoever chooses the questions of SPF chooses the size of the answers, too. So they may fill [`ANSWERS_BYTES_MAX`] for one
//! message, and what is large is taken out of the resolver's memory again, which counts answers and not their size. Keys and
//! policies are few, and not counted: how much a stranger's SPF costs must not decide about their answers.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use mail_auth::common::resolver::ToFqdn as _;
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::net::{DnsError, NetError};
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail_auth::{DnssecStatus, MX, RecordSet, ResolverCache, Txt};

mod pointers;

use pointers::Pointers;

/// Most different names that the messages of one connection may make us ask for.
pub const NAMES_PER_CONNECTION_MAX: usize = 1000;
/// So many must be left for the next message: its policies must not go unread because of the messages before it.
const NAMES_PER_MESSAGE: usize = 400;
/// Most records taken from one answer.
const RECORDS_MAX: usize = 100;
/// Most memory for the answers that SPF of one message asks for, bytes. Large policies need a tenth.
const ANSWERS_BYTES_MAX: usize = 256 * 1024;
/// Largest answer that the resolver may go on remembering, bytes of memory.
const KEPT_BYTES_MAX: usize = 32 * 1024;
/// What one record takes in memory beside its data, bytes: sixteen octets on the wire become that many.
const RECORD_BYTES: usize = 300;
/// What one string of a TXT record takes beside its octets, bytes.
const STRING_BYTES: usize = 32;

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
    fn take(&mut self, question: &Question) -> bool {
        let question = hash(question);
        if !self.0.contains(&question) && self.0.len() >= NAMES_PER_CONNECTION_MAX {
            return false;
        }
        self.0.insert(question);
        true
    }
}

/// A question; the name as [`spelled`].
type Question = (Kind, Box<[u8]>);

fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Keeps what it is given. mail-auth shows a name only as something that can be hashed.
#[derive(Default)]
struct Letters(Vec<u8>);

impl Hasher for Letters {
    /// Nobody asks.
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }
}

/// The octets that a name gives to its hash.
fn spelled<T: Hash + ?Sized>(name: &T) -> Box<[u8]> {
    let mut letters = Letters::default();
    name.hash(&mut letters);
    letters.0.into_boxed_slice()
}

/// The name that was [`spelled`], if it was a text: behind its letters comes an octet that no text has.
fn text(spelled: &[u8]) -> Option<&str> {
    std::str::from_utf8(spelled.strip_suffix(&[0xff])?).ok()
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

impl Kind {
    fn record(self) -> RecordType {
        match self {
            Self::Txt => RecordType::TXT,
            Self::Mx => RecordType::MX,
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
            Self::Ptr => RecordType::PTR,
        }
    }
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
    /// More was asked for, or came, than one message may make us ask for and read.
    over: bool,
    answered: bool,
    /// Memory for the answers of SPF so far, all runs together.
    answers_bytes: usize,
    /// Answers that were checked before.
    known: HashMap<Box<str>, Txt>,
    /// What went by, in order.
    asked: Vec<Question>,
    /// What of it had records.
    found: HashSet<Question>,
    /// Names of TXT records that were found.
    texts: Vec<Box<str>>,
    /// Questions for addresses whose answers never came by here, of all runs.
    unseen: HashSet<Question>,
    pointers: Pointers,
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

    /// The message has asked for too much, or got too much: nothing is certain any more.
    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    /// The latest question was for a name that DNS cannot carry, so that nobody was asked.
    pub(super) fn is_no_name(&self) -> bool {
        let state = self.state();
        state
            .asked
            .last()
            .and_then(|(_, name)| text(name))
            .is_some_and(|name| Name::from_str_relaxed(name).is_err())
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
        let void = state.asked.iter().filter(|&question| {
            let (kind, name) = question;
            let of_it = |(other, asked): &Question, wanted: Kind| *other == wanted && asked == name;
            match kind {
                Kind::Mx => open(question),
                Kind::V4 => open(question) && !last.is_some_and(|last| of_it(last, Kind::V6)),
                Kind::V6 => open(question) && !state.asked.iter().any(|asked| of_it(asked, Kind::V4)),
                Kind::Txt | Kind::Ptr => false,
            }
        });
        void.count()
    }

    /// TXT records, the strings of each put together.
    pub(super) async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, Missing> {
        self.ask_txt(name).await.map(|(texts, _)| texts)
    }

    /// The same for SPF, where it counts how large the answer is.
    pub(super) async fn spf(&self, name: &str) -> Result<Vec<Vec<u8>>, Missing> {
        let (texts, bytes) = self.ask_txt(name).await?;
        self.weigh(bytes);
        Ok(texts)
    }

    /// TXT records, and how much memory the answer takes.
    async fn ask_txt(&self, name: &str) -> Result<(Vec<Vec<u8>>, usize), Missing> {
        let name = name.to_fqdn();
        if !self.may_ask(&(Kind::Txt, spelled::<str>(&name))) {
            return Err(Missing::Unknown);
        }
        let Ok(asked) = Name::from_str_relaxed(&*name) else { return Err(Missing::None) };
        let lookup = self.resolver.txt_lookup(asked.clone()).await.map_err(|error| self.missing(&error))?;
        self.state().answered = true;
        let texts = lookup.answers().iter().filter_map(|record| {
            let RData::TXT(txt) = &record.data else { return None };
            Some(&txt.txt_data)
        });
        let weight = |strings: &[Box<[u8]>]| -> usize {
            RECORD_BYTES + strings.iter().map(|string| STRING_BYTES + string.len()).sum::<usize>()
        };
        let bytes: usize = texts.clone().map(|strings| weight(strings)).sum();
        if bytes > KEPT_BYTES_MAX {
            self.resolver.clear_lookup_cache(asked, RecordType::TXT);
        }
        Ok((texts.take(RECORDS_MAX).map(|strings| strings.concat()).collect(), bytes))
    }

    fn missing(&self, error: &NetError) -> Missing {
        // The library's errors are many and may grow: only these are answers.
        let NetError::Dns(error) = error else { return Missing::Unknown };
        self.state().answered = true;
        let DnsError::NoRecordsFound(none) = error else { return Missing::Unknown };
        let empty = matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if empty { Missing::None } else { Missing::Unknown }
    }

    fn may_ask(&self, question: &Question) -> bool {
        let mut state = self.state();
        let may = state.budget.take(question);
        state.over |= !may;
        may
    }

    /// Counts an answer of SPF.
    fn weigh(&self, bytes: usize) {
        let mut state = self.state();
        state.answers_bytes = state.answers_bytes.saturating_add(bytes);
        state.over |= state.answers_bytes > ANSWERS_BYTES_MAX;
    }

    fn asked(&self, kind: Kind, name: Box<[u8]>) {
        let question = (kind, name);
        self.may_ask(&question);
        let mut state = self.state();
        if state.asked.len() < NAMES_PER_CONNECTION_MAX {
            if matches!(kind, Kind::V4 | Kind::V6) {
                state.unseen.insert(question.clone());
            }
            state.asked.push(question);
        }
    }

    /// An answer came by. `owner`: what the resolver remembers it under.
    fn found(&self, question: Question, owner: Option<Name>, bytes: usize) {
        self.weigh(bytes);
        let kind = question.0.record();
        {
            let mut state = self.state();
            state.answered = true;
            state.unseen.remove(&question);
            state.found.insert(question);
        }
        if let Some(owner) = owner.filter(|_| bytes > KEPT_BYTES_MAX) {
            self.resolver.clear_lookup_cache(owner, kind);
        }
    }
}

impl Drop for Lookups {
    /// Whether a name exists (`exists:`) is asked past our eyes, and such an answer may have any size.
    fn drop(&mut self) {
        let unseen = std::mem::take(&mut self.state().unseen);
        for (kind, name) in unseen {
            if let Some(owner) = text(&name).and_then(|name| Name::from_str_relaxed(name).ok()) {
                self.resolver.clear_lookup_cache(owner, kind.record());
            }
        }
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
        let name = spelled(name);
        // What a stranger's SPF costs decides about no policy, nor about the way up to it.
        let is_policy = text(&name).is_some_and(|name| name.starts_with("_dmarc."));
        self.asked(Kind::Txt, name);
        (self.state().over && !is_policy).then(not_now)
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

/// Data of a record, and how much memory it takes.
trait Data: Sized {
    fn bytes(&self) -> usize;

    /// That address, if the data is of its kind.
    fn of(_: IpAddr) -> Option<Self> {
        None
    }
}

impl Data for Ipv4Addr {
    fn bytes(&self) -> usize {
        RECORD_BYTES
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Data for Ipv6Addr {
    fn bytes(&self) -> usize {
        RECORD_BYTES
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }
}

impl Data for Box<str> {
    fn bytes(&self) -> usize {
        RECORD_BYTES + self.len()
    }
}

impl Data for MX {
    fn bytes(&self) -> usize {
        self.exchanges.iter().map(Data::bytes).sum()
    }
}

/// The other kinds are only watched; over the budget there is nothing.
macro_rules! watched {
    ($data:ty, $kind:expr) => {
        impl ResolverCache<Box<str>, RecordSet<$data>> for Lookups {
            fn get<Q>(&self, name: &Q) -> Option<RecordSet<$data>>
            where
                Box<str>: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                let name = spelled(name);
                if let Some(address) = self.leads_back(&name).and_then(<$data>::of) {
                    return Some(set(Arc::from([address])));
                }
                self.asked($kind, name);
                self.state().over.then(|| set(Arc::default()))
            }

            fn remove<Q>(&self, _: &Q) -> Option<RecordSet<$data>>
            where
                Box<str>: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                None
            }

            fn insert(&self, name: Box<str>, records: RecordSet<$data>, _: Instant) {
                let bytes = records.rrset.iter().map(Data::bytes).sum();
                self.found(($kind, spelled(&name)), Name::from_str_relaxed(&*name).ok(), bytes);
            }
        }
    };
}

watched!(MX, Kind::Mx);
watched!(Ipv4Addr, Kind::V4);
watched!(Ipv6Addr, Kind::V6);

fn set<T>(rrset: Arc<[T]>) -> RecordSet<T> {
    RecordSet { rrset, dnssec_status: DnssecStatus::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::route::dns::{Dns, DnsSettings};

    #[test]
    fn a_connection_has_had_its_share_before_a_message_lacks_answers() {
        let mut budget = Budget::default();
        let mut asked = 0_u64;
        while !budget.is_spent() {
            assert!(budget.take(&(Kind::Txt, spelled(&asked))));
            asked += 1;
        }
        assert!(asked > 500); // U10
        let room = NAMES_PER_MESSAGE as u64 + 100;
        let left = (0..room).filter(|n| budget.take(&(Kind::Mx, spelled(n)))).count();
        assert!(left >= NAMES_PER_MESSAGE - 1, "{left}");
        assert!(budget.is_spent());
    }

    #[tokio::test]
    async fn the_way_up_to_a_policy_is_asked_for_whatever_came_before() {
        let dns =
            Dns::new(&DnsSettings { servers: vec!["127.0.0.1:9".parse().unwrap()], ..Default::default() });
        let lookups = Lookups::new(dns.unwrap().plain().clone(), Budget::default());
        lookups.weigh(ANSWERS_BYTES_MAX + 1);
        let known = |name: &str| ResolverCache::<Box<str>, Txt>::get::<str>(&lookups, name).is_some();
        assert!(known("a.test.") && !known("_dmarc.a.test."));
    }

    #[test]
    fn a_name_that_is_hashed_can_be_read() {
        let owned: Box<str> = "a..b.example.".into();
        for spelled in [spelled("a..b.example."), spelled(&owned)] {
            assert_eq!(text(&spelled), Some("a..b.example."));
        }
        assert_eq!(text(&spelled(&7_u64)), None);
    }

    #[test]
    fn what_takes_much_memory_weighs_much_however_little_it_is_on_the_wire() {
        let four_thousand = [Ipv4Addr::LOCALHOST; 4000];
        assert!(four_thousand.iter().map(Data::bytes).sum::<usize>() > ANSWERS_BYTES_MAX);
        let usual = [Ipv4Addr::LOCALHOST; 40];
        assert!(usual.iter().map(Data::bytes).sum::<usize>() < KEPT_BYTES_MAX);
        let exchanger: Box<str> = "mx.a.example.".into();
        let mx = MX { exchanges: vec![exchanger; 3].into_boxed_slice(), preference: 10 };
        assert_eq!(mx.bytes(), 3 * (RECORD_BYTES + 13));
    }
}
