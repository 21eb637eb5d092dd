//! Report of a run: JSON for programs, and a page of a dozen lines for people.
//!
//! Keys end with their unit. All figures are of one run: the disk was measured in it, in the same directory.

use std::collections::BTreeMap;

use serde::Serialize;

use super::latency::{Latencies, Percentiles};
use super::readers::ReadersReport;

/// Rate at which readings were sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rate {
    /// As fast as flow control and the limit of frames in flight allow.
    Max(MaxWord),
    /// This number of readings a second, independent of the responses.
    PerSecond(f64),
}

/// The word `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MaxWord {
    /// The word itself.
    Max,
}

impl Rate {
    /// The rate without a limit.
    pub const MAX: Self = Self::Max(MaxWord::Max);

    /// Returns the readings a second; `None` for [`Rate::MAX`].
    #[must_use]
    pub fn per_second(self) -> Option<f64> {
        match self {
            Self::Max(_) => None,
            Self::PerSecond(rate) => Some(rate),
        }
    }
}

/// Latency of the disk's `fdatasync` of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SyncPercentiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
}

impl SyncPercentiles {
    /// Returns the percentiles of all these measurements together.
    #[must_use]
    pub fn of<'a>(measured: impl IntoIterator<Item = &'a Latencies>) -> Self {
        let mut all = Latencies::new();
        measured.into_iter().for_each(|latencies| all.add(latencies));
        Self { p50: all.ms(0.5), p99: all.ms(0.99), p999: all.ms(0.999) }
    }
}

/// CPU time in the measured window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CpuReport {
    /// CPU time of the client per acknowledged reading.
    pub client_ns_per_reading: f64,
    /// CPU time of the server per acknowledged reading.
    pub server_ns_per_reading: f64,
    /// Average number of cores that the client used.
    pub client_cores: f64,
    /// Average number of cores that the server used.
    pub server_cores: f64,
}

/// Connections that send nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IdleReport {
    /// Number of connections.
    pub connections: usize,
    /// Memory that each adds to the server's resident memory.
    pub server_bytes_per_connection: f64,
}

/// Gateways that all reconnected at once, in the middle of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StormReport {
    /// Number of gateways.
    pub connections: usize,
    /// Time until the last one was connected.
    pub seconds: f64,
    /// Connections a second, from the first attempt to the welcome.
    pub handshakes_per_second: f64,
    /// Latency of the frames of other gateways that were acknowledged meanwhile.
    pub ack_latency_ms: Percentiles,
}

/// Report of a run of `icecore bench ingest`. Rates, latencies and CPU times are of the measured window, which does not
/// include the warm-up; sums of readings are of the whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Acknowledged readings a second.
    pub readings_per_second: f64,
    /// Acknowledged frames a second.
    pub frames_per_second: f64,
    /// Time from when a frame was due (open loop) or passed to the client library (`max`) to its acknowledgement.
    pub ack_latency_ms: Percentiles,
    /// The disk by itself, one sync after the other, half of them before the load and half after it.
    pub disk_sync_ms: SyncPercentiles,
    /// The disk during the load, measured at an interval by a thread of its own; open loop only.
    pub disk_sync_in_run_ms: Option<SyncPercentiles>,
    /// CPU time.
    pub cpu: CpuReport,
    /// UDP payload that the client sent, by sent readings.
    pub wire_bytes_per_reading: f64,
    /// Share of the packets of the client that QUIC considered lost.
    pub wire_packets_lost_ratio: f64,
    /// Bytes of all WAL files, as the server reported last.
    pub wal_bytes: Option<f64>,
    /// Syncs of the WAL, if the server reports them.
    pub wal_syncs: Option<f64>,
    /// Mean time of these syncs, if the server reports it.
    pub wal_sync_ms_mean: Option<f64>,
    /// Peak of the server's resident memory.
    pub rss_bytes_max: u64,
    /// Readings sent in the whole run.
    pub readings_sent: u64,
    /// Readings acknowledged in the whole run.
    pub readings_acknowledged: u64,
    /// Readings stored at the end, by a query of every organisation.
    pub readings_stored: u64,
    /// Frames refused in the whole run.
    pub frames_refused: u64,
    /// Connections that were lost and opened again.
    pub reconnects: u64,
    /// Sending connections.
    pub connections: u32,
    /// Organisations.
    pub orgs: u32,
    /// Loggers of all connections together.
    pub loggers: u32,
    /// Readings in each frame.
    pub readings_per_frame: u32,
    /// Requested rate.
    pub rate: Rate,
    /// Length of the measured window.
    pub duration_s: f64,
    /// Length of the warm-up before it.
    pub warmup_s: f64,
    /// Time from the last frame to the last response.
    pub drain_s: f64,
    /// Limit of the frames in flight on each connection.
    pub in_flight: usize,
    /// Time between two readings of a logger.
    pub interval_s: f64,
    /// Delays of frames because the client was busy; open loop only.
    pub schedule_lag_ms: Option<Percentiles>,
    /// Whether the client was the limit, or disturbed the server, so that the server can do better than this.
    pub client_limited: bool,
    /// Lines in the server's log, which has warnings and errors only.
    pub server_warnings: usize,
    /// Idle connections, with `--idle`.
    pub idle: Option<IdleReport>,
    /// The storm, with `--storm`.
    pub storm: Option<StormReport>,
    /// Queries, with `--readers`.
    pub readers: Option<ReadersReport>,
    /// The server's metrics by name: the increase of counters in the window, and gauges at its end.
    pub server_metrics: BTreeMap<String, f64>,
    /// Notes for the reader of the report.
    pub notes: Vec<String>,
}

