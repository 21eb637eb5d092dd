//! Aggregation by runs: rows that come with equal keys one after the other are aggregated without a hash table.
//!
//! Segments are sorted by (logger, time), so that all rows of a logger's day stand together, wherever that day begins.
//! The first of DataFusion's two stages of an aggregation may give a group more than once, since the second one merges
//! what it gets. So the first stage needs no table here: each run of rows with equal keys becomes a group, given once
//! it has ended. This asks for no order of the input and is right for every order; it pays where runs are long. Where
//! they are short, what is left of the input goes to the hash table after all.

mod exec;
mod grouping;
mod rule;

pub(crate) use rule::AggregateRuns;

#[cfg(test)]
mod tests;
