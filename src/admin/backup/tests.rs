//! Copies of a real directory: what is in them, what is refused, and what a cut-off one looks like.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use spool::index::memory::MemoryIndex;
use spool::{Options, Spool};

use super::*;

fn open(data_dir: &Path) -> Spool {
    let disk = Arc::new(RealDisk::new(data_dir.join(SPOOL)));
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, seed: 3, ..Options::default() };
    Spool::open(disk, Arc::new(MemoryIndex::new()), options, crate::clock::wall()).unwrap().0
}

fn filled() -> (tempfile::TempDir, Spool) {
    let data = tempfile::tempdir().unwrap();
    let mut spool = open(data.path());
    for n in 0..50 {
        spool.register(&format!("gateway-{n}"), crate::clock::wall()).unwrap();
    }
    spool.commit(crate::clock::wall()).unwrap();
    fs::write(data.path().join("attestation.key"), "key").unwrap();
    (data, spool)
}

fn target() -> (tempfile::TempDir, PathBuf) {
    let beside = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(beside.path()).unwrap().join("backups/monday");
    (beside, dir)
}

#[test]
fn a_copy_is_private_whole_and_opens() {
    let (data, mut spool) = filled();
    let (_beside, dir) = target();
    let mut told = Vec::new();
    let made = make(&mut spool, data.path(), &dir, &mut |done, of| {
        told.push((done, of));
        true
    })
    .unwrap();
    assert!(told.iter().all(|(done, of)| done <= of) && told.last().is_some_and(|(done, of)| done >= of));
    assert_eq!(made["files"], 3, "one segment, the format file, the key: {made}");
    let checked = check(&dir, &mut |_, _| true).unwrap();
    assert_eq!((&checked["ok"], &checked["problems"]), (&json!(true), &json!([])));
    for (name, mode) in
        [("", 0o700), ("spool", 0o700), ("spool/journal", 0o700), ("spool/FORMAT", 0o600), (REPORT, 0o600)]
    {
        let found = fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    assert!(!dir.join(UNFINISHED).exists());
    assert_eq!(open(&dir).mailboxes(None, 100).unwrap().len(), 50);
    let report: Report = serde_json::from_slice(&fs::read(dir.join(REPORT)).unwrap()).unwrap();
    let names: Vec<_> = report.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["attestation.key", "spool/FORMAT", "spool/journal/0000000000000001.wsj"]);
}

#[test]
fn a_flipped_bit_a_missing_file_and_a_cut_one_are_told() {
    let (data, mut spool) = filled();
    let (_beside, dir) = target();
    make(&mut spool, data.path(), &dir, &mut |_, _| true).unwrap();
    let segment = dir.join("spool/journal/0000000000000001.wsj");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    fs::remove_file(dir.join("attestation.key")).unwrap();
    fs::write(dir.join("spool/FORMAT"), "").unwrap();
    let checked = check(&dir, &mut |_, _| true).unwrap();
    let problems = checked["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap());
    let expected = [
        "attestation.key: it is missing",
        "spool/FORMAT: it has 0 bytes and should have 33",
        "spool/journal/0000000000000001.wsj: its contents are not those that were copied",
    ];
    assert_eq!(problems.collect::<Vec<_>>(), expected);
}

#[test]
fn only_an_empty_directory_outside_is_taken() {
    let (data, mut spool) = filled();
    let (beside, dir) = target();
    let data_dir = fs::canonicalize(data.path()).unwrap();
    let mut refused = |dir: &Path| match make(&mut spool, data.path(), dir, &mut |_, _| true) {
        Err(AskError::Bad(why)) => why,
        other => panic!("{}: {other:?}", dir.display()),
    };
    assert!(refused(Path::new("backups")).contains("no absolute path"));
    assert!(refused(&dir.join("../../x")).contains("no absolute path"));
    for inside in ["", "backup", "spool/journal/backup"] {
        assert!(refused(&data_dir.join(inside)).contains("lies inside of"), "{inside}");
    }
    let link = beside.path().join("link");
    std::os::unix::fs::symlink(&data_dir, &link).unwrap();
    assert!(refused(&link.join("backup")).contains("lies inside of"));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("notes"), "mine").unwrap();
    assert!(refused(&dir).contains("not empty"));
    fs::remove_file(dir.join("notes")).unwrap();
    fs::write(beside.path().join("file"), "").unwrap();
    assert!(refused(&beside.path().join("file")).contains("cannot be used"));
    make(&mut spool, data.path(), &dir, &mut |_, _| true).unwrap();
    let again = make(&mut spool, data.path(), &dir, &mut |_, _| true);
    assert!(matches!(again, Err(AskError::Bad(why)) if why.contains("has a backup already")));
}

#[test]
fn a_copy_that_is_cut_off_looks_so_and_can_be_taken_for_no_spool() {
    let (data, mut spool) = filled();
    let (_beside, dir) = target();
    let cut = make(&mut spool, data.path(), &dir, &mut |_, _| false);
    assert!(matches!(cut, Err(AskError::Conflict(why)) if why.contains("broken off")));
    assert!(!dir.join(SPOOL).exists() && dir.join(UNFINISHED).exists());
    let checked = check(&dir, &mut |_, _| true);
    assert!(matches!(checked, Err(AskError::Conflict(why)) if why.contains("cut off before its end")));
    let again = make(&mut spool, data.path(), &dir, &mut |_, _| true);
    assert!(matches!(again, Err(AskError::Bad(why)) if why.contains("was cut off")));
    // The pin was given back.
    fs::remove_dir_all(&dir).unwrap();
    make(&mut spool, data.path(), &dir, &mut |_, _| true).unwrap();
}

#[test]
fn a_full_disk_is_told_before_anything_is_copied() {
    let (data, spool) = filled();
    drop(spool);
    let disk = Arc::new(RealDisk::new(data.path().join(SPOOL)));
    let options = Options { min_free_bytes: u64::MAX / 2, ..Options::default() };
    let (mut spool, _) = Spool::open_read_only(disk, options, crate::clock::wall()).unwrap();
    let (_beside, dir) = target();
    let full = make(&mut spool, data.path(), &dir, &mut |_, _| true);
    assert!(matches!(full, Err(AskError::Conflict(why)) if why.contains("the copy needs")));
    assert!(fs::read_dir(&dir).unwrap().next().is_none(), "and may be tried again");
}
