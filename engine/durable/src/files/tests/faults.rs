//! What the faulty file layer loses in a power cut, and what it does wrong when it is told to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A file that is durable, with so many sectors of ones.
fn durable(files: &FaultyFiles, name: &str, sectors: usize) -> Box<dyn File> {
    let dir = path(name).parent().expect("a directory");
    files.create_dir_all(dir).expect("makes");
    let file = files.create_new(path(name)).expect("makes");
    file.write_at(&vec![1; sectors * 512], 0).expect("writes");
    file.sync_all().expect("syncs");
    files.sync_dir(dir).expect("syncs");
    file
}

fn read(files: &FaultyFiles, name: &str) -> Vec<u8> {
    files.open(path(name)).expect("opens").read_all().expect("reads")
}

fn is_there(files: &FaultyFiles, name: &str) -> bool {
    files.open(path(name)).is_ok()
}

#[test]
fn a_directory_lasts_as_long_as_its_name_and_those_above() {
    let made = || {
        let files = FaultyFiles::new();
        files.create_dir_all(path("top")).expect("makes");
        files.create_dir(path("top/a")).expect("makes");
        files.create_dir(path("top/a/b")).expect("makes");
        durable(&files, "top/a/b/f", 1);
        files
    };
    // All synced but one name on the way.
    for (sync, there) in [(vec![], false), (vec!["top"], false), (vec!["top/a"], false), (vec!["top", "top/a"], true)] {
        let files = made();
        for dir in &sync {
            files.sync_dir(path(dir)).expect("syncs");
        }
        files.restart(Loss::Unsynced);
        assert_eq!(is_there(&files, "top/a/b/f"), there, "{sync:?}");
        assert_eq!(files.create_dir(path("top/a")).is_ok(), !sync.contains(&"top"), "what is gone can be made again");
        files.create_dir_all(path("top/a/b")).expect("makes");
        assert_eq!(is_there(&files, "top/a/b/f"), there, "with nothing of the old in it: {sync:?}");
    }
    let files = made();
    files.sync_file_system(path("")).expect("syncs");
    files.restart(Loss::Unsynced);
    assert!(is_there(&files, "top/a/b/f"));
    // The names above last at once when the whole path is made at once.
    files.create_dir_all(path("x/y/z")).expect("makes");
    files.restart(Loss::Unsynced);
    assert!(files.list(path("x/y/z")).is_ok());
}

#[test]
fn some_of_the_names_survive_each_on_its_own() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..64 {
        let files = FaultyFiles::new();
        durable(&files, "from/f", 1);
        files.create_dir_all(path("to")).expect("makes");
        files.rename(path("from/f"), path("to/g")).expect("moves");
        files.restart(Loss::Some(seed));
        outcomes.insert((is_there(&files, "from/f"), is_there(&files, "to/g")));
        let counts = files.counts();
        assert_eq!((counts.names_lost + counts.names_kept, counts.power_cuts, counts.kills), (2, 1, 0));
    }
    assert_eq!(outcomes.len(), 4, "moved, not moved, both and neither: {outcomes:?}");

    let mut outcomes = BTreeSet::new();
    for seed in 0..64 {
        let files = FaultyFiles::new();
        durable(&files, "d/f", 1);
        files.rename(path("d/f"), path("d/g")).expect("moves");
        files.restart(Loss::Some(seed));
        outcomes.insert((is_there(&files, "d/f"), is_there(&files, "d/g")));
    }
    assert_eq!(outcomes, BTreeSet::from([(true, false), (false, true)]), "within a directory it is one change");
}

