//! Records that are whole and cannot be applied, each kept in a WAL file of its own, sealed like the others, so that
//! `icecore wal inspect` shows it.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use durable::replace_file;
use storage_format::wal::WalFileKind;

use super::RecoveryParts;
use crate::error::{EngineError, EngineErrorKind};
use crate::wal::{FrameOfLog, WholeFile};

/// Where such records go.
pub(super) struct SetAside {
    dir: PathBuf,
    parts: RecoveryParts,
    /// What earlier starts kept; looked up when the first record comes.
    kept: Mutex<Option<BTreeSet<String>>>,
}

impl SetAside {
    pub(super) fn new(dir: PathBuf, parts: RecoveryParts) -> Self {
        Self { dir, parts, kept: Mutex::new(None) }
    }

    /// Keeps one record, durably; answers where. One that an earlier start kept is there already.
    pub(super) fn keep(&self, record: &FrameOfLog) -> Result<PathBuf, EngineError> {
        let name = format!("{:020}.wal", record.lsn.get());
        let path = self.dir.join(&name);
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            EngineError::new(
                EngineErrorKind::Failed,
                "a WAL record that cannot be applied could not be kept aside",
                "Look at the disk and at the rights of the data directory, then start again.",
            )
            .at(path.display())
            .because(error)
        };
        let names = || -> io::Result<BTreeSet<String>> {
            let files = &self.parts.files;
            files.create_dir_all(&self.dir)?;
            let (unfinished, names): (BTreeSet<_>, BTreeSet<_>) =
                files.list(&self.dir)?.into_iter().partition(|name| name.ends_with(".tmp"));
            for name in unfinished {
                files.remove(&self.dir.join(name))?;
            }
            // An earlier start may have been killed between the name and its sync; the WAL will let the record go.
            files.sync_dir(&self.dir)?;
            Ok(names)
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = Some(names().map_err(|error| failed(error.into()))?);
        }
        if kept.as_ref().is_some_and(|kept| kept.contains(&name)) {
            return Ok(path);
        }
        let mut file = WholeFile::new(WalFileKind::Log, &*self.parts.random);
        file.push(record);
        let bytes = file.finish(&*self.parts.keys, &*self.parts.clock).map_err(|error| failed(error.into()))?;
        replace_file(&*self.parts.files, &path, &bytes).map_err(|error| failed(error.into()))?;
        Ok(path)
    }
}
