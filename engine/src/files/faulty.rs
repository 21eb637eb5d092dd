//! A file system in memory that does what real ones do at the worst moment: loses what was not synced (sectors of
//! writes and names of files, each on its own), fails a sync and forgets what it should have synced, runs full, stops
//! at a given operation. For tests and simulations; the same seed does the same.
//!
//! Model: a file has its bytes as processes see them, its bytes on the disk, and the writes in between; a directory the
//! same for names. A sync moves them over. A kill loses the process only; a power cut keeps, of what is in between,
//! any 512-byte sectors and any names, drawn from the seed. A failed sync empties what is in between: processes still
//! see it, and no later sync will write it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod faults;

pub use faults::{FaultCounts, FaultRates, SyncKind};

use super::{Dir as OpenDir, File, FileLock, Files};

const SECTOR: usize = 512;

/// What a restart loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process: `SIGKILL`. The operating system goes on and still writes what it was given.
    Process,
    /// Everything that was not synced.
    Unsynced,
    /// Of what was not synced, some: drawn from this seed.
    Some(u64),
}

/// The file system. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FaultyFiles {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    dirs: BTreeMap<PathBuf, Dir>,
    locks: BTreeSet<PathBuf>,
    /// Counts restarts: handles of an earlier process are dead.
    process: u64,
    operations: u64,
    crash_at: Option<u64>,
    fail_syncs: u32,
    fail_writes: u32,
    space: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    seen: Vec<u8>,
    disk: Vec<u8>,
    between: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone, Default)]
struct Dir {
    seen: BTreeMap<String, usize>,
    disk: BTreeMap<String, usize>,
    between: Vec<NameChange>,
}

#[derive(Debug, Clone)]
struct NameChange {
    remove: Option<String>,
    add: Option<(String, usize)>,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.remove {
            names.remove(name);
        }
        if let Some((name, inode)) = &self.add {
            names.insert(name.clone(), *inode);
        }
    }
}

impl Change {
    /// Applies the sectors that `keep` says yes to.
    fn apply(&self, bytes: &mut Vec<u8>, mut keep: impl FnMut() -> bool) {
        match self {
            Self::SetLen(len) => {
                if keep() {
                    bytes.resize(*len, 0);
                }
            }
            Self::Write { offset, bytes: written } => {
                let mut at = 0;
                while at < written.len() {
                    let position = offset + at;
                    let len = (SECTOR - position % SECTOR).min(written.len() - at);
                    if keep() {
                        if bytes.len() < position + len {
                            bytes.resize(position + len, 0);
                        }
                        bytes[position..position + len].copy_from_slice(&written[at..at + len]);
                    }
                    at += len;
                }
            }
        }
    }
}

/// SplitMix64: small, and the same everywhere.
struct Draw(u64);

impl Draw {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) & 1 == 1
    }
}

impl FaultyFiles {
    /// An empty file system without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changing operations so far (writes, syncs, names made, moved or removed).
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The process stops in the operation that comes after so many more: it and all later ones fail.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
    }

    /// Has the process stopped?
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        let state = self.state();
        state.crash_at.is_some_and(|at| state.operations > at)
    }

    /// So many syncs (of files) from now on fail, and what they should have synced never is.
    pub fn fail_syncs(&self, count: u32) {
        self.state().fail_syncs = count;
    }

    /// So many writes from now on fail.
    pub fn fail_writes(&self, count: u32) {
        self.state().fail_writes = count;
    }

    /// The sync, of a file or of a directory, that comes after so many others fails, and loses what it should have made
    /// durable.
    pub fn fail_sync_after(&self, _syncs: u64) {}

    /// Faults drawn from this seed, until the next restart or call.
    pub fn set_faults(&self, _seed: u64, _rates: FaultRates) {}

    /// What was injected so far; a restart does not reset it.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        FaultCounts::default()
    }

    /// Called by every sync before it returns, whether it fails or not, so that simulated time can pass. Stays over
    /// restarts.
    pub fn set_sync_cost(&self, _cost: Option<Arc<dyn Fn(SyncKind) + Send + Sync>>) {}

    /// The same file system for the present process only: after a restart all that is done through it fails. What
    /// the process before left running cannot disturb the next one.
    #[must_use]
    pub fn of_this_process(&self) -> Self {
        self.clone()
    }

    /// All files together may take so many bytes; `None` for no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Ends the process, if it still lives, and begins the next: all open files and locks are gone, faults are over.
    pub fn restart(&self, loss: Loss) {
        let mut state = self.state();
        state.process += 1;
        state.crash_at = None;
        state.fail_syncs = 0;
        state.fail_writes = 0;
        state.locks.clear();
        let mut draw = match loss {
            Loss::Process => return,
            Loss::Unsynced => None,
            Loss::Some(seed) => Some(Draw(seed)),
        };
        let mut keep = || draw.as_mut().is_some_and(Draw::coin);
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.between) {
                change.apply(&mut inode.disk, &mut keep);
            }
            inode.seen.clone_from(&inode.disk);
        }
        for dir in state.dirs.values_mut() {
            for change in std::mem::take(&mut dir.between) {
                if keep() {
                    change.apply(&mut dir.disk);
                }
            }
            dir.seen.clone_from(&dir.disk);
        }
    }

    /// A copy that goes its own way from here on. Its process has ended.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut state = self.state().clone();
        state.process += 1;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips bits of one byte, on the disk and as processes see it.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn rot(&self, path: &Path, offset: usize, bits: u8) {
        let mut state = self.state();
        let inode = state.find(path).expect("the file is there");
        state.inodes[inode].seen[offset] ^= bits;
        state.inodes[inode].disk[offset] ^= bits;
    }
}

