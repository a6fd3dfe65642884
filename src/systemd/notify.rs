//! Driver: tells the service manager how it goes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Time between two sentences about the state.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// How much longer the manager is asked to wait at a time.
const EXTEND_BY: Duration = Duration::from_secs(30);
/// Time between two such requests.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// Longest sentence, characters.
const STATUS_CHARS_MAX: usize = 200;

/// What the watchdog and the sentence are made from.
pub trait Life: Send + Sync + 'static {
    /// Whether what matters has answered within that time.
    fn answers_within(&self, time: Duration) -> bool;
    /// How it goes, in one short sentence.
    fn sentence(&self) -> String;
}

/// The service manager, or nobody. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Manager {
    listens: bool,
    /// Without a sign for so long it ends us.
    watchdog: Option<Duration>,
}

impl Manager {
    /// Nobody wants to hear anything.
    #[must_use]
    pub fn nobody() -> Self {
        Self { listens: false, watchdog: None }
    }

    /// As the environment says.
    #[must_use]
    pub fn find() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        let watchdog = sd_notify::watchdog_enabled().filter(|time| !time.is_zero());
        Self { listens, watchdog: watchdog.filter(|_| listens) }
    }

    /// Everything is up.
    pub async fn ready(&self) {
        self.tell(&[NotifyState::Ready]).await;
    }

    /// The configuration is read again, or the process is about to replace itself; [`Manager::ready`] must follow.
    pub async fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]).await,
            Err(_) => self.tell(&[NotifyState::Reloading]).await,
        }
    }

    /// The end has begun.
    pub async fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]).await;
    }

    /// One sentence for `systemctl status`.
    pub async fn status(&self, sentence: &str) {
        let line: String = sentence.chars().filter(|c| !c.is_control()).take(STATUS_CHARS_MAX).collect();
        self.tell(&[NotifyState::Status(&line)]).await;
    }

    /// Waits for `work` and asks the manager for patience meanwhile, for `most` altogether.
    pub async fn patiently<T>(&self, work: impl Future<Output = T>, most: Duration) -> T {
        tokio::pin!(work);
        if !self.listens {
            return work.await;
        }
        let every = self.watchdog.map_or(EXTEND_EVERY, |time| (time / 2).min(EXTEND_EVERY));
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
        let mut times = most.as_millis() / every.as_millis().max(1) + 1;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = ticks.tick(), if times > 0 => {
                    times -= 1;
                    let by = u32::try_from(EXTEND_BY.as_micros()).unwrap_or(u32::MAX);
                    let mut states = vec![NotifyState::ExtendTimeoutUsec(by)];
                    if self.watchdog.is_some() {
                        states.push(NotifyState::Watchdog);
                    }
                    self.tell(&states).await;
                }
            }
        }
    }

    /// Tells sentences, and that all is well while it is, until `stop`.
    pub async fn keep(self, life: Arc<dyn Life>, stop: CancellationToken) {
        if !self.listens {
            return;
        }
        let half = self.watchdog.map(|time| time / 2);
        let every = half.map_or(STATUS_EVERY, |half| half.min(STATUS_EVERY)).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut told, mut silent) = (String::new(), false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Some(half) = half {
                let answers = life.answers_within(half);
                if answers {
                    self.tell(&[NotifyState::Watchdog]).await;
                } else if !silent {
                    tracing::error!(
                        event = "relay.watchdog.withheld",
                        "the spool does not answer, so the service manager is not told that all is well; it will restart us"
                    );
                }
                silent = !answers;
            }
            let sentence = life.sentence();
            if sentence != told {
                self.status(&sentence).await;
                told = sentence;
            }
        }
    }

    /// A datagram may have to wait until it is read: never on a thread that others need.
    async fn tell(&self, states: &[NotifyState<'_>]) {
        if !self.listens {
            return;
        }
        let message = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let told = tokio::task::spawn_blocking(move || sd_notify::notify(&[NotifyState::Custom(&message)]));
        if let Ok(Err(error)) = told.await {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }
}
