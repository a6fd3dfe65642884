//! One attempt: the driver between [`Submission`]'s machine and DNS, connections and the spool.
//!
//! It performs steps in order; [`conclude`] writes down what came of them. Policy: what cannot be read is put off,
//! and when the relay stops, what is not armed is dropped, and what is armed waits for its verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use spool::error::SpoolError;
use spool::ids::{ItemId, WallMs};
use spool::submission::Submission as Stored;
use spool::types::State;
use tracing::Instrument as _;

use super::super::connection::{Connection, Failure, FailureKind, Outcome, Stage};
use super::super::ledger::Written;
use super::super::route::{Learned, RouteError};
use super::super::schedule::Health;
use super::super::submission::{Ending, Event, Step, Submission, Terms, Verdict};
use super::super::values::{Attempt, Endpoint, Note, TlsLevel};
use super::handover::Handover;
use super::letter::{Letter, LetterError};
use super::{Plan, Shared};
use crate::clock;

mod conclude;

/// A submission whose record cannot be read is looked at again after this.
const UNREADABLE_WAIT_MS: u64 = 300_000;
/// What a revoked mailbox submitted before is looked at again after this: whoever stole its key is stopped, and nothing
/// is lost when it is allowed again (U5).
const REVOKED_WAIT_MS: u64 = 600_000;
/// Longest time one attempt goes from host to host; the hosts left are for the next one (P17).
const ATTEMPT_MAX: Duration = Duration::from_secs(3600);

/// What the schedule learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) health: Health,
    /// When the submission is to be looked at again; `None`: it is done, or somebody will ring.
    pub(super) next: Option<WallMs>,
}

const NOTHING: Report = Report { health: Health::Unknown, next: None };

/// Attempts `id` once.
pub(super) async fn run(shared: Arc<Shared>, id: ItemId) -> Report {
    match shared.ledger.submission(id).await {
        Ok(Some((stored, is_revoked))) if stored.info.state == State::Ready => {
            let (now, plan) = (clock::wall(), shared.plan.get());
            let due = plan.settings.schedule.retry.believed(stored.due, now);
            if due > now {
                return Report { next: Some(due), ..NOTHING };
            }
            let expires_at = stored.info.accepted_at.plus(plan.settings.expire_ms);
            if is_revoked && now < expires_at {
                let due = now.plus(REVOKED_WAIT_MS).min(expires_at);
                let note = Note::line("its mailbox is revoked; it waits until that is allowed again");
                let _ = shared.ledger.postpone(id, due, &note, now).await;
                return Report { next: Some(due), ..NOTHING };
            }
            let attempt = match Attempting::new(&shared, id, &stored).await {
                Ok(attempt) => attempt,
                Err(_) => return NOTHING,
            };
            let span = tracing::debug_span!(
                "delivery.attempt",
                submission.id = %id,
                attempt = attempt.number,
                destination = attempt.destination,
                outcome = tracing::field::Empty,
                host = tracing::field::Empty,
                tls = tracing::field::Empty,
                smtp.code = tracing::field::Empty,
            );
            attempt.run(stored).instrument(span).await
        }
        Ok(_) => NOTHING,
        Err(error) => {
            let note = Note::line(format!("the record cannot be read: {error}"));
            let (now, due) = (clock::wall(), clock::wall().plus(UNREADABLE_WAIT_MS));
            tracing::error!(event = "relay.outbound.unreadable", submission.id = %id, %error, "{}", note.text);
            // The id tells when it was submitted; the record that would know better is the damaged one.
            if now >= id.time().plus(shared.plan.get().settings.expire_ms) {
                if let Ok(Written::Stable) = shared.ledger.settle(id, Verdict::Failed, &note, now).await {
                    shared.metrics.outbound_settled(Verdict::Failed.word(), now.since(id.time()));
                    tracing::info!(event = "relay.outbound.failed", submission.id = %id, text = note.text,
                        "submission {id} has failed: {}", note.text);
                }
                return NOTHING;
            }
            let _ = shared.ledger.postpone(id, due, &note, now).await;
            Report { next: Some(due), ..NOTHING }
        }
    }
}

