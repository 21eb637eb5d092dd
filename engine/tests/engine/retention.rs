//! Retention: what is older than a policy allows goes, recorded before it does, and nothing else.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use engine::{
    DropLog, DropOutcome, DropPlan, DropReport, Engine, EngineError, EngineErrorKind, Fault, OpenDrop, Operation,
};
use futures::TryStreamExt as _;
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use object_store::ObjectStore as _;
use object_store::path::Path;
use storage_format::{ManifestVersion, Millis, ObjectKey, OrgId, SegmentId};

use crate::read::{check_last, check_rows};
use crate::rig::{MAY, Rig};

const DAY: i64 = 86_400_000;

fn org() -> OrgId {
    OrgId::new(0xD0).expect("not zero")
}

/// A log in memory, which can be told to fail.
#[derive(Default)]
struct Log(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    plans: Vec<(DropPlan, Option<DropOutcome>)>,
    refuses: bool,
    forgets_ends: bool,
}

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("not poisoned")
    }

    fn outcomes(&self) -> Vec<Option<DropOutcome>> {
        self.inner().plans.iter().map(|(_, outcome)| *outcome).collect()
    }

    /// The readings segments of every plan that was recorded.
    fn segments(&self) -> Vec<SegmentId> {
        let inner = self.inner();
        let windows = inner.plans.iter().flat_map(|(plan, _)| &plan.windows);
        windows.flat_map(|window| window.segments().map(|entry| entry.id)).collect()
    }
}

fn refused() -> EngineError {
    EngineError::new(EngineErrorKind::Retry, "the log takes nothing", "Try again")
}

#[async_trait]
impl DropLog for Log {
    async fn begin(&self, plan: &DropPlan) -> Result<i64, EngineError> {
        let mut inner = self.inner();
        if inner.refuses {
            return Err(refused());
        }
        inner.plans.push((plan.clone(), None));
        Ok(inner.plans.len() as i64 - 1)
    }

    async fn end(&self, id: i64, outcome: DropOutcome) -> Result<(), EngineError> {
        let mut inner = self.inner();
        if inner.forgets_ends {
            return Err(refused());
        }
        inner.plans[usize::try_from(id).expect("an index")].1 = Some(outcome);
        Ok(())
    }

    async fn open(&self, org: OrgId) -> Result<Vec<OpenDrop>, EngineError> {
        let inner = self.inner();
        let open = inner.plans.iter().enumerate().filter(|(_, (plan, ended))| plan.org == org && ended.is_none());
        let windows = |plan: &DropPlan| plan.windows.iter().map(|gone| (gone.window, gone.flush_last)).collect();
        Ok(open
            .map(|(id, (plan, _))| OpenDrop { id: id as i64, version: plan.version, windows: windows(plan) })
            .collect())
    }
}

