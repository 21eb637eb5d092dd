//! What every test needs: a data directory, a store that can fail, a clock that can be turned, and sinks that wait.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{
    AckSink, Clock, Engine, EngineConfig, EngineError, EngineParts, FaultStore, Files, LocalDurable, ManifestStore,
    MasterKey, OrgKeys, RealFiles, Submission, SubmitFailure, SystemRandom,
};
use object_store::ObjectStore;
use storage_format::encryption::SecretKey;
use storage_format::{Frame, FrameSequence, OrgId};

use crate::model::{Model, Reading, Sent, gateway, millis, spool};

/// A clock that stands still until it is turned.
#[derive(Debug)]
pub(crate) struct TestClock {
    now_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl TestClock {
    pub(crate) fn turn(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("not so long");
        self.now_ms.fetch_add(ms.cast_signed(), Ordering::Relaxed);
        self.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> storage_format::Millis {
        millis(self.now_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::Relaxed))
    }
}

/// 2024-05-01T00:00:00Z.
pub(crate) const MAY: i64 = 1_714_521_600_000;

/// A data directory and everything around it.
pub(crate) struct Rig {
    pub(crate) root: PathBuf,
    _dir: Arc<tempfile::TempDir>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: Arc<FaultStore>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) config: EngineConfig,
}

fn key() -> MasterKey {
    MasterKey::new(SecretKey::from_bytes([7; 32]), SystemRandom)
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        Self::at(dir.path().to_path_buf(), dir)
    }

    fn at(root: PathBuf, dir: Arc<tempfile::TempDir>) -> Self {
        let local = LocalDurable::open(root.join("store"), root.join("tmp")).expect("a store");
        let mut config = EngineConfig::new(&root);
        config.wal_file_bytes = 5 << 20;
        config.wal_bytes_max = 40 << 20;
        config.buffer_bytes_max = 64 << 20;
        config.schedule_interval = Duration::from_millis(20);
        let clock = TestClock { now_ms: AtomicI64::new(MAY), monotonic_ms: AtomicU64::new(1) };
        Self {
            root,
            _dir: dir,
            clock: Arc::new(clock),
            store: Arc::new(FaultStore::new(Arc::new(local))),
            files: Arc::new(RealFiles),
            config,
        }
    }

    /// The same as a crash of process or machine would leave it: a copy of the directory as it is.
    pub(crate) fn crashed(&self) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        copy(&self.root, dir.path());
        let mut rig = Self::at(dir.path().to_path_buf(), dir);
        rig.config = EngineConfig { data_dir: rig.root.clone(), ..self.config.clone() };
        rig
    }

    /// Adds what the other's store holds.
    pub(crate) fn take_store_of(&self, other: &Self) {
        copy(&other.root.join("store"), &self.root.join("store"));
    }

    pub(crate) fn parts(&self) -> EngineParts {
        EngineParts {
            files: Arc::clone(&self.files),
            store: Arc::clone(&self.store) as Arc<dyn ObjectStore>,
            keys: Arc::new(key()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Arc::new(SystemRandom),
        }
    }

    pub(crate) async fn open(&self) -> Arc<Engine> {
        self.try_open().await.expect("it opens")
    }

    pub(crate) async fn try_open(&self) -> Result<Arc<Engine>, EngineError> {
        Engine::open(self.config.clone(), self.parts()).await
    }

    pub(crate) async fn create_org(&self, org: OrgId) {
        let parts = self.parts();
        let keys = OrgKeys::new(Arc::clone(&parts.store), parts.keys, Arc::clone(&parts.random));
        let manifests = ManifestStore::new(parts.store, Arc::new(keys), parts.random, parts.clock);
        manifests.create_org(org).await.expect("an organisation");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            // A staging file may go while we look.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}

/// What came back for the frames of one spool.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    durable: AtomicU64,
    failed: Mutex<BTreeMap<FrameSequence, SubmitFailure>>,
    changed: tokio::sync::Notify,
}

impl AckSink for Acks {
    fn durable(&self, up_to: FrameSequence) {
        self.durable.fetch_max(up_to.get(), Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        self.failed.lock().expect("not poisoned").insert(sequence, failure);
        self.changed.notify_waiters();
    }
}

impl Acks {
    pub(crate) fn failures(&self) -> Vec<SubmitFailure> {
        self.failed.lock().expect("not poisoned").values().copied().collect()
    }

    pub(crate) fn durable_up_to(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Waits until this frame is answered; `true` if it is durable.
    pub(crate) async fn answered(&self, sequence: u64) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.failed.lock().expect("not poisoned").contains_key(&FrameSequence::new(sequence)) {
                return false;
            }
            if self.durable_up_to() >= sequence {
                return true;
            }
            changed.await;
        }
    }
}

/// Somebody who sends frames of one organisation.
pub(crate) struct Sender {
    pub(crate) org: OrgId,
    pub(crate) spool: u64,
    pub(crate) next: u64,
    pub(crate) acks: Arc<Acks>,
}

impl Sender {
    pub(crate) fn new(org: OrgId, spool: u64) -> Self {
        Self { org, spool, next: 1, acks: Arc::default() }
    }

    /// Submits, waiting for room; answers the frame's sequence number.
    pub(crate) async fn submit(&mut self, engine: &Engine, sent: &mut Sent) -> u64 {
        let sequence = self.next;
        self.next += 1;
        let bytes = sent.encode(spool(self.spool), sequence);
        let frame = Frame::decode(bytes).expect("a frame");
        let submission = Submission {
            org: self.org,
            gateway: sent.gateway,
            received: sent.received,
            frame,
            acks: Arc::clone(&self.acks) as Arc<dyn AckSink>,
        };
        engine.submit(submission).await.expect("the engine is open");
        sequence
    }

    /// Submits, waits for the acknowledgement, and tells the model.
    pub(crate) async fn send(&mut self, engine: &Engine, model: &mut Model, mut sent: Sent) {
        let sequence = self.submit(engine, &mut sent).await;
        assert!(self.acks.answered(sequence).await, "acknowledged");
        model.apply(&sent);
    }
}

/// A frame of about half a megabyte: values that no encoding makes small.
pub(crate) fn noisy(round: u64) -> Sent {
    let mut state = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let readings = (0..24_000_i64).map(|i| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 12) as f64 * 1e-9;
        Reading { logger: 1 + round, time: MAY + i * 1000, samples: vec![(1, value), (2, value * 0.3)] }
    });
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}
