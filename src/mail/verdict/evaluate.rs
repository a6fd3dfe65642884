//! The checks of one message, by mail-auth and the daemon's resolver.
//!
//! Promises: every message gets its [`Judged`], within `verify.timeout_ms` and `DMARC_RESERVE`; a check without answers in
//! time is `temperror`, never `fail` (M4); a check that breaks is `temperror`, too, and the message is accepted all the same
//! (M15). At most [`EVALUATIONS_MAX`] at a time.
//!
//! What belongs to the author of a message and what a forger brings along are asked for at the same time, so that name servers
//! of the forger's that are slow cost him his own results, and not the author's policy.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all, join3};
use mail_auth::common::verify::VerifySignature as _;
use mail_auth::dkim::DkimError;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, DnsError, Error,
    MessageAuthenticator, Parameters, SpfOutput, SpfResult, Txt,
};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::inspector::{Flaw, Inspected};
use super::lookups::{Budget, Lookups, Missing};
use super::patience::Patience;
use super::signatures::{self, Candidate, Signed};
use super::spf::{self, Sender};
use super::{BODY_HASH_REASON, Dmarc, Spf, Verdicts, Word, key, record, results};
use crate::clock;
use crate::observe::Metrics;

/// Most messages that are checked at a time; the others wait, as part of their patience.
pub const EVALUATIONS_MAX: usize = 256;
/// Longest name in DNS, bytes of text.
const DOMAIN_BYTES_MAX: usize = 253;
/// Labels of a name that are walked up for a DMARC record (RFC 9989 section 4.10).
const WALK_MAX: usize = 8;
/// What DMARC has for itself when the time is over. The author's records are there by then; what is left are those between an
/// aligned name and the author's organisation.
const DMARC_RESERVE: Duration = Duration::from_millis(500);
/// What is written when DNS did not say.
const NO_ANSWER: &str = "no answer from DNS";

/// How messages are checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name, the `authserv-id`.
    pub hostname: String,
    /// Longest wait for all checks of one message.
    pub timeout: Duration,
    /// Refuse what fails DMARC when the domain asks for that.
    pub refuse_dmarc_reject: bool,
}

/// What became of the checks.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// What was found out.
    pub verdicts: Verdicts,
    /// Our `Authentication-Results` field; empty when nothing was checked.
    pub field: Vec<u8>,
    /// The domain of `From` asks for a refusal, and the operator for obedience.
    pub refuse: bool,
    /// What is left of the connection's budget.
    pub budget: Budget,
}

/// Checks messages; one for all listeners.
pub struct Verifier {
    settings: Settings,
    authenticator: MessageAuthenticator,
    gate: Semaphore,
    patience: Mutex<Patience>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Verifier {
    /// `resolver`: shared with whoever else asks, and with it what it remembers.
    #[must_use]
    pub fn new(settings: Settings, resolver: &TokioResolver, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            patience: Mutex::new(Patience::new(settings.timeout)),
            settings,
            authenticator: MessageAuthenticator(resolver.clone()),
            gate: Semaphore::new(EVALUATIONS_MAX),
            metrics,
        })
    }

    /// Checks one message.
    pub async fn judge(self: &Arc<Self>, sender: Sender, inspected: Inspected, budget: Budget) -> Judged {
        let started = clock::monotonic();
        let (this, known) = (Arc::clone(self), (sender.clone(), budget.clone()));
        // In a task of its own, so that a panic in there is no more than a check that broke.
        let checks = tokio::spawn(async move { this.evaluate(&sender, &inspected, budget).await }).await;
        let mut judged = checks.unwrap_or_else(|error| {
            tracing::error!(event = "relay.verify.broke", %error, "the checks of a message broke");
            let (sender, budget) = known;
            self.finish(broken(&sender, Word::TempError, "the check broke"), Vec::new(), budget)
        });
        let (verdicts, seconds) = (&judged.verdicts, clock::monotonic().saturating_duration_since(started));
        judged.refuse = self.settings.refuse_dmarc_reject
            && verdicts.dmarc.word == Word::Fail
            && verdicts.dmarc.policy == "reject";
        self.metrics.verdicts.judged(seconds.as_secs_f64());
        for (method, word) in verdicts.words() {
            self.metrics.verdicts.found(method, word.as_str());
        }
        tracing::debug!(
            event = "relay.verify.done",
            spf = verdicts.spf.word.as_str(),
            dkim = verdicts.dkim_word().as_str(),
            dmarc = verdicts.dmarc.word.as_str(),
            arc = verdicts.arc.as_str(),
            duration_ms = u64::try_from(seconds.as_millis()).unwrap_or(u64::MAX),
            "checked the sender",
        );
        judged
    }

    fn finish(&self, verdicts: Verdicts, b: Vec<String>, budget: Budget) -> Judged {
        let field = results::field(&self.settings.hostname, &verdicts, &b);
        Judged { verdicts, field, refuse: false, budget }
    }

    fn patience(&self) -> std::sync::MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn evaluate(&self, sender: &Sender, inspected: &Inspected, budget: Budget) -> Judged {
        let started = clock::monotonic();
        let (allowed, full) = {
            let mut patience = self.patience();
            (patience.allowed(), patience.full())
        };
        let Some(_turn) = within(started + allowed, self.gate.acquire()).await else {
            self.metrics.verdicts.timed_out();
            return self.finish(
                broken(sender, Word::TempError, "too many checks at a time"),
                Vec::new(),
                budget,
            );
        };
        let mut tried = self.attempt(sender, inspected, budget, started + allowed).await;
        if tried.late && tried.answered && allowed < full {
            // The resolver lives after all; strangers whose domains are dead made us impatient.
            tried = self.attempt(sender, inspected, tried.judged.budget, started + full).await;
        }
        if tried.late {
            self.metrics.verdicts.timed_out();
        }
        let mut patience = self.patience();
        if tried.answered {
            patience.answered();
        } else if tried.late && patience.was_silent() {
            tracing::warn!(
                event = "relay.verify.resolver_silent",
                "no name server answers: incoming mail is accepted unchecked, and waits less for the checks until one does"
            );
        }
        tried.judged
    }

    async fn attempt(
        &self,
        sender: &Sender,
        inspected: &Inspected,
        budget: Budget,
        deadline: Instant,
    ) -> Attempt {
        let lookups = Lookups::new(self.authenticator.0.clone(), budget);
        let check = Check { authenticator: &self.authenticator, lookups: &lookups, deadline };
        let (verdicts, b) = check.all(sender, inspected, &self.settings.hostname).await;
        Attempt {
            judged: self.finish(verdicts, b, lookups.budget()),
            late: clock::monotonic() >= deadline,
            answered: lookups.answered(),
        }
    }
}

