//! The file holds what its stamp was taken of, whatever came after; damage is told, never read.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::index::Tree;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn change(key: &[u8], value: Option<Vec<u8>>) -> Change<'static> {
    Change { tree: Tree::Lane, key: key.to_vec().into(), value: value.map(Into::into) }
}

/// Changes the file and the model alike.
fn put(lanes: &LaneFile, model: &mut Model, changes: &[Change<'_>]) {
    assert!(lanes.append(changes.iter()).is_ok());
    for Change { key, value, .. } in changes {
        match value {
            Some(value) => model.insert(key.to_vec(), value.to_vec()),
            None => model.remove(key.as_ref()),
        };
    }
}

fn agrees(lanes: &LaneFile, model: &Model) {
    let all = lanes.pairs(&[], None, usize::MAX, false).ok();
    let expected: Vec<_> = model.clone().into_iter().collect();
    assert_eq!(all.as_ref(), Some(&expected));
    for (key, value) in model {
        assert_eq!(lanes.get(key).ok(), Some(Some(value.clone())));
    }
    assert_eq!(lanes.get(b"some").ok(), Some(None));
    let bytes = |value: &Vec<u8>| (HEAD_BYTES + value.len()) as u64;
    assert_eq!(lanes.live_bytes(), model.values().map(bytes).sum::<u64>());
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[derive(Clone, Debug)]
enum Op {
    /// Lanes, each with a value of so many octets, or none.
    Put(Vec<(u8, Option<u16>)>),
    Rewrite,
    /// An apply ends: what there is counts.
    Count,
    /// The process ends; so many octets of what does not count got to the disk, and these behind them.
    Stop(u16, Vec<u8>),
    /// A copy goes on in another directory.
    Copy,
    /// A part is listed.
    List(u8, Option<u8>, usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let one = (0..20u8, prop::option::weighted(0.8, 0..600u16));
    let op = prop_oneof![
        5 => prop::collection::vec(one, 0..12).prop_map(Op::Put),
        1 => Just(Op::Rewrite),
        3 => Just(Op::Count),
        2 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, more)| Op::Stop(n, more)),
        1 => Just(Op::Copy),
        2 => (0..20u8, prop::option::of(0..20u8), 0..9usize).prop_map(|(from, to, n)| Op::List(from, to, n)),
    ];
    prop::collection::vec(op, 1..40)
}

fn run(ops: Vec<Op>) {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().join("0");
    fs::create_dir(&dir).unwrap();
    let mut lanes = LaneFile::create(&dir).ok().unwrap();
    let (mut model, mut counted) = (Model::new(), (lanes.stamp(), Model::new()));
    for (n, op) in ops.into_iter().enumerate() {
        match op {
            Op::Put(some) => {
                let changes: Vec<_> = some
                    .into_iter()
                    .map(|(key, len)| change(&[0, 0, 0, key], len.map(|len| vec![n as u8; len.into()])))
                    .collect();
                put(&lanes, &mut model, &changes);
            }
            Op::Rewrite => assert!(lanes.rewrite().is_ok()),
            Op::Count => {
                lanes.sync().unwrap();
                counted = (lanes.stamp(), model.clone());
                lanes.sweep();
                assert_eq!(names(&dir), [format!("lanes-{}", counted.0.number)]);
            }
            Op::Stop(kept, more) => {
                let path = path_of(&dir, counted.0.number);
                let mut bytes = fs::read(&path).unwrap();
                let end = counted.0.end as usize;
                bytes.truncate(end + usize::from(kept) % (bytes.len() - end + 1));
                bytes.extend(more);
                fs::write(&path, bytes).unwrap();
                lanes = LaneFile::open(&dir, counted.0).ok().unwrap();
                model.clone_from(&counted.1);
                assert_eq!(fs::metadata(&path).unwrap().len(), counted.0.end);
                assert_eq!(names(&dir).len(), 1);
            }
            Op::Copy => {
                dir = root.path().join(format!("{}", n + 1));
                fs::create_dir(&dir).unwrap();
                lanes = lanes.copy_to(&dir).ok().unwrap();
                counted = (lanes.stamp(), model.clone());
                assert_eq!(counted.0.end, lanes.live_bytes());
            }
            Op::List(from, to, limit) => {
                let (from, to) = ([0, 0, 0, from], to.map(|to| [0, 0, 0, to]).filter(|to| to[3] > from));
                let inside = |key: &[u8]| *key >= from[..] && to.is_none_or(|to| *key < to[..]);
                let mut expected: Vec<_> = model.clone().into_iter().filter(|(key, _)| inside(key)).collect();
                let to = to.as_ref().map(<[u8; 4]>::as_slice);
                let forward = lanes.pairs(&from, to, limit, false).ok().unwrap();
                assert_eq!(forward, expected.iter().take(limit).cloned().collect::<Vec<_>>());
                expected.reverse();
                expected.truncate(limit);
                assert_eq!(lanes.pairs(&from, to, limit, true).ok().unwrap(), expected);
            }
        }
        agrees(&lanes, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_was_counted_is_there_after_any_stop(ops in ops()) {
        run(ops);
    }
}

/// A file with a history in it, and what it held when the stamp was taken.
fn filled(dir: &Path) -> (Stamp, Model) {
    let (lanes, mut model) = (LaneFile::create(dir).ok().unwrap(), Model::new());
    for n in 0..6u8 {
        let changes = [
            change(&[0, 0, 0, n % 3], Some(vec![n; 7])),
            change(&[9, 0, n, 0], Some(vec![n; usize::from(n)])),
            change(&[9, 0, n / 2, 0], None),
        ];
        put(&lanes, &mut model, &changes);
    }
    lanes.sync().unwrap();
    agrees(&lanes, &model);
    (lanes.stamp(), model)
}

#[test]
fn any_octet_that_is_another_and_any_that_is_missing_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (stamp, model) = filled(dir.path());
    let path = path_of(dir.path(), 0);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, stamp.end);
    let opened = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        LaneFile::open(dir.path(), stamp)
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(matches!(opened(&bytes), Err(Trouble::Damaged(_))), "octet {at}");
        assert!(matches!(opened(&whole[..at]), Err(Trouble::Damaged(_))), "cut at {at}");
    }
    agrees(&opened(&whole).ok().unwrap(), &model);
    let sum = stamp.sum ^ 1;
    assert!(matches!(LaneFile::open(dir.path(), Stamp { sum, ..stamp }), Err(Trouble::Damaged(_))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(LaneFile::open(dir.path(), stamp), Err(Trouble::Damaged(_))));
}

#[test]
fn a_whole_record_in_the_place_of_another_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let lanes = LaneFile::create(dir.path()).ok().unwrap();
    put(&lanes, &mut Model::new(), &[change(b"aaaa", Some(vec![1; 5])), change(b"bbbb", Some(vec![2; 5]))]);
    let path = path_of(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    bytes.rotate_left(HEAD_BYTES + 5);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(lanes.get(b"aaaa"), Err(Trouble::Damaged(_))), "while running");
    assert!(matches!(LaneFile::open(dir.path(), lanes.stamp()), Err(Trouble::Damaged(_))), "at a start");
}

