//! A real S3 server on loopback for tests, and a proxy before it in which everything goes wrong that does on a network.
//!
//! Knows nothing of icecore: a directory becomes a bucket, bytes become faults. Threads and blocking sockets only, so
//! that the runtime under test is alone with its own.

mod proxy;
mod server;

pub use proxy::{Asked, Fault, FaultProxy, Matching};
pub use server::S3Server;
