//! The relay's pulse: looks at the spool every second, for `/health`, `/ready` and the gauges.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use spool::types::{SpoolStats, State};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::http::Vitals;
use crate::observe::Metrics;
use crate::spooler::Spooler;
use crate::systemd::Life;
use crate::tunnel::ws::Tunnel;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A spool that does not answer for so long is not ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Pulse {
    started: Instant,
    tunnel: Arc<Tunnel>,
    metrics: Arc<Metrics>,
    problems: Mutex<Vec<String>>,
    seen: Mutex<Seen>,
    stopping: AtomicBool,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulse")
    }
}

/// What the latest look saw.
#[derive(Clone, Copy)]
struct Seen {
    /// When the spool answered for the last time, well or not.
    answered: Instant,
    ready: u64,
    submissions: u64,
}

/// What one look found.
struct Look {
    answered: bool,
    problems: Vec<String>,
    stats: Option<SpoolStats>,
}

impl Pulse {
    pub(super) fn new(tunnel: Arc<Tunnel>, metrics: Arc<Metrics>) -> Arc<Self> {
        let problems = Mutex::new(vec!["relay is starting".to_owned()]);
        let started = clock::monotonic();
        let seen = Mutex::new(Seen { answered: started, ready: 0, submissions: 0 });
        Arc::new(Self { started, tunnel, metrics, problems, seen, stopping: AtomicBool::new(false) })
    }

    /// From now on the relay is not ready, and still alive.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.note(Vec::new());
    }

    pub(super) async fn run(self: Arc<Self>, spooler: Spooler, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let look = look(&spooler).await;
            self.see(&look);
            if let Some(stats) = &look.stats {
                let oldest = stats.oldest_ready.map_or(0, |at| clock::wall().since(at));
                self.metrics.set_spool(stats, oldest);
            }
            self.note(look.problems);
        }
        self.stopping();
    }

    fn see(&self, look: &Look) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if look.answered {
            seen.answered = clock::monotonic();
        }
        if let Some(stats) = &look.stats {
            let ready = |of: &[u64]| {
                State::ALL.iter().zip(of).find(|(s, _)| **s == State::Ready).map_or(0, |(_, n)| *n)
            };
            (seen.ready, seen.submissions) = (ready(&stats.items), ready(&stats.submissions));
        }
    }

    /// Keeps the problems, and says once when they change.
    fn note(&self, mut problems: Vec<String>) {
        if self.stopping.load(Ordering::Relaxed) {
            problems = vec!["relay is stopping".to_owned()];
        }
        let mut kept = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept != problems {
            if problems.is_empty() {
                tracing::info!(event = "relay.ready", "ready for mail");
            } else {
                tracing::warn!(
                    event = "relay.not_ready",
                    reasons = problems.join("; "),
                    "not ready for mail"
                );
            }
            self.metrics.set_ready(problems.is_empty());
            *kept = problems;
        }
    }
}

async fn look(spooler: &Spooler) -> Look {
    let question = spooler.query(|spool| (spool.healthy(), spool.accepts(), spool.stats()));
    match tokio::time::timeout(ANSWER_TIMEOUT, question).await {
        Err(_) => Look { answered: false, problems: vec!["spool does not answer".to_owned()], stats: None },
        Ok(Err(error)) => Look { answered: true, problems: vec![error.to_string()], stats: None },
        Ok(Ok((healthy, accepts, stats))) => {
            let problem = match (healthy, accepts) {
                (Err(error), _) => Some(error.to_string()),
                (Ok(()), Err(error)) => Some(error.to_string()),
                (Ok(()), Ok(())) => None,
            };
            Look { answered: true, problems: problem.into_iter().collect(), stats: stats.ok() }
        }
    }
}

impl Life for Pulse {
    fn answers_within(&self, time: Duration) -> bool {
        let answered = self.seen.lock().unwrap_or_else(PoisonError::into_inner).answered;
        // A look every second can tell no sooner.
        clock::monotonic().saturating_duration_since(answered) <= time.max(LOOK_EVERY * 3)
    }

    fn sentence(&self) -> String {
        let Seen { ready, submissions, .. } = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let mut sentence = format!(
            "{} connected, {} for gateways, {} to deliver",
            counted(self.connections(), "gateway", "gateways"),
            counted(ready, "item waits", "items wait"),
            counted(submissions, "submission", "submissions"),
        );
        if let Some(problem) = self.problems().first() {
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
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
