//! Kills: at random moments, at named points where the build has them, during a start, with and without a warning.

use std::time::Duration;

use crate::support::home::GATEWAY_POINTS;
use crate::support::process::Launch;
use crate::support::storm::relay::{OUTBOUND_POINTS, RELAY_POINTS};
use crate::world::{Way, Who, World};

pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    let whom: &[Who] = match world.dice.below(4) {
        0 | 1 => &[Who::Relay],
        2 => &[Who::Gateway],
        _ => &[Who::Relay, Who::Gateway],
    };
    let named = cfg!(debug_assertions) && world.dice.chance(60);
    for who in whom {
        if named {
            at_a_point(world, *who).await;
        } else {
            let pause = world.some_ms(0, 600);
            world.rest(pause).await;
            end(world, *who);
        }
    }
    let gone = world.some_ms(0, 200);
    tokio::time::sleep(gone).await;
    // One in three dies once more while it starts.
    if world.dice.below(3) == 0 {
        for who in whom {
            world.launch(*who);
        }
        let moment = world.some_ms(0, 250);
        tokio::time::sleep(moment).await;
        for who in whom {
            end(world, *who);
        }
    }
    Ok(())
}

fn end(world: &mut World, who: Who) {
    let way = if world.dice.chance(75) { Way::Kill } else { Way::Stop };
    world.feel(match (who, way) {
        (Who::Relay, Way::Kill) => "relay killed",
        (Who::Relay, Way::Stop) => "relay stopped",
        (Who::Gateway, Way::Kill) => "gateway killed",
        (Who::Gateway, Way::Stop) => "gateway stopped",
    });
    world.end(who, way);
}

async fn at_a_point(world: &mut World, who: Who) {
    let point = match who {
        Who::Relay if world.dice.chance(40) => world.dice.one(&OUTBOUND_POINTS),
        Who::Relay => world.dice.one(&RELAY_POINTS),
        Who::Gateway => world.dice.one(&GATEWAY_POINTS),
    };
    let count = 1 + world.dice.below(60);
    let launch = Launch::dying_at(Some(&format!("{point}:{count}")));
    world.end(who, Way::Kill);
    match who {
        Who::Relay => world.launch_relay(&launch),
        Who::Gateway => world.launch_gateway(&launch),
    }
    for _ in 0..150 {
        if world.has_ended(who) {
            return world.feel(&format!("died at {point}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    end(world, who);
}
