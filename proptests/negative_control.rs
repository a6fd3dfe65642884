//! W7: on a medium whose syncs do nothing the power-cut properties must fail; otherwise they prove nothing.

use crate::r#gen::{IndexFate, Step, Stop};
use crate::world::World;

fn accept_then_power_cut(mut world: World, seed: u64) -> Result<(), String> {
    let mut steps = vec![Step::Register(0), Step::Commit];
    for _ in 0..3 {
        steps.push(Step::Accept { slot: 0, lanes: vec![0], head: 3 });
        steps.push(Step::Commit);
    }
    steps.push(Step::Restart { how: Stop::Power(seed), index: IndexFate::Kept, trouble: None });
    world.run(&steps)
}

#[test]
fn a_medium_that_does_not_sync_is_found_out() {
    let lost = (0..40).filter(|seed| {
        World::on_lying_medium(*seed).and_then(|world| accept_then_power_cut(world, *seed)).is_err()
    });
    let lost = lost.count();
    assert!(lost > 20, "only {lost} of 40 power cuts were seen to lose anything");
    for seed in 0..40 {
        accept_then_power_cut(World::new(seed).unwrap(), seed).unwrap();
    }
}
