//! The loaded organisations: each with its one state, the right to write to it, and what is known of its loggers.
//!
//! [`Org`] is one organisation: a manifest and write buffers behind one pointer. [`Orgs`] is the set of those that are
//! loaded. [`Writers`] is the single writer's right to append to them. Loads nothing and commits nothing itself.

mod frontier;
mod kept;
mod registry;
mod state;
mod troubles;

pub(crate) use frontier::Frontier;
pub(crate) use registry::{Org, OrgWriter, Orgs, WriterCommand, WriterWork, Writers};
pub(crate) use troubles::InTrouble;