/// Twenty readings a day and logger for three days, so many months before the rig's time.
fn months_ago(months: u32) -> Sent {
    let start = millis(MAY).months_before(months).get() + 5 * DAY;
    let readings = (0..120).map(|i| Reading::new(1 + i % 2, start + i.cast_signed() / 2 * 4_320_000, &[(1, i as f64)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

fn two_years_ago() -> Millis {
    millis(MAY).months_before(24)
}

/// What must be left of the model: readings from the window on that the cutoff is in.
fn left(model: &FirstWins) -> FirstWins {
    let mut left = model.clone();
    left.rows.retain(|(_, time), _| *time >= two_years_ago());
    left
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config.garbage_delay = Duration::from_millis(80);
    rig
}

/// An engine with readings of three years, each month flushed by itself.
async fn filled(rig: &Rig) -> (std::sync::Arc<Engine>, Sender, FirstWins) {
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for months in [36, 30, 25, 24, 23, 1] {
        sender.send(&engine, &mut model, months_ago(months)).await;
        engine.flush(None).await.expect("a flush");
    }
    (engine, sender, model)
}

async fn dropped(engine: &Engine, log: &Log) -> Result<DropReport, EngineError> {
    engine.drop_older(org(), two_years_ago(), log).await
}

/// Ids of the segments that end by the cutoff.
async fn old(engine: &Engine) -> Vec<SegmentId> {
    let manifest = engine.snapshot(org()).await.expect("a snapshot").manifest;
    let old = manifest.segments().iter().filter(|entry| entry.window.range().end() <= two_years_ago());
    old.map(|entry| entry.id).collect()
}

async fn stored(rig: &Rig) -> usize {
    let prefix = Path::from(ObjectKey::segments_prefix(org()));
    rig.store.list(Some(&prefix)).try_collect::<Vec<_>>().await.expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_windows_go_and_nothing_else() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let (log, old) = (Log::default(), old(&engine).await);
    assert_eq!(old.len(), 3);
    let before = engine.snapshot(org()).await.expect("a snapshot");
    let report = dropped(&engine, &log).await.expect("dropped");
    assert_eq!(report.plans.iter().map(DropPlan::readings).sum::<u64>(), 360);
    assert!(report.failed.is_empty());
    assert_eq!((log.segments(), log.outcomes()), (old, vec![Some(DropOutcome::Dropped)]));
    let left = left(&model);
    assert_eq!(left.rows.len(), 360);
    check_rows(&engine, org(), &left).await;
    check_last(&engine, org(), &left).await;
    let totals = engine.snapshot(org()).await.expect("a snapshot").manifest.totals();
    assert_eq!((totals.readings, totals.dropped), (720, 360));
    // Whoever has the older manifest still reads what it names.
    assert_eq!(kit::rig::rows(&engine, &before).await.expect("it reads"), model.rows);
    rig.clock.turn(Duration::from_secs(3600));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(kit::rig::rows(&engine, &before).await.expect("it reads still"), model.rows);
    drop(before);
    let gone = tokio::time::timeout(Duration::from_secs(60), async {
        while stored(&rig).await > 3 {
            rig.clock.turn(Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    gone.await.expect("the objects are collected");
    check_rows(&engine, org(), &left).await;
    check_last(&engine, org(), &left).await;
    // A second run finds nothing.
    assert!(dropped(&engine, &log).await.expect("dropped").plans.is_empty());
    engine.close().await.expect("closed");
    let after = rig.open().await;
    check_rows(&after, org(), &left).await;
    check_last(&after, org(), &left).await;
    after.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_years_are_the_least_whoever_asks() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let report = engine.drop_older(org(), millis(MAY), &Log::default()).await.expect("dropped");
    assert_eq!(report.plans.iter().map(DropPlan::readings).sum::<u64>(), 360);
    check_rows(&engine, org(), &left(&model)).await;
    check_last(&engine, org(), &left(&model)).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_that_is_not_recorded() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    log.inner().refuses = true;
    dropped(&engine, &log).await.expect_err("it is not recorded");
    check_rows(&engine, org(), &model).await;
    check_last(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_did_not_happen_is_settled_by_the_next() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    dropped(&engine, &log).await.expect_err("the store refused the commit");
    rig.store.clear();
    check_rows(&engine, org(), &model).await;
    check_last(&engine, org(), &model).await;
    assert_eq!(log.outcomes(), [None]);
    // The policy was taken back meanwhile: nothing goes, and the log learns what became of the first.
    engine.drop_older(org(), Millis::MIN, &log).await.expect("settled");
    assert_eq!(log.outcomes(), [Some(DropOutcome::Void)]);
    check_rows(&engine, org(), &model).await;
    check_last(&engine, org(), &model).await;
    dropped(&engine, &log).await.expect("dropped");
    assert_eq!(log.outcomes(), [Some(DropOutcome::Void), Some(DropOutcome::Dropped)]);
    check_rows(&engine, org(), &left(&model)).await;
    check_last(&engine, org(), &left(&model)).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_did_not_happen_is_not_taken_for_the_next_one() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    for _ in 0..3 {
        rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    }
    dropped(&engine, &log).await.expect_err("the store refused the commit");
    rig.store.clear();
    dropped(&engine, &log).await.expect("dropped");
    dropped(&engine, &log).await.expect("nothing is left");
    assert_eq!(log.outcomes(), [Some(DropOutcome::Void), Some(DropOutcome::Dropped)]);
    check_rows(&engine, org(), &left(&model)).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_whose_end_was_not_recorded_is_settled_after_a_start() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    log.inner().forgets_ends = true;
    dropped(&engine, &log).await.expect_err("its end is not recorded");
    check_rows(&engine, org(), &left(&model)).await;
    check_last(&engine, org(), &left(&model)).await;
    assert_eq!(log.outcomes(), [None]);
    engine.close().await.expect("closed");
    log.inner().forgets_ends = false;
    let after = rig.open().await;
    assert!(dropped(&after, &log).await.expect("settled").plans.is_empty());
    assert_eq!(log.outcomes(), [Some(DropOutcome::Dropped)]);
    after.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_response_is_lost_is_known_again() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    rig.store.fail_next(Operation::Put, "manifest/", Fault::Applied, 0);
    dropped(&engine, &log).await.expect("dropped");
    assert_eq!(log.outcomes(), [Some(DropOutcome::Dropped)]);
    check_rows(&engine, org(), &left(&model)).await;
    check_last(&engine, org(), &left(&model)).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_readings_of_a_dropped_window_are_stored_and_go_with_the_next_run() {
    let rig = rig();
    let (engine, mut sender, model) = filled(&rig).await;
    let log = Log::default();
    dropped(&engine, &log).await.expect("dropped");
    let mut model = left(&model);
    // The same readings again, and others: first-wins cannot look at what is gone.
    sender.send(&engine, &mut model, months_ago(30)).await;
    check_rows(&engine, org(), &model).await;
    check_last(&engine, org(), &model).await;
    assert!(dropped(&engine, &log).await.expect("dropped").plans.is_empty(), "what is in a buffer stays");
    engine.flush(None).await.expect("a flush");
    check_rows(&engine, org(), &model).await;
    check_last(&engine, org(), &model).await;
    dropped(&engine, &log).await.expect("dropped");
    check_rows(&engine, org(), &left(&model)).await;
    check_last(&engine, org(), &left(&model)).await;
    assert_eq!(engine.snapshot(org()).await.expect("a snapshot").manifest.totals().dropped, 480);
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_are_counted_once_also_where_their_channels_came_apart() {
    let rig = rig();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for channel in 1..=3_u16 {
        let mut sent = months_ago(30);
        sent.readings.truncate(100 + usize::from(channel));
        for reading in &mut sent.readings {
            reading.samples = vec![(kit::channel(channel), 1.0)];
        }
        sender.send(&engine, &mut model, sent).await;
        engine.flush(None).await.expect("a flush");
    }
    assert_eq!(model.rows.len(), 103);
    dropped(&engine, &Log::default()).await.expect("dropped");
    let manifest = engine.snapshot(org()).await.expect("a snapshot").manifest;
    assert_eq!(manifest.objects().count(), 0);
    assert_eq!((manifest.totals().readings, manifest.totals().dropped), (103, 103));
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ahead_drops_nothing_and_settles_what_is_open() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    log.inner().forgets_ends = true;
    dropped(&engine, &log).await.expect_err("its end is not recorded");
    log.inner().forgets_ends = false;
    rig.clock.jump(Duration::from_secs(10 * 366 * 86_400));
    let error = engine.drop_older(org(), millis(MAY + 3650 * DAY), &log).await.expect_err("nobody knows what is old");
    assert_eq!(error.kind(), EngineErrorKind::Retry);
    assert_eq!(log.outcomes(), [Some(DropOutcome::Dropped)]);
    check_rows(&engine, org(), &left(&model)).await;
    // Time that passes is no jump.
    rig.clock.jump_back(Duration::from_secs(10 * 366 * 86_400));
    rig.clock.turn(Duration::from_secs(10 * 366 * 86_400));
    let report = engine.drop_older(org(), millis(MAY + 3650 * DAY), &log).await.expect("dropped");
    assert_eq!(report.plans.len(), 1);
    check_rows(&engine, org(), &FirstWins::default()).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_of_a_version_that_the_store_never_had_is_settled() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    let log = Log::default();
    // The store was put back to an older state than the record.
    let version = engine.snapshot(org()).await.expect("a snapshot").manifest.version();
    let windows = DropPlan::of(org(), &engine.snapshot(org()).await.expect("a snapshot").manifest, two_years_ago());
    let ahead = DropPlan { version: ManifestVersion::new(version.get() + 1000), ..windows };
    log.begin(&ahead).await.expect("recorded");
    dropped(&engine, &log).await.expect("settled, and dropped");
    assert_eq!(log.outcomes(), [Some(DropOutcome::Void), Some(DropOutcome::Dropped)]);
    check_rows(&engine, org(), &left(&model)).await;
    engine.close().await.expect("closed");
}

/// The objects of a drop of which nobody knows that it was made are orphans.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_of_a_drop_whose_response_was_lost_go() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    // What suspects the organisation since the start is looked at first.
    wait_until_looked_at(&rig).await;
    let log = Log::default();
    rig.store.fail_next(Operation::Put, "manifest/", Fault::Applied, 0);
    for operation in [Operation::Get, Operation::Get, Operation::Get, Operation::List] {
        rig.store.fail_next(operation, "manifest", Fault::Before, 0);
    }
    dropped(&engine, &log).await.expect_err("nobody knows what became of it");
    rig.store.clear();
    dropped(&engine, &log).await.expect_err("it finds the version taken");
    dropped(&engine, &log).await.expect("settled");
    check_rows(&engine, org(), &left(&model)).await;
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while stored(&rig).await > 3 {
            rig.clock.turn(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    patience.await.expect("they go");
    engine.close().await.expect("closed");
}

/// Waits until the collection has listed the organisation's objects.
async fn wait_until_looked_at(rig: &Rig) {
    rig.store.take_log();
    let prefix = ObjectKey::org_prefix(org());
    let is_look = |(operation, name): &(Operation, String)| *operation == Operation::List && *name == prefix;
    while !rig.store.take_log().iter().any(is_look) {
        rig.clock.turn(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
