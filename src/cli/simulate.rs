//! `icecore gateway simulate`: the readings of a simulated fleet, as a gateway.

use std::time::Duration;

use clap::Args;
use storage_format::Millis;

use super::send::{GatewaySide, Watcher};
use super::{block_on, output, parse_duration};
use crate::error::Result;
use crate::simulator::{Fleet, FleetConfig};

/// Send the readings of a simulated fleet, as fast as they are acknowledged.
///
/// Sensors of several makes in fridges, freezers, cold rooms, halls and lorries, with daily cycles, jittered times and
/// doors that open. The same seed, start and interval give the same readings, so that a second run sends duplicates.
#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    gateway: GatewaySide,
    /// How many loggers
    #[arg(long, value_name = "N", default_value_t = 100)]
    loggers: u32,
    /// Time between two readings of a logger
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    interval: Duration,
    /// How many days of readings
    #[arg(long, value_name = "D", default_value_t = 1)]
    days: u32,
    /// What to draw everything from
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Time of the first readings
    #[arg(long, value_name = "TIME", default_value = "2025-01-01T00:00:00Z")]
    start: Millis,
}

pub(super) fn run(args: &SimulateArgs) -> Result<()> {
    let fleet = Fleet::new(&FleetConfig {
        seed: args.seed,
        loggers: args.loggers,
        interval: args.interval,
        start: args.start,
        days: args.days,
    })?;
    let mut sender = args.gateway.sender()?;
    block_on(async {
        let mut watcher = Watcher::new(fleet.len());
        // An error is told by the outcome.
        let connected = watcher.connect(&mut sender).await.is_ok();
        for (number, reading) in (1..).zip(fleet) {
            if !connected || sender.push(number, reading.logger, reading.time, &reading.samples).await.is_err() {
                // Told by the outcome, with what became of the rest.
                break;
            }
            watcher.look(number);
        }
        let outcome = sender.finish().await;
        watcher.end();
        output::line(outcome.summary())?;
        outcome.check("reading")
    })
}
