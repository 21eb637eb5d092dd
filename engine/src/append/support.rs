//! For tests of the log side: an engine without flush, on any file layer, run step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, Files, Random};
use storage_format::encryption::SecretKey;
use storage_format::manifest::{Manifest, ManifestDelta, Totals};
use storage_format::{
    ChannelCode, Frame, FrameBuilder, FrameSequence, GatewayId, LoggerId, Lsn, Millis, OrgId, SpoolId,
};

use super::{
    AckSink, AppendProgress, AppendQueue, AppendStep, GroupLimits, Submission, SubmitError, SubmitFailure, append_queue,
};
use crate::buffer::Budget;
use crate::carried::CarriedFiles;
use crate::error::{EngineError, EngineErrorKind};
use crate::health::Health;
use crate::keys::{KeyProvider, MasterKey};
use crate::org::{Orgs, Writers};
use crate::recover::{RecoveryHost, RecoveryParts, RecoveryReport, WalSettings, recover};
use crate::snapshot::Snapshot;
use crate::wal::{WalDirectory, WalPrepareStep};

/// A clock that stands still until told.
#[derive(Debug, Default)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).expect("short"), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis::new(1_460_000_000_000).expect("a time")
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Counts up: never repeats, always the same.
#[derive(Debug, Default)]
pub(crate) struct TestRandom(AtomicU64);

impl Random for TestRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let value = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Keeps the answers. Some tests have one for several organisations, of which one is not there.
#[derive(Debug, Default)]
pub(crate) struct Sink(pub(crate) Mutex<Vec<Answer>>, AtomicBool);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Durable(u64),
    Failed(u64, SubmitFailure),
}

impl AckSink for Sink {
    fn durable(&self, up_to: FrameSequence) {
        self.0.lock().expect("no panic").push(Answer::Durable(up_to.get()));
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        self.1.fetch_or(failure != SubmitFailure::UnknownOrg, Ordering::Relaxed);
        self.0.lock().expect("no panic").push(Answer::Failed(sequence.get(), failure));
    }

    fn has_failed(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

impl Sink {
    pub(crate) fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

pub(crate) fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

pub(crate) fn gateway() -> GatewayId {
    GatewayId::new(9).expect("not zero")
}

/// A frame whose first reading's time tells its number; `readings` make it long.
pub(crate) fn frame(number: u64, readings: u64) -> Frame {
    let mut builder = FrameBuilder::new();
    let temperature = ChannelCode::new(1).expect("not zero");
    for index in 0..readings {
        let time = Millis::new((number * 1_000_000 + index).cast_signed()).expect("a time");
        // Raw values, so that the length follows the count.
        let value = f64::from(u32::try_from(index).expect("small")).sqrt() + 0.1;
        builder.push(LoggerId::new(1).expect("not zero"), time, &[(temperature, value)]).expect("fits");
    }
    let bytes = builder.encode(SpoolId::new(5).expect("not zero"), FrameSequence::new(number));
    Frame::decode(bytes).expect("decodes")
}

/// What stays over restarts: files, keys, and what manifests would say.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) keys: Arc<dyn KeyProvider>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) settings: WalSettings,
    pub(crate) frames_max: usize,
    pub(crate) overlap_bytes_min: u64,
    pub(crate) buffer_bytes_max: u64,
    /// Threads that recovery's tasks run on beside the one that waits for them; zero has all on that one.
    pub(crate) recovery_threads: usize,
    /// The organisations that there are, each with the LSN that its manifest covers.
    pub(crate) orgs: Mutex<BTreeMap<OrgId, Lsn>>,
    pub(crate) relieved: AtomicU64,
}

/// A running engine's log side.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) orgs: Arc<Orgs>,
    pub(crate) queue: Arc<AppendQueue>,
    pub(crate) step: AppendStep,
    pub(crate) prepare: WalPrepareStep,
    pub(crate) wal: Arc<WalDirectory>,
    pub(crate) report: RecoveryReport,
    pub(crate) health: Arc<Health>,
    pub(crate) sink: Arc<Sink>,
}

impl Rig {
    pub(crate) fn new(files: Arc<dyn Files>, data_dir: &Path) -> Self {
        let random: Arc<dyn Random> = Arc::new(TestRandom::default());
        Self {
            files,
            keys: Arc::new(MasterKey::new(SecretKey::from_bytes([7; 32]), Arc::clone(&random))),
            random,
            clock: Arc::new(TestClock::default()),
            settings: WalSettings {
                dir: data_dir.join("wal"),
                set_aside_dir: data_dir.join("set-aside"),
                file_bytes: 16 << 10,
                bytes_max: 1 << 20,
                block_bytes_max: 4 << 10,
            },
            frames_max: 100,
            overlap_bytes_min: 1,
            buffer_bytes_max: 1 << 30,
            recovery_threads: 0,
            orgs: Mutex::new([(org(1), Lsn::ZERO), (org(2), Lsn::ZERO)].into()),
            relieved: AtomicU64::new(0),
        }
    }

    /// The same on other files.
    pub(crate) fn with_files(&self, files: Arc<dyn Files>) -> Self {
        Self {
            files,
            keys: Arc::clone(&self.keys),
            random: Arc::clone(&self.random),
            clock: Arc::clone(&self.clock),
            settings: self.settings.clone(),
            frames_max: self.frames_max,
            overlap_bytes_min: self.overlap_bytes_min,
            buffer_bytes_max: self.buffer_bytes_max,
            recovery_threads: self.recovery_threads,
            orgs: Mutex::new(self.orgs.lock().expect("no panic").clone()),
            relieved: AtomicU64::new(0),
        }
    }

