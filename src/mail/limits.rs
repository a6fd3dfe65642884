//! How much one corner of the network may ask of us: connections at a time, connections and messages per
//! minute, unknown recipients, and a time-out for those who misbehave, longer each time.
//!
//! An IPv4 client counts by its address and its /24; an IPv6 client by its /64 (one customer) and its /48
//! (one site). Promises: state is bounded by [`PLACES_MAX`] entries per table; what has been quiet is
//! forgotten by [`Limits::tidy`]; a refusal says which limit it was; nobody who is inside is put out to make
//! room; nobody is denied for what a neighbour did. Does not: sleep, speak SMTP, or know who is a friend.
//!
//! Policy when a table is full of busy places: newcomers are told to come back. Bounded memory goes first.

mod denials;
mod offences;
mod place;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock;
use crate::current::Current;
use denials::Denials;
pub use denials::WINDOW_MAX;
use offences::Offences;
pub use offences::{FORGIVEN_EVERY, Lately};
pub use place::neighbourhood;
use place::{PREFIX_FACTOR, Place};

/// Most places one table remembers.
pub const PLACES_MAX: usize = 65_536;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// False: only `connections_max` holds.
    pub enabled: bool,
    /// Most connections at a time, all clients together.
    pub connections_max: usize,
    /// Most connections at a time from one address.
    pub connections_per_address_max: u32,
    /// Most new connections per minute from one address.
    pub connections_per_minute: u32,
    /// Most transactions per minute from one address.
    pub messages_per_minute: u32,
    /// How long an address that went too far is refused, the first time. Each further time doubles it, up to
    /// [`WINDOW_MAX`].
    pub deny_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            connections_max: 1000,
            connections_per_address_max: 100,
            connections_per_minute: 60,
            messages_per_minute: 30,
            deny_window: Duration::from_secs(300),
        }
    }
}

/// Which limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All connections are taken.
    #[error("too many connections")]
    Total,
    /// Too many from one address or prefix at a time.
    #[error("too many connections from one place")]
    Place,
    /// Too many from one address or prefix per minute.
    #[error("connection rate")]
    Rate {
        /// The address's deny window begins with this one.
        opened: bool,
    },
    /// Inside its deny window.
    #[error("denied for a while")]
    Denied,
}

/// The process's clock, as governor wants it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    type Instant = Instant;

    fn now(&self) -> Instant {
        clock::monotonic()
    }
}

type Keyed<C> = RateLimiter<Place, HashMapStateStore<Place>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// One rate for narrow places and one for wide ones.
#[derive(Debug)]
struct Rate<C: Clock> {
    narrow: Keyed<C>,
    wide: Keyed<C>,
}

impl<C: Clock + Clone> Rate<C> {
    fn per_minute(n: u32, clock: &C) -> Self {
        let quota = |n: u32| Quota::per_minute(NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN));
        Self {
            narrow: RateLimiter::hashmap_with_clock(quota(n), clock.clone()),
            wide: RateLimiter::hashmap_with_clock(quota(n.saturating_mul(PREFIX_FACTOR)), clock.clone()),
        }
    }

    fn allows(&self, [narrow, wide]: [Place; 2]) -> Result<(), Whose> {
        if self.narrow.len() >= PLACES_MAX || self.wide.len() >= PLACES_MAX {
            self.tidy();
            if self.narrow.len() >= PLACES_MAX || self.wide.len() >= PLACES_MAX {
                return Err(Whose::Others);
            }
        }
        self.narrow.check_key(&narrow).map_err(|_| Whose::Own)?;
        self.wide.check_key(&wide).map_err(|_| Whose::Others)
    }

    fn tidy(&self) {
        self.narrow.retain_recent();
        self.wide.retain_recent();
    }
}

/// Who used a rate up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The narrow place itself: it may be denied for that.
    Own,
    /// Its neighbours, or everybody: it only has to come back.
    Others,
}

#[derive(Debug)]
struct Open {
    total: usize,
    by_place: HashMap<Place, u32>,
    denied: Denials,
    offences: Offences,
}

