//! The memory of one query.
//!
//! Where there is disk, operators that can spill share evenly, but never take the last quarter: what merges their
//! spilled runs cannot spill, and comes when they have taken all they may. (DataFusion's fair pool leaves it nothing.)
//! Without disk all memory goes to whoever asks.
//!
//! Every task that computes for a query holds its pool. So the pool also holds the query's place among the running
//! ones: it is free when the last task has ended, not when the response has.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Invariant: `spillable + unspillable` is at most the bound, but for what was grown without asking.
#[derive(Debug, Default)]
struct State {
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

/// See the module.
pub(super) struct QueryPool {
    bytes_max: usize,
    spills: bool,
    state: Mutex<State>,
    /// Given back when the query's last task has ended.
    _held: Box<dyn Send + Sync>,
}

impl QueryPool {
    pub(super) fn new(bytes_max: usize, spills: bool, held: impl Send + Sync + 'static) -> Self {
        Self { bytes_max, spills, state: Mutex::default(), _held: Box::new(held) }
    }

    fn can_spill(&self, consumer: &MemoryConsumer) -> bool {
        self.spills && consumer.can_spill()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryPool")
            .field("bytes_max", &self.bytes_max)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} bytes)", self.name(), self.bytes_max)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if self.can_spill(consumer) {
            self.state().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if self.can_spill(consumer) {
            let mut state = self.state();
            state.spillers = state.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let mut state = self.state();
        if self.can_spill(reservation.consumer()) {
            state.spillable += additional;
        } else {
            state.unspillable += additional;
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state();
        if self.can_spill(reservation.consumer()) {
            state.spillable = state.spillable.saturating_sub(shrink);
        } else {
            state.unspillable = state.unspillable.saturating_sub(shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state();
        let free = self.bytes_max.saturating_sub(state.unspillable);
        let granted = if self.can_spill(reservation.consumer()) {
            let share = free.min(self.bytes_max / 4 * 3) / state.spillers.max(1);
            reservation.size().saturating_add(additional) <= share
        } else {
            state.spillable.saturating_add(additional) <= free
        };
        if !granted {
            let name = reservation.consumer().name();
            return Err(DataFusionError::ResourcesExhausted(format!("{name} wants {additional} bytes more")));
        }
        if self.can_spill(reservation.consumer()) {
            state.spillable += additional;
        } else {
            state.unspillable += additional;
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        let state = self.state();
        state.spillable + state.unspillable
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}
