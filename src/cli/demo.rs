//! `icecore demo`: everything in one command.

use std::path::PathBuf;

use clap::Args;

use super::serve::stop_signal;
use super::{block_on, output};
use crate::config::{LogConfig, LogFormat};
use crate::demo::{Demo, DemoConfig};
use crate::telemetry;
use problem::Result;

/// Everything in one command: a server, a simulated fleet of three organisations over real QUIC, queries, a file sent
/// twice, a conflict, an export, a restart. Ends by itself.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where to put the data directory and all else; a temporary directory otherwise, removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep everything, and go on serving until SIGTERM or SIGINT
    #[arg(long)]
    keep: bool,
    /// Days of readings of every logger
    #[arg(long, value_name = "D", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
}

pub(super) fn run(args: &DemoArgs) -> Result<()> {
    telemetry::start_logging(&LogConfig { filter: "warn".to_owned(), format: LogFormat::Text })?;
    let config = DemoConfig { dir: args.dir.clone(), keep: args.keep, days: args.days };
    block_on(async {
        let mut stop = stop_signal()?;
        tokio::select! {
            done = Demo::run(config, |text| output::line(text)) => {
                match done? {
                    Some(demo) => {
                        stop.wait().await;
                        demo.stop().await
                    }
                    None => Ok(()),
                }
            }
            () = stop.wait() => Ok(()),
        }
    })
}
