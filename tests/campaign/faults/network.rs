//! Bad lines between relay and gateway: loss, delay, repeats, reordering, cuts, and cuts longer than the idle timeout.

use crate::support::process::Launch;
use crate::wire::{RELAY_HOST, Weather};
use crate::world::{IDLE, Way, Who, World};

/// Items on their way to the gateway while it is on the far side.
const WINDOW: u32 = 64;

pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    let before = world.wire()?.far_side();
    world.wire()?.set(Weather::default())?;
    world.around_gateway = Launch { before, env: Vec::new() };
    world.configure_gateway(RELAY_HOST, WINDOW);
    world.restart(Who::Gateway, Way::Stop);
    world.recover().await?;
    let idle = u64::try_from(IDLE.as_millis()).expect("small");
    for _ in 0..2 + world.dice.below(3) {
        let (weather, name) = match world.dice.below(5) {
            0 => (Weather { cut: true, ..Weather::default() }, "cut"),
            1 => (Weather { lost: 20 + world.dice.below(150), ..Weather::default() }, "loss"),
            2 => (
                Weather {
                    delay_ms: 5 + world.dice.below(150),
                    jitter_ms: world.dice.below(100),
                    ..Weather::default()
                },
                "delay",
            ),
            3 => (Weather { doubled: 300, jitter_ms: 10, ..Weather::default() }, "repeats and disorder"),
            _ => (
                Weather { lost: 50, doubled: 50, delay_ms: 20, jitter_ms: 60, ..Weather::default() },
                "all at once",
            ),
        };
        world.wire()?.set(weather)?;
        world.feel(name);
        let time =
            if world.dice.chance(25) { world.some_ms(idle, 2 * idle) } else { world.some_ms(100, 1_200) };
        world.rest(time).await;
        if world.dice.chance(15) {
            world.restart(Who::Gateway, Way::Kill);
        }
        // Sometimes one weather follows the other at once.
        if world.dice.chance(70) {
            world.wire()?.set(Weather::default())?;
            let time = world.some_ms(100, 800);
            world.rest(time).await;
        }
    }
    world.wire()?.set(Weather::default())?;
    world.around_gateway = Launch::default();
    world.configure_gateway("127.0.0.1", WINDOW);
    let way = if world.dice.chance(50) { Way::Kill } else { Way::Stop };
    world.restart(Who::Gateway, way);
    Ok(())
}
