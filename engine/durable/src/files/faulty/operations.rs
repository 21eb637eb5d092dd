//! The faulty file system as a file system: paths, names, directories and locks.

use std::io;
use std::path::{Path, PathBuf};

use super::FaultyFiles;
use super::faults::SyncKind;
use super::handle::FaultyFile;
use super::nodes::{NameChange, Node};
use crate::files::{Dir, File, FileLock, Files};

/// What is in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    /// A directory.
    Dir,
    /// A file: a number that no other one has or had, and its length.
    File { id: usize, len: u64 },
}

impl FaultyFiles {
    /// The names in a directory and what they stand for, sorted.
    pub(crate) fn entries(&self, dir: &Path) -> io::Result<Vec<(String, Listed)>> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        let dir = state.dir(dir)?;
        state.open_fails()?;
        let listed = |node: &Node| match *node {
            Node::Dir(_) => Listed::Dir,
            Node::File(id) => Listed::File { id, len: state.files[id].seen.len() as u64 },
        };
        Ok(state.dirs[dir].seen.iter().map(|(name, node)| (name.clone(), listed(node))).collect())
    }

    /// The number and the length of a file.
    pub(crate) fn stat(&self, path: &Path) -> io::Result<(usize, u64)> {
        let (state, process) = self.enter();
        state.alive(process)?;
        let (_, _, id) = state.file(path)?;
        Ok((id, state.files[id].seen.len() as u64))
    }

    fn sync_dir_node(&self, dir: usize, process: u64) -> io::Result<()> {
        self.sync_as(
            SyncKind::Dir,
            process,
            |state, fails| {
                if fails { state.stray_names(dir) } else { state.sync_names(dir) }
            },
        )
    }
}

impl Files for FaultyFiles {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        let above: Vec<&Path> = path.ancestors().collect();
        for dir in above.into_iter().rev().filter(|dir| dir.file_name().is_some()) {
            match state.entry(dir)? {
                (_, _, Some(Node::Dir(_))) => {}
                (_, _, Some(Node::File(_))) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
                (parent, name, None) => {
                    state.name_fails()?;
                    let node = state.new_dir();
                    state.change_names(parent, NameChange::add(name, node));
                    state.sync_names(parent);
                }
            }
        }
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.operate(process)?;
        let (parent, name) = state.vacant(path)?;
        state.name_fails()?;
        state.check_space(1)?;
        let node = state.new_dir();
        state.change_names(parent, NameChange::add(name, node));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let (mut state, process) = self.enter();
        state.is_current(process)?;
        let dir = state.dir(dir)?;
        state.open_fails()?;
        let names = &state.dirs[dir].seen;
        Ok(names.iter().filter(|(_, node)| matches!(node, Node::File(_))).map(|(name, _)| name.clone()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        let (_, _, file) = state.file(path)?;
        state.open_fails()?;
        state.open_handle(file);
        Ok(Box::new(FaultyFile::new(self.clone(), file, process)))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let (mut state, process) = self.enter();
        state.operate(process)?;
        let (dir, name) = state.vacant(path)?;
        state.name_fails()?;
        state.open_fails()?;
        state.check_space(1)?;
        let file = state.new_file();
        state.change_names(dir, NameChange::add(name, Node::File(file)));
        state.open_handle(file);
        Ok(Box::new(FaultyFile::new(self.clone(), file, process)))
    }

    /// From one directory to another it is two changes, which a power cut tells apart: a file system with a journal
    /// would be kinder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.operate(process)?;
        let (from_dir, from_name, file) = state.file(from)?;
        let (to_dir, to_name, replaced) = state.entry(to)?;
        if matches!(replaced, Some(Node::Dir(_))) {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        state.name_fails()?;
        let mut change = NameChange::add(to_name, Node::File(file));
        if from_dir == to_dir {
            change.remove = Some(from_name.to_owned());
        }
        state.change_names(to_dir, change);
        if from_dir != to_dir {
            state.change_names(from_dir, NameChange::remove(from_name));
        }
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.operate(process)?;
        let (_, _, file) = state.file(from)?;
        let (dir, name) = state.vacant(to)?;
        state.name_fails()?;
        state.change_names(dir, NameChange::add(name, Node::File(file)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.operate(process)?;
        let (dir, name, _) = state.file(path)?;
        state.name_fails()?;
        state.change_names(dir, NameChange::remove(name));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        let dir = state.dir(dir)?;
        state.open_fails()?;
        drop(state);
        self.sync_dir_node(dir, process)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn Dir>> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        let dir = state.dir(dir)?;
        state.open_fails()?;
        Ok(Box::new(FaultyDir { files: self.clone(), dir, process }))
    }

    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        state.dir(dir)?;
        state.open_fails()?;
        drop(state);
        self.sync_as(SyncKind::FileSystem, process, |state, fails| state.sync_all(fails))
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>> {
        let (mut state, process) = self.enter();
        state.alive(process)?;
        state.open_fails()?;
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(FaultyLock { files: self.clone(), path: path.to_path_buf(), process })))
    }
}

#[derive(Debug)]
struct FaultyDir {
    files: FaultyFiles,
    dir: usize,
    process: u64,
}

impl Dir for FaultyDir {
    fn sync(&self) -> io::Result<()> {
        self.files.sync_dir_node(self.dir, self.process)
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
