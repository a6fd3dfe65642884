//! Everything of one campaign: the two processes, their directories, senders, exchangers, the reader of the Maildir.
//!
//! Faults do with it what they like; it knows how to come back: whoever has ended is started again, as a service manager
//! would, and [`World::recover`] waits until mail flows.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use waystation::clock::monotonic;

use crate::disk::Disk;
use crate::faults::{Fault, clock};
use crate::outgoing::{Outgoing, Record};
use crate::support::home::{Home, Running};
use crate::support::process::{Launch, waystation};
use crate::support::storm::collector::Collector;
use crate::support::storm::dice::Dice;
use crate::support::storm::free_ports;
use crate::support::storm::ledger::{self, Ledger, Sizes};
use crate::support::storm::relay::Relay;
use crate::support::storm::senders::{Senders, Task};
use crate::wire::Wire;
use crate::{Plan, Sabotage};

/// Longest wait until both run and are connected.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(90);
/// A service manager's pause before it starts something again that ended at once.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// Messages that stay in the Maildir: far more than can be under way without the gateway's own memory being stable.
const KEPT: usize = 2_000;
/// Silence after which the two take each other for dead; faults that last longer are felt as such.
pub(crate) const IDLE: Duration = Duration::from_secs(3);

/// See above.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) disk: Option<Disk>,
    /// What was felt, by name.
    pub(crate) felt: BTreeMap<String, u64>,
    /// Seconds that the wall clock was ahead at most.
    pub(crate) ahead_seconds: i64,
    /// An old index, for faults that put one back.
    pub(crate) old_index: Option<PathBuf>,
    wire: Option<Wire>,
    dir: PathBuf,
    home: Home,
    level: &'static str,
    http_port: u16,
    relay: Option<Relay>,
    gateway: Option<Running>,
    /// Around those that are started again.
    pub(crate) around_relay: Launch,
    pub(crate) around_gateway: Launch,
    started: [Option<Instant>; 2],
    senders: Option<Senders>,
    /// By senders that have ended.
    refused: u64,
    task: Task,
    reader: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    submitter: Option<tokio::task::JoinHandle<()>>,
}

/// Of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Relay,
    Gateway,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Kill,
    Stop,
}

impl World {
    /// Configures both and starts everything but the senders.
    pub(crate) async fn start(plan: &Plan, dir: &Path) -> Result<Self, String> {
        let dice = Dice::new(plan.seed);
        let [smtp_port, http_port] = free_ports();
        let disk = plan.disk.map(|kind| Disk::mount(kind, &dir.join("disk"))).transpose()?;
        let data = disk.as_ref().map_or_else(|| dir.join("data"), |disk| disk.path().join("data"));
        let home =
            Home::within(dir, &format!("ws://127.0.0.1:{http_port}/ws"), "[maildir]\npath = \"Maildir\"\n");
        let key = waystation::identity::keyfile::load(&home.path().join("passport.key")).expect("a key");
        let address = key.key_text().address("mail.localhost");
        let outgoing =
            Arc::new(Outgoing::start(plan.seed, plan.exchanger_faults, &address, home.path()).await);
        let sizes = if plan.small { Sizes::Small } else { Sizes::Wide };
        let ledger = Arc::new(Ledger::new(plan.seed, sizes));
        // A spool that is to run full keeps a little back for acks.
        let floor = if disk.is_some() { 16 << 20 } else { 1 << 20 };
        // Behind the wire the gateway comes from another address than loopback.
        let host = if plan.has_wire() { "0.0.0.0" } else { "127.0.0.1" };
        let text = format!(
            "data_dir = {data:?}\nhostname = \"localhost\"\ndomains = [\"mail.localhost\"]\n\
             [http]\nlisten = \"{host}:{http_port}\"\n\
             [smtp]\nlisten = [\"127.0.0.1:{smtp_port}\"]\ngreet_delay_ms = 0\n\
             [tunnel]\nheartbeat_interval_seconds = 1\nidle_timeout_seconds = {idle}\nunacked_items_max = {window}\n\
             [limits]\nenabled = false\n[spool]\nmin_free_bytes = {floor}\nretain_acked_seconds = {retain}\n\
             {delivery}[log]\nformat = \"json\"\nlevel = \"{level}\"\n",
            idle = IDLE.as_secs(),
            // Short, so that the spool is compacted underway; quarantined items are kept as long, and rot must show.
            retain = if plan.faults.contains(&Fault::Flip) { 604_800 } else { 5 },
            window = plan.window,
            level = plan.log_level(),
            // Who never answers is given up before the end.
            delivery = outgoing.delivery(if plan.small { 20 } else { 8 }),
        );
        fs::write(dir.join("waystation.toml"), text).expect("written");
        let task = Task { port: smtp_port, address, missing_max: plan.missing_max };
        let mut world = Self {
            dice,
            ledger,
            outgoing,
            disk,
            felt: BTreeMap::new(),
            ahead_seconds: 0,
            old_index: None,
            wire: None,
            dir: dir.to_owned(),
            home,
            level: plan.log_level(),
            http_port,
            relay: None,
            gateway: None,
            around_relay: Launch::default(),
            around_gateway: Launch::default(),
            started: [None; 2],
            senders: None,
            refused: 0,
            task,
            reader: None,
            submitter: None,
        };
        world.configure_gateway("127.0.0.1", plan.window);
        world.read_maildir(plan.sabotage);
        world.recover().await?;
        Ok(world)
    }