/// What holds now, and who used how much of it.
#[derive(Debug)]
struct Rules<C: Clock> {
    settings: Settings,
    connections: Arc<Rate<C>>,
    messages: Arc<Rate<C>>,
}

/// The limits of all listeners together.
#[derive(Debug)]
pub struct Limits<C: Clock = Monotonic> {
    rules: Current<Rules<C>>,
    open: Mutex<Open>,
    clock: C,
}

impl Limits {
    /// Limits by the process's clock.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_clock(settings, &Monotonic)
    }
}

impl<C: Clock + Clone> Limits<C> {
    /// Limits by a clock of the caller's.
    #[must_use]
    pub fn with_clock(settings: Settings, clock: &C) -> Self {
        let denied = Denials::new(settings.deny_window);
        let open = Open { total: 0, by_place: HashMap::new(), denied, offences: Offences::default() };
        let rules = Rules {
            connections: Arc::new(Rate::per_minute(settings.connections_per_minute, clock)),
            messages: Arc::new(Rate::per_minute(settings.messages_per_minute, clock)),
            settings,
        };
        Self { rules: Current::new(rules), open: Mutex::new(open), clock: clock.clone() }
    }

    /// Other limits from now on. Who is inside stays; a rate that changes begins anew.
    pub fn replace(&self, settings: Settings) {
        let before = self.rules.get();
        let rate = |old: &Arc<Rate<C>>, was: u32, is: u32| {
            if was == is { Arc::clone(old) } else { Arc::new(Rate::per_minute(is, &self.clock)) }
        };
        let (was, is) = (&before.settings, &settings);
        let connections = rate(&before.connections, was.connections_per_minute, is.connections_per_minute);
        let messages = rate(&before.messages, was.messages_per_minute, is.messages_per_minute);
        self.open().denied.set_window(settings.deny_window);
        self.rules.set(Rules { settings, connections, messages });
    }

    /// Counts one new connection; [`Limits::leave`] must follow when it ends.
    ///
    /// # Errors
    /// [`Refused`]: the connection is not counted. A rate that is exceeded opens the deny window.
    pub fn enter(&self, address: IpAddr, now: Instant) -> Result<(), Refused> {
        let places = Place::of(address);
        let rules = self.rules.get();
        let mut open = self.open();
        if open.total >= rules.settings.connections_max {
            return Err(Refused::Total);
        }
        if rules.settings.enabled {
            if open.denied.holds(places[0], now) {
                return Err(Refused::Denied);
            }
            let cap = rules.settings.connections_per_address_max;
            let crowded = |place: &Place| {
                open.by_place.get(place).copied().unwrap_or(0) >= cap.saturating_mul(place.factor())
            };
            if places.iter().any(crowded) {
                return Err(Refused::Place);
            }
            if let Err(whose) = rules.connections.allows(places) {
                let opened = whose == Whose::Own && open.denied.deny(places[0], now);
                return Err(Refused::Rate { opened });
            }
        }
        open.total += 1;
        for place in places {
            *open.by_place.entry(place).or_default() += 1;
        }
        Ok(())
    }