#[test]
fn keys_are_numbers_of_lanes_and_bounds_are_any_octets() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, mut model) = (LaneFile::create(dir.path()).ok().unwrap(), Model::new());
    for key in [&[7; 3][..], &[7; 5], &[]] {
        let refused = lanes.append([&change(key, Some(Vec::new()))].into_iter());
        assert!(matches!(refused, Err(Trouble::Damaged(_))));
        assert_eq!(lanes.get(key).ok(), Some(None));
    }
    let numbers = [0, 1, 255, 256, 257, 70_000, u32::MAX - 1, u32::MAX];
    let changes: Vec<_> = numbers.map(|n: u32| change(&n.to_be_bytes(), Some(vec![n as u8; 3]))).into();
    put(&lanes, &mut model, &changes);
    agrees(&lanes, &model);
    let mut bounds: Vec<Vec<u8>> =
        vec![vec![], vec![0], vec![0, 0, 1], vec![255; 3], vec![255; 4], vec![255; 5]];
    bounds.extend(numbers.map(|n| [&n.to_be_bytes()[..], b"\0"].concat()));
    for from in &bounds {
        for to in bounds.iter().map(Some).chain([None]) {
            let inside = |key: &[u8]| key >= from.as_slice() && to.is_none_or(|to| key < to.as_slice());
            let expected: Vec<_> = model.clone().into_iter().filter(|(key, _)| inside(key)).collect();
            let found = lanes.pairs(from, to.map(Vec::as_slice), usize::MAX, false);
            assert_eq!(found.ok(), Some(expected), "{from:?} {to:?}");
        }
    }
}
