//! Tests of recovery: after a crash at every operation, with every kind of loss, and of damage that no crash leaves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use durable::{FaultyFiles, Files, Loss, replace_file};
use futures::FutureExt as _;
use proptest::collection::vec;
use proptest::prelude::*;
use storage_format::encryption::{SecretKey, WrappedKey};
use storage_format::wal::{WalFileKind, WalRecordKind, scan_wal};
use storage_format::{FormatErrorKind, FrameSequence, Lsn, Millis, OrgId};

use super::{RecoveryHost, recover};
use crate::append::support::{Answer, Process, Rig, frame, gateway, org};
use crate::append::{AppendProgress, SubmitFailure};
use crate::buffer::Budget;
use crate::carried::CarriedFile;
use crate::error::{EngineError, EngineErrorKind};
use crate::keys::{KeyError, KeyProvider, MasterKey};
use crate::org::{Orgs, Writers};
use crate::snapshot::Snapshot;
use crate::wal::{FrameOfLog, WholeFile};

fn rig() -> (FaultyFiles, Rig) {
    let files = FaultyFiles::new();
    (files.clone(), Rig::new(Arc::new(files), Path::new("data")))
}

fn fill(process: &mut Process, from: u64, to: u64) {
    for number in from..=to {
        process.submit(1, frame(number, 100)).expect("room");
        assert_eq!(process.run().expect("runs"), [Answer::Durable(number)]);
    }
}

fn wal_path(id: u64) -> PathBuf {
    Path::new("data/wal").join(format!("{id:020}.wal"))
}

/// What a run before a crash left behind.
#[derive(Debug, Default)]
struct History {
    sent: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    flushed: BTreeSet<u64>,
}

/// Frames in groups, files made ahead and not, a flush now and then, a clean restart in between: until the end or the
/// crash.
fn live(rig: &Rig, history: &mut History) -> Result<(), EngineError> {
    let mut number = 0;
    for life in 0..2 {
        let mut process = rig.start()?;
        for round in 0..12_u64 {
            if round % 3 == 1 {
                let _made_or_not = process.prepare.run_once();
            }
            for _ in 0..=round % 3 {
                number += 1;
                history.sent.insert(number);
                assert!(process.submit(1, frame(number, 40 + 60 * (round % 4))).is_ok());
            }
            let ran = process.run();
            for answer in ran.as_ref().cloned().unwrap_or_else(|_| process.sink.take()) {
                if let Answer::Durable(up_to) = answer {
                    history.acknowledged.extend((1..=up_to).filter(|number| history.sent.contains(number)));
                }
            }
            ran?;
            if round == 5 {
                // A manifest commit: atomic and durable by itself. Then the log may go.
                rig.cover(org(1), process.orgs.applied());
                history.flushed = history.acknowledged.clone();
                process.wal.trim(Lsn::new(process.orgs.applied().get() + 1))?;
            }
        }
        if life == 0 {
            process.queue.close();
            loop {
                match process.step.run_once()? {
                    AppendProgress::Closed => break,
                    AppendProgress::Appended { .. } | AppendProgress::Idle => {}
                    // No file can be made: only the crash does that here, and the engine would wait for ever.
                    AppendProgress::Waiting(_) => return Ok(()),
                }
            }
        }
    }
    Ok(())
}

/// Everything acknowledged is there once, in segments or in buffers; nothing is there that was never sent.
fn check(process: &Process, history: &History, what: &str) {
    let found = process.frames(1);
    let lost: Vec<_> = history.acknowledged.difference(&history.flushed).filter(|n| !found.contains(n)).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
    assert!(found.is_disjoint(&history.flushed), "{what}: flushed and applied again");
    assert!(found.is_subset(&history.sent), "{what}: never sent");
}

