//! Whatever happens while the journal is copied (mail, acks, compaction, checkpoints, used-again files): the copy opens as
//! a kill at the moment it was begun would have left the original, and every body in it is whole.

use proptest::prelude::*;
use spool::backup::BackupError;
use spool::disk::sim::SimDisk;

use crate::r#gen;
use crate::world::World;

/// Steps between two pieces of the copy.
const STEPS_BETWEEN: usize = 25;

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn a_copy_is_the_moment_it_was_begun(
        seed in any::<u64>(), before in r#gen::calm(200), during in r#gen::calm(200),
    ) {
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&before).map_err(TestCaseError::fail)?;
        let (plan, moment) = world.begin_backup().map_err(TestCaseError::fail)?;
        let target = SimDisk::new();
        let mut broken = None;
        let mut pieces = during.chunks(STEPS_BETWEEN).chain(std::iter::repeat(&[][..]));
        let copied = plan.copy(&target, |_| {
            if let Some(steps) = pieces.next() {
                broken = world.run(steps).err().or(broken.take());
            }
            if world.renew_backup(plan.pin) { Ok(()) } else { Err(BackupError::Lost) }
        });
        prop_assert_eq!(broken, None);
        if copied.is_ok() {
            let expected = world.facts_on(&moment).map_err(TestCaseError::fail)?;
            let found = world.facts_on(&target.crash(seed)).map_err(TestCaseError::fail)?;
            prop_assert_eq!(expected, found);
        }
    }
}
