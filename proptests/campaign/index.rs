//! The index is a cache: after each step of a story the process is killed, and started with the index as it is,
//! without one, and with each older one that is still at hand. All show the same, down to the history of each item.
//!
//! Control: an older index that claims to be as new as the newest.

use spool::disk::sim::SplitMix64;
use spool::index::Index as _;
use spool::index::memory::{MemoryIndex, MemorySnapshot};

use crate::dice::draw;
use crate::r#gen::{self, Step};
use crate::rounds::{Campaign, Tally, Violation};
use crate::world::{Cut, World};

/// See the module.
#[derive(Debug)]
pub(crate) struct IndexFates;

impl Campaign for IndexFates {
    fn name(&self) -> &'static str {
        "index"
    }

    fn story(&self, seed: u64, steps: usize) -> Vec<Step> {
        // What the retention has removed may be read again from a journal that still has it.
        let story = draw(seed, &r#gen::stormy(steps));
        story.into_iter().filter(|step| *step != Step::Maintain).collect()
    }

    fn play(&self, seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
        let mut random = SplitMix64::new(seed);
        let mut world = World::new(seed)?;
        for step in steps {
            world.run(std::slice::from_ref(step))?;
            let mut cut = world.here();
            tally.cuts += 1;
            // The page cache may be gone as well, but it is the same journal for all.
            if random.below(2) == 0 {
                cut.disk = cut.disk.crash(random.next());
            }
            let newest = facts(&cut, "as it is", MemoryIndex::from_snapshot(cut.index.as_ref().clone()))?;
            let older =
                cut.older.iter().map(|older| ("older", MemoryIndex::from_snapshot(older.as_ref().clone())));
            for (name, index) in older.chain([("lost", MemoryIndex::new())]) {
                same(&newest, &facts(&cut, name, index)?, &format!("{name} index after {step:?}"))?;
                tally.images += 1;
            }
            tally.images += 1;
        }
        tally.operations += world.operations();
        tally.committed += world.committed().items.len() as u64;
        Ok(())
    }

    fn broken(&self) -> &'static str {
        "an older index that claims to be the newest"
    }

    fn play_broken(&self, seed: u64, steps: &[Step]) -> Result<(), Violation> {
        let mut world = World::new(seed)?;
        for step in steps {
            world.run(std::slice::from_ref(step))?;
            let cut = world.here();
            for older in &cut.older {
                facts(&cut, "claims to be new", claim(older, &cut.index)?)?;
            }
        }
        Ok(())
    }
}

/// What a start with this index shows; it must be what the model says, too.
fn facts(cut: &Cut, name: &str, index: MemoryIndex) -> Result<Vec<String>, Violation> {
    let mut world = World::after(cut, cut.disk.kill(), index);
    let opened = world.open();
    opened.map_err(|why| Violation::in_world(&format!("index {name}"), &why, &world))?;
    Ok(world.facts()?)
}

fn same(one: &[String], other: &[String], place: &str) -> Result<(), Violation> {
    if one == other {
        return Ok(());
    }
    let differs = one.iter().zip(other).find(|(one, other)| one != other);
    Err(format!("{place}: {} facts and {}, first difference {differs:?}", one.len(), other.len()).into())
}

/// The old one under the place of the new one.
fn claim(old: &MemorySnapshot, new: &MemorySnapshot) -> Result<MemoryIndex, Violation> {
    let index = MemoryIndex::from_snapshot(old.clone());
    let newest = MemoryIndex::from_snapshot(new.clone()).applied().map_err(|error| error.to_string())?;
    if let Some(applied) = newest {
        index.apply(&[], applied).map_err(|error| error.to_string())?;
    }
    Ok(index)
}
