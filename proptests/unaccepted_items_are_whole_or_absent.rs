//! A message for several lanes that was under way when the process stopped is in all of them, or in none.
//!
//! Method: stop before each single operation of one accept, by kill and by several power cuts. The world checks
//! after each start that it stands at one of the moments between records.

use crate::r#gen::{IndexFate, Step, Stop, Trouble};
use crate::world::World;

fn accept(slot: u8, bytes: u32) -> [Step; 3] {
    [Step::Stream { slot, bytes }, Step::Accept { slot, lanes: vec![0, 1, 2, 1], head: 40 }, Step::Commit]
}

#[test]
fn unaccepted_items_are_whole_or_absent() {
    let stops = (0..8).map(Stop::Power).chain([Stop::Kill]);
    for how in stops {
        for after in 0..12 {
            for bytes in [0, 1, 700, 23_000] {
                let mut world = World::new(7).unwrap();
                world.run(&[Step::Register(0), Step::Register(1), Step::Register(2)]).unwrap();
                world.run(&accept(0, 900)).unwrap();
                world.run(&[Step::Plan { after, what: Trouble::Freeze }]).unwrap();
                world.run_until_dead(&accept(1, bytes));
                let stop = Step::Restart { how, index: IndexFate::Kept, trouble: None };
                if let Err(why) = world.run(&[stop]).and_then(|()| world.settle()) {
                    panic!("{how:?} before operation {after}, {bytes} bytes: {why}");
                }
                assert!([4, 8].contains(&world.committed().items.len()), "all lanes or none");
            }
        }
    }
}
