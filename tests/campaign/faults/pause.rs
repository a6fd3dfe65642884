//! A machine that sleeps (W16): SIGSTOP and SIGCONT, for moments and for longer than the idle timeout.

use crate::world::{IDLE, Way, Who, World};

pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    let whom: &[Who] = match world.dice.below(3) {
        0 => &[Who::Relay],
        1 => &[Who::Gateway],
        _ => &[Who::Relay, Who::Gateway],
    };
    let idle = u64::try_from(IDLE.as_millis()).expect("small");
    let time = if world.dice.chance(30) { world.some_ms(idle, 2 * idle) } else { world.some_ms(5, 800) };
    whom.iter().for_each(|who| world.signal(*who, "STOP"));
    // Nobody is started again meanwhile: a stopped process is one that runs.
    tokio::time::sleep(time).await;
    let die = world.dice.chance(10);
    for who in whom {
        if die {
            world.feel("killed in its sleep");
            world.end(*who, Way::Kill);
        } else {
            world.signal(*who, "CONT");
        }
    }
    world.feel(if time >= IDLE { "long pause" } else { "short pause" });
    let after = world.some_ms(50, 500);
    world.rest(after).await;
    Ok(())
}
