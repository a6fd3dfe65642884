//! Nothing in the ledger depends on anything but what it is given: same steps, same seed, same operations on the
//! medium, same answers.

use proptest::prelude::*;

use crate::r#gen::{self, Step};
use crate::world::World;

fn run(seed: u64, steps: &[Step]) -> Result<[Vec<String>; 3], String> {
    let mut world = World::traced(seed)?;
    world.run(steps)?;
    world.settle()?;
    Ok([world.disk().take_trace(), world.facts()?, world.log])
}

proptest! {
    #![proptest_config(crate::cases(32))]

    #[test]
    fn same_seed_same_trace(seed in any::<u64>(), steps in r#gen::stormy(200)) {
        let first = run(seed, &steps).map_err(TestCaseError::fail)?;
        let second = run(seed, &steps).map_err(TestCaseError::fail)?;
        prop_assert_eq!(first, second);
    }
}
