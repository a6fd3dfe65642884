//! The floor of the disk: one writer that appends a message and syncs, in a loop, without any SMTP.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::super::figures::{Latency, Outcome, Unit};
use super::super::smtp::Size;
use super::super::usage::Watch;
use crate::clock;

/// Longest this takes, seconds: what a disk does in it is rate enough.
const SECONDS_MAX: u64 = 20;

pub(in super::super) fn measure(dir: &Path, messages: u64, size: Size) -> anyhow::Result<Outcome> {
    let mut file = File::create(dir.join("floor"))?;
    let mut sync = Latency::new("fdatasync");
    let watch = Watch::start(std::process::id(), dir);
    let mut done = 0;
    while done < messages && watch.elapsed().as_secs() < SECONDS_MAX {
        let bytes = vec![b'X'; size.of(done)];
        file.write_all(&bytes)?;
        let begun = clock::monotonic();
        file.sync_data()?;
        sync.record(clock::monotonic().duration_since(begun));
        done += 1;
    }
    let mut outcome = Outcome::default();
    let wall = watch.elapsed();
    watch.finish(wall, done, &mut outcome);
    outcome.figure("commit_mean_ms", Unit::Milliseconds, sync.mean());
    outcome.latency(sync, &[("commit_p99_ms", 0.99)]);
    outcome.figure("syncs", Unit::Count, super::super::count(done));
    Ok(outcome)
}
