//! Which WAL files there are, and which may go.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use durable::Files;
use storage_format::limits::WAL_SECTOR_BYTES;
use storage_format::{Lsn, WalFileId};

use super::prepare::PreparedFile;
use crate::error::{EngineError, EngineErrorKind};

const EXTENSION: &str = ".wal";
/// A file that has no place in the log yet. Any that an earlier process left is removed at the start.
const TEMPORARY_EXTENSION: &str = ".wal.tmp";

/// A file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalFile {
    pub(crate) id: WalFileId,
    /// The LSN of its first record, or of the first that it will have.
    pub(crate) first_lsn: Lsn,
    pub(crate) bytes: u64,
}

/// The directory of WAL files; shared by appender, flush and status.
#[derive(Debug)]
pub(crate) struct WalDirectory {
    files: Arc<dyn Files>,
    dir: PathBuf,
    file_bytes: u64,
    bytes_max: u64,
    live: Mutex<Vec<WalFile>>,
    /// One trim at a time; apart from `live`, so that a slow removal holds nobody up.
    trimming: Mutex<()>,
    prepared: Mutex<Option<PreparedFile>>,
    want_prepared: Sender<()>,
    wanted_prepared: Receiver<()>,
    /// Does the writer wait for files to go?
    waiting: AtomicBool,
    waker: OnceLock<Sender<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WalDirectory {
    /// The directory with what was found in it, oldest first.
    pub(crate) fn new(
        files: Arc<dyn Files>,
        dir: PathBuf,
        found: Vec<WalFile>,
        file_bytes: u64,
        bytes_max: u64,
    ) -> Arc<Self> {
        debug_assert!(found.is_sorted_by_key(|file| file.first_lsn));
        let (want_prepared, wanted_prepared) = bounded(1);
        Arc::new(Self {
            files,
            dir,
            // Whole sectors, whatever the setting says: a file of another length is none that a reader accepts.
            file_bytes: file_bytes.next_multiple_of(WAL_SECTOR_BYTES as u64),
            bytes_max,
            live: Mutex::new(found),
            trimming: Mutex::new(()),
            prepared: Mutex::new(None),
            want_prepared,
            wanted_prepared,
            waiting: AtomicBool::new(false),
            waker: OnceLock::new(),
        })
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the file of this id stands.
    pub(crate) fn file_path(&self, id: WalFileId) -> PathBuf {
        file_path(&self.dir, id)
    }

    pub(super) fn temporary_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{TEMPORARY_EXTENSION}"))
    }

    /// How long a new file is.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        locked(&self.live).iter().map(|file| file.bytes).sum()
    }

    /// How many files there are.
    pub(crate) fn file_count(&self) -> usize {
        locked(&self.live).len()
    }

    /// Would another file of so many bytes pass the limit?
    pub(super) fn is_full(&self, bytes: u64) -> bool {
        self.bytes().saturating_add(bytes) > self.bytes_max
    }

    /// If the log is too long: records before this LSN should go, so that it is half as long as it may be.
    pub(crate) fn cut(&self) -> Option<Lsn> {
        let live = locked(&self.live);
        let mut bytes: u64 = live.iter().map(|file| file.bytes).sum();
        // Early enough that the way in need not wait for the flush: at three quarters.
        let waiting = self.waiting.load(Ordering::Acquire);
        if !waiting && bytes < self.bytes_max / 4 * 3 && bytes.saturating_add(self.file_bytes) <= self.bytes_max {
            return None;
        }
        let mut cut = None;
        for pair in live.windows(2) {
            if bytes <= self.bytes_max / 2 && cut.is_some() {
                break;
            }
            bytes -= pair[0].bytes;
            cut = Some(pair[1].first_lsn);
        }
        cut
    }

    pub(super) fn add(&self, file: WalFile) {
        locked(&self.live).push(file);
    }

    /// Removes the files all of whose records come before `first_needed`: oldest first, each removal durable before
    /// the next. The newest always stays: it says where the log goes on. Answers how many went.
    ///
    /// # Errors
    /// [`EngineErrorKind::Retry`] when a removal failed: the next call tries again. [`EngineErrorKind::Failed`] when its
    /// sync did: the log is whole, and nothing may be removed any more before the next start.
    pub(crate) fn trim(&self, first_needed: Lsn) -> Result<usize, EngineError> {
        let _one_at_a_time = locked(&self.trimming);
        let mut removed = 0;
        loop {
            let oldest = {
                let live = locked(&self.live);
                match &live[..] {
                    [oldest, next, ..] if next.first_lsn <= first_needed => *oldest,
                    _ => return Ok(removed),
                }
            };
            let path = self.file_path(oldest.id);
            let retry = |error| {
                EngineError::new(
                    EngineErrorKind::Retry,
                    "a WAL file that is no longer needed could not be removed",
                    "It takes space until it can be; look at the disk.",
                )
                .at(path.display())
                .because(error)
            };
            // Opened first: after the removal only the sync itself can fail.
            let dir = self.files.open_dir(&self.dir).map_err(retry)?;
            match self.files.remove(&path) {
                // Removed by a call that was answered with an error, or by somebody else.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(retry)?,
            }
            dir.sync().map_err(|error| {
                // The name may come back after a power cut, and a later sync would not tell. Were the next file
                // removed then, the log would have a hole.
                EngineError::new(
                    EngineErrorKind::Failed,
                    "the removal of a WAL file could not be made durable",
                    "Look at the disk, then start again: everything acknowledged is kept.",
                )
                .at(path.display())
                .because(error)
            })?;
            locked(&self.live).remove(0);
            removed += 1;
            // The writer, woken, says so again if it was not enough.
            self.set_waiting(false);
            if let Some(waker) = self.waker.get() {
                // A wake that waits already does for both.
                let _full = waker.try_send(());
            }
        }
    }

    /// Asks for the next file to be made ready in the background.
    pub(super) fn want_prepared(&self) {
        // One request that waits does for both.
        let _full = self.want_prepared.try_send(());
    }

    /// Where requests for the next file arrive.
    pub(crate) fn wanted_prepared(&self) -> Receiver<()> {
        self.wanted_prepared.clone()
    }

    pub(super) fn has_prepared(&self) -> bool {
        locked(&self.prepared).is_some()
    }

    pub(super) fn put_prepared(&self, file: PreparedFile) -> Option<PreparedFile> {
        let mut slot = locked(&self.prepared);
        if slot.is_some() {
            return Some(file);
        }
        *slot = Some(file);
        None
    }

    /// The file made ready, if it is at least so long.
    pub(super) fn take_prepared(&self, bytes: u64) -> Option<PreparedFile> {
        locked(&self.prepared).take_if(|prepared| prepared.bytes >= bytes)
    }

    /// The writer waits for files to go, or does so no longer.
    pub(super) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Release);
    }

    /// Who is to be woken when files have gone.
    pub(crate) fn wake_when_trimmed(&self, waker: Sender<()>) {
        let _already_known = self.waker.set(waker);
    }
}

/// Where the file of this id stands in a WAL directory.
pub(super) fn file_path(dir: &Path, id: WalFileId) -> PathBuf {
    dir.join(format!("{id}{EXTENSION}"))
}

/// What a name in a WAL directory is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    File(WalFileId),
    Temporary,
    Other,
}

pub(super) fn parse_name(name: &str) -> Name {
    if name.ends_with(TEMPORARY_EXTENSION) {
        return Name::Temporary;
    }
    match name.strip_suffix(EXTENSION).and_then(|id| id.parse().ok()) {
        Some(id) => Name::File(id),
        None => Name::Other,
    }
}