#[test]
fn what_is_acknowledged_survives_a_crash_at_every_operation() {
    let (files, whole) = rig();
    let mut all = History::default();
    live(&whole, &mut all).expect("no crash");
    assert_eq!(all.sent, all.acknowledged);
    let operations = files.operations();
    assert!(operations > 100, "{operations}");
    let mut torn = 0;
    for crash in 0..operations {
        let (files, rig) = rig();
        files.crash_after(crash);
        let mut history = History::default();
        let _stopped_or_waiting = live(&rig, &mut history);
        assert!(files.is_crashed(), "operation {crash} is reached");
        for loss in [Loss::Process, Loss::Unsynced, Loss::Some(crash), Loss::Some(!crash), Loss::Some(crash << 20)] {
            let what = format!("crash in operation {crash}, {loss:?}");
            let image = files.fork();
            image.restart(loss);
            let rig = rig.with_files(Arc::new(image.clone()));
            let mut process = rig.start().unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&process, &history, &what);
            torn += process.report.torn;

            // What was found, acknowledged or not, is built upon: it must be there after the next power cut, too.
            let found = process.frames(1);
            process.submit(1, frame(1000, 1)).expect("room");
            assert_eq!(process.run().expect("runs"), [Answer::Durable(1000)], "{what}");
            drop(process);
            image.restart(Loss::Unsynced);
            let again = rig.start().unwrap_or_else(|error| panic!("{what}, then power cut: {error}"));
            assert_eq!(again.frames(1), found.into_iter().chain([1000]).collect(), "{what}, then power cut");
        }
    }
    assert!(torn > 10, "the images contain torn blocks: {torn}");
}

/// Acknowledgements cannot be taken back, so the net must notice one that comes too early.
#[test]
fn the_check_itself_notices_a_loss() {
    let (files, rig) = rig();
    let mut history = History::default();
    live(&rig, &mut history).expect("no crash");
    files.restart(Loss::Unsynced);
    let process = rig.start().expect("starts");
    check(&process, &history, "as it is");
    history.sent.insert(5000);
    history.acknowledged.insert(5000);
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&process, &history, "a lie")));
    assert!(noticed.is_err());
}

#[test]
fn damage_stops_the_start_with_file_and_offset() {
    let (files, rig) = rig();
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 40);
    let count = process.wal.file_count() as u64;
    assert!(count > 3);
    drop(process);
    let refused = |spoil: &dyn Fn(&FaultyFiles)| {
        let image = files.fork();
        spoil(&image);
        let error = rig.with_files(Arc::new(image.clone())).start().expect_err("must not start");
        // Nothing is changed by the attempt: the same again says the same.
        image.restart(Loss::Unsynced);
        assert_eq!(rig.with_files(Arc::new(image)).start().expect_err("nor again").to_string(), error.to_string());
        error
    };
    let open = |files: &FaultyFiles, id: u64| files.open(&wal_path(id)).expect("opens");
    for (what, id, offset, spoil) in [
        ("a bit of a block", 1, 4096, &(|f: &FaultyFiles| f.rot(&wal_path(1), 5000, 4)) as &dyn Fn(&FaultyFiles)),
        ("a bit of a header", 2, 8, &|f| f.rot(&wal_path(2), 20, 1)),
        ("the last block of the last file", count, 4096, &|f| f.rot(&wal_path(count), 4100, 1)),
        ("zeros", 2, 0, &|f| {
            let file = open(f, 2);
            file.write_at(&vec![0; 16 << 10], 0).expect("writes");
            file.sync_data().expect("syncs");
        }),
        ("cut short", 2, 10_000, &|f| {
            let file = open(f, 2);
            file.set_len(10_000).expect("cuts");
            file.sync_data().expect("syncs");
        }),
        ("nothing in it", count, 0, &|f| {
            let file = open(f, count);
            file.set_len(0).expect("cuts");
            file.sync_data().expect("syncs");
        }),
        ("another file's place", 3, 16, &|f| {
            f.rename(&wal_path(2), &wal_path(3)).expect("moves");
            f.sync_dir(Path::new("data/wal")).expect("syncs");
        }),
    ] {
        let error = refused(spoil);
        assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{what}: {error}");
        let place = error.place().expect("a place");
        // A hole before it is told about first, where the file before it stands.
        let told = place == format!("{} at byte {offset}", wal_path(id).display());
        assert!(told || what == "another file's place" && place.contains("next file"), "{what}: {error}");
    }
    let error = refused(&|f| {
        f.remove(&wal_path(2)).expect("removes");
        f.sync_dir(Path::new("data/wal")).expect("syncs");
    });
    assert!(error.kind() == EngineErrorKind::Corrupt && error.what().contains("hole"), "{error}");
    // The last blocks of a file that is not the last: a hole, too.
    let error = refused(&|f| {
        let file = open(f, 2);
        for sector in 16..32 {
            file.write_at(&[0; 512], sector * 512).expect("writes");
        }
        file.sync_data().expect("syncs");
    });
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
}

