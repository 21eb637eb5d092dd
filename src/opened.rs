//! A data directory opened: what `serve` and the commands that run without a server have in common.

use std::path::Path;
use std::sync::Arc;

use engine::{Clock, Engine, EngineParts, MasterKey, RealFiles, SystemClock, SystemRandom};
use local::{AcceptedTimes, Resources};

use crate::advice::Advise as _;
use crate::config::{self, Config, Overrides};
use crate::store::{self, Away, OpenStore};
use control::data_dir::{DataDir, DirLock};
use control::master_key;
use problem::{Problem, Result};
use storage_format::encryption::SecretKey;

/// Opens the engine over a data directory's files and its store; recovers what is in its log.
pub(crate) async fn open_engine(
    data: &DataDir,
    config: &Config,
    master_key: SecretKey,
    clock: Arc<dyn Clock>,
    store: &OpenStore,
    away: Away,
) -> Result<Arc<Engine>> {
    let random = Arc::new(SystemRandom);
    let keys = Arc::new(MasterKey::new(master_key, random.clone()));
    let parts = || EngineParts {
        files: Arc::new(RealFiles),
        store: Arc::clone(&store.store),
        keys: keys.clone(),
        clock: Arc::clone(&clock),
        random: random.clone(),
    };
    tracing::info!(data_dir = %data.path().display(), "recovering");
    store.open_engine(data, &config.engine(data.path()), parts, clock.as_ref(), away).await
}

/// The times that imports take: those of gateways.
pub(crate) fn accepted_times(config: &Config) -> AcceptedTimes {
    AcceptedTimes { min: config.ingest.time_min, ahead_max: config.ingest.future_max }
}

/// A data directory that a command has for itself.
pub(crate) struct Opened {
    /// What the command works with.
    pub(crate) resources: Resources,
    // Last: released after everything else has ended.
    _lock: DirLock,
}

impl Opened {
    /// Opens a directory whose lock this process has.
    pub(crate) async fn open(data: &DataDir, lock: DirLock, config: &Path) -> Result<Self> {
        let config = config::load(config, &Overrides::default())?;
        let control = data.open_control_locked(&lock).await.advise()?;
        let master_key = master_key::load_master_key(&data.keys()).advise()?;
        master_key::verify_check(&control, &master_key).await.advise()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = store::open(data, &config.store, &clock)?;
        let engine = open_engine(data, &config, master_key, Arc::clone(&clock), &store, Away::Fail).await?;
        let times = accepted_times(&config);
        Ok(Self { resources: Resources { engine, control, clock, times }, _lock: lock })
    }

    /// Closes it in order.
    ///
    /// # Errors
    /// When the engine had stopped in error before, or does while closing.
    pub(crate) async fn close(self) -> Result<()> {
        let Self { resources: Resources { engine, control, .. }, _lock } = self;
        let closed = engine.close().await;
        control.close().await;
        closed.map_err(|error| Problem::new("the engine did not close cleanly").detail(error))
    }
}
