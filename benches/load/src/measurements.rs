//! Calculation of the report from the measurements: rates, ratios, and notes for its reader.

use std::time::Duration;

use super::disk::SyncReport;
use super::ingest::{IngestBenchConfig, Sample};
use super::latency::Latencies;
use super::load::LoadOutcome;
use super::readers::ReadersReport;
use super::report::{CpuReport, IdleReport, Report, StormReport, SyncPercentiles};

/// Upper limit of the client's own lag behind its schedule.
const LAG_MS_MAX: f64 = 5.0;
/// Upper limit of the client's share of all cores; above it the client disturbs the server.
const CLIENT_SHARE_MAX: f64 = 0.5;
/// Upper limit of the load of a sending thread; above it the client limits the throughput.
const THREAD_SHARE_MAX: f64 = 0.9;
/// Time of the last responses after the end that causes a note.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Sync time below which the directory is not on a disk.
const DISK_MS_MIN: f64 = 0.015;

pub(super) fn storm_report(connections: usize, took: Duration, outcome: &LoadOutcome) -> StormReport {
    let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
    StormReport {
        connections,
        seconds,
        handshakes_per_second: connections as f64 / seconds,
        ack_latency_ms: outcome.storm.percentiles(),
    }
}

/// All measurements of a run.
pub(super) struct Measurements<'a> {
    pub(super) config: &'a IngestBenchConfig,
    /// Samples at the start and at the end of the window.
    pub(super) samples: [Sample; 2],
    pub(super) outcome: &'a LoadOutcome,
    pub(super) disk: [SyncReport; 2],
    pub(super) disk_in_run: Option<Latencies>,
    pub(super) readers: Option<ReadersReport>,
    pub(super) drain: Duration,
    pub(super) rss_bytes_max: u64,
    pub(super) stored: u64,
    pub(super) idle: Option<IdleReport>,
    pub(super) storm: Option<StormReport>,
    pub(super) in_flight: usize,
    pub(super) threads: usize,
    pub(super) interval: Duration,
    pub(super) server_warnings: usize,
}

impl Measurements<'_> {
    /// Calculates the report.
    pub(super) fn report(self) -> Report {
        let Self { config, outcome, .. } = self;
        let [first, last] = &self.samples;
        let seconds = last.at.duration_since(first.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let readings = last.readings.saturating_sub(first.readings) as f64;
        let per_reading = |total: f64| if readings > 0.0 { total / readings } else { 0.0 };
        let client = last.client_cpu.saturating_sub(first.client_cpu).as_secs_f64();
        let server = last.server_cpu.saturating_sub(first.server_cpu).as_secs_f64();
        let server_metrics = last.metrics.since(&first.metrics);
        let wal_syncs = server_metrics.get("icecore_wal_sync_duration_seconds_count").copied();
        let wal_sync_s = server_metrics.get("icecore_wal_sync_duration_seconds_sum").copied();
        let mut report = Report {
            readings_per_second: readings / seconds,
            frames_per_second: last.frames.saturating_sub(first.frames) as f64 / seconds,
            ack_latency_ms: outcome.acks.percentiles(),
            disk_sync_ms: SyncPercentiles::of(self.disk.iter().map(SyncReport::latencies)),
            disk_sync_in_run_ms: self.disk_in_run.as_ref().map(|run| SyncPercentiles::of([run])),
            cpu: CpuReport {
                client_ns_per_reading: per_reading(client * 1e9),
                server_ns_per_reading: per_reading(server * 1e9),
                client_cores: client / seconds,
                server_cores: server / seconds,
            },
            wire_bytes_per_reading: outcome.wire.sent_bytes as f64 / (outcome.sent_readings as f64).max(1.0),
            wire_packets_lost_ratio: outcome.wire.lost_packets as f64 / (outcome.wire.sent_packets as f64).max(1.0),
            wal_bytes: server_metrics.get("icecore_wal_bytes").copied(),
            wal_syncs,
            wal_sync_ms_mean: wal_sync_s.zip(wal_syncs).map(|(sum, count)| sum * 1e3 / count.max(1.0)),
            rss_bytes_max: self.rss_bytes_max,
            readings_sent: outcome.sent_readings,
            readings_acknowledged: outcome.acknowledged_readings,
            readings_stored: self.stored,
            frames_refused: outcome.refused_frames,
            reconnects: outcome.reconnects,
            connections: config.connections,
            orgs: config.orgs,
            loggers: config.loggers,
            readings_per_frame: config.readings_per_frame,
            rate: config.rate,
            duration_s: seconds,
            warmup_s: config.warmup.as_secs_f64(),
            drain_s: self.drain.as_secs_f64(),
            in_flight: self.in_flight,
            interval_s: self.interval.as_secs_f64(),
            schedule_lag_ms: config.rate.per_second().map(|_| outcome.lag.percentiles()),
            client_limited: false,
            server_warnings: self.server_warnings,
            idle: self.idle,
            storm: self.storm,
            readers: self.readers,
            server_metrics,
            notes: Vec::new(),
        };
        (report.client_limited, report.notes) = judge(&report, self.threads, outcome.refusal.as_deref());
        report
    }
}

