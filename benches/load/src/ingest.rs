//! A run from its start to its report: a data directory, a server, the senders, and the check at the end that the
//! stored readings are those that were acknowledged.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use storage_format::Millis;
use tempfile::TempDir;

use super::disk::{Disk, Probe};
use super::enrollment::Enrollment;
use super::frame_source::{Demand, Plan};
use super::latency::Latencies;
use super::load::{Load, LoadConfig, RunningLoad, SenderConfig};
use super::measurements::{Measurements, storm_report};
use super::readers::Readers;
use super::report::{IdleReport, Rate, Report};
use super::schedule::Schedule;
use super::server::{BenchServer, MetricValues};
use super::silent_clients::SilentClients;
use super::usage::Process;
use client::Api;
use control::data_dir::DataDir;
use problem::{Context, Problem, Result};

/// Configuration of a run.
#[derive(Debug, Clone)]
pub struct IngestBenchConfig {
    /// Sending connections, each a gateway of its own.
    pub connections: u32,
    /// Organisations; the connections are assigned to them in turn.
    pub orgs: u32,
    /// Loggers of all connections together.
    pub loggers: u32,
    /// Readings in every frame.
    pub readings_per_frame: u32,
    /// Rate of readings.
    pub rate: Rate,
    /// Length of the measured window.
    pub duration: Duration,
    /// Length of the warm-up before it.
    pub warmup: Duration,
    /// Limit of the frames in flight on each connection; `None` means a default for the number of connections.
    pub in_flight: Option<usize>,
    /// Additional connections that send nothing.
    pub idle: usize,
    /// Additional connections that all reconnect in the middle of the run.
    pub storm: usize,
    /// Readers that send heavy queries during the run, one after the other.
    pub readers: usize,
    /// Parent of the temporary directory; `None` means that of the system.
    pub dir: Option<PathBuf>,
    /// Whether to keep the directory.
    pub keep: bool,
    /// The server's configuration file, as text.
    pub settings: &'static str,
    /// The name in the server's certificate.
    pub server_name: String,
    /// Start of the run; all readings are earlier.
    pub now: Millis,
}

/// Approximate default of the frames in flight on all connections together: enough that every sync covers some frames.
const IN_FLIGHT_TOTAL: usize = 512;
const IN_FLIGHT_MIN: usize = 4;
const IN_FLIGHT_MAX: usize = 64;
/// Frames in flight on each connection in an open loop, where only memory needs a limit.
const IN_FLIGHT_OPEN_LOOP: usize = 4_096;
/// Time of measuring the disk, before the load and after it.
const DISK_TIME: Duration = Duration::from_millis(500);
const DISK_BYTES: usize = 4 << 10;
/// Limits of the disk's measurements a second during the run.
const PROBES_MIN: f64 = 0.1;
const PROBES_MAX: f64 = 50.0;
/// Time after which memory has settled after many handshakes.
const SETTLE: Duration = Duration::from_secs(1);
/// Interval of progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Outcome of a run.
#[derive(Debug)]
pub struct IngestBench {
    /// The figures.
    pub report: Report,
    /// Latencies of the acknowledgements in the window.
    pub acks: Latencies,
    /// Path of the directory, if it was kept.
    pub kept: Option<PathBuf>,
}

/// Counters and usage at one moment of the run.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) readings: u64,
    pub(super) frames: u64,
    pub(super) client_cpu: Duration,
    pub(super) server_cpu: Duration,
    pub(super) metrics: MetricValues,
}

impl Sample {
    async fn take(running: &RunningLoad, server: &BenchServer) -> Result<Self> {
        let sums = running.sums();
        Ok(Self {
            at: Instant::now(),
            readings: sums.readings,
            frames: sums.frames,
            client_cpu: Process::This.cpu()?,
            server_cpu: server.process().cpu()?,
            // Last, because the server may take long to respond.
            metrics: server.metrics().await?,
        })
    }
}

fn check(config: &IngestBenchConfig) -> Result<()> {
    if config.orgs == 0 || config.orgs > config.connections {
        let detail = format!("{} organisations, {} connections", config.orgs, config.connections);
        return Err(Problem::new("every organisation needs a connection of its own").detail(detail));
    }
    if config.duration.is_zero() || config.rate.per_second().is_some_and(|rate| !rate.is_normal() || rate < 0.0) {
        return Err(Problem::new("the run would measure nothing").help("use a --duration and a --rate above zero"));
    }
    Ok(())
}

