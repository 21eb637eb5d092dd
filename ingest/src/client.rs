//! The gateway's side: numbers frames, keeps them until they are acknowledged, reconnects and resumes automatically.
//!
//! `session` is the interface for programs; `spool` keeps the frames; `reconnect` makes attempts to connect;
//! `connection` runs the protocol on one connection; `identity` has the gateway's certificate and key; `endpoint` is a
//! socket that many clients can share.

mod config;
mod connection;
mod endpoint;
mod error;
mod identity;
mod reconnect;
mod session;
mod spool;

pub use config::{ClientConfig, ResponseObserver};
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use identity::{CA_FILE, CERTIFICATE_FILE, Identity, IdentityError, KEY_FILE, SERVER_NAME_FILE};
pub use session::{Client, Failure, Progress, Summary, Wire};
pub use spool::{Fate, RefusedFrame, Spool};