#[test]
fn another_master_key_is_told_as_such() {
    let (files, rig) = rig();
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 1);
    drop(process);
    files.restart(Loss::Unsynced);
    let mut other = rig.with_files(Arc::new(files));
    other.keys = Arc::new(MasterKey::new(SecretKey::from_bytes([8; 32]), Arc::clone(&rig.random)));
    let error = other.start().expect_err("must not start");
    assert_eq!(error.kind(), EngineErrorKind::Invalid, "{error}");
    rig.start().expect("the right one starts");
}

#[test]
fn covered_records_are_skipped_org_by_org() {
    let (_, rig) = rig();
    let mut process = rig.start().expect("starts");
    for number in 1..=6 {
        process.submit(1 + number % 2, frame(number, 1)).expect("room");
    }
    process.run().expect("runs");
    drop(process);
    rig.cover(org(1), Lsn::new(4));
    let process = rig.start().expect("starts");
    assert_eq!((process.frames(1), process.frames(2)), ([6].into(), [1, 3, 5].into()));
    assert_eq!((process.report.applied, process.report.skipped), (4, 2));
    assert_eq!(process.orgs.applied(), Lsn::new(6));
}

#[test]
fn a_log_that_does_not_belong_to_the_manifests() {
    let (files, rig) = rig();
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 3);
    drop(process);
    // The log ends before what the store has flushed.
    rig.cover(org(1), Lsn::new(4));
    let error = rig.start().expect_err("must not start");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    // No log at all: it begins after what is covered, so that no LSN is given twice.
    files.remove(&wal_path(1)).expect("removes");
    let mut process = rig.start().expect("starts");
    process.submit(1, frame(9, 1)).expect("room");
    process.run().expect("runs");
    assert_eq!(process.orgs.applied(), Lsn::new(5));
    drop(process);
    assert_eq!(rig.start().expect("starts").frames(1), [9].into());
}

#[test]
fn records_that_cannot_be_applied_are_set_aside() {
    let (files, rig) = rig();
    // A frame that this program does not know: one of a newer one, say.
    let mut log = WholeFile::new(WalFileKind::Log, &*rig.random);
    let bytes = |number: u64| if number == 2 { vec![7; 90].into() } else { frame(number, 1).bytes().clone() };
    for lsn in 1..4 {
        let (org, gateway, received) = (org(1), gateway(), Millis::EPOCH);
        log.push(&FrameOfLog { lsn: Lsn::new(lsn), org, gateway, received, frame: bytes(lsn) });
    }
    let log = log.finish(&*rig.keys, &*rig.clock).expect("the key is there");
    files.create_dir_all(Path::new("data/wal")).expect("a directory");
    replace_file(&files, &wal_path(1), &log).expect("written");
    for _ in 0..2 {
        files.restart(Loss::Unsynced);
        let process = rig.start().expect("starts all the same");
        assert_eq!((process.frames(1), process.report.set_aside), ([1, 3].into(), 1));
        assert_eq!(files.list(Path::new("data/set-aside")).expect("lists"), ["00000000000000000002.wal"]);
    }
    let kept =
        files.open(Path::new("data/set-aside/00000000000000000002.wal")).expect("opens").read_all().expect("reads");
    let unwrap = |wrapped: &_, aad: &[u8]| {
        rig.keys.unwrap(wrapped, aad).map_err(|error| {
            storage_format::FormatError::new(
                storage_format::FileKind::Key,
                FormatErrorKind::WrongKey,
                0,
                error.to_string(),
            )
        })
    };
    let block = scan_wal(&kept, &unwrap).expect("a header").next().expect("a block").expect("whole");
    assert_eq!(block.records[0].lsn, Lsn::new(2));
    let WalRecordKind::Frame { org: of, gateway: by, received, frame: kept } = &block.records[0].kind else {
        panic!("a frame")
    };
    assert_eq!((*of, *by, *received, kept), (org(1), gateway(), Millis::EPOCH, &bytes(2)));
    let mut process = rig.start().expect("starts");
    process.submit(3, frame(4, 1)).expect("room");
    assert_eq!(process.run().expect("runs"), [Answer::Failed(4, SubmitFailure::UnknownOrg)]);
    let spool = storage_format::SpoolId::new(5).expect("not zero");
    let durable = process.orgs.get(org(1)).expect("loaded").durable_sequence(gateway(), spool);
    assert_eq!(durable, FrameSequence::new(3));
}

