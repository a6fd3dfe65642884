//! What the service manager hears, at a real socket.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waystation::config::{Config, Sources};
use waystation::daemon::{self, Given};

use super::daemon::Place;
use crate::support::home::Home;
use crate::support::process::waystation;
use crate::support::until;

/// A service manager's ear.
struct Ear {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Ear {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("bound");
        socket.set_nonblocking(true).expect("nonblocking");
        Self { socket, heard: Vec::new() }
    }

    /// Waits for a message with this line in it; the message. What came before is forgotten.
    async fn hear(&mut self, line: &str) -> String {
        let mut found = None;
        until(&format!("the manager hears {line}"), || {
            let mut buffer = [0; 4096];
            while let Ok(read) = self.socket.recv(&mut buffer) {
                self.heard.push(String::from_utf8(buffer[..read].to_vec()).expect("text"));
            }
            while !self.heard.is_empty() && found.is_none() {
                let message = self.heard.remove(0);
                found = message.lines().any(|said| said.starts_with(line)).then_some(message);
            }
            found.is_some()
        })
        .await;
        found.expect("heard")
    }
}

fn manager(command: &mut Command, socket: &Path, watchdog_us: u64) {
    command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", watchdog_us.to_string());
}

#[tokio::test]
async fn the_relay_says_ready_reloading_alive_and_stopping() {
    let place = Place::new();
    let socket = place.path().join("notify");
    let mut ear = Ear::at(&socket);
    let running = place.launch(waystation(), |command| manager(command, &socket, 1_000_000));
    // Recovery may take its time; then everything is up, and a sentence says how it goes.
    ear.hear("EXTEND_TIMEOUT_USEC=30000000").await;
    ear.hear("READY=1").await;
    assert_eq!(place.events("relay.started").len(), 1, "not before it listens");
    ear.hear("WATCHDOG=1").await;
    let status = ear.hear("STATUS=0 gateways connected").await;
    assert!(status.contains("0 items wait for gateways, 0 submissions to deliver"), "{status}");
    ear.hear("WATCHDOG=1").await;
    running.signal("HUP");
    let reloading = ear.hear("RELOADING=1").await;
    let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
    assert!(since.parse::<u64>().expect("a number") > 0);
    ear.hear("READY=1").await;
    // A configuration that is wrong is told, too, and the service is ready all the same.
    fs::write(place.config(), "nonsense = 1\n").expect("written");
    running.signal("HUP");
    ear.hear("STATUS=the configuration on the disk is wrong").await;
    ear.hear("READY=1").await;
    running.signal("TERM");
    ear.hear("STOPPING=1").await;
    drop(running);
}

#[tokio::test]
async fn a_hand_over_is_a_reload_to_the_manager_and_the_process_stays_the_same() {
    let place = Place::new();
    let socket = place.path().join("notify");
    let mut ear = Ear::at(&socket);
    let running = place.start_as(waystation(), |command| manager(command, &socket, 2_000_000)).await;
    ear.hear("READY=1").await;
    let before = running.id();
    running.signal("USR2");
    ear.hear("RELOADING=1").await;
    place.event("relay.handover.done", 1).await;
    ear.hear("READY=1").await;
    ear.hear("WATCHDOG=1").await;
    assert_eq!(place.ask(&["restart"])["pid"], before);
    running.stop().await;
}

#[tokio::test]
async fn the_gateway_says_the_same() {
    let home = Home::new("ws://127.0.0.1:9/ws");
    let socket = home.path().join("notify");
    let mut ear = Ear::at(&socket);
    let mut command = waystation();
    command.args(["gateway", "run", "--config"]).arg(home.config());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    manager(&mut command, &socket, 1_000_000);
    let mut child = command.spawn().expect("started");
    ear.hear("READY=1").await;
    ear.hear("WATCHDOG=1").await;
    // Ready to serve, although the relay is not there.
    ear.hear("STATUS=not connected").await;
    let term = Command::new("kill").arg(child.id().to_string()).status().expect("kill");
    assert!(term.success());
    ear.hear("STOPPING=1").await;
    assert!(child.wait().expect("waited").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_stuck_is_no_life() {
    // Goal: the watchdog goes by the ledger's answers, not by the process being there. Method: block its thread.
    let dir = tempfile::tempdir().expect("directory");
    let text = format!(
        "data_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n[verify]\nenabled = false\n",
        dir.path().join("data").display()
    );
    let sources = Sources { file: Some(("waystation.toml", &text)), ..Sources::default() };
    let config = Config::load(&sources).expect("a configuration");
    let stop = CancellationToken::new();
    let daemon = daemon::start(&config, Given::default(), stop.clone()).await.expect("started");
    let life = daemon.life();
    assert!(life.answers_within(Duration::ZERO));
    let (free, blocked) = mpsc::channel::<()>();
    let spooler = daemon.spooler();
    let stuck = tokio::spawn(async move { spooler.query(move |_| blocked.recv().is_err()).await });
    until("nobody answers", || !life.answers_within(Duration::ZERO)).await;
    free.send(()).expect("it waits");
    until("it answers again", || life.answers_within(Duration::ZERO)).await;
    assert!(matches!(stuck.await, Ok(Ok(false))));
    stop.cancel();
    daemon.ended().await.expect("closed");
}

#[tokio::test]
async fn a_start_that_takes_its_time_hears_a_stop() {
    // Goal: SIGTERM and Ctrl-C count before everything is up. Method: a process of a hand-over waits for the data directory
    // for as long as somebody else has it, ten seconds at most, and ends with an error then.
    let place = Place::new();
    let holder = place.start().await;
    for signal in ["TERM", "INT"] {
        let socket = place.path().join(format!("notify-{signal}"));
        let mut ear = Ear::at(&socket);
        let mut waiting = place.launch(waystation(), |command| {
            manager(command, &socket, 1_000_000);
            command.env("WAYSTATION_HANDED_OVER", "1 0 0.1.0");
        });
        ear.hear("EXTEND_TIMEOUT_USEC=").await;
        waiting.signal(signal);
        ear.hear("STOPPING=1").await;
        let mut status = None;
        until("it has ended", || {
            status = waiting.has_ended();
            status.is_some()
        })
        .await;
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{signal}");
    }
    assert_eq!(place.events("relay.stopped").len(), 2, "and they said so");
    assert_eq!(place.events("relay.started").len(), 1, "nobody was served by them");
    holder.stop().await;
}