    /// A connection that was let in has ended.
    pub fn leave(&self, address: IpAddr) {
        let mut open = self.open();
        open.total = open.total.saturating_sub(1);
        for place in Place::of(address) {
            if let Some(count) = open.by_place.get_mut(&place) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    open.by_place.remove(&place);
                }
            }
        }
    }

    /// True when one more transaction from there is within the rate.
    pub fn message(&self, address: IpAddr) -> bool {
        let rules = self.rules.get();
        !rules.settings.enabled || rules.messages.allows(Place::of(address)).is_ok()
    }

    /// An address harvested recipients or spoke nonsense to the cap: refuse it for its deny window. True when that begins
    /// now: not when it has begun before, and never while limits are off.
    pub fn deny(&self, address: IpAddr, now: Instant) -> bool {
        self.enabled() && self.open().denied.deny(Place::of(address)[0], now)
    }

    /// A message of that address was taken: its past denials count no more, so that a busy sender, or one whom others
    /// misuse for a harvest, is never away for longer than one window. The window that is open stays open.
    pub fn fruitful(&self, address: IpAddr, now: Instant) {
        self.open().denied.forgive(Place::of(address)[0], now);
    }

    /// Counts one more unknown recipient asked for from there, and says how many it was lately (K9): one is
    /// forgiven every [`FORGIVEN_EVERY`]. A prefix counts a fourth. None when limits are off.
    pub fn offence(&self, address: IpAddr, now: Instant) -> Lately {
        if self.enabled() { self.open().offences.count(Place::of(address), now) } else { Lately::default() }
    }

    /// Connections open now, and how many there may be.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (self.open().total, self.rules.get().settings.connections_max)
    }

    /// Places that are denied, or whose denial is not forgotten yet.
    #[must_use]
    pub fn denied(&self) -> usize {
        self.open().denied.len()
    }

    /// Forgets who has been quiet. Call it now and then.
    pub fn tidy(&self, now: Instant) {
        let rules = self.rules.get();
        rules.connections.tidy();
        rules.messages.tidy();
        let mut open = self.open();
        open.denied.tidy(now);
        open.offences.tidy(now);
    }

    fn enabled(&self) -> bool {
        self.rules.get().settings.enabled
    }

    /// The counters stay true when a holder panics: each change is one statement.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limits(settings: Settings) -> (Limits<FakeRelativeClock>, FakeRelativeClock, Instant) {
        let clock = FakeRelativeClock::default();
        (Limits::with_clock(settings, &clock), clock, clock::monotonic())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_at_a_time_are_capped_by_address_prefix_and_total() {
        let settings = Settings {
            connections_max: 6,
            connections_per_address_max: 1,
            connections_per_minute: 1000,
            ..Settings::default()
        };
        let (limits, _, now) = limits(settings); // U1
        assert_eq!(limits.enter(ip("192.0.2.1"), now), Ok(()));
        assert_eq!(limits.enter(ip("192.0.2.1"), now), Err(Refused::Place));
        assert_eq!(limits.enter(ip("::ffff:192.0.2.1"), now), Err(Refused::Place));
        for n in 2..5 {
            assert_eq!(limits.enter(ip(&format!("192.0.2.{n}")), now), Ok(()));
        }
        assert_eq!(limits.enter(ip("192.0.2.5"), now), Err(Refused::Place)); // the /24 is full
        assert_eq!(limits.enter(ip("2001:db8::1"), now), Ok(()));
        assert_eq!(limits.enter(ip("2001:db8::2"), now), Err(Refused::Place)); // same /64
        assert_eq!(limits.enter(ip("2001:db8:0:1::1"), now), Ok(()));
        assert_eq!(limits.enter(ip("198.51.100.1"), now), Err(Refused::Total));
        assert_eq!(limits.fill(), (6, 6)); // nobody was put out
        limits.leave(ip("192.0.2.1"));
        assert_eq!(limits.enter(ip("192.0.2.1"), now), Ok(()));
    }

    #[test]
    fn an_exceeded_rate_opens_the_deny_window() {
        let (limits, clock, now) = limits(Settings { connections_per_minute: 2, ..Settings::default() });
        let client = ip("192.0.2.1");
        assert_eq!((limits.enter(client, now), limits.enter(client, now)), (Ok(()), Ok(())));
        assert_eq!(limits.enter(client, now), Err(Refused::Rate { opened: true }));
        clock.advance(Duration::from_secs(60));
        let later = now + Duration::from_secs(299);
        assert_eq!(limits.enter(client, later), Err(Refused::Denied));
        assert_eq!(limits.enter(client, now + Duration::from_secs(300)), Ok(()));
    }

    #[test]
    fn a_neighbour_is_not_denied_for_a_busy_prefix() {
        let (limits, clock, now) = limits(Settings { connections_per_minute: 1, ..Settings::default() });
        for n in 1..5 {
            assert_eq!(limits.enter(ip(&format!("192.0.2.{n}")), now), Ok(()));
        }
        let busy = Err(Refused::Rate { opened: false });
        assert_eq!(limits.enter(ip("192.0.2.9"), now), busy); // the /24 has had its four
        assert_eq!(limits.denied(), 0);
        clock.advance(Duration::from_secs(60));
        assert_eq!(limits.enter(ip("192.0.2.9"), now), Ok(()));
    }

    #[test]
    fn messages_have_their_own_rate_and_it_recovers() {
        let (limits, clock, now) = limits(Settings { messages_per_minute: 2, ..Settings::default() });
        let client = ip("192.0.2.1");
        assert_eq!([0; 3].map(|_| limits.message(client)), [true, true, false]);
        clock.advance(Duration::from_secs(30));
        assert!(limits.message(client));
        limits.tidy(now);
    }

    #[test]
    fn switched_off_only_the_total_holds() {
        let (limits, _, now) = limits(Settings {
            enabled: false,
            messages_per_minute: 1,
            connections_max: 500,
            ..Settings::default()
        });
        let client = ip("127.0.0.1");
        assert!(!limits.deny(client, now), "nobody is denied");
        assert!((0..500).all(|_| limits.message(client) && limits.enter(client, now).is_ok()));
        assert_eq!(limits.enter(client, now), Err(Refused::Total));
    }

    #[test]
    fn who_is_denied_already_is_not_denied_anew() {
        let (limits, _, now) = limits(Settings::default());
        let client = ip("192.0.2.1");
        assert!(limits.deny(client, now));
        assert!(!limits.deny(client, now), "another session of the same harvest");
        assert_eq!(limits.enter(client, now), Err(Refused::Denied));
        assert!(limits.deny(client, now + Settings::default().deny_window), "the next window");
    }

    #[test]
    fn quiet_places_are_forgotten() {
        let (limits, clock, now) = limits(Settings::default());
        for n in 0..200_u8 {
            let client = ip(&format!("192.0.{n}.1"));
            limits.enter(client, now).unwrap();
            limits.leave(client);
            limits.deny(client, now);
        }
        clock.advance(Duration::from_secs(3600));
        limits.tidy(now + Duration::from_secs(3600));
        let rate = Arc::clone(&limits.rules.get().connections);
        assert_eq!(rate.narrow.len() + rate.wide.len(), 0);
        assert_eq!(limits.denied(), 0);
        let open = limits.open();
        assert_eq!((open.total, open.by_place.len()), (0, 0));
    }

    #[test]
    fn other_limits_hold_at_once_and_nobody_inside_is_put_out() {
        let settings = Settings { connections_per_minute: 2, ..Settings::default() };
        let (limits, _, now) = limits(settings.clone());
        let client = ip("192.0.2.1");
        assert!(limits.enter(client, now).is_ok() && limits.enter(client, now).is_ok());
        limits.replace(Settings { messages_per_minute: 1, ..settings.clone() });
        let rate = Err(Refused::Rate { opened: true });
        assert_eq!(limits.enter(client, now), rate, "a rate that stays remembers");
        let wide =
            Settings { connections_per_minute: 9, connections_max: 3, messages_per_minute: 1, ..settings };
        limits.replace(wide);
        let other = ip("198.51.100.1");
        assert_eq!(limits.enter(other, now), Ok(()));
        assert_eq!(limits.enter(other, now), Err(Refused::Total));
        assert_eq!(limits.fill(), (3, 3));
        assert!(limits.message(other) && !limits.message(other));
    }

    #[test]
    fn neighbours_share_a_neighbourhood() {
        assert_eq!(neighbourhood(ip("192.0.2.1")), neighbourhood(ip("192.0.2.200")));
        assert_ne!(neighbourhood(ip("192.0.2.1")), neighbourhood(ip("192.0.3.1")));
        assert_eq!(neighbourhood(ip("2001:db8::1")), neighbourhood(ip("2001:db8::ffff")));
    }
}