struct Attempting<'a> {
    shared: &'a Shared,
    plan: Arc<Plan>,
    id: ItemId,
    destination: String,
    lane: String,
    accepted_at: WallMs,
    number: u32,
    machine: Submission,
    began: Instant,
    health: Health,
}

impl<'a> Attempting<'a> {
    async fn new(shared: &'a Shared, id: ItemId, stored: &Stored) -> Result<Self, SpoolError> {
        let plan = shared.plan.get();
        let expires_at = stored.info.accepted_at.plus(plan.settings.expire_ms);
        let is_late = clock::wall() >= expires_at;
        let last_reason = if is_late { shared.ledger.last_reason(id).await? } else { String::new() };
        let terms = Terms {
            attempts: stored.attempts,
            expires_at,
            last_reason,
            retry: plan.settings.schedule.retry.clone(),
            jitter_permille: rand::random_range(0..1000),
        };
        Ok(Self {
            shared,
            plan,
            id,
            destination: stored.destination.clone(),
            lane: stored.info.lane_name.clone(),
            accepted_at: stored.info.accepted_at,
            number: stored.attempts + 1,
            machine: Submission::new(terms),
            began: clock::monotonic(),
            health: Health::Unknown,
        })
    }

    async fn run(mut self, stored: Stored) -> Report {
        let mut stored = Some(stored);
        let mut letter = None;
        let mut step = self.machine.handle(Event::Begin, clock::wall());
        loop {
            step = match step {
                Step::Route => {
                    let event = self.route().await;
                    self.machine.handle(event, clock::wall())
                }
                Step::Try(_) if clock::monotonic().duration_since(self.began) > ATTEMPT_MAX => {
                    self.machine.handle(Event::TimeUp, clock::wall())
                }
                Step::Try(endpoint) => {
                    if let Some(stored) = stored.take() {
                        letter = Some(self.open(stored).await);
                    }
                    let event = match &letter {
                        Some(Ok(letter)) => self.attempt(letter, endpoint).await,
                        Some(Err(error)) => unreadable(error),
                        None => Event::Stopping,
                    };
                    self.machine.handle(event, clock::wall())
                }
                // Nothing is under way that could still tell us more.
                Step::Wait => return NOTHING,
                Step::Defer { .. } | Step::Postpone { .. } | Step::Settle { .. } | Step::Leave => {
                    return self.conclude(step).await;
                }
            };
        }
    }

    async fn open(&self, stored: Stored) -> Result<Letter, LetterError> {
        Letter::open(self.shared.ledger.spooler(), stored, self.plan.signer.as_deref()).await
    }

