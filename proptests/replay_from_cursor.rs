//! After any stop a new session is offered exactly what waits, from the cursor on, in the order of seq, and the
//! bodies are those that were accepted.

use proptest::prelude::*;

use crate::r#gen::{self, IndexFate, Step, Stop};
use crate::world::World;

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn replay_from_cursor_yields_exactly_the_unacked_in_order(
        seed in any::<u64>(),
        steps in r#gen::calm(300),
        power in proptest::option::of(any::<u64>()),
    ) {
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&steps).map_err(TestCaseError::fail)?;
        let how = power.map_or(Stop::Kill, Stop::Power);
        let stop = Step::Restart { how, index: IndexFate::Kept, trouble: None };
        world.run(&[stop]).map_err(TestCaseError::fail)?;
        world.drain().map_err(TestCaseError::fail)?;
    }
}
