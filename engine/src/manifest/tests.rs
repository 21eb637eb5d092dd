//! The manifest store over faulty stores, two writers, holes, damage, and what belongs to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use durable::{Clock, Fault, FaultStore, Operation, Random};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use storage_format::encryption::SecretKey;
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind, SpoolPosition, Totals};
use storage_format::{
    ChannelCode, FlushNumber, FormatErrorKind, FrameSequence, GatewayId, LoggerId, Lsn, ManifestVersion, Millis,
    ObjectKey, OrgId, SegmentId, SpoolId,
};

use super::store::TRIED_MAX;
use super::*;
use crate::keys::MasterKey;
use crate::manifest::OrgKeys;

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct Noon;

impl Clock for Noon {
    fn now(&self) -> Millis {
        "2024-05-02T12:00:00Z".parse().expect("a time")
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Not random at all, and never twice the same.
#[derive(Debug, Default)]
pub(crate) struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            chunk.copy_from_slice(&next.to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

pub(crate) fn keys(store: &Arc<dyn ObjectStore>, random: &Arc<dyn Random>, master: u8) -> Arc<OrgKeys> {
    let master = MasterKey::new(SecretKey::from_bytes([master; 32]), Arc::clone(random));
    Arc::new(OrgKeys::new(Arc::clone(store), Arc::new(master), Arc::clone(random)))
}

/// A process that writes manifests.
pub(crate) struct Writer {
    pub(crate) manifests: Arc<ManifestStore>,
    random: Arc<dyn Random>,
}

pub(crate) fn writer(store: &Arc<dyn ObjectStore>, seed: u64, master: u8) -> Writer {
    let random: Arc<dyn Random> = Arc::new(Counting(AtomicU64::new(seed << 32)));
    let keys = keys(store, &random, master);
    let manifests = ManifestStore::new(Arc::clone(store), keys, Arc::clone(&random), Arc::new(Noon));
    Writer { manifests: Arc::new(manifests), random }
}

impl Writer {
    fn change(&self, after: &Manifest) -> ManifestChange {
        let flush = after.flush().next().expect("far from the end");
        let lsn = Lsn::new(after.lsn_covered().get() + 10);
        ManifestChange {
            added: vec![self.entry(flush, lsn)],
            removed: vec![],
            lsn_covered: lsn,
            flush,
            spools: vec![SpoolPosition {
                gateway: GatewayId::new(5).expect("not zero"),
                spool: SpoolId::new(6).expect("not zero"),
                sequence: FrameSequence::new(flush.get()),
                lsn,
            }],
            totals: Totals { readings: 10, ..Totals::default() },
        }
    }

    pub(crate) fn entry(&self, flush: FlushNumber, lsn: Lsn) -> SegmentEntry {
        let mut id = [0; 16];
        self.random.fill(&mut id);
        let time: Millis = "2024-05-02T00:00:00Z".parse().expect("a time");
        SegmentEntry {
            id: SegmentId::new(u128::from_le_bytes(id)).expect("not zero"),
            kind: SegmentKind::Readings,
            of: None,
            window: "2024050100-2024060100".parse().expect("a window"),
            flush_first: flush,
            flush_last: flush,
            rows: 10,
            bytes: 100,
            time_min: time,
            time_max: time,
            logger_min: LoggerId::MIN,
            logger_max: LoggerId::MIN,
            channels: vec![ChannelCode::new(1).expect("a code")],
            shares_keys: false,
            key_version: 1,
            lsn_min: lsn,
            lsn_max: lsn,
            digest: [1; 32],
        }
    }

    pub(crate) async fn commit(&self, current: &Manifest) -> Result<Manifest, CommitError> {
        self.manifests.commit(org(1), current, self.change(current)).await
    }
}

pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

fn manifest_path(version: u64) -> Path {
    Path::from(ObjectKey::Manifest { org: org(1), version: ManifestVersion::new(version) }.to_string())
}

pub(crate) async fn filled(store: &Arc<dyn ObjectStore>, commits: usize) -> Manifest {
    let writer = writer(store, 1, 7);
    let mut state = writer.manifests.create_org(org(1)).await.expect("made");
    for _ in 0..commits {
        state = writer.commit(&state).await.expect("committed");
    }
    state
}

#[tokio::test]
async fn what_is_committed_is_loaded_over_many_bases() {
    let store = memory();
    let state = filled(&store, 200).await;
    assert_eq!((state.version().get(), state.segments().len(), state.totals().readings), (201, 200, 2000));
    let reader = writer(&store, 2, 7);
    assert_eq!(reader.manifests.load(org(1)).await.expect("loaded"), state);
    assert!(
        reader
            .manifests
            .read(org(1), ManifestVersion::new(129))
            .await
            .is_ok_and(|object| { matches!(object, storage_format::manifest::ManifestObject::Base(_)) })
    );
    assert_eq!(reader.manifests.list_orgs().await.expect("listed"), [org(1)]);
    assert!(matches!(reader.manifests.load(org(2)).await, Err(ManifestError::NotFound(_))));
}

#[tokio::test]
async fn making_an_organisation_again_is_loading_it() {
    let store = Arc::new(FaultStore::new(memory()));
    let shared: Arc<dyn ObjectStore> = store.clone();
    // A crash after the key and before the manifest.
    for _ in 0..3 {
        store.fail_next(Operation::Put, "manifest", Fault::Before, 0);
    }
    let first = writer(&shared, 1, 7);
    assert!(first.manifests.create_org(org(1)).await.is_err());
    let second = writer(&shared, 2, 7);
    let state = second.manifests.create_org(org(1)).await.expect("finished");
    let state = second.commit(&state).await.expect("committed");
    let third = writer(&shared, 3, 7);
    assert_eq!(third.manifests.create_org(org(1)).await.expect("loaded"), state);
}

#[tokio::test]
async fn of_two_writers_one_wins_and_the_older_is_fenced() {
    let store = memory();
    let state = filled(&store, 1).await;
    let (old, new) = (writer(&store, 2, 7), writer(&store, 3, 7));
    let of_old = old.commit(&state).await.expect("committed");
    // The new process loaded before, and has not claimed: it was merely late.
    assert!(matches!(new.commit(&state).await, Err(CommitError::Conflict { .. })));
    let loaded = new.manifests.load(org(1)).await.expect("loaded");
    assert_eq!(loaded, of_old);
    let of_new = new.commit(&loaded).await.expect("committed");
    assert!(of_new.epoch() > of_old.epoch());
    // The old process never wins again, whether it looks or not.
    assert!(matches!(old.commit(&of_old).await, Err(CommitError::Fenced { .. })));
    let loaded = old.manifests.load(org(1)).await.expect("loaded");
    assert!(matches!(old.commit(&loaded).await, Err(CommitError::Fenced { .. })));
    assert_eq!(new.manifests.load(org(1)).await.expect("loaded"), of_new);
    new.commit(&of_new).await.expect("the new one goes on");
}

#[tokio::test]
async fn an_own_put_answered_with_an_error_is_no_conflict() {
    let store = Arc::new(FaultStore::new(memory()));
    let shared: Arc<dyn ObjectStore> = store.clone();
    let mut state = filled(&shared, 1).await;
    let writer = writer(&shared, 2, 7);
    for fault in [Fault::Applied, Fault::Before, Fault::Applied] {
        store.fail_next(Operation::Put, "manifest", fault, 0);
        state = writer.commit(&state).await.expect("committed all the same");
        assert_eq!(store.clear(), 0);
    }
    assert_eq!(writer.manifests.load(org(1)).await.expect("loaded"), state);
    // When it is not known, loading tells; and the writer goes on from there, in its own epoch's right.
    store.fail_next(Operation::Put, "manifest", Fault::Applied, 0);
    store.fail_next(Operation::Get, "manifest", Fault::Before, 0);
    let error = writer.commit(&state).await.expect_err("not known");
    assert!(matches!(error, CommitError::Put(PutError::MayHaveHappened { .. })), "{error:?}");
    // However often it is tried from what was known before: those tries are known not to have been made.
    for _ in 0..2 * TRIED_MAX {
        assert!(matches!(writer.commit(&state).await, Err(CommitError::Conflict { .. })));
    }
    let loaded = writer.manifests.load(org(1)).await.expect("loaded");
    assert_eq!(loaded.version().get(), state.version().get() + 1);
    assert!(writer.manifests.is_own(org(1), loaded.version()).await.expect("read"), "it was this writer's");
    assert!(!writer.manifests.is_last_tried(org(1), loaded.version()).await.expect("read"));
    writer.commit(&loaded).await.expect("committed");
}

#[tokio::test]
async fn holes_damage_and_strangers_have_a_name_and_an_offset() {
    for gone in [2, 40, 65, 70] {
        let store = memory();
        filled(&store, 80).await;
        store.delete(&manifest_path(gone)).await.expect("deleted");
        let error = writer(&store, 2, 7).manifests.load(org(1)).await.expect_err("a hole");
        let expected = format!("orgs/{}/manifest/{gone:020} is missing", org(1));
        assert_eq!(error.to_string(), expected);
        assert_eq!(EngineError::from(error).kind(), EngineErrorKind::Corrupt);
    }
    let store = memory();
    filled(&store, 80).await;
    let name = manifest_path(70);
    let good = store.get(&name).await.expect("there").bytes().await.expect("read");
    for at in [0, 10, 50, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 0x10;
        store.put(&name, bad.into()).await.expect("put");
        let error = writer(&store, 2, 7).manifests.load(org(1)).await.expect_err("damaged");
        let text = EngineError::from(error).to_string();
        assert!(text.contains(name.as_ref()) && text.contains("at byte"), "{text}");
    }
    // Another commit under this name; another organisation's; an empty file.
    let other = store.get(&manifest_path(69)).await.expect("there").bytes().await.expect("read");
    for bad in [other, bytes::Bytes::new()] {
        store.put(&name, bad.into()).await.expect("put");
        let error = writer(&store, 2, 7).manifests.load(org(1)).await.expect_err("not what it says");
        assert!(matches!(error, ManifestError::Object { .. }), "{error:?}");
    }
    store.put(&name, good.into()).await.expect("put");
    assert!(writer(&store, 2, 7).manifests.load(org(1)).await.is_ok());
    let stranger = Path::from(format!("{}/notes.txt", ObjectKey::manifest_prefix(org(1))));
    store.put(&stranger, "hello".into()).await.expect("put");
    assert!(matches!(writer(&store, 2, 7).manifests.load(org(1)).await, Err(ManifestError::Stranger { .. })));
}

/// The versions that are in the store.
async fn versions(store: &Arc<dyn ObjectStore>) -> Vec<u64> {
    let present = (1..=300).map(|version| async move { store.head(&manifest_path(version)).await.is_ok() });
    let present = futures::future::join_all(present).await;
    (1..=300).zip(present).filter_map(|(version, present)| present.then_some(version)).collect()
}

#[tokio::test]
async fn a_log_may_begin_anywhere_up_to_its_newest_base() {
    let store = memory();
    let state = filled(&store, 140).await;
    let load = || async { writer(&store, 2, 7).manifests.load(org(1)).await };
    for gone in 1..=129 {
        store.delete(&manifest_path(gone)).await.expect("deleted");
        match (gone, load().await) {
            (129, Err(error)) => assert_eq!(error.to_string(), format!("{} is missing", manifest_path(129))),
            (_, loaded) => assert_eq!(loaded.expect("whole"), state, "up to {gone}"),
        }
    }
}

#[tokio::test]
async fn a_name_that_a_newer_writer_has_removed_is_not_a_place_to_commit() {
    for (claims, created) in [(false, 64), (true, 64), (false, 65), (true, 65)] {
        let store = memory();
        let mut state = filled(&store, created - 3).await;
        let (old, new) = (writer(&store, 2, 7), writer(&store, 3, 7));
        state = match claims {
            true => old.commit(&state).await.expect("committed"),
            false => writer(&store, 4, 7).commit(&state).await.expect("committed"),
        };
        assert_eq!(state.version().get() + 1, created as u64, "a version like others, and a base");
        let mut newest = new.manifests.load(org(1)).await.expect("loaded");
        for _ in 0..100 {
            newest = new.commit(&newest).await.expect("committed");
        }
        new.manifests.collect_before(org(1), ManifestVersion::new(129)).await.expect("removed");
        let error = old.commit(&state).await.expect_err("others went on");
        assert_eq!(matches!(error, CommitError::Fenced { .. }), claims, "{error:?}");
        assert_eq!(matches!(error, CommitError::Conflict { .. }), !claims, "{error:?}");
        assert_eq!(versions(&store).await, (129..=newest.version().get()).collect::<Vec<_>>());
        assert_eq!(writer(&store, 5, 7).manifests.load(org(1)).await.expect("whole"), newest);
        let loaded = old.manifests.load(org(1)).await.expect("whole");
        assert_eq!(old.commit(&loaded).await.is_ok(), !claims);
    }
}

#[tokio::test]
async fn a_base_is_made_although_what_was_before_it_is_removed_at_once() {
    let store = memory();
    let state = filled(&store, 63).await;
    assert_eq!(state.version().get(), 64);
    store.delete(&manifest_path(64)).await.expect("deleted");
    let made = writer(&store, 2, 7).commit(&state).await.expect("a base needs nothing before it");
    assert_eq!(made.version().get(), 65);
    // Any other does: without it nobody can load what was made.
    store.delete(&manifest_path(65)).await.expect("deleted");
    let error = writer(&store, 3, 7).commit(&made).await.expect_err("a hole");
    assert!(matches!(error, CommitError::Manifest(ManifestError::Missing { .. })), "{error:?}");
}

#[tokio::test]
async fn whether_a_version_follows_may_not_be_known() {
    let store = Arc::new(FaultStore::new(memory()));
    let shared: Arc<dyn ObjectStore> = store.clone();
    let state = filled(&shared, 3).await;
    let writer = writer(&shared, 2, 7);
    store.fail_next(Operation::Get, "manifest", Fault::Before, 0);
    let error = writer.commit(&state).await.expect_err("not known");
    assert!(matches!(error, CommitError::Put(PutError::MayHaveHappened { .. })), "{error:?}");
    let loaded = writer.manifests.load(org(1)).await.expect("loaded");
    assert!(writer.manifests.is_last_tried(org(1), loaded.version()).await.expect("read"), "it was made");
    writer.commit(&loaded).await.expect("committed");
}

#[tokio::test]
async fn what_is_before_a_base_goes_in_order_and_up_to_the_first_failure() {
    let store = Arc::new(FaultStore::new(memory()));
    let shared: Arc<dyn ObjectStore> = store.clone();
    let state = filled(&shared, 140).await;
    let collector = writer(&shared, 2, 7).manifests;
    let base = ManifestVersion::new(129);
    store.fail_next(Operation::Delete, "", Fault::Before, 49);
    collector.collect_before(org(1), base).await.expect_err("one cannot be removed");
    assert_eq!(versions(&shared).await, (50..=141).collect::<Vec<_>>(), "and all after it stay");
    assert_eq!(writer(&shared, 3, 7).manifests.load(org(1)).await.expect("whole"), state);
    assert_eq!(collector.collect_before(org(1), base).await.expect("collected"), 129 - 50);
    assert_eq!(collector.collect_before(org(1), base).await.expect("nothing is left"), 0);
    assert_eq!(versions(&shared).await, (129..=141).collect::<Vec<_>>());
    let other = writer(&shared, 4, 7);
    assert_eq!(other.manifests.load(org(1)).await.expect("whole"), state);
    let after = other.commit(&state).await.expect("it goes on");
    assert_eq!(other.manifests.load(org(1)).await.expect("whole"), after);
}

#[tokio::test]
async fn nothing_goes_for_a_base_that_does_not_read() {
    let store = memory();
    filled(&store, 140).await;
    let collector = writer(&store, 2, 7).manifests;
    let path = manifest_path(129);
    let mut bytes = store.get(&path).await.expect("there").bytes().await.expect("read").to_vec();
    bytes[200] ^= 1;
    store.put(&path, bytes.into()).await.expect("put");
    collector.collect_before(org(1), ManifestVersion::new(129)).await.expect_err("the base is damaged");
    collector.collect_before(org(1), ManifestVersion::new(130)).await.expect_err("no base");
    store.delete(&path).await.expect("deleted");
    collector.collect_before(org(1), ManifestVersion::new(129)).await.expect_err("the base is lost");
    assert_eq!(versions(&store).await.len(), 140);
}

#[tokio::test]
async fn who_loads_while_versions_go_sees_a_newer_log() {
    let store = memory();
    let first = filled(&store, 30).await;
    let mut state = first.clone();
    let other = writer(&store, 2, 7);
    let mut late = Vec::new();
    for version in 32..=81 {
        state = other.commit(&state).await.expect("committed");
        let path = manifest_path(version);
        late.push((path.clone(), store.get(&path).await.expect("there").bytes().await.expect("read")));
    }
    for (path, _) in &late {
        store.delete(path).await.expect("deleted");
    }
    // Version 31 is the newest when the log is listed, and collected when it is read.
    let gone = (1..=64).map(manifest_path).collect();
    let lagging = Lagging { inner: Arc::clone(&store), hidden: manifest_path(300), at_read: Some((late, gone)).into() };
    let shared: Arc<dyn ObjectStore> = Arc::new(lagging);
    assert_eq!(writer(&shared, 3, 7).manifests.load(org(1)).await.expect("loaded"), state);
    assert_eq!(versions(&store).await, (65..=81).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_wrong_master_key_opens_nothing() {
    let store = memory();
    filled(&store, 3).await;
    let error = writer(&store, 2, 8).manifests.load(org(1)).await.expect_err("another master key");
    let ManifestError::Object { name, source } = &error else { panic!("{error:?}") };
    assert_eq!((*name, source.kind), (ObjectKey::OrgKey { org: org(1), version: 1 }, FormatErrorKind::WrongKey));
    assert!(EngineError::from(error).to_string().contains("master key"));
    // Another organisation's key under this name does not unwrap.
    let thief = writer(&store, 3, 7);
    thief.manifests.create_org(org(2)).await.expect("made");
    let name = |id| Path::from(ObjectKey::OrgKey { org: org(id), version: 1 }.to_string());
    store.copy(&name(2), &name(1)).await.expect("copied");
    assert!(matches!(writer(&store, 4, 7).manifests.load(org(1)).await, Err(ManifestError::Object { .. })));
}

#[tokio::test]
async fn a_list_that_lags_behind_hides_no_commit() {
    let store = memory();
    let state = filled(&store, 3).await;
    let lagging: Arc<dyn ObjectStore> =
        Arc::new(Lagging { inner: Arc::clone(&store), hidden: manifest_path(4), at_read: None.into() });
    let reader = writer(&lagging, 2, 7);
    assert_eq!(reader.manifests.load(org(1)).await.expect("loaded"), state);
    let lagging: Arc<dyn ObjectStore> =
        Arc::new(Lagging { inner: store, hidden: manifest_path(2), at_read: None.into() });
    assert_eq!(writer(&lagging, 2, 7).manifests.load(org(1)).await.expect("no hole"), state);
}

#[tokio::test]
async fn commits_that_break_a_rule_are_not_written() {
    let store = memory();
    let state = filled(&store, 2).await;
    let writer = writer(&store, 2, 7);
    type Spoil = fn(&mut ManifestChange, &Manifest);
    let spoils: [(&str, Spoil); 8] = [
        ("rows not counted", |c, _| c.totals.readings = 9),
        ("readings without rows", |c, _| c.added.clear()),
        ("conflicts without rows", |c, _| c.totals.conflicts = 1),
        ("an old flush number", |c, m| {
            c.added[0].flush_first = m.flush();
            c.added[0].flush_last = m.flush();
        }),
        ("precedence undecided", |c, _| {
            let mut twin = c.added[0].clone();
            twin.id = SegmentId::MAX;
            c.added.push(twin);
            c.totals.readings = 20;
        }),
        ("a record not covered", |c, _| c.added[0].lsn_max = Lsn::new(1000)),
        ("covered less than before", |c, _| c.lsn_covered = Lsn::new(1)),
        ("shared rows that fill nothing", |c, _| {
            c.added[0].shares_keys = true;
            c.totals.readings = 5;
        }),
    ];
    for (what, spoil) in spoils {
        let mut change = writer.change(&state);
        spoil(&mut change, &state);
        let error = writer.manifests.commit(org(1), &state, change).await.expect_err(what);
        assert!(matches!(error, CommitError::Invariant(_)), "{what}: {error:?}");
    }
    assert_eq!(writer.manifests.load(org(1)).await.expect("loaded"), state);
    let mut apart = writer.change(&state);
    let mut twin = apart.added[0].clone();
    twin.id = SegmentId::MAX;
    twin.logger_min = LoggerId::MAX;
    twin.logger_max = LoggerId::MAX;
    apart.added.push(twin);
    apart.totals.readings = 20;
    writer.manifests.commit(org(1), &state, apart).await.expect("two segments of one flush with different keys");
}

#[tokio::test]
async fn replacements_that_break_a_rule_are_not_written() {
    let store = memory();
    let state = filled(&store, 3).await;
    let writer = writer(&store, 2, 7);
    // The first two of three segments into one.
    let merge = || {
        let [first, second, _] = state.segments() else { panic!("three") };
        let merged = writer.entry(first.flush_first, second.lsn_max);
        ManifestChange {
            added: vec![SegmentEntry { flush_last: second.flush_last, rows: 20, ..merged }],
            removed: vec![first.id, second.id],
            lsn_covered: state.lsn_covered(),
            flush: state.flush(),
            ..ManifestChange::default()
        }
    };
    type Spoil = fn(&mut ManifestChange);
    let spoils: [(&str, Spoil); 6] = [
        ("another window", |c| {
            let time = "2024-06-02T00:00:00Z".parse().expect("a time");
            c.added[0].window = "2024060100-2024070100".parse().expect("a window");
            (c.added[0].time_min, c.added[0].time_max) = (time, time);
        }),
        ("readings that came in", |c| c.totals.readings = 20),
        ("a flush", |c| c.flush = c.flush.next().expect("far from the end")),
        ("records that are covered", |c| c.lsn_covered = Lsn::new(c.lsn_covered.get() + 10)),
        ("a flush of others", |c| {
            c.added[0].logger_min = LoggerId::MAX;
            c.added[0].logger_max = LoggerId::MAX;
            c.added[0].flush_last = c.flush;
        }),
        ("nothing in their place", |c| {
            c.added.clear();
            c.totals.duplicates = 20;
        }),
    ];
    for (what, spoil) in spoils {
        let mut change = merge();
        spoil(&mut change);
        let error = writer.manifests.commit(org(1), &state, change).await.expect_err(what);
        let is_expected = matches!(error, CommitError::Invariant(InvariantError::Replaced { .. }));
        assert!(is_expected, "{what}: {error:?}");
    }
    writer.manifests.commit(org(1), &state, merge()).await.expect("a merge");
}

/// A store whose lists do not show one object yet.
#[derive(Debug)]
struct Lagging {
    inner: Arc<dyn ObjectStore>,
    hidden: Path,
    /// What is made and what is removed before the first manifest is read.
    at_read: std::sync::Mutex<Option<Meanwhile>>,
}

type Meanwhile = (Vec<(Path, bytes::Bytes)>, Vec<Path>);

impl std::fmt::Display for Lagging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lagging")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Lagging {
    async fn put_opts(
        &self,
        location: &Path,
        payload: object_store::PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        let is_read = !options.head && location.as_ref().contains("manifest");
        let at_read = self.at_read.lock().expect("no panic").take_if(|_| is_read);
        if let Some((made, gone)) = at_read {
            for (path, bytes) in made {
                self.inner.put(&path, bytes.into()).await.expect("put");
            }
            for path in gone {
                self.inner.delete(&path).await.expect("deleted");
            }
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        use futures::StreamExt as _;
        let hidden = self.hidden.clone();
        let shown = move |meta: &object_store::Result<object_store::ObjectMeta>| {
            meta.as_ref().map_or(true, |meta| meta.location != hidden)
        };
        self.inner.list(prefix).filter(move |meta| std::future::ready(shown(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<object_store::ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: object_store::CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn a_file_that_cannot_be_read_is_of_its_organisation_and_a_store_that_is_away_is_not() {
    let of = |code| {
        let source = Box::new(std::io::Error::from_raw_os_error(code));
        let source = object_store::Error::Generic { store: "LocalFileSystem", source };
        EngineError::from(ManifestError::store("orgs", source)).is_of_one_org()
    };
    // No right, a bad sector; no network, refused, too many files.
    assert_eq!([13, 5, 101, 111, 24].map(of), [true, true, false, false, false]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_loop_of_links_is_of_one_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::os::unix::fs::symlink("loop", dir.path().join("loop")).expect("linked");
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).expect("a store");
    let error = store.get(&Path::from("loop")).await.expect_err("a loop");
    assert!(is_of_one_file(&error), "{error:?}");
}
