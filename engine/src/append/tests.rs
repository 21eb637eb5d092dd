//! Tests of the appender: what is answered when, and what happens when the disk does not do its part.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use durable::{FaultyFiles, Loss, RealFiles};
use futures::FutureExt as _;
use storage_format::Millis;
use tokio::sync::oneshot;

use super::support::{Answer, Process, Rig, Sink, frame, org};
use super::*;
use crate::error::{EngineError, EngineErrorKind};
use crate::health::Condition;
use crate::org::WriterCommand;

fn rig() -> (FaultyFiles, Rig) {
    let files = FaultyFiles::new();
    (files.clone(), Rig::new(Arc::new(files), Path::new("data")))
}

#[test]
fn durable_then_visible_then_acknowledged() {
    let (files, rig) = rig();
    let mut process = rig.start().expect("starts");
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Idle);
    for number in 1..=5 {
        process.submit(1, frame(number, 2)).expect("room");
    }
    let other = Arc::<Sink>::default();
    let acks = Arc::<Sink>::clone(&other);
    process.queue.try_submit(Submission { acks, ..process.submission(2, frame(6, 1)) }).expect("room");
    process.submit(3, frame(7, 1)).expect("room");
    assert!(process.sink.take().is_empty() && process.frames(1).is_empty(), "nothing before its step");
    let before = files.operations();
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Appended { frames: 6 });
    // One acknowledgement for five frames of one sink; the organisation that is not there is told at once.
    assert_eq!(process.sink.take(), [Answer::Failed(7, SubmitFailure::UnknownOrg), Answer::Durable(5)]);
    assert_eq!(other.take(), [Answer::Durable(6)]);
    assert_eq!((process.frames(1), process.frames(2)), ((1..=5).collect(), [6].into()));
    assert_eq!(process.queue.bytes(), 0, "the room is given back");
    // The first group made a file; the second is one write and one sync.
    assert!(files.operations() > before + 2);
    let before = files.operations();
    process.submit(1, frame(8, 2)).expect("room");
    assert_eq!(process.run().expect("runs"), [Answer::Durable(8)]);
    assert_eq!(files.operations(), before + 2);

    files.restart(Loss::Unsynced);
    let again = rig.start().expect("starts");
    assert_eq!((again.frames(1), again.frames(2)), ([1, 2, 3, 4, 5, 8].into(), [6].into()));
    assert_eq!((again.report.applied, again.report.readings, again.report.clean), (7, 13, false));
}

#[test]
fn after_a_refusal_that_passes_nothing_of_the_same_sink_is_durable() {
    let (_, rig) = rig();
    let mut process = rig.start().expect("starts");
    let refused = |number| Answer::Failed(number, SubmitFailure::OrgInTrouble);
    let error = EngineError::new(EngineErrorKind::Corrupt, "a segment is damaged", "");
    process.orgs.troubles().begin(org(1), &error, true, Millis::EPOCH);
    process.submit(1, frame(1, 2)).expect("room");
    assert_eq!(process.run().expect("runs"), [refused(1)]);
    process.orgs.troubles().end(org(1));
    // It was under way when the first was refused: the number of a durable frame says that those before it are, too.
    process.submit(1, frame(2, 2)).expect("room");
    assert_eq!(process.run().expect("runs"), [refused(2)]);
    let again = Arc::<Sink>::default();
    let acks = Arc::<Sink>::clone(&again);
    process.queue.try_submit(Submission { acks, ..process.submission(1, frame(1, 2)) }).expect("room");
    process.run().expect("runs");
    assert_eq!((again.take(), process.frames(1)), (vec![Answer::Durable(1)], [1].into()));
}

