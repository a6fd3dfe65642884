//! Who is attempted next, and who has to wait.

use super::*;
use crate::clock;

const MINUTE: u64 = 60_000;

/// A spool of due times and a clock that a test moves.
struct World {
    schedule: Schedule,
    start: Instant,
    ms: u64,
    queue: HashMap<String, Vec<(ItemId, WallMs)>>,
    count: u64,
}

fn settings() -> Settings {
    Settings { total_max: 20, per_destination_max: 5, interval: Duration::ZERO, retry: Retry::default() }
}

impl World {
    fn new(settings: Settings) -> Self {
        let start = clock::monotonic();
        Self { schedule: Schedule::new(settings), start, ms: 1_000, queue: HashMap::new(), count: 0 }
    }

    fn now(&self) -> Now {
        Now { wall: WallMs(self.ms), monotonic: self.start + Duration::from_millis(self.ms) }
    }

    fn submit(&mut self, destination: &str, count: usize, due: u64) {
        for _ in 0..count {
            self.count += 1;
            let id = id(due, self.count);
            self.queue.entry(destination.to_owned()).or_default().push((id, WallMs(due)));
        }
        self.schedule.learn(destination, WallMs(due), self.now());
    }

    /// Everything that may start now.
    fn starts(&mut self) -> Vec<(Arc<str>, ItemId)> {
        let mut starts = Vec::new();
        while let Some(action) = self.schedule.next(self.now()) {
            match action {
                Action::Start { destination, id } => starts.push((destination, id)),
                Action::Fetch { destination, limit } => {
                    let queue = self.queue.entry(destination.to_string()).or_default();
                    queue.sort_by_key(|(_, due)| *due);
                    let found: Vec<_> = queue.iter().take(limit).copied().collect();
                    self.schedule.fetched(&destination, &found, limit, self.now());
                }
            }
        }
        starts
    }

    fn taken(&mut self, (destination, id): &(Arc<str>, ItemId)) {
        self.queue.get_mut(&**destination).expect("queue").retain(|(other, _)| other != id);
        self.schedule.finish(destination, *id, Health::Alive, None, self.now());
    }

    fn dead(&mut self, (destination, id): &(Arc<str>, ItemId), wait: u64) {
        let due = WallMs(self.ms + wait);
        let queue = self.queue.get_mut(&**destination).expect("queue");
        queue.iter_mut().find(|(other, _)| other == id).expect("queued").1 = due;
        self.schedule.finish(destination, *id, Health::Dead, Some(due), self.now());
    }
}

fn count(starts: &[(Arc<str>, ItemId)], destination: &str) -> usize {
    starts.iter().filter(|(d, _)| &**d == destination).count()
}

/// O15: a thousand for a dead site hold one place and are not dialled one by one.
#[test]
fn a_thousand_for_a_dead_site_delay_nobody_and_cost_one_probe() {
    let mut world = World::new(settings());
    world.submit("dead.example", 1000, 0);
    for n in 0..10 {
        world.submit(&format!("d{n}.example"), 3, 0);
    }
    let first = world.starts();
    assert_eq!(count(&first, "dead.example"), 1);
    assert_eq!(first.len(), 11, "everybody has begun");
    let mut delivered = 0;
    let mut under_way: Vec<_> = first.iter().filter(|s| &*s.0 != "dead.example").cloned().collect();
    while let Some(one) = under_way.pop() {
        world.taken(&one);
        delivered += 1;
        let more = world.starts();
        assert_eq!(count(&more, "dead.example"), 0);
        under_way.extend(more);
    }
    assert_eq!(delivered, 30, "the others are done while the first dial still waits");
    let dial = first.iter().find(|s| &*s.0 == "dead.example").expect("dialled").clone();
    world.dead(&dial, MINUTE);
    assert_eq!(world.starts(), [], "the other 999 are not dialled");
    let left = world.schedule.left_alone_until("dead.example", world.now().monotonic);
    assert_eq!(left, Some(world.now().monotonic + Duration::from_millis(MINUTE)));
    assert_eq!(world.schedule.wake(world.now()), Some(Duration::from_millis(MINUTE)));
    world.ms += MINUTE;
    let probe = world.starts();
    assert_eq!(probe.len(), 1, "one at a time");
    assert_ne!(probe[0].1, dial.1, "and the one that waited longest");
    world.dead(&probe[0], MINUTE);
    world.ms += MINUTE;
    let probe = world.starts();
    world.taken(&probe[0]);
    assert_eq!(world.starts().len(), 2, "it is back, and gets more places as it takes mail");
    assert_eq!(world.schedule.dead_sites(), 0);
}

