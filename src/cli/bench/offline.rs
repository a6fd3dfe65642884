//! The spool of a place where no relay runs, for whoever fills it before the measurement.

use std::future::Future;
use std::sync::Arc;

use spool::ids::LaneId;
use tokio_util::sync::CancellationToken;

use super::server::Place;
use super::stop;
use crate::clock;
use crate::daemon::ledger;
use crate::observe::Metrics;
use crate::spooler::Spooler;

/// Mailboxes that are registered in one commit.
const REGISTERED_AT_ONCE: usize = 1000;

/// Opens it, lets `work` have it, and closes it as a relay does that is asked to stop.
pub(super) fn with<T, F>(place: &Place, work: impl FnOnce(Spooler) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let config = place.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ledger::Ledger { engine, spooler, .. } =
        ledger::open(&config, Arc::new(Metrics::new()), CancellationToken::new())?;
    let done = stop::drive(&runtime, work(spooler))?;
    engine.stop()?;
    Ok(done)
}

/// Lanes of mailboxes, made where they are missing.
pub(super) async fn register(spooler: &Spooler, names: &[String]) -> anyhow::Result<Vec<LaneId>> {
    let mut lanes = Vec::with_capacity(names.len());
    for some in names.chunks(REGISTERED_AT_ONCE).map(<[String]>::to_vec) {
        let register = move |spool: &mut spool::Spool| {
            some.iter().map(|name| spool.register(name, clock::wall())).collect::<Result<Vec<_>, _>>()
        };
        lanes.extend(spooler.call(register).await??);
    }
    Ok(lanes)
}
