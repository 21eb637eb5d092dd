//! Bodies of the fuzz targets that need the complete server: SQL, CSV of readings, configuration, requests of local
//! commands, WAL replay. As in
//! `fuzz`, they are plain functions that take any bytes, panic only when a property is violated, and return whether the
//! bytes were valid.

mod config;
mod csv;
mod local_call;
mod sql;
mod units;
mod wal_replay;

pub use config::config;
pub use csv::csv;
pub use local_call::local_call;
pub use sql::sql;
pub use units::units;
pub use wal_replay::wal_replay;

#[cfg(test)]
#[path = "../../src/replay.rs"]
mod replay;
#[cfg(test)]
mod tests;
