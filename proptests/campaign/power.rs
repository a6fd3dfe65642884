//! Power cuts at every moment: before each operation that changes the disk, what is not synced goes every way it can.
//!
//! Where a cut has few outcomes all of them are tried, where it has more the two extremes and a sample. Each outcome is
//! started with the index as it was, without one, or with an older one, and must be a committed moment and a prefix of
//! what was under way. Some go on from there, through another cut. Control: from the middle of a story on the medium's
//! syncs do nothing, and committed items must be seen to be missing.

use spool::disk::sim::{SimDisk, SplitMix64};
use spool::index::memory::MemoryIndex;

use crate::dice::{draw, small};
use crate::r#gen::{self, IndexFate, Step, Stop};
use crate::rounds::{Campaign, Tally, Violation};
use crate::world::{Cut, World};

/// Outcomes of a cut, all of which are tried.
pub(crate) const OUTCOMES_MAX: u64 = 64;
/// Outcomes tried of a cut that has more.
pub(crate) const SAMPLES: u64 = 8;
/// One of so many outcomes lives on.
const SECOND_LIVES: u64 = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Power {
    pub(crate) outcomes_max: u64,
    pub(crate) samples: u64,
    pub(crate) lying: bool,
}

impl Default for Power {
    fn default() -> Self {
        Self { outcomes_max: OUTCOMES_MAX, samples: SAMPLES, lying: false }
    }
}

impl Campaign for Power {
    fn name(&self) -> &'static str {
        "power"
    }

    fn command(&self) -> String {
        let lying = if self.lying { " --lying-disk" } else { "" };
        format!("power --outcomes {} --samples {}{lying}", self.outcomes_max, self.samples)
    }

    fn story(&self, seed: u64, steps: usize) -> Vec<Step> {
        let failing = seed.is_multiple_of(3);
        let story =
            if failing { draw(seed, &r#gen::stormy(steps)) } else { draw(seed, &r#gen::power_cuts(steps)) };
        // Large bodies fill segments, small ones leave cuts whose outcomes can all be tried.
        if seed.is_multiple_of(4) { story } else { small(story) }
    }

    fn play(&self, seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
        let mut random = SplitMix64::new(seed);
        let mut world = World::recorded(seed)?;
        self.all_cuts(&mut world, &mut random, tally)?;
        for (n, step) in steps.iter().enumerate() {
            if self.lying && n == steps.len() / 2 {
                world.lie();
            }
            let done = world.run(std::slice::from_ref(step));
            done.map_err(|why| Violation::in_world("story", &why, &world))?;
            self.all_cuts(&mut world, &mut random, tally)?;
        }
        tally.operations += world.operations();
        tally.committed += world.committed().items.len() as u64;
        Ok(())
    }

    fn broken(&self) -> &'static str {
        "syncs do nothing"
    }

    fn play_broken(&self, seed: u64, steps: &[Step]) -> Result<(), Violation> {
        // Much can be missing; the control is about mail.
        match (Self { lying: true, ..Self::default() }).play(seed, steps, &mut Tally::default()) {
            Err(violation) if violation.harm.lost > 0 => Err(violation),
            Err(_) | Ok(()) => Ok(()),
        }
    }
}

impl Power {
    fn all_cuts(
        &self,
        world: &mut World,
        random: &mut SplitMix64,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        for cut in world.take_cuts() {
            tally.cuts += 1;
            self.cut(&cut, random, tally)?;
        }
        Ok(())
    }

    fn cut(&self, cut: &Cut, random: &mut SplitMix64, tally: &mut Tally) -> Result<(), Violation> {
        let choices = cut.disk.choices();
        let outcomes = choices.iter().try_fold(1u64, |all, n| all.checked_mul(u64::from(*n)));
        if outcomes.is_some_and(|outcomes| outcomes <= self.outcomes_max) {
            let mut picks = vec![0; choices.len()];
            loop {
                start(cut, &cut.disk.crash_as(&picks), &format!("{picks:?}"), random, tally)?;
                if !step_on(&mut picks, &choices) {
                    return Ok(());
                }
            }
        }
        let nothing = vec![0; choices.len()];
        let all: Vec<u32> = choices.iter().map(|n| n - 1).collect();
        for picks in [nothing, all] {
            start(cut, &cut.disk.crash_as(&picks), &format!("{picks:?}"), random, tally)?;
        }
        for n in 0..self.samples {
            let seed = random.next();
            let disk = if n % 2 == 0 {
                cut.disk.crash(seed)
            } else {
                let mut each = SplitMix64::new(seed);
                let picks: Vec<u32> = choices.iter().map(|n| each.below(u64::from(*n)) as u32).collect();
                cut.disk.crash_as(&picks)
            };
            start(cut, &disk, &format!("sample {seed}"), random, tally)?;
        }
        Ok(())
    }
}

/// The next combination; false after the last one.
fn step_on(picks: &mut [u32], choices: &[u32]) -> bool {
    for (pick, n) in picks.iter_mut().zip(choices) {
        *pick += 1;
        if *pick < *n {
            return true;
        }
        *pick = 0;
    }
    false
}

/// Starts on one outcome and compares; sometimes goes on from there.
fn start(
    cut: &Cut,
    disk: &SimDisk,
    outcome: &str,
    random: &mut SplitMix64,
    tally: &mut Tally,
) -> Result<(), Violation> {
    let dice = random.next();
    let (fate, index) = match dice % 8 {
        0..4 => ("kept", MemoryIndex::from_snapshot(cut.index.as_ref().clone())),
        4..6 => ("lost", MemoryIndex::new()),
        _ => match cut.older.get((dice >> 8) as usize % cut.older.len().max(1)) {
            Some(older) => ("older", MemoryIndex::from_snapshot(older.as_ref().clone())),
            None => ("lost", MemoryIndex::new()),
        },
    };
    let mut world = World::after(cut, disk.clone(), index);
    tally.images += 1;
    let lived = world.open().and_then(|()| {
        if !(dice >> 16).is_multiple_of(SECOND_LIVES) {
            return Ok(());
        }
        tally.images += 2;
        second_life(&mut world, dice)
    });
    lived.map_err(|why| {
        let place = format!("cut before operation {}, outcome {outcome}, index {fate}", cut.op);
        Violation::in_world(&place, &why, &world)
    })
}

/// New mail, another cut, and everything is fetched.
fn second_life(world: &mut World, seed: u64) -> Result<(), String> {
    world.run(&[
        Step::Register(0),
        Step::Accept { slot: 0, lanes: vec![0, 1], head: 5 },
        Step::Commit,
        Step::Accept { slot: 1, lanes: vec![0], head: 9 },
        Step::Restart { how: Stop::Power(seed), index: IndexFate::Kept, trouble: None },
    ])?;
    world.settle()
}
