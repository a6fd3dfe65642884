//! Ctrl-C and SIGTERM: a measurement that is called off leaves nothing behind.
//!
//! The first signal makes every load and every wait end with an error, and what was started goes with the values that
//! hold it: servers are stopped, directories removed.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock;

/// How soon a wait without a runtime notices the signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);

static STOP: OnceLock<watch::Receiver<bool>> = OnceLock::new();

/// From now on signals are heard here.
pub(super) fn listen() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let (asked, hears) = watch::channel(false);
    STOP.set(hears).ok().context("signals are heard already")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("stopping; what was started is cleared away");
            // Whoever measures holds the receiver for as long as the program runs.
            let _ = asked.send(true);
            std::future::pending::<()>().await;
        });
    });
    Ok(())
}

fn stopped() -> anyhow::Error {
    anyhow::anyhow!("stopped by a signal")
}

/// # Errors
/// When the signal has come.
pub(super) fn check() -> anyhow::Result<()> {
    match STOP.get() {
        Some(stop) if *stop.borrow() => Err(stopped()),
        Some(_) | None => Ok(()),
    }
}

/// Sleeps; ends early, with an error, when the signal comes.
pub(super) fn sleep(time: Duration) -> anyhow::Result<()> {
    let begun = clock::monotonic();
    loop {
        check()?;
        let left = time.saturating_sub(clock::monotonic().duration_since(begun));
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

/// Runs a load to its end, or until the signal comes.
pub(super) fn drive<T>(
    runtime: &Runtime,
    load: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let stop = STOP.get().cloned();
    let asked = async move {
        match stop {
            Some(mut stop) => drop(stop.wait_for(|stop| *stop).await),
            None => std::future::pending().await,
        }
    };
    runtime.block_on(async {
        tokio::select! {
            done = load => done,
            () = asked => Err(stopped()),
        }
    })
}
