//! One organisation's flood does not starve another's trickle: in the line for the queue, in the queue, and for memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use engine::{AckSink, Appended, Engine, Stepped, Submission, SubmitError, SubmitFailure};
use kit::{Reading, Sent, gateway, millis, spool};
use storage_format::{Frame, FrameSequence, OrgId};

use crate::rig::{MAY, Rig};

const FLOOD: u64 = 1;
const TRICKLE: u64 = 2;

fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

/// Keeps who was answered, in order.
#[derive(Debug, Default)]
struct Answers(Mutex<Vec<u64>>);

/// One organisation's answers.
struct To(u64, Arc<Answers>);

impl AckSink for To {
    fn durable(&self, _: FrameSequence) {
        self.1.0.lock().expect("no panic").push(self.0);
    }

    fn failed(&self, _: FrameSequence, failure: SubmitFailure) {
        assert_eq!(failure, SubmitFailure::Stopped, "only what is left at the end");
    }

    fn has_failed(&self) -> bool {
        false
    }
}

fn submission(to: u64, sequence: u64, readings: i64, answers: &Arc<Answers>) -> Submission {
    let reading = |i: i64| Reading::new(1, MAY + sequence.cast_signed() * 10_000_000 + i, &[(1, (i as f64).sqrt())]);
    let mut sent = Sent { gateway: gateway(to), received: millis(MAY), readings: (0..readings).map(reading).collect() };
    let frame = Frame::decode(sent.encode(spool(to), sequence)).expect("a frame");
    let acks = Arc::new(To(to, Arc::clone(answers)));
    Submission { org: org(to), gateway: sent.gateway, received: sent.received, frame, acks }
}

async fn open(rig: &Rig) -> Stepped {
    rig.create_org(org(FLOOD)).await;
    rig.create_org(org(TRICKLE)).await;
    let spawn = Arc::new(tokio::runtime::Handle::current());
    let stepped = Stepped::open(rig.config.clone(), rig.parts(), spawn).await.expect("it opens");
    for id in [FLOOD, TRICKLE] {
        stepped.engine().load(org(id)).await.expect("it is there");
    }
    stepped
}

/// Submits until there is no room; answers how many were taken.
fn fill(engine: &Engine, to: u64, readings: i64, answers: &Arc<Answers>) -> u64 {
    (1..).find(|&sequence| engine.try_submit(submission(to, sequence, readings, answers)).is_err()).expect("a limit")
        - 1
}

#[tokio::test]
async fn organisations_take_turns_in_the_line_for_room() {
    let mut rig = Rig::new();
    rig.config.queue_bytes_max = 64 << 10;
    rig.config.group_frames_max = 1;
    let mut stepped = open(&rig).await;
    let answers = Arc::new(Answers::default());
    let taken = fill(stepped.engine(), FLOOD, 1, &answers);
    let admitted = Arc::new(Mutex::new(Vec::new()));
    // Thirty streams of the flood wait, and then the other's one.
    for (to, count) in [(FLOOD, 30), (TRICKLE, 1)] {
        for number in 1..=count {
            let (engine, admitted) = (Arc::clone(stepped.engine()), Arc::clone(&admitted));
            let submission = submission(to, taken + number, 1, &answers);
            tokio::spawn(async move {
                engine.submit(submission).await.expect("open");
                admitted.lock().expect("no panic").push(to);
            });
            tokio::task::yield_now().await;
        }
    }
    assert!(admitted.lock().expect("no panic").is_empty(), "all wait");
    while stepped.append().expect("it goes on") != Appended::Idle {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    let admitted = admitted.lock().expect("no panic").clone();
    assert_eq!(admitted.len(), 31);
    let place = admitted.iter().position(|&to| to == TRICKLE).expect("it was admitted");
    assert!(place <= 1, "after one of the flood's at most: {admitted:?}");
}

#[tokio::test]
async fn organisations_take_turns_in_the_queue() {
    let mut rig = Rig::new();
    rig.config.group_frames_max = 4;
    let mut stepped = open(&rig).await;
    let answers = Arc::new(Answers::default());
    for sequence in 1..=100 {
        stepped.engine().try_submit(submission(FLOOD, sequence, 1, &answers)).expect("room");
    }
    stepped.engine().try_submit(submission(TRICKLE, 1, 1, &answers)).expect("room");
    assert_eq!(stepped.append().expect("it goes on"), Appended::Frames(4));
    assert!(answers.0.lock().expect("no panic").contains(&TRICKLE), "it is in the first group");
}

#[tokio::test]
async fn the_last_of_the_memory_is_for_those_who_hold_little() {
    let mut rig = Rig::new();
    rig.config.buffer_bytes_max = 32 << 20;
    rig.config.flush_bytes = 1 << 30;
    rig.config.wal_bytes_max = 1 << 30;
    let mut stepped = open(&rig).await;
    let engine = Arc::clone(stepped.engine());
    let answers = Arc::new(Answers::default());
    // Nobody flushes.
    let mut held = BTreeMap::new();
    for (to, readings) in [(FLOOD, 10_000), (TRICKLE, 10)] {
        for sequence in 1..=200 {
            match engine.try_submit(submission(to, sequence, readings, &answers)) {
                Ok(()) => drop(held.insert(to, sequence)),
                Err(SubmitError::Full(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
            assert_eq!(stepped.append().expect("it goes on"), Appended::Frames(1));
        }
    }
    let used = engine.status().buffer_bytes;
    assert!((28 << 20..32 << 20).contains(&used), "{used}");
    assert!(held[&FLOOD] < 200, "{held:?}");
    assert_eq!(held[&TRICKLE], 200, "the flood's memory is not its own");
}
