//! icecore's thin layers: configuration, commands, HTTP, tokens, certificates, control database, export, and the
//! wiring of engine, ingest and query.
//!
//! Everything that keeps, finds or moves readings is in the crates below; here requests are mapped to calls.

pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod data_dir;
pub mod demo;
pub mod error;
pub mod export;
pub mod http;
pub mod keys;
pub mod open_files;
pub mod pki;
pub mod ports;
pub mod private_file;
pub mod readings_csv;
pub mod sender;
pub mod serve;
pub mod simulator;
pub mod telemetry;