#[test]
fn a_site_earns_its_places_and_never_has_more_than_allowed() {
    let mut world = World::new(settings());
    world.submit("a.example", 500, 0);
    let mut under_way: VecDeque<_> = world.starts().into();
    let (mut most, mut done) = (0, 0);
    while let Some(one) = under_way.pop_front() {
        most = most.max(under_way.len() + 1);
        world.taken(&one);
        done += 1;
        under_way.extend(world.starts());
    }
    assert_eq!((most, done), (5, 500));
}

#[test]
fn nothing_starts_twice_while_it_is_under_way() {
    let mut world = World::new(settings());
    world.submit("a.example", 200, 0);
    let mut seen = BTreeSet::new();
    let mut under_way: VecDeque<_> = world.starts().into();
    while let Some(one) = under_way.pop_front() {
        assert!(seen.insert(one.1), "started twice");
        // The spool says over and over that there is something due.
        let now = world.now();
        world.schedule.learn("a.example", WallMs(0), now);
        world.taken(&one);
        under_way.extend(world.starts());
    }
    assert_eq!(seen.len(), 200);
}

/// Sites nobody has heard from cannot take all places, so that those which work go on.
#[test]
fn slow_strangers_leave_places_for_those_who_take_mail() {
    let mut world = World::new(settings());
    world.submit("good.example", 1, 0);
    let good = world.starts();
    world.taken(&good[0]);
    for n in 0..50 {
        world.submit(&format!("tarpit{n}.example"), 5, 0);
    }
    assert_eq!(world.starts().len(), 15, "three quarters of the places, one each");
    world.submit("good.example", 3, 0);
    assert_eq!(count(&world.starts(), "good.example"), 2);
    assert_eq!(world.schedule.running(), 17);
}

#[test]
fn what_is_due_later_wakes_the_driver_then() {
    let mut world = World::new(settings());
    world.submit("a.example", 1, 0);
    world.submit("a.example", 1, 6_000);
    let now = world.starts();
    assert_eq!(now.len(), 1);
    world.taken(&now[0]);
    assert_eq!(world.starts(), []);
    assert_eq!(world.schedule.wake(world.now()), Some(Duration::from_millis(5_000)));
    world.ms = 6_000;
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn a_site_that_used_to_answer_is_given_up_after_three_failures() {
    let mut world = World::new(settings());
    world.submit("a.example", 100, 0);
    for _ in 0..5 {
        let starts = world.starts();
        starts.iter().for_each(|one| world.taken(one));
    }
    let mut under_way: VecDeque<_> = world.starts().into();
    assert_eq!(under_way.len(), 5);
    for failures in 1..=3 {
        let one = under_way.pop_front().expect("under way");
        world.dead(&one, MINUTE);
        assert_eq!(world.schedule.dead_sites(), usize::from(failures == 3));
    }
    for one in under_way {
        world.dead(&one, MINUTE);
    }
    assert_eq!(world.starts(), []);
    world.ms += MINUTE;
    assert_eq!(world.starts().len(), 1, "failures side by side do not lengthen the wait");
}

#[test]
fn starts_are_paced_when_asked() {
    let mut world = World::new(Settings { interval: Duration::from_millis(100), ..settings() });
    world.submit("a.example", 3, 0);
    let one = world.starts();
    world.taken(&one[0]);
    assert_eq!(world.starts(), []);
    assert_eq!(world.schedule.wake(world.now()), Some(Duration::from_millis(100)));
    world.ms += 100;
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn a_dead_site_is_left_alone_whatever_the_pace() {
    // O15
    let interval = Duration::from_secs(1);
    let retry = Retry { waits_ms: Arc::from([MINUTE, 5 * MINUTE]), greylist_ms: 0 };
    let mut world = World::new(Settings { interval, retry, ..settings() });
    world.submit("a.example", 9, 0);
    for wait in [MINUTE, 5 * MINUTE, 5 * MINUTE] {
        let probe = world.starts();
        assert_eq!(probe.len(), 1);
        world.ms += 10; // refused at once
        world.dead(&probe[0], wait);
        assert_eq!(world.starts(), []);
        assert_eq!(world.schedule.wake(world.now()), Some(Duration::from_millis(wait)));
        world.ms += wait;
    }
}

#[test]
fn memory_goes_when_nothing_waits() {
    let mut world = World::new(settings());
    for n in 0..100 {
        world.submit(&format!("d{n}.example"), 1, 0);
    }
    loop {
        let starts = world.starts();
        if starts.is_empty() {
            break;
        }
        starts.iter().for_each(|one| world.taken(one));
    }
    world.schedule.tidy(world.now());
    world.ms += 601_000;
    world.schedule.tidy(world.now());
    assert_eq!(world.schedule.sites.len(), 0);
    assert_eq!((world.schedule.running, world.schedule.unproven_running), (0, 0));
}

fn id(at: u64, n: u64) -> ItemId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.to_be_bytes());
    ItemId::new(WallMs(at), random)
}

