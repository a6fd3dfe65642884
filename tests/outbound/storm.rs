//! The storm of mail out (Q23): submissions, exchangers that fail in every way, and a relay that is killed all the time.
//!
//! Goal: for each submission there is at most one copy at the exchangers, exactly one result, and the two agree: one
//! copy when it says `sent`, none when it says `failed`, none or one when it says `indeterminate`. The gateway, the
//! spool and the exchangers tell the same story.
//! Method: in each round the relay starts on what the rounds before left, possibly set to die at a named point; a tunnel-2
//! gateway repeats what is unanswered under the same ids, a tunnel-1 gateway sends each stream once; the sink breaks
//! conversations at every point; the relay is killed after a random time. At the end there is calm until all is settled.
//!
//! `WAYSTATION_STORM_ROUNDS=2000 WAYSTATION_STORM_SEED=7 cargo nextest run storm_of_mail_out` asks for more.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use waystation::clock::monotonic;

use super::world::{Plan, Record, Relay, World, address, key};
use crate::support::line::{Line, Log, Manner};
use crate::support::storm::dice::Dice;
use crate::support::storm::faults::{Faults, NEVER, NOBODY};
use crate::support::storm::judge::{Story, judge, table};
use crate::support::storm::relay::OUTBOUND_POINTS;

/// Rounds when the environment does not say.
const ROUNDS: u64 = 12;
/// Longest calm at the end.
const CALM_PATIENCE: Duration = Duration::from_secs(120);
/// How long the relay runs in the calm before its spool is looked at.
const CALM_STEP: Duration = Duration::from_secs(10);
/// Of so many submissions the whole life is looked at.
const SHOWN: usize = 20;
/// The results there are.
const WORDS: [&str; 3] = ["sent", "failed", "indeterminate"];
/// Recipient domains; the last has a first exchanger that refuses connections.
const DOMAINS: [&str; 4] = ["d0.test", "d1.test", "d2.test", "d3.test"];
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect(name))
}

/// One submission.
#[derive(Clone, Debug)]
struct Sub {
    stream: String,
    rcpt_to: String,
    message: Arc<Vec<u8>>,
}

/// One gateway with what it has submitted.
struct Gateway {
    number: u8,
    hears_all: bool,
    log: Log,
    subs: Vec<Sub>,
}

impl Gateway {
    fn new(number: u8, hears_all: bool) -> Self {
        Self { number, hears_all, log: Log::default(), subs: Vec::new() }
    }

    fn make(&mut self, dice: &mut Dice) -> Sub {
        let stream = format!("g{}-{}", self.number, self.subs.len());
        let kind = match dice.below(20) {
            0 => NOBODY,
            1 => NEVER,
            _ => "u",
        };
        let rcpt_to = format!("{kind}-{stream}@{}", dice.one(&DOMAINS));
        let mut message = super::world::message(&address(&key(self.number)), &rcpt_to, &stream);
        let size = dice.one(&[500, 500, 500, 3_000, 40_000, 300_000]);
        while message.len() < size {
            let word = dice.next();
            let dot = if word.is_multiple_of(5) { "." } else { "" };
            message.extend_from_slice(format!("{dot}line {word:x} of {stream}\r\n").as_bytes());
        }
        let sub = Sub { stream, rcpt_to, message: Arc::new(message) };
        self.subs.push(sub.clone());
        sub
    }

    fn submit(&self, line: &Line, sub: &Sub) {
        line.submit(&sub.stream, &address(&key(self.number)), &sub.rcpt_to, &sub.message);
    }

    fn has_heard_all(&self) -> bool {
        self.subs.iter().all(|sub| self.log.status(&sub.stream).is_some())
    }

    /// What the relay has not answered with anything: a tunnel-2 gateway offers it again.
    fn unanswered(&self) -> Vec<Sub> {
        let is_open =
            |sub: &&Sub| self.log.accepted(&sub.stream).is_empty() && self.log.status(&sub.stream).is_none();
        self.subs.iter().filter(is_open).cloned().collect()
    }
}

struct Storm {
    world: World,
    faults: Faults,
    dice: Dice,
    gateways: [Gateway; 2],
    kills: usize,
    deaths: BTreeMap<&'static str, usize>,
    offered_again: usize,
}

