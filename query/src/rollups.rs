//! Aggregates from rollups: sums over hours and days that were made when a segment was written, instead of its rows.
//!
//! An aggregate by hour or anything coarser, or over a whole range, asks nothing of a row that the rollup of its hour or
//! day does not know, as long as the whole of that hour or day falls into one group and passes or fails the filters as one
//! (`steps`). The rule (`rule`) finds such aggregates in the optimised plan and gives them another table to read (`table`):
//! each of its rows stands for one or many readings, with a count, a smallest and a greatest value, a sum, the first and the last
//! value. A reading is a row that stands for one. So filters, groups and the merging of what partitions bring are DataFusion's as
//! before, and what is left to decide is which readings come in which form (`cover`):
//!
//! - days of UTC within one group from daily rollups, hours within one group from hourly ones, all else from rows;
//! - segments that share keys with others, and those that have no rollups, from rows;
//! - days of loggers to which a write buffer may hold more rows, or other values, from rows, merged by first-wins.
//!
//! Invariant: each reading of the snapshot comes exactly once, in one of the forms.

mod cover;
mod huge;
mod keys;
mod pieces;
mod question;
mod rule;
mod scan;
mod steps;
mod table;

pub(crate) use cover::{Cover, Rows};
pub(crate) use keys::rows_beside_rollups;
pub(crate) use rule::FromRollups;

#[cfg(test)]
mod tests;
