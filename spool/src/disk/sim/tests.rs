//! What the simulated disk forgets, and what it must not.

use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSlice};

use super::*;

const NAME: &str = "journal/a";

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir("journal").unwrap();
    disk
}

fn put(file: &Arc<dyn DiskFile>, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(&mut [IoSlice::new(bytes)], offset)
}

/// A file of `len` stable bytes of value 1 under a stable name.
fn stable_file(disk: &SimDisk, len: usize) -> Arc<dyn DiskFile> {
    let file = disk.create(NAME).unwrap();
    put(&file, &vec![1; len], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("journal").unwrap();
    file
}

fn outcomes(disk: &SimDisk) -> BTreeSet<Option<Vec<u8>>> {
    (0..400).map(|seed| disk.crash(seed).contents(NAME)).collect()
}

#[test]
fn synced_bytes_under_a_synced_name_survive_every_crash() {
    let disk = disk();
    stable_file(&disk, 3000);
    assert_eq!(outcomes(&disk), BTreeSet::from([Some(vec![1; 3000])]));
}

#[test]
fn a_name_is_not_stable_before_its_directory_is_synced() {
    let disk = disk();
    let file = disk.create(NAME).unwrap();
    put(&file, b"x", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk), BTreeSet::from([None, Some(b"x".to_vec())]));
}

#[test]
fn an_unsynced_write_is_lost_kept_or_torn_at_sectors_only() {
    let disk = disk();
    let file = stable_file(&disk, 2048);
    put(&file, &[2; 1536], 0).unwrap();
    let seen = outcomes(&disk);
    for contents in seen.iter().flatten() {
        assert_eq!(contents.len(), 2048);
        assert!(contents.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        assert_eq!(contents[1536..], [1; 512]);
    }
    assert_eq!(seen.len(), 8, "every subset of three sectors is seen");
}

#[test]
fn later_writes_may_survive_earlier_ones_but_sectors_keep_their_history() {
    let disk = disk();
    let file = stable_file(&disk, 1024);
    put(&file, &[2; 100], 0).unwrap();
    put(&file, &[3; 100], 600).unwrap();
    put(&file, &[4; 100], 100).unwrap();
    let seen = outcomes(&disk);
    let has = |test: &dyn Fn(&[u8]) -> bool| seen.iter().flatten().any(|contents| test(contents));
    assert!(has(&|c| c[0] == 1 && c[600] == 3), "reordered");
    assert!(has(&|c| c[0] == 2 && c[100] == 1), "older version of a sector");
    assert!(!has(&|c| c[0] == 1 && c[100] == 4), "a later version carries the earlier write of its sector");
}

#[test]
fn an_unsynced_length_goes_either_way() {
    let disk = disk();
    let file = stable_file(&disk, 10);
    put(&file, &[2; 10], 10).unwrap();
    file.set_len(40).unwrap();
    let lengths: BTreeSet<_> = outcomes(&disk).into_iter().flatten().map(|contents| contents.len()).collect();
    assert_eq!(lengths, BTreeSet::from([10, 20, 40]));
    file.set_len(5).unwrap();
    file.set_len(30).unwrap();
    let mut read = [9; 30];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read[..5], [1; 5]);
    assert_eq!(read[5..], [0; 25], "what was cut off reads as zeros");
}

#[test]
fn a_rename_is_whole_or_absent_and_removal_may_be_undone() {
    let disk = disk();
    stable_file(&disk, 4);
    disk.rename(NAME, "journal/b").unwrap();
    let names: BTreeSet<_> = (0..100).map(|seed| disk.crash(seed).files()).collect();
    assert_eq!(names, BTreeSet::from([vec![NAME.to_owned()], vec!["journal/b".to_owned()]]));
    disk.sync_dir("journal").unwrap();
    disk.remove("journal/b").unwrap();
    let names: BTreeSet<_> = (0..100).map(|seed| disk.crash(seed).files()).collect();
    assert_eq!(names, BTreeSet::from([vec![], vec!["journal/b".to_owned()]]));
}

