//! The gateway's side: numbers frames, keeps them until they are acknowledged, reconnects and resumes by itself.
//!
//! `session` is what a program holds; `spool` keeps the frames; `reconnect` tries again; `link` is one connection's
//! conversation; `identity` is who the gateway is.

mod config;
mod error;
mod identity;
mod link;
mod reconnect;
mod session;
mod spool;

pub use config::ClientConfig;
pub use error::ClientError;
pub use identity::{CA_FILE, CERTIFICATE_FILE, Identity, IdentityError, KEY_FILE, SERVER_NAME_FILE};
pub use session::{Client, Failure, Progress, Summary};
pub use spool::{Fate, RefusedFrame, Spool};