#[test]
fn a_file_may_keep_its_length_and_lose_its_bytes() {
    // Whether the length was set or came with the write.
    for set_len in [false, true] {
        let (mut hole, mut zero_tail, mut shorter) = (0, 0, 0);
        for seed in 0..64 {
            let files = FaultyFiles::new();
            let file = durable(&files, "d/f", 1);
            if set_len {
                file.set_len(2048).expect("grows");
            }
            file.write_at(&[2; 1536], 512).expect("writes");
            files.restart(Loss::Some(seed));
            let bytes = read(&files, "d/f");
            assert_eq!(bytes[..512], [1; 512], "what was synced stays");
            assert!(bytes.chunks(512).skip(1).all(|sector| sector == [2; 512] || sector == [0; 512]));
            let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
            hole += u32::from(sectors == [1, 0, 2, 2]);
            zero_tail += u32::from(sectors == [1, 2, 0, 0] || sectors == [1, 0, 0, 0]);
            shorter += u32::from(sectors.len() < 4);
            let counts = files.counts();
            assert_eq!(counts.sectors_lost + counts.sectors_kept, 3);
        }
        assert!(hole > 0 && zero_tail > 0 && shorter > 0, "{set_len}: {hole} {zero_tail} {shorter}");
    }
}

const ALWAYS: u32 = 1_000_000;

#[test]
fn every_fault_does_what_it_says_and_is_counted() {
    let with = |rates: FaultRates| {
        let files = FaultyFiles::new();
        let file = durable(&files, "d/f", 8);
        files.set_faults(1, rates);
        (files, file)
    };
    let (files, file) = with(FaultRates { write_error: ALWAYS, ..FaultRates::default() });
    file.write_at(&[2; 512], 0).expect_err("fails");
    file.set_len(0).expect_err("fails");
    assert_eq!((read(&files, "d/f"), files.counts().write_errors), (vec![1; 4096], 2));

    let (files, file) = with(FaultRates { torn_write: ALWAYS, ..FaultRates::default() });
    let mut parts = BTreeSet::new();
    for _ in 0..32 {
        file.write_at(&[1; 1024], 100).expect_err("fails");
        file.write_at(&[2; 1024], 100).expect_err("fails");
        let bytes = read(&files, "d/f");
        let part = bytes.iter().filter(|&&byte| byte == 2).count();
        assert_eq!(bytes[100..100 + part], vec![2; part], "the first part");
        parts.insert(part);
        files.set_faults(parts.len() as u64, FaultRates::default());
        file.write_at(&[1; 1024], 100).expect("writes");
        files.set_faults(parts.len() as u64 + 7, FaultRates { torn_write: ALWAYS, ..FaultRates::default() });
    }
    assert!(parts.iter().all(|part| [412, 924, 1024].contains(part)) && parts.len() > 1, "{parts:?}");
    assert_eq!(files.counts().torn_writes, 64);

    let (files, file) = with(FaultRates { sync_error: ALWAYS, ..FaultRates::default() });
    file.write_at(&[2; 512], 0).expect("writes");
    file.sync_data().expect_err("fails");
    files.sync_dir(path("d")).expect("is no file");
    files.sync_file_system(path("")).expect_err("fails");
    assert_eq!((files.counts().sync_errors, files.counts().dir_sync_errors), (2, 0));
    files.restart(Loss::Process);
    assert_eq!(files.counts().kills, 1);
    files.restart(Loss::Unsynced);
    assert_eq!(read(&files, "d/f"), [1; 4096]);

    let (files, file) = with(FaultRates { dir_sync_error: ALWAYS, ..FaultRates::default() });
    files.create_new(path("d/g")).expect("makes");
    file.sync_data().expect("is no directory");
    files.sync_dir(path("d")).expect_err("fails");
    files.open_dir(path("d")).expect("opens").sync().expect_err("fails");
    files.set_faults(0, FaultRates::default());
    files.sync_dir(path("d")).expect("says yes, and has nothing to write");
    assert!(is_there(&files, "d/g"));
    files.restart(Loss::Process);
    assert!(!is_there(&files, "d/g"), "a file system that failed so has to be mounted anew");
    let counts = files.counts();
    assert_eq!((counts.dir_sync_errors, counts.sync_errors, counts.kills, counts.power_cuts), (2, 0, 0, 1));

    let (files, file) = with(FaultRates { read_error: ALWAYS, ..FaultRates::default() });
    file.read_all().expect_err("fails");
    file.read_at(&mut [0], 0).expect_err("fails");
    assert_eq!(files.counts().read_errors, 2);

    let (files, file) = with(FaultRates { read_rot: ALWAYS, ..FaultRates::default() });
    let flipped: u32 = file.read_all().expect("reads").iter().map(|byte| (byte ^ 1).count_ones()).sum();
    assert_eq!((flipped, files.counts().read_rots), (1, 1));
    files.set_faults(0, FaultRates::default());
    assert_eq!(file.read_all().expect("reads"), [1; 4096], "the disk has it right");

    let (files, file) = with(FaultRates { name_error: ALWAYS, ..FaultRates::default() });
    files.create_new(path("d/g")).expect_err("fails");
    files.create_dir(path("d/e")).expect_err("fails");
    files.create_dir_all(path("d/e/e")).expect_err("fails");
    files.rename(path("d/f"), path("d/g")).expect_err("fails");
    files.hard_link(path("d/f"), path("d/g")).expect_err("fails");
    files.remove(path("d/f")).expect_err("fails");
    file.write_at(&[2; 512], 0).expect("is no name");
    assert_eq!((files.list(path("d")).expect("lists"), files.counts().name_errors), (vec!["f".to_owned()], 6));

    let (files, _file) = with(FaultRates { open_error: ALWAYS, ..FaultRates::default() });
    files.open(path("d/f")).expect_err("fails");
    files.create_new(path("d/g")).expect_err("fails");
    files.open_dir(path("d")).expect_err("fails");
    files.sync_dir(path("d")).expect_err("fails");
    files.lock_exclusive(path("d/lock")).expect_err("fails");
    files.list(path("d")).expect_err("fails");
    assert_eq!(files.counts().open_errors, 6);
    files.set_space(Some(1));
    files.restart(Loss::Process);
    files.create_new(path("d/g")).expect_err("no space, but no fault either");
    assert_eq!(files.counts().no_space, 1);
    let mut sum = files.counts();
    sum.add(&files.counts());
    assert_eq!((sum.open_errors, sum.no_space, sum.kills), (12, 2, 2));
}

