//! Rollups: aggregates of a segment's readings per logger and UTC hour or day, described in `docs/rollup.md`.
//!
//! In memory, rollup rows have the columns of [`rollup_schema`]. At rest their values are whole numbers of each logger's
//! own unit, relative to each other, in a Parquet file that is encrypted as segments are. The encoder decodes what it has
//! packed and compares, so it never creates an object that reads differently.

mod decode;
mod digest;
mod encoder;
mod grain;
mod pack;
mod schema;
mod unit;

pub use decode::decode_rollup;
pub use digest::RollupDigest;
pub use encoder::{RollupEncoder, RollupFooter};
pub use grain::RollupGrain;
pub use schema::{Aggregate, rollup_schema, stored_schema};

#[cfg(test)]
mod tests;
