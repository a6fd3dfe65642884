//! The crash storm: a relay and a gateway as real processes, senders that retry like mail servers do, and kills.
//!
//! Goal: every message that got 250 is in the Maildir once, byte for byte below the relay's own header, also when its
//! sender was left without an answer and sent it again; and nothing whose ack the relay wrote down is offered again.
//! Method: in each round relay and gateway start on the data of the rounds before, either of them possibly set to die at a
//! named point; senders send; after a random time the survivors are killed or asked to stop. At the end both run in
//! peace until everything has arrived.
//!
//! `WAYSTATION_CRASH_ROUNDS=500 WAYSTATION_CRASH_SEED=7 cargo nextest run crash_storm` runs more, with chosen dice.
//! `tests/campaign` has storms of every other kind, as a command.

use std::collections::HashSet;
use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::support::home::{GATEWAY_POINTS, Home, Running};
use crate::support::process::Launch;
use crate::support::storm::collector::Collector;
use crate::support::storm::dice::Dice;
use crate::support::storm::free_ports;
use crate::support::storm::ledger::{Ledger, Sizes};
use crate::support::storm::relay::{RELAY_POINTS, Relay};
use crate::support::storm::senders::{Senders, Task};
use crate::support::until;

/// Rounds when the environment does not say.
const ROUNDS: u64 = 20;
/// Senders at a time, one connection each.
const SENDERS: usize = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect(name))
}

/// Everything of one storm.
struct Storm {
    dir: tempfile::TempDir,
    home: Home,
    task: Task,
    ledger: Arc<Ledger>,
    dice: Dice,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dice = Dice::new(seed);
        let [smtp_port, http_port] = free_ports();
        // Relative paths of the configuration are relative to where the process runs.
        let data = dir.path().join("data");
        fs::write(
            dir.path().join("waystation.toml"),
            format!(
                "data_dir = {data:?}\nhostname = \"localhost\"\ndomains = [\"mail.localhost\"]\n\
                 [http]\nlisten = \"127.0.0.1:{http_port}\"\n[smtp]\nlisten = [\"127.0.0.1:{smtp_port}\"]\n\
                 [limits]\nenabled = false\n[spool]\nmin_free_bytes = 1048576\n\
                 [log]\nformat = \"json\"\nlevel = \"info\"\n"
            ),
        )
        .expect("written");
        let home = Home::new(&format!("ws://127.0.0.1:{http_port}/ws"));
        let key = waystation::identity::keyfile::load(&home.path().join("passport.key")).expect("a key");
        let address = key.key_text().address("mail.localhost");
        let task = Task { port: smtp_port, address, missing_max: u64::MAX };
        Self { dir, home, task, ledger: Arc::new(Ledger::new(seed, Sizes::Wide)), dice }
    }

    fn relay(&self, crash_at: Option<&str>) -> Relay {
        Relay::start(self.dir.path(), &Launch::dying_at(crash_at))
    }

    /// Both in peace until the gateway is connected.
    async fn connected(&self) -> (Relay, Running) {
        let (relay, gateway) = (self.relay(None), self.home.start(None));
        until("the gateway is connected", || {
            self.home.status().is_some_and(|status| !status["connected_since_ms"].is_null())
        })
        .await;
        (relay, gateway)
    }

    async fn round(&mut self) {
        let mut point = |points: &[&str]| {
            let named = format!("{}:{}", self.dice.one(points), 1 + self.dice.below(5));
            (self.dice.below(2) == 0).then_some(named)
        };
        let (relay_point, gateway_point) = (point(&RELAY_POINTS), point(&GATEWAY_POINTS));
        let mut relay = self.relay(relay_point.as_deref());
        let gateway = self.home.start(gateway_point.as_deref());
        let senders = Senders::start(SENDERS, &self.task, &self.ledger);
        // One round in five dies while it starts.
        if self.dice.below(5) > 0 {
            until("the relay listens or has died", || {
                relay.has_ended().is_some() || TcpStream::connect(("127.0.0.1", self.task.port)).is_ok()
            })
            .await;
        }
        // Progress decides when it ends, and a limit for rounds in which nothing can progress.
        let want = self.ledger.counts().answered + self.dice.below(40);
        let limit = Duration::from_millis(300 + self.dice.below(1200));
        let _ = tokio::time::timeout(limit, async {
            while self.ledger.counts().answered < want && relay.has_ended().is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        match self.dice.below(4) {
            0 => {
                drop(gateway);
                drop(relay);
            }
            1 => {
                drop(relay);
                drop(gateway);
            }
            2 => {
                relay.stop();
                drop(gateway);
            }
            _ => {
                drop(relay);
                gateway.ask_to_stop();
                drop(gateway);
            }
        }
        senders.stop();
    }

    /// No item is offered after its ack was written down.
    fn check_log(&self) {
        let log = fs::read_to_string(self.dir.path().join("relay.log")).expect("log");
        let mut acked = HashSet::new();
        let mut offered = 0;
        // Lines torn by a kill are left out.
        for event in log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
            let Some(item) = event["item.id"].as_str().map(str::to_owned) else { continue };
            match event["event"].as_str() {
                Some("relay.item.acked") => {
                    acked.insert(item);
                }
                Some("relay.item.offered") => {
                    assert!(!acked.contains(&item), "{item} was acked and is offered again");
                    offered += 1;
                }
                _ => {}
            }
        }
        assert!(offered > 0 && !acked.is_empty(), "the log lacks what this looks for: {offered} offered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_storm_loses_nothing_and_doubles_nothing() {
    let rounds = number("WAYSTATION_CRASH_ROUNDS", ROUNDS);
    let seed = number("WAYSTATION_CRASH_SEED", 1);
    println!("WAYSTATION_CRASH_ROUNDS={rounds} WAYSTATION_CRASH_SEED={seed}");
    let mut storm = Storm::new(seed);
    // The key has to be known before anybody can send to it.
    let (relay, gateway) = storm.connected().await;
    drop((relay, gateway));
    for _ in 0..rounds {
        storm.round().await;
    }
    let (relay, gateway) = storm.connected().await;
    let mut collector = Collector::new(storm.home.path().join("Maildir"), usize::MAX);
    until("everything answered with 250 has arrived, and nothing is in hand", || {
        collector.look(|bytes| storm.ledger.arrived(bytes));
        storm.ledger.counts().missing == 0 && storm.home.status().is_some_and(|status| status["in_hand"] == 0)
    })
    .await;
    gateway.stop().await;
    relay.stop();
    collector.look(|bytes| storm.ledger.arrived(bytes));
    assert_eq!(storm.ledger.verdict().sentences(), [""; 0]);
    assert_eq!(storm.home.names("tmp"), [""; 0]);
    // Panics when one item is there twice.
    let there = storm.home.maildir().len() as u64;
    let counts = storm.ledger.counts();
    assert_eq!(there, counts.arrived);
    storm.check_log();
    assert!(rounds == 0 || counts.answered > 0, "no message was taken in the whole storm");
    println!(
        "{rounds} rounds: {} messages answered 250, each there once, after {} tries without an answer",
        counts.answered, counts.unanswered
    );
}
