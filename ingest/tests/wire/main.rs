//! Tests of the wire over real QUIC on loopback, with real certificates and a sink in memory.

#![allow(clippy::print_stdout, reason = "seeds and figures")]

mod abuse;
mod certificates;
mod crowd;
mod flow;
mod handshakes;
mod harness;
mod memory;
mod network;
mod numbers;
mod pki;
mod raw;
mod refusals;
mod renewal;
mod resume;
mod sharing;
mod sink;
mod weather;
