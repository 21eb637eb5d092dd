//! Whether what is put into a queue is still taken out: open, closing, or ended.
//!
//! Invariant: what is put in is taken out, also when the end comes in the same instant. Whoever ends first says so and
//! then empties the queue ([`Gate::end`]); whoever puts something in then asks whether it has ended and, if so, empties
//! the queue too ([`Gate::ended_behind`]). A fence between either's two steps lets at least one see the other.
//!
//! Owns the state; knows neither the queue nor what is in it.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering, fence};

const OPEN: u8 = 0;
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;
const FAILED: u8 = 3;

/// What the way in is at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GateState {
    /// Put in what you like.
    Open,
    /// Nothing more, please; what is in is still worked off.
    Closing,
    /// Nobody takes anything out any more.
    Closed,
    /// The same, after an error.
    Failed,
}

/// The state of a way in. It only ever goes forwards.
#[derive(Debug)]
pub(crate) struct Gate(AtomicU8);

impl Gate {
    /// An open one.
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(OPEN))
    }

    /// The state now. Whoever sees `Closing` sees what was put in before the call of [`Gate::close`] too.
    pub(crate) fn state(&self) -> GateState {
        match self.0.load(Ordering::Acquire) {
            OPEN => GateState::Open,
            CLOSING => GateState::Closing,
            CLOSED => GateState::Closed,
            _ => GateState::Failed,
        }
    }

    /// From open to closing.
    pub(crate) fn close(&self) {
        self.0.fetch_max(CLOSING, Ordering::AcqRel);
    }

    /// Nobody takes anything out any more, but the caller, who empties the queue after this.
    pub(crate) fn end(&self, failed: bool) {
        self.0.fetch_max(if failed { FAILED } else { CLOSED }, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Asked by whoever has just put something in: if it has ended, it may be that nobody but the caller sees it.
    pub(crate) fn ended_behind(&self) -> bool {
        fence(Ordering::SeqCst);
        matches!(self.state(), GateState::Closed | GateState::Failed)
    }
}
