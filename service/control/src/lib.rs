//! Who may do what: the control database with organisations, gateways, tokens and the audit log; enrolment; the internal
//! certificate authority; the master key; the data directory that holds all of it.
//!
//! Readings are never here, and nothing here knows the engine, queries, HTTP or the wire.

mod caller;
pub mod data_dir;
mod database;
mod enrolment;
mod error;
mod keep;
pub mod master_key;
pub mod pki;
pub mod private_file;
mod standings;

pub use caller::{Actor, ActorKind, Caller, Via, ViaKind};
pub use database::{
    AuditEntry, Control, DropId, DropOutcome, Gateway, Import, NewImport, OpenDrop, Org, Token, TokenSecret, check_name,
};
pub use enrolment::{Enrolment, Identity, NewGateway};
pub use error::{Error, ErrorKind, Result, Subject};
pub use keep::{KEEP_MONTHS_MIN, Keep};
pub use standings::{GatewayStanding, Standing, Standings};