impl IngestBench {
    /// Runs the benchmark. `progress` receives a message for every step, and one every second during the load.
    ///
    /// # Errors
    /// When the run fails. Bad figures and missing readings are not errors, but in the report.
    pub async fn run(config: &IngestBenchConfig, progress: impl Fn(&str)) -> Result<Self> {
        check(config)?;
        let demand = Demand {
            connections: config.connections,
            loggers: config.loggers,
            readings_per_frame: config.readings_per_frame,
            rate: config.rate.per_second(),
            time: config.warmup + config.duration,
        };
        let plan = Plan::new(demand, config.now)?;
        let dir = temporary_dir(config)?;
        let data = DataDir::new(dir.path().join("data"));
        let senders = config.connections as usize;
        let gateways = senders + config.idle + config.storm;

        progress(&format!("enrolling {gateways} gateways of {} organisations", config.orgs));
        let enrollment = enroll(&data, config, gateways).await?;
        progress("creating frames of a simulated fleet");
        let sources = plan.frame_sources()?;
        let mut disk = Disk::small(dir.path())?;
        let before = disk.measure(DISK_BYTES, DISK_TIME)?;

        let mut server = BenchServer::start(&data, dir.path(), gateways).await?;
        progress(&format!("connecting {gateways} gateways"));
        let mut identities = enrollment.gateways.into_iter();
        let schedules = schedules(config);
        let configs = identities.by_ref().take(senders).zip(sources).zip(schedules);
        let configs: Vec<_> =
            configs.map(|((identity, frames), schedule)| SenderConfig { identity, frames, schedule }).collect();
        let threads = (super::cores() / 2).max(1);
        let in_flight = in_flight(config);
        let load = Load::connect(LoadConfig { server: server.ingest(), in_flight, threads }, configs).await?;
        let idle: Vec<_> = identities.by_ref().take(config.idle).collect();
        let (idle, _idle_clients) = measure_idle(&server, idle).await?;
        let storm: Vec<_> = identities.collect();
        let mut storm =
            if storm.is_empty() { None } else { Some(SilentClients::connect(server.ingest(), storm).await?) };

        let storm_flag = load.storm_flag();
        let running = load.start(config.warmup, config.duration);
        let times = running.times();
        let probe = probe_interval(config).map(|every| Probe::start(Disk::small(dir.path())?, every)).transpose()?;
        let readers = Readers::start(config.readers, server.url(), &enrollment.tokens);
        let storm_at = times.window_start + config.duration / 2;
        let watch = watch(&running, &mut server, &progress);
        let run_storm = async {
            let Some(clients) = &mut storm else { return Ok(None) };
            tokio::time::sleep_until(storm_at.into()).await;
            storm_flag.store(true, Ordering::Relaxed);
            let took = clients.reconnect_all().await;
            storm_flag.store(false, Ordering::Relaxed);
            took.map(|took| Some((clients.len(), took)))
        };
        let (samples, storm) = tokio::try_join!(watch, run_storm)?;
        progress("waiting for the last responses");
        let disk_in_run = probe.map(Probe::end).transpose()?;
        let readers = readers.end().await;
        let outcome = running.finish().await?;
        let drain = times.end.elapsed();
        let rss_bytes_max = server.process().rss_bytes_max()?;
        progress("counting the stored readings");
        let mut stored = 0;
        for token in &enrollment.tokens {
            stored += count(server.url(), token.clone()).await?;
            server.check_alive()?;
        }
        let after = disk.measure(DISK_BYTES, DISK_TIME)?;

        let measurements = Measurements {
            config,
            samples,
            outcome: &outcome,
            disk: [before, after],
            disk_in_run,
            readers,
            drain,
            rss_bytes_max,
            stored,
            idle,
            storm: storm.map(|(connections, took)| storm_report(connections, took, &outcome)),
            in_flight,
            threads,
            interval: plan.interval(),
            server_warnings: server.warnings(),
        };
        let report = measurements.report();
        drop(server);
        let kept = config.keep.then(|| dir.keep());
        Ok(Self { report, acks: outcome.acks, kept })
    }
}

fn temporary_dir(config: &IngestBenchConfig) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("icecore-bench-");
    match &config.dir {
        Some(dir) => {
            // The parent is not created, because a missing mount would have another disk measured without notice.
            builder.tempdir_in(dir).context(|| format!("cannot create a directory in {}", dir.display()))
        }
        None => builder.tempdir().context(|| "cannot create a temporary directory".to_owned()),
    }
}

async fn enroll(data: &DataDir, config: &IngestBenchConfig, gateways: usize) -> Result<Enrollment> {
    let what = || "cannot create the data directory of the run".to_owned();
    data.init(config.settings, config.now).await.context(what)?;
    Enrollment::create(data, config.orgs, gateways, &config.server_name, config.now).await
}

/// Counts an organisation's readings, on a thread that may block.
async fn count(url: String, token: String) -> Result<u64> {
    let counted = tokio::task::spawn_blocking(move || Api::new(&url, &token)?.count()).await;
    counted.context(|| "the task of the count panicked".to_owned())?
}

fn schedules(config: &IngestBenchConfig) -> Vec<Option<Schedule>> {
    match config.rate.per_second() {
        None => vec![None; config.connections as usize],
        Some(rate) => {
            let frames = rate / f64::from(config.readings_per_frame);
            Schedule::spread(config.connections, frames).into_iter().map(Some).collect()
        }
    }
}

