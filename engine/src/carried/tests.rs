//! Tests of carried files: what is written is read, whatever stops the writer, and nothing else is taken for it.

use std::path::Path;
use std::sync::Arc;

use durable::{FaultyFiles, Files, Loss};
use storage_format::encryption::SecretKey;
use storage_format::{GatewayId, Lsn, Millis, OrgId};

use super::{CarriedFile, CarriedFiles};
use crate::append::support::{TestClock, TestRandom};
use crate::error::EngineErrorKind;
use crate::keys::MasterKey;
use crate::wal::FrameOfLog;

fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

fn carried(files: &FaultyFiles) -> CarriedFiles {
    let random = Arc::new(TestRandom::default());
    let keys = MasterKey::new(SecretKey::from_bytes([7; 32]), Arc::clone(&random));
    CarriedFiles::new(
        "data/carried".into(),
        Arc::new(files.clone()),
        Arc::new(keys),
        random,
        Arc::new(TestClock::default()),
    )
}

fn records(of: u64, lsns: &[u64], frame_bytes: usize) -> Vec<FrameOfLog> {
    let gateway = GatewayId::new(9).expect("not zero");
    let record = |lsn: &u64| FrameOfLog {
        lsn: Lsn::new(*lsn),
        org: org(of),
        gateway,
        received: Millis::EPOCH,
        frame: vec![lsn.to_le_bytes()[0]; frame_bytes].into(),
    };
    lsns.iter().map(record).collect()
}

#[test]
fn what_is_written_is_read() {
    let files = FaultyFiles::new();
    let carried = carried(&files);
    assert!(carried.find().expect("no directory yet").is_empty());
    // Over several blocks.
    let (first, second) = (records(5, &[1, 4, 5], 700), records(5, &(9..40).collect::<Vec<_>>(), 1 << 20));
    let written = [carried.write(&second).expect("written"), carried.write(&first).expect("written")];
    let other = carried.write(&records(6, &[2], 3)).expect("written");
    files.restart(Loss::Unsynced);
    let found = carried.find().expect("lists");
    assert_eq!(found[&org(5)], [written[1], written[0]]);
    assert_eq!(found[&org(6)], [other]);
    assert_eq!(carried.read(&written[1]).expect("reads"), first);
    assert_eq!(carried.read(&written[0]).expect("reads"), second);
    carried.remove(&written[1]).expect("removed");
    carried.remove(&written[1]).expect("it is gone");
    files.restart(Loss::Unsynced);
    assert_eq!(carried.find().expect("lists")[&org(5)], [written[0]]);
}

#[test]
fn a_write_that_is_stopped_leaves_all_or_nothing() {
    for operation in 0.. {
        let files = FaultyFiles::new();
        files.crash_after(operation);
        let done = carried(&files).write(&records(5, &[1, 4], 3000)).is_ok();
        for loss in [Loss::Process, Loss::Unsynced, Loss::Some(operation)] {
            let image = files.fork();
            image.restart(loss);
            let found = carried(&image).find().expect("lists");
            assert!(!done || found.len() == 1, "{operation} {loss:?}");
            for file in found.values().flatten() {
                assert_eq!(carried(&image).read(file).expect("whole"), records(5, &[1, 4], 3000));
            }
            let left = image.list(Path::new("data/carried")).unwrap_or_default();
            assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
        }
        if done {
            return;
        }
    }
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_corrupt() {
    let files = FaultyFiles::new();
    let carried = carried(&files);
    let file = carried.write(&records(5, &[1, 4], 700)).expect("written");
    let path = carried.path(&file);
    let missing = CarriedFile { last: Lsn::new(5), ..file };
    assert_eq!(carried.read(&missing).expect_err("missing").kind(), EngineErrorKind::Corrupt);
    for other in [missing, CarriedFile { org: org(6), ..file }] {
        files.hard_link(&path, &carried.path(&other)).expect("linked");
        assert_eq!(carried.read(&other).expect_err("another").kind(), EngineErrorKind::Corrupt);
    }
    for offset in [5, 60, 4100, 4200] {
        files.rot(&path, offset, 1);
        let error = carried.read(&file).expect_err("damaged");
        assert!(error.kind() == EngineErrorKind::Corrupt && error.to_string().contains(&file.name()), "{error}");
        files.rot(&path, offset, 1);
    }
    carried.read(&file).expect("whole again");
}

#[test]
fn only_names_of_carried_files_are() {
    let name = "0000000000000005-00000000000000000001-00000000000000000004.wal";
    let file = CarriedFile::parse(name).expect("a name");
    assert_eq!((file.org, file.first, file.last), (org(5), Lsn::new(1), Lsn::new(4)));
    for wrong in [
        "00000000000000000001.wal",
        "0000000000000005-1-00000000000000000004.wal",
        "0000000000000005-00000000000000000004-00000000000000000001.wal",
        "0000000000000005-00000000000000000000-00000000000000000001.wal",
        "0000000000000005-00000000000000000001-00000000000000000004-1.wal",
        "0000000000000005-00000000000000000001-00000000000000000004",
    ] {
        assert_eq!(CarriedFile::parse(wrong), None, "{wrong}");
    }
}
