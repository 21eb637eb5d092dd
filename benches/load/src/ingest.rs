//! A run from its beginning to its report: a data directory, a server, those who send, and the question at the end
//! whether what was acknowledged is what is stored.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use storage_format::Millis;
use tempfile::TempDir;

use super::crowd::Crowd;
use super::disk::{Disk, Probe};
use super::facts::{Facts, storm_report};
use super::latency::Latencies;
use super::load::{Load, LoadConfig, Participant, Running};
use super::owners::Owners;
use super::readers::Readers;
use super::report::{IdleReport, Rate, Report};
use super::schedule::Schedule;
use super::server::{BenchServer, Counted};
use super::supply::{Demand, Plan};
use super::usage::Process;
use client::Api;
use control::data_dir::DataDir;
use problem::{Context, Problem, Result};

/// What to run.
#[derive(Debug, Clone)]
pub struct IngestBenchConfig {
    /// Connections that send, each a gateway of its own.
    pub connections: u32,
    /// Organisations; the connections are dealt out to them in turn.
    pub orgs: u32,
    /// Loggers, all together.
    pub loggers: u32,
    /// Readings in every frame.
    pub readings_per_frame: u32,
    /// How fast.
    pub rate: Rate,
    /// The window that counts.
    pub duration: Duration,
    /// Before it.
    pub warmup: Duration,
    /// Frames on their way for each connection; none: what suits their number.
    pub in_flight: Option<usize>,
    /// Additional connections that send nothing.
    pub idle: usize,
    /// Additional connections that all come back in the middle of the run.
    pub storm: usize,
    /// Programs that ask heavy queries meanwhile, one after the other.
    pub readers: usize,
    /// Where the temporary directory goes; none: where the system has them.
    pub dir: Option<PathBuf>,
    /// Keep the directory.
    pub keep: bool,
    /// The server's configuration file, as text.
    pub settings: &'static str,
    /// The name in the server's certificate.
    pub server_name: String,
    /// The time of the run, by which the fleet's readings are not in the future.
    pub now: Millis,
}

/// Frames on their way on all connections together, about, if nothing else is said: enough that a sync always has
/// something to wait for.
const IN_FLIGHT_ALL: usize = 512;
const IN_FLIGHT_MIN: usize = 4;
const IN_FLIGHT_MAX: usize = 64;
/// In an open loop nothing but memory bounds what is on its way: so many frames on each connection.
const IN_FLIGHT_OPEN: usize = 4_096;
/// The disk alone, before the load and after it.
const DISK_TIME: Duration = Duration::from_millis(500);
const DISK_BYTES: usize = 4 << 10;
/// Times a second that the disk is looked at beside the run.
const PROBES_MIN: f64 = 0.1;
const PROBES_MAX: f64 = 50.0;
/// Until memory has settled after many handshakes.
const SETTLE: Duration = Duration::from_secs(1);
/// How often it is told how it goes.
const TICK: Duration = Duration::from_secs(1);
/// A run's outcome and what is left of it.
#[derive(Debug)]
pub struct IngestBench {
    /// The figures.
    pub report: Report,
    /// Latencies of all acknowledgements that count.
    pub acks: Latencies,
    /// The directory, if it was kept.
    pub kept: Option<PathBuf>,
}

/// What is used and done so far, at one moment.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) at: Instant,
    pub(super) readings: u64,
    pub(super) frames: u64,
    pub(super) client_cpu: Duration,
    pub(super) server_cpu: Duration,
    pub(super) counted: Counted,
}

impl Mark {
    async fn take(running: &Running, server: &BenchServer) -> Result<Self> {
        let sums = running.sums();
        Ok(Self {
            at: Instant::now(),
            readings: sums.readings,
            frames: sums.frames,
            client_cpu: Process::This.cpu()?,
            server_cpu: server.process().cpu()?,
            // Last: it is the server that takes its time here.
            counted: server.counted().await?,
        })
    }
}

fn check(config: &IngestBenchConfig) -> Result<()> {
    if config.orgs == 0 || config.orgs > config.connections {
        let detail = format!("{} organisations, {} connections", config.orgs, config.connections);
        return Err(Problem::new("every organisation needs a connection of its own").detail(detail));
    }
    if config.duration.is_zero() || config.rate.per_second().is_some_and(|rate| !rate.is_normal() || rate < 0.0) {
        return Err(Problem::new("this run would measure nothing").help("--duration and --rate must be more than zero"));
    }
    Ok(())
}

