//! Driver: what a running relay is told from outside, by signals and over the admin API, and the end of it.
//!
//! | signal | request | what it does |
//! |---|---|---|
//! | SIGHUP | `POST /admin/reload` | the configuration is read again |
//! | SIGUSR2 | `POST /admin/restart` | a hand-over to the program as it lies on the disk now |
//! | SIGTERM, SIGINT | | the end, also of a start; a second one does not wait |
//!
//! Failure policy: a configuration or a program that is no good is told, and everything goes on as it was. So does it when the
//! next process could not place our sockets or listen where it should: that is tried here, where the sockets are.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::program::Program;
use crate::admin::ask::AskError;
use crate::admin::control::{Asked, Order};
use crate::cli::{Exit, Global, load};
use crate::clock;
use crate::config::{Config, ConfigErrors, Difference, Keys};
use crate::daemon::{
    DRAIN_ALL, Daemon, Ended, HAND_OVER_DELIVERIES, HAND_OVER_SMTP, HandOver, Prepared, Reloader, StartError,
};
use crate::observe::{LogControl, Metrics, Operated};
use crate::systemd::{Manager, Socket};

/// How long the last look at the signals may take: nobody is served meanwhile.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// The signals that mean something to us. Made first: one that comes before would end the process.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
    handover: Signal,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            handover: listen(SignalKind::user_defined2())?,
        })
    }

    /// Waits for one that ends the relay; its name.
    pub(super) async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// The name of one that has come by now, if one has.
    pub(super) async fn have_ended(&mut self) -> Option<&'static str> {
        // Not at once: what has come is told to us when the runtime looks, which it does to wake us.
        tokio::time::timeout(LAST_LOOK, self.end()).await.ok()
    }
}

/// How serving ended.
pub(super) enum Next {
    /// For good.
    Exit(Exit),
    /// The next process takes these; there are no gateways since then, milliseconds since 1970 UTC.
    Replace(Vec<Socket>, u64),
}

/// Whoever waits for an answer; `None`: it was a signal.
type Waiting = Option<oneshot::Sender<Result<Value, AskError>>>;
type Probe = (JoinHandle<Result<String, String>>, Waiting);

/// Steers one relay.
pub(super) struct Steer<'a> {
    pub(super) global: &'a Global,
    pub(super) keys: Keys,
    pub(super) level: String,
    pub(super) log: &'a LogControl,
    pub(super) manager: Manager,
    pub(super) program: std::io::Result<Program>,
    reloader: Arc<Reloader>,
    metrics: Arc<Metrics>,
    hand_over: HandOver,
    stop: CancellationToken,
    /// Set when the end has begun.
    leaving: Option<CancellationToken>,
    probe: Option<Probe>,
}

impl<'a> Steer<'a> {
    pub(super) fn new(
        global: &'a Global,
        (config, keys): (&Config, Keys),
        log: &'a LogControl,
        manager: Manager,
        program: std::io::Result<Program>,
        daemon: &Daemon,
        stop: CancellationToken,
    ) -> Self {
        Self {
            global,
            keys,
            level: config.log.level.clone(),
            log,
            manager,
            program,
            reloader: Arc::clone(&daemon.reloader),
            metrics: Arc::clone(&daemon.metrics),
            hand_over: daemon.hand_over(),
            stop,
            leaving: None,
            probe: None,
        }
    }

