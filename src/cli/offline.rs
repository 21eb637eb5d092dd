//! A data directory as commands look into it: read-only, with or without a server beside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use engine::{Clock, EngineParts, ManifestStore, MasterKey, OrgKeys, RealFiles, SystemClock, SystemRandom};
use storage_format::encryption::SecretKey;

use crate::advice::Advise as _;
use crate::config::{self, Overrides};
use control::data_dir::DataDir;
use control::master_key;
use problem::{Context, Problem, Result};

/// The data directory that a file belongs to.
#[derive(Debug, Args)]
pub(super) struct OfflineArgs {
    /// The data directory; found by itself for a file within one
    #[arg(long, value_name = "DIR", env = "ICECORE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl OfflineArgs {
    /// The data directory: named, or the one that this file is in.
    pub(super) fn find(&self, file: &Path) -> Result<DataDir> {
        if let Some(dir) = &self.data_dir {
            let data = DataDir::new(dir);
            data.check().advise()?;
            return Ok(data);
        }
        let file = file.canonicalize().context(|| format!("cannot read {}", file.display()))?;
        let found = file.ancestors().map(DataDir::new).find(|data| data.check().is_ok());
        found.ok_or_else(|| {
            Problem::new(format!("{} is in no data directory", file.display()))
                .help("name the one that it came from: --data-dir DIR; its master key opens the file")
        })
    }
}

/// The master key of a data directory.
pub(super) fn master_key(data: &DataDir) -> Result<SecretKey> {
    master_key::load_master_key(&data.keys()).advise()
}

/// What an engine would be opened with by this configuration. Nothing is opened or changed by this.
pub(super) fn parts(data: &DataDir, config: &Path) -> Result<EngineParts> {
    let config = config::load(config, &Overrides::default())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = crate::store::open_read_only(data, &config.store, &clock)?;
    let random = Arc::new(SystemRandom);
    Ok(EngineParts {
        files: Arc::new(RealFiles),
        store,
        keys: Arc::new(MasterKey::new(master_key(data)?, random.clone())),
        clock,
        random,
    })
}

/// The manifests and organisations' keys of a data directory.
pub(super) fn manifests(data: &DataDir, config: &Path) -> Result<ManifestStore> {
    let EngineParts { store, keys, clock, random, .. } = parts(data, config)?;
    let keys = Arc::new(OrgKeys::new(Arc::clone(&store), keys, Arc::clone(&random)));
    Ok(ManifestStore::new(store, keys, random, clock))
}
