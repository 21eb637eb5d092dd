//! `icecore conflicts`: list values that came second.

use clap::Args;

use super::api::ServerArgs;
use super::query::{self, QueryFormat};
use problem::Result;

/// List values that came second: another value was there already for the same logger, time and channel.
///
/// The first value stays; the other one is kept here, with the gateway that sent it and when it arrived.
#[derive(Debug, Args)]
pub(super) struct ConflictsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = QueryFormat::Table)]
    format: QueryFormat,
}

pub(super) const SQL: &str = "SELECT time, eui64_text(logger) AS logger, channel, kept, refused, \
                              lower(eui64_text(gateway)) AS gateway, received FROM conflicts ORDER BY logger, time, channel, received";

pub(super) fn run(args: &ConflictsArgs) -> Result<()> {
    query::print(&args.server.api()?, SQL, args.format)
}
