//! icecore's simulation: gateways, network, server, disk and store in one thread, out of one seed, with everything
//! going wrong that goes wrong with disks, stores, networks and clocks; and beside them the truth, which knows what
//! every reader must see at every moment.
//!
//! The server is the real engine on the real steps, with clock, randomness, files, store and the order of tasks
//! handed in; gateways are the real client's spool and the real protocol. What is not here: QUIC, TLS, HTTP and SQL,
//! which the end-to-end tests have. See `README.md` beside this for how to read a failing seed.

mod draw;
mod exec;
mod figures;
mod gateway;
mod keeper;
mod network;
mod oracle;
mod parts;
mod plan;
mod reader;
mod run;
mod server;
mod shrink;
mod store;
mod world;

pub use draw::Draw;
pub use engine::PlantedBug;
pub use figures::Figures;
pub use plan::Plan;
pub use run::{Outcome, run};
pub use shrink::shrink;

/// Runs a seed.
#[must_use]
pub fn run_seed(seed: u64, bug: Option<PlantedBug>) -> Outcome {
    run(&Plan::draw(seed), &Draw::from_seed(seed), bug, false)
}

/// Runs what these bytes make: a fuzzer's way in.
#[must_use]
pub fn run_bytes(bytes: &[u8]) -> Outcome {
    let choices = Draw::from_bytes(bytes);
    run(&Plan::from(0, &choices), &choices, None, false)
}
