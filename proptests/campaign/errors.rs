//! Operations that fail: each one of a story, and of a start, once with EIO and once with ENOSPC; a failed write leaves
//! a part of itself behind. And a medium that is full for a while.
//!
//! The process that sees a write or a sync fail must not make anything stable any more, and nothing that was committed
//! may be lost, whichever way it ends: every story ends with a power cut. Where space runs out the process must go on,
//! and take mail again when there is room. Control: failures that nobody is told of.

use spool::disk::sim::{Fault, SimDisk, SplitMix64};
use spool::index::memory::MemoryIndex;

use crate::dice::{draw, small};
use crate::r#gen::{self, IndexFate, Step, Stop};
use crate::rounds::{Campaign, Tally, Violation};
use crate::world::World;

/// Steps played after the one in which something failed.
const STEPS_AFTER: usize = 6;
/// Times the medium gets full in one story.
const SQUEEZES: u64 = 6;
/// Steps it stays so, at most.
const SQUEEZED_STEPS: u64 = 12;
/// Most room there is then, bytes: sometimes a segment fits, sometimes not.
const ROOM_BYTES: u64 = 150_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct IoErrors;

impl Campaign for IoErrors {
    fn name(&self) -> &'static str {
        "io-errors"
    }

    fn story(&self, seed: u64, steps: usize) -> Vec<Step> {
        let story = draw(seed, &r#gen::calm(steps));
        if seed.is_multiple_of(2) { story } else { small(story) }
    }

    fn play(&self, seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
        let (ends, committed) = operations(seed, steps)?;
        tally.operations += ends.last().copied().unwrap_or(0);
        tally.committed += committed;
        each_operation(seed, steps, &ends, &[Fault::Io, Fault::Full], tally)?;
        for squeeze in 0..SQUEEZES {
            full_for_a_while(seed, squeeze, steps, tally)?;
        }
        failing_starts(seed, steps, tally)
    }

    fn broken(&self) -> &'static str {
        "writes and syncs that fail say that they worked"
    }

    fn play_broken(&self, seed: u64, steps: &[Step]) -> Result<(), Violation> {
        let (ends, _) = operations(seed, steps)?;
        each_operation(seed, steps, &ends, &[Fault::Silent], &mut Tally::default())
    }
}

/// How many operations there were before the first step and after each, and items committed at the end.
fn operations(seed: u64, steps: &[Step]) -> Result<(Vec<u64>, u64), Violation> {
    let mut world = World::new(seed)?;
    let mut ends = vec![world.disk().ops()];
    for step in steps {
        world.run(std::slice::from_ref(step))?;
        ends.push(world.disk().ops());
    }
    Ok((ends, world.committed().items.len() as u64))
}

/// One failure at each operation of the story.
fn each_operation(
    seed: u64,
    steps: &[Step],
    ends: &[u64],
    faults: &[Fault],
    tally: &mut Tally,
) -> Result<(), Violation> {
    let (Some(first), Some(end)) = (ends.first(), ends.last()) else { return Ok(()) };
    for op in *first..*end {
        let step = ends.partition_point(|end| *end <= op);
        let steps = &steps[..(step + STEPS_AFTER).min(steps.len())];
        for fault in faults {
            tally.cuts += 1;
            let mut world = World::new(seed)?;
            world.fail_at(op, *fault);
            let done = world.run(steps).and_then(|()| end_of(&mut world, seed ^ op, tally));
            done.map_err(|why| Violation::in_world(&format!("{fault:?} at operation {op}"), &why, &world))?;
        }
    }
    Ok(())
}

/// A power cut, and everything is compared and fetched.
fn end_of(world: &mut World, seed: u64, tally: &mut Tally) -> Result<(), String> {
    tally.images += 2;
    world.run(&[Step::Restart { how: Stop::Power(seed), index: IndexFate::Kept, trouble: None }])?;
    world.settle()
}

/// The medium has little room for some steps, then enough again.
fn full_for_a_while(seed: u64, squeeze: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
    let mut random = SplitMix64::new(seed ^ squeeze);
    let from = random.below(steps.len() as u64) as usize;
    let to = (from + 1 + random.below(SQUEEZED_STEPS) as usize).min(steps.len());
    let room = random.below(ROOM_BYTES);
    tally.cuts += 1;
    let mut world = World::new(seed)?;
    let mut play = || {
        world.run(&steps[..from])?;
        world.squeeze(room);
        world.run(&steps[from..to])?;
        world.make_room();
        world.run(&steps[to..])?;
        end_of(&mut world, seed, tally)
    };
    play().map_err(|why| {
        Violation::in_world(&format!("room for {room} bytes in steps {from} to {to}"), &why, &world)
    })
}

/// A start that fails at each of its operations, from nothing, after an orderly end and after a kill; the one after it
/// must find everything.
fn failing_starts(seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
    let mut world = World::new(seed)?;
    world.run(steps)?;
    let killed = world.here();
    let ended = world.rest()?;
    let empty = World::unborn(SimDisk::new()).here();
    for (name, cut) in [("killed", killed), ("ended", ended), ("empty", empty)] {
        for op in 0.. {
            let mut reached = false;
            for fault in [Fault::Io, Fault::Full] {
                let index = MemoryIndex::from_snapshot(cut.index.as_ref().clone());
                let mut world = World::after(&cut, cut.disk.kill(), index);
                world.fail_at(op, fault);
                let how = if (seed ^ op).is_multiple_of(2) { Stop::Kill } else { Stop::Power(seed ^ op) };
                let done = world.start_in_vain(op, how).and_then(|far| {
                    reached |= far;
                    world.open()
                });
                tally.images += 1;
                done.map_err(|why| {
                    let place = format!("{fault:?} at operation {op} of a start, {name}");
                    Violation::in_world(&place, &why, &world)
                })?;
            }
            tally.cuts += 2;
            if !reached {
                break;
            }
        }
    }
    Ok(())
}
