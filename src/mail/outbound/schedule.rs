//! PURE: who is attempted next: fairness between destinations, concurrency, pacing, and dead-site memory.
//!
//! The queue itself stays in the spool. Here is one small record for each destination that has mail waiting, a
//! window of at most [`WINDOW_MAX`] ids for those that are being worked on, and nothing for a single message.
//! The driver pages destinations in ([`Schedule::learn`]), fetches windows when it is told ([`Action::Fetch`]),
//! starts attempts ([`Action::Start`]) and reports how they went ([`Schedule::finish`]).
//!
//! Promises: sites take turns; a site begins with one connection and earns more by taking mail, so a thousand
//! messages for a dead or slow site hold one place (O15); sites that have not proven themselves never take all
//! places. A site that does not answer is left alone, all of its mail with it, and probed by one message at a
//! time; nothing is written for the messages that wait for it.
//!
//! Durable times are wall clock, everything else is monotonic (P19).

mod hosts;
mod retry;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spool::ids::{ItemId, WallMs};

pub use hosts::{Alive, DeadHosts};
pub use retry::Retry;

/// Most ids of one destination that are kept in memory ahead of their attempt.
pub const WINDOW_MAX: usize = 64;
/// Most destinations in memory; what comes beyond waits until others are done.
pub const SITES_MAX: usize = 100_000;
/// Failures in a row after which a site that used to answer counts as dead.
const FAILURES_MAX: u32 = 3;
/// Longest time a dead site is left alone.
const LEFT_ALONE_MAX: Duration = Duration::from_millis(retry::OTHER_WAITS_MS_MAX);
/// A site without mail is remembered for so long.
const IDLE_KEEP: Duration = Duration::from_secs(600);
/// Share of all places that sites may take which have not taken a message yet.
const UNPROVEN_PERCENT: usize = 75;

/// Both clocks, read once.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what is durable.
    pub wall: WallMs,
    /// For what is not.
    pub monotonic: Instant,
}

/// How many at a time, and when again.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Attempts at a time.
    pub total_max: usize,
    /// Attempts at a time for one destination.
    pub per_destination_max: usize,
    /// Least time between the starts of two attempts for one destination.
    pub interval: Duration,
    /// Waits after failures.
    pub retry: Retry,
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the spool for the first `limit` submissions of `destination` by due time, whatever it is.
    Fetch {
        /// Whose.
        destination: Arc<str>,
        /// How many.
        limit: usize,
    },
    /// Attempt this one.
    Start {
        /// Where it goes.
        destination: Arc<str>,
        /// Which.
        id: ItemId,
    },
}

/// What an attempt says about its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// A host there talked about the message.
    Alive,
    /// No host there could be talked to.
    Dead,
    /// Nothing.
    Unknown,
}

/// One destination.
#[derive(Debug)]
struct Site {
    /// When the spool should be asked for more; `None`: nothing more is known to wait.
    next: Option<WallMs>,
    window: VecDeque<ItemId>,
    running: BTreeSet<ItemId>,
    /// In the ring.
    queued: bool,
    limit: usize,
    proven: bool,
    failures: u32,
    /// Not before, because nobody answered there.
    rest_until: Option<Instant>,
    /// Not before, for the pace that was asked for.
    paced_until: Option<Instant>,
    idle_since: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    settings: Settings,
    sites: HashMap<Arc<str>, Site>,
    /// Sites that may have something to do now, in turn.
    ring: VecDeque<Arc<str>>,
    /// Sites that wait for a place that is kept for proven ones.
    parked: Vec<Arc<str>>,
    due: BTreeSet<(WallMs, Arc<str>)>,
    resting: BTreeSet<(Instant, Arc<str>)>,
    running: usize,
    unproven_running: usize,
}

