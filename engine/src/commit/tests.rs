//! Changes that are no flush, through the door, over a store that loses responses. Flushes: `engine/tests/engine`.

use durable::{Fault, FaultStore, Operation};
use object_store::ObjectStore;
use storage_format::FlushNumber;
use storage_format::manifest::SegmentEntry;

use super::*;
use crate::buffer::Budget;
use crate::manifest::tests::{Noon, Writer, filled, memory, org, writer};
use crate::org::Orgs;

/// An organisation with two flushed segments, in a process of its own, and its store.
struct Rig {
    store: Arc<FaultStore>,
    shared: Arc<dyn ObjectStore>,
    writer: Writer,
    committer: Committer,
    org: Arc<Org>,
}

async fn rig() -> Rig {
    let store = Arc::new(FaultStore::new(memory()));
    let shared: Arc<dyn ObjectStore> = store.clone();
    let manifest = filled(&shared, 2).await;
    let writer = writer(&shared, 2, 7);
    let committer =
        Committer::new(Arc::clone(&writer.manifests), Arc::default(), Arc::new(Health::new(Arc::new(Noon))));
    let orgs = Orgs::new(Arc::new(Budget::new(1 << 20)), 1 << 20);
    let org = orgs.add(org(1), Arc::new(manifest));
    Rig { store, shared, writer, committer, org }
}

impl Rig {
    /// What a compaction would do: one segment in place of all.
    fn compacted(&self, turn: &Turn<'_>) -> ManifestChange {
        let manifest = turn.manifest();
        let last = manifest.flush();
        let entry = self.writer.entry(last, manifest.lsn_covered());
        let merged = SegmentEntry { flush_first: FlushNumber::new(1), rows: 20, ..entry };
        let removed = manifest.segments().iter().map(|entry| entry.id).collect();
        ManifestChange { added: vec![merged], removed, ..turn.unchanged() }
    }

