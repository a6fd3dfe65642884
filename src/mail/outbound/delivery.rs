//! Deliveries: the loop that takes submissions from the spool to their one result.
//!
//! * [`attempt`](self): one task per attempt, driven by [`super::submission`]'s machine.
//! * [`switch`]: the pause of everything; [`standing`]: why a submission waits.
//! * the schedule ([`super::schedule`]) says whose turn it is; the spool keeps the queue.
//!
//! Promises: nothing is handed over before its armed record is stable; a destination that is slow or dead delays
//! nobody else; memory grows with destinations, not with messages. A stop takes no new work, drops what is not armed,
//! and waits for what is armed as long as the caller waits.
//!
//! Failure policy: a spool that fails pauses deliveries; an attempt that panics is logged, and what is stable decides.

mod attempt;
mod handover;
mod letter;
mod pool;
pub mod standing;
pub mod switch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use spool::error::SpoolError;
use spool::ids::ItemId;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Dialing, Failure, FailureKind, Stage};
use super::ledger::{DESTINATIONS_PAGE, Ledger, Written};
use super::prepare::dkim::Signer;
use super::route::Router;
use super::schedule::{self, Action, Alive, DeadHosts, Health, Now, Schedule};
use super::submission::Verdict;
use super::values::{Endpoint, Note};
use crate::clock;
use crate::current::Current;
use crate::observe::{DeliveryClass, Metrics};
use crate::spooler::{Spooler, bell};
use attempt::Report;
use pool::Pool;
use standing::Standing;
use switch::Switch;

/// Time between two looks at the spool's health, idle connections and gauges.
const TICK: Duration = Duration::from_secs(1);
/// Destinations are paged in again after so many ticks, bell or not.
const SCAN_TICKS: u32 = 60;
/// Least time between two pagings of all destinations; more when they take long.
const SCAN_PAUSE: Duration = Duration::from_millis(5);
/// A paging may take one part in so many of the ledger's time.
const SCAN_SHARE: u32 = 5;
/// Most idle connections that are said goodbye to at a time; the others are closed without.
const GOODBYES_MAX: usize = 64;

/// How deliveries are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many at a time, and when again.
    pub schedule: schedule::Settings,
    /// How connections are made.
    pub dialing: Dialing,
    /// Milliseconds after which nothing is tried any more.
    pub expire_ms: u64,
    /// Where everything goes, for the metrics.
    pub class: DeliveryClass,
}

/// What an attempt keeps to from its beginning to its end; it can be replaced while deliveries run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How deliveries are run.
    pub settings: Settings,
    /// Finds hosts.
    pub router: Router,
    /// Signs, when it is set.
    pub signer: Option<Arc<Signer>>,
}

/// What deliveries work with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The spool.
    pub spooler: Spooler,
    /// Finds hosts.
    pub router: Router,
    /// Signs, when it is set.
    pub signer: Option<Arc<Signer>>,
    /// Pauses.
    pub switch: Arc<Switch>,
    /// Tells who is left alone.
    pub standing: Arc<Standing>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
}

/// What every attempt shares.
#[derive(Debug)]
struct Shared {
    plan: Arc<Current<Plan>>,
    ledger: Ledger,
    switch: Arc<Switch>,
    standing: Arc<Standing>,
    metrics: Arc<Metrics>,
    pool: Pool,
    hosts: Mutex<DeadHosts>,
    stop: CancellationToken,
}

impl Shared {
    /// The endpoints worth a try.
    fn alive(&self, endpoints: Vec<Endpoint>) -> Alive {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.alive(endpoints, clock::monotonic())
    }

    /// Remembers whether the address took a connection and spoke.
    fn heard_of(&self, endpoint: &Endpoint, opened: &Result<Connection, Failure>) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = opened.as_ref().err().is_some_and(|failure| {
            failure.kind == FailureKind::Connect
                || (failure.kind == FailureKind::TimedOut && failure.stage <= Stage::Greeting)
        });
        if silent {
            hosts.silent(endpoint.address, clock::monotonic());
        } else {
            hosts.answered(endpoint.address);
        }
    }

    /// Keeps a connection for the next message, when it can carry one.
    fn keep(&self, endpoint: Endpoint, connection: Connection) {
        if connection.is_reusable() && !self.stop.is_cancelled() {
            drop(self.pool.put(endpoint, connection, clock::monotonic()));
        } else {
            tokio::spawn(connection.quit());
        }
    }
}