    /// The relay's spool.
    pub(crate) fn spool(&self) -> PathBuf {
        let data = self.disk.as_ref().map_or_else(|| self.dir.join("data"), |disk| disk.path().join("data"));
        data.join("spool")
    }

    /// For what faults keep.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// From its next start on the gateway looks for the relay at this host.
    pub(crate) fn configure_gateway(&self, host: &str, window: u32) {
        let rest = format!(
            "relay_name = \"localhost\"\nmail_domain = \"mail.localhost\"\nheartbeat_interval_seconds = 1\nidle_timeout_seconds = {}\nhandshake_timeout_seconds = 5\n\
             unacked_items_max = {window}\n[outbox]\nexpire_after_seconds = 8640000\nmin_free_bytes = 0\n\
             [maildir]\npath = \"Maildir\"\n",
            IDLE.as_secs()
        );
        self.home.configure_saying(&format!("ws://{host}:{}/ws", self.http_port), self.level, &rest);
    }

    /// The wire between the two; made when it is first asked for.
    pub(crate) fn wire(&mut self) -> Result<&mut Wire, String> {
        if self.wire.is_none() {
            self.wire = Some(Wire::start()?);
        }
        Ok(self.wire.as_mut().expect("made"))
    }

    /// Messages that were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.senders.as_ref().map_or(self.refused, Senders::refusals)
    }

    /// The gateway's directory does not go with the world.
    pub(crate) fn keep(&mut self) {
        self.home.keep();
    }

    /// Counts a fault that had an effect.
    pub(crate) fn feel(&mut self, what: &str) {
        *self.felt.entry(what.to_owned()).or_default() += 1;
    }

    fn read_maildir(&mut self, sabotage: Option<Sabotage>) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut collector = Collector::new(self.home.path().join("Maildir"), KEPT);
        let (ledger, outgoing, is_over) =
            (Arc::clone(&self.ledger), Arc::clone(&self.outgoing), Arc::clone(&stop));
        let mut sabotage = sabotage.filter(|what| *what != Sabotage::Disagree);
        let thread = std::thread::spawn(move || {
            loop {
                // Seen before the look, so that the last look is after the end.
                let last = is_over.load(Ordering::Acquire);
                collector.look(|bytes| {
                    let is_ours = bytes.windows(ledger::FIELD.len()).any(|window| window == ledger::FIELD);
                    if !is_ours && outgoing.reported(bytes) {
                        return;
                    }
                    match sabotage.take() {
                        Some(Sabotage::Lose) => return,
                        Some(Sabotage::Double) => ledger.arrived(bytes),
                        Some(Sabotage::Change) => {
                            let mut bytes = bytes.to_vec();
                            let at = bytes.len() - 10;
                            bytes[at] ^= 1;
                            return ledger.arrived(&bytes);
                        }
                        Some(Sabotage::Disagree) | None => {}
                    }
                    ledger.arrived(bytes);
                });
                if last {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        self.reader = Some((stop, thread));
    }

    /// Lets senders and submitter begin. `share`: submissions of a hundred messages.
    pub(crate) fn flow(&mut self, senders: usize, share: u64) {
        self.senders = Some(Senders::start(senders, &self.task, &self.ledger));
        let ledger = Arc::clone(&self.ledger);
        let wanted = move || usize::try_from(ledger.counts().answered * share / 100).expect("small");
        self.submitter = Some(tokio::spawn(Arc::clone(&self.outgoing).run(wanted)));
    }

    /// Starts one of them as it is to be started again, too.
    pub(crate) fn launch(&mut self, who: Who) {
        match who {
            Who::Relay => self.launch_relay(&self.around_relay.clone()),
            Who::Gateway => self.launch_gateway(&self.around_gateway.clone()),
        }
    }

    pub(crate) fn launch_relay(&mut self, launch: &Launch) {
        drop(self.relay.take());
        self.relay = Some(Relay::start(&self.dir, launch));
        self.started[0] = Some(monotonic());
    }

    pub(crate) fn launch_gateway(&mut self, launch: &Launch) {
        drop(self.gateway.take());
        self.gateway = Some(self.home.start_as(launch));
        self.started[1] = Some(monotonic());
    }

    /// Ends one of them, if it runs.
    pub(crate) fn end(&mut self, who: Who, way: Way) {
        match (who, way) {
            (Who::Relay, Way::Kill) => drop(self.relay.take()),
            (Who::Relay, Way::Stop) => self.relay.take().into_iter().for_each(Relay::stop),
            (Who::Gateway, way) => {
                let Some(mut gateway) = self.gateway.take() else { return };
                if way == Way::Stop && gateway.has_ended().is_none() {
                    gateway.ask_to_stop();
                    for _ in 0..1_000 {
                        if gateway.has_ended().is_some() {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        }
    }

    /// Ends it and starts it as it is to be started.
    pub(crate) fn restart(&mut self, who: Who, way: Way) {
        self.end(who, way);
        self.launch(who);
    }

    /// Sends a signal to one of them, if it runs.
    pub(crate) fn signal(&mut self, who: Who, name: &str) {
        match who {
            Who::Relay => self.relay.iter().for_each(|relay| relay.signal(name)),
            Who::Gateway => {
                if let Some(gateway) = &mut self.gateway
                    && gateway.has_ended().is_none()
                {
                    gateway.signal(name);
                }
            }
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self, who: Who) -> bool {
        match who {
            Who::Relay => self.relay.as_mut().is_none_or(|relay| relay.has_ended().is_some()),
            Who::Gateway => self.gateway.as_mut().is_none_or(|gateway| gateway.has_ended().is_some()),
        }
    }

    /// Starts whoever is not there, if it was not started just now.
    pub(crate) fn tend(&mut self) {
        for (at, who) in [Who::Relay, Who::Gateway].into_iter().enumerate() {
            let is_new = self.started[at].is_some_and(|then| then + RESTART_PAUSE > monotonic());
            if self.has_ended(who) && !is_new {
                self.launch(who);
            }
        }
    }

    /// Time passes; whoever ends is started again.
    pub(crate) async fn rest(&mut self, time: Duration) {
        let until = monotonic() + time;
        while monotonic() < until {
            self.tend();
            tokio::time::sleep(Duration::from_millis(20).min(time)).await;
        }
    }

    /// A time of at most `most` milliseconds.
    pub(crate) fn some_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.dice.below(most - least + 1))
    }

    /// Runs both until mail flows: the relay listens, the gateway is connected.
    pub(crate) async fn recover(&mut self) -> Result<(), String> {
        let until = monotonic() + RECOVERY_PATIENCE;
        let socket = self.home.path().join("state").join("gateway.sock");
        loop {
            self.tend();
            let listens = TcpStream::connect(("127.0.0.1", self.task.port)).is_ok();
            let asked = waystation::gateway::socket::ask(&socket);
            let report = tokio::time::timeout(Duration::from_secs(2), asked).await;
            let connected = report
                .is_ok_and(|report| report.is_ok_and(|report| report.status.connected_since_ms.is_some()));
            if listens && connected {
                return Ok(());
            }
            if monotonic() > until {
                return Err(format!(
                    "no recovery in {} s: the relay listens: {listens}, the gateway is connected: {connected}",
                    RECOVERY_PATIENCE.as_secs()
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the senders, and waits until everything that was promised is there; gives up after `patience` without progress.
    pub(crate) async fn settle(&mut self, patience: Duration) {
        if let Some(senders) = self.senders.take() {
            self.refused = senders.refusals();
            let _ = tokio::task::spawn_blocking(move || senders.stop()).await;
        }
        self.submitter.take().iter().for_each(tokio::task::JoinHandle::abort);
        self.outgoing.calm_down();
        clock::catch_up(self);
        let mut best = (u64::MAX, usize::MAX);
        let mut until = monotonic() + patience;
        loop {
            self.rest(Duration::from_millis(100)).await;
            let left = (self.ledger.counts().missing, self.outgoing.settle().await);
            if left == (0, 0) || monotonic() > until {
                break;
            }
            if left.0 < best.0 || left.1 < best.1 {
                best = (left.0.min(best.0), left.1.min(best.1));
                until = monotonic() + patience;
            }
        }
        // What comes twice should show.
        self.rest(Duration::from_millis(500)).await;
        self.end(Who::Gateway, Way::Stop);
        self.end(Who::Relay, Way::Stop);
        if let Some((stop, thread)) = self.reader.take() {
            stop.store(true, Ordering::Release);
            thread.join().expect("the reader");
        }
    }

    /// Runs the CLI on the relay's data; the relay must have ended, so that the files themselves are read.
    pub(crate) fn cli(&self, args: &[&str]) -> (i32, String) {
        let output = waystation()
            .arg("--config")
            .arg(self.dir.join("waystation.toml"))
            .args(args)
            .output()
            .expect("the binary runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    /// All submissions at the relay.
    pub(crate) fn submissions(&self) -> Result<Vec<Record>, String> {
        let listed = self.list(&["--direction", "out"])?;
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let record = |value: &Value| Record {
            id: text(value, "id"),
            rcpt_to: text(value, "rcpt_to"),
            result: value["result"].as_str().map(str::to_owned),
        };
        Ok(listed.iter().map(record).collect())
    }

    /// `spool ls` with these arguments.
    pub(crate) fn list(&self, args: &[&str]) -> Result<Vec<Value>, String> {
        let (code, said) = self.cli(&[&["spool", "ls", "--json", "--limit", "10000000"], args].concat());
        // 3: nothing matched.
        match code {
            0 => Ok(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            3 => Ok(Vec::new()),
            _ => Err(format!("spool ls failed: {said}")),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.submitter.take().iter().for_each(tokio::task::JoinHandle::abort);
        drop(self.senders.take());
        if let Some((stop, _)) = &self.reader {
            stop.store(true, Ordering::Release);
        }
        // Before the disk below them goes.
        drop(self.relay.take());
        drop(self.gateway.take());
    }
}
