//! The state behind the faulty file system: nodes, the clock of operations, and what is to go wrong.
//!
//! Invariants: a name seen counts as a link of its file, and `used` is the length of all files with links; a file's
//! bytes are let go when nothing (a name seen, on the disk or between, or a handle) holds them; whatever differs
//! between what is seen and the disk is in `dirty_files` or `dirty_dirs`. Directories have one name and keep it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::draw::Draw;
use super::faults::{FaultCounts, FaultRates, SyncKind};
use super::nodes::{Change, DirNode, FileNode, NameChange, Node};

/// The directory that every path starts from, with a slash before it or not.
pub(super) const ROOT: usize = 0;

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) files: Vec<FileNode>,
    pub(super) dirs: Vec<DirNode>,
    pub(super) dirty_files: BTreeSet<usize>,
    pub(super) dirty_dirs: BTreeSet<usize>,
    pub(super) locks: BTreeSet<PathBuf>,
    /// Counts restarts: handles of an earlier process are dead.
    pub(super) process: u64,
    pub(super) operations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) fail_syncs: u32,
    /// Syncs left before the one that fails.
    pub(super) fail_sync_after: Option<u64>,
    pub(super) fail_writes: u32,
    pub(super) space: Option<u64>,
    pub(super) used: u64,
    pub(super) draw: Draw,
    pub(super) rates: FaultRates,
    pub(super) counts: FaultCounts,
    pub(super) sync_cost: SyncCost,
}

/// What a sync costs in simulated time.
#[derive(Clone, Default)]
pub(super) struct SyncCost(pub(super) Option<Arc<dyn Fn(SyncKind) + Send + Sync>>);

impl fmt::Debug for SyncCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "SyncCost(some)" } else { "SyncCost(none)" })
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            dirs: vec![DirNode::default()],
            dirty_files: BTreeSet::new(),
            dirty_dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            process: 0,
            operations: 0,
            crash_at: None,
            fail_syncs: 0,
            fail_sync_after: None,
            fail_writes: 0,
            space: None,
            used: 0,
            draw: Draw::default(),
            rates: FaultRates::default(),
            counts: FaultCounts::default(),
            sync_cost: SyncCost::default(),
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the process is gone")
}

impl State {
    /// Counts a changing operation; an error when the process is, or now gets, stopped.
    pub(super) fn operate(&mut self, process: u64) -> io::Result<()> {
        self.alive(process)?;
        self.operations += 1;
        self.alive(process).inspect_err(|_| self.counts.crashes += 1)
    }

    pub(super) fn alive(&self, process: u64) -> io::Result<()> {
        let crashed = self.crash_at.is_some_and(|at| self.operations > at);
        if crashed { Err(gone()) } else { self.is_current(process) }
    }

    /// Is it the last process, stopped or not?
    pub(super) fn is_current(&self, process: u64) -> io::Result<()> {
        if process == self.process { Ok(()) } else { Err(gone()) }
    }

    /// The directory at the end of a path.
    pub(super) fn dir(&self, path: &Path) -> io::Result<usize> {
        let mut at = ROOT;
        for component in path.components() {
            let name = match component {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => name.to_str(),
                Component::ParentDir | Component::Prefix(_) => None,
            };
            let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            at = match self.dirs[at].seen.get(name) {
                Some(Node::Dir(next)) => *next,
                Some(Node::File(_)) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
                None => return Err(io::Error::from(io::ErrorKind::NotFound)),
            };
        }
        Ok(at)
    }

