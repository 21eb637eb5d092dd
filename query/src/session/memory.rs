//! The memory of one query that may spill.
//!
//! Operators that can spill share evenly, but never take the last quarter: what merges their spilled runs cannot
//! spill, and comes when they have taken all they may. (DataFusion's fair pool leaves it nothing.)

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
#[derive(Debug)]
pub(super) struct SpillPool {
    bytes_max: usize,
    state: Mutex<State>,
}

impl SpillPool {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for SpillPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} bytes)", self.name(), self.bytes_max)
    }
}

impl MemoryPool for SpillPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.state().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            let mut state = self.state();
            state.spillers = state.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let mut state = self.state();
        if reservation.consumer().can_spill() {
            state.spillable += additional;
        } else {
            state.unspillable += additional;
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state();
        if reservation.consumer().can_spill() {
            state.spillable = state.spillable.saturating_sub(shrink);
        } else {
            state.unspillable = state.unspillable.saturating_sub(shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state();
        let free = self.bytes_max.saturating_sub(state.unspillable);
        let granted = if reservation.consumer().can_spill() {
            let share = free.min(self.bytes_max / 4 * 3) / state.spillers.max(1);
            reservation.size().saturating_add(additional) <= share
        } else {
            state.spillable.saturating_add(additional) <= free
        };
        if !granted {
            let name = reservation.consumer().name();
            return Err(DataFusionError::ResourcesExhausted(format!("{name} wants {additional} bytes more")));
        }
        if reservation.consumer().can_spill() {
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
