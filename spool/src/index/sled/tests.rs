//! The index keeps its promise, or is replaced; it never lies and never panics.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::*;
use crate::disk::sim::SplitMix64;
use crate::index::memory::MemoryIndex;

mod kill;

type Contents = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

/// Keys of the lane tree are numbers of lanes.
fn key(tree: Tree, key: u64) -> Vec<u8> {
    if tree == Tree::Lane { (key as u32).to_be_bytes().to_vec() } else { key.to_be_bytes().to_vec() }
}

fn change(tree: Tree, n: u64, value: Option<Vec<u8>>) -> Change<'static> {
    Change { tree, key: key(tree, n).into(), value: value.map(Into::into) }
}

fn batch(random: &mut SplitMix64) -> Vec<Change<'static>> {
    (0..1 + random.below(40))
        .map(|_| {
            let tree = Tree::ALL[random.below(Tree::ALL.len() as u64) as usize];
            let value = (random.below(4) > 0).then(|| vec![random.next() as u8; random.below(2000) as usize]);
            change(tree, random.below(60), value)
        })
        .collect()
}

fn contents(index: &dyn Index) -> Contents {
    let mut all = Contents::new();
    for tree in Tree::ALL {
        for (key, value) in index.scan(tree, &[], None, usize::MAX).unwrap() {
            all.insert((tree, key), value);
        }
    }
    all
}

/// An index with a history, closed; and what it held after each apply.
fn filled(path: &Path, seed: u64, applies: u64) -> BTreeMap<Option<Lsn>, Contents> {
    let index = SledIndex::open(path).unwrap();
    let model = MemoryIndex::new();
    let mut random = SplitMix64::new(seed);
    let mut states = BTreeMap::from([(None, Contents::new())]);
    for n in 1..=applies {
        let changes = batch(&mut random);
        index.apply(&changes, Lsn(n)).unwrap();
        model.apply(&changes, Lsn(n)).unwrap();
        states.insert(Some(Lsn(n)), contents(&model));
    }
    states
}

/// Files that have something in them.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Opens what is at `path`; whatever it claims to hold must be what was held at that moment.
fn holds_what_it_claims(path: &Path, states: &BTreeMap<Option<Lsn>, Contents>) -> Option<Lsn> {
    let index = SledIndex::open(path).unwrap();
    let applied = index.applied().unwrap();
    assert_eq!(Some(&contents(&index)), states.get(&applied), "at {applied:?}");
    index.apply(&[change(Tree::Lane, 1, Some(vec![1]))], Lsn(1000)).unwrap();
    assert_eq!(index.applied().unwrap(), Some(Lsn(1000)));
    applied
}

#[test]
fn reopened_index_holds_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let states = filled(&path, 1, 12);
    assert_eq!(holds_what_it_claims(&path, &states), Some(Lsn(12)));
    assert!(SledIndex::open(&path).unwrap().set_aside().is_none());
}

#[test]
fn scans_are_ordered_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let index = SledIndex::open(&dir.path().join("index")).unwrap();
    let changes: Vec<_> = (0..10).map(|n| change(Tree::Block, n, Some(vec![n as u8]))).collect();
    index.apply(&changes, Lsn(5)).unwrap();
    let key = |n: u64| n.to_be_bytes().to_vec();
    let found = index.scan(Tree::Block, &key(3), Some(&key(8)), 3).unwrap();
    assert_eq!(found, [3, 4, 5].map(|n| (key(n), vec![n as u8])));
    assert_eq!(index.scan(Tree::Block, &key(8), Some(&key(3)), 3).unwrap(), []);
    assert_eq!(index.scan(Tree::Block, &key(8), None, 9).unwrap().len(), 2);
    assert_eq!(index.get(Tree::Block, &key(3)).unwrap(), Some(vec![3]));
    assert_eq!(index.get(Tree::Lane, &key(3)).unwrap(), None);
    assert!(index.size_bytes().unwrap() > 0);
}

