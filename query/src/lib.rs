//! SQL over icecore's readings: DataFusion on one snapshot of one organisation.
//!
//! This crate never writes. A [`Session`] belongs to one organisation and cannot see another; every query reads one
//! snapshot of the engine, prunes segments by their keys before any is opened, merges by first-wins where rows can
//! repeat, and is bounded in memory, time and rows.

mod analyzer;
mod budget;
mod canonical;
mod checks;
mod error;
mod export;
mod functions;
mod guard;
mod key_range;
mod leaf;
mod limits;
mod metadata_cache;
mod prune;
mod rollups;
mod runs;
mod scan;
mod session;
mod statement;
mod stream;
mod tables;
mod time;
mod turns;

pub use error::{LimitKind, QueryError};
pub use export::ExportRequest;
pub use limits::QueryLimits;
pub use session::{QueryEngine, Session};
pub use stream::{Encode, EncodedStream, QueryStream};
pub use turns::{InFlight, Turn, TurnKind, TurnRefused, Turns};