impl IngestBench {
    /// Runs it. `tell` is told what is being done, and once a second how it goes.
    ///
    /// # Errors
    /// When anything does not go as it should; not when the figures are bad, and not when readings are missing: that is
    /// in the report.
    pub async fn run(config: &IngestBenchConfig, tell: impl Fn(&str)) -> Result<Self> {
        check(config)?;
        let demand = Demand {
            connections: config.connections,
            loggers: config.loggers,
            readings_per_frame: config.readings_per_frame,
            rate: config.rate.per_second(),
            time: config.warmup + config.duration,
        };
        let plan = Plan::new(demand, config.now)?;
        let dir = temporary(config)?;
        let data = DataDir::new(dir.path().join("data"));
        let senders = config.connections as usize;
        let gateways = senders + config.idle + config.storm;

        tell(&format!("enrolling {gateways} gateways of {} organisations", config.orgs));
        let owners = enroll(&data, config, gateways).await?;
        tell("making frames of a simulated fleet");
        let supplies = plan.supplies()?;
        let mut disk = Disk::small(dir.path())?;
        let before = disk.measure(DISK_BYTES, DISK_TIME)?;

        let mut server = BenchServer::start(&data, dir.path(), gateways).await?;
        tell(&format!("connecting {gateways} gateways"));
        let mut identities = owners.gateways.into_iter();
        let schedules = schedules(config);
        let participants = identities.by_ref().take(senders).zip(supplies).zip(schedules);
        let participants: Vec<_> =
            participants.map(|((identity, supply), schedule)| Participant { identity, supply, schedule }).collect();
        let threads = (super::cores() / 2).max(1);
        let in_flight = in_flight(config);
        let load = Load::connect(LoadConfig { server: server.ingest(), in_flight, threads }, participants).await?;
        let idle: Vec<_> = identities.by_ref().take(config.idle).collect();
        let (idle, _idle_crowd) = hold(&server, idle).await?;
        let storm: Vec<_> = identities.collect();
        let mut storm = if storm.is_empty() { None } else { Some(Crowd::connect(server.ingest(), storm).await?) };

        let storming = load.storming();
        let running = load.start(config.warmup, config.duration);
        let times = running.times();
        let probe = probe_interval(config).map(|every| Probe::start(Disk::small(dir.path())?, every)).transpose()?;
        let readers = Readers::start(config.readers, server.url(), &owners.tokens);
        let storm_at = times.counted + config.duration / 2;
        let watch = watch(&running, &mut server, &tell);
        let raise = async {
            let Some(crowd) = &mut storm else { return Ok(None) };
            tokio::time::sleep_until(storm_at.into()).await;
            storming.store(true, Ordering::Relaxed);
            let took = crowd.storm().await;
            storming.store(false, Ordering::Relaxed);
            took.map(|took| Some((crowd.len(), took)))
        };
        let (marks, storm) = tokio::try_join!(watch, raise)?;
        tell("waiting for the last answers");
        let disk_in_run = probe.map(Probe::end).transpose()?;
        let readers = readers.end().await;
        let outcome = running.finish().await?;
        let drain = times.end.elapsed();
        let rss_bytes_max = server.process().rss_bytes_max()?;
        tell("counting what is stored");
        let mut stored = 0;
        for token in &owners.tokens {
            stored += count(server.url(), token.clone()).await?;
            server.alive()?;
        }
        let after = disk.measure(DISK_BYTES, DISK_TIME)?;

        let facts = Facts {
            config,
            marks,
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
        let report = facts.report();
        drop(server);
        let kept = config.keep.then(|| dir.keep());
        Ok(Self { report, acks: outcome.acks, kept })
    }
}

fn temporary(config: &IngestBenchConfig) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("icecore-bench-");
    match &config.dir {
        Some(dir) => {
            // Not made: another disk than the one that was meant would be measured without a word.
            builder.tempdir_in(dir).context(|| format!("cannot make a directory in {}", dir.display()))
        }
        None => builder.tempdir().context(|| "cannot make a temporary directory".to_owned()),
    }
}

async fn enroll(data: &DataDir, config: &IngestBenchConfig, gateways: usize) -> Result<Owners> {
    data.init(config.settings, config.now).await.context(|| "cannot make the data directory of the run".to_owned())?;
    Owners::enroll(data, config.orgs, gateways, &config.server_name, config.now).await
}