#[test]
fn a_misdirected_write_is_elsewhere_and_within_the_file() {
    let mut places = BTreeSet::new();
    for seed in 0..64 {
        let files = FaultyFiles::new();
        let file = durable(&files, "d/f", 8);
        files.set_faults(seed, FaultRates { misdirected_write: ALWAYS, ..FaultRates::default() });
        file.write_at(&[2; 1024], 1024).expect("says that all is well");
        let bytes = read(&files, "d/f");
        let at = bytes.iter().position(|&byte| byte == 2).expect("written somewhere");
        assert_eq!((bytes.len(), at % 512), (4096, 0));
        assert_eq!(bytes[at..at + 1024], [2; 1024]);
        places.insert(at / 512);
        assert_eq!(files.counts().misdirected_writes, 1);
    }
    assert_eq!(places, BTreeSet::from([0, 1, 3, 4, 5, 6]));
    // What is written at the end goes elsewhere, and the file is as long as it should be.
    let files = FaultyFiles::new();
    let file = durable(&files, "d/f", 8);
    files.set_faults(1, FaultRates { misdirected_write: ALWAYS, ..FaultRates::default() });
    file.write_at(&[2; 512], 4096).expect("says that all is well");
    let bytes = read(&files, "d/f");
    assert_eq!((bytes.len(), &bytes[4096..]), (4608, &[0; 512][..]));
    // Where there is no other place, it is written as asked.
    let file = durable(&files, "e/f", 0);
    file.write_at(&[2; 512], 0).expect("writes");
    assert_eq!((file.read_all().expect("reads"), files.counts().misdirected_writes), (vec![2; 512], 1));
}

#[test]
fn the_same_seed_does_the_same_and_rates_are_kept() {
    let run = |seed| {
        let files = FaultyFiles::new();
        let file = durable(&files, "d/f", 8);
        let rates = FaultRates {
            write_error: 100_000,
            torn_write: 100_000,
            sync_error: 100_000,
            read_rot: 100_000,
            misdirected_write: 100_000,
            ..FaultRates::default()
        };
        files.set_faults(seed, rates);
        for i in 0..2000_u64 {
            let _may_fail = file.write_at(&[u8::try_from(i % 251).expect("small"); 700], i * 37 % 4000);
            let _may_fail = file.sync_data();
            let _may_fail = file.read_all();
        }
        let counts = files.counts();
        files.restart(Loss::Some(seed));
        (counts, read(&files, "d/f"))
    };
    let (counts, bytes) = run(7);
    assert_eq!(run(7), (counts, bytes.clone()));
    assert_ne!(run(8).1, bytes);
    for (what, count, expected) in [
        ("write errors", counts.write_errors, 200),
        ("torn writes", counts.torn_writes, 180),
        ("sync errors", counts.sync_errors, 200),
        ("rotten reads", counts.read_rots, 200),
        ("misdirected writes", counts.misdirected_writes, 160),
    ] {
        assert!(count.abs_diff(expected) < 60, "{what}: {count}");
    }
}