/// Returns the interval of the disk's measurements during the run: that of the frames, so that the disk was idle as
/// long as before a frame, but not so short that the measurements would be a load. It is `None` in a closed loop, whose
/// latencies do not depend on the disk alone.
fn probe_interval(config: &IngestBenchConfig) -> Option<Duration> {
    let frames = config.rate.per_second()? / f64::from(config.readings_per_frame);
    Some(Duration::from_secs_f64(1.0 / frames.clamp(PROBES_MIN, PROBES_MAX)))
}

fn in_flight(config: &IngestBenchConfig) -> usize {
    let default = match config.rate {
        Rate::Max(_) => (IN_FLIGHT_TOTAL / config.connections as usize).clamp(IN_FLIGHT_MIN, IN_FLIGHT_MAX),
        Rate::PerSecond(_) => IN_FLIGHT_OPEN_LOOP,
    };
    config.in_flight.unwrap_or(default)
}

/// Connects the idle clients, and measures the server's memory for them.
async fn measure_idle(
    server: &BenchServer,
    identities: Vec<ingest::client::Identity>,
) -> Result<(Option<IdleReport>, Option<SilentClients>)> {
    if identities.is_empty() {
        return Ok((None, None));
    }
    tokio::time::sleep(SETTLE).await;
    let before = server.process().rss_bytes()?;
    let clients = SilentClients::connect(server.ingest(), identities).await?;
    tokio::time::sleep(SETTLE).await;
    let more = server.process().rss_bytes()?.saturating_sub(before);
    let server_bytes_per_connection = more as f64 / clients.len() as f64;
    Ok((Some(IdleReport { connections: clients.len(), server_bytes_per_connection }), Some(clients)))
}

/// Waits for the end of the window, and returns samples of its start and its end.
async fn watch(running: &RunningLoad, server: &mut BenchServer, progress: &impl Fn(&str)) -> Result<[Sample; 2]> {
    let times = running.times();
    tokio::time::sleep_until(times.window_start.into()).await;
    server.check_alive()?;
    let first = Sample::take(running, server).await?;
    let (mut at, mut before) = (Instant::now(), running.sums());
    let mut ticks = 0_u32;
    loop {
        ticks += 1;
        let next = (times.window_start + PROGRESS_INTERVAL * ticks).min(times.end);
        tokio::time::sleep_until(next.into()).await;
        server.check_alive()?;
        let (now, sums) = (Instant::now(), running.sums());
        if next >= times.end || running.any_ended() {
            let last = Sample::take(running, server).await?;
            return Ok([first, last]);
        }
        let seconds = now.duration_since(at).as_secs_f64().max(f64::MIN_POSITIVE);
        let (readings, frames) = (sums.readings - before.readings, sums.frames - before.frames);
        let (readings, frames) = (readings as f64 / seconds, frames as f64 / seconds);
        let left = times.end.saturating_duration_since(now).as_secs_f64();
        progress(&format!("{:>8.3} M readings/s {frames:>9.0} frames/s {left:>6.0} s left", readings / 1e6));
        (at, before) = (now, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> IngestBenchConfig {
        IngestBenchConfig {
            connections: 8,
            orgs: 1,
            loggers: 1_000,
            readings_per_frame: 1_000,
            rate: Rate::MAX,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            in_flight: None,
            idle: 0,
            storm: 0,
            readers: 0,
            dir: None,
            keep: false,
            settings: "",
            server_name: "localhost".to_owned(),
            now: Millis::EPOCH,
        }
    }

    #[test]
    fn few_connections_have_more_frames_in_flight() {
        let of = |connections| in_flight(&IngestBenchConfig { connections, ..config() });
        assert_eq!([of(1), of(8), of(64), of(500)], [64, 64, 8, 4]);
        assert_eq!(in_flight(&IngestBenchConfig { in_flight: Some(7), ..config() }), 7);
        assert_eq!(in_flight(&IngestBenchConfig { rate: Rate::PerSecond(1.0), ..config() }), IN_FLIGHT_OPEN_LOOP);
    }

    #[test]
    fn the_disk_is_measured_at_the_interval_of_frames() {
        let of = |rate, readings_per_frame| {
            probe_interval(&IngestBenchConfig { rate: Rate::PerSecond(rate), readings_per_frame, ..config() })
        };
        assert_eq!(of(20.0, 20), Some(Duration::from_secs(1)));
        assert_eq!(of(1e6, 20), Some(Duration::from_millis(20)));
        assert_eq!(of(1e-6, 20), Some(Duration::from_secs(10)));
        assert_eq!(probe_interval(&config()), None);
    }

    #[test]
    fn unusable_configurations_are_refused() {
        assert!(check(&config()).is_ok());
        assert!(check(&IngestBenchConfig { orgs: 9, ..config() }).is_err());
        assert!(check(&IngestBenchConfig { orgs: 0, ..config() }).is_err());
        assert!(check(&IngestBenchConfig { duration: Duration::ZERO, ..config() }).is_err());
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check(&IngestBenchConfig { rate: Rate::PerSecond(rate), ..config() }).is_err(), "{rate}");
        }
    }
}
