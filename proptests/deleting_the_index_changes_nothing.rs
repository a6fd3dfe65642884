//! The index is a cache: with it, without it, or with the copy of an earlier checkpoint the ledger shows the
//! same lanes, items, chains and timelines.

use proptest::prelude::*;

use crate::r#gen::{self, IndexFate, Step, Stop};
use crate::world::World;

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn deleting_the_index_changes_nothing(
        seed in any::<u64>(), steps in r#gen::calm(300), older in any::<u8>(),
    ) {
        // What the retention has removed may be read again from a journal that still has it.
        let steps: Vec<Step> = steps.into_iter().filter(|step| *step != Step::Maintain).collect();
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&steps).map_err(TestCaseError::fail)?;
        let start = |how, index| Step::Restart { how, index, trouble: None };
        world.run(&[start(Stop::Clean, IndexFate::Kept)]).map_err(TestCaseError::fail)?;
        let with = world.facts().map_err(TestCaseError::fail)?;
        for index in [IndexFate::Lost, IndexFate::Older(older), IndexFate::Lost] {
            world.run(&[start(Stop::Kill, index)]).map_err(TestCaseError::fail)?;
            let without = world.facts().map_err(TestCaseError::fail)?;
            prop_assert_eq!(&with, &without, "{:?}", index);
        }
    }
}
