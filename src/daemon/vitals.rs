//! The relay's pulse: looks at itself every second, and when deliveries are paused or go on, for `/health`, `/ready` and the gauges.
//!
//! Failure policy: a look that gets no answer is a finding like others; what it means is said in [`super::readiness`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spool::ids::WallMs;
use spool::types::{STATES, SpoolStats, State};
use tokio_util::sync::CancellationToken;

use super::readiness::{CertificateFact, Facts, Finding, SpoolFact, judge, texts};
use super::resolver::Resolver;
use crate::admin::overview;
use crate::clock;
use crate::http::Vitals;
use crate::mail::outbound::delivery::switch::Switch;
use crate::observe::history::{History, View};
use crate::observe::{Condition, Effect, Metrics};
use crate::spooler::Spooler;
use crate::systemd::Life;
use crate::tls::Store;
use crate::tunnel::ws::Tunnel;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A spool that does not answer for so long is not ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the pulse looks at.
pub(super) struct Senses {
    pub(super) spooler: Spooler,
    pub(super) resolver: Arc<Resolver>,
    pub(super) switch: Arc<Switch>,
    /// `None`: no TLS is served.
    pub(super) certificates: Option<Arc<Store>>,
}

/// See the module.
pub(super) struct Pulse {
    started: Instant,
    started_at: WallMs,
    tunnel: Arc<Tunnel>,
    metrics: Arc<Metrics>,
    findings: Mutex<Vec<Finding>>,
    history: Mutex<History>,
    stats: Mutex<Option<SpoolStats>>,
    /// When the certificate that is served runs out.
    certificate_until: Mutex<Option<WallMs>>,
    /// When the spool answered for the last time, well or not.
    answered: Mutex<Instant>,
    stopping: AtomicBool,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulse")
    }
}

impl Pulse {
    pub(super) fn new(tunnel: Arc<Tunnel>, metrics: Arc<Metrics>) -> Arc<Self> {
        let findings = vec![Finding::new(Condition::Starting, "relay is starting")];
        metrics.conditions.set(&[Condition::Starting]);
        let (started_at, started) = (clock::wall(), clock::monotonic());
        Arc::new(Self {
            started,
            started_at,
            tunnel,
            metrics,
            findings: Mutex::new(findings),
            history: Mutex::new(History::new(started_at)),
            stats: Mutex::default(),
            certificate_until: Mutex::default(),
            answered: Mutex::new(started),
            stopping: AtomicBool::new(false),
        })
    }

    /// From now on the relay is not ready, and still alive.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.note(Vec::new());
    }

    pub(super) async fn run(self: Arc<Self>, senses: Senses, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
                // Who has just paused or resumed deliveries sees it in the next answer.
                () = senses.switch.turned() => {}
            }
            let (spool, stats) = look(&senses.spooler).await;
            if spool != SpoolFact::Silent {
                *lock(&self.answered) = clock::monotonic();
            }
            if let Some(stats) = &stats {
                let oldest = stats.oldest_ready.map_or(0, |at| clock::wall().since(at));
                self.metrics.set_spool(stats, oldest);
                senses.resolver.set_wanted(ready(&stats.submissions) > 0);
            }
            self.remember(stats);
            *lock(&self.certificate_until) = senses.certificates.as_deref().and_then(Store::not_after);
            let facts = Facts {
                spool,
                listeners: self.metrics.listeners.standings(clock::monotonic()),
                unanswered_probes: senses.resolver.unanswered(),
                certificate: certificate(senses.certificates.as_deref()),
                deliveries_paused: senses.switch.is_on(),
                now_ms: clock::wall().0,
            };
            if stop.is_cancelled() {
                break; // listeners end now, as they should
            }
            self.note(judge(&facts));
        }
        self.stopping();
    }

    /// Keeps the counters, and takes a step of history when one is over.
    fn remember(&self, stats: Option<SpoolStats>) {
        if stats.is_some() {
            *lock(&self.stats) = stats;
        }
        let now = clock::wall();
        let mut history = lock(&self.history);
        if history.is_due(now) {
            history.feed(self.metrics.reading(), now);
        }
    }

    /// Keeps what was found, and says once when it changes.
    fn note(&self, mut findings: Vec<Finding>) {
        if self.stopping.load(Ordering::Relaxed) {
            findings = vec![Finding::new(Condition::Stopping, "relay is stopping")];
        }
        let mut kept = lock(&self.findings);
        if *kept == findings {
            return;
        }
        let [reasons, warnings] =
            [Effect::NotReady, Effect::Warning].map(|effect| texts(&findings, effect).join("; "));
        match (reasons.is_empty(), warnings.is_empty()) {
            (true, true) => tracing::info!(event = "relay.ready", "ready for mail"),
            (true, false) => {
                tracing::warn!(event = "relay.ready", warnings, "ready for mail, but {warnings}")
            }
            (false, _) => {
                tracing::warn!(event = "relay.not_ready", reasons, warnings, "not ready for mail: {reasons}");
            }
        }
        self.metrics.set_ready(reasons.is_empty());
        let active: Vec<_> = findings.iter().map(|finding| finding.condition).collect();
        self.metrics.conditions.set(&active);
        *kept = findings;
    }
}