/// Formats a number with separators of thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Report {
    /// Returns whether the stored readings are those that were acknowledged, and no frame was refused.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.readings_stored == self.readings_acknowledged && self.frames_refused == 0
    }

    /// Returns the report as text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![self.load_line(), String::new()];
        let mut line = |name: &str, text: String| lines.push(format!("{name:<22}{text}"));
        let (readings, frames) = (grouped(self.readings_per_second), grouped(self.frames_per_second));
        line("throughput", format!("{readings} readings/s in {frames} frames/s"));
        let Percentiles { p50, p90, p99, p999, p9999, max } = self.ack_latency_ms;
        line("", "   p50 ms    p90 ms    p99 ms  p99.9 ms p99.99 ms    max ms".to_owned());
        line("acknowledgement", format!("{p50:>9.3} {p90:>9.3} {p99:>9.3} {p999:>9.3} {p9999:>9.3} {max:>9.3}"));
        let disk = self.disk_sync_ms;
        let blank = "";
        let row = |p50: f64, p99: f64, p999: f64| format!("{p50:>9.3} {blank:>9} {p99:>9.3} {p999:>9.3}");
        line("fdatasync of 4 KiB", row(disk.p50, disk.p99, disk.p999));
        let ratio = |ack: f64, sync: f64| ack / sync.max(f64::MIN_POSITIVE);
        line("ratio", row(ratio(p50, disk.p50), ratio(p99, disk.p99), ratio(p999, disk.p999)));
        if let Some(run) = self.disk_sync_in_run_ms {
            line("fdatasync in the run", row(run.p50, run.p99, run.p999));
            line("ratio", row(ratio(p50, run.p50), ratio(p99, run.p99), ratio(p999, run.p999)));
        }
        if let Some(lag) = self.schedule_lag_ms {
            line("client's own lag", row(lag.p50, lag.p99, lag.p999));
        }
        let cpu = self.cpu;
        line("server CPU", format!("{:.0} ns a reading, {:.2} cores", cpu.server_ns_per_reading, cpu.server_cores));
        line("client CPU", format!("{:.0} ns a reading, {:.2} cores", cpu.client_ns_per_reading, cpu.client_cores));
        let lost = self.wire_packets_lost_ratio * 100.0;
        line("wire", format!("{:.2} bytes a reading, {lost:.2} % of packets lost", self.wire_bytes_per_reading));
        if let Some(bytes) = self.wal_bytes {
            line("WAL files", format!("{:.0} MiB", bytes / f64::from(1 << 20)));
        }
        if let (Some(syncs), Some(mean)) = (self.wal_syncs, self.wal_sync_ms_mean) {
            line("WAL syncs", format!("{}, {mean:.3} ms each on average", grouped(syncs)));
        }
        line("server's memory", format!("{:.0} MiB at most", self.rss_bytes_max as f64 / f64::from(1 << 20)));
        if let Some(idle) = self.idle {
            let each = idle.server_bytes_per_connection / 1024.0;
            line("idle connections", format!("{}, {each:.1} KiB each in the server", idle.connections));
        }
        if let Some(storm) = self.storm {
            let (seconds, rate) = (storm.seconds, grouped(storm.handshakes_per_second));
            line("storm", format!("{} reconnected in {seconds:.2} s, {rate} a second", storm.connections));
            let ack = storm.ack_latency_ms;
            line(
                "  meanwhile",
                format!("acknowledgement p50 {:.3}, p99 {:.3}, max {:.3} ms", ack.p50, ack.p99, ack.max),
            );
        }
        if let Some(readers) = self.readers {
            let ReadersReport { readers, queries, failed, query_ms } = readers;
            line("queries", format!("{queries} by {readers} readers, {failed} of them refused or aborted"));
            line("", format!("p50 {:.1}, p99 {:.1}, max {:.1} ms", query_ms.p50, query_ms.p99, query_ms.max));
        }
        let [sent, acknowledged, stored] =
            [self.readings_sent, self.readings_acknowledged, self.readings_stored].map(|count| grouped(count as f64));
        line("readings", format!("{sent} sent, {acknowledged} acknowledged, {stored} stored"));
        for note in &self.notes {
            lines.push(format!("note: {note}"));
        }
        lines.join("\n")
    }

    fn load_line(&self) -> String {
        let rate = match self.rate {
            Rate::Max(_) => "maximum rate".to_owned(),
            Rate::PerSecond(rate) => format!("{} readings/s", grouped(rate)),
        };
        format!(
            "{} connections, {} orgs, {} loggers, {} readings a frame, {rate}, {:.1} s after {:.1} s of warm-up",
            self.connections, self.orgs, self.loggers, self.readings_per_frame, self.duration_s, self.warmup_s
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn report() -> Report {
        let percentiles = Percentiles { p50: 1.0, p90: 2.0, p99: 3.0, p999: 4.0, p9999: 5.0, max: 6.0 };
        Report {
            readings_per_second: 1_234_567.0,
            frames_per_second: 1_234.5,
            ack_latency_ms: percentiles,
            disk_sync_ms: SyncPercentiles { p50: 0.5, p99: 1.5, p999: 2.5 },
            disk_sync_in_run_ms: Some(SyncPercentiles { p50: 0.8, p99: 1.6, p999: 2.6 }),
            cpu: CpuReport {
                client_ns_per_reading: 10.0,
                server_ns_per_reading: 90.0,
                client_cores: 0.1,
                server_cores: 1.1,
            },
            wire_bytes_per_reading: 4.2,
            wire_packets_lost_ratio: 0.01,
            wal_bytes: Some(1048576.0),
            wal_syncs: None,
            wal_sync_ms_mean: None,
            rss_bytes_max: 1 << 30,
            readings_sent: 100,
            readings_acknowledged: 100,
            readings_stored: 100,
            frames_refused: 0,
            reconnects: 0,
            connections: 8,
            orgs: 1,
            loggers: 1_000,
            readings_per_frame: 1_000,
            rate: Rate::MAX,
            duration_s: 10.0,
            warmup_s: 2.0,
            drain_s: 0.01,
            in_flight: 64,
            interval_s: 300.0,
            schedule_lag_ms: None,
            client_limited: false,
            server_warnings: 0,
            idle: Some(IdleReport { connections: 10, server_bytes_per_connection: 40_960.0 }),
            storm: Some(StormReport {
                connections: 10,
                seconds: 0.5,
                handshakes_per_second: 20.0,
                ack_latency_ms: percentiles,
            }),
            readers: Some(ReadersReport { readers: 2, queries: 34, failed: 1, query_ms: percentiles }),
            server_metrics: BTreeMap::new(),
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn the_json_has_every_key() {
        let json = serde_json::to_value(report()).expect("JSON");
        for key in [
            "readings_per_second",
            "frames_per_second",
            "wire_bytes_per_reading",
            "wal_bytes",
            "rss_bytes_max",
            "readings_sent",
            "readings_acknowledged",
            "readings_stored",
            "frames_refused",
            "connections",
            "orgs",
            "loggers",
            "readings_per_frame",
            "duration_s",
        ] {
            assert!(json[key].is_number(), "{key}: {json}");
        }
        for key in ["p50", "p90", "p99", "p999", "p9999", "max"] {
            assert!(json["ack_latency_ms"][key].is_number(), "{key}: {json}");
        }
        for key in ["p50", "p99", "p999"] {
            assert!(json["disk_sync_ms"][key].is_number(), "{key}: {json}");
        }
        assert_eq!(json["rate"], "max");
        assert_eq!(json["client_limited"], false);
        let open = Report { rate: Rate::PerSecond(20.0), ..report() };
        assert_eq!(serde_json::to_value(open).expect("JSON")["rate"], 20.0);
    }

    #[test]
    fn the_text_has_every_figure() {
        let text = report().text();
        for part in [
            "1,234,567 readings/s",
            "ratio",
            "2.000",
            "40.0 KiB",
            "20 a second",
            "1.250",
            "34 by 2 readers, 1 of",
            "note: a note",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn missing_readings_and_refused_frames_are_failures() {
        assert!(report().is_whole());
        assert!(!Report { readings_stored: 99, ..report() }.is_whole());
        assert!(!Report { frames_refused: 1, ..report() }.is_whole());
    }
}