#[test]
fn what_a_clock_that_ran_ahead_put_off_is_attempted_when_the_clock_is_right() {
    // P19
    let mut world = World::new(settings());
    let days = 3 * 24 * 60 * MINUTE;
    world.submit("a.example", 1, world.ms + MINUTE);
    world.submit("a.example", 1, world.ms + days);
    let ids: Vec<_> = world.queue["a.example"].iter().map(|(id, _)| *id).collect();
    let starts = world.starts();
    assert_eq!(starts.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids[1..]);
    world.taken(&starts[0]);
    assert_eq!(world.starts(), []);
    world.ms += MINUTE;
    assert_eq!(world.starts().iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids[..1]);
}

#[test]
fn what_was_due_before_the_clock_was_put_back_is_attempted_when_it_is_due_again() {
    // P19
    let mut world = World::new(Settings { total_max: 1, ..settings() });
    world.submit("a.example", 1, 0);
    world.submit("b.example", 1, 2_000);
    let first = world.starts();
    world.ms = 2_000;
    assert_eq!(world.starts(), [], "b is due, and has to wait for a place");
    world.ms = 1_500;
    world.taken(&first[0]);
    assert_eq!(world.starts(), [], "b is not due any more");
    assert_eq!(world.schedule.wake(world.now()), Some(Duration::from_millis(500)));
    world.ms = 2_000;
    assert_eq!(count(&world.starts(), "b.example"), 1);
}

/// Takes everything that starts; how many that were.
fn take_all(world: &mut World) -> usize {
    let mut taken = 0;
    loop {
        let starts = world.starts();
        if starts.is_empty() {
            return taken;
        }
        starts.iter().for_each(|start| world.taken(start));
        taken += starts.len();
    }
}

#[test]
fn what_came_beyond_the_window_is_asked_for_again() {
    let mut world = World::new(Settings { per_destination_max: 20, ..settings() });
    world.submit("a.example", 20, 0);
    assert_eq!(take_all(&mut world), 20, "the site has proven itself");
    world.submit("a.example", WINDOW_MAX + 66, 0);
    let mut under_way = VecDeque::new();
    let (mut done, mut fetches) = (0, 0);
    let (destination, limit) = loop {
        match world.schedule.next(world.now()) {
            Some(Action::Start { destination, id }) => under_way.push_back((destination, id)),
            Some(Action::Fetch { destination, limit }) if fetches == 0 => {
                fetches = 1;
                let found = world.queue["a.example"][..limit].to_vec();
                world.schedule.fetched(&destination, &found, limit, world.now());
            }
            Some(Action::Fetch { destination, limit }) => break (destination, limit),
            None => {
                world.taken(&under_way.pop_front().expect("all places are taken"));
                done += 1;
            }
        }
    };
    // Deliveries are settled before the answer is made, and reported after it.
    let queue = world.queue.get_mut("a.example").expect("queue");
    queue.retain(|(id, _)| !under_way.iter().any(|(_, started)| started == id));
    let found = queue.clone();
    assert!(found.len() > WINDOW_MAX && found.len() < limit, "{} of {limit}", found.len());
    world.schedule.fetched(&destination, &found, limit, world.now());
    under_way.iter().for_each(|start| world.taken(start));
    assert_eq!(done + under_way.len() + take_all(&mut world), WINDOW_MAX + 66);
}