#[test]
fn groups_keep_their_limits() {
    let (_, mut rig) = rig();
    rig.frames_max = 3;
    let mut process = rig.start().expect("starts");
    for number in 1..=7 {
        process.submit(1, frame(number, 1)).expect("room");
    }
    let mut groups = Vec::new();
    while let AppendProgress::Appended { frames } = process.step.run_once().expect("steps") {
        groups.push(frames);
    }
    assert_eq!(groups, [3, 3, 1]);
    assert_eq!(process.sink.take(), [Answer::Durable(3), Answer::Durable(6), Answer::Durable(7)]);
    // Blocks are at most 4 KiB, files 16 KiB; a frame that is larger than both gets a file of its own.
    for (number, readings) in [(8, 300), (9, 300), (10, 4000), (11, 1)] {
        process.submit(1, frame(number, readings)).expect("room");
    }
    assert_eq!(process.run().expect("runs"), [8, 9, 10, 11].map(Answer::Durable));
    drop(process);
    assert_eq!(rig.start().expect("starts").frames(1), (1..=11).collect());
}

#[test]
fn each_stream_is_answered_once_a_group() {
    let (_, rig) = rig();
    let mut process = rig.start().expect("starts");
    let streams: [Arc<Sink>; 3] = std::array::from_fn(|_| Arc::default());
    for number in 1..=5 {
        for (stream, sink) in (1..).zip(&streams) {
            let acks = Arc::<Sink>::clone(sink);
            let gateway = storage_format::GatewayId::new(stream).expect("not zero");
            // Two streams of one organisation, and one of another.
            let submission = Submission { gateway, acks, ..process.submission(1 + stream % 2, frame(number, 1)) };
            process.queue.try_submit(submission).expect("room");
        }
    }
    process.run().expect("runs");
    for sink in streams {
        assert_eq!(sink.take(), [Answer::Durable(5)]);
    }
}

#[test]
fn the_next_group_is_filled_before_one_is_answered() {
    let (files, mut rig) = rig();
    rig.frames_max = 2;
    let mut process = rig.start().expect("starts");
    for number in 1..=5 {
        process.submit(1, frame(number, 1)).expect("room");
    }
    let room = process.queue.bytes() / 5;
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Appended { frames: 2 });
    assert_eq!(process.sink.take(), [Answer::Durable(2)]);
    assert_eq!(process.frames(1), [1, 2].into());
    assert_eq!(process.queue.bytes(), 3 * room, "only what is answered gave its room back");
    // What is on its way when the process ends is lost or durable, and was not acknowledged.
    let killed = files.fork();
    killed.restart(Loss::Unsynced);
    assert_eq!(rig.with_files(Arc::new(killed)).start().expect("starts").frames(1), [1, 2].into());
    // A close waits for it.
    process.queue.close();
    assert_eq!(process.run().expect("runs"), [Answer::Durable(4), Answer::Durable(5)]);
    drop(process);
    assert!(rig.start().expect("starts").report.clean);

    // With little in the queue, a group is not filled ahead: the frames wait for the next, which will hold more.
    rig.overlap_bytes_min = 1 << 20;
    let mut process = rig.start().expect("starts");
    for number in 6..=8 {
        process.submit(1, frame(number, 1)).expect("room");
    }
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Appended { frames: 2 });
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Appended { frames: 1 });
}

#[test]
fn a_group_of_refused_frames_keeps_no_room() {
    let (_, mut rig) = rig();
    rig.frames_max = 1;
    let mut process = rig.start().expect("starts");
    // Filled ahead while the first frame is on its way: nothing of it is left to send.
    process.submit(1, frame(1, 1)).expect("room");
    process.submit(3, frame(2, 1)).expect("room");
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Appended { frames: 1 });
    assert_eq!(process.sink.take(), [Answer::Failed(2, SubmitFailure::UnknownOrg), Answer::Durable(1)]);
    assert_eq!(process.queue.bytes(), 0, "the room is given back");
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Idle);
}

