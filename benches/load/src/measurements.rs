//! From what was measured to the report: rates, ratios, and what a reader should know of them.

use std::time::Duration;

use super::disk::SyncReport;
use super::ingest::{IngestBenchConfig, Mark};
use super::latency::Latencies;
use super::load::LoadOutcome;
use super::readers::ReadersReport;
use super::report::{CpuReport, IdleReport, Report, StormReport, SyncPercentiles};

/// A schedule that is kept worse than this is not kept.
const LAG_MS_MAX: f64 = 5.0;
/// A client that takes more of all cores disturbs the server.
const CLIENT_SHARE_MAX: f64 = 0.5;
/// A sending thread that is busier than this is the limit itself.
const THREAD_SHARE_MAX: f64 = 0.9;
/// Answers that come later than this after the end are told.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// A disk that syncs faster than this is none.
const DISK_MS_MIN: f64 = 0.015;

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn storm_report(connections: usize, took: Duration, outcome: &LoadOutcome) -> StormReport {
    let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
    StormReport {
        connections,
        seconds,
        handshakes_per_second: connections as f64 / seconds,
        ack_latency_ms: outcome.storm.percentiles(),
    }
}

/// Everything that a report is made of.
pub(super) struct Facts<'a> {
    pub(super) config: &'a IngestBenchConfig,
    pub(super) marks: [Mark; 2],
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

#[allow(clippy::cast_precision_loss, reason = "figures for people and plots")]
impl Facts<'_> {
    pub(super) fn report(self) -> Report {
        let Self { config, outcome, .. } = self;
        let [first, last] = &self.marks;
        let seconds = last.at.duration_since(first.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let readings = last.readings.saturating_sub(first.readings) as f64;
        let each = |total: f64| if readings > 0.0 { total / readings } else { 0.0 };
        let client = last.client_cpu.saturating_sub(first.client_cpu).as_secs_f64();
        let server = last.server_cpu.saturating_sub(first.server_cpu).as_secs_f64();
        let server_metrics = last.counted.since(&first.counted);
        let wal_syncs = server_metrics.get("icecore_wal_sync_duration_seconds_count").copied();
        let wal_sync_s = server_metrics.get("icecore_wal_sync_duration_seconds_sum").copied();
        let mut report = Report {
            readings_per_second: readings / seconds,
            frames_per_second: last.frames.saturating_sub(first.frames) as f64 / seconds,
            ack_latency_ms: outcome.acks.percentiles(),
            disk_sync_ms: SyncPercentiles::of(self.disk.iter().map(SyncReport::latencies)),
            disk_sync_in_run_ms: self.disk_in_run.as_ref().map(|run| SyncPercentiles::of([run])),
            cpu: CpuReport {
                client_ns_per_reading: each(client * 1e9),
                server_ns_per_reading: each(server * 1e9),
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

/// Was the client the limit? And what else a reader should know.
#[allow(clippy::cast_precision_loss, reason = "a few threads and cores")]
fn judge(report: &Report, threads: usize, refusal: Option<&str>) -> (bool, Vec<String>) {
    let mut notes = Vec::new();
    let client = report.cpu.client_cores;
    if client > CLIENT_SHARE_MAX * super::cores() as f64 {
        notes.push(format!("the client took {client:.2} cores, more than half of all: the server can do better"));
    } else if client > THREAD_SHARE_MAX * threads as f64 {
        notes.push(format!("the client's {threads} threads were busy: the server can do better"));
    }
    if let Some(lag) = report.schedule_lag_ms.filter(|lag| lag.p99 > LAG_MS_MAX) {
        notes
            .push(format!("the client itself was late by {:.1} ms (p99): latencies hold its own delays, too", lag.p99));
    }
    let limited = !notes.is_empty();
    if let Some(rate) = report.rate.per_second().filter(|rate| report.readings_per_second < 0.98 * rate) {
        let percent = report.readings_per_second / rate * 100.0;
        notes.push(format!("only {percent:.1} % of the rate was reached: latencies grow with the duration"));
    }
    if report.disk_sync_ms.p50 < DISK_MS_MIN {
        notes.push("syncs cost next to nothing here, as in memory: --data-dir names a directory on a disk".to_owned());
    }
    if report.ack_latency_ms.p50 > 0.0 && report.ack_latency_ms.p50 < report.disk_sync_ms.p50 {
        notes.push("answers came faster than the disk syncs: it, or this machine, was busy beside the run".to_owned());
    }
    if report.drain_s > DRAIN_MAX.as_secs_f64() {
        notes.push(format!(
            "the last answers came {:.1} s after the last frames: the server was behind",
            report.drain_s
        ));
    }
    if report.reconnects > 0 {
        notes.push(format!("{} connections were lost and made again", report.reconnects));
    }
    if report.frames_refused > 0 {
        notes.push(format!("{} frames were refused: {}", report.frames_refused, refusal.unwrap_or("without a reason")));
    }
    if report.server_warnings > 0 {
        notes.push(format!("the server's log has {} lines of warnings; --keep keeps it", report.server_warnings));
    }
    (limited, notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Percentiles;
    use crate::report::Rate;

    #[test]
    fn a_client_that_is_the_limit_is_told() {
        let report = crate::report::tests::report;
        let limited = |report: &Report| judge(report, 1, None).0;
        assert!(!limited(&report()));
        let mut busy = report();
        busy.cpu.client_cores = crate::cores() as f64;
        assert!(limited(&busy), "all cores");
        busy.cpu.client_cores = 0.95;
        assert!(limited(&busy), "its one thread");
        let late = Percentiles { p99: LAG_MS_MAX + 0.1, ..Percentiles::default() };
        assert!(limited(&Report { schedule_lag_ms: Some(late), ..report() }), "behind its schedule");
        let missed = Report { rate: Rate::PerSecond(2e6), ..report() };
        let (limited, notes) = judge(&missed, 1, None);
        assert!(!limited && notes.iter().any(|note| note.starts_with("only 61.7 %")), "the server's fault: {notes:?}");
    }
}
