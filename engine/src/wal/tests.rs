//! Tests of the log on disk: files ahead, rotation, trimming.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use durable::{FaultyFiles, Files as _, Loss, RealFiles};
use storage_format::{Lsn, WalFileId};

use crate::append::support::{Answer, Rig, frame, org};
use crate::error::EngineErrorKind;

fn fill(process: &mut crate::append::support::Process, from: u64, to: u64) {
    for number in from..=to {
        process.submit(1, frame(number, 100)).expect("room");
        assert_eq!(process.run().expect("runs"), [Answer::Durable(number)]);
    }
}

#[test]
fn real_files_rotate_trim_and_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::new(Arc::new(RealFiles), dir.path());
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 40);
    let names = rig.files.list(&rig.settings.dir).expect("lists");
    let logs: Vec<&String> = names.iter().filter(|name| !name.ends_with(".tmp")).collect();
    assert!(logs.len() > 3, "{names:?}");
    assert_eq!(logs[0], "00000000000000000001.wal");
    assert_eq!(process.wal.file_count(), logs.len());
    for name in &logs {
        assert_eq!(rig.files.open(&rig.settings.dir.join(name)).expect("opens").len().expect("a length"), 16 << 10);
    }
    drop(process);

    let mut process = rig.start().expect("starts");
    assert_eq!(process.frames(1), (1..=40).collect());
    fill(&mut process, 41, 45);
    // Nothing goes that is needed, all else does, and the newest stays in any case.
    assert_eq!(process.wal.trim(Lsn::new(1)).expect("trims"), 0);
    rig.cover(org(1), Lsn::new(45));
    let files = process.wal.file_count();
    assert_eq!(process.wal.trim(Lsn::new(46)).expect("trims"), files - 1);
    drop(process);
    let mut process = rig.start().expect("starts");
    assert_eq!((process.report.files, process.report.applied), (1, 0));
    // LSNs go on although the files are gone.
    fill(&mut process, 46, 46);
    assert_eq!(process.orgs.applied(), Lsn::new(46));
}

#[test]
fn a_file_made_ahead_is_used() {
    let files = FaultyFiles::new();
    let rig = Rig::new(Arc::new(files.clone()), Path::new("data"));
    let mut process = rig.start().expect("starts");
    assert!(process.prepare.run_once().expect("prepares"));
    assert!(!process.prepare.run_once().expect("has one"), "one is enough");
    let before = files.operations();
    fill(&mut process, 1, 1);
    // Header, its sync, rename, directory; block, its sync.
    assert_eq!(files.operations(), before + 6);
    assert_eq!(rig.files.list(&rig.settings.dir).expect("lists"), ["00000000000000000001.wal"]);
    assert!(process.wal.wanted_prepared().try_recv().is_ok(), "the next one is asked for");

    // One that is left when the process dies is swept up at the next start.
    assert!(process.prepare.run_once().expect("prepares"));
    drop(process);
    files.restart(Loss::Process);
    assert_eq!(rig.files.list(&rig.settings.dir).expect("lists").len(), 2);
    let process = rig.start().expect("starts");
    assert_eq!(rig.files.list(&rig.settings.dir).expect("lists"), ["00000000000000000001.wal"]);
    drop(process);

    // Without space none is made ahead, and nothing is left of the attempt.
    let process = rig.start().expect("starts");
    files.set_space(Some(20 << 10));
    assert!(process.prepare.run_once().is_err());
    assert_eq!(rig.files.list(&rig.settings.dir).expect("lists").len(), 1);
}

#[test]
fn a_file_made_ahead_that_nobody_needs_any_more_is_given_up() {
    let files = FaultyFiles::new();
    let mut rig = Rig::new(Arc::new(files.clone()), Path::new("data"));
    // There is a breath after each mebibyte but the last.
    (rig.settings.file_bytes, rig.settings.bytes_max) = (4 << 20, 64 << 20);
    let process = rig.start().expect("starts");
    let before = rig.files.list(&rig.settings.dir).expect("lists");
    for last in 1..=3 {
        let breaths = Cell::new(0);
        let breathe = || {
            breaths.set(breaths.get() + 1);
            breaths.get() < last
        };
        let error = process.prepare.run_gently(&breathe).expect_err("it was told to stop");
        assert_eq!((error.kind(), breaths.get()), (ErrorKind::Interrupted, last));
        assert_eq!(rig.files.list(&rig.settings.dir).expect("lists"), before, "nothing is left of it");
    }
    assert!(process.prepare.run_gently(&|| true).expect("prepares"), "when it is needed again, it is made");
    assert_eq!(rig.files.list(&rig.settings.dir).expect("lists").len(), before.len() + 1);
}

#[test]
fn a_trim_that_fails_is_done_again() {
    let files = FaultyFiles::new();
    let rig = Rig::new(Arc::new(files.clone()), Path::new("data"));
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 40);
    rig.cover(org(1), Lsn::new(40));
    let count = process.wal.file_count();
    // Whenever it stops, what is left is the end of the log.
    for after in 0..(count as u64 - 1) * 2 {
        let cut = files.fork();
        let rig = rig.with_files(Arc::new(cut.clone()));
        let process = rig.start().expect("starts");
        cut.crash_after(after);
        assert!(process.wal.trim(Lsn::new(41)).is_err());
        drop(process);
        for loss in [Loss::Process, Loss::Unsynced, Loss::Some(after)] {
            let cut = cut.fork();
            cut.restart(loss);
            let process = rig.with_files(Arc::new(cut)).start().expect("starts");
            assert!(process.frames(1).is_empty());
            assert_eq!(process.wal.trim(Lsn::new(41)).expect("trims") as u64, process.report.files - 1);
        }
    }
}

#[test]
fn a_removal_that_is_not_durable_ends_it_and_one_that_was_made_already_does_not() {
    let files = FaultyFiles::new();
    let rig = Rig::new(Arc::new(files.clone()), Path::new("data"));
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 40);
    rig.cover(org(1), Lsn::new(40));
    // Somebody else has taken the oldest away.
    files.remove(&process.wal.file_path(WalFileId::FIRST)).expect("it is there");
    let count = process.wal.file_count();
    files.fail_sync_after(1);
    // The second removal's sync fails: to try that again would be to believe it, so it is not for the next call to mend.
    let error = process.wal.trim(Lsn::new(41)).expect_err("a failed sync");
    assert_eq!(error.kind(), EngineErrorKind::Failed, "{error}");
    assert_eq!(process.wal.file_count(), count - 1, "one is gone for good, no other");
}
