//! Who may do what: the control database with organisations, gateways, tokens and the audit log; the internal certificate
//! authority; the master key; the data directory that holds all of it.
//!
//! Readings are never here, and nothing here knows the engine, queries, HTTP or the wire.

pub mod data_dir;
mod database;
mod error;
pub mod master_key;
pub mod pki;
pub mod private_file;

pub use database::{AuditEntry, Control, Gateway, NewGateway, Org, Standing, Token, TokenSecret, check_name};
pub use error::{Error, ErrorKind, Result, Subject};
