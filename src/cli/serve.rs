//! `icecore serve`: run the server until SIGTERM or SIGINT.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{DataDirArgs, block_on, output};
use crate::advice::Advise as _;
use crate::config::{self, Overrides};
use crate::serve::Running;
use crate::telemetry;
use problem::{Context, Problem, Result};

/// Run the server on a data directory until SIGTERM or SIGINT.
///
/// Gateways connect over QUIC (UDP), programs over HTTP (TCP). A second signal ends the process at once; nothing that
/// was acknowledged is lost by that. Logs go to stderr. Segments are kept in the data directory, or in a bucket that
/// `[store]` in the configuration names.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// The configuration, instead of config.toml in the data directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where gateways connect (UDP), such as 0.0.0.0:4433
    #[arg(long, value_name = "ADDR")]
    ingest_addr: Option<String>,
    /// Where programs ask (TCP), such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDR")]
    http_addr: Option<String>,
}

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let data = args.data_dir.open();
    data.check().advise()?;
    let file = args.config.clone().unwrap_or_else(|| data.config());
    let overrides = Overrides { ingest_addr: args.ingest_addr.clone(), http_addr: args.http_addr.clone() };
    let config = config::load(&file, &overrides)?;
    telemetry::start_logging(&config.log)?;
    block_on(async {
        // Before the start, so that a signal during recovery is not lost.
        let mut stop = stop_signal()?;
        let start = Running::start(&data, config);
        let mut running = tokio::select! {
            started = start => started?,
            () = stop.wait() => {
                tracing::info!("stopped before it was ready");
                return Ok(());
            }
        };
        let failure = tokio::select! {
            () = stop.wait() => None,
            problem = running.failed() => Some(problem),
        };
        let stopped = tokio::select! {
            stopped = running.stop() => stopped,
            () = stop.wait() => {
                output::error(
                    &Problem::new("stopped at once, by a second signal")
                        .help("what was acknowledged is on the disk; the next start recovers it"),
                );
                // Without waiting for any thread: that is what a second signal asks for.
                std::process::exit(1)
            }
        };
        failure.map_or(stopped, Err)
    })
}

/// SIGTERM or SIGINT.
pub(super) struct StopSignal {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignal {
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(super) fn stop_signal() -> Result<StopSignal> {
    let what = || "cannot listen for signals".to_owned();
    Ok(StopSignal {
        terminate: signal(SignalKind::terminate()).context(what)?,
        interrupt: signal(SignalKind::interrupt()).context(what)?,
    })
}