#[test]
fn records_of_an_organisation_that_cannot_be_loaded_are_carried_on() {
    let (files, rig) = rig();
    rig.cover(org(3), Lsn::ZERO);
    let mut process = rig.start().expect("starts");
    for (to, number) in [(3, 1), (1, 2), (3, 3), (1, 4), (3, 5)] {
        process.submit(to, frame(number, 1)).expect("room");
        process.run().expect("runs");
    }
    drop(process);
    let file = CarriedFile { org: org(3), first: Lsn::new(2), last: Lsn::new(5), bytes: 4096 + 512 };
    // Its manifest covers the first record, and cannot be read now; at the second start the file is there already.
    rig.orgs.lock().expect("no panic").remove(&org(3));
    for copied in [3, 0] {
        files.restart(Loss::Unsynced);
        let mut process = rig.start().expect("starts all the same");
        assert_eq!((process.frames(1), process.report.carried, process.report.set_aside), ([2, 4].into(), copied, 0));
        let trouble = process.orgs.troubles().get(org(3)).expect("in trouble");
        assert_eq!((trouble.readable, trouble.carried_up_to()), (false, Lsn::new(5)));
        process.submit(3, frame(6, 1)).expect("room");
        assert_eq!(process.run().expect("runs"), [Answer::Failed(6, SubmitFailure::OrgInTrouble)]);
    }
    let carried = rig.recovery_parts().carried;
    let found = carried.find().expect("lists");
    let [first] = found[&org(3)][..] else { panic!("one file: {found:?}") };
    assert_eq!(first, CarriedFile { first: Lsn::new(1), ..file });
    let records = carried.read(&first).expect("reads");
    assert_eq!(records.iter().map(|record| record.lsn.get()).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(records[1].frame, *frame(3, 1).bytes());
    // It is back, and waits for its carried records, which no new record may come before.
    rig.cover(org(3), Lsn::new(1));
    let process = rig.start().expect("starts");
    let org_3 = process.orgs.get(org(3)).expect("loaded");
    assert!(Snapshot::take(&org_3).is_none() && process.orgs.troubles().has(org(3)));
    assert_eq!((process.report.carried, org_3.state().first_unflushed()), (0, None));
}

#[test]
fn a_log_that_ends_before_carried_records_is_refused() {
    let (files, rig) = rig();
    rig.cover(org(3), Lsn::ZERO);
    let mut process = rig.start().expect("starts");
    process.submit(3, frame(1, 1)).expect("room");
    process.run().expect("runs");
    drop(process);
    let before = files.fork();
    rig.orgs.lock().expect("no panic").remove(&org(3));
    rig.start().expect("starts");
    let log = before.open(&wal_path(1)).expect("opens").read_all().expect("reads");
    let gone = files.fork();
    // The carried file stays, and the log is another one without its record.
    gone.remove(&wal_path(1)).expect("removed");
    let process = rig.with_files(Arc::new(gone.clone())).start().expect("a log that is wholly gone begins anew");
    assert_eq!(process.report.next_lsn, Lsn::new(2), "after what is carried");
    let mut short = log;
    short[4096..].fill(0);
    let gone = files.fork();
    gone.remove(&wal_path(1)).expect("removed");
    replace_file(&gone, &wal_path(1), &short).expect("written");
    let error = rig.with_files(Arc::new(gone)).start().expect_err("a hole");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
}

#[test]
fn each_file_is_judged_when_the_one_before_is_applied() {
    let (files, rig) = rig();
    rig.cover(org(3), Lsn::ZERO);
    let mut process = rig.start().expect("starts");
    // Frame 1 is carried on at the next start, which shows that the file it is in was.
    process.submit(3, frame(1, 1)).expect("room");
    process.run().expect("runs");
    let last = (2..).find(|&number| {
        fill(&mut process, number, number);
        process.wal.file_count() == 2
    });
    let two = files.fork();
    fill(&mut process, last.expect("a second file") + 1, 60);
    let count = process.wal.file_count() as u64;
    assert!(count > 3);
    drop(process);
    rig.orgs.lock().expect("no panic").remove(&org(3));
    let start_of = |files: &FaultyFiles, spoil: &dyn Fn(&FaultyFiles)| {
        let image = files.fork();
        spoil(&image);
        let error = rig.with_files(Arc::new(image.clone())).start().expect_err("must not start");
        let applied = !image.list(Path::new("data/carried")).unwrap_or_default().is_empty();
        (error.place().expect("a place").to_owned(), applied)
    };
    let start = |spoil: &dyn Fn(&FaultyFiles)| start_of(&files, spoil);
    let damage = |files: &FaultyFiles, id| files.rot(&wal_path(id), 4200, 4);
    let damaged = |id: u64| format!("{} at byte 4096", wal_path(id).display());
    assert_eq!(start(&|f| damage(f, 1)), (damaged(1), false));
    for id in 2..=count {
        assert_eq!(start(&|f| damage(f, id)), (damaged(id), true));
    }
    let place = format!("{} at byte 8", wal_path(2).display());
    assert_eq!(start(&|f| f.rot(&wal_path(2), 20, 1)), (place, true));
    assert_eq!(start(&|f| [2, 1].into_iter().for_each(|id| damage(f, id))), (damaged(1), false));
    // The end of the log is written again when all before it is applied: the first write that fails is another one.
    let unwritten = |f: &FaultyFiles| f.fail_writes(1);
    let (place, _) = start_of(&two, &unwritten);
    assert!(place.starts_with("data/carried"), "{place}");
    rig.orgs.lock().expect("no panic").insert(org(3), Lsn::ZERO);
    assert_eq!(start_of(&two, &unwritten).0, wal_path(2).display().to_string());
}

#[test]
fn a_recovery_that_is_given_up_leaves_no_task() {
    let (_, mut rig) = rig();
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 60);
    drop(process);
    let opened = Arc::new(Opened { keys: Arc::clone(&rig.keys), count: AtomicU64::new(0) });
    rig.keys = Arc::<Opened>::clone(&opened);
    let (held, runtime) = (Arc::strong_count(&rig.files), tokio::runtime::Builder::new_current_thread().build());
    runtime.expect("a runtime").block_on(async {
        let others = async || {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        // Given up before the first file is read; and when the second one would be, while the first waits for the host.
        for patience in 0..2 {
            opened.count.store(0, Ordering::Relaxed);
            let orgs = Orgs::new(Arc::new(Budget::new(1 << 30)), 1 << 30);
            let (parts, spawn) = (rig.recovery_parts(), Arc::new(tokio::runtime::Handle::current()));
            {
                let mut recovery = pin!(recover(&rig.settings, parts, spawn, Writers::new(orgs), &StuckHost));
                for _ in 0..patience {
                    assert!(recovery.as_mut().now_or_never().is_none());
                    others().await;
                }
                assert!(recovery.as_mut().now_or_never().is_none());
            }
            assert!(Arc::strong_count(&rig.files) > held, "a task waits");
            others().await;
            assert_eq!(Arc::strong_count(&rig.files), held, "and is gone");
            assert_eq!(opened.count.load(Ordering::Relaxed), patience, "without having read");
        }
    });
}

/// Counts the files whose key is asked for.
#[derive(Debug)]
struct Opened {
    keys: Arc<dyn KeyProvider>,
    count: AtomicU64,
}

impl KeyProvider for Opened {
    fn wrap(&self, key: &SecretKey, aad: &[u8]) -> Result<WrappedKey, KeyError> {
        self.keys.wrap(key, aad)
    }

    fn unwrap(&self, wrapped: &WrappedKey, aad: &[u8]) -> Result<SecretKey, KeyError> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.keys.unwrap(wrapped, aad)
    }
}

