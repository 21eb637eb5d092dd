//! The wire over real QUIC on loopback, with real certificates, and a sink in memory.

mod abuse;
mod certificates;
mod flow;
mod house;
mod pki;
mod raw;
mod refusals;
mod resume;
mod sink;
