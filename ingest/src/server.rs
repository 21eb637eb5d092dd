//! The QUIC server: a thin driver around the protocol's state machines.
//!
//! `endpoint` binds, accepts and shuts down; `admission` decides who may connect and stay; `connection` is one
//! connection's task; `stream` one stream's; `answers` is what the two halves of a stream share. `handshakes`, with
//! `pace` and `waiting`, and `budget` hold what strangers and gateways may take of it.

mod admission;
mod answers;
mod budget;
mod connection;
mod endpoint;
mod handshakes;
mod pace;
mod stream;
mod waiting;

pub use endpoint::{NowFn, Server, ServerConfig, ServerError};