    /// Until the end.
    pub(super) async fn run(
        mut self,
        daemon: Daemon,
        signals: &mut Signals,
        mut orders: mpsc::Receiver<Asked>,
    ) -> anyhow::Result<Next> {
        let ended = daemon.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                outcome = &mut ended => {
                    if let Some(leaving) = &self.leaving {
                        leaving.cancel();
                    }
                    return Ok(match outcome? {
                        Ended::Stopped => Next::Exit(Exit::Done),
                        // Stopped while it made room: nobody comes after.
                        Ended::HandedOver { .. } if self.stop.is_cancelled() => Next::Exit(Exit::Done),
                        Ended::HandedOver { sockets, since_ms } => Next::Replace(sockets, since_ms),
                    });
                }
                _ = signals.term.recv() => if self.stop() { return Ok(Next::Exit(Exit::Failed)) },
                _ = signals.interrupt.recv() => if self.stop() { return Ok(Next::Exit(Exit::Failed)) },
                _ = signals.hangup.recv() => self.ordered(Order::Reload, None).await,
                _ = signals.handover.recv() => self.ordered(Order::Restart, None).await,
                Some(Asked { order, answer }) = orders.recv() => self.ordered(order, Some(answer)).await,
                (found, waiting) = probed(&mut self.probe) => self.probed(found, waiting).await,
            }
        }
    }

    /// True when it was asked for before: what is stable is stable, the rest was not answered.
    fn stop(&mut self) -> bool {
        if self.stop.is_cancelled() {
            return true;
        }
        let manager = self.manager.clone();
        tokio::spawn(async move { manager.stopping().await });
        self.stop.cancel();
        self.leave(DRAIN_ALL);
        false
    }

    /// The end has begun and takes `most`.
    fn leave(&mut self, most: Duration) {
        let leaving = self.leaving.get_or_insert_default().clone();
        let manager = self.manager.clone();
        tokio::spawn(async move { manager.patiently(leaving.cancelled(), most).await });
    }

    async fn ordered(&mut self, order: Order, waiting: Waiting) {
        if self.leaving.is_some() {
            return answer(waiting, Err(AskError::Conflict("the relay is stopping".to_owned())));
        }
        match order {
            Order::Reload => {
                let done = self.reload().await;
                answer(waiting, done);
            }
            Order::Compare => {
                let compared = self.compare().await;
                answer(
                    waiting,
                    compared.map(|(object, ..)| object).map_err(|error| AskError::Bad(error.to_string())),
                );
            }
            Order::Restart => self.probe(waiting),
        }
    }

    async fn reload(&mut self) -> Result<Value, AskError> {
        self.manager.reloading().await;
        let done = self.try_reload().await;
        match &done {
            Ok(_) => {
                self.metrics.operate.reload(Operated::Done);
                self.metrics.operate.loaded(clock::wall().0);
            }
            Err(_) => {
                self.metrics.operate.reload(Operated::Refused);
                self.manager.status("the configuration on the disk is wrong; the one before holds").await;
            }
        }
        self.manager.ready().await;
        done.map_err(AskError::Bad)
    }

    /// What the configuration on the disk would change.
    async fn compare(&self) -> anyhow::Result<(Value, Difference, Prepared, Keys, String)> {
        let (_, new) = load::keys(self.global)?;
        let mut difference = self.keys.difference(&new);
        let (config, keys) = self.keys.follow(&new)?;
        let level = config.log.level.clone();
        let prepared = self.reloader.prepare(config).await?;
        difference.live.extend(&prepared.changed_files);
        difference.live.sort_unstable();
        difference.live.dedup();
        let file =
            self.global.config.as_deref().map(|file| {
                std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string()
            });
        let object =
            json!({ "file": file, "changed": difference.live, "needs_restart": difference.needs_restart });
        Ok((object, difference, prepared, keys, level))
    }

    async fn try_reload(&mut self) -> Result<Value, String> {
        let (_, difference, prepared, keys, level) = self.compare().await.map_err(|error| refused(&error))?;
        let Difference { live: changed, needs_restart } = difference;
        if level != self.level {
            self.log.set_level(&level).map_err(|error| refused(&error.into()))?;
            self.level = level;
        }
        self.reloader.apply(prepared).await;
        self.keys = keys;
        tracing::info!(
            event = "relay.config.reloaded",
            changed = changed.join(", "),
            "the configuration was read again: {}",
            if changed.is_empty() {
                "nothing has changed".to_owned()
            } else {
                format!("{} changed", changed.join(", "))
            }
        );
        if !needs_restart.is_empty() {
            let keys = needs_restart.join(", ");
            tracing::warn!(
                event = "relay.config.needs_restart",
                keys,
                "these changes wait for a restart: {keys}"
            );
        }
        Ok(json!({ "changed": changed, "needs_restart": needs_restart }))
    }

    /// Begins a hand-over: first it is found out whether the next process would start.
    fn probe(&mut self, waiting: Waiting) {
        if self.probe.is_some() {
            return answer(
                waiting,
                Err(AskError::Conflict("a restart is being prepared already".to_owned())),
            );
        }
        let probe = match &self.program {
            Ok(program) => {
                tracing::info!(event = "relay.handover.probing", path = %program.path().display(),
                    "a hand-over is asked for: trying the program first");
                let program = program.clone();
                tokio::spawn(async move { program.probe().await })
            }
            Err(error) => {
                let why = format!("the file of this program is not known: {error}");
                tokio::spawn(async move { Err(why) })
            }
        };
        self.probe = Some((probe, waiting));
    }

    /// What the next process could not find out by itself while this one serves.
    fn rehearse(&self) -> Result<(), StartError> {
        match load::config(self.global) {
            Ok(config) => self.hand_over.rehearse(&config),
            // The next program has accepted it: its keys may be others than ours.
            Err(error) => {
                tracing::info!(
                    event = "relay.handover.not_rehearsed", reason = %error,
                    "only the next program can read the configuration, so addresses are not tried before: {error}"
                );
                Ok(())
            }
        }
    }

    async fn probed(&mut self, found: Result<String, String>, waiting: Waiting) {
        if self.leaving.is_some() {
            return answer(waiting, Err(AskError::Conflict("the relay is stopping".to_owned())));
        }
        let found =
            found.and_then(|version| self.rehearse().map(|()| version).map_err(|error| error.to_string()));
        match found {
            Ok(version) => {
                tracing::info!(event = "relay.handover.begun", version, "handing over to version {version}");
                answer(waiting, Ok(json!({ "restarting": true, "version": version })));
                self.manager.reloading().await;
                self.hand_over.begin();
                self.leave(HAND_OVER_DELIVERIES + HAND_OVER_SMTP + DRAIN_ALL);
            }
            Err(why) => {
                self.metrics.operate.handover_refused();
                tracing::error!(
                    event = "relay.handover.refused",
                    reason = why,
                    "no hand-over, this process goes on: {why}"
                );
                self.manager.status(&format!("no hand-over: {why}")).await;
                answer(
                    waiting,
                    Err(AskError::Conflict(format!("no hand-over, the relay goes on as it was: {why}"))),
                );
            }
        }
    }
}

/// Whoever asked may have gone.
fn answer(waiting: Waiting, answer: Result<Value, AskError>) {
    if let Some(waiting) = waiting {
        let _ = waiting.send(answer);
    }
}

/// The end of the probe that runs, if one does.
async fn probed(probe: &mut Option<Probe>) -> (Result<String, String>, Waiting) {
    let Some((running, _)) = probe else { return pending().await };
    let found = running.await.unwrap_or_else(|error| Err(error.to_string()));
    (found, probe.take().and_then(|(_, waiting)| waiting))
}

/// Logs why the configuration does not change, one line per problem; returns it as one text.
fn refused(error: &anyhow::Error) -> String {
    let said = "the configuration stays as it was";
    match error.downcast_ref::<ConfigErrors>() {
        Some(ConfigErrors(problems)) => {
            for p in problems {
                tracing::error!(
                    event = "relay.config.reload_failed",
                    file = p.file,
                    key = p.key,
                    problem = p.problem,
                    advice = p.advice,
                    "{said}: {}: {} {}",
                    p.file,
                    p.key,
                    p.problem
                );
            }
        }
        None => tracing::error!(event = "relay.config.reload_failed", problem = %error, "{said}: {error}"),
    }
    format!("{said}: {error}")
}
