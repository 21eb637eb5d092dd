//! Opening: lock, recover, start; in this order, each step undone by dropping what it made.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use durable::{Clock, Spawn};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use object_store::ObjectStore;
use storage_format::manifest::Manifest;
use storage_format::{Lsn, OrgId};
use tokio::sync::{oneshot, watch};

use super::lock::DirectoryLock;
use super::monitor::MonitorStep;
use super::threads::{FlushThreads, Threads};
use super::{Core, Engine, EngineParts, Loader, io_error};
use crate::append::{AppendQueue, AppendStep, GroupLimits, append_queue};
use crate::buffer::Budget;
use crate::carried::CarriedFiles;
use crate::commit::Committer;
use crate::compact::{CompactionStep, Compactor, OrgSource};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::flush::{FlushStep, Flusher, Freezer, writer_gone};
use crate::garbage::{GarbageStep, has_unnamed};
use crate::health::Health;
use crate::last::LastReadings;
use crate::maintain::Maintenance;
use crate::manifest::OrgKeys;
use crate::manifest::{ManifestError, ManifestStore};
use crate::metrics;
use crate::org::{Org, Orgs, WriterCommand, WriterWork, Writers};
use crate::recover::{RecoveryHost, RecoveryParts, RecoveryReport, WalSettings, recover};
use crate::retain::Retention;
use crate::segments::Segments;
use crate::trouble::{CarryOn, TroubleHost, TroubleParts, TroubleStep};
use crate::wal::WalPrepareStep;

/// The part of the queue that must be full for a group to be filled while another is on its way: 256 KiB by default,
/// some ten thousand readings, which take longer than to wake the thread that writes.
const OVERLAP_PART: u64 = 256;

/// How many manifests are read at a time when all of them must be.
const LOADS_AT_ONCE: usize = 16;

impl Engine {
    /// Locks the data directory, reads what an earlier process left, and starts. Must be called within a tokio
    /// runtime, which the engine uses to load organisations in the background.
    ///
    /// # Errors
    /// [`Retry`](crate::EngineErrorKind::Retry) while another process has the directory, [`Corrupt`](crate::EngineErrorKind::Corrupt) with file and
    /// offset for damage that no crash leaves, [`Invalid`](crate::EngineErrorKind::Invalid) for settings that do not fit together or a
    /// wrong master key; others from the file layer and the store.
    pub async fn open(config: EngineConfig, parts: EngineParts) -> Result<Arc<Self>, EngineError> {
        config.check()?;
        metrics::describe();
        crate::append::metrics::describe();
        let spawn = Arc::new(tokio::runtime::Handle::current());
        let flushes = FlushThreads::start(config.flush_concurrency)?;
        let Opened { core, append, prepare, lock } = Opened::open(config, parts, spawn, flushes.spawn()).await?;
        let threads = Threads::start(&core, append, prepare, flushes, lock)?;
        Ok(Arc::new(Self { core, threads: tokio::sync::Mutex::new(Some(threads)) }))
    }
}

/// An engine that is recovered, with its steps, which nobody calls yet.
pub(super) struct Opened {
    pub(super) core: Arc<Core>,
    pub(super) append: AppendStep,
    pub(super) prepare: WalPrepareStep,
    pub(super) lock: Arc<DirectoryLock>,
}