    async fn commit(&self, change: impl FnOnce(&Turn<'_>) -> ManifestChange) -> Result<Arc<Manifest>, EngineError> {
        let mut turn = self.committer.turn(&self.org).await;
        let change = change(&turn);
        turn.commit(Commit { reason: CommitReason::Compaction, change, flushed: None }).await
    }

    async fn compact(&self) -> Result<Arc<Manifest>, EngineError> {
        self.commit(|turn| self.compacted(turn)).await
    }

    /// Version, segments and covered LSN, as this process sees them and as the store has them.
    async fn seen_and_stored(&self) -> [(u64, usize, u64); 2] {
        let stored = writer(&self.shared, 9, 7).manifests.load(org(1)).await.expect("loads");
        let facts = |m: &Manifest| (m.version().get(), m.segments().len(), m.lsn_covered().get());
        [facts(&self.org.state().manifest), facts(&stored)]
    }

    /// Fails the next put of a manifest, and the look whether it was made.
    fn lose_response(&self, fault: Fault) {
        self.store.fail_next(Operation::Put, "manifest/", fault, 0);
        self.store.fail_next(Operation::Get, "manifest/", Fault::Before, 0);
    }
}

#[tokio::test]
async fn a_change_swaps_the_state_and_keeps_what_is_covered() {
    let rig = rig().await;
    assert_eq!(rig.seen_and_stored().await, [(3, 2, 20); 2]);
    let made = rig.compact().await.expect("made");
    assert_eq!((made.flush().get(), made.totals().readings), (2, 20));
    assert_eq!(rig.seen_and_stored().await, [(4, 1, 20); 2]);
}

#[tokio::test]
async fn what_was_written_before_another_process_committed_is_written_again() {
    let rig = rig().await;
    let sight = rig.committer.sight(&rig.org);
    rig.committer.turn(&rig.org).await.check(sight).expect("nobody has committed");
    let seen = rig.org.state().manifest.clone();
    let nothing = rig.committer.turn(&rig.org).await.unchanged();
    writer(&rig.shared, 5, 7).manifests.commit(org(1), &seen, nothing).await.expect("another process");
    rig.committer.turn(&rig.org).await.check(sight).expect("the commit itself would meet it");
    // Another change of this process meets it first.
    rig.commit(|turn| turn.unchanged()).await.expect_err("the version is taken");
    rig.commit(|turn| turn.unchanged()).await.expect("the second try");
    let error = rig.committer.turn(&rig.org).await.check(sight).expect_err("it may be gone");
    assert_eq!(error.kind(), EngineErrorKind::Retry);
    // From now on another process's commit ends this one.
    let sight = rig.committer.sight(&rig.org);
    rig.commit(|turn| turn.unchanged()).await.expect("made");
    rig.committer.turn(&rig.org).await.check(sight).expect("its own");
}

#[tokio::test]
async fn a_commit_whose_response_is_lost_is_known_again() {
    let rig = rig().await;
    rig.lose_response(Fault::Applied);
    rig.compact().await.expect("it was made");
    assert_eq!(rig.store.clear(), 0);
    assert_eq!(rig.seen_and_stored().await, [(4, 1, 20); 2]);
}

#[tokio::test]
async fn a_commit_that_was_not_made_changes_nothing() {
    let rig = rig().await;
    rig.lose_response(Fault::Before);
    let error = rig.compact().await.expect_err("not made");
    assert_eq!(error.kind(), EngineErrorKind::Retry);
    assert_eq!(rig.store.clear(), 0);
    assert_eq!(rig.seen_and_stored().await, [(3, 2, 20); 2]);
    rig.compact().await.expect("the second try");
}

#[tokio::test]
async fn an_earlier_try_is_not_taken_for_this_one() {
    let rig = rig().await;
    // A version without a change is made, and nobody hears of it: the manifest cannot be loaded either.
    rig.lose_response(Fault::Applied);
    rig.store.fail_next(Operation::List, "manifest", Fault::Before, 0);
    rig.commit(|turn| turn.unchanged()).await.expect_err("nobody knows");
    assert_eq!(rig.store.clear(), 0);
    assert_eq!(rig.seen_and_stored().await, [(3, 2, 20), (4, 2, 20)]);
    // The next change meets it. It is this process's own, and still another change.
    let error = rig.compact().await.expect_err("the version is taken");
    assert_eq!(error.kind(), EngineErrorKind::Retry);
    assert_eq!(rig.seen_and_stored().await, [(4, 2, 20); 2]);
    rig.compact().await.expect("on top of it");
    assert_eq!(rig.seen_and_stored().await, [(5, 1, 20); 2]);
}

#[tokio::test]
async fn what_another_process_covers_is_left_to_the_next_flush() {
    let rig = rig().await;
    let other = writer(&rig.shared, 5, 7);
    let seen = other.manifests.load(org(1)).await.expect("loads");
    other.commit(&seen).await.expect("another process's flush");
    rig.compact().await.expect_err("that version is taken");
    assert_eq!(rig.seen_and_stored().await, [(3, 2, 20), (4, 3, 30)], "its records may be in buffers here");
}

#[tokio::test]
async fn bounds_of_loggers_hold_over_a_change_without_readings() {
    let rig = rig().await;
    {
        let mut turn = rig.committer.turn(&rig.org).await;
        let manifest = turn.manifest();
        turn.frontier().hold_for(&manifest);
        turn.frontier().raise(1, i64::MAX - 1);
    }
    let made = rig.commit(|turn| turn.unchanged()).await.expect("made");
    let mut turn = rig.committer.turn(&rig.org).await;
    turn.frontier().hold_for(&made);
    assert_eq!(turn.frontier().of(1), i64::MAX - 1);
    drop(turn);
    // Bounds of an older manifest say nothing of a newer one.
    let other = writer(&rig.shared, 5, 7);
    let theirs = other.manifests.load(org(1)).await.expect("loads");
    let theirs = Arc::new(other.commit(&theirs).await.expect("another process's flush"));
    rig.org.reloaded(&theirs);
    let mut turn = rig.committer.turn(&rig.org).await;
    let last = theirs.segments().iter().map(|entry| entry.time_max.get()).max();
    turn.frontier().follow(&theirs, &theirs);
    turn.frontier().hold_for(&theirs);
    assert_eq!(Some(turn.frontier().of(1)), last);
}
