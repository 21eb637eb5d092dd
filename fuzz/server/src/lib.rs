//! The bodies of the fuzz targets that need the whole server: SQL, CSV of readings, configuration. As in `fuzz`, they
//! are plain functions that take any bytes, panic only when a promise is broken, and answer whether the bytes were
//! good.

mod config;
mod csv;
mod sql;
mod units;
mod wal_replay;

pub use config::config;
pub use csv::csv;
pub use sql::sql;
pub use units::units;
pub use wal_replay::wal_replay;

#[cfg(test)]
#[path = "../../src/replay.rs"]
mod replay;
#[cfg(test)]
mod tests;
