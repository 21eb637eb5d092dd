//! `icecore compact`: merges segments by hand.

use clap::Args;
use local::{Command, CompactRequest};
use problem::Result;

use super::block_on;
use super::local::LocalArgs;

/// Merge segments until nothing is left to do: a month that is over is left with three at most.
///
/// Through the running server, or with the directory opened by the command itself. Sending and queries go on meanwhile, and
/// come first. Interrupted, nothing is lost, and the next one goes on. `serve` does the same by itself, in its own time.
#[derive(Debug, Args)]
pub(super) struct CompactArgs {
    /// The organisation
    #[arg(long, value_name = "ORG", required_unless_present = "all")]
    org: Option<String>,
    /// All organisations
    #[arg(long, conflicts_with = "org")]
    all: bool,
    #[command(flatten)]
    local: LocalArgs,
}

pub(super) fn run(args: &CompactArgs) -> Result<()> {
    let request = CompactRequest { org: args.org.clone() };
    block_on(args.local.run(Command::Compact(request))).map(drop)
}