    pub(crate) fn recovery_parts(&self) -> RecoveryParts {
        RecoveryParts {
            files: Arc::clone(&self.files),
            keys: Arc::clone(&self.keys),
            random: Arc::clone(&self.random),
            clock: Arc::<TestClock>::clone(&self.clock),
            carried: Arc::new(CarriedFiles::new(
                self.settings.dir.with_file_name("carried"),
                Arc::clone(&self.files),
                Arc::clone(&self.keys),
                Arc::clone(&self.random),
                Arc::<TestClock>::clone(&self.clock),
            )),
        }
    }

    pub(crate) fn start(&self) -> Result<Process, EngineError> {
        let orgs = Orgs::new(Arc::new(Budget::new(self.buffer_bytes_max)), 1 << 30);
        let parts = self.recovery_parts();
        let host = Host { rig: self, orgs: &orgs };
        let runtime = match self.recovery_threads {
            0 => tokio::runtime::Builder::new_current_thread().build(),
            threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build(),
        };
        let runtime = runtime.expect("a runtime");
        let spawn = Arc::new(runtime.handle().clone());
        let writers = Writers::new(Arc::clone(&orgs));
        let recovered = runtime.block_on(recover(&self.settings, parts, spawn, writers, &host))?;
        for (&org, &covered) in &*self.orgs.lock().expect("no panic") {
            orgs.add(org, Arc::new(covering(covered)));
        }
        let wal = Arc::clone(recovered.wal.directory());
        let (queue, inbox) = append_queue(1 << 20);
        let limits = GroupLimits { frames_max: self.frames_max, overlap_bytes_min: self.overlap_bytes_min };
        let clock = Arc::<TestClock>::clone(&self.clock);
        let health = Arc::new(Health::new(Arc::<TestClock>::clone(&clock)));
        let step = AppendStep::new(inbox, recovered.wal, recovered.writers, clock, Arc::clone(&health), limits);
        let prepare = WalPrepareStep::new(Arc::clone(&wal), Arc::clone(&self.random));
        Ok(Process { orgs, queue, step, prepare, wal, report: recovered.report, health, sink: Arc::default() })
    }

    /// As if everything applied so far were flushed.
    pub(crate) fn cover(&self, org: OrgId, lsn: Lsn) {
        self.orgs.lock().expect("no panic").insert(org, lsn);
    }
}

struct Host<'a> {
    rig: &'a Rig,
    orgs: &'a Arc<Orgs>,
}

#[async_trait]
impl RecoveryHost for Host<'_> {
    async fn load(&self, org: OrgId) -> Result<(), EngineError> {
        let covered = self.rig.orgs.lock().expect("no panic").get(&org).copied();
        let none = || EngineError::new(EngineErrorKind::Invalid, "there is no such organisation", "");
        self.orgs.add(org, Arc::new(covering(covered.ok_or_else(none)?)));
        Ok(())
    }

    async fn covered_max(&self) -> Result<Lsn, EngineError> {
        Ok(self.rig.orgs.lock().expect("no panic").values().copied().max().unwrap_or_default())
    }

    async fn relieve(&self, writers: &mut Writers) -> Result<(), EngineError> {
        self.rig.relieved.fetch_add(1, Ordering::Relaxed);
        for loaded in writers.orgs().all() {
            if writers.org(loaded.id()).expect("loaded").freeze() {
                let state = loaded.state();
                for frozen in &state.frozen {
                    loaded.flushed(&state.manifest, frozen);
                }
            }
        }
        Ok(())
    }
}

/// A manifest that covers records up to this one and says nothing else.
fn covering(lsn: Lsn) -> Manifest {
    let mut manifest = Manifest::empty();
    if lsn > Lsn::ZERO {
        let delta = ManifestDelta {
            version: manifest.version().next().expect("a next"),
            epoch: manifest.epoch().next().expect("a next"),
            nonce: [0; 16],
            created: Millis::EPOCH,
            lsn_covered: lsn,
            flush: manifest.flush(),
            added: Vec::new(),
            removed: Vec::new(),
            spools: Vec::new(),
            totals: Totals::default(),
        };
        manifest.apply(&delta).expect("follows");
    }
    manifest
}

impl Process {
    pub(crate) fn submission(&self, to: u64, frame: Frame) -> Submission {
        let acks = Arc::<Sink>::clone(&self.sink);
        Submission { org: org(to), gateway: gateway(), received: Millis::EPOCH, frame, acks }
    }

    pub(crate) fn submit(&self, to: u64, frame: Frame) -> Result<(), SubmitError> {
        self.queue.try_submit(self.submission(to, frame))
    }

    /// Steps until nothing waits; answers what was said meanwhile.
    pub(crate) fn run(&mut self) -> Result<Vec<Answer>, EngineError> {
        while let AppendProgress::Appended { .. } = self.step.run_once()? {}
        Ok(self.sink.take())
    }

    /// The numbers of this organisation's frames in write buffers; each must be there once and whole.
    pub(crate) fn frames(&self, of: u64) -> BTreeSet<u64> {
        let mut times = BTreeSet::new();
        if let Some(org) = self.orgs.get(org(of)) {
            for view in Snapshot::take(&org).expect("whole").buffers {
                view.each_key(|_, time| assert!(times.insert(time), "a reading twice"));
            }
        }
        times.iter().map(|time| time.cast_unsigned() / 1_000_000).collect()
    }
}