#[test]
fn a_killed_process_loses_nothing_but_the_power_still_can() {
    let disk = disk();
    let file = disk.create(NAME).unwrap();
    put(&file, b"written", 0).unwrap();
    let killed = disk.kill();
    put(&file, b"ghostly", 0).unwrap();
    assert_eq!(killed.contents(NAME), Some(b"written".to_vec()), "the dead process writes nowhere");
    assert!(outcomes(&killed).contains(&None));
    let again = killed.open(NAME, true).unwrap();
    again.sync().unwrap();
    killed.sync_dir("journal").unwrap();
    assert_eq!(outcomes(&killed), BTreeSet::from([Some(b"written".to_vec())]));
}

#[test]
fn planned_faults_hit_their_operation_alone() {
    let disk = disk();
    let file = disk.create(NAME).unwrap();
    disk.fail_at(disk.ops(), Fault::Full);
    disk.fail_at(disk.ops() + 2, Fault::Io);
    assert_eq!(put(&file, &[1; 4], 0).unwrap_err().kind(), ErrorKind::StorageFull);
    put(&file, &[1; 4], 0).unwrap();
    assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::Other);
    file.sync().unwrap();
}

#[test]
fn a_failed_sync_is_never_made_good_by_a_later_one() {
    let disk = disk();
    let file = stable_file(&disk, 512);
    put(&file, &[2; 512], 0).unwrap();
    disk.fail_at(disk.ops(), Fault::Io);
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert!(outcomes(&disk).contains(&Some(vec![1; 512])));
    put(&file, &[3; 512], 0).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk), BTreeSet::from([Some(vec![3; 512])]));
}

#[test]
fn after_the_freeze_nothing_happens() {
    let disk = disk();
    let file = stable_file(&disk, 512);
    put(&file, &[2; 512], 0).unwrap();
    disk.freeze_at(disk.ops());
    file.sync().unwrap_err();
    put(&file, &[3; 512], 0).unwrap_err();
    disk.remove(NAME).unwrap_err();
    let killed = disk.kill();
    assert_eq!(killed.contents(NAME), Some(vec![2; 512]));
    killed.open(NAME, true).unwrap().sync().unwrap();
    assert_eq!(outcomes(&killed), BTreeSet::from([Some(vec![2; 512])]));
}

#[test]
fn a_full_disk_refuses_growth_and_counts_what_is_free() {
    let disk = disk();
    disk.set_capacity(1000);
    let file = disk.create(NAME).unwrap();
    file.allocate(900).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 100);
    assert_eq!(put(&file, &[1; 200], 850).unwrap_err().kind(), ErrorKind::StorageFull);
    assert!(file.len().unwrap() <= 1000);
    put(&file, &[1; 200], 0).unwrap();
    disk.remove(NAME).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 1000);
}

#[test]
fn a_medium_that_lies_loses_synced_bytes() {
    let disk = disk();
    disk.ignore_syncs();
    stable_file(&disk, 100);
    assert!(outcomes(&disk).contains(&None));
}

#[test]
fn a_flipped_bit_is_seen_by_readers_and_survives() {
    let disk = disk();
    stable_file(&disk, 4);
    assert!(disk.flip(NAME, 2, 1));
    assert!(!disk.flip(NAME, 4, 1));
    assert_eq!(outcomes(&disk), BTreeSet::from([Some(vec![1, 1, 3, 1])]));
}

#[test]
fn the_same_calls_leave_the_same_trace_and_crash_alike() {
    let run = || {
        let disk = disk();
        disk.start_trace();
        let file = stable_file(&disk, 700);
        disk.fail_at(disk.ops(), Fault::Io);
        put(&file, &[2; 700], 300).unwrap_err();
        (disk.take_trace(), disk.crash(7).contents(NAME))
    };
    assert_eq!(run(), run());
    assert_eq!(run().0.last().map(String::as_str), Some("5 write journal/a 300+700 failed"));
}

