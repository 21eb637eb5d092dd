//! The program: commands, configuration, the wiring of engine, ingest, query and service, telemetry, and the demo.
//!
//! No business rule is in here: what readings are is decided in the engine, who may do what in `service/control`, what
//! HTTP answers in `service/server`.

pub mod certificate;
pub mod cli;
pub mod config;
pub mod demo;
mod health;
pub mod open_files;
mod opened;
pub mod ports;
pub mod serve;
pub mod store;
pub mod telemetry;

use local::advice;
