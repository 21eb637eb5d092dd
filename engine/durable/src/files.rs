//! The file layer: what the WAL, the lock, the keys and the local object store need of a file system, as traits, so
//! that tests put one beneath that loses what was not synced, runs full, or fails.
//!
//! Rules that callers rely on: a file's bytes are safe after [`File::sync_data`] (or [`File::sync_all`]) returned; a
//! name made, renamed or removed is safe after [`Files::sync_dir`] of its directory returned. Nothing else is.

use std::fmt::Debug;
use std::io;
use std::path::Path;

#[cfg(any(test, feature = "fault"))]
mod faulty;
mod real;
mod replace;
mod uncached;

#[cfg(any(test, feature = "fault"))]
pub(crate) use faulty::Listed;
#[cfg(any(test, feature = "fault"))]
pub use faulty::{FaultCounts, FaultRates, FaultyFiles, Loss, SyncKind};
pub use real::RealFiles;
pub use replace::replace_file;

/// A file system, or something that behaves like one.
pub trait Files: Send + Sync + Debug {
    /// Makes a directory and those above it, and makes all new names durable.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes one directory in one that is there. Its name is durable after [`Files::sync_dir`] of the parent, not before.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names (not paths) of the plain files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file that is there, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Makes a file that is not there yet, readable by its owner only, and opens it for reading and writing.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// As [`Files::create_new`], for a file that this process writes, in whole sectors at whole sectors, and does not
    /// read: where the system can, its bytes go to the disk without a copy in the system's cache. That is for speed only.
    fn create_new_uncached(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.create_new(path)
    }

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name; fails with [`io::ErrorKind::AlreadyExists`] when something has it.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens a directory, so that after a change to its names only the sync itself can fail.
    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn Dir>>;

    /// Makes all that was changed so far on the file system of this directory durable, names and bytes, by whichever
    /// process.
    fn sync_file_system(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file (made when missing) against other processes until the lock is dropped; `None` when another has it.
    fn lock_exclusive(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>>;
}

/// An open file. Positions are explicit: there is no cursor.
pub trait File: Send + Sync + Debug {
    /// The whole file.
    fn read_all(&self) -> io::Result<Vec<u8>>;

    /// Fills as much of the buffer as the file has from this offset; returns how much.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it at this offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the bytes durable, with what is needed to find them again (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes bytes and metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Is there nothing in it?
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or lengthens the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// An open directory.
pub trait Dir: Send + Sync + Debug {
    /// Makes the names in it durable.
    fn sync(&self) -> io::Result<()>;
}

/// A held lock; given up when dropped.
pub trait FileLock: Send + Sync + Debug {}

#[cfg(test)]
mod tests;