#[test]
fn the_lock_is_exclusive_and_dies_with_the_process() {
    let disk = disk();
    let lock = disk.lock().unwrap();
    assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
    let _other = disk.kill().lock().unwrap();
    drop(lock);
    disk.lock().unwrap();
}

/// What every combination of choices leaves.
fn spelled_out(disk: &SimDisk) -> BTreeSet<Option<Vec<u8>>> {
    let choices = disk.choices();
    let all: u32 = choices.iter().product();
    let picks = |mut n: u32| {
        choices.iter().map(move |of| {
            let pick = n % of;
            n /= of;
            pick
        })
    };
    (0..all).map(|n| disk.crash_as(&picks(n).collect::<Vec<_>>()).contents(NAME)).collect()
}

#[test]
fn choices_spell_out_what_a_crash_may_leave() {
    let disk = disk();
    assert!(disk.choices().is_empty());
    let file = disk.create(NAME).unwrap();
    put(&file, &[1; 700], 0).unwrap();
    assert_eq!(disk.choices(), [2, 2, 2, 2], "its name, its length, two sectors");
    assert!(outcomes(&disk).is_subset(&spelled_out(&disk)));
    file.sync().unwrap();
    assert_eq!(spelled_out(&disk), BTreeSet::from([None, Some(vec![1; 700])]));
    disk.sync_dir("journal").unwrap();
    assert_eq!(disk.choices(), [1], "a file that can go one way only");
    put(&file, &[2; 100], 0).unwrap();
    put(&file, &[3; 100], 50).unwrap();
    put(&file, &[4; 200], 600).unwrap();
    file.set_len(650).unwrap();
    assert_eq!(
        disk.choices(),
        [3, 3, 3],
        "three lengths; two writes to one sector; one of them and what was cut off"
    );
    assert_eq!(spelled_out(&disk), outcomes(&disk));
    disk.rename(NAME, "journal/b").unwrap();
    assert_eq!(disk.choices(), [2, 3, 3, 3]);
    assert!(spelled_out(&disk).contains(&None));
}

#[test]
fn a_recording_holds_the_disk_before_each_change() {
    let disk = disk();
    disk.start_recording();
    let file = stable_file(&disk, 4);
    put(&file, &[2; 4], 0).unwrap();
    file.read_exact_at(&mut [0; 4], 0).unwrap();
    file.sync().unwrap();
    let recording = disk.take_recording();
    let seen: Vec<_> = recording.iter().map(|(op, disk)| (*op, disk.contents(NAME))).collect();
    let ones = Some(vec![1; 4]);
    let expected = [
        (1, None),
        (2, Some(vec![])),
        (3, ones.clone()),
        (4, ones.clone()),
        (5, ones.clone()),
        (7, Some(vec![2; 4])),
    ];
    assert_eq!(seen, expected);
    assert_eq!(outcomes(&recording[5].1), BTreeSet::from([ones, Some(vec![2; 4])]));
    assert!(disk.take_recording().is_empty());
}

#[test]
fn a_silent_fault_is_not_told_and_loses() {
    let disk = disk();
    let file = stable_file(&disk, 512);
    put(&file, &[2; 512], 0).unwrap();
    disk.fail_at(disk.ops(), Fault::Silent);
    file.sync().unwrap();
    assert!(disk.failed_files().is_empty());
    assert!(outcomes(&disk).contains(&Some(vec![1; 512])));
    disk.fail_at(disk.ops(), Fault::Io);
    file.sync().unwrap_err();
    assert_eq!(disk.failed_files(), BTreeSet::from([NAME.to_owned()]));
}

#[test]
fn copies_do_not_see_what_is_written_later() {
    let disk = disk();
    let file = stable_file(&disk, 4);
    let before = disk.kill();
    put(&file, &[2; 4], 0).unwrap();
    disk.overwrite(NAME, 2, &[9; 4]);
    assert_eq!(before.contents(NAME), Some(vec![1; 4]));
    assert_eq!(outcomes(&disk), BTreeSet::from([Some(vec![2, 2, 9, 9, 9, 9])]));
    assert_eq!(disk.used_bytes(), 6);
}