    async fn route(&mut self) -> Event {
        let (now, started) = (clock::wall(), clock::monotonic());
        let look = self.plan.router.route(&self.destination, now);
        let found = tokio::select! {
            found = look => found,
            () = self.shared.stop.cancelled() => return Event::Stopping,
        };
        let route = match found {
            Ok(route) => route,
            Err(error) => {
                let (permanent, text, enhanced) = match error {
                    RouteError::Temporary { text, enhanced } => (false, text, enhanced),
                    RouteError::Permanent { text, enhanced } => (true, text, enhanced),
                };
                if !permanent {
                    self.health = Health::Dead;
                }
                let attempt = Attempt {
                    host: self.destination.clone(),
                    stage: "dns".to_owned(),
                    enhanced_code: enhanced.to_owned(),
                    text,
                    started_ms: now.0,
                    duration_ms: elapsed_ms(started),
                    ..Attempt::default()
                };
                return Event::Unroutable { permanent, attempt };
            }
        };
        let alive = self.shared.alive(route.endpoints);
        match alive.back {
            Some(back) if alive.endpoints.is_empty() => {
                self.health = Health::Dead;
                let wait = back.saturating_duration_since(clock::monotonic());
                let until = now.plus(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                let reason = format!("no host of {} answered a short while ago", self.destination);
                Event::AllDead { until, reason }
            }
            Some(_) | None => {
                let left_out = route.left_out || alive.left_out;
                Event::Routed { endpoints: alive.endpoints, left_out }
            }
        }
    }

    /// Tries one host, on a connection that is there already or on a new one.
    async fn attempt(&mut self, letter: &Letter, endpoint: Endpoint) -> Event {
        let (started_at, started) = (clock::wall(), clock::monotonic());
        let mut attempt = Attempt {
            host: endpoint.host.clone(),
            address: endpoint.address.to_string(),
            started_ms: started_at.0,
            ..Attempt::default()
        };
        let mut handover =
            Handover::new(self.shared.ledger.clone(), Arc::clone(&self.shared.switch), self.id, &endpoint);
        let begun = handover.begun();
        let said = tokio::select! {
            biased;
            said = self.converse(letter, endpoint, &mut handover) => said,
            () = stopped_unarmed(self.shared, &begun) => return Event::Stopping,
        };
        attempt.duration_ms = elapsed_ms(started);
        if handover.armed {
            self.machine.handle(Event::Armed, clock::wall());
        }
        let ending = self.judge(&said, &handover);
        describe(&mut attempt, &said);
        self.note(&said);
        Event::Ended(ending, attempt)
    }

    async fn converse(&self, letter: &Letter, mut endpoint: Endpoint, handover: &mut Handover) -> Said {
        let mut fresh = false;
        loop {
            let kept = if fresh { None } else { self.shared.pool.take(&endpoint) };
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => match self.open_connection(&mut endpoint).await {
                    Ok(connection) => connection,
                    Err(failure) => return Said::NotOpened(failure),
                },
            };
            let level = connection.tls().level;
            let mut source = letter.source();
            let outcomes = connection.send(&letter.envelope, &mut source, handover).await;
            let problem = source.problem.take();
            let outcome = outcomes.into_iter().next();
            // P11: what an old connection says before the message is no attempt.
            if reused && !handover.armed && outcome.as_ref().is_some_and(is_stale) {
                fresh = true;
                continue;
            }
            self.shared.keep(endpoint, connection);
            return match (problem, outcome) {
                (Some(problem), _) if !handover.armed => Said::NoMessage(problem),
                (_, Some(outcome)) => Said::Answered(outcome, level),
                (_, None) => Said::Nothing,
            };
        }
    }

    async fn open_connection(&self, endpoint: &mut Endpoint) -> Result<Connection, Failure> {
        let shared = self.shared;
        let mut again = true;
        loop {
            let opened = Connection::open(endpoint, &self.plan.settings.dialing).await;
            let learned = match &opened {
                Ok(connection) => Some(Learned::Reached(connection.tls().level)),
                Err(failure) if failure.kind == FailureKind::StarttlsBroken => Some(Learned::StarttlsBroke),
                Err(failure) if failure.kind == FailureKind::TlsUnmet && failure.code.is_none() => {
                    Some(Learned::StarttlsMissing)
                }
                Err(_) => None,
            };
            shared.heard_of(endpoint, &opened);
            let other = learned
                .and_then(|what| self.plan.router.learned(&self.destination, endpoint, what, clock::wall()));
            match (opened, other) {
                // S2: the same host in the clear, on a new connection, once.
                (Err(_), Some(other)) if again => {
                    *endpoint = other;
                    again = false;
                }
                (opened, _) => return opened,
            }
        }
    }

    /// Which row of the checklist it is.
    fn judge(&mut self, said: &Said, handover: &Handover) -> Ending {
        if let Some(refused) = handover.refused {
            return refused;
        }
        let armed = handover.armed;
        match said {
            Said::NotOpened(failure) => {
                let refused = failure.code.is_some_and(|code| (500..600).contains(&code));
                if refused && matches!(failure.stage, Stage::Greeting | Stage::Ehlo) {
                    Ending::Unwelcome
                } else {
                    Ending::Safe { greylisted: false }
                }
            }
            Said::NoMessage(LetterError::Damaged(_)) => Ending::Refused,
            Said::NoMessage(LetterError::Unreadable(_)) => Ending::Safe { greylisted: false },
            Said::Answered(Outcome::Delivered(_), _) => Ending::Delivered,
            Said::Answered(Outcome::Failed(_), _) => Ending::Refused,
            Said::Answered(Outcome::Indeterminate(_), _) => Ending::Unknown,
            // The sender says so only when the host cannot have the message, armed or not.
            Said::Answered(Outcome::Temporary(_), _) if armed => Ending::PutOff,
            Said::Answered(Outcome::Temporary(failure), _) => Ending::Safe {
                greylisted: failure.stage == Stage::Rcpt && matches!(failure.code, Some(450 | 451)),
            },
            Said::Nothing => Ending::Safe { greylisted: false },
        }
    }

