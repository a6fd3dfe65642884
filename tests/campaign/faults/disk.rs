//! Disks that are full, and disks that are slow.

use std::time::Duration;

use waystation::clock::monotonic;

use super::syscalls::strace;
use crate::world::{Way, Who, World};

/// Fills the relay's disk for `ms` milliseconds, and up to a quarter more, while senders go on: below the floor, or to the last byte.
pub(super) async fn fill(world: &mut World, ms: u64) -> Result<(), String> {
    let refused = world.refused();
    let time = world.some_ms(ms, ms + ms / 4);
    let until = monotonic() + time;
    let disk = || "no disk of its own".to_owned();
    while monotonic() < until {
        // Sometimes a little is given back, and is gone at once.
        let left = world.dice.one(&[0, 0, 64 << 10, 1 << 20, 8 << 20, 15 << 20]);
        world.disk.as_ref().ok_or_else(disk)?.fill(left)?;
        let part = world.some_ms(200, 2_000).min(until.saturating_duration_since(monotonic()));
        world.rest(part + Duration::from_millis(1)).await;
        if world.dice.chance(10) {
            world.restart(Who::Relay, Way::Kill);
            world.feel("killed with a full disk");
        }
        if world.dice.chance(20) {
            world.disk.as_ref().ok_or_else(disk)?.free_up();
        }
    }
    world.disk.as_ref().ok_or_else(disk)?.free_up();
    if world.refused() > refused {
        world.feel("full disk, senders refused");
    }
    Ok(())
}

/// Syncs and writes of the relay take up to a second, for a while.
pub(super) async fn slow_down(world: &mut World) -> Result<(), String> {
    let micros = world.dice.one(&[2_000, 20_000, 200_000, 1_000_000, 2_500_000]);
    // A slow one among fast ones, or all of them.
    let every = if micros > 100_000 { 5 + world.dice.below(20) } else { 1 + world.dice.below(3) };
    let calls = world.dice.one(&["fdatasync,fsync", "fdatasync,fsync,pwritev,pwrite64,writev"]);
    let inject = format!("inject={calls}:delay_exit={micros}:when={every}+{every}");
    let before = strace(calls, &inject, &world.dir().join("strace"));
    world.end(Who::Relay, Way::Stop);
    world.launch_relay(&before);
    world.recover().await?;
    let answered = world.ledger.counts().answered;
    let time = world.some_ms(500, 3_000);
    world.rest(time).await;
    if world.ledger.counts().answered > answered {
        world.feel("slow disk, mail taken");
    } else {
        world.feel("slow disk, no mail taken");
    }
    let way = if world.dice.chance(50) { Way::Kill } else { Way::Stop };
    world.restart(Who::Relay, way);
    Ok(())
}