impl Storm {
    async fn new(seed: u64) -> Self {
        let plan = Plan {
            delivery: "retry_schedule_seconds = [1]\ngreylist_wait_seconds = 0\nexpire_after_seconds = 12\n\
                       final_dot_timeout_seconds = 1\ntimeouts_percent = 1\nmax_concurrent_per_destination = 5\n"
                .to_owned(),
            ..Plan::default()
        };
        let world = World::with(plan).await;
        for domain in DOMAINS {
            let (first, second) = (format!("a.{domain}"), format!("b.{domain}"));
            world.dns.mx(domain, &[(10, &first), (20, &second)]);
            world.dns.host(&first, &[if domain == DOMAINS[3] { "127.0.0.99" } else { "127.0.0.2" }]);
            world.dns.host(&second, &["127.0.0.3"]);
        }
        let faults = Faults::new(seed);
        let weather = faults.clone();
        world.sink.play_with(move |connection, _| weather.script(connection));
        let gateways = [Gateway::new(1, true), Gateway::new(2, false)];
        let dice = Dice::new(seed);
        Self { world, faults, dice, gateways, kills: 0, deaths: BTreeMap::new(), offered_again: 0 }
    }

    /// Both lines, if the relay lives long enough.
    async fn lines(&mut self, relay: &mut Relay, manner: Manner) -> Option<[Line; 2]> {
        let (one, two) = (&self.gateways[0], &self.gateways[1]);
        loop {
            let first = Line::open(relay.http, &key(one.number), manner, &one.log).await;
            let second = Line::open(relay.http, &key(two.number), Manner::One, &two.log).await;
            if let (Ok(first), Ok(second)) = (first, second) {
                return Some([first, second]);
            }
            if relay.has_ended() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn round(&mut self) {
        let point = self.dice.chance(50).then(|| (self.dice.one(&OUTBOUND_POINTS), 1 + self.dice.below(8)));
        let text = point.map(|(name, count)| format!("{name}:{count}"));
        let Some(mut relay) = self.world.start_dying_at(text.as_deref()).await else {
            return self.died_at(point);
        };
        let manner = self.dice.one(&[Manner::Two, Manner::Two, Manner::TwoWithoutAcks]);
        let until = monotonic() + Duration::from_millis(100 + self.dice.below(1_200));
        let mut lines = self.lines(&mut relay, manner).await;
        if let Some([two, _]) = &lines {
            let again = self.gateways[0].unanswered();
            self.offered_again += again.len();
            again.iter().for_each(|sub| self.gateways[0].submit(two, sub));
        }
        while monotonic() < until && !relay.has_ended() {
            if let Some(lines) = &lines {
                for (gateway, line) in self.gateways.iter_mut().zip(lines) {
                    for _ in 0..self.dice.below(3) {
                        let sub = gateway.make(&mut self.dice);
                        gateway.submit(line, &sub);
                    }
                }
                // The same id again, while it is under way or after its result (Q20).
                let gateway = &self.gateways[0];
                if self.dice.chance(20) && !gateway.subs.is_empty() {
                    let at = usize::try_from(self.dice.below(gateway.subs.len() as u64)).expect("small");
                    gateway.submit(&lines[0], &gateway.subs[at]);
                }
            }
            let pause = 20 + self.dice.below(150);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.dice.chance(10) {
                drop(lines.take());
                lines = self.lines(&mut relay, manner).await;
            }
        }
        if relay.has_ended() {
            return self.died_at(point);
        }
        self.kills += 1;
        relay.kill();
    }

    fn died_at(&mut self, point: Option<(&'static str, u64)>) {
        let (name, _) = point.expect("the relay ends only where it was told to");
        *self.deaths.entry(name).or_default() += 1;
    }

    /// Runs in peace until everything has its result; the records of the spool then.
    async fn calm(&mut self) -> Vec<Record> {
        self.faults.calm_down();
        let until = monotonic() + CALM_PATIENCE;
        loop {
            let mut relay = self.world.start().await;
            let lines = self.lines(&mut relay, Manner::Two).await.expect("the relay lives");
            let again = self.gateways[0].unanswered();
            again.iter().for_each(|sub| self.gateways[0].submit(&lines[0], sub));
            let pause = monotonic() + CALM_STEP;
            while monotonic() < pause && !self.gateways[0].has_heard_all() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // What a tunnel-1 gateway does not hear of goes on for a while; and what comes twice should show.
            tokio::time::sleep(Duration::from_millis(500)).await;
            relay.stop().await;
            let records = self.world.submissions();
            if self.gateways[0].has_heard_all() && records.iter().all(|record| record.result.is_some()) {
                return records;
            }
            let open: Vec<&Record> = records.iter().filter(|record| record.result.is_none()).collect();
            assert!(monotonic() < until, "not everything was settled in the calm: {open:?}");
        }
    }

    fn stories(&self, records: &[Record]) -> Vec<Story> {
        let mut stories = Vec::new();
        for gateway in &self.gateways {
            let mut ids = HashSet::new();
            for sub in &gateway.subs {
                let results = gateway.log.results_of(&sub.stream);
                let unique =
                    |texts: Vec<String>| texts.into_iter().collect::<HashSet<_>>().into_iter().collect();
                let word = |told: &crate::support::line::Told| {
                    told.value["status"].as_str().unwrap_or_default().to_owned()
                };
                for told in &results {
                    if let Some(id) = told.value["resultId"].as_str() {
                        ids.insert((id.to_owned(), sub.stream.clone()));
                    }
                }
                let records = records.iter().filter(|record| record.rcpt_to == sub.rcpt_to);
                stories.push(Story {
                    stream: sub.stream.clone(),
                    hears_all: gateway.hears_all,
                    accepted: unique(gateway.log.accepted(&sub.stream)),
                    texts: unique(results.iter().map(|told| told.text.clone()).collect()),
                    words: unique(results.iter().map(word).collect()),
                    records: records.map(|record| (record.id.clone(), record.result.clone())).collect(),
                    copies: self.world.sink.copies(&sub.stream, &sub.rcpt_to),
                });
            }
            let distinct: HashSet<&String> = ids.iter().map(|(id, _)| id).collect();
            assert_eq!(distinct.len(), ids.len(), "one result id for two submissions");
        }
        stories
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm_of_mail_out_leaves_one_story_for_each_submission() {
    let rounds = number("WAYSTATION_STORM_ROUNDS", ROUNDS);
    let seed = number("WAYSTATION_STORM_SEED", 1);
    println!("WAYSTATION_STORM_ROUNDS={rounds} WAYSTATION_STORM_SEED={seed}");
    let mut storm = Storm::new(seed).await;
    for _ in 0..rounds {
        storm.round().await;
    }
    let records = storm.calm().await;
    let stories = storm.stories(&records);
    println!("{}", table(&stories));
    // The whole life of some of them, as an operator reads it.
    for record in records.iter().step_by(1 + records.len() / SHOWN) {
        let shown = storm.world.show(&record.id);
        assert_eq!(shown["result"].as_str(), record.result.as_deref(), "{shown}");
        // The result stands in the story once, and every attempt before it.
        let steps = shown["timeline"].as_array().expect("a timeline").iter();
        let results: Vec<&str> =
            steps.filter_map(|step| step["state"].as_str()).filter(|word| WORDS.contains(word)).collect();
        assert_eq!(results, [record.result.as_deref().expect("settled")], "{shown}");
    }
    let again: usize = storm.gateways.iter().map(|gateway| gateway.log.results().len()).sum();
    println!(
        "{rounds} rounds: killed {} times, died at {:?}; {} submissions offered again, {again} results told, repeats \
         included, {} connections, {} messages received whole",
        storm.kills,
        storm.deaths,
        storm.offered_again,
        storm.world.sink.connections(),
        storm.world.sink.received_count(),
    );
    println!("faults: {:?}", storm.faults.counts());
    let wrong: Vec<String> = stories.iter().filter_map(|story| judge(story).err()).collect();
    assert!(wrong.is_empty(), "seed {seed}, {rounds} rounds:\n{}", wrong.join("\n"));
    assert!(rounds == 0 || stories.iter().any(|story| story.copies == 1), "nothing was sent at all");
    // Whole and unchanged, each copy.
    for received in storm.world.sink.received() {
        let all = storm.gateways.iter().flat_map(|gateway| &gateway.subs);
        let sub = all.into_iter().find(|sub| sub.stream == received.test_id).expect("somebody submitted it");
        assert!(received.bytes.ends_with(&sub.message), "{} arrived changed", sub.stream);
    }
}
