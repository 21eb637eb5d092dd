//! The blocking part: staging files, names, and syncs.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use object_store::{Error, Result};

/// Directories known to be durable. Past so many the memory is not worth it: they are synced once more instead.
const DURABLE_DIRS_MAX: usize = 65_536;

/// Staging files are called `<number>.staged`.
const STAGED: &str = "staged";

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
    /// Must the process end?
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Stopped)
    }

    /// Is it certain that nothing was written?
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

fn before(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalDurableError {
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
    file: File,
    path: PathBuf,
    named: bool,
}

impl Staged {
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        Ok(self.file.write_all_at(bytes, offset).map_err(before("write", &self.path))?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed now goes at the next open.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[derive(Debug)]
pub(in crate::store) struct Disk {
    root: PathBuf,
    staging: PathBuf,
    next: AtomicU64,
    /// Set by a failed sync, never unset.
    stopped: AtomicBool,
    /// Directories below the root whose own entry has been synced.
    durable: Mutex<HashSet<PathBuf>>,
    #[cfg(test)]
    pub(in crate::store) hooks: hooks::Hooks,
}

impl Disk {
    pub(super) fn open(root: PathBuf, staging: PathBuf) -> Result<Self> {
        for dir in [&root, &staging] {
            make_durable_root(dir)?;
        }
        let root = root.canonicalize().map_err(before("resolve", &root))?;
        let staging = staging.canonicalize().map_err(before("resolve", &staging))?;
        if staging.starts_with(&root) {
            let source = io::Error::new(ErrorKind::InvalidInput, "the staging directory is inside the store");
            return Err(before("open", &staging)(source).into());
        }
        // A process killed between a name and its directory's sync left a name that can be read and may yet vanish.
        // What is read from here on is relied on (a manifest lets the WAL go), so all names are made durable first.
        sync_file_system(&root)?;
        let listed = fs::read_dir(&staging).map_err(before("list", &staging))?;
        for entry in listed {
            let path = entry.map_err(before("list", &staging))?.path();
            if path.extension().is_some_and(|extension| extension == STAGED) {
                fs::remove_file(&path).map_err(before("remove", &path))?;
            }
        }
        Ok(Self {
            root,
            staging,
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            durable: Mutex::new(HashSet::new()),
            #[cfg(test)]
            hooks: hooks::Hooks::default(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn check(&self) -> Result<()> {
        // A write that overlaps the failing sync may slip through: its own syncs speak for it.
        if self.stopped.load(Ordering::Acquire) { Err(LocalDurableError::Stopped.into()) } else { Ok(()) }
    }

    fn sync(&self, file: &File, path: &Path) -> Result<()> {
        #[cfg(test)]
        let done = self.hooks.sync(path).and_then(|()| file.sync_all());
        #[cfg(not(test))]
        let done = file.sync_all();
        done.map_err(|source| {
            self.stopped.store(true, Ordering::Release);
            LocalDurableError::Sync { path: path.to_owned(), source }.into()
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let file = File::open(dir).map_err(|source| LocalDurableError::Naming {
            what: "open for sync",
            path: dir.to_owned(),
            source,
        })?;
        self.sync(&file, dir)
    }

    pub(super) fn stage(&self) -> Result<Staged> {
        self.check()?;
        loop {
            let path = self.staging.join(format!("{}.{STAGED}", self.next.fetch_add(1, Ordering::Relaxed)));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Staged { file, path, named: false }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(before("make", &path)(error).into()),
            }
        }
    }

    pub(super) fn put<'a>(&self, target: &Target, chunks: impl Iterator<Item = &'a Bytes>) -> Result<()> {
        let mut staged = self.stage()?;
        for chunk in chunks {
            #[cfg(test)]
            self.hooks.write().map_err(before("write", &staged.path))?;
            staged.file.write_all(chunk).map_err(before("write", &staged.path))?;
        }
        self.name(staged, target)
    }

    pub(super) fn copy(&self, name: &str, source: &Path, target: &Target) -> Result<()> {
        let mut from = File::open(source).map_err(|e| not_found(name, e))?;
        let mut staged = self.stage()?;
        io::copy(&mut from, &mut staged.file).map_err(before("copy to", &staged.path))?;
        self.name(staged, target)
    }

    /// Syncs a staged file and gives it its name.
    pub(super) fn name(&self, mut staged: Staged, target: &Target) -> Result<()> {
        self.check()?;
        self.sync(&staged.file, &staged.path)?;
        let dir = target.file.parent().unwrap_or(&self.root);
        self.make_dirs(dir)?;
        // Opened before there is a name: after it only the sync itself can fail, and that is fatal.
        let dir_file = File::open(dir).map_err(before("open", dir))?;
        let naming = |what| move |source| LocalDurableError::Naming { what, path: target.file.clone(), source };
        if target.create {
            match fs::hard_link(&staged.path, &target.file) {
                Ok(()) => {}
                Err(source) if source.kind() == ErrorKind::AlreadyExists => {
                    // Whoever is told that it exists may rely on it: perhaps it is their own put, cut short.
                    self.sync(&dir_file, dir)?;
                    return Err(Error::AlreadyExists { path: target.name.clone(), source: source.into() });
                }
                Err(source) => return Err(naming("link")(source).into()),
            }
        } else {
            fs::rename(&staged.path, &target.file).map_err(naming("rename to"))?;
            staged.named = true;
        }
        self.sync(&dir_file, dir)
    }

    pub(super) fn remove(&self, name: &str, file: &Path) -> Result<()> {
        self.check()?;
        fs::remove_file(file).map_err(|e| not_found(name, e))?;
        self.sync_dir(file.parent().unwrap_or(&self.root))
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
            match fs::create_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(before("make directory", dir)(error).into()),
            }
            if let Some(parent) = dir.parent() {
                self.sync_dir(parent)?;
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

/// Makes one of the store's own directories, with those above it, and syncs every one that was made.
fn make_durable_root(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    make_durable_root(parent)?;
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) => return Err(before("make directory", dir)(error).into()),
    }
    let file = File::open(parent).map_err(before("open", parent))?;
    file.sync_all().map_err(|source| LocalDurableError::Sync { path: parent.to_owned(), source })?;
    Ok(())
}

/// Syncs everything on the file system that the store is on: one call, however many directories.
#[cfg(target_os = "linux")]
fn sync_file_system(root: &Path) -> Result<()> {
    let file = File::open(root).map_err(before("open", root))?;
    let done = rustix::fs::syncfs(&file).map_err(io::Error::from);
    Ok(done.map_err(|source| LocalDurableError::Sync { path: root.to_owned(), source })?)
}

/// Syncs every directory of the store, one by one.
#[cfg(not(target_os = "linux"))]
fn sync_file_system(root: &Path) -> Result<()> {
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(before("list", &dir))? {
            let path = entry.map_err(before("list", &dir))?.path();
            if path.is_dir() {
                left.push(path);
            }
        }
        let file = File::open(&dir).map_err(before("open", &dir))?;
        file.sync_all().map_err(|source| LocalDurableError::Sync { path: dir, source })?;
    }
    Ok(())
}

fn not_found(name: &str, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: name.to_owned(), source: error.into() },
        // A directory is no object.
        ErrorKind::IsADirectory => Error::NotFound { path: name.to_owned(), source: error.into() },
        _ => LocalDurableError::Naming { what: "open or remove", path: PathBuf::from(name), source: error }.into(),
    }
}

#[cfg(test)]
pub(in crate::store) mod hooks {
    //! What a test can see and spoil.

    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    pub(in crate::store) struct Hooks {
        pub(in crate::store) synced: Mutex<Vec<PathBuf>>,
        /// Fails the sync after so many others.
        pub(in crate::store) fail_sync_after: Mutex<Option<usize>>,
        pub(in crate::store) disk_full: Mutex<bool>,
    }

    impl Hooks {
        pub(super) fn sync(&self, path: &Path) -> io::Result<()> {
            let mut left = self.fail_sync_after.lock().expect("not poisoned");
            if let Some(left) = left.as_mut() {
                if *left == 0 {
                    return Err(io::Error::other("injected"));
                }
                *left -= 1;
            }
            self.synced.lock().expect("not poisoned").push(path.to_owned());
            Ok(())
        }

        pub(super) fn write(&self) -> io::Result<()> {
            if *self.disk_full.lock().expect("not poisoned") {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "injected"));
            }
            Ok(())
        }
    }
}
