//! The QUIC server: a thin driver around the protocol's state machines.
//!
//! `endpoint` binds, accepts and shuts down. `admission` decides which gateways may connect and stay. `connection` is
//! the task of one connection, `stream` that of one stream, and `responses` is the state that the two halves of a
//! stream share. `handshakes`, with `token_bucket` and `fair_queue`, bounds what strangers may use of the server;
//! `budget` bounds the memory that gateways may use.

mod admission;
mod budget;
mod connection;
mod endpoint;
mod fair_queue;
mod handshakes;
mod responses;
mod stream;
mod token_bucket;

pub use endpoint::{NowFn, Server, ServerConfig, ServerError};
