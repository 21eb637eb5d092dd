//! `icecore gateway simulate`: the readings of a simulated fleet, as a gateway.

use std::time::Duration;

use clap::Args;
use ingest::TimePolicy;
use storage_format::Millis;

use super::send::{GatewaySide, Watcher};
use super::{block_on, now, output, parse_duration};
use gateway::sender::Origin;
use gateway::simulator::{Fleet, FleetConfig};
use problem::{Problem, Result};

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

const DAY_MS: i64 = 86_400_000;

impl SimulateArgs {
    /// Fails when readings would be further in the future than servers take: they would be refused for ever, after
    /// perhaps hours of good ones. What this server has in `ingest.future_max` is not known here.
    fn check_times(&self, now: Millis) -> Result<()> {
        let time_max = TimePolicy::default().time_max(now);
        let interval_ms = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let rounds = i64::from(self.days) * DAY_MS / interval_ms;
        let last = self.start.saturating_add((rounds - 1).max(0).saturating_mul(interval_ms));
        if last <= time_max {
            return Ok(());
        }
        Err(Problem::new("the simulated readings would end in the future")
            .detail(format!("the last ones are of {last}, and a server takes none after {time_max}: now and 24 hours"))
            .help("an earlier --start, or fewer --days"))
    }
}

pub(super) fn run(args: &SimulateArgs) -> Result<()> {
    args.check_times(now())?;
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
            let origin = Origin { file: 0, line: number, time: reading.time };
            if !connected || sender.push(origin, reading.logger, &reading.samples).await.is_err() {
                // Told by the outcome, with what became of the rest.
                break;
            }
            watcher.look(number);
        }
        let outcome = sender.finish().await;
        watcher.end();
        output::line(outcome.summary())?;
        outcome.check()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    #[test]
    fn a_fleet_does_not_run_into_the_future() {
        let now = "2025-06-01T00:00:00Z".parse().expect("a time");
        let fits = |text: &str| {
            let words = "x --identity d --server localhost:1".split(' ').chain(text.split(' '));
            Line::try_parse_from(words).expect("parses").args.check_times(now).is_ok()
        };
        assert!(fits("--start 2025-01-01T00:00:00Z --days 152"));
        assert!(!fits("--start 2025-01-01T00:00:00Z --days 153"));
        assert!(fits("--start 2025-06-01T00:00:00Z --days 1"));
        assert!(fits("--start 2025-06-02T00:00:00Z --days 1 --interval 24h"));
        assert!(!fits("--start 2025-06-02T00:00:01Z --days 1 --interval 24h"));
        assert!(!fits("--days 4294967295"));
    }
}