impl State {
    /// Counts a changing operation; an error when the process is, or now gets, stopped.
    fn operate(&mut self, process: u64) -> io::Result<()> {
        self.alive(process)?;
        self.operations += 1;
        self.alive(process)
    }

    fn alive(&self, process: u64) -> io::Result<()> {
        let crashed = self.crash_at.is_some_and(|at| self.operations > at);
        if crashed || process != self.process {
            return Err(io::Error::other("the process is gone"));
        }
        Ok(())
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn find(&mut self, path: &Path) -> io::Result<usize> {
        let (dir, name) = split(path)?;
        self.dir(dir)?.seen.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn change_names(&mut self, dir: &Path, change: NameChange) -> io::Result<()> {
        let dir = self.dir(dir)?;
        change.apply(&mut dir.seen);
        dir.between.push(change);
        Ok(())
    }

    fn used(&self) -> u64 {
        let linked: BTreeSet<usize> = self.dirs.values().flat_map(|dir| dir.seen.values().copied()).collect();
        linked.iter().map(|&inode| self.inodes[inode].seen.len() as u64).sum()
    }

    fn check_space(&self, more: usize) -> io::Result<()> {
        match self.space {
            Some(space) if self.used() + more as u64 > space => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Files for FaultyFiles {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let process = state.process;
        state.alive(process)?;
        for dir in path.ancestors() {
            state.dirs.entry(dir.to_path_buf()).or_default();
        }
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.create_dir_all(path)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn OpenDir>> {
        Ok(Box::new(FaultyDir { files: self.clone(), dir: dir.to_path_buf() }))
    }

    fn sync_file_system(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.state().dir(dir)?.seen.keys().cloned().collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        let process = state.process;
        state.alive(process)?;
        let inode = state.find(path)?;
        Ok(Box::new(FaultyFile { files: self.clone(), inode, process }))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        let process = state.process;
        state.operate(process)?;
        if state.find(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        state.check_space(1)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        let (dir, name) = split(path)?;
        state.change_names(dir, NameChange { remove: None, add: Some((name.to_owned(), inode)) })?;
        Ok(Box::new(FaultyFile { files: self.clone(), inode, process }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let process = state.process;
        state.operate(process)?;
        let inode = state.find(from)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from)?, split(to)?);
        if from_dir != to_dir {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "renames stay within a directory"));
        }
        let change = NameChange { remove: Some(from_name.to_owned()), add: Some((to_name.to_owned(), inode)) };
        state.change_names(from_dir, change)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let process = state.process;
        state.operate(process)?;
        if state.find(to).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let inode = state.find(from)?;
        let (dir, name) = split(to)?;
        state.change_names(dir, NameChange { remove: None, add: Some((name.to_owned(), inode)) })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let process = state.process;
        state.operate(process)?;
        state.find(path)?;
        let (dir, name) = split(path)?;
        state.change_names(dir, NameChange { remove: Some(name.to_owned()), add: None })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let process = state.process;
        state.operate(process)?;
        let dir = state.dir(dir)?;
        dir.between.clear();
        dir.disk.clone_from(&dir.seen);
        Ok(())
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>> {
        let mut state = self.state();
        let process = state.process;
        state.alive(process)?;
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(FaultyLock { files: self.clone(), path: path.to_path_buf(), process })))
    }
}

#[derive(Debug)]
struct FaultyDir {
    files: FaultyFiles,
    dir: PathBuf,
}

impl OpenDir for FaultyDir {
    fn sync(&self) -> io::Result<()> {
        self.files.sync_dir(&self.dir)
    }
}

#[derive(Debug)]
struct FaultyLock {
    files: FaultyFiles,
    path: PathBuf,
    process: u64,
}

impl FileLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.files.state();
        if state.process == self.process {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    files: FaultyFiles,
    inode: usize,
    process: u64,
}

impl FaultyFile {
    fn change(&self, change: Change, grows_to: usize) -> io::Result<()> {
        let mut state = self.files.state();
        // A process that is stopped in a write may have written any part of it.
        state.alive(self.process)?;
        let crashed = state.operate(self.process);
        if state.fail_writes > 0 {
            state.fail_writes -= 1;
            return Err(io::Error::other("the disk failed a write"));
        }
        let more = grows_to.saturating_sub(state.inodes[self.inode].seen.len());
        if more > 0 {
            state.check_space(more)?;
        }
        let inode = &mut state.inodes[self.inode];
        change.apply(&mut inode.seen, || true);
        inode.between.push(change);
        crashed
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.files.state();
        state.operate(self.process)?;
        let fails = state.fail_syncs > 0;
        state.fail_syncs -= u32::from(fails);
        let inode = &mut state.inodes[self.inode];
        let between = std::mem::take(&mut inode.between);
        if fails {
            return Err(io::Error::other("the disk failed a sync"));
        }
        for change in between {
            change.apply(&mut inode.disk, || true);
        }
        Ok(())
    }
}

impl File for FaultyFile {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        let state = self.files.state();
        state.alive(self.process)?;
        Ok(state.inodes[self.inode].seen.clone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.files.state();
        state.alive(self.process)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = state.inodes[self.inode].seen.get(offset..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.change(Change::Write { offset, bytes: bytes.to_vec() }, offset + bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.files.state();
        state.alive(self.process)?;
        Ok(state.inodes[self.inode].seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.change(Change::SetLen(len), len)
    }
}