impl Schedule {
    /// Nothing waits.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sites: HashMap::new(),
            ring: VecDeque::new(),
            parked: Vec::new(),
            due: BTreeSet::new(),
            resting: BTreeSet::new(),
            running: 0,
            unproven_running: 0,
        }
    }

    /// Other limits and waits from now on; what runs beyond a smaller limit goes on to its end.
    pub fn replace(&mut self, settings: Settings) {
        for site in self.sites.values_mut() {
            site.limit = site.limit.min(settings.per_destination_max);
        }
        self.settings = settings;
        for name in std::mem::take(&mut self.parked) {
            self.ring(&name);
        }
    }

    /// Attempts under way.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Destinations in memory.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// Destinations that are left alone now.
    #[must_use]
    pub fn dead_sites(&self) -> usize {
        self.sites.values().filter(|site| site.failures > 0 && !site.proven).count()
    }

    /// Until when this destination is left alone, if it is.
    #[must_use]
    pub fn left_alone_until(&self, destination: &str, now: Instant) -> Option<Instant> {
        let site = self.sites.get(destination).filter(|site| site.failures > 0)?;
        site.rest_until.filter(|until| *until > now)
    }

    /// The spool has mail for `destination`, the first of it due at `due`. Saying it again does no harm.
    pub fn learn(&mut self, destination: &str, due: WallMs, now: Now) {
        if !self.sites.contains_key(destination) && self.sites.len() >= SITES_MAX {
            return;
        }
        let name = self.name(destination);
        self.expect(&name, self.settings.retry.believed(due, now.wall));
    }

    /// Forgets sites that have had nothing to do for a while.
    pub fn tidy(&mut self, now: Now) {
        self.sites.retain(|_, site| {
            let idle = site.next.is_none() && site.window.is_empty() && site.running.is_empty();
            if !idle {
                site.idle_since = None;
                return true;
            }
            let since = *site.idle_since.get_or_insert(now.monotonic);
            site.queued || now.monotonic.duration_since(since) < IDLE_KEEP
        });
        let sites = &self.sites;
        self.resting.retain(|(_, name)| sites.contains_key(name));
        self.parked.retain(|name| sites.contains_key(name));
    }

    /// The next thing to do now; `None`: wait until [`Schedule::wake`], a bell, or the end of an attempt.
    pub fn next(&mut self, now: Now) -> Option<Action> {
        self.ring_what_is_due(now);
        while self.running < self.settings.total_max {
            let name = self.ring.pop_front()?;
            let Some(site) = self.sites.get_mut(&name) else { continue };
            site.queued = false;
            if site.running.len() >= site.limit {
                continue; // the end of an attempt brings it back
            }
            if let Some(until) = site.not_before().filter(|until| *until > now.monotonic) {
                self.resting.insert((until, name));
                continue;
            }
            if !site.proven && self.unproven_running >= unproven_max(self.settings.total_max) {
                self.parked.push(name);
                continue;
            }
            if let Some(id) = site.window.pop_front() {
                site.running.insert(id);
                site.paced_until = (!self.settings.interval.is_zero())
                    .then(|| now.monotonic.checked_add(self.settings.interval))
                    .flatten();
                self.running += 1;
                self.unproven_running += usize::from(!site.proven);
                self.ring(&name);
                return Some(Action::Start { destination: name, id });
            }
            match site.next {
                Some(due) if due <= now.wall => {
                    let limit = site.running.len() + WINDOW_MAX;
                    self.set_next(&name, None);
                    return Some(Action::Fetch { destination: name, limit });
                }
                // It rang when it was due, and the clock was put back since: nothing else would bring it back (P19).
                Some(due) => {
                    self.due.insert((due, name));
                }
                None => {}
            }
        }
        None
    }

    /// The answer to [`Action::Fetch`], by due time; `limit` as it was asked.
    pub fn fetched(&mut self, destination: &Arc<str>, found: &[(ItemId, WallMs)], limit: usize, now: Now) {
        let Some(site) = self.sites.get_mut(destination) else { return };
        let (mut later, mut left_out) = (None, false);
        for (id, due) in found {
            if self.settings.retry.believed(*due, now.wall) > now.wall {
                later = later.or(Some(*due));
                continue;
            }
            if site.running.contains(id) || site.window.contains(id) {
                continue;
            }
            // What ran when it was asked may have left the queue before it answered, so that more came than fit.
            if site.window.len() < WINDOW_MAX {
                site.window.push_back(*id);
            } else {
                left_out = true;
            }
        }
        let more = match later {
            _ if left_out => Some(now.wall),
            Some(due) => Some(due),
            None => (found.len() >= limit).then_some(now.wall),
        };
        if let Some(due) = more {
            self.expect(destination, due);
        }
        self.ring(destination);
    }

    /// An attempt is over.
    ///
    /// * `next` – when its submission is due again, if it is.
    pub fn finish(
        &mut self,
        destination: &Arc<str>,
        id: ItemId,
        health: Health,
        next: Option<WallMs>,
        now: Now,
    ) {
        let Some(site) = self.sites.get_mut(destination) else { return };
        if !site.running.remove(&id) {
            return;
        }
        self.running -= 1;
        let was_proven = site.proven;
        match health {
            Health::Alive => {
                site.failures = 0;
                site.proven = true;
                site.limit = (site.limit + 1).min(self.settings.per_destination_max);
            }
            Health::Dead => site.fail(&self.settings.retry, now.monotonic),
            Health::Unknown => {}
        }
        // Places are counted by what the site is now, for all of its attempts at once.
        let others = site.running.len();
        match (was_proven, site.proven) {
            (false, false) => self.unproven_running = self.unproven_running.saturating_sub(1),
            (false, true) => self.unproven_running = self.unproven_running.saturating_sub(others + 1),
            (true, false) => self.unproven_running += others,
            (true, true) => {}
        }
        if let Some(due) = next {
            self.expect(destination, due);
        }
        self.ring(destination);
        for name in std::mem::take(&mut self.parked) {
            self.ring(&name);
        }
    }

    /// When there may be something to do, if nothing else happens: how long from now.
    #[must_use]
    pub fn wake(&self, now: Now) -> Option<Duration> {
        let due = self.due.first().map(|(due, _)| Duration::from_millis(due.since(now.wall)));
        let rest = self.resting.first().map(|(at, _)| at.saturating_duration_since(now.monotonic));
        due.into_iter().chain(rest).min()
    }

    fn name(&mut self, destination: &str) -> Arc<str> {
        if let Some((name, _)) = self.sites.get_key_value(destination) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(destination);
        let site = Site {
            next: None,
            window: VecDeque::new(),
            running: BTreeSet::new(),
            queued: false,
            limit: 1,
            proven: false,
            failures: 0,
            rest_until: None,
            paced_until: None,
            idle_since: None,
        };
        self.sites.insert(Arc::clone(&name), site);
        name
    }

    /// Asks for more of it at `due` at the latest.
    fn expect(&mut self, name: &Arc<str>, due: WallMs) {
        let next = self.sites.get(name).and_then(|site| site.next);
        if next.is_none_or(|next| due < next) {
            self.set_next(name, Some(due));
        }
    }

    fn set_next(&mut self, name: &Arc<str>, next: Option<WallMs>) {
        let Some(site) = self.sites.get_mut(name) else { return };
        if let Some(old) = std::mem::replace(&mut site.next, next) {
            self.due.remove(&(old, Arc::clone(name)));
        }
        if let Some(due) = next {
            site.idle_since = None;
            self.due.insert((due, Arc::clone(name)));
        }
    }

    fn ring(&mut self, name: &Arc<str>) {
        let Some(site) = self.sites.get_mut(name) else { return };
        let wanted = !site.window.is_empty() || site.next.is_some();
        if wanted && !std::mem::replace(&mut site.queued, true) {
            self.ring.push_back(Arc::clone(name));
        }
    }

    fn ring_what_is_due(&mut self, now: Now) {
        while let Some((at, _)) = self.resting.first() {
            if *at > now.monotonic {
                break;
            }
            let Some((_, name)) = self.resting.pop_first() else { break };
            self.ring(&name);
        }
        // What is due leaves the timers; the site itself remembers, and what blocks it brings it back.
        while let Some((due, _)) = self.due.first() {
            if *due > now.wall {
                break;
            }
            let Some((_, name)) = self.due.pop_first() else { break };
            self.ring(&name);
        }
    }
}

impl Site {
    /// When the next attempt may begin.
    fn not_before(&self) -> Option<Instant> {
        self.rest_until.max(self.paced_until)
    }

    fn fail(&mut self, retry: &Retry, now: Instant) {
        // What failed beside an attempt that has been counted says nothing new.
        if self.rest_until.is_some_and(|until| until > now) && !self.proven && self.failures > 0 {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.proven && self.failures < FAILURES_MAX {
            self.limit = (self.limit / 2).max(1);
            return;
        }
        let before = if self.proven { 0 } else { self.failures - 1 };
        let wait = Duration::from_millis(retry.wait_ms(before, false, 0)).min(LEFT_ALONE_MAX);
        if self.proven {
            self.failures = 1;
        }
        self.proven = false;
        self.limit = 1;
        self.rest_until = now.checked_add(wait);
    }
}

fn unproven_max(total: usize) -> usize {
    (total * UNPROVEN_PERCENT / 100).max(1)
}

#[cfg(test)]
mod tests;
