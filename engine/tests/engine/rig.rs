//! What every test needs: a data directory, a store that can fail, and a clock that can be turned. Frames, senders and
//! the model are in `kit`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use engine::{
    Clock, Engine, EngineConfig, EngineError, EngineParts, FaultStore, Files, LocalDurable, ManifestStore, OrgKeys,
    RealFiles,
};
use kit::{Reading, Sent, SplitMix64, gateway, millis};
use storage_format::OrgId;

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

impl TestClock {
    /// The time of day jumps ahead.
    pub(crate) fn jump(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).expect("not so long");
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// The time of day jumps back.
    pub(crate) fn jump_back(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).expect("not so long");
        self.now_ms.fetch_sub(ms, Ordering::Relaxed);
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
        // Where a test wants it, it says so.
        config.compaction = false;
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
        let parts = kit::rig::parts(Arc::clone(&self.store) as _, Arc::clone(&self.clock) as _);
        EngineParts { files: Arc::clone(&self.files), ..parts }
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

/// A frame of about half a megabyte: values that no encoding makes small.
pub(crate) fn noisy(round: u64) -> Sent {
    let mut random = SplitMix64::new(round);
    let readings = (0..24_000_i64).map(|i| {
        let value = (random.any() >> 12) as f64 * 1e-9;
        Reading::new(1 + round, MAY + i * 1000, &[(1, value), (2, value * 0.3)])
    });
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}