#[test]
fn after_a_failed_sync_beside_the_appender_everything_is_answered_once() {
    // Ten groups, each with one sync.
    for failing in 0..10 {
        let (files, mut rig) = rig();
        rig.frames_max = 3;
        let mut process = rig.start().expect("starts");
        // Makes the file.
        process.submit(1, frame(1, 1)).expect("room");
        assert_eq!(process.run().expect("runs"), [Answer::Durable(1)]);
        for number in 2..=30 {
            process.submit(1, frame(number, 1)).expect("room");
        }
        files.fail_sync_after(failing);
        let Process { queue, sink, step, .. } = process;
        let (ended, end) = crossbeam_channel::bounded(1);
        let appender = spawn_appender(step, move |result| ended.send(result).expect("listens")).expect("a thread");
        queue.close();
        let failed = end.recv().expect("ends").is_err();
        appender.join().expect("no panic");
        let mut durable = 1;
        let mut refused = Vec::new();
        for answer in sink.take() {
            match answer {
                Answer::Durable(up_to) => durable = up_to,
                Answer::Failed(number, failure) => {
                    assert_eq!(failure, SubmitFailure::Stopped);
                    refused.push(number);
                }
            }
        }
        assert_eq!(refused, (durable + 1..=30).collect::<Vec<_>>(), "sync {failing}");
        assert!(failed && durable < 30, "sync {failing}");
        files.restart(Loss::Unsynced);
        let found = rig.start().expect("starts").frames(1);
        assert!(found.is_superset(&(1..=durable).collect()), "sync {failing}: {durable} {found:?}");
    }
}