    /// What this host's answer says about the destination, and what is counted.
    fn note(&mut self, said: &Said) {
        match said {
            Said::NotOpened(_) => {
                if self.health == Health::Unknown {
                    self.health = Health::Dead;
                }
            }
            Said::Answered(outcome, level) => {
                self.shared.metrics.outbound_tls(level_word(*level));
                let silent = outcome
                    .failure()
                    .is_some_and(|failure| matches!(failure.kind, FailureKind::TimedOut | FailureKind::Lost));
                if !silent {
                    self.health = Health::Alive;
                }
            }
            Said::NoMessage(_) | Said::Nothing => {}
        }
    }
}

/// What a host, or the way to it, said.
enum Said {
    NotOpened(Failure),
    NoMessage(LetterError),
    Answered(Outcome, TlsLevel),
    Nothing,
}

/// Waits for a stop of the relay, and then for ever when the message is being handed over.
async fn stopped_unarmed(shared: &Shared, begun: &AtomicBool) {
    shared.stop.cancelled().await;
    if begun.load(Ordering::Acquire) {
        std::future::pending::<()>().await;
    }
}

/// The message cannot be had; the host was not even asked.
fn unreadable(error: &LetterError) -> Event {
    let ending = match error {
        LetterError::Damaged(_) => Ending::Refused,
        LetterError::Unreadable(_) => Ending::Safe { greylisted: false },
    };
    let attempt = Attempt {
        enhanced_code: "5.3.0".to_owned(),
        text: error.to_string(),
        stage: "body".to_owned(),
        started_ms: clock::wall().0,
        ..Attempt::default()
    };
    Event::Ended(ending, attempt)
}

/// P11: the connection was at its end, which says nothing about the message.
fn is_stale(outcome: &Outcome) -> bool {
    outcome.failure().is_some_and(|failure| {
        failure.kind == FailureKind::Stale
            || (failure.stage == Stage::Mail
                && (failure.code == Some(421)
                    || matches!(failure.kind, FailureKind::Lost | FailureKind::TimedOut)))
    })
}

fn describe(attempt: &mut Attempt, said: &Said) {
    match said {
        Said::NotOpened(failure) => describe_failure(attempt, failure),
        Said::Answered(outcome, _) => match outcome {
            Outcome::Delivered(accepted) => {
                Stage::Dot.as_str().clone_into(&mut attempt.stage);
                attempt.code = Some(accepted.code);
                attempt.enhanced_code = accepted.enhanced.clone().unwrap_or_default();
                attempt.text = accepted.text.clone();
                attempt.tls = accepted.tls.clone();
            }
            Outcome::Temporary(failure) | Outcome::Failed(failure) | Outcome::Indeterminate(failure) => {
                describe_failure(attempt, failure);
            }
        },
        Said::NoMessage(error) => {
            Stage::Body.as_str().clone_into(&mut attempt.stage);
            attempt.text = error.to_string();
        }
        Said::Nothing => attempt.text = "no outcome".to_owned(),
    }
}

fn describe_failure(attempt: &mut Attempt, failure: &Failure) {
    failure.stage.as_str().clone_into(&mut attempt.stage);
    attempt.code = failure.code;
    attempt.enhanced_code = failure.enhanced.clone().unwrap_or_default();
    attempt.text = failure.text.clone();
    attempt.tls = failure.tls.clone();
}

fn level_word(level: TlsLevel) -> &'static str {
    match level {
        TlsLevel::None => "none",
        TlsLevel::Unverified => "unverified",
        TlsLevel::WebPki => "web_pki",
        TlsLevel::Dane => "dane",
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(clock::monotonic().saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
}
