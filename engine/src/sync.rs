//! What threads share without locks: append-only columns with one writer, how far they go, which record is applied, and
//! whether the way in is open.
//!
//! No `unsafe`: cells are atomics. `engine/tests/loom` proves them under loom.

mod applied;
mod column;
mod extent;
mod gate;

pub(crate) use applied::Applied;
pub(crate) use column::{Column, ROWS_MAX};
pub(crate) use extent::Extent;
pub(crate) use gate::{Gate, GateState};
