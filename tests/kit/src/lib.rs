//! What the tests of several crates share, so that it is written once: random numbers from a seed ([`SplitMix64`]), a
//! model of first-wins ([`FirstWins`]), and with the feature `engine` a real engine to send frames to and to read back
//! ([`rig`]).
//!
//! For tests, simulations and benchmarks only: no crate of the product has it among its normal dependencies, which
//! `tests/dependency-directions.sh` checks.

mod first_wins;
mod ids;
mod python;
mod random;
mod reading;
#[cfg(feature = "engine")]
pub mod rig;

pub use first_wins::{Conflict, ConflictKey, FirstWins, Key, Row};
pub use ids::{channel, gateway, logger, millis, org, spool};
pub use python::python;
pub use random::SplitMix64;
pub use reading::{Reading, Sent};
