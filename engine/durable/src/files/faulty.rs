//! A file system in memory that does what real ones do at the worst moment: loses what was not synced (sectors of
//! writes and names of files and directories, each on its own), fails a sync and forgets what it should have synced,
//! writes elsewhere, reads wrong bits, runs full, stops at a given operation. For tests and simulations; the same seed
//! does the same.
//!
//! Model: a file has its bytes as processes see them, its bytes on the disk, and the writes in between; a directory the
//! same for names. A sync moves them over. A kill loses the process only; a power cut keeps, of what is in between,
//! any 512-byte sectors, any new lengths and any names, drawn from the seed; a directory whose name is lost is gone
//! with all in it. A failed sync empties what is in between: processes still see it, and no later sync will write it.

mod draw;
mod faults;
mod handle;
mod nodes;
mod operations;
mod power;
mod state;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use draw::Draw;
pub use faults::{FaultCounts, FaultRates, SyncKind};
pub(crate) use operations::Listed;
use state::{State, SyncCost};

/// What a restart loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process: `SIGKILL`. The operating system goes on and still writes what it was given. After a failed sync of
    /// names there is no going on: a real file system can only be mounted anew then, and that is a power cut here.
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
    /// The process that this one is for; without, it is for whichever lives.
    process: Option<u64>,
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

    /// The state, and the process that asks.
    fn enter(&self) -> (MutexGuard<'_, State>, u64) {
        let state = self.state();
        let process = self.process.unwrap_or(state.process);
        (state, process)
    }

    /// Any sync: counts, fails if it is its turn, and lets time pass.
    fn sync_as(&self, kind: SyncKind, process: u64, sync: impl FnOnce(&mut State, bool)) -> io::Result<()> {
        let mut state = self.state();
        state.operate(process)?;
        let fails = state.sync_fails(kind);
        sync(&mut state, fails);
        let cost = state.sync_cost.0.clone();
        drop(state);
        if let Some(cost) = cost {
            cost(kind);
        }
        if fails { Err(io::Error::other("the disk failed a sync")) } else { Ok(()) }
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

    /// The sync, of a file or of a directory, that comes after so many others fails, and loses what it should have made
    /// durable.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().fail_sync_after = Some(syncs);
    }

    /// So many writes from now on fail.
    pub fn fail_writes(&self, count: u32) {
        self.state().fail_writes = count;
    }

    /// Faults drawn from this seed, until the next restart or call.
    pub fn set_faults(&self, seed: u64, rates: FaultRates) {
        let mut state = self.state();
        (state.draw, state.rates) = (Draw::new(seed), rates);
    }

    /// What was injected so far; a restart does not reset it.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.state().counts
    }

    /// Called by every sync before it returns, whether it fails or not, so that simulated time can pass. Stays over
    /// restarts.
    pub fn set_sync_cost(&self, cost: Option<Arc<dyn Fn(SyncKind) + Send + Sync>>) {
        self.state().sync_cost = SyncCost(cost);
    }

    /// The same file system for the present process only: after a restart all that is done through it fails. What
    /// the process before left running cannot disturb the next one.
    #[must_use]
    pub fn of_this_process(&self) -> Self {
        let process = Some(self.enter().1);
        Self { state: Arc::clone(&self.state), process }
    }

    /// All files together may take so many bytes; `None` for no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Ends the process, if it still lives, and begins the next: all open files and locks are gone, faults are over.
    pub fn restart(&self, loss: Loss) {
        let mut state = self.state();
        state.end_process();
        let loss = state.at_least(loss);
        state.crash_at = None;
        state.fail_syncs = 0;
        state.fail_sync_after = None;
        state.fail_writes = 0;
        state.rates = FaultRates::default();
        let ends = if loss == Loss::Process { &mut state.counts.kills } else { &mut state.counts.power_cuts };
        *ends += 1;
        state.cut_power(loss);
    }

    /// A copy that goes its own way from here on. Its process has ended.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut state = self.state().clone();
        state.end_process();
        Self { state: Arc::new(Mutex::new(state)), process: None }
    }

    /// Flips bits of one byte, on the disk (if it is there yet) and as processes see it.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn rot(&self, path: &Path, offset: usize, bits: u8) {
        let mut state = self.state();
        let (_, _, file) = state.file(path).expect("the file is there");
        state.files[file].seen[offset] ^= bits;
        if let Some(byte) = state.files[file].disk.get_mut(offset) {
            *byte ^= bits;
        }
    }
}
