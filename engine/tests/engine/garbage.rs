//! Objects that nobody names go; objects that somebody names, or may yet name, stay.

use std::sync::Arc;
use std::time::Duration;

use engine::{CompactScope, Doctor, Engine, EngineErrorKind, Fault, ManifestChange, ManifestStore, Operation, OrgKeys};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use storage_format::manifest::Manifest;
use storage_format::{ManifestVersion, ObjectKey, OrgId};

use crate::read::check_flushed;
use crate::rig::{MAY, Rig};

fn org() -> OrgId {
    OrgId::new(0xC0).expect("not zero")
}

fn some(round: i64) -> Sent {
    let readings = (0..50).map(|i| Reading::new(1, MAY + (round * 40 + i) * 1000, &[(1, i as f64)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config.garbage_delay = Duration::from_millis(80);
    rig
}

/// The store's manifests, as another process sees them.
fn other_process(rig: &Rig) -> ManifestStore {
    let parts = rig.parts();
    let keys = OrgKeys::new(Arc::clone(&parts.store), parts.keys, Arc::clone(&parts.random));
    ManifestStore::new(parts.store, Arc::new(keys), parts.random, parts.clock)
}

/// What a flush leaves behind that came to no end.
async fn leave(rig: &Rig, place: &str) -> Path {
    let prefix = ObjectKey::org_prefix(org());
    let path = Path::from(format!("{prefix}/{place}"));
    rig.store.put(&path, vec![1, 2, 3].into()).await.expect("put");
    path
}

const ORPHAN: &str = "segments/2024050100-2024060100/000102030405060708090a0b0c0d0e0f.parquet";

/// Another process, the manifest that it knows, and an object that it has written and may name in its next commit.
async fn stranded(rig: &Rig) -> (ManifestStore, Manifest, Path) {
    let other = other_process(rig);
    let seen = other.load(org()).await.expect("a manifest");
    let object = leave(rig, ORPHAN).await;
    (other, seen, object)
}

async fn is_there(rig: &Rig, path: &Path) -> bool {
    rig.store.head(path).await.is_ok()
}

/// Lets the engine have a look now: answers once it has listed the organisation's objects and done something about it.
async fn look(rig: &Rig) {
    rig.store.take_log();
    rig.clock.turn(Duration::from_secs(60));
    let mut listed = false;
    while !listed {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // It becomes due in one look and is done in a later one.
        rig.clock.turn(Duration::from_secs(60));
        let all = ObjectKey::org_prefix(org());
        listed = rig.store.take_log().iter().any(|(operation, name)| *operation == Operation::List && *name == all);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Lets the engine look until so many of the organisation's segments are left, however slow the disk is.
async fn look_until_left(rig: &Rig, segments: usize) {
    let prefix = Path::from(ObjectKey::segments_prefix(org()));
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while list(rig, &prefix).await != segments {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_secs(60));
        }
    });
    patience.await.unwrap_or_else(|_| panic!("never {segments} segments"));
}

async fn filled(rig: &Rig) -> (Arc<Engine>, Sender, FirstWins) {
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    sender.send(&engine, &mut model, some(0)).await;
    (engine, sender, model)
}

fn nothing(after: &Manifest) -> ManifestChange {
    ManifestChange { lsn_covered: after.lsn_covered(), flush: after.flush(), ..ManifestChange::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_flush_left_is_removed_and_nothing_else() {
    let rig = rig();
    let (engine, mut sender, mut model) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    sender.send(&engine, &mut model, some(3)).await;
    for _ in 0..3 {
        rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    }
    engine.flush(None).await.expect_err("the store refused the commit");
    rig.store.clear();
    engine.flush(None).await.expect("the second try");
    let stranger = leave(&rig, "segments/notes.txt").await;
    let segments = Path::from(ObjectKey::segments_prefix(org()));
    assert_eq!(list(&rig, &segments).await, 4, "two that count, one that does not, and a stranger's");
    look_until_left(&rig, 3).await;
    assert!(is_there(&rig, &stranger).await, "what is not ours to name stays");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
    // The version that was made for it reads well.
    let after = rig.open().await;
    check_flushed(&after, org(), &model).await;
    after.close().await.expect("closed");
}

async fn list(rig: &Rig, prefix: &Path) -> usize {
    use futures::TryStreamExt as _;
    rig.store.list(Some(prefix)).try_collect::<Vec<_>>().await.expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_have_named_it_cannot_do_so_afterwards() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    // Another process has written an object, and stops for a while before its commit.
    let (other, seen, object) = stranded(&rig).await;
    look_until_left(&rig, 1).await;
    assert!(!is_there(&rig, &object).await);
    other.commit(org(), &seen, nothing(&seen)).await.expect_err("that version is taken");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_manifest_removes_nothing() {
    let rig = rig();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    engine.load(org()).await.expect("loaded");
    // Another process commits; this one does not know, and takes what the commit may have named for an orphan.
    let (other, seen, object) = stranded(&rig).await;
    other.commit(org(), &seen, nothing(&seen)).await.expect("the other's commit");
    look(&rig).await;
    assert!(is_there(&rig, &object).await, "what is known here is old");
    // By now it has been read again, and does not have it.
    look_until_left(&rig, 0).await;
    assert!(!is_there(&rig, &object).await);
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_was_taken_over_ends_instead() {
    let rig = rig();
    let (engine, _, _) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    let (other, seen, object) = stranded(&rig).await;
    other.commit(org(), &seen, nothing(&seen)).await.expect("it takes over");
    look(&rig).await;
    assert!(is_there(&rig, &object).await);
    let mut failed = engine.failed();
    let fatal = failed.wait_for(Option::is_some).await.expect("it fails").clone().expect("an error");
    assert_eq!(fatal.kind(), EngineErrorKind::Fenced);
    let _fenced = engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_is_asked_again() {
    let rig = rig();
    let (engine, _, model) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    let object = leave(&rig, ORPHAN).await;
    rig.store.fail_next(Operation::Delete, "", Fault::Before, 0);
    look(&rig).await;
    assert!(is_there(&rig, &object).await);
    for _ in 0..3 {
        // Applied, and answered with an error: the version is there, and known again.
        rig.store.fail_next(Operation::Put, "manifest/", Fault::Applied, 0);
    }
    look_until_left(&rig, 1).await;
    assert!(!is_there(&rig, &object).await);
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

/// An engine that has merged the segments of many flushes, and removed nothing yet.
async fn merged(rig: &Rig) -> (Arc<Engine>, FirstWins) {
    let (engine, mut sender, mut model) = filled(rig).await;
    for round in 1..40 {
        engine.flush(None).await.expect("a flush");
        sender.send(&engine, &mut model, some(round)).await;
    }
    engine.flush(None).await.expect("a flush");
    look(rig).await;
    rig.clock.turn(Duration::from_secs(40 * 86_400));
    engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    (engine, model)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_removes_nothing_is_left_alone_and_nothing_is_forgotten() {
    let rig = rig();
    let (engine, model) = merged(&rig).await;
    let named = engine.snapshot(org()).await.expect("a snapshot").manifest.segments().len();
    rig.store.take_log();
    for _ in 0..200 {
        rig.store.fail_next(Operation::Delete, "", Fault::Before, 0);
    }
    rig.clock.turn(Duration::from_secs(60));
    // The time stands still, so that what has failed is not due again, however often it is looked.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let is = |wanted: Operation| move |(operation, _): &&(Operation, String)| *operation == wanted;
    let tried = rig.store.take_log().iter().filter(is(Operation::Delete)).count();
    assert_eq!(tried, 1);
    rig.store.clear();
    look_until_left(&rig, named).await;
    let prefix = ObjectKey::org_prefix(org());
    let lists =
        rig.store.take_log().into_iter().filter(|(operation, name)| *operation == Operation::List && *name == prefix);
    assert_eq!(lists.count(), 0, "they are known by name");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

/// An engine with compaction that does not load the organisation by itself, because the log has nothing of it.
async fn unused(rig: &mut Rig) -> Arc<Engine> {
    std::fs::remove_dir_all(rig.root.join("wal")).expect("removed");
    rig.config.compaction = true;
    rig.config.compaction_interval = Duration::from_millis(5);
    let engine = rig.open().await;
    assert_eq!(engine.status().orgs_loaded, 0);
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_has_replaced_goes_although_nobody_uses_the_organisation() {
    let mut rig = rig();
    let (engine, model) = merged(&rig).await;
    engine.close().await.expect("closed");
    let engine = unused(&mut rig).await;
    let named = engine.manifests().load(org()).await.expect("a manifest").segments().len();
    look_until_left(&rig, named).await;
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

/// Waits until the engine has listed this.
async fn until_listed(rig: &Rig, prefix: &str) -> Vec<(Operation, String)> {
    let mut log = Vec::new();
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while !log.iter().any(|(operation, name)| *operation == Operation::List && name == prefix) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            log.extend(rig.store.take_log());
            // The next look may be a day after one that was under way when the time was turned.
            rig.clock.turn(Duration::from_secs(60));
        }
    });
    patience.await.unwrap_or_else(|_| panic!("{prefix} is never listed"));
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organisation_that_nobody_uses_costs_nothing_until_the_month_ends() {
    let mut rig = rig();
    let (engine, _, _) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    engine.close().await.expect("closed");
    let engine = unused(&mut rig).await;
    let prefix = ObjectKey::org_prefix(org());
    until_listed(&rig, &prefix).await;
    for _ in 0..3 {
        rig.clock.turn(Duration::from_secs(86_400));
        let log = until_listed(&rig, ObjectKey::ORGS).await;
        assert!(!log.iter().any(|(_, name)| name.starts_with(&prefix)), "{log:?}");
    }
    rig.clock.turn(Duration::from_secs(31 * 86_400));
    // Its rollups are due.
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while engine.manifests().load(org()).await.expect("a manifest").rollups().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_secs(1));
        }
    });
    patience.await.expect("it is looked at again");
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_before_the_newest_base_go_and_the_log_stays_whole() {
    let rig = rig();
    let (engine, mut sender, mut model) = filled(&rig).await;
    for round in 1..70 {
        engine.flush(None).await.expect("a flush");
        sender.send(&engine, &mut model, some(round)).await;
    }
    engine.flush(None).await.expect("a flush");
    let prefix = Path::from(ObjectKey::manifest_prefix(org()));
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    let oldest = || async {
        use futures::TryStreamExt as _;
        let listed = rig.store.list(Some(&prefix)).try_collect::<Vec<_>>().await.expect("a list");
        listed.into_iter().map(|meta| meta.location).min().expect("a version")
    };
    let base = Path::from(ObjectKey::Manifest { org: org(), version: ManifestVersion::new(65) }.to_string());
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while oldest().await != base {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_secs(5));
            // Whoever loads at any time meanwhile finds no hole.
            other_process(&rig).load(org()).await.expect("whole");
        }
    });
    patience.await.expect("old versions go");
    check_flushed(&engine, org(), &model).await;
    for deep in [false, true] {
        let examined = Doctor::new(&rig.parts(), deep).examine(org(), &|_, _| ()).await;
        assert!(examined.is_well(), "{:?}", examined.findings);
    }
    drop(snapshot);
    engine.close().await.expect("closed");
    let after = rig.open().await;
    check_flushed(&after, org(), &model).await;
    sender.send(&after, &mut model, some(70)).await;
    after.flush(None).await.expect("it goes on");
    check_flushed(&after, org(), &model).await;
    after.close().await.expect("closed");
    rig.store.delete(&base).await.expect("deleted");
    let examined = Doctor::new(&rig.parts(), false).examine(org(), &|_, _| ()).await;
    assert_eq!(examined.findings.iter().map(|found| found.name.clone()).collect::<Vec<_>>(), [base.to_string()]);
    let error = other_process(&rig).load(org()).await.expect_err("a hole");
    assert_eq!(error.to_string(), format!("{base} is missing"));
}