/// Delivers until `stop`, then lets what is armed finish. Returns when the last attempt has ended.
///
/// # Errors
/// [`SpoolError`] when the spool cannot even be asked to ring.
pub async fn run(settings: Settings, deps: Deps, stop: CancellationToken) -> Result<(), SpoolError> {
    let plan = Plan { settings, router: deps.router.clone(), signer: deps.signer.clone() };
    follow(Arc::new(Current::new(plan)), deps, stop).await
}

/// The same by a plan that can be replaced: for attempts that begin from then on, and within a second for how many there
/// may be. Router and signer of `deps` are not used.
///
/// # Errors
/// As [`run`].
pub async fn follow(plan: Arc<Current<Plan>>, deps: Deps, stop: CancellationToken) -> Result<(), SpoolError> {
    let ring = Arc::new(Notify::new());
    let ledger = Ledger::new(deps.spooler);
    ledger.ring(bell(&ring)).await?;
    let followed = plan.get();
    let retry = followed.settings.schedule.retry.clone();
    let schedule = Schedule::new(followed.settings.schedule.clone());
    let shared = Arc::new(Shared {
        plan,
        ledger,
        switch: deps.switch,
        standing: deps.standing,
        metrics: deps.metrics,
        pool: Pool::default(),
        hosts: Mutex::new(DeadHosts::new(retry)),
        stop,
    });
    let driver = Driver {
        shared,
        followed,
        schedule,
        attempts: JoinSet::new(),
        places: HashMap::new(),
        scan_wanted: true,
        scan_not_before: clock::monotonic(),
        ticks: 0,
    };
    driver.run(&ring).await;
    Ok(())
}

struct Driver {
    shared: Arc<Shared>,
    /// The plan that the schedule knows.
    followed: Arc<Plan>,
    schedule: Schedule,
    attempts: JoinSet<Report>,
    /// What each task attempts.
    places: HashMap<Id, (Arc<str>, ItemId)>,
    scan_wanted: bool,
    scan_not_before: Instant,
    ticks: u32,
}

impl Driver {
    async fn run(mut self, ring: &Notify) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        loop {
            if !shared.switch.is_on() {
                self.start_what_may().await;
            }
            let wake = self.wake();
            tokio::select! {
                () = shared.stop.cancelled() => break,
                Some(done) = self.attempts.join_next_with_id() => self.finished(done),
                () = ring.notified() => self.scan_wanted = true,
                () = shared.switch.changed() => self.scan_wanted = true,
                () = tokio::time::sleep(wake) => {}
                _ = ticks.tick() => self.tick().await,
            }
            while let Some(done) = self.attempts.try_join_next_with_id() {
                self.finished(done);
            }
        }
        let armed = self.attempts.len();
        tracing::debug!(armed, "deliveries stop; what is armed waits for its verdict");
        while self.attempts.join_next().await.is_some() {}
        for connection in shared.pool.sweep(clock::monotonic(), true).into_iter().take(GOODBYES_MAX) {
            connection.quit().await;
        }
    }

    fn wake(&self) -> Duration {
        let now = now();
        let scan = self.scan_wanted.then(|| self.scan_not_before.saturating_duration_since(now.monotonic));
        wake(self.shared.switch.is_on(), scan, self.schedule.wake(now))
    }

    async fn start_what_may(&mut self) {
        if self.scan_wanted && clock::monotonic() >= self.scan_not_before {
            self.scan().await;
        }
        while let Some(action) = self.schedule.next(now()) {
            match action {
                Action::Start { destination, id } => {
                    let task = self.attempts.spawn(attempt::run(Arc::clone(&self.shared), id));
                    self.shared.standing.attempting(id, true);
                    self.places.insert(task.id(), (destination, id));
                }
                Action::Fetch { destination, limit } => {
                    match self.shared.ledger.waiting(&destination, limit).await {
                        Ok(found) => self.schedule.fetched(&destination, &found, limit, now()),
                        Err(error) => {
                            tracing::warn!(event = "relay.spool.unavailable", %destination, %error,
                                "a queue cannot be read");
                        }
                    }
                }
            }
        }
    }

    /// Pages all destinations in.
    async fn scan(&mut self) {
        self.scan_wanted = false;
        let began = clock::monotonic();
        let mut after: Option<String> = None;
        loop {
            let page = match self.shared.ledger.destinations(after.take()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(event = "relay.spool.unavailable", %error, "destinations cannot be read");
                    break;
                }
            };
            for (destination, due) in &page {
                self.schedule.learn(destination, *due, now());
            }
            match page.into_iter().nth(DESTINATIONS_PAGE - 1) {
                Some((last, _)) => after = Some(last),
                None => break,
            }
        }
        let took = clock::monotonic().duration_since(began);
        self.scan_not_before = clock::monotonic() + SCAN_PAUSE.max(took * SCAN_SHARE);
    }

    fn finished(&mut self, done: Result<(Id, Report), tokio::task::JoinError>) {
        let (task, report) = match done {
            Ok((task, report)) => (task, report),
            Err(error) => {
                tracing::error!(event = "relay.outbound.attempt_ended", %error, "an attempt ended badly");
                if let Some((_, id)) = self.places.get(&error.id()) {
                    tokio::spawn(doubt(Arc::clone(&self.shared), *id));
                }
                (error.id(), Report { health: Health::Unknown, next: None })
            }
        };
        if let Some((destination, id)) = self.places.remove(&task) {
            self.shared.standing.attempting(id, false);
            let now = now();
            self.schedule.finish(&destination, id, report.health, report.next, now);
            self.note_standing(&destination, report.health, now);
        }
    }

    fn note_standing(&self, destination: &str, health: Health, now: Now) {
        let until = match health {
            Health::Unknown => return,
            Health::Alive => None,
            Health::Dead => self.schedule.left_alone_until(destination, now.monotonic).map(|until| {
                let wait = until.saturating_duration_since(now.monotonic);
                now.wall.plus(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
            }),
        };
        self.shared.standing.note(destination, until, now.wall);
    }

    /// Takes up a plan that was replaced.
    fn follow(&mut self) {
        let plan = self.shared.plan.get();
        if Arc::ptr_eq(&plan, &self.followed) {
            return;
        }
        let schedule = &plan.settings.schedule;
        self.schedule.replace(schedule.clone());
        let mut hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.set_retry(schedule.retry.clone());
        drop(hosts);
        self.followed = plan;
        self.scan_wanted = true;
    }

    async fn tick(&mut self) {
        self.follow();
        self.ticks = self.ticks.wrapping_add(1);
        let shared = &self.shared;
        match shared.ledger.unfit().await {
            Ok(unfit) => shared.switch.trip(unfit),
            Err(error) => shared.switch.trip(Some(error.to_string())),
        }
        let old = shared.pool.sweep(clock::monotonic(), false);
        for connection in old.into_iter().take(GOODBYES_MAX) {
            tokio::spawn(connection.quit());
        }
        shared.metrics.set_outbound(
            self.schedule.running(),
            self.schedule.sites(),
            self.schedule.dead_sites(),
            shared.switch.is_on(),
        );
        if self.ticks.is_multiple_of(SCAN_TICKS) {
            self.schedule.tidy(now());
            self.scan_wanted = true;
        }
    }
}

