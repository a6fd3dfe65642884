//! Plays the rounds of a campaign on several threads, counts, and says how to see a failure again.
//!
//! Rounds are handed out by number, and a round depends on nothing but its number, so threads change nothing about
//! what is found. A panic in a round is a broken promise like any other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use waystation::clock::monotonic;

use crate::dice::of_round;
use crate::r#gen::Step;
use crate::table::Row;
use crate::world::{Broken, Harm, World};

/// Failures that are told; all are counted.
const TOLD_MAX: usize = 5;
/// Rounds in which a control must be caught.
const CONTROL_ROUNDS: u64 = 40;
/// Times a failing story is played again to make it shorter.
const SHORTER_MAX: usize = 400;

/// One way to treat the ledger badly.
pub(crate) trait Campaign: Sync {
    /// Its subcommand.
    fn name(&self) -> &'static str;

    /// Its subcommand with everything that a round depends on.
    fn command(&self) -> String {
        self.name().to_owned()
    }

    /// What happens in the round of `seed`.
    fn story(&self, seed: u64, steps: usize) -> Vec<Step>;

    /// Plays it in every way of this campaign.
    fn play(&self, seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation>;

    /// What is broken in the control.
    fn broken(&self) -> &'static str;

    /// Plays it with that broken; must fail for some story.
    fn play_broken(&self, seed: u64, steps: &[Step]) -> Result<(), Violation>;
}

/// A promise was not kept.
#[derive(Debug, Default)]
pub(crate) struct Violation {
    pub(crate) why: String,
    pub(crate) harm: Harm,
}

impl From<Broken> for Violation {
    fn from(why: Broken) -> Self {
        Self { why, harm: Harm::default() }
    }
}

impl Violation {
    /// The same with the place, and with what is wrong in that world.
    pub(crate) fn in_world(place: &str, why: &str, world: &World) -> Self {
        Self { why: format!("{place}: {why}"), harm: world.audit() }
    }
}

/// What was done, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Operations of the media that stories ran on.
    pub(crate) operations: u64,
    /// Moments, failures or damaged places that were looked at.
    pub(crate) cuts: u64,
    /// Starts that were compared with the model.
    pub(crate) images: u64,
    /// Items that had been committed at the end of the stories.
    pub(crate) committed: u64,
    /// Damage that changed nothing.
    pub(crate) harmless: u64,
    /// Damage that was reported.
    pub(crate) found: u64,
    pub(crate) harm: Harm,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.images += other.images;
        self.committed += other.committed;
        self.harmless += other.harmless;
        self.found += other.found;
        self.add_harm(&other.harm);
    }

    fn add_harm(&mut self, harm: &Harm) {
        self.harm.lost += harm.lost;
        self.harm.corrupt += harm.corrupt;
        self.harm.double += harm.double;
    }
}

/// How much is to be played.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) rounds: Option<u64>,
    pub(crate) time: Option<Duration>,
    pub(crate) only: Option<u64>,
    pub(crate) steps: usize,
    pub(crate) jobs: u32,
}

#[derive(Debug, Default)]
struct Outcome {
    rounds: u64,
    tally: Tally,
    violations: u64,
    told: Vec<(u64, String)>,
}

/// Plays one campaign, and its control.
pub(crate) fn play_all(campaign: &dyn Campaign, plan: &Plan) -> Row {
    let begun = monotonic();
    let outcome = Mutex::new(Outcome::default());
    let (first, end) = match plan.only {
        Some(round) => (round, round.saturating_add(1)),
        None => (0, plan.rounds.unwrap_or(u64::MAX)),
    };
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| {
                while plan.time.is_none_or(|time| begun.elapsed() < time) {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= end {
                        return;
                    }
                    let mut tally = Tally::default();
                    let seed = of_round(plan.seed, round);
                    let story = campaign.story(seed, plan.steps);
                    let played = attempt(|| campaign.play(seed, &story, &mut tally));
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.rounds += 1;
                    if let Err(violation) = played {
                        tally.add_harm(&violation.harm);
                        outcome.violations += 1;
                        outcome.told.push((round, violation.why));
                    }
                    outcome.tally.add(&tally);
                }
            });
        }
    });
    let took = begun.elapsed();
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.told.sort();
    for (round, why) in outcome.told.iter().take(TOLD_MAX) {
        println!("{}: round {round}: {why}\n  again: {}", campaign.name(), again(campaign, plan, *round));
    }
    if plan.only.is_some() && outcome.violations > 0 {
        let seed = of_round(plan.seed, first);
        for step in shorter(campaign, seed, campaign.story(seed, plan.steps)) {
            println!("  {step:?}");
        }
    }
    let control = plan.only.is_none().then(|| caught(campaign, plan));
    let Outcome { rounds, tally, violations, .. } = outcome;
    Row { campaign: campaign.name(), seed: plan.seed, rounds, tally, violations, took, control }
}

/// Plays; a panic is a violation.
fn attempt(play: impl FnOnce() -> Result<(), Violation>) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", words.unwrap_or("without a word")).into())
    })
}

/// The command that plays one round again.
fn again(campaign: &dyn Campaign, plan: &Plan, round: u64) -> String {
    format!(
        "cargo test --release --test spool_campaign -- {} --seed {} --steps {} --only-round {round}",
        campaign.command(),
        plan.seed,
        plan.steps
    )
}

/// The story without the steps that are not needed for it to fail.
fn shorter(campaign: &dyn Campaign, seed: u64, mut story: Vec<Step>) -> Vec<Step> {
    let fails = |story: &[Step]| attempt(|| campaign.play(seed, story, &mut Tally::default())).is_err();
    let (mut size, mut left) = (story.len().div_ceil(2), SHORTER_MAX);
    while size > 0 && left > 0 {
        let (mut at, mut cut) = (0, false);
        while at < story.len() && left > 0 {
            let mut without = story.clone();
            without.drain(at..(at + size).min(story.len()));
            left -= 1;
            if fails(&without) {
                (story, cut) = (without, true);
            } else {
                at += size;
            }
        }
        if !cut || size > 1 {
            size /= 2;
        }
    }
    story
}

/// Is what is broken in the control seen?
fn caught(campaign: &dyn Campaign, plan: &Plan) -> bool {
    let caught = (0..CONTROL_ROUNDS).any(|round| {
        let seed = of_round(plan.seed, round);
        let story = campaign.story(seed, plan.steps);
        attempt(|| campaign.play_broken(seed, &story)).is_err()
    });
    if !caught {
        println!("{}: the control was NOT caught: {}", campaign.name(), campaign.broken());
    }
    caught
}
