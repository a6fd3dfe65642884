//! Once an ack is committed the item is not lent again, in no session and after no stop, unless somebody asks.
//!
//! The model knows this too; here only what was said to and by gateways is looked at.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::r#gen::{self, Step};
use crate::world::World;

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn acked_items_are_never_sent_again(seed in any::<u64>(), steps in r#gen::stormy(250)) {
        let asked = |step: &Step| matches!(step, Step::Replay { .. } | Step::Verb { .. });
        let steps: Vec<Step> = steps.into_iter().filter(|step| !asked(step)).collect();
        let mut world = World::new(seed).map_err(TestCaseError::fail)?;
        world.run(&steps).map_err(TestCaseError::fail)?;
        world.settle().map_err(TestCaseError::fail)?;
        let mut acked = BTreeSet::new();
        for line in &world.log {
            if let Some(id) = line.strip_prefix("acked for good ") {
                acked.insert(id);
            } else if let Some(id) = line.strip_prefix("lent ") {
                prop_assert!(!acked.contains(id), "{id} was lent after its ack");
            }
        }
    }
}