/// Returns whether the client was the limit, and notes for the reader of the report.
fn judge(report: &Report, threads: usize, refusal: Option<&str>) -> (bool, Vec<String>) {
    let mut notes = Vec::new();
    let client = report.cpu.client_cores;
    if client > CLIENT_SHARE_MAX * super::cores() as f64 {
        notes.push(format!("the client used {client:.2} cores, more than half of all: the server can do better"));
    } else if client > THREAD_SHARE_MAX * threads as f64 {
        notes.push(format!("the client's {threads} threads were busy: the server can do better"));
    }
    if let Some(lag) = report.schedule_lag_ms.filter(|lag| lag.p99 > LAG_MS_MAX) {
        notes.push(format!("the client itself was late by {:.1} ms (p99): latencies include its own delays", lag.p99));
    }
    let limited = !notes.is_empty();
    if let Some(rate) = report.rate.per_second().filter(|rate| report.readings_per_second < 0.98 * rate) {
        let percent = report.readings_per_second / rate * 100.0;
        notes.push(format!("only {percent:.1} % of the rate was reached: latencies grow with the duration"));
    }
    if report.disk_sync_ms.p50 < DISK_MS_MIN {
        notes.push("syncs are as fast as in memory: use --data-dir with a directory on a disk".to_owned());
    }
    if report.ack_latency_ms.p50 > 0.0 && report.ack_latency_ms.p50 < report.disk_sync_ms.p50 {
        notes.push(
            "responses were faster than the disk's syncs: the disk or the machine was busy with other work".to_owned(),
        );
    }
    if report.drain_s > DRAIN_MAX.as_secs_f64() {
        notes.push(format!(
            "the last responses arrived {:.1} s after the last frames: the server had a backlog",
            report.drain_s
        ));
    }
    if report.reconnects > 0 {
        notes.push(format!("{} connections were lost and opened again", report.reconnects));
    }
    if report.frames_refused > 0 {
        notes.push(format!("{} frames were refused: {}", report.frames_refused, refusal.unwrap_or("without a reason")));
    }
    if report.server_warnings > 0 {
        notes.push(format!("the server's log has {} lines of warnings; use --keep to keep it", report.server_warnings));
    }
    (limited, notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Percentiles;
    use crate::report::Rate;

    #[test]
    fn a_client_that_is_the_limit_is_reported() {
        let report = crate::report::tests::report;
        let limited = |report: &Report| judge(report, 1, None).0;
        assert!(!limited(&report()));
        let mut busy = report();
        busy.cpu.client_cores = crate::cores() as f64;
        assert!(limited(&busy), "uses all cores");
        busy.cpu.client_cores = 0.95;
        assert!(limited(&busy), "its one thread is busy");
        let late = Percentiles { p99: LAG_MS_MAX + 0.1, ..Percentiles::default() };
        assert!(limited(&Report { schedule_lag_ms: Some(late), ..report() }), "behind its schedule");
        let missed = Report { rate: Rate::PerSecond(2e6), ..report() };
        let (limited, notes) = judge(&missed, 1, None);
        assert!(
            !limited && notes.iter().any(|note| note.starts_with("only 61.7 %")),
            "the server is the limit: {notes:?}"
        );
    }
}
