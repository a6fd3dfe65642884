//! Calls of the system that end the process, or fail (W1, W2): the Nth of each kind, for N = 1, 2, … until none is reached.
//!
//! `strace` makes them happen. A killed relay must have lost nothing that it promised; a failed sync must not be answered with
//! 250, and must not be tried again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::process::Launch;
use crate::world::{Way, Who, World};

/// What can be hit. Several names in one: whichever the machine has.
pub(crate) const CALLS: [&str; 10] = [
    "fdatasync,fsync",
    "pwritev,pwrite64",
    "write,writev",
    "sendto,sendmsg",
    "recvfrom",
    "rename,renameat,renameat2",
    "openat",
    "fallocate,ftruncate",
    "unlink,unlinkat",
    "sync_file_range",
];
/// What happens then.
pub(crate) const EFFECTS: [&str; 3] = ["signal=SIGKILL", "error=EIO", "error=ENOSPC"];
/// Messages that a run has to take to count as complete.
const RUN: u64 = 30;
/// Longest run.
const RUN_STEPS: usize = 150;

/// The relay's command below `strace`, which is not its parent: its process id is still the relay's.
pub(super) fn strace(calls: &str, inject: &str, out: &Path) -> Launch {
    let out = out.to_str().expect("text");
    let trace = format!("trace={calls}");
    let before = ["strace", "-D", "-f", "-qq", "-o", out, "-e", &trace, "-e", inject];
    Launch { before: before.map(str::to_owned).to_vec(), env: Vec::new() }
}

/// One call, one effect, one N.
pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    let (calls, effect) = (world.dice.one(&CALLS), world.dice.one(&EFFECTS));
    let nth = 1 + world.dice.below(40);
    hit(world, calls, effect, nth).await.map(drop)
}

/// Whether the Nth was reached in one run.
pub(crate) async fn hit(world: &mut World, calls: &str, effect: &str, nth: u64) -> Result<bool, String> {
    let out = world.dir().join("strace");
    let _ = fs::remove_file(&out);
    // The Nth of any thread, and only it.
    let launch = strace(calls, &format!("inject={calls}:{effect}:when={nth}"), &out);
    world.end(Who::Relay, Way::Stop);
    let before = world.ledger.counts().answered;
    world.launch_relay(&launch);
    for _ in 0..RUN_STEPS {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if world.has_ended(Who::Relay) || world.ledger.counts().answered >= before + RUN {
            break;
        }
    }
    let died = world.has_ended(Who::Relay);
    world.end(Who::Relay, Way::Kill);
    let traced = fs::read_to_string(&out).unwrap_or_default();
    let was_hit = traced.contains("INJECTED") || died && effect.starts_with("signal");
    if was_hit {
        world.feel(&format!("{effect} at {calls}"));
    }
    world.launch(Who::Relay);
    Ok(was_hit)
}
