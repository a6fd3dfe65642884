//! The wall clock jumps: back a day, forward a year, to zero, between any two steps and between a process and the next. Nothing is lost or given twice, seqs and ids stay unique, and nothing expires before its time
//! by the clock as it is then: a clock that went back makes everything younger, never older.
//!
//! Control: ages that wrap, so that everything is old enough to expire.

use std::collections::BTreeSet;

use spool::disk::sim::SplitMix64;

use crate::dice::draw;
use crate::r#gen::{self, Step};
use crate::rounds::{Campaign, Tally, Violation};
use crate::world::World;

const DAY_MS: i64 = 86_400_000;
/// Jumps of the clock; those that lead below zero end there.
const JUMPS: [i64; 6] = [-DAY_MS, 365 * DAY_MS, i64::MIN, -1, DAY_MS, -365 * DAY_MS];
/// One of so many steps has a jump before it.
const JUMP_EVERY: u64 = 6;

/// See the module.
#[derive(Debug)]
pub(crate) struct Clock;

impl Campaign for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn story(&self, seed: u64, steps: usize) -> Vec<Step> {
        let mut random = SplitMix64::new(seed);
        let mut story = Vec::new();
        for step in draw(seed, &r#gen::stormy(steps)) {
            if random.below(JUMP_EVERY) == 0 {
                story.push(Step::Clock(JUMPS[random.below(JUMPS.len() as u64) as usize]));
                // Whoever tidies up now sees the new time first.
                story.extend((random.below(2) == 0).then_some(Step::Maintain));
            }
            story.push(step);
        }
        story
    }

    fn play(&self, seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
        let world = World::new(seed)?;
        play(world, steps, tally)
    }

    fn broken(&self) -> &'static str {
        "everything is old enough to expire"
    }

    fn play_broken(&self, seed: u64, steps: &[Step]) -> Result<(), Violation> {
        let world = World::with_options(seed, |options| options.expire_ms = 0)?;
        play(world, steps, &mut Tally::default())
    }
}

fn play(mut world: World, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
    let starts = steps.iter().filter(|step| matches!(step, Step::Restart { .. })).count() as u64;
    tally.cuts += steps.iter().filter(|step| matches!(step, Step::Clock(_))).count() as u64;
    tally.images += starts + 1;
    let done = world.run(steps).and_then(|()| world.settle()).and_then(|()| given_once(steps, &world.log));
    done.map_err(|why| Violation::in_world("story", &why, &world))?;
    tally.operations += world.operations();
    tally.committed += world.committed().items.len() as u64;
    Ok(())
}

/// What was acked is not lent again, unless somebody asked for the past.
fn given_once(steps: &[Step], log: &[String]) -> Result<(), String> {
    if steps.iter().any(|step| matches!(step, Step::Replay { .. } | Step::Verb { .. })) {
        return Ok(());
    }
    let mut acked = BTreeSet::new();
    for line in log {
        if let Some(id) = line.strip_prefix("acked for good ") {
            acked.insert(id);
        } else if let Some(id) = line.strip_prefix("lent ").filter(|id| acked.contains(id)) {
            return Err(format!("{id} was lent after its ack"));
        }
    }
    Ok(())
}
