//! The spool of a place where no relay runs, for whoever fills it before the measurement.

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::server::Place;
use crate::daemon::ledger;
use crate::observe::Metrics;
use crate::spooler::Spooler;

/// Opens it, lets `work` have it, and closes it as a relay does that is asked to stop.
pub(super) fn with<T, F>(place: &Place, work: impl FnOnce(Spooler) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let config = place.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ledger::Ledger { engine, spooler, .. } =
        ledger::open(&config, Arc::new(Metrics::new()), CancellationToken::new())?;
    let done = runtime.block_on(work(spooler))?;
    engine.stop()?;
    Ok(done)
}