#[test]
fn clear_and_compact_leave_one_generation_that_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let states = filled(&path, 2, 8);
    let index = SledIndex::open(&path).unwrap();
    index.compact().unwrap();
    assert_eq!(Some(&contents(&index)), states.get(&Some(Lsn(8))));
    index.apply(&[change(Tree::Twin, 7, Some(vec![7]))], Lsn(9)).unwrap();
    drop(index);
    let index = SledIndex::open(&path).unwrap();
    assert_eq!(index.applied().unwrap(), Some(Lsn(9)));
    index.clear().unwrap();
    assert_eq!((index.applied().unwrap(), contents(&index).len()), (None, 0));
    drop(index);
    let index = SledIndex::open(&path).unwrap();
    assert_eq!((index.applied().unwrap(), index.set_aside()), (None, None));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "CURRENT and one generation");
}

/// An index with a history, emptied and filled again; and what it was filled with.
fn refilled(path: &Path, seed: u64) -> (SledIndex, MemoryIndex) {
    filled(path, seed, 3);
    let (index, model) = (SledIndex::open(path).unwrap(), MemoryIndex::new());
    index.clear().unwrap();
    let mut random = SplitMix64::new(seed + 1);
    for _ in 0..6 {
        let changes = batch(&mut random);
        index.fill(&changes).unwrap();
        model.fill(&changes).unwrap();
    }
    assert_eq!((index.applied().unwrap(), contents(&index)), (None, contents(&model)));
    (index, model)
}

#[test]
fn what_was_filled_counts_from_the_next_apply_on() {
    for compact in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (index, model) = refilled(&path, 4);
        if compact {
            index.compact().unwrap();
        }
        let changes = batch(&mut SplitMix64::new(6));
        index.apply(&changes, Lsn(9)).unwrap();
        model.apply(&changes, Lsn(9)).unwrap();
        drop(index);
        let index = SledIndex::open(&path).unwrap();
        assert_eq!((index.applied().unwrap(), index.set_aside()), (Some(Lsn(9)), None));
        assert_eq!(contents(&index), contents(&model));
    }
}

#[test]
fn a_fill_that_was_cut_off_leaves_an_empty_index() {
    for compact in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (index, _) = refilled(&path, 5);
        if compact {
            index.compact().unwrap();
        }
        index.engine().db.flush().unwrap();
        drop(index);
        let index = SledIndex::open(&path).unwrap();
        assert_eq!((index.applied().unwrap(), index.set_aside()), (None, None));
        assert_eq!(contents(&index).len(), 0);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "CURRENT and one generation");
    }
}

#[test]
fn an_index_that_lost_its_state_record_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    filled(&path, 7, 5);
    {
        let index = SledIndex::open(&path).unwrap();
        index.engine().state.remove(STATE_KEY).unwrap();
        index.engine().db.flush().unwrap();
    }
    let index = SledIndex::open(&path).unwrap();
    assert!(index.set_aside().unwrap().contains("state record is missing"));
    assert_eq!((index.applied().unwrap(), contents(&index).len()), (None, 0));
}

#[test]
fn an_index_of_another_version_begins_empty_and_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    filled(&path, 7, 5);
    {
        let index = SledIndex::open(&path).unwrap();
        let mut older = vec![1; 42];
        older.extend(crc32c::crc32c(&older).to_be_bytes());
        index.engine().state.insert(STATE_KEY, older).unwrap();
        index.engine().db.flush().unwrap();
    }
    let index = SledIndex::open(&path).unwrap();
    assert_eq!((index.applied().unwrap(), index.set_aside()), (None, None));
    assert_eq!(contents(&index).len(), 0);
}

