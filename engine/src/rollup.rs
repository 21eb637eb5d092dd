//! Rollups: aggregates of a segment's readings per logger and UTC hour or day, made while the readings pass by.
//!
//! Owns how aggregates are computed, and how the objects are made and read. Does not own when: compaction asks for the
//! rollups of what it writes, and for those of segments that have none.

mod builder;
mod mkt;
mod sum;
mod write;

pub(crate) use write::{RollupWriter, put_rollups};

#[cfg(test)]
mod tests;