/// The checks of one message, made once.
struct Attempt {
    judged: Judged,
    /// The time was over.
    late: bool,
    /// The resolver has said something.
    answered: bool,
}

/// Verdicts of checks that were not made.
fn broken(sender: &Sender, word: Word, reason: &str) -> Verdicts {
    let reason = reason.to_owned();
    Verdicts {
        spf: Spf { word, reason: reason.clone(), ..spf::found(&SpfOutput::default(), sender) },
        dkim: Vec::new(),
        dmarc: Dmarc { word, reason, ..Dmarc::default() },
        arc: word,
    }
}

/// `None` when the time is over.
async fn within<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    timeout_at(deadline.into(), future).await.ok()
}

struct Check<'a> {
    authenticator: &'a MessageAuthenticator,
    lookups: &'a Lookups,
    deadline: Instant,
}

impl Check<'_> {
    /// All verdicts, and the beginnings of the signatures.
    async fn all(&self, sender: &Sender, inspected: &Inspected, ours: &str) -> (Verdicts, Vec<String>) {
        let now = clock::wall().0 / 1000;
        let flaw = inspected.flaw;
        let read = flaw.map_or_else(|| signatures::read(&inspected.header, Some(now)), Err);
        let mut signed = match read {
            Ok(signed) => signed,
            Err(flaw) => {
                let spf = self.spf(sender, ours).await;
                let (word, reason) = excuse(flaw);
                return (
                    Verdicts { spf: spf::found(&spf, sender), ..broken(sender, word, reason) },
                    Vec::new(),
                );
            }
        };
        signatures::fill(&mut signed.message, &inspected.hashes);
        let Signed { mut message, mut dkim, from_fields, arc } = signed;
        // With a final dot it is the same name, but the library asks for another one.
        let dot = |c| matches!(c, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}'); // as UTS 46 has it
        message.from.iter_mut().for_each(|from| from.truncate(from.trim_end_matches(dot).len()));
        let author = author(&message.from, from_fields);
        let policies = async {
            if let Ok(domain) = &author {
                self.policies(domain).await;
            }
        };
        // The policies come first, so that nothing that a stranger makes us ask for takes their place.
        let ((), (), spf) = join3(policies, self.keys(&mut dkim), self.spf(sender, ours)).await;
        message.dkim_headers = dkim.iter_mut().filter_map(|candidate| candidate.header.take()).collect();
        let message = &message;
        let (outputs, arc) = join(self.dkim(message), self.arc(message, arc)).await;
        let mut counted = Vec::new();
        let mut verified = outputs.into_iter();
        for candidate in dkim.iter_mut().filter(|candidate| candidate.found.word == Word::None) {
            let Some(output) = verified.next() else {
                (candidate.found.word, candidate.found.reason) = (Word::TempError, NO_ANSWER.to_owned());
                continue;
            };
            let (word, reason) = dkim_word(output.result());
            let partial = candidate.partial && word == Word::Pass;
            let (word, reason) =
                if partial { (Word::Policy, "a part of the body is not signed") } else { (word, reason) };
            (candidate.found.word, candidate.found.reason) = (word, reason.to_owned());
            if matches!(word, Word::Pass | Word::TempError) {
                counted.push(output);
            }
        }
        let dmarc = match author {
            Ok(domain) => self.dmarc(message, domain, &counted, &spf, sender).await,
            Err((word, reason)) => Dmarc { word, reason: reason.to_owned(), ..Dmarc::default() },
        };
        let b = dkim.iter().map(|candidate| candidate.b.clone()).collect();
        let dkim = dkim.into_iter().map(|candidate| candidate.found).collect();
        (Verdicts { spf: spf::found(&spf, sender), dkim, dmarc, arc }, b)
    }

    async fn spf(&self, sender: &Sender, ours: &str) -> SpfOutput {
        let check = spf::check(self.authenticator, self.lookups, sender, ours, self.deadline);
        within(self.deadline, check)
            .await
            .unwrap_or_else(|| SpfOutput::new(sender.domain()).with_result(SpfResult::TempError))
    }

    /// Asks for the keys, and settles the signatures whose key may not be used.
    async fn keys(&self, candidates: &mut [Candidate<'_>]) {
        join_all(candidates.iter_mut().map(|candidate| self.key(candidate))).await;
    }

    async fn key(&self, candidate: &mut Candidate<'_>) {
        let Some(header) = &candidate.header else { return };
        let name = header.header.domain_key();
        let found = within(self.deadline, self.lookups.txt(&name)).await.unwrap_or(Err(Missing::Unknown));
        let usable = match found {
            Ok(records) => key::usable(&records),
            Err(Missing::None) => Err((Word::Neutral, "no key")),
            Err(Missing::Unknown) => Err((Word::TempError, NO_ANSWER)),
        };
        match usable {
            Ok(key) => self.lookups.know(&name, Txt::from(key)),
            // It stays among the signatures: whether DMARC has to wait for this key depends on whose it is.
            Err((Word::TempError, _)) => {
                self.lookups.know(&name, Txt::Error(Error::Dns(DnsError::Resolver(NO_ANSWER.to_owned()))));
            }
            Err((word, reason)) => {
                candidate.header = None;
                (candidate.found.word, candidate.found.reason) = (word, reason.to_owned());
            }
        }
    }

    /// One output for each signature; none when the time is over.
    async fn dkim<'m>(&'m self, message: &'m AuthenticatedMessage<'m>) -> Vec<DkimOutput<'m>> {
        if message.dkim_headers.is_empty() {
            return Vec::new();
        }
        // The keys are known: this asks nobody.
        let parameters = Parameters::new(message).with_txt_cache(self.lookups);
        within(self.deadline.max(clock::monotonic()), self.authenticator.verify_dkim(parameters))
            .await
            .unwrap_or_default()
    }

    async fn arc<'m>(&'m self, message: &'m AuthenticatedMessage<'m>, known: Option<Word>) -> Word {
        if let Some(word) = known {
            return word;
        }
        let parameters = Parameters::new(message).with_txt_cache(self.lookups);
        let Some(output) = within(self.deadline, self.authenticator.verify_arc(parameters)).await else {
            return Word::TempError;
        };
        let partial = message.ams_headers.last().is_some_and(|header| header.header.l > 0);
        match output.result() {
            DkimResult::Pass if partial => Word::Policy,
            DkimResult::Pass => Word::Pass,
            DkimResult::TempError(_) => Word::TempError,
            DkimResult::None => Word::None,
            DkimResult::Neutral(_) | DkimResult::Fail(_) | DkimResult::PermError(_) => Word::Fail,
        }
    }

    async fn dmarc<'m>(
        &'m self,
        message: &'m AuthenticatedMessage<'m>,
        domain: String,
        dkim: &'m [DkimOutput<'m>],
        spf: &'m SpfOutput,
        sender: &Sender,
    ) -> Dmarc {
        let until = self.deadline.max(clock::monotonic() + DMARC_RESERVE);
        let checked = within(until, async {
            let from = sender.domain();
            let parameters = Parameters::new(DmarcParameters {
                message,
                dkim_output: dkim,
                dkim2_output: None,
                rfc5321_mail_from_domain: &from,
                spf_output: spf,
            });
            let output = self.authenticator.verify_dmarc(parameters.with_txt_cache(self.lookups)).await;
            found(&output, domain.clone())
        });
        let late = Dmarc {
            word: Word::TempError,
            reason: NO_ANSWER.to_owned(),
            domain: domain.clone(),
            ..Dmarc::default()
        };
        checked.await.unwrap_or(late)
    }

    /// Looks up the records on the way from a domain to the root, all at once. Several at one name are none (RFC 9989
    /// section 4.10.1).
    async fn policies(&self, domain: &str) {
        let labels: Vec<&str> = domain.split('.').collect();
        let total = labels.len();
        let lengths = std::iter::once(total).chain((1..total.min(WALK_MAX)).rev());
        let names = lengths.map(|length| format!("_dmarc.{}", labels[total - length..].join(".")));
        join_all(names.map(|name| async move {
            let error = |error| Txt::Error(Error::Dns(error));
            let found = within(self.deadline, self.lookups.txt(&name)).await.unwrap_or(Err(Missing::Unknown));
            let answer = match found {
                Ok(records) => {
                    let mut valid = records.iter().filter_map(|text| record::read(text));
                    match (valid.next(), valid.next()) {
                        (Some(only), None) => Txt::from(only),
                        _ => error(DnsError::InvalidRecordType),
                    }
                }
                Err(Missing::None) => error(DnsError::InvalidRecordType),
                Err(Missing::Unknown) => error(DnsError::Resolver(NO_ANSWER.to_owned())),
            };
            self.lookups.know(&name, answer);
        }))
        .await;
    }
}