/// How long the driver sleeps when nothing happens. While deliveries are paused nothing that is due can start, and
/// the end of the pause wakes the driver.
///
/// * `scan` – until destinations may be paged in, when that is wanted.
/// * `next` – until something is due.
fn wake(paused: bool, scan: Option<Duration>, next: Option<Duration>) -> Duration {
    if paused {
        return TICK;
    }
    scan.into_iter().chain(next).fold(TICK, Duration::min)
}

/// After an attempt that nobody can ask any more: what was armed may have been taken; what was not stays ready, and
/// the spool refuses to give it this result.
async fn doubt(shared: Arc<Shared>, id: ItemId) {
    let note = Note::line("the attempt ended badly after the final dot and before an answer");
    let (verdict, now) = (Verdict::Indeterminate, clock::wall());
    let written = shared.ledger.settle(id, verdict, &note, now).await;
    if matches!(written, Ok(Written::Stable)) {
        shared.metrics.outbound_settled(verdict.word(), now.since(id.time()));
        let stored = shared.ledger.submission(id).await.ok().flatten();
        let lane = stored.map(|(stored, _)| stored.info.lane_name);
        tracing::warn!(event = "relay.outbound.indeterminate", submission.id = %id, lane, text = note.text,
            "submission {id} may have been taken or not: {}", note.text);
    }
}

fn now() -> Now {
    Now { wall: clock::wall(), monotonic: clock::monotonic() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_sleeps_while_deliveries_are_paused() {
        let (now, soon) = (Some(Duration::ZERO), Some(Duration::from_millis(7)));
        for due in [now, soon, None] {
            assert_eq!(wake(true, due, due), TICK);
        }
        assert_eq!(wake(false, now, None), Duration::ZERO);
        assert_eq!(wake(false, None, soon), Duration::from_millis(7));
        assert_eq!(wake(false, soon, now), Duration::ZERO);
        assert_eq!(wake(false, None, None), TICK);
        assert_eq!(wake(false, None, Some(TICK * 9)), TICK);
    }
}
