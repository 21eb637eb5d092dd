//! Trouble stays at home: an organisation whose objects are damaged or missing holds up nobody, is refused, and is there
//! again, whole, when they are restored.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, EngineErrorKind, ManifestChange, ManifestStore, OrgKeys, Submission, SubmitError};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis, spool};
use storage_format::manifest::Totals;
use storage_format::{Frame, OrgId};

use crate::read::{check_flushed, check_rows};
use crate::rig::{MAY, Rig, noisy};

const PATIENCE: Duration = Duration::from_secs(60);

fn damaged() -> OrgId {
    OrgId::new(0xDA).expect("not zero")
}

fn neighbour() -> OrgId {
    OrgId::new(0xBE).expect("not zero")
}

/// Readings that a flush has to compare with those of every other round.
fn late(round: i64) -> Sent {
    let readings = (0..60).map(|i| Reading::new(1, MAY + (i * 7 + round) * 1000, &[(1, (i * round) as f64)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config.group_bytes_max = 2 << 20;
    rig.config.wal_file_bytes = 3 << 20;
    rig.config.wal_bytes_max = 12 << 20;
    rig.config.flush_bytes = 4 << 20;
    rig
}

/// Files of an organisation's objects whose paths have this, to be taken away and put back.
fn files_of(rig: &Rig, org: OrgId, what: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![rig.root.join("store/orgs").join(org.to_string())];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().contains(what) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {what}");
    found
}

fn take_away(paths: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    let taken = paths.iter().map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect();
    for path in paths {
        std::fs::remove_file(path).expect("removed");
    }
    taken
}

fn put_back(taken: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in taken {
        std::fs::write(path, bytes).expect("put back");
    }
}

fn carried(rig: &Rig) -> usize {
    std::fs::read_dir(rig.root.join("carried")).map_or(0, Iterator::count)
}

async fn until(what: &str, rig: &Rig, mut holds: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        rig.clock.turn(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn is_refused(engine: &Engine) -> bool {
    let (mut sent, acks) = (late(99), Arc::<kit::rig::Acks>::default());
    let frame = Frame::decode(sent.encode(spool(77), 1)).expect("decodes");
    let submission = Submission { org: damaged(), gateway: sent.gateway, received: sent.received, frame, acks };
    matches!(engine.submit(submission).await, Err(SubmitError::OrgInTrouble))
}

/// Fills the log several times over.
async fn fill(engine: &Engine, sender: &mut Sender, model: &mut FirstWins, rounds: std::ops::Range<u64>) {
    for round in rounds {
        sender.send(engine, model, noisy(round)).await;
    }
}

struct Fleet {
    sender: Sender,
    model: FirstWins,
    other: Sender,
    others: FirstWins,
}

/// Both have something in segments, and the damaged one something more in the log.
async fn fleet(rig: &Rig) -> (Arc<Engine>, Fleet) {
    rig.create_org(damaged()).await;
    rig.create_org(neighbour()).await;
    let engine = rig.open().await;
    let (sender, other) = (Sender::new(damaged(), 1), Sender::new(neighbour(), 2));
    let mut fleet = Fleet { sender, other, model: FirstWins::default(), others: FirstWins::default() };
    fleet.sender.send(&engine, &mut fleet.model, late(0)).await;
    fill(&engine, &mut fleet.other, &mut fleet.others, 0..1).await;
    engine.flush(None).await.expect("flushed");
    fleet.sender.send(&engine, &mut fleet.model, late(1)).await;
    fleet.sender.send(&engine, &mut fleet.model, late(2)).await;
    (engine, fleet)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_segment_holds_up_nobody_and_is_mended_by_putting_it_back() {
    let rig = rig();
    let (engine, mut fleet) = fleet(&rig).await;
    let taken = take_away(&files_of(&rig, damaged(), "segments"));
    let error = engine.flush(Some(damaged())).await.expect_err("the segment is missing");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    let health = engine.health();
    let [trouble] = &health.orgs_in_trouble[..] else { panic!("{health:?}") };
    let name = taken[0].0.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(trouble.org == damaged() && trouble.readable && trouble.carried.is_empty(), "{trouble:?}");
    assert!(trouble.error.as_ref().expect("an error").to_string().contains(&name), "{trouble:?}");
    assert!(is_refused(&engine).await && !health.is_well() && health.takes_frames());
    // Memory has all of it: whoever does not need the segment can be answered.
    assert_eq!(engine.snapshot(damaged()).await.expect("whole").buffered_rows(), 120);
    // More than the log, by somebody else.
    fill(&engine, &mut fleet.other, &mut fleet.others, 1..36).await;
    until("the log to be free of it", &rig, async || {
        engine.health().orgs_in_trouble.first().is_some_and(|trouble| !trouble.carried.is_empty())
    })
    .await;
    assert!(carried(&rig) > 0 && engine.status().wal_bytes <= 12 << 20);
    assert_eq!(engine.snapshot(damaged()).await.expect_err("not whole").kind(), EngineErrorKind::Corrupt);
    check_rows(&engine, neighbour(), &fleet.others).await;
    assert!(is_refused(&engine).await);
    put_back(&taken);
    until("it to be mended", &rig, async || engine.health().orgs_in_trouble.is_empty()).await;
    check_flushed(&engine, damaged(), &fleet.model).await;
    assert_eq!(carried(&rig), 0);
    fleet.sender.send(&engine, &mut fleet.model, late(3)).await;
    engine.flush(None).await.expect("flushed");
    check_flushed(&engine, damaged(), &fleet.model).await;
    check_flushed(&engine, neighbour(), &fleet.others).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_go_on_while_a_manifest_or_a_segment_is_missing() {
    for what in ["manifest/", "segments"] {
        let rig = rig();
        let (engine, mut fleet) = fleet(&rig).await;
        engine.close().await.expect("closed");
        let taken = take_away(&files_of(&rig, damaged(), what));
        for life in 0..3 {
            let engine = rig.open().await;
            if life == 1 {
                engine.flush(None).await.expect_err("the damaged one cannot be flushed");
            }
            fill(&engine, &mut fleet.other, &mut fleet.others, 1 + life * 8..9 + life * 8).await;
            until("the trouble to be found", &rig, async || !engine.health().orgs_in_trouble.is_empty()).await;
            assert!(is_refused(&engine).await, "{what}, life {life}");
            check_rows(&engine, neighbour(), &fleet.others).await;
            engine.close().await.expect("a close does not mind");
        }
        put_back(&taken);
        let engine = rig.open().await;
        until("it to be mended", &rig, async || engine.health().orgs_in_trouble.is_empty()).await;
        engine.flush(None).await.expect("flushed");
        check_flushed(&engine, damaged(), &fleet.model).await;
        check_flushed(&engine, neighbour(), &fleet.others).await;
        assert_eq!(carried(&rig), 0, "{what}");
        engine.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_overtaken_while_in_trouble_learns_of_it() {
    let rig = rig();
    let (engine, _fleet) = fleet(&rig).await;
    let _gone = take_away(&files_of(&rig, damaged(), "segments"));
    engine.flush(Some(damaged())).await.expect_err("the segment is missing");
    // Another process has dropped the segment, which this one still looks for.
    rig.clock.turn(Duration::from_secs(3 * 366 * 86_400));
    let parts = rig.parts();
    let keys = OrgKeys::new(Arc::clone(&parts.store), parts.keys, Arc::clone(&parts.random));
    let other = ManifestStore::new(parts.store, Arc::new(keys), parts.random, parts.clock);
    let manifest = other.load(damaged()).await.expect("a manifest");
    let dropped = manifest.segments().iter().map(|segment| segment.rows).sum();
    let change = ManifestChange {
        removed: manifest.objects().map(|entry| entry.id).collect(),
        lsn_covered: manifest.lsn_covered(),
        flush: manifest.flush(),
        totals: Totals { dropped, ..Totals::default() },
        ..ManifestChange::default()
    };
    other.commit(damaged(), &manifest, change).await.expect("committed");
    until("it to end", &rig, async || engine.health().failed.is_some()).await;
    assert_eq!(engine.health().failed.expect("it has").kind(), EngineErrorKind::Fenced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_that_flushes_does_not_mind_an_organisation_in_trouble() {
    let mut rig = rig();
    rig.config.flush_at_close = true;
    let (engine, mut fleet) = fleet(&rig).await;
    fill(&engine, &mut fleet.other, &mut fleet.others, 1..3).await;
    let taken = take_away(&files_of(&rig, damaged(), "segments"));
    engine.close().await.expect("its flush finds the trouble, and the close goes on");
    let engine = rig.open().await;
    engine.flush(Some(damaged())).await.expect_err("it is still missing");
    fill(&engine, &mut fleet.other, &mut fleet.others, 3..5).await;
    engine.close().await.expect("it is known");
    put_back(&taken);
    let engine = rig.open().await;
    engine.flush(None).await.expect("flushed");
    check_flushed(&engine, damaged(), &fleet.model).await;
    check_flushed(&engine, neighbour(), &fleet.others).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_damaged_is_not_taken_for_an_organisation_that_never_was() {
    let rig = rig();
    let (engine, fleet) = fleet(&rig).await;
    engine.close().await.expect("closed");
    let taken = take_away(&files_of(&rig, damaged(), "manifest/"));
    let engine = rig.open().await;
    let error = engine.ensure_org(damaged()).await.expect_err("it is in trouble");
    assert!(engine.snapshot(damaged()).await.is_err(), "{error}");
    // Nor is one whose records are all in segments, of which the log knows nothing.
    let others = take_away(&files_of(&rig, neighbour(), "manifest/"));
    engine.close().await.expect("closed");
    std::fs::remove_dir_all(rig.root.join("wal")).expect("removed");
    let engine = rig.open().await;
    let error = engine.ensure_org(neighbour()).await.expect_err("it was made before");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    put_back(&others);
    put_back(&taken);
    until("it to be mended", &rig, async || engine.health().orgs_in_trouble.is_empty()).await;
    check_flushed(&engine, damaged(), &fleet.model).await;
    engine.close().await.expect("closed");
}
