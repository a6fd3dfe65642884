//! From a seed to a story: everything a round does follows from one number.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use spool::disk::sim::SplitMix64;

use crate::r#gen::Step;

/// Largest piece of a body in a story of small ones, bytes.
const SMALL_BYTES: u32 = 300;

/// The seed of one round.
pub(crate) fn of_round(seed: u64, round: u64) -> u64 {
    SplitMix64::new(SplitMix64::new(seed).next() ^ round).next()
}

/// What `strategy` gives for `seed`.
///
/// # Panics
/// When the strategy rejects everything; those of `gen.rs` reject nothing.
pub(crate) fn draw<S: Strategy>(seed: u64, strategy: &S) -> S::Value {
    let mut random = SplitMix64::new(seed);
    let mut bytes = [0; 32];
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_le_bytes());
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let tree = strategy.new_tree(&mut TestRunner::new_with_rng(Config::default(), rng));
    tree.expect("gen.rs rejects nothing").current()
}

/// The same story with small bodies, so that what lies on the disk can be gone through byte by byte.
pub(crate) fn small(mut steps: Vec<Step>) -> Vec<Step> {
    for step in &mut steps {
        if let Step::Stream { bytes, .. } = step {
            *bytes %= SMALL_BYTES;
        }
    }
    steps
}