#[test]
fn the_queue_is_bounded_and_room_comes_back() {
    let (_, rig) = rig();
    let mut process = rig.start().expect("starts");
    let mut number = 0;
    let full = loop {
        number += 1;
        match process.submit(1, frame(number, 100)) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(number > 50, "{number}");
    let SubmitError::Full(handed_back) = full else { panic!("{full:?}") };
    assert_eq!(handed_back.frame.sequence().get(), number);
    let bytes = handed_back.frame.memory_bytes();
    assert!(process.queue.reserve(bytes).now_or_never().is_none());
    assert!(process.queue.bytes() <= 1 << 20 && process.queue.frames() > 0);
    process.run().expect("runs");
    assert!(process.queue.reserve(bytes).now_or_never().is_some());
    process.queue.try_submit(*handed_back).expect("room");
    // Whatever its size, one frame always fits an empty queue.
    process.run().expect("runs");
    assert!(process.queue.reserve(usize::MAX).now_or_never().is_some());
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    for fail in [FaultyFiles::fail_syncs as fn(&FaultyFiles, u32), FaultyFiles::fail_writes] {
        let (files, rig) = rig();
        let mut process = rig.start().expect("starts");
        process.submit(1, frame(1, 1)).expect("room");
        assert_eq!(process.run().expect("runs"), [Answer::Durable(1)]);
        fail(&files, 1);
        process.submit(1, frame(2, 1)).expect("room");
        let (done, answer) = oneshot::channel();
        let error = process.run().expect_err("stops");
        assert_eq!(error.kind(), EngineErrorKind::Failed);
        assert!(error.place().is_some_and(|place| place.contains(".wal at byte ")), "{error}");
        process.queue.command(WriterCommand::Freeze { org: org(1), done });
        assert!(answer.now_or_never().expect("answered").is_err(), "nobody runs commands any more");
        assert_eq!(process.sink.take(), [Answer::Failed(2, SubmitFailure::Stopped)]);
        assert!(process.frames(1).contains(&1) && !process.frames(1).contains(&2), "not visible");
        assert!(matches!(process.submit(1, frame(3, 1)), Err(SubmitError::Unavailable)));
        assert_eq!(process.step.run_once().expect_err("for good").kind(), EngineErrorKind::Failed);
        assert!(process.queue.reserve(1).now_or_never().is_some(), "nobody waits for ever");

        // The disk works again after a restart; what the failed sync forgot may be there or not, and stays so.
        drop(process);
        files.restart(Loss::Process);
        let mut again = rig.start().expect("starts");
        let found = again.frames(1);
        assert!(found.contains(&1));
        again.submit(1, frame(4, 1)).expect("room");
        assert_eq!(again.run().expect("runs"), [Answer::Durable(4)]);
        drop(again);
        files.restart(Loss::Unsynced);
        let last = rig.start().expect("a power cut after the restart leaves no hole").frames(1);
        assert_eq!(last, found.into_iter().chain([4]).collect());
    }
}

#[test]
fn a_full_disk_closes_the_way_in_until_there_is_space() {
    let (files, rig) = rig();
    let mut process = rig.start().expect("starts");
    files.set_space(Some(20 << 10));
    let mut number = 0;
    // The first file fits, the second does not.
    let acknowledged = loop {
        number += 1;
        process.submit(1, frame(number, 100)).expect("room");
        if process.run().expect("a full disk is no failure").is_empty() {
            break number - 1;
        }
        assert!(number < 100);
    };
    assert!(acknowledged > 5);
    for _ in 0..20 {
        rig.clock.advance(Duration::from_secs(1));
        let AppendProgress::Waiting(pause) = process.step.run_once().expect("no failure") else { panic!("waits") };
        assert!(pause > Duration::ZERO && pause <= Duration::from_secs(2));
    }
    assert!(process.sink.take().is_empty(), "nothing is acknowledged meanwhile");
    let trouble = process.health.get(Condition::WalWithoutFile).expect("it is told");
    assert!(trouble.advice.contains("Free space") && !process.health.holds(Condition::WalFull), "{trouble}");
    // The queue fills: back-pressure, not loss. And no remains of files pile up.
    let full = loop {
        number += 1;
        if let Err(error) = process.submit(1, frame(number, 100)) {
            break error;
        }
    };
    assert!(matches!(full, SubmitError::Full(_)));
    assert_eq!(rig.files.list(&rig.settings.dir).expect("lists").len(), 1);

    files.set_space(None);
    assert!(matches!(process.step.run_once().expect("no failure"), AppendProgress::Waiting(_)), "not before its time");
    rig.clock.advance(Duration::from_secs(3));
    let answers = process.run().expect("goes on");
    assert!(!process.health.holds(Condition::WalWithoutFile), "it is over");
    assert_eq!(answers.last(), Some(&Answer::Durable(number - 1)));
    drop(process);
    files.restart(Loss::Unsynced);
    assert_eq!(rig.start().expect("starts").frames(1), (1..number).collect());
}

#[test]
fn a_long_wal_closes_the_way_in_until_a_flush() {
    let (files, mut rig) = rig();
    rig.settings.bytes_max = 64 << 10;
    let mut process = rig.start().expect("starts");
    let mut number = 0;
    while process.step.run_once().expect("no failure") != AppendProgress::Waiting(Duration::from_millis(50)) {
        number += 1;
        process.submit(1, frame(number, 100)).expect("room");
        assert!(number < 1000);
    }
    assert_eq!((process.wal.bytes(), process.wal.file_count()), (64 << 10, 4));
    assert!(process.health.holds(Condition::WalFull) && !process.health.holds(Condition::WalWithoutFile));
    assert!(process.orgs.flush_wanted().notified().now_or_never().is_some(), "the flush is asked for help");
    let cut = process.wal.cut().expect("something should go");
    assert!(cut > storage_format::Lsn::new(1) && cut <= process.orgs.applied());

    let covered = process.orgs.applied();
    rig.cover(org(1), covered);
    assert_eq!(process.wal.trim(cut).expect("trims"), 2);
    assert_eq!(process.wal.cut(), None);
    let waited = process.sink.take();
    assert_eq!(process.run().expect("goes on"), [Answer::Durable(number)]);
    assert!(!process.health.holds(Condition::WalFull), "it is over");
    assert!(!waited.is_empty());
    drop(process);
    files.restart(Loss::Unsynced);
    let again = rig.start().expect("starts");
    assert_eq!(again.frames(1), (covered.get() + 1..=number).collect(), "what is flushed is not applied again");
}

#[test]
fn a_clean_close_drains_and_says_so() {
    let (files, rig) = rig();
    let mut process = rig.start().expect("starts");
    process.submit(1, frame(1, 1)).expect("room");
    process.queue.close();
    assert!(matches!(process.submit(1, frame(2, 1)), Err(SubmitError::Closed)));
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Appended { frames: 1 });
    assert_eq!(process.step.run_once().expect("steps"), AppendProgress::Closed);
    assert_eq!(process.sink.take(), [Answer::Durable(1)]);
    drop(process);
    files.restart(Loss::Unsynced);
    // Again and again: a start without a frame makes no file.
    for _ in 0..3 {
        let mut again = rig.start().expect("starts");
        assert!(again.report.clean);
        assert_eq!((again.report.files, again.frames(1)), (1, [1].into()));
        again.queue.close();
        assert_eq!(again.step.run_once().expect("steps"), AppendProgress::Closed);
    }
    let mut again = rig.start().expect("starts");
    again.submit(1, frame(2, 1)).expect("room");
    assert_eq!(again.run().expect("runs"), [Answer::Durable(2)]);
    drop(again);
    let last = rig.start().expect("starts");
    assert_eq!((last.frames(1), last.report.clean), ([1, 2].into(), false));
}

