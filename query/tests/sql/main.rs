//! SQL as its callers meet it: a real engine on a temporary directory, a store that is listened to, and a naive model
//! that every answer is compared with. One binary, so that DataFusion is linked once.

mod cases;
mod consistency;
mod differential;
mod encoding;
mod isolation;
mod limits;
mod model;
mod overlaps;
mod plans;
mod pruning;
mod rollups;
mod support;
mod values;