impl Opened {
    pub(super) async fn open(
        config: EngineConfig,
        parts: EngineParts,
        spawn: Arc<dyn Spawn>,
        spawn_flush: Arc<dyn Spawn>,
    ) -> Result<Self, EngineError> {
        let data_dir = config.data_dir.as_path();
        let (wal_dir, files) = (data_dir.join("wal"), &*parts.files);
        files.create_dir_all(&wal_dir).map_err(|error| io_error("cannot make the data directory", &wal_dir, error))?;
        let lock = Arc::new(DirectoryLock::acquire(files, data_dir)?);

        let EngineParts { store, random, clock, .. } = &parts;
        let keys = Arc::new(OrgKeys::new(Arc::clone(store), Arc::clone(&parts.keys), Arc::clone(random)));
        let manifests = ManifestStore::new(Arc::clone(store), Arc::clone(&keys), Arc::clone(random), Arc::clone(clock));
        let manifests = Arc::new(manifests);
        let segments = Segments::new(Arc::clone(store), keys, Arc::clone(random));
        let segments = Arc::new(segments.with_row_group_rows(config.row_group_rows));
        let orgs = Orgs::new(Arc::new(Budget::new(config.buffer_bytes_max)), config.flush_bytes);
        let loader = Arc::new(Loader::new(Arc::clone(&orgs), Arc::clone(&manifests)));
        let health = Arc::new(Health::new(Arc::clone(clock)));
        let commits = Arc::new(Committer::new(Arc::clone(&manifests), loader.log_end(), Arc::clone(&health)));
        let last = Arc::new(LastReadings::new(Arc::clone(&segments), config.last_readings_bytes_max));
        let flusher = Flusher::new(&config, &commits, &segments, &last, Arc::clone(&spawn_flush));

        let carried = Arc::new(CarriedFiles::new(
            data_dir.join("carried"),
            Arc::clone(&parts.files),
            Arc::clone(&parts.keys),
            Arc::clone(&parts.random),
            Arc::clone(&parts.clock),
        ));
        let carry = CarryOn {
            orgs: Arc::clone(&orgs),
            carried: Arc::clone(&carried),
            files: Arc::clone(&parts.files),
            keys: Arc::clone(&parts.keys),
            wal_dir: wal_dir.clone(),
        };
        let settings = WalSettings {
            dir: wal_dir,
            set_aside_dir: data_dir.join("set-aside"),
            file_bytes: config.wal_file_bytes,
            bytes_max: config.wal_bytes_max,
            block_bytes_max: config.group_bytes_max,
        };
        let recovery = RecoveryParts {
            files: Arc::clone(&parts.files),
            keys: Arc::clone(&parts.keys),
            random: Arc::clone(&parts.random),
            clock: Arc::clone(&parts.clock),
            carried: Arc::clone(&carried),
        };
        let host = Host { loader: &loader, manifests: &manifests, flusher: &flusher, carry: &carry, clock };
        let recovered =
            recover(&settings, recovery, Arc::clone(&spawn), Writers::new(Arc::clone(&orgs)), &host).await?;
        tell(&config, &recovered.report);
        loader.recovered(Lsn::new(recovered.wal.next_lsn().get().saturating_sub(1)));

        let wal = Arc::clone(recovered.wal.directory());
        let (queue, inbox) = append_queue(config.queue_bytes_max);
        let appender_ended = watch::Sender::new(false);
        let freezer = QueueFreezer { queue: Arc::clone(&queue), ended: appender_ended.subscribe() };
        let trouble = TroubleParts {
            orgs: Arc::clone(&orgs),
            host: Box::new(MendingHost {
                loader: Arc::clone(&loader),
                queue: Arc::clone(&queue),
                ended: appender_ended.subscribe(),
            }),
            carry,
            commits: Arc::clone(&commits),
            flusher: flusher.clone(),
            wal: Arc::clone(&wal),
            clock: Arc::clone(&parts.clock),
            spawn: Arc::clone(&spawn_flush),
        };
        let trouble = TroubleStep::new(trouble, &config);
        let flush = FlushStep::new(
            Arc::clone(&orgs),
            flusher,
            Box::new(freezer),
            Arc::clone(&wal),
            Arc::clone(&parts.clock),
            Arc::clone(&health),
            &config,
        );
        let limits = GroupLimits {
            frames_max: config.group_frames_max,
            overlap_bytes_min: config.queue_bytes_max / OVERLAP_PART,
        };
        let clock = Arc::clone(&parts.clock);
        let append = AppendStep::new(inbox, recovered.wal, recovered.writers, clock, Arc::clone(&health), limits);
        let prepare = WalPrepareStep::new(Arc::clone(&wal), Arc::clone(&parts.random));
        let retention = Retention::new(&commits, &segments, &parts.clock, Arc::clone(&spawn_flush));
        let source: Arc<dyn OrgSource> = Arc::new(Source {
            loader: Arc::clone(&loader),
            manifests: Arc::clone(&manifests),
            store: Arc::clone(store),
        });
        let compactor =
            Compactor::new((&orgs, source), &commits, &segments, spawn_flush, (&parts.clock, &health), &config);
        let garbage = GarbageStep::new(
            Arc::clone(&orgs),
            commits,
            Arc::clone(&manifests),
            Arc::clone(&parts.store),
            Arc::clone(&parts.clock),
            config.garbage_delay,
        );
        let flush = Arc::new(flush);
        let monitor = MonitorStep {
            orgs: Arc::clone(&orgs),
            wal: Arc::clone(&wal),
            flush: Arc::clone(&flush),
            health: Arc::clone(&health),
            interval: config.schedule_interval,
        };
        let mut maintenance: Vec<Arc<dyn Maintenance>> =
            vec![Arc::clone(&flush) as _, Arc::new(garbage), Arc::new(monitor), Arc::new(trouble)];
        if config.compaction {
            maintenance.push(Arc::new(CompactionStep::new(Arc::clone(&compactor), &config)));
        }
        let core = Arc::new(Core {
            config,
            orgs,
            loader,
            queue,
            flush,
            carried,
            compactor,
            health,
            maintenance,
            wal,
            retention,
            manifests,
            segments,
            last,
            store: parts.store,
            recovery: recovered.report,
            clock: parts.clock,
            spawn,
            unknown: Mutex::default(),
            closing: AtomicBool::new(false),
            fatal: watch::Sender::new(None),
            appender_ended,
            flush_ended: watch::Sender::new(false),
        });
        Ok(Self { core, append, prepare, lock })
    }
}

/// Says what was found: empty, cleanly closed, or crashed.
fn tell(config: &EngineConfig, report: &RecoveryReport) {
    let data_dir = config.data_dir.display();
    if report.files == 0 {
        tracing::info!(%data_dir, "engine opened: no WAL, nothing to recover");
    } else if report.clean && report.applied == 0 {
        tracing::info!(%data_dir, wal_files = report.files, "engine opened: cleanly closed, nothing to replay");
    } else {
        tracing::info!(%data_dir, clean = report.clean, wal_files = report.files, records = report.applied,
            readings = report.readings, skipped = report.skipped, torn = report.torn, set_aside = report.set_aside, carried = report.carried,
            took = ?report.took, "engine opened: readings that were not flushed are back in memory");
    }
}

