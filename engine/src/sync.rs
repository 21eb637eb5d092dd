//! What threads share without locks: append-only columns with one writer, and the length that publishes them.
//!
//! No `unsafe`: cells are atomics. `engine/tests/loom.rs` proves the publication under loom.

mod column;

pub(crate) use column::{Column, Published, ROWS_MAX};
