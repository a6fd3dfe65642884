//! W5: one flipped bit anywhere in the journal is harmless or reported, and hides nothing else.

use proptest::prelude::*;

use crate::r#gen::{self, IndexFate, Step, Stop};
use crate::world::World;

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn flipped_bytes_are_harmless_or_found_by_verify(
        seed in any::<u64>(), steps in r#gen::calm(250),
        file in any::<prop::sample::Index>(), offset in any::<prop::sample::Index>(),
        dense in any::<bool>(), bit in 0..8u8, lost in any::<bool>(),
    ) {
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&steps).map_err(TestCaseError::fail)?;
        let stop = Step::Restart { how: Stop::Clean, index: IndexFate::Kept, trouble: None };
        world.run(&[stop]).map_err(TestCaseError::fail)?;
        let index = if lost { IndexFate::Lost } else { IndexFate::Kept };
        world.decay(|names| file.get(names).clone(), |bytes| {
            // Most of a segment may be empty: half of the flips go where something is written.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
            offset.index(if dense { used } else { bytes.len() })
        }, bit, index).map_err(TestCaseError::fail)?;
    }
}
