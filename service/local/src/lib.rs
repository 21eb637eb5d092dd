//! Commands that need the engine, and the one way in which they run.
//!
//! A command is one async function over (engine, control, request) that emits events ([`run`]). When a server holds the
//! data directory, the command reaches it through a Unix socket there ([`Door`], [`reach`]): HTTP/1, a JSON request, and
//! events as one JSON object per line. Without a server the command's own process opens the directory and calls the same
//! function. Only the user who runs the server may come in; who may do what within is nobody's question here.
//!
//! A new command is a module with a request and a `run`, and a variant of [`Command`].

pub mod advice;
mod command;
mod compact;
mod door;
mod event;
mod import;
mod limits;
mod manifest;
mod reach;
pub mod retention;
mod socket;

pub use command::{AcceptedTimes, Call, Command, CommandContext, Resources, decode_call, run};
pub use compact::CompactRequest;
pub use door::{Door, Serving};
pub use event::{Event, Events, EventsReader, Progress};
pub use import::ImportRequest;
pub use limits::CALL_BYTES_MAX;
pub use manifest::{ManifestRequest, show as show_manifest};
pub use reach::{Connection, Reached, ask, reach};
