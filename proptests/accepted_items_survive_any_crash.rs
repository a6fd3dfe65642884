//! W1, W2, W3: whatever stops the process, at whatever operation, all that was committed is there afterwards, and
//! nothing else but a prefix of what was under way.

use proptest::prelude::*;

use crate::r#gen;
use crate::world::World;

proptest! {
    #![proptest_config(crate::cases(192))]

    #[test]
    fn accepted_items_survive_any_crash(seed in any::<u64>(), steps in r#gen::stormy(250)) {
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&steps).map_err(TestCaseError::fail)?;
        world.settle().map_err(TestCaseError::fail)?;
    }

    #[test]
    fn accepted_items_survive_any_power_cut(seed in any::<u64>(), steps in r#gen::power_cuts(200)) {
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&steps).map_err(TestCaseError::fail)?;
        world.settle().map_err(TestCaseError::fail)?;
    }
}
