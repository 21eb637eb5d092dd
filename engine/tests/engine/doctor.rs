//! The doctor: content with whatever a healthy engine leaves, also while it works, and with nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::{CompactScope, Doctor, Engine, Examined, FaultKind};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use storage_format::manifest::{SegmentEntry, SegmentKind};
use storage_format::{ManifestVersion, ObjectKey, OrgId};

use crate::rig::{MAY, Rig};

fn org() -> OrgId {
    OrgId::new(0xE0).expect("not zero")
}

fn some(round: i64) -> Sent {
    let reading = |i: i64| {
        Reading::new(1 + (i % 2).cast_unsigned(), MAY + (round * 60 + i) * 30_000, &[(1, i as f64), (2, 40.5)])
    };
    Sent { gateway: gateway(1), received: millis(MAY + round), readings: (0..100).map(reading).collect() }
}

/// An engine with three segments, of which the later two have conflicts with the first.
async fn filled(rig: &Rig) -> (Arc<Engine>, Sender, FirstWins) {
    flushed(rig, 3).await
}

async fn flushed(rig: &Rig, rounds: i64) -> (Arc<Engine>, Sender, FirstWins) {
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for round in 0..rounds {
        sender.send(&engine, &mut model, some(round)).await;
        engine.flush(None).await.expect("a flush");
    }
    (engine, sender, model)
}

async fn look(rig: &Rig, deep: bool) -> Examined {
    let doctor = Doctor::new(&rig.parts(), deep);
    assert_eq!(doctor.orgs().await, Ok(vec![org()]));
    doctor.examine(org(), &|_, _| {}).await
}

/// The kinds and names of all findings.
async fn found(rig: &Rig, deep: bool) -> Vec<(FaultKind, String)> {
    look(rig, deep).await.findings.into_iter().map(|finding| (finding.kind, finding.name)).collect()
}

fn path(rig: &Rig, name: &str) -> PathBuf {
    rig.root.join("store").join(name)
}