    /// What a path stands for, if it stands for anything, with the directory that it is or would be in, and its name.
    pub(super) fn entry<'p>(&self, path: &'p Path) -> io::Result<(usize, &'p str, Option<Node>)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (dir, name) = path.parent().zip(name).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let dir = self.dir(dir)?;
        Ok((dir, name, self.dirs[dir].seen.get(name).copied()))
    }

    /// Where a new name is to be.
    pub(super) fn vacant<'p>(&self, path: &'p Path) -> io::Result<(usize, &'p str)> {
        match self.entry(path)? {
            (dir, name, None) => Ok((dir, name)),
            _ => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        }
    }

    /// The file of this name.
    pub(super) fn file<'p>(&self, path: &'p Path) -> io::Result<(usize, &'p str, usize)> {
        match self.entry(path)? {
            (dir, name, Some(Node::File(file))) => Ok((dir, name, file)),
            (_, _, Some(Node::Dir(_))) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            (_, _, None) => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    pub(super) fn new_dir(&mut self) -> Node {
        self.dirs.push(DirNode::default());
        Node::Dir(self.dirs.len() - 1)
    }

    pub(super) fn new_file(&mut self) -> usize {
        self.files.push(FileNode::default());
        self.files.len() - 1
    }

    pub(super) fn change_names(&mut self, dir: usize, change: NameChange) {
        if let Some((_, node)) = change.add {
            self.link(node);
            // Once more for the change, which becomes the disk's.
            self.hold(node);
        }
        for node in change.apply(&mut self.dirs[dir].seen).into_iter().flatten() {
            self.unlink(node);
        }
        self.dirs[dir].between.push(change);
        self.dirty_dirs.insert(dir);
    }

    pub(super) fn sync_names(&mut self, dir: usize) {
        for change in std::mem::take(&mut self.dirs[dir].between) {
            for node in change.apply(&mut self.dirs[dir].disk).into_iter().flatten() {
                self.release(node);
            }
        }
        if !self.dirs[dir].strayed {
            self.dirty_dirs.remove(&dir);
        }
    }

    /// A sync failed: what is between never gets to the disk.
    pub(super) fn stray_names(&mut self, dir: usize) {
        let changes = std::mem::take(&mut self.dirs[dir].between);
        self.dirs[dir].strayed |= !changes.is_empty();
        for (_, node) in changes.into_iter().filter_map(|change| change.add) {
            self.release(node);
        }
    }

    pub(super) fn change_bytes(&mut self, file: usize, change: Change) {
        let node = &mut self.files[file];
        let before = node.seen.len();
        change.apply(&mut node.seen);
        if node.links > 0 {
            self.used = self.used - before as u64 + node.seen.len() as u64;
        }
        node.between.push(change);
        self.dirty_files.insert(file);
    }

    pub(super) fn sync_bytes(&mut self, file: usize) {
        let node = &mut self.files[file];
        for change in std::mem::take(&mut node.between) {
            change.apply(&mut node.disk);
        }
        if !node.strayed {
            self.dirty_files.remove(&file);
        }
    }

    /// A sync failed: what is between never gets to the disk.
    pub(super) fn stray_bytes(&mut self, file: usize) {
        let node = &mut self.files[file];
        node.strayed |= !node.between.is_empty();
        node.between.clear();
    }

    pub(super) fn sync_all(&mut self, fails: bool) {
        for file in self.dirty_files.clone() {
            if fails { self.stray_bytes(file) } else { self.sync_bytes(file) }
        }
        for dir in self.dirty_dirs.clone() {
            if fails { self.stray_names(dir) } else { self.sync_names(dir) }
        }
    }

    /// Does this sync fail?
    pub(super) fn sync_fails(&mut self, kind: SyncKind) -> bool {
        let told = match &mut self.fail_sync_after {
            Some(0) => {
                self.fail_sync_after = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let is_dir = kind == SyncKind::Dir;
        let counted = !is_dir && self.fail_syncs > 0;
        self.fail_syncs -= u32::from(counted);
        let rate = if is_dir { self.rates.dir_sync_error } else { self.rates.sync_error };
        let fails = self.draw.chance(rate) || told || counted;
        let count = if is_dir { &mut self.counts.dir_sync_errors } else { &mut self.counts.sync_errors };
        *count += u64::from(fails);
        fails
    }

    pub(super) fn open_fails(&mut self) -> io::Result<()> {
        if self.draw.chance(self.rates.open_error) {
            self.counts.open_errors += 1;
            return Err(io::Error::other("too many open files"));
        }
        Ok(())
    }

    pub(super) fn name_fails(&mut self) -> io::Result<()> {
        if self.draw.chance(self.rates.name_error) {
            self.counts.name_errors += 1;
            return Err(io::Error::other("the disk failed before a name was changed"));
        }
        Ok(())
    }

    pub(super) fn check_space(&mut self, more: usize) -> io::Result<()> {
        match self.space {
            Some(space) if self.used + more as u64 > space => {
                self.counts.no_space += 1;
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }

    fn link(&mut self, node: Node) {
        self.hold(node);
        if let Node::File(file) = node {
            let file = &mut self.files[file];
            file.links += 1;
            if file.links == 1 {
                self.used += file.seen.len() as u64;
            }
        }
    }

    fn unlink(&mut self, node: Node) {
        if let Node::File(file) = node {
            let file = &mut self.files[file];
            file.links -= 1;
            if file.links == 0 {
                self.used -= file.seen.len() as u64;
            }
        }
        self.release(node);
    }

    fn hold(&mut self, node: Node) {
        if let Node::File(file) = node {
            self.files[file].holds += 1;
        }
    }

    fn release(&mut self, node: Node) {
        if let Node::File(file) = node {
            self.files[file].holds -= 1;
            self.drop_if_free(file);
        }
    }

    pub(super) fn drop_if_free(&mut self, file: usize) {
        if self.files[file].holds == 0 {
            self.files[file] = FileNode::default();
            self.dirty_files.remove(&file);
        }
    }

    pub(super) fn open_handle(&mut self, file: usize) {
        self.files[file].holds += 1;
        self.files[file].handles += 1;
    }

    pub(super) fn close_handle(&mut self, file: usize) {
        self.files[file].handles -= 1;
        self.release(Node::File(file));
    }
}