#[test]
fn the_file_of_lanes_is_written_anew_when_most_of_it_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let file_of = |index: &SledIndex| {
        let engine = index.engine();
        (engine.lanes.stamp(), files(&engine.dir).iter().filter(|file| is_of_lanes(file)).count())
    };
    let index = SledIndex::open(&path).unwrap();
    let value = |n: u64, key: u64| vec![n as u8; 400 + (key % 50) as usize];
    let changes =
        |n: u64| -> Vec<_> { (0..700).map(|key| change(Tree::Lane, key, Some(value(n, key)))).collect() };
    // A copy that finds no space is no reason to give up what has to be written.
    std::os::unix::fs::symlink("/dev/full", index.engine().dir.join("lanes-1")).unwrap();
    for n in 1..=4 {
        index.apply(&changes(n), Lsn(n)).unwrap();
        assert_eq!(file_of(&index).0.number, 0);
    }
    assert_eq!(file_of(&index).1, 1, "what was begun is gone");
    for n in 5..=10 {
        index.apply(&changes(n), Lsn(n)).unwrap();
    }
    let (stamp, count) = file_of(&index);
    assert_eq!((stamp.number, count), (2, 1));
    assert!(stamp.end < 1_000_000, "{} of 3 MB", stamp.end);
    drop(index);
    let index = SledIndex::open(&path).unwrap();
    assert_eq!((index.set_aside(), file_of(&index)), (None, (stamp, 1)));
    let held = index.scan(Tree::Lane, &[], None, usize::MAX).unwrap();
    assert!(
        held.iter().map(|(_, value)| value).eq((0..700).map(|key| value(10, key)).collect::<Vec<_>>().iter())
    );
    // Filled again, nothing has to be stable and nothing of before is kept.
    index.clear().unwrap();
    for n in 1..=5 {
        index.fill(&changes(n)).unwrap();
    }
    let (stamp, count) = file_of(&index);
    assert_eq!((stamp.number, count), (1, 1));
}

fn is_of_lanes(file: &Path) -> bool {
    file.file_name().unwrap().to_str().unwrap().starts_with("lanes-")
}

#[test]
fn an_apply_cut_off_half_way_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let states = filled(&path, 3, 5);
    {
        let index = SledIndex::open(&path).unwrap();
        let engine = index.engine();
        // What apply does up to its first barrier.
        let changes = [(Tree::Twin, 1u64), (Tree::Twin, 1), (Tree::Name, 900)];
        let lanes = [change(Tree::Lane, 1, Some(vec![77; 9])), change(Tree::Lane, 2, None)];
        assert!(engine.lanes.append(lanes.iter()).is_ok());
        let mut undos = Vec::new();
        for (tree, key) in changes {
            let old = engine.tree(tree).ok().and_then(|tree| tree.get(key.to_be_bytes()).unwrap());
            Undo::append(&mut undos, tree, &key.to_be_bytes(), old.as_deref());
        }
        engine.undo.write(6, &undos).unwrap();
        for (n, (tree, key)) in changes.into_iter().enumerate() {
            let put = engine.put(&mut Digest::default(), tree, &key.to_be_bytes(), Some(&[n as u8; 9]));
            assert!(put.is_ok());
        }
        engine.db.flush().unwrap();
    }
    let index = SledIndex::open(&path).unwrap();
    assert_eq!(index.set_aside(), None);
    assert_eq!(Some(&contents(&index)), states.get(&Some(Lsn(5))));
}

#[test]
fn contents_that_do_not_add_up_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    filled(&path, 4, 5);
    {
        let index = SledIndex::open(&path).unwrap();
        assert!(index.engine().put(&mut Digest::default(), Tree::Name, b"smuggled", Some(b"in")).is_ok());
        index.engine().db.flush().unwrap();
    }
    let index = SledIndex::open(&path).unwrap();
    assert!(index.set_aside().unwrap().contains("do not add up"));
    assert_eq!((index.applied().unwrap(), contents(&index).len()), (None, 0));
}

#[test]
fn a_suspect_index_is_set_aside_and_only_the_last_one_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    for round in 1..=3 {
        filled(&path, round, 2);
        SledIndex::open(&path).unwrap().place.mark_suspect();
        let index = SledIndex::open(&path).unwrap();
        assert!(index.set_aside().is_some());
        assert_eq!(index.applied().unwrap(), None);
        drop(index);
        assert!(SledIndex::open(&path).unwrap().set_aside().is_none());
        let aside: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("index.damaged-"))
            .collect();
        assert_eq!(aside, [format!("index.damaged-{round}")]);
    }
}

#[test]
fn a_second_opener_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let states = filled(&path, 5, 3);
    let first = SledIndex::open(&path).unwrap();
    assert!(matches!(SledIndex::open(&path), Err(SpoolError::Index(_))));
    assert_eq!(Some(&contents(&first)), states.get(&Some(Lsn(3))));
}

#[test]
fn large_values_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let big = vec![9; 700_000];
    let index = SledIndex::open(&path).unwrap();
    index.apply(&[change(Tree::Shared, 1, Some(big.clone()))], Lsn(1)).unwrap();
    drop(index);
    let index = SledIndex::open(&path).unwrap();
    assert_eq!(index.get(Tree::Shared, &1u64.to_be_bytes()).unwrap(), Some(big));
}

