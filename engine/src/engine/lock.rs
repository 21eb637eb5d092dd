//! The lock on a data directory: one process at a time, told by name.

use std::path::Path;

use durable::{FileLock, Files};

use crate::error::{EngineError, EngineErrorKind};

/// The held lock; given up when dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _lock: Box<dyn FileLock>,
}

impl DirectoryLock {
    /// Locks the directory and writes this process's id into the lock file, for whoever comes second.
    ///
    /// # Errors
    /// [`EngineErrorKind::Retry`] while another process has it, with its id if that is known.
    pub(super) fn acquire(files: &dyn Files, data_dir: &Path) -> Result<Self, EngineError> {
        let path = data_dir.join("lock");
        let lock = files
            .lock_exclusive(&path)
            .map_err(|error| super::io_error("cannot lock the data directory", &path, error))?;
        let Some(lock) = lock else {
            return Err(taken(files, &path, data_dir));
        };
        // Only for people: a lock without a number is as good a lock.
        if let Err(error) = write_holder(files, &path) {
            tracing::debug!(path = %path.display(), %error, "the lock file does not tell this process's id");
        }
        Ok(Self { _lock: lock })
    }
}

fn write_holder(files: &dyn Files, path: &Path) -> std::io::Result<()> {
    let file = files.open(path)?;
    let text = format!("{}\n", std::process::id());
    file.set_len(text.len() as u64)?;
    file.write_at(text.as_bytes(), 0)
}

fn taken(files: &dyn Files, path: &Path, data_dir: &Path) -> EngineError {
    let bytes = files.open(path).and_then(|file| file.read_all()).unwrap_or_default();
    let holder = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let what = match holder {
        Some(pid) => format!("another process ({pid}) is using this data directory"),
        None => "another process is using this data directory".to_owned(),
    };
    EngineError::new(
        EngineErrorKind::Retry,
        what,
        "Stop that process first, or give another --data-dir: two processes must never write one directory.",
    )
    .at(data_dir.display())
}
