//! The blocking part: staging files, names, and syncs.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::{Error, Result};

use crate::files::{Dir, File, Files};

/// Directories known to be durable. Past so many the memory is not worth it: they are synced once more instead.
const DURABLE_DIRS_MAX: usize = 65_536;

/// Staging files are called `<number>.staged`.
const STAGED: &str = ".staged";

/// What is written between two syncs of an object's file.
const PIECE_BYTES: usize = 1 << 20;

/// A copy goes through memory in pieces of so many bytes.
const COPY_BYTES: usize = 256 << 10;

/// What went wrong in a write.
#[derive(Debug, thiserror::Error)]
pub enum LocalDurableError {
    /// Before the object had its name: nothing happened.
    #[error("{what} {path}: {source}")]
    Before {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// While the object was given its name, or after.
    #[error("{what} {path}: {source}")]
    Naming {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A sync failed: what is on the disk is unknown.
    #[error("sync {path}: {source}")]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A sync failed earlier.
    #[error("a sync failed earlier: nothing is written until a restart")]
    Stopped,
    /// An upload was ended while parts of it were missing, or twice.
    #[error("the upload is not complete")]
    Incomplete,
}

impl LocalDurableError {
    /// Returns whether the process must end.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Stopped)
    }

    /// Returns whether nothing was written for certain.
    #[must_use]
    pub const fn did_not_happen(&self) -> bool {
        matches!(self, Self::Before { .. } | Self::Incomplete)
    }
}

impl From<LocalDurableError> for Error {
    fn from(error: LocalDurableError) -> Self {
        Self::Generic { store: "LocalDurable", source: Box::new(error) }
    }
}

pub(super) fn before(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalDurableError {
    let path = path.to_owned();
    move |source| LocalDurableError::Before { what, path, source }
}

/// Where an object is to be.
#[derive(Debug, Clone)]
pub(super) struct Target {
    name: String,
    file: PathBuf,
    create: bool,
}

impl Target {
    pub(super) fn create(location: &object_store::path::Path, file: PathBuf) -> Self {
        Self { name: location.to_string(), file, create: true }
    }

    pub(super) fn overwrite(location: &object_store::path::Path, file: PathBuf) -> Self {
        Self { name: location.to_string(), file, create: false }
    }
}

/// A staging file; removed when dropped, unless it has become an object.
#[derive(Debug)]
pub(super) struct Staged {
    files: Arc<dyn Files>,
    file: Box<dyn File>,
    path: PathBuf,
    named: bool,
}

impl Staged {
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        Ok(self.file.write_at(bytes, offset).map_err(before("write", &self.path))?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed now goes at the next open.
            let _ = self.files.remove(&self.path);
        }
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    files: Arc<dyn Files>,
    root: PathBuf,
    staging: PathBuf,
    next: AtomicU64,
    /// Set by a failed sync, never unset.
    stopped: AtomicBool,
    /// Directories below the root whose own entry has been synced.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Disk {
    /// Opens the store in directories that are there, by paths that stay as they are.
    pub(super) fn open(files: Arc<dyn Files>, root: PathBuf, staging: PathBuf) -> Result<Self> {
        if staging.starts_with(&root) {
            let source = io::Error::new(ErrorKind::InvalidInput, "the staging directory is inside the store");
            return Err(before("open", &staging)(source).into());
        }
        // A process killed between a name and its directory's sync left a name that can be read and may yet vanish.
        // What is read from here on is relied on (a manifest lets the WAL go), so all names are made durable first.
        files.sync_file_system(&root).map_err(|source| LocalDurableError::Sync { path: root.clone(), source })?;
        for name in files.list(&staging).map_err(before("list", &staging))? {
            if name.ends_with(STAGED) {
                let path = staging.join(name);
                files.remove(&path).map_err(before("remove", &path))?;
            }
        }
        Ok(Self {
            files,
            root,
            staging,
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            durable: Mutex::new(HashSet::new()),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn check(&self) -> Result<()> {
        // A write that overlaps the failing sync may slip through: its own syncs speak for it.
        if self.stopped.load(Ordering::Acquire) { Err(LocalDurableError::Stopped.into()) } else { Ok(()) }
    }

    /// Every sync goes through here: a failed one is the last.
    fn synced(&self, done: io::Result<()>, path: &Path) -> Result<()> {
        done.map_err(|source| {
            self.stopped.store(true, Ordering::Release);
            LocalDurableError::Sync { path: path.to_owned(), source }.into()
        })
    }

    pub(super) fn stage(&self) -> Result<Staged> {
        self.check()?;
        loop {
            let path = self.staging.join(format!("{}{STAGED}", self.next.fetch_add(1, Ordering::Relaxed)));
            match self.files.create_new(&path) {
                Ok(file) => return Ok(Staged { files: Arc::clone(&self.files), file, path, named: false }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(before("make", &path)(error).into()),
            }
        }
    }

    pub(super) fn put<'a>(&self, target: &Target, chunks: impl Iterator<Item = &'a Bytes>) -> Result<()> {
        let staged = self.stage()?;
        let mut at = 0;
        // A mebibyte at a time: what the disk has to do at once, the blocks of the log wait for.
        for piece in chunks.flat_map(|chunk| chunk.chunks(PIECE_BYTES)) {
            if at > 0 {
                self.synced(staged.file.sync_data(), &staged.path)?;
            }
            staged.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        self.name(staged, target)
    }

    pub(super) fn copy(&self, name: &str, source: &Path, target: &Target) -> Result<()> {
        let from = self.files.open(source).map_err(|e| not_found(name, source, e))?;
        let staged = self.stage()?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            let read = from.read_at(&mut buffer, at).map_err(before("read", source))?;
            if read == 0 {
                return self.name(staged, target);
            }
            staged.write_at(&buffer[..read], at)?;
            at += read as u64;
        }
    }

    /// Syncs a staged file and gives it its name.
    pub(super) fn name(&self, mut staged: Staged, target: &Target) -> Result<()> {
        self.check()?;
        self.synced(staged.file.sync_all(), &staged.path)?;
        let dir = target.file.parent().unwrap_or(&self.root);
        self.make_dirs(dir)?;
        // Opened before there is a name: after it only the sync itself can fail, and that is fatal.
        let opened: Box<dyn Dir> = self.files.open_dir(dir).map_err(before("open", dir))?;
        let naming = |what| move |source| LocalDurableError::Naming { what, path: target.file.clone(), source };
        if target.create {
            match self.files.hard_link(&staged.path, &target.file) {
                Ok(()) => {}
                Err(source) if source.kind() == ErrorKind::AlreadyExists => {
                    // Whoever is told that it exists may rely on it: perhaps it is their own put, cut short.
                    self.synced(opened.sync(), dir)?;
                    return Err(Error::AlreadyExists { path: target.name.clone(), source: source.into() });
                }
                Err(source) => return Err(naming("link")(source).into()),
            }
        } else {
            self.files.rename(&staged.path, &target.file).map_err(naming("rename to"))?;
            staged.named = true;
        }
        self.synced(opened.sync(), dir)
    }

    pub(super) fn remove(&self, name: &str, file: &Path) -> Result<()> {
        self.check()?;
        let dir = file.parent().unwrap_or(&self.root);
        // As in `name`: after the change only the sync itself can fail.
        let opened = self.files.open_dir(dir).map_err(|e| not_found(name, dir, e))?;
        let removed = self.files.remove(file);
        removed.map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::IsADirectory => not_found(name, file, source),
            _ => LocalDurableError::Naming { what: "remove", path: file.to_owned(), source }.into(),
        })?;
        self.synced(opened.sync(), dir)
    }

    /// Makes the directory and those above it, and syncs each one's entry. A directory that is there already may have
    /// been made by a process that died before its sync, or by a put that is still at it: so every directory is synced
    /// once by every process, whoever made it.
    fn make_dirs(&self, dir: &Path) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = dir;
        while at != self.root && !self.durable().contains(at) {
            missing.push(at);
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for dir in missing.into_iter().rev() {
            match self.files.create_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(before("make directory", dir)(error).into()),
            }
            if let Some(parent) = dir.parent() {
                let opened = self.files.open_dir(parent).map_err(before("open", parent))?;
                self.synced(opened.sync(), parent)?;
            }
            let mut durable = self.durable();
            if durable.len() >= DURABLE_DIRS_MAX {
                durable.clear();
            }
            durable.insert(dir.to_owned());
        }
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an object's file, or the directory that it would be in, could not be opened for.
fn not_found(name: &str, path: &Path, error: io::Error) -> Error {
    match error.kind() {
        // A directory is no object, and below an object there is none.
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            Error::NotFound { path: name.to_owned(), source: error.into() }
        }
        _ => before("open", path)(error).into(),
    }
}