#[test]
fn syncs_take_time_and_a_stopped_process_none() {
    let files = FaultyFiles::new();
    let file = durable(&files, "d/f", 1);
    let log = Arc::new(Mutex::new(Vec::new()));
    let (writer, again) = (Arc::clone(&log), files.clone());
    // It may use the file system itself.
    files.set_sync_cost(Some(Arc::new(move |kind| writer.lock().expect("whole").push((kind, again.operations())))));
    let before = files.operations();
    file.sync_data().expect("syncs");
    files.sync_dir(path("d")).expect("syncs");
    files.sync_file_system(path("d")).expect("syncs");
    files.fail_sync_after(1);
    file.sync_data().expect("not yet");
    files.sync_dir(path("d")).expect_err("now");
    file.sync_data().expect("once");
    files.crash_after(0);
    file.sync_data().expect_err("stopped");
    let kinds = [SyncKind::File, SyncKind::Dir, SyncKind::FileSystem, SyncKind::File, SyncKind::Dir, SyncKind::File];
    let expected: Vec<_> = (before + 1..).zip(kinds).map(|(operation, kind)| (kind, operation)).collect();
    assert_eq!(*log.lock().expect("whole"), expected);
    assert_eq!(files.counts().crashes, 1);
}

#[test]
fn a_stopped_write_has_written_its_first_part() {
    let mut parts = BTreeSet::new();
    for seed in 0..64 {
        let files = FaultyFiles::new();
        let file = durable(&files, "d/f", 4);
        files.set_faults(seed, FaultRates::default());
        files.crash_after(0);
        file.write_at(&[2; 2048], 0).expect_err("stopped");
        files.restart(Loss::Process);
        let bytes = read(&files, "d/f");
        let part = bytes.iter().filter(|&&byte| byte == 2).count();
        assert_eq!(bytes[..part], vec![2; part]);
        parts.insert(part / 512);
    }
    assert_eq!(parts, BTreeSet::from([0, 1, 2, 3, 4]));
}

#[test]
fn space_is_that_of_files_with_names() {
    let files = FaultyFiles::new();
    let file = durable(&files, "d/f", 2);
    files.hard_link(path("d/f"), path("d/g")).expect("links");
    files.set_space(Some(2048));
    durable(&files, "d/h", 2);
    assert_eq!(file.write_at(&[1], 1024).expect_err("full").kind(), ErrorKind::StorageFull);
    files.remove(path("d/f")).expect("removes");
    assert_eq!(file.write_at(&[1], 1024).expect_err("it has another name").kind(), ErrorKind::StorageFull);
    files.rename(path("d/h"), path("d/g")).expect("replaces");
    assert_eq!(file.read_all().expect("reads"), [1; 1024], "without a name, but open");
    files.create_new(path("d/i")).expect("makes").write_at(&[1; 1024], 0).expect("there is space again");
    drop(file);
    files.sync_dir(path("d")).expect("syncs");
    files.remove(path("d/i")).expect("removes");
    files.restart(Loss::Unsynced);
    assert_eq!(files.list(path("d")).expect("lists"), ["g", "i"], "a name that was not durably removed is back");
    assert_eq!(read(&files, "d/i"), [0; 0], "its bytes were never synced");
    let file = files.open(path("d/i")).expect("opens");
    assert_eq!(file.write_at(&[1; 1025], 0).expect_err("full").kind(), ErrorKind::StorageFull);
    file.write_at(&[1; 1024], 0).expect("fits");
    // Cutting a file gives its space back.
    file.set_len(0).expect("cuts");
    file.write_at(&[1; 1024], 0).expect("fits again");
}