/// What recovery asks for.
struct Host<'a> {
    loader: &'a Arc<Loader>,
    manifests: &'a Arc<ManifestStore>,
    flusher: &'a Flusher,
    carry: &'a CarryOn,
    clock: &'a Arc<dyn Clock>,
}

#[async_trait]
impl RecoveryHost for Host<'_> {
    async fn load(&self, org: OrgId) -> Result<(), EngineError> {
        self.loader.load(org).await.map(drop)
    }

    async fn covered_max(&self) -> Result<Lsn, EngineError> {
        let all = self.manifests.list_orgs().await?;
        // Looked at and let go: with the WAL there is no need of them.
        let mut loads = futures::stream::iter(all).map(|org| self.manifests.load(org)).buffer_unordered(LOADS_AT_ONCE);
        let mut max = Lsn::ZERO;
        while let Some(manifest) = loads.next().await {
            match manifest {
                Ok(manifest) => max = max.max(manifest.lsn_covered()),
                // Half made: a crash came between its key and its first manifest. Nothing of it was ever flushed.
                Err(ManifestError::NotFound(_)) => {}
                Err(error) => match EngineError::from(error) {
                    // If it covers more than the new log's beginning, it is not served before the log is past that.
                    error if error.is_of_one_org() => {
                        tracing::warn!(%error, "how far an organisation was flushed cannot be read; the log begins without it");
                    }
                    error => return Err(error),
                },
            }
        }
        Ok(max)
    }

    async fn relieve(&self, writers: &mut Writers) -> Result<(), EngineError> {
        let orgs = &self.carry.orgs;
        let budget = Arc::clone(orgs.budget());
        while budget.is_high() {
            let largest = orgs.all().into_iter().max_by_key(|org| (org.state().buffer_bytes(), org.id()));
            let Some(largest) = largest.filter(|org| org.state().first_unflushed().is_some()) else {
                return Ok(());
            };
            if let Some(writer) = writers.org(largest.id()) {
                writer.freeze();
            }
            match self.flusher.flush_frozen(&largest).await {
                Ok(_) => {}
                // Its part of the log is carried on, what was read of it and what comes.
                Err(error) if error.is_of_one_org() => {
                    orgs.troubles().begin(largest.id(), &error, true, self.clock.now());
                    self.carry.run(&largest).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What mending asks for.
struct MendingHost {
    loader: Arc<Loader>,
    queue: Arc<AppendQueue>,
    ended: watch::Receiver<bool>,
}

#[async_trait]
impl TroubleHost for MendingHost {
    async fn load(&self, org: OrgId) -> Result<Arc<Org>, EngineError> {
        self.loader.load(org).await
    }

    async fn write(&self, WriterWork(work): WriterWork) -> Result<(), EngineError> {
        let (done, told) = oneshot::channel();
        let work = move |writers: &mut Writers| {
            work(writers);
            // Whoever asked may have gone away.
            let _gone = done.send(());
        };
        self.queue.command(WriterCommand::Run(WriterWork(Box::new(work))));
        let mut ended = self.ended.clone();
        tokio::select! {
            biased;
            told = told => told.map_err(|_| writer_gone()),
            _ = ended.wait_for(|ended| *ended) => Err(writer_gone()),
        }
    }
}

/// The organisations of the store, for compaction.
struct Source {
    loader: Arc<Loader>,
    manifests: Arc<ManifestStore>,
    store: Arc<dyn ObjectStore>,
}

#[async_trait]
impl OrgSource for Source {
    async fn all(&self) -> Result<Vec<OrgId>, EngineError> {
        Ok(self.manifests.list_orgs().await?)
    }

    async fn look(&self, org: OrgId) -> Result<Option<Arc<Manifest>>, EngineError> {
        match self.manifests.load(org).await {
            Ok(manifest) => Ok(Some(Arc::new(manifest))),
            Err(ManifestError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn has_orphans(&self, org: OrgId, manifest: &Manifest) -> Result<bool, EngineError> {
        has_unnamed(&*self.store, org, manifest).await
    }

    async fn load(&self, org: OrgId) -> Result<Arc<Org>, EngineError> {
        self.loader.load(org).await
    }
}

/// Freezes through the appender's queue.
struct QueueFreezer {
    queue: Arc<AppendQueue>,
    ended: watch::Receiver<bool>,
}

impl Freezer for QueueFreezer {
    fn freeze(&self, org: OrgId) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            let (done, frozen) = oneshot::channel();
            self.queue.command(WriterCommand::Freeze { org, done });
            let mut ended = self.ended.clone();
            tokio::select! {
                biased;
                frozen = frozen => frozen.map(drop).map_err(|_| writer_gone()),
                _ = ended.wait_for(|ended| *ended) => Err(writer_gone()),
            }
        }
        .boxed()
    }
}
