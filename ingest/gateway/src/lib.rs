//! The sender's side above the wire: what reads or makes readings and packs them into frames. A bridge is a gateway.
//!
//! Nothing here knows the engine, queries, HTTP or the control database.

pub mod left_out;
pub mod readings_csv;
pub mod sender;
pub mod simulator;