/// Never answers.
struct StuckHost;

#[async_trait]
impl RecoveryHost for StuckHost {
    async fn load(&self, _: OrgId) -> Result<(), EngineError> {
        std::future::pending().await
    }

    async fn covered_max(&self) -> Result<Lsn, EngineError> {
        std::future::pending().await
    }

    async fn relieve(&self, _: &mut Writers) -> Result<(), EngineError> {
        std::future::pending().await
    }
}

/// Logs of many organisations, some of them covered in part, on one thread and on several: the same comes of it, which
/// is what was submitted after what is covered, in that order.
#[test]
fn shards_keep_the_order_of_every_organisation() {
    proptest!(ProptestConfig::with_cases(40), |(
        sent in vec((1_u64..12, 1_u64..60), 1..200),
        covered in vec(0_u64..100, 11),
        buffer_bytes_max in prop_oneof![Just(1_u64 << 30), 60_000_u64..400_000],
        recovery_threads in 0_usize..3,
    )| {
        let (_, mut rig) = rig();
        (1..12).for_each(|id| rig.cover(org(id), Lsn::ZERO));
        let mut process = rig.start().expect("starts");
        for (number, &(to, readings)) in (1..).zip(&sent) {
            process.submit(to, frame(number, readings)).expect("room");
            process.run().expect("runs");
        }
        drop(process);
        let all = sent.len() as u64;
        let covered: Vec<u64> = covered.into_iter().map(|lsn| lsn.min(all)).collect();
        for (id, &lsn) in (1..).zip(&covered) {
            rig.cover(org(id), Lsn::new(lsn));
        }
        (rig.buffer_bytes_max, rig.recovery_threads) = (buffer_bytes_max, recovery_threads);
        let process = rig.start().expect("starts");
        // One frame was one record.
        let open = |number: u64, to: u64| number > covered[usize::try_from(to - 1).expect("small")];
        let applied = (1..).zip(&sent).filter(|&(number, &(to, _))| open(number, to));
        let readings: u64 = applied.clone().map(|(_, &(_, readings))| readings).sum();
        prop_assert_eq!((process.report.applied, process.report.readings), (applied.clone().count() as u64, readings));
        prop_assert_eq!(process.report.skipped, all - process.report.applied);
        prop_assert_eq!(process.orgs.applied(), Lsn::new(all));
        for id in 1..12 {
            let mut times = Vec::new();
            for view in process.orgs.get(org(id)).iter().flat_map(|org| Snapshot::take(org).expect("whole").buffers) {
                view.each_key(|_, time| times.push(time.cast_unsigned()));
            }
            let expected: Vec<u64> = applied
                .clone()
                .filter(|&(_, &(to, _))| to == id)
                .flat_map(|(number, &(_, readings))| (0..readings).map(move |index| number * 1_000_000 + index))
                .collect();
            // What was flushed to make room is the beginning.
            prop_assert!(expected.ends_with(&times), "organisation {}: {:?} of {:?}", id, times, expected);
            prop_assert!(times.len() == expected.len() || rig.relieved.load(Ordering::Relaxed) > 0);
        }
    });
}

#[test]
fn recovery_keeps_its_memory() {
    let (_, mut rig) = rig();
    let mut process = rig.start().expect("starts");
    fill(&mut process, 1, 60);
    drop(process);
    // Room for some of the readings only: the host is asked to flush in between.
    rig.buffer_bytes_max = 60_000;
    let process = rig.start().expect("starts");
    assert_eq!(process.report.applied, 60);
    assert!(rig.relieved.load(Ordering::Relaxed) > 1);
    assert!(process.orgs.budget().used() <= 60_000, "{}", process.orgs.budget().used());
}