/// The domain whose policy counts.
///
/// # Errors
/// Why there is none.
fn author(addresses: &[String], from_fields: usize) -> Result<String, (Word, &'static str)> {
    let none = |reason| Err((Word::None, reason));
    // Never choose silently (M7): whoever shows the message may choose otherwise. The library writes addresses that
    // nothing separates as one.
    let address = match (from_fields, addresses) {
        (0, _) => return none("no From field"),
        (1, [address]) if address.matches('@').count() > 1 => return none("several addresses in From"),
        (1, [address]) => address,
        (1, []) => return none("no address in From"),
        (1, _) => return none("several addresses in From"),
        // RFC 5322 section 3.6 allows one: whoever writes two means to show one and to have the other judged.
        _ => return Err((Word::PermError, "several From fields")),
    };
    let Some((_, domain)) = address.rsplit_once('@') else { return none("no address in From") };
    let domain = match idna::domain_to_ascii(domain) {
        Ok(domain) => domain,
        // An odd `xn--` label does not take a name out of its owner's policy.
        Err(_) if domain.is_ascii() => domain.to_ascii_lowercase(),
        Err(_) => return none("no domain in From"),
    };
    // A folded address may be as long as a whole field; what goes into records and frames is a name.
    if domain.len() > DOMAIN_BYTES_MAX { none("no domain in From") } else { Ok(domain) }
}