/// Counts an organisation's readings, on a thread that may wait.
async fn count(url: String, token: String) -> Result<u64> {
    let counted = tokio::task::spawn_blocking(move || Api::new(&url, &token)?.count()).await;
    counted.context(|| "the count was lost".to_owned())?
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

/// How often the disk is looked at beside the run: as often as frames come, so that it has rested as long as it has for a
/// frame, but not so often that it would be a load. None in a closed loop, whose latencies say nothing of the disk.
fn probe_interval(config: &IngestBenchConfig) -> Option<Duration> {
    let frames = config.rate.per_second()? / f64::from(config.readings_per_frame);
    Some(Duration::from_secs_f64(1.0 / frames.clamp(PROBES_MIN, PROBES_MAX)))
}

fn in_flight(config: &IngestBenchConfig) -> usize {
    let suits = match config.rate {
        Rate::Max(_) => (IN_FLIGHT_ALL / config.connections as usize).clamp(IN_FLIGHT_MIN, IN_FLIGHT_MAX),
        Rate::PerSecond(_) => IN_FLIGHT_OPEN,
    };
    config.in_flight.unwrap_or(suits)
}

/// Connects those who are idle, and looks at what that takes.
#[allow(clippy::cast_precision_loss, reason = "bytes of memory, for people")]
async fn hold(
    server: &BenchServer,
    identities: Vec<ingest::client::Identity>,
) -> Result<(Option<IdleReport>, Option<Crowd>)> {
    if identities.is_empty() {
        return Ok((None, None));
    }
    tokio::time::sleep(SETTLE).await;
    let before = server.process().rss_bytes()?;
    let crowd = Crowd::connect(server.ingest(), identities).await?;
    tokio::time::sleep(SETTLE).await;
    let more = server.process().rss_bytes()?.saturating_sub(before);
    let server_bytes_per_connection = more as f64 / crowd.len() as f64;
    Ok((Some(IdleReport { connections: crowd.len(), server_bytes_per_connection }), Some(crowd)))
}

/// Waits for the end of the window, and marks its beginning and its end.
async fn watch(running: &Running, server: &mut BenchServer, tell: &impl Fn(&str)) -> Result<[Mark; 2]> {
    let times = running.times();
    tokio::time::sleep_until(times.counted.into()).await;
    server.alive()?;
    let first = Mark::take(running, server).await?;
    let (mut at, mut before) = (Instant::now(), running.sums());
    let mut ticks = 0_u32;
    loop {
        ticks += 1;
        let next = (times.counted + TICK * ticks).min(times.end);
        tokio::time::sleep_until(next.into()).await;
        server.alive()?;
        let (now, sums) = (Instant::now(), running.sums());
        if next >= times.end || running.any_ended() {
            let last = Mark::take(running, server).await?;
            return Ok([first, last]);
        }
        let seconds = now.duration_since(at).as_secs_f64().max(f64::MIN_POSITIVE);
        let (readings, frames) = (sums.readings - before.readings, sums.frames - before.frames);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let (readings, frames) = (readings as f64 / seconds, frames as f64 / seconds);
        let left = times.end.saturating_duration_since(now).as_secs_f64();
        tell(&format!("{:>8.3} M readings/s {frames:>9.0} frames/s {left:>6.0} s left", readings / 1e6));
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
    fn few_connections_have_more_on_their_way() {
        let of = |connections| in_flight(&IngestBenchConfig { connections, ..config() });
        assert_eq!([of(1), of(8), of(64), of(500)], [64, 64, 8, 4]);
        assert_eq!(in_flight(&IngestBenchConfig { in_flight: Some(7), ..config() }), 7);
        assert_eq!(in_flight(&IngestBenchConfig { rate: Rate::PerSecond(1.0), ..config() }), IN_FLIGHT_OPEN);
    }

    #[test]
    fn the_disk_is_looked_at_as_often_as_frames_come() {
        let of = |rate, readings_per_frame| {
            probe_interval(&IngestBenchConfig { rate: Rate::PerSecond(rate), readings_per_frame, ..config() })
        };
        assert_eq!(of(20.0, 20), Some(Duration::from_secs(1)));
        assert_eq!(of(1e6, 20), Some(Duration::from_millis(20)));
        assert_eq!(of(1e-6, 20), Some(Duration::from_secs(10)));
        assert_eq!(probe_interval(&config()), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(check(&config()).is_ok());
        assert!(check(&IngestBenchConfig { orgs: 9, ..config() }).is_err());
        assert!(check(&IngestBenchConfig { orgs: 0, ..config() }).is_err());
        assert!(check(&IngestBenchConfig { duration: Duration::ZERO, ..config() }).is_err());
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check(&IngestBenchConfig { rate: Rate::PerSecond(rate), ..config() }).is_err(), "{rate}");
        }
    }
}
