//! `icecore bench`: measure a server, or the disk alone.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use storage_format::limits::FRAME_READINGS_MAX;

use super::gateway::default_server_name;
use super::serve::stop_signal;
use super::{block_on, now, output, parse_duration};
use crate::config::DEFAULT_TOML;
use gateway::simulator::LOGGERS_MAX;
use load::{DiskReport, IngestBench, IngestBenchConfig, Latencies, Rate, Report};
use problem::{Context, Problem, Result};

/// Measure a server under load, or the disk alone. benches/README.md tells the method and what the figures mean.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Load a server of its own, in a temporary directory, with a simulated fleet over real QUIC
    Ingest(IngestArgs),
    /// Measure what writes with fdatasync cost on a disk, without a server
    Disk(DiskArgs),
}

/// Load a server of its own, in a temporary directory, with a simulated fleet over real QUIC.
///
/// The server is a process of its own, with the settings that ICECORE_… variables give it. At the end it is asked how
/// many readings it has: if that differs from what it has acknowledged, the command fails. Client and server share this
/// machine.
#[derive(Debug, Args)]
struct IngestArgs {
    /// Connections, each a gateway with loggers of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Organisations; the connections are dealt out to them in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    orgs: u32,
    /// Loggers, all together
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LOGGERS_MAX)))]
    loggers: u32,
    /// Readings in every frame
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=FRAME_READINGS_MAX as i64))]
    readings_per_frame: u32,
    /// Readings a second, on a schedule that waits for nobody; or max, as fast as flow control allows
    #[arg(long, value_name = "N|max", default_value = "max", value_parser = parse_rate)]
    rate: Rate,
    /// How long it is measured
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long before that it is only loaded
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Frames on their way at most, for each connection [default: 4 to 64 with --rate max, else 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: Option<u32>,
    /// This many more connections, which send nothing: what each takes of the server's memory
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    idle: u32,
    /// This many more connections, which all come back at once in the middle of the run
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    storm: u32,
    /// Programs that meanwhile ask heavy queries over HTTP, each one after the other
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    readers: u32,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Write the acknowledgements' latencies to this file, in the percentile text form of HdrHistogram
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Where to make the temporary directory, such as on the disk that matters
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep the temporary directory, with all readings and the server's log
    #[arg(long)]
    keep: bool,
}

/// Measure what writes with fdatasync cost on a disk, without a server.
///
/// Writes of 4 KiB, 64 KiB, 1 MiB and 4 MiB into a file of real zeros, one after the other, each followed by fdatasync.
#[derive(Debug, Args)]
struct DiskArgs {
    /// A directory on the disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How long each size is written
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> std::result::Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::MAX);
    }
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_normal() && *rate > 0.0 && *rate <= 1e9);
    rate.map(Rate::PerSecond).ok_or_else(|| "expected max, or readings a second, up to 1e9".to_owned())
}

pub(super) fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Ingest(args) => ingest(args),
        BenchCommand::Disk(args) => disk(args),
    }
}

/// Says how it goes: on a terminal in one line that changes, else line by line.
struct Teller(Option<ProgressBar>);

impl Teller {
    fn new() -> Self {
        Self(stderr().is_terminal().then(|| ProgressBar::new_spinner().with_message("…")))
    }

    fn tell(&self, text: &str) {
        match &self.0 {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.tick();
            }
            None => output::note(text),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn ingest(args: &IngestArgs) -> Result<()> {
    // Before the run, so that a name that cannot be written costs nobody's time.
    let hgrm = args.hgrm.as_deref().map(create).transpose()?;
    let config = IngestBenchConfig {
        connections: args.connections,
        orgs: args.orgs,
        loggers: args.loggers,
        readings_per_frame: args.readings_per_frame,
        rate: args.rate,
        duration: args.duration,
        warmup: args.warmup,
        in_flight: args.in_flight.map(|frames| frames as usize),
        idle: args.idle as usize,
        storm: args.storm as usize,
        readers: args.readers as usize,
        dir: args.data_dir.clone(),
        keep: args.keep,
        settings: DEFAULT_TOML,
        server_name: default_server_name()?,
        now: now(),
    };
    let teller = Teller::new();
    let done = block_on(async {
        let mut stop = stop_signal()?;
        // Whatever is left when this ends in the middle is cleaned up by being dropped.
        tokio::select! {
            done = IngestBench::run(&config, |text| teller.tell(text)) => done,
            () = stop.wait() => Err(Problem::new("stopped by a signal; nothing was kept")),
        }
    });
    teller.end();
    let IngestBench { report, acks, kept } = done?;
    if let (Some(file), Some(path)) = (hgrm, &args.hgrm) {
        write_hgrm(&acks, file).context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(kept) = kept {
        output::note(format_args!("kept: {}", kept.display()));
    }
    print(&report, args.json)?;
    if args.json {
        report.notes.iter().for_each(output::note);
    }
    whole(&report)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).context(|| format!("cannot write {}", path.display()))
}

fn write_hgrm(acks: &Latencies, file: File) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    acks.write_hgrm(&mut file)?;
    file.flush()
}

fn json(report: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(report).context(|| "the figures have no form as JSON".to_owned())
}

fn print(report: &Report, as_json: bool) -> Result<()> {
    output::line(if as_json { json(report)? } else { report.text() })
}

/// A run whose readings are not all there is a failure, however fast it was.
fn whole(report: &Report) -> Result<()> {
    let Report { readings_acknowledged, readings_stored, frames_refused, .. } = report;
    if report.is_whole() {
        return Ok(());
    }
    Err(Problem::new("what is stored is not what was sent").detail(format!(
        "{readings_acknowledged} readings were acknowledged, {readings_stored} are stored, {frames_refused} frames were \
         refused"
    )))
}

fn disk(args: &DiskArgs) -> Result<()> {
    let dir = args.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let report = DiskReport::measure(&dir, args.duration)?;
    output::line(if args.json { json(&report)? } else { report.text() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(parse_rate("max"), Ok(Rate::MAX));
        assert_eq!(parse_rate("20"), Ok(Rate::PerSecond(20.0)));
        assert_eq!(parse_rate("1e6"), Ok(Rate::PerSecond(1e6)));
        for bad in ["", "0", "-1", "fast", "nan", "inf", "1e10"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