#[test]
fn commands_run_between_groups() {
    let (_, rig) = rig();
    let mut process = rig.start().expect("starts");
    process.submit(1, frame(1, 1)).expect("room");
    process.run().expect("runs");
    let (done, answer) = oneshot::channel();
    process.queue.command(WriterCommand::Freeze { org: org(1), done });
    process.run().expect("runs");
    assert_eq!(answer.now_or_never(), Some(Ok(true)));
    assert_eq!(process.orgs.get(org(1)).expect("loaded").state().frozen.len(), 1);
}

#[test]
fn threads_and_real_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rig = Rig::new(Arc::new(RealFiles), dir.path());
    rig.settings.file_bytes = 64 << 10;
    let process = rig.start().expect("starts");
    let (queue, orgs, sink) = (Arc::clone(&process.queue), Arc::clone(&process.orgs), Arc::clone(&process.sink));
    let (ended, end) = crossbeam_channel::bounded(1);
    let (preparer, stop) = spawn_wal_preparer(process.prepare, &process.wal).expect("a thread");
    let appender = spawn_appender(process.step, move |result| ended.send(result).expect("listens")).expect("a thread");
    let submit = |to: u64, number: u64| {
        let acks = Arc::<Sink>::clone(&sink);
        let frame = frame(number, 20);
        let received = storage_format::Millis::EPOCH;
        Submission { org: org(to), gateway: super::support::gateway(), received, frame, acks }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    std::thread::scope(|scope| {
        for to in 1..=2 {
            let (queue, submit, runtime) = (&queue, &submit, &runtime);
            scope.spawn(move || {
                for number in 1..=300 {
                    let mut next = Some(Box::new(submit(to, number)));
                    while let Some(submission) = next.take() {
                        match queue.try_submit(*submission) {
                            Ok(()) => {}
                            Err(SubmitError::Full(back)) => {
                                runtime.handle().block_on(queue.reserve(back.frame.memory_bytes()));
                                next = Some(back);
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                }
            });
        }
    });
    queue.close();
    end.recv().expect("ends").expect("cleanly");
    appender.join().expect("no panic");
    drop(stop);
    preparer.join().expect("no panic");
    assert!(sink.take().iter().all(|answer| matches!(answer, Answer::Durable(_))));
    assert_eq!(orgs.applied().get(), 600);

    let again = rig.start().expect("starts");
    assert_eq!((again.frames(1), again.frames(2)), ((1..=300).collect(), (1..=300).collect()));
    assert!(again.report.clean && again.report.files > 2, "{:?}", again.report);
    assert!(matches!(queue.try_submit(submit(1, 301)), Err(SubmitError::Closed | SubmitError::Unavailable)));
}
