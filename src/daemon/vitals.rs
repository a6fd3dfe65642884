//! The relay's pulse: looks at the spool every second, for `/health`, `/ready` and the gauges.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spool::ids::WallMs;
use spool::types::SpoolStats;
use tokio_util::sync::CancellationToken;

use crate::admin::overview::Condition;
use crate::clock;
use crate::http::Vitals;
use crate::observe::Metrics;
use crate::observe::history::{History, View};
use crate::spooler::Spooler;
use crate::tunnel::ws::Tunnel;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A spool that does not answer for so long is not ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Pulse {
    started: Instant,
    started_at: WallMs,
    tunnel: Arc<Tunnel>,
    metrics: Arc<Metrics>,
    problems: Mutex<Vec<String>>,
    history: Mutex<History>,
    stats: Mutex<Option<SpoolStats>>,
}

/// What one look found.
struct Look {
    problems: Vec<String>,
    stats: Option<SpoolStats>,
}

impl Pulse {
    pub(super) fn new(tunnel: Arc<Tunnel>, metrics: Arc<Metrics>) -> Arc<Self> {
        let problems = Mutex::new(vec!["relay is starting".to_owned()]);
        let started_at = clock::wall();
        Arc::new(Self {
            started: clock::monotonic(),
            started_at,
            tunnel,
            metrics,
            problems,
            history: Mutex::new(History::new(started_at)),
            stats: Mutex::default(),
        })
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
            if let Some(stats) = &look.stats {
                let oldest = stats.oldest_ready.map_or(0, |at| clock::wall().since(at));
                self.metrics.set_spool(stats, oldest);
            }
            self.remember(look.stats);
            self.note(look.problems);
        }
        self.note(vec!["relay is stopping".to_owned()]);
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

    /// Keeps the problems, and says once when they change.
    fn note(&self, problems: Vec<String>) {
        let mut kept = lock(&self.problems);
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
        Err(_) => Look { problems: vec!["spool does not answer".to_owned()], stats: None },
        Ok(Err(error)) => Look { problems: vec![error.to_string()], stats: None },
        Ok(Ok((healthy, accepts, stats))) => {
            let problem = match (healthy, accepts) {
                (Err(error), _) => Some(error.to_string()),
                (Ok(()), Err(error)) => Some(error.to_string()),
                (Ok(()), Ok(())) => None,
            };
            Look { problems: problem.into_iter().collect(), stats: stats.ok() }
        }
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
        lock(&self.problems).clone()
    }
}

impl Condition for Pulse {
    fn started_at(&self) -> WallMs {
        self.started_at
    }

    fn uptime_seconds(&self) -> u64 {
        Vitals::uptime_seconds(self)
    }

    fn problems(&self) -> Vec<String> {
        Vitals::problems(self)
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