/// Goal: no damage to the index's files makes it panic, hang, or claim what it does not hold.
/// Method: for each file remove it, cut it, and garble it at random places; open and compare with the model.
#[test]
fn damaged_files_are_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("origin");
    let states = filled(&origin, 6, 20);
    let mut random = SplitMix64::new(99);
    let count = files(&origin).len();
    assert!(count >= 3);
    let mut survived = 0;
    for file in 0..count {
        for damage in 0..14u64 {
            let root = dir.path().join(format!("{file}-{damage}"));
            let path = root.join("index");
            copy_dir(&origin, &path);
            let victim = &files(&path)[file];
            let mut bytes = fs::read(victim).unwrap();
            match damage {
                0 => fs::remove_file(victim).unwrap(),
                1 => fs::write(victim, b"").unwrap(),
                2..=5 => {
                    bytes.truncate(random.below(bytes.len() as u64) as usize);
                    fs::write(victim, bytes).unwrap();
                }
                _ => {
                    for _ in 0..=random.below(30) {
                        let at = random.below(bytes.len() as u64) as usize;
                        bytes[at] ^= 1 << random.below(8);
                    }
                    fs::write(victim, bytes).unwrap();
                }
            }
            survived += u64::from(holds_what_it_claims(&path, &states) == Some(Lsn(20)));
            fs::remove_dir_all(&root).unwrap();
        }
    }
    assert!(survived < count as u64 * 14, "some damage is noticed");
}

#[test]
fn a_removed_directory_begins_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let states = filled(&path, 7, 3);
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(holds_what_it_claims(&path, &states), None);
}

#[test]
fn what_is_remembered_of_a_scan_is_little_and_gone_when_pages_were_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let index = SledIndex::open(&dir.path().join("index")).unwrap();
    let changes: Vec<_> = (0..400).map(|n| change(Tree::Block, n, Some(vec![7; 3000]))).collect();
    index.apply(&changes, Lsn(1)).unwrap();
    let remembered = || index.seen.lock().unwrap().remembered();
    let mut most = 0;
    // 1.2 MB each.
    for round in 1..40 {
        assert_eq!(index.scan(Tree::Block, &[], None, usize::MAX).unwrap().len(), 400);
        let (keys, bytes) = remembered();
        most = most.max(keys);
        assert_eq!(keys == 0, bytes == 0);
        assert!(bytes < 32 * 1024 * 1024, "{round}");
    }
    assert!(remembered().1 < 15_000_000, "it was let go once");
    assert!(most > 0);
    let mut seen = Seen::default();
    (0..100_000_u64).for_each(|n| seen.note(Tree::Twin, &n.to_be_bytes(), &[]));
    assert_eq!(seen.remembered().0, 2048);
}

#[test]
fn readers_go_on_while_the_index_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(SledIndex::open(&dir.path().join("index")).unwrap());
    index.apply(&[change(Tree::Lane, 1, Some(vec![1]))], Lsn(1)).unwrap();
    let reader = {
        let index = Arc::clone(&index);
        std::thread::spawn(move || {
            (0..500).all(|_| index.get(Tree::Lane, &key(Tree::Lane, 1)).unwrap() == Some(vec![1]))
        })
    };
    for _ in 0..3 {
        index.compact().unwrap();
    }
    assert!(reader.join().unwrap());
}

#[test]
fn scans_in_both_directions_give_the_same_pairs() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 5, 20));
    let index = SledIndex::open(dir.path()).unwrap();
    let key = |n: u64| n.to_be_bytes();
    for (from, to) in [(key(0).as_slice(), None), (&key(10), Some(key(40))), (&key(40), Some(key(10)))] {
        let to = to.as_ref().map(<[u8; 8]>::as_slice);
        let mut forward = index.scan(Tree::Item, from, to, usize::MAX).unwrap();
        forward.reverse();
        assert_eq!(index.scan_back(Tree::Item, from, to, usize::MAX).unwrap(), forward);
        forward.truncate(3);
        assert_eq!(index.scan_back(Tree::Item, from, to, 3).unwrap(), forward);
    }
}
