//! One suite of behaviour for every implementation of the file layer, then what only the faulty one does.

use std::io::ErrorKind;
use std::path::Path;

use super::*;

fn behaves(files: &dyn Files, root: &Path) {
    let dir = root.join("a/b");
    files.create_dir_all(&dir).expect("makes");
    files.create_dir_all(&dir).expect("is there");
    let path = dir.join("one");
    assert_eq!(files.open(&path).expect_err("not there").kind(), ErrorKind::NotFound);
    let file = files.create_new(&path).expect("makes");
    assert_eq!(files.create_new(&path).expect_err("there").kind(), ErrorKind::AlreadyExists);
    assert!(file.is_empty().expect("a length"));
    file.write_at(b"hello", 3).expect("writes");
    file.sync_data().expect("syncs");
    assert_eq!(file.read_all().expect("reads"), b"\0\0\0hello");
    let mut buffer = [9; 4];
    assert_eq!(file.read_at(&mut buffer, 6).expect("reads"), 2);
    assert_eq!(&buffer, b"lo\x09\x09");
    assert_eq!(file.read_at(&mut buffer, 100).expect("reads"), 0);
    file.set_len(4).expect("cuts");
    file.sync_all().expect("syncs");
    assert_eq!((file.len().expect("a length"), file.read_all().expect("reads")), (4, b"\0\0\0h".to_vec()));

    files.hard_link(&path, &dir.join("two")).expect("links");
    assert_eq!(files.hard_link(&path, &dir.join("two")).expect_err("there").kind(), ErrorKind::AlreadyExists);
    files.create_new(&dir.join("three")).expect("makes");
    files.rename(&path, &dir.join("three")).expect("replaces");
    assert_eq!(files.list(&dir).expect("lists"), ["three", "two"]);
    assert_eq!(files.open(&dir.join("three")).expect("opens").len().expect("a length"), 4);
    files.remove(&dir.join("two")).expect("removes");
    assert_eq!(files.remove(&dir.join("two")).expect_err("gone").kind(), ErrorKind::NotFound);
    files.sync_dir(&dir).expect("syncs");
    assert_eq!(files.list(&dir).expect("lists"), ["three"]);

    // Directories, and names that go from one to another.
    let inner = dir.join("inner");
    files.create_dir(&inner).expect("makes");
    assert_eq!(files.create_dir(&inner).expect_err("there").kind(), ErrorKind::AlreadyExists);
    assert_eq!(files.create_dir(&dir.join("no/inner")).expect_err("no parent").kind(), ErrorKind::NotFound);
    assert_eq!(files.create_dir(&dir.join("three/inner")).expect_err("a file").kind(), ErrorKind::NotADirectory);
    assert_eq!(files.create_new(&inner).expect_err("there").kind(), ErrorKind::AlreadyExists);
    assert_eq!(files.open(&inner).expect_err("a directory").kind(), ErrorKind::IsADirectory);
    assert_eq!(files.remove(&inner).expect_err("a directory").kind(), ErrorKind::IsADirectory);
    assert_eq!(files.rename(&dir.join("three"), &inner).expect_err("a directory").kind(), ErrorKind::IsADirectory);
    assert!(files.create_dir_all(&dir.join("three/inner")).is_err());
    files.hard_link(&dir.join("three"), &inner.join("linked")).expect("links");
    files.rename(&dir.join("three"), &inner.join("moved")).expect("moves");
    assert_eq!(files.list(&dir).expect("lists"), [""; 0], "only files");
    assert_eq!(files.list(&inner).expect("lists"), ["linked", "moved"]);
    assert_eq!(files.open(&inner.join("moved")).expect("opens").read_all().expect("reads"), b"\0\0\0h");
    let opened = files.open_dir(&inner).expect("opens");
    opened.sync().expect("syncs");
    assert_eq!(files.open_dir(&dir.join("none")).expect_err("not there").kind(), ErrorKind::NotFound);
    assert_eq!(files.sync_dir(&dir.join("none")).expect_err("not there").kind(), ErrorKind::NotFound);
    files.sync_file_system(root).expect("syncs");

    let lock = files.lock_exclusive(&dir.join("lock")).expect("asks").expect("free");
    assert!(files.lock_exclusive(&dir.join("lock")).expect("asks").is_none());
    drop(lock);
    assert!(files.lock_exclusive(&dir.join("lock")).expect("asks").is_some());
}

#[test]
fn the_real_one_behaves() {
    let dir = tempfile::tempdir().expect("a directory");
    behaves(&RealFiles, dir.path());
}

#[test]
fn the_faulty_one_behaves() {
    behaves(&FaultyFiles::new(), Path::new("data"));
}

fn faulty() -> (FaultyFiles, Box<dyn File>) {
    let files = FaultyFiles::new();
    files.create_dir_all(Path::new("d")).expect("makes");
    let file = files.create_new(Path::new("d/f")).expect("makes");
    (files, file)
}

#[test]
fn a_kill_loses_nothing_and_a_power_cut_what_was_not_synced() {
    let (files, file) = faulty();
    file.write_at(&[1; 1024], 0).expect("writes");
    files.restart(Loss::Process);
    assert!(file.len().is_err(), "handles of the process are gone");
    let file = files.open(Path::new("d/f")).expect("the name survives a kill");
    assert_eq!(file.read_all().expect("reads"), [1; 1024]);
    file.sync_data().expect("syncs");
    files.restart(Loss::Unsynced);
    assert!(files.open(Path::new("d/f")).is_err(), "the name was not synced");

    let (files, file) = faulty();
    files.sync_dir(Path::new("d")).expect("syncs");
    file.write_at(&[1; 4096], 0).expect("writes");
    file.sync_data().expect("syncs");
    file.write_at(&[2; 4096], 0).expect("writes");
    let mut kept = std::collections::BTreeSet::new();
    files.restart(Loss::Some(3));
    let bytes = files.open(Path::new("d/f")).expect("opens").read_all().expect("reads");
    for sector in bytes.chunks(512) {
        assert!(sector == [1; 512] || sector == [2; 512]);
        kept.insert(sector[0]);
    }
    assert_eq!(kept.len(), 2, "some sectors are new, some old");
}

#[test]
fn a_failed_sync_forgets() {
    let (files, file) = faulty();
    files.sync_dir(Path::new("d")).expect("syncs");
    file.write_at(&[1; 512], 0).expect("writes");
    files.fail_syncs(1);
    assert!(file.sync_data().is_err());
    file.sync_data().expect("says yes, and has nothing to write");
    assert_eq!(file.read_all().expect("reads"), [1; 512]);
    files.restart(Loss::Unsynced);
    assert_eq!(files.open(Path::new("d/f")).expect("opens").len().expect("a length"), 0);
}

#[test]
fn it_runs_full_and_stops_where_told() {
    let (files, file) = faulty();
    files.set_space(Some(1000));
    assert_eq!(file.write_at(&[1; 1001], 0).expect_err("full").kind(), ErrorKind::StorageFull);
    file.write_at(&[1; 1000], 0).expect("fits");
    file.write_at(&[2; 1000], 0).expect("takes no more");
    files.set_space(None);
    files.crash_after(1);
    file.sync_data().expect("one more");
    assert!(!files.is_crashed());
    assert!(file.write_at(&[3; 1], 0).is_err());
    assert!(files.is_crashed() && files.list(Path::new("d")).is_ok());
    assert!(files.create_new(Path::new("d/g")).is_err());
    files.restart(Loss::Unsynced);
    files.create_new(Path::new("d/g")).expect("the next process lives");
}

mod faults;