async fn look(spooler: &Spooler) -> (SpoolFact, Option<SpoolStats>) {
    let question = spooler.query(|spool| (spool.healthy(), spool.accepts(), spool.stats()));
    match tokio::time::timeout(ANSWER_TIMEOUT, question).await {
        Err(_) | Ok(Err(_)) => (SpoolFact::Silent, None),
        Ok(Ok((healthy, accepts, stats))) => (SpoolFact::Answered(healthy, accepts), stats.ok()),
    }
}

/// How many wait, of these counters by state.
fn ready(counters: &[u64; STATES]) -> u64 {
    State::ALL.into_iter().zip(counters).find(|(state, _)| *state == State::Ready).map_or(0, |(_, n)| *n)
}

fn certificate(store: Option<&Store>) -> CertificateFact {
    match store.map(Store::not_after) {
        None => CertificateFact::NotWanted,
        Some(None) => CertificateFact::Missing,
        Some(Some(end)) => CertificateFact::Until(end.0),
    }
}

impl Life for Pulse {
    fn answers_within(&self, time: Duration) -> bool {
        let answered = *lock(&self.answered);
        // A look every second can tell no sooner.
        clock::monotonic().saturating_duration_since(answered) <= time.max(LOOK_EVERY * 3)
    }

    fn sentence(&self) -> String {
        let (items, submissions) = lock(&self.stats)
            .as_ref()
            .map_or((0, 0), |stats| (ready(&stats.items), ready(&stats.submissions)));
        let counted = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let mut sentence = format!(
            "{} connected, {} for gateways, {} to deliver",
            counted(Vitals::connections(self), "gateway", "gateways"),
            counted(items.saturating_sub(submissions), "item waits", "items wait"),
            counted(submissions, "submission", "submissions"),
        );
        if let Some(problem) = Vitals::problems(self).first() {
            sentence = format!("not ready: {problem}; {sentence}");
        }
        sentence
    }
}

impl Vitals for Pulse {
    fn connections(&self) -> u64 {
        self.tunnel.sessions() as u64
    }

    fn uptime_seconds(&self) -> u64 {
        clock::monotonic().duration_since(self.started).as_secs()
    }

    fn problems(&self) -> Vec<String> {
        texts(&lock(&self.findings), Effect::NotReady)
    }

    fn warnings(&self) -> Vec<String> {
        texts(&lock(&self.findings), Effect::Warning)
    }
}

impl overview::Condition for Pulse {
    fn started_at(&self) -> WallMs {
        self.started_at
    }

    fn uptime_seconds(&self) -> u64 {
        Vitals::uptime_seconds(self)
    }

    fn problems(&self) -> Vec<String> {
        Vitals::problems(self)
    }

    fn warnings(&self) -> Vec<String> {
        Vitals::warnings(self)
    }

    fn certificate_until(&self) -> Option<WallMs> {
        *lock(&self.certificate_until)
    }

    fn history(&self) -> View {
        lock(&self.history).view()
    }

    fn stats(&self) -> Option<SpoolStats> {
        lock(&self.stats).clone()
    }
}

/// What is kept here is whole, whatever happened to somebody who held the lock.
fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