fn excuse(flaw: Flaw) -> (Word, &'static str) {
    match flaw {
        Flaw::HeaderTooLarge => (Word::PermError, "header is too large"),
        Flaw::HeaderMalformed => (Word::PermError, "header is malformed"),
        Flaw::Unreadable => (Word::TempError, "the check broke"),
    }
}

fn dkim_word(result: &DkimResult) -> (Word, &'static str) {
    match result {
        DkimResult::Pass => (Word::Pass, ""),
        DkimResult::Neutral(Error::Dkim(DkimError::FailedBodyHashMatch)) => (Word::Fail, BODY_HASH_REASON),
        DkimResult::Neutral(_) | DkimResult::None => (Word::Neutral, "malformed signature"),
        DkimResult::Fail(Error::Dkim(DkimError::FailedAuidMatch)) => (Word::Fail, "i= does not match d="),
        DkimResult::Fail(_) => (Word::Fail, "signature did not verify"),
        DkimResult::PermError(_) => (Word::PermError, "malformed key record"),
        DkimResult::TempError(_) => (Word::TempError, NO_ANSWER),
    }
}

fn found(output: &DmarcOutput, domain: String) -> Dmarc {
    let (word, reason) = match output.result() {
        DmarcResult::Pass => (Word::Pass, ""),
        DmarcResult::Fail(_) => (Word::Fail, "neither SPF nor DKIM vouches for the domain of From"),
        DmarcResult::TempError(_) => (Word::TempError, NO_ANSWER),
        DmarcResult::PermError(_) => (Word::PermError, "policy cannot be read"),
        DmarcResult::None => (Word::None, ""),
    };
    let policy = output.dmarc_record().map(|_| output.policy().to_string()).unwrap_or_default();
    Dmarc { word, domain, policy, reason: reason.to_owned() }
}
