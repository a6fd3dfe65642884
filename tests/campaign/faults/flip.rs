//! Rot (W5): bytes of the journal change while nobody has it open.
//!
//! The relay stops in order first: in the last batch before a kill, rot cannot be told from a torn write.

use std::fs;

use super::index::flip;
use crate::world::{Way, Who, World};

pub(super) async fn strike(world: &mut World) -> Result<(), String> {
    // Something should wait in the journal.
    let apart = world.dice.chance(70);
    if apart {
        world.end(Who::Gateway, Way::Stop);
    }
    let wait = world.some_ms(100, 600);
    tokio::time::sleep(wait).await;
    world.end(Who::Relay, Way::Stop);
    let journal = world.spool().join("journal");
    let fail = |error: std::io::Error| format!("{}: {error}", journal.display());
    let mut segments = Vec::new();
    for entry in fs::read_dir(&journal).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|kind| kind == "wsj") {
            segments.push(path);
        }
    }
    segments.sort();
    let at = usize::try_from(world.dice.below(segments.len() as u64)).expect("small");
    let mut bytes = fs::read(&segments[at]).map_err(fail)?;
    // Only where something was written: what is set aside is all zeros.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let times = 1 + usize::try_from(world.dice.below(3)).expect("small");
    // Not in the head: a segment that does not say what it is, is set aside whole.
    let places = flip(&mut bytes[64.min(used)..used], times, &mut world.dice);
    fs::write(&segments[at], bytes).map_err(fail)?;
    for _ in places {
        world.feel("byte flipped");
    }
    world.launch(Who::Relay);
    world.recover().await
}
