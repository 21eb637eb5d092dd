//! The gateway's side: numbers frames, keeps them until they are acknowledged, reconnects and resumes by itself.
//!
//! `session` is what a program holds; `spool` keeps the frames; `reconnect` tries again; `link` is one connection's
//! conversation; `identity` is who the gateway is; `endpoint` is a socket that many share.

mod accepted;
mod config;
mod endpoint;
mod error;
mod identity;
mod link;
mod reconnect;
mod session;
mod spool;

pub use accepted::AcceptedTimes;
pub use config::{Answers, ClientConfig};
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use identity::{CA_FILE, CERTIFICATE_FILE, Identity, IdentityError, KEY_FILE, SERVER_NAME_FILE};
pub use session::{Client, Failure, Progress, Summary, Wire};
pub use spool::{Fate, RefusedFrame, Spool};
