//! A process that applies is killed again and again: its index holds whole applies each time, and is never set aside.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::*;

/// Where the child applies; without it there is nothing to do.
const CHILD: &str = "WAYSTATION_TEST_INDEX";
const KILLS: u64 = 12;
/// Enough that a kill hits an apply more often than not, and that the engine writes before it is told to.
const CHANGES: u64 = 3000;
/// Applies of a child that nobody kills.
const APPLIES_MAX: u64 = 500;

/// What the apply `n` changes; some keys twice.
fn changes(n: u64) -> Vec<Change<'static>> {
    let mut random = SplitMix64::new(n);
    (0..CHANGES)
        .map(|_| {
            let tree = Tree::ALL[random.below(Tree::ALL.len() as u64) as usize];
            let value = (random.below(4) > 0).then(|| vec![random.next() as u8; random.below(500) as usize]);
            change(tree, random.below(2000), value)
        })
        .collect()
}

#[test]
fn child_applies_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let index = SledIndex::open(Path::new(&path)).unwrap();
    let first = index.applied().unwrap().map_or(0, |lsn| lsn.0) + 1;
    for n in first..first + APPLIES_MAX {
        println!("\napplies {n}");
        index.apply(&changes(n), Lsn(n)).unwrap();
    }
}

/// A child that has begun to apply, and the pipe it speaks into: one that nobody listens to would end by itself.
fn child(path: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "index::sled::tests::kill::child_applies_until_it_is_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    assert!(said.by_ref().lines().map_while(Result::ok).any(|line| line.starts_with("applies ")), "it began");
    (child, said)
}

#[test]
fn a_kill_at_any_moment_leaves_whole_applies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let model = MemoryIndex::new();
    let (mut done, mut cut_off) = (0, 0);
    let mut random = SplitMix64::new(5);
    for kill in 0..KILLS {
        let (mut child, _said) = child(&path);
        std::thread::sleep(Duration::from_millis(random.below(300)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "it was killed, and did not end by itself");
        cut_off += files(&path).iter().filter(|file| file.ends_with("undo")).count();
        let index = SledIndex::open(&path).unwrap();
        assert_eq!(index.set_aside(), None, "kill {kill}");
        let applied = index.applied().unwrap().map_or(0, |lsn| lsn.0);
        assert!(applied >= done, "an apply that counted is gone: {applied} after {done}");
        for n in done + 1..=applied {
            model.apply(&changes(n), Lsn(n)).unwrap();
        }
        done = applied;
        assert_eq!(contents(&index), contents(&model), "kill {kill}, at {applied}");
    }
    assert!(cut_off > 0, "no kill hit an apply");
    let index = SledIndex::open(&path).unwrap();
    assert!(index.engine().lanes.stamp().number > 0, "the file of lanes was never written anew");
}