async fn live(engine: &Engine) -> Vec<SegmentEntry> {
    engine.snapshot(org()).await.expect("a snapshot").manifest.objects().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_store_is_well() {
    let rig = Rig::new();
    let (engine, _, _) = filled(&rig).await;
    assert!(live(&engine).await.iter().any(|entry| entry.kind.name() == "conflicts"), "there is some of it");
    for deep in [false, true] {
        let examined = look(&rig, deep).await;
        assert!(examined.is_well(), "{:?}", examined.findings);
        assert_eq!((examined.versions, examined.passing), (4, 0));
        assert_eq!(examined.objects, live(&engine).await.len() as u64);
    }
    assert!(look(&rig, true).await.rows >= 300);
    engine.close().await.expect("closed");
    assert!(look(&rig, true).await.is_well(), "without an engine");
}

/// Rollups of values whose sums and squares are infinite, and a fills object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_huge_sums_and_late_channels_is_well() {
    let rig = Rig::new();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for channel in [1, 2] {
        let reading = |i: i64| Reading::new(1, MAY + i * 60_000, &[(channel, 1e308)]);
        let sent = Sent { gateway: gateway(1), received: millis(MAY), readings: (0..100).map(reading).collect() };
        sender.send(&engine, &mut model, sent).await;
        engine.flush(None).await.expect("a flush");
    }
    rig.clock.turn(Duration::from_secs(32 * 86_400));
    engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    let live = live(&engine).await;
    for kind in [SegmentKind::Fills, SegmentKind::RollupDaily, SegmentKind::RollupHourly] {
        assert!(live.iter().any(|entry| entry.kind == kind), "{kind:?}");
    }
    let examined = look(&rig, true).await;
    assert!(examined.is_well(), "{:?}", examined.findings);
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_or_short_is_found_by_name_and_put_back_is_well() {
    let rig = Rig::new();
    let (engine, _, _) = filled(&rig).await;
    for entry in live(&engine).await {
        let name = entry.object_key(org()).to_string();
        let path = path(&rig, &name);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(found(&rig, false).await, [(FaultKind::Missing, name.clone())]);
        assert_eq!(found(&rig, true).await, [(FaultKind::Missing, name.clone())], "told once");
        std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
        assert_eq!(found(&rig, false).await, [(FaultKind::Size, name.clone())]);
        std::fs::write(&path, &bytes).expect("written");
        assert!(look(&rig, false).await.is_well());
    }
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let rig = Rig::new();
    let (engine, _, _) = filled(&rig).await;
    let all = live(&engine).await;
    engine.close().await.expect("closed");
    let of_kind = |kind: &str| all.iter().find(|entry| entry.kind.name() == kind).expect("there is one");
    for (entry, step) in [(of_kind("readings"), 7), (of_kind("conflicts"), 11)] {
        let name = entry.object_key(org()).to_string();
        let path = path(&rig, &name);
        let bytes = std::fs::read(&path).expect("read");
        // Every byte of the ends, where plain text is, and some of what is between.
        let at = (0..bytes.len()).filter(|at| *at < 8 || at + 160 > bytes.len() || at % step == 0);
        for at in at {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, &flipped).expect("written");
            let found = found(&rig, true).await;
            assert_eq!(found, [(FaultKind::Damaged, name.clone())], "byte {at} of {}", bytes.len());
        }
        std::fs::write(&path, &bytes).expect("written");
    }
    assert!(look(&rig, true).await.is_well());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_and_damage_in_the_log_of_manifests_and_in_keys_are_found() {
    let rig = Rig::new();
    let (engine, _, _) = filled(&rig).await;
    engine.close().await.expect("closed");
    let version = |version| ObjectKey::Manifest { org: org(), version: ManifestVersion::new(version) }.to_string();
    for (name, alone) in [(version(2), true), (version(1), true), (version(4), false)] {
        let path = path(&rig, &name);
        let bytes = std::fs::read(&path).expect("read");
        if alone {
            std::fs::remove_file(&path).expect("removed");
            assert_eq!(found(&rig, false).await, [(FaultKind::Missing, name.clone())]);
        }
        for at in [8, 40, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).expect("written");
            assert_eq!(found(&rig, false).await, [(FaultKind::Damaged, name.clone())], "{name} at {at}");
        }
        std::fs::write(&path, &bytes).expect("written");
    }
    let key = ObjectKey::OrgKey { org: org(), version: 1 }.to_string();
    let bytes = std::fs::read(path(&rig, &key)).expect("read");
    let mut flipped = bytes.clone();
    flipped[50] ^= 1;
    std::fs::write(path(&rig, &key), &flipped).expect("written");
    assert_eq!(found(&rig, false).await, [(FaultKind::Damaged, key.clone())]);
    std::fs::remove_file(path(&rig, &key)).expect("removed");
    assert_eq!(found(&rig, false).await, [(FaultKind::Missing, key.clone())]);
    std::fs::write(path(&rig, &key), &bytes).expect("written");
    // The whole log.
    let log = path(&rig, &ObjectKey::manifest_prefix(org()));
    std::fs::rename(&log, rig.root.join("aside")).expect("moved");
    assert_eq!(found(&rig, false).await, [(FaultKind::Missing, ObjectKey::manifest_prefix(org()))]);
    std::fs::rename(rig.root.join("aside"), &log).expect("moved");
    assert!(look(&rig, true).await.is_well());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_a_fault_once_they_are_old_and_what_was_replaced_never_is() {
    let rig = Rig::new();
    let (engine, _, _) = filled(&rig).await;
    let entry = live(&engine).await.remove(0);
    engine.close().await.expect("closed");
    let name = entry.object_key(org()).to_string();
    let stranger = name.replace(&entry.id.to_string(), "000102030405060708090a0b0c0d0e0f");
    let notes = format!("{}/notes.txt", ObjectKey::segments_prefix(org()));
    std::fs::copy(path(&rig, &name), path(&rig, &stranger)).expect("copied");
    std::fs::write(path(&rig, &notes), "x").expect("written");
    // By the rig's clock the files are of the future.
    assert!(look(&rig, false).await.is_well());
    assert_eq!(look(&rig, false).await.passing, 1);
    rig.clock.turn(Duration::from_secs(86_400 * 365 * 40));
    let mut expected = [(FaultKind::Unnamed, stranger.clone()), (FaultKind::Unnamed, notes.clone())];
    expected.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(found(&rig, false).await, expected);
    std::fs::remove_file(path(&rig, &stranger)).expect("removed");
    std::fs::remove_file(path(&rig, &notes)).expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_merge_has_replaced_is_no_fault_however_old() {
    let mut rig = Rig::new();
    rig.config.garbage_delay = Duration::from_secs(100_000_000);
    let (engine, _, _) = flushed(&rig, 12).await;
    engine.close().await.expect("closed");
    rig.config.compaction = true;
    rig.config.compaction_interval = Duration::from_millis(5);
    let engine = rig.open().await;
    engine.load(org()).await.expect("loaded");
    let merged = tokio::time::timeout(Duration::from_secs(60), async {
        while live(&engine).await.iter().filter(|entry| entry.kind.name() == "readings").count() > 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    merged.await.expect("they are merged");
    engine.close().await.expect("closed");
    rig.clock.turn(Duration::from_secs(86_400 * 365 * 40));
    let examined = look(&rig, true).await;
    assert!(examined.is_well(), "{:?}", examined.findings);
    assert!(examined.passing >= 6, "{}", examined.passing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_looks_on_while_everything_changes() {
    let mut rig = Rig::new();
    rig.config.compaction = true;
    rig.config.compaction_interval = Duration::from_millis(1);
    rig.config.garbage_delay = Duration::from_millis(1);
    let (engine, mut sender, mut model) = filled(&rig).await;
    let (work, looks) = (
        async {
            for round in 3..40 {
                sender.send(&engine, &mut model, some(round)).await;
                engine.flush(None).await.expect("a flush");
                rig.clock.turn(Duration::from_secs(60));
            }
        },
        async {
            for _ in 0..40 {
                let examined = look(&rig, true).await;
                assert!(examined.is_well(), "{:?}", examined.findings);
            }
        },
    );
    tokio::join!(work, looks);
    engine.close().await.expect("closed");
}
