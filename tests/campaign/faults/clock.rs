//! The wall clock jumps, by hours and days, back and forward, while mail flows; the monotonic clock goes on.
//!
//! libfaketime stands between the two processes and the system. Jumps stay within days, so that nothing expires that has a
//! month.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::process::Launch;
use crate::world::{Way, Who, World};

const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];

/// Where it is.
pub(super) fn library() -> Result<&'static Path, String> {
    let found = PLACES.iter().map(Path::new).find(|path| path.exists());
    found.ok_or_else(|| "libfaketime is not installed".to_owned())
}

pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    let file = world.dir().join("faketime");
    set(&file, 0);
    let launch = launch(&file)?;
    // Sometimes the two live in different times, as on two machines.
    let whom: &[Who] = if world.dice.chance(50) { &[Who::Relay] } else { &[Who::Relay, Who::Gateway] };
    for who in whom {
        match who {
            Who::Relay => world.around_relay = launch.clone(),
            Who::Gateway => world.around_gateway = launch.clone(),
        }
        world.restart(*who, Way::Stop);
    }
    world.recover().await?;
    for _ in 0..2 + world.dice.below(4) {
        let span = world.dice.one(&[600, 3_600, 86_400, 3 * 86_400]);
        let seconds = i64::try_from(world.dice.below(2 * span + 1)).expect("small")
            - i64::try_from(span).expect("small");
        set(&file, seconds);
        world.ahead_seconds = world.ahead_seconds.max(seconds);
        world.feel(if seconds < 0 { "clock behind" } else { "clock ahead" });
        let pause = world.some_ms(100, 900);
        world.rest(pause).await;
        if world.dice.chance(30) {
            world.restart(Who::Relay, Way::Kill);
        }
    }
    world.around_relay = Launch::default();
    world.around_gateway = Launch::default();
    for who in whom {
        let way = if world.dice.chance(50) { Way::Kill } else { Way::Stop };
        world.restart(*who, way);
    }
    Ok(())
}

/// What was planned while the clock was ahead is due when that time comes: the last calm is then.
pub(crate) fn catch_up(world: &mut World) {
    if world.ahead_seconds == 0 {
        return;
    }
    let file = world.dir().join("faketime");
    set(&file, world.ahead_seconds + 60);
    let Ok(launch) = launch(&file) else { return };
    world.around_relay = launch.clone();
    world.around_gateway = launch;
    world.restart(Who::Relay, Way::Stop);
    world.restart(Who::Gateway, Way::Stop);
}

/// A whole file or the one before, whoever reads it.
fn set(file: &PathBuf, seconds: i64) {
    let beside = file.with_extension("new");
    fs::write(&beside, format!("{seconds:+}\n")).expect("written");
    fs::rename(&beside, file).expect("renamed");
}

fn launch(file: &Path) -> Result<Launch, String> {
    let env = [
        ("LD_PRELOAD", library()?.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    Ok(Launch { before: Vec::new(), env: env.map(|(name, value)| (name.to_owned(), value)).to_vec() })
}
