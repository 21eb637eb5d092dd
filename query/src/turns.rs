//! Turns: which request runs next, when more want to than may.
//!
//! A request enters, which counts it among its organisation's requests, and later asks for a turn to run. When no turn
//! is free for it, it waits, for at most [`QueryLimits::queue_time_max`]. Organisations that wait take turns: between
//! two turns of an organisation that waits for room among all, every other organisation gets one at most. Within an
//! organisation, requests run in the order in which they asked.
//!
//! Exports can hold their turns for hours. So they never hold all of them, neither of the server nor of an
//! organisation that may have more than one; what is said above holds for queries among themselves and for exports
//! among themselves; and where one of each could run, the kinds take turns as well.
//!
//! Invariant: whenever the lock is free, no request waits that could run. So one that asks and may run need not wait
//! behind anybody, and only the end of a turn can let others run. Whoever stops waiting leaves nothing behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage_format::OrgId;
use tokio::sync::oneshot;

mod table;

use crate::limits::QueryLimits;
use table::{Asked, Table};

/// What a turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnKind {
    /// A query, which has a limit of time.
    Query,
    /// An export, which may take hours.
    Export,
}

impl TurnKind {
    fn other(self) -> Self {
        match self {
            Self::Query => Self::Export,
            Self::Export => Self::Query,
        }
    }
}

/// Why a request does not run. The first two are about its organisation's own requests, the others about those of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TurnRefused {
    /// The organisation has as many requests as it may have, those that wait included.
    #[error("this organisation has {requests_max} requests in flight, which is the limit")]
    OrgRequests {
        /// Requests of one organisation at once.
        requests_max: usize,
    },
    /// The organisation's own requests held all of its turns for as long as a request waits.
    #[error("{running_max} requests of this organisation are running, which is the limit, and none ended in time")]
    OrgTurns {
        /// Requests of this kind that may run at once for one organisation.
        running_max: usize,
    },
    /// There are as many requests as there may be, those that wait included.
    #[error("the server has {requests_max} requests in flight, which is the limit")]
    Requests {
        /// Requests of all organisations at once.
        requests_max: usize,
    },
    /// The requests of all organisations held all turns for as long as a request waits.
    #[error("the server runs {running_max} requests, which is the limit, and none ended in time")]
    Turns {
        /// Requests of this kind that may run at once.
        running_max: usize,
    },
}

impl TurnRefused {
    /// Returns whether the organisation's own requests are the reason.
    #[must_use]
    pub fn is_own(self) -> bool {
        matches!(self, Self::OrgRequests { .. } | Self::OrgTurns { .. })
    }
}

/// Limits that an organisation and all organisations together have in the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Requests in flight: those that have entered and not left.
    requests: usize,
    /// Turns at once.
    running: usize,
    /// Turns of exports at once, among those.
    exports: usize,
}

/// The limits of [`Turns`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct TurnLimits {
    all: Limits,
    org: Limits,
    wait_max: Duration,
}

impl TurnLimits {
    fn of(limits: &QueryLimits) -> Self {
        let running = limits.queries_max.max(1);
        let of_org = limits.queries_per_org_max.clamp(1, running);
        Self {
            all: Limits {
                requests: limits.requests_max,
                running,
                // A quarter stays free for queries, and an organisation alone does not reach this.
                exports: (running - running.div_ceil(4)).max(1),
            },
            org: Limits { requests: limits.requests_per_org_max, running: of_org, exports: (of_org - 1).max(1) },
            wait_max: limits.queue_time_max,
        }
    }
}

/// The turns of all organisations' queries and exports. Clones share them.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: TurnLimits,
    table: Mutex<Table<oneshot::Sender<()>>>,
}

impl Turns {
    /// Turns within these limits.
    #[must_use]
    pub fn new(limits: &QueryLimits) -> Self {
        let limits = TurnLimits::of(limits);
        let table = Mutex::new(Table::new(limits.all, limits.org));
        Self(Arc::new(Shared { limits, table }))
    }

    /// Counts a request among those of its organisation, until what is returned is dropped.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub fn enter(&self, org: OrgId) -> Result<InFlight, TurnRefused> {
        self.table().enter(org)?;
        Ok(InFlight { turns: self.clone(), org })
    }

    /// Number of requests that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.table().waiting()
    }

    /// Number of requests that have their turn.
    #[must_use]
    pub fn running(&self) -> usize {
        self.table().running()
    }

    fn table(&self) -> MutexGuard<'_, Table<oneshot::Sender<()>>> {
        // Nothing that runs under the lock panics half-way.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a turn, and wakes those who get one by this.
    fn release(&self, org: OrgId, kind: TurnKind) {
        let granted = self.table().release(org, kind);
        for waiter in granted {
            // One that has gone away meanwhile gives its turn back itself.
            let _ = waiter.send(());
        }
    }
}

/// A request in flight, counted until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    turns: Turns,
    org: OrgId,
}

impl InFlight {
    /// Waits for a turn. Dropped before it is there, it leaves the queue.
    ///
    /// # Errors
    /// When none was free for as long as a request waits.
    pub async fn turn(&self, kind: TurnKind) -> Result<Turn, TurnRefused> {
        let (granted, grant) = oneshot::channel();
        let asked = self.turns.table().ask(self.org, kind, granted);
        let turn = || Turn { turns: self.turns.clone(), org: self.org, kind };
        let id = match asked {
            Asked::Granted => return Ok(turn()),
            Asked::Waits(id) => id,
        };
        let mut waiting = Waiting { entry: self, kind, id, over: false };
        // Whether the turn came or the time ended first: what counts is what the table says now.
        let _ = tokio::time::timeout(self.turns.0.limits.wait_max, grant).await.is_ok();
        waiting.end().map_or_else(|| Ok(turn()), Err)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.turns.table().leave(self.org);
    }
}

/// A request that waits. Dropped, it leaves the queue, or gives back the turn that it has just got.
struct Waiting<'a> {
    entry: &'a InFlight,
    kind: TurnKind,
    id: u64,
    over: bool,
}

impl Waiting<'_> {
    /// Ends the wait. `None` means that the turn was granted, and is the caller's.
    fn end(&mut self) -> Option<TurnRefused> {
        self.over = true;
        self.entry.turns.table().give_up(self.entry.org, self.kind, self.id)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over && self.end().is_none() {
            self.entry.turns.release(self.entry.org, self.kind);
        }
    }
}

/// The turn of a request. Dropped, it lets another one run.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    org: OrgId,
    kind: TurnKind,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.release(self.org, self.kind);
    }
}

#[cfg(test)]
mod tests;
