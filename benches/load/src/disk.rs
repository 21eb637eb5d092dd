//! Measurement of the disk by itself: writes into a file of real zeros, each followed by `fdatasync`, as the WAL does.
//!
//! The file is filled and synced first, so that later syncs write only data, and no changes of its size or extents.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::latency::{Latencies, Percentiles};
use problem::{Context, Problem, Result};

/// Size of the file; at its end, writes continue at its start.
const FILE_BYTES: u64 = 256 << 20;
/// Size of the writes that fill the file.
const PIECE_BYTES: usize = 1 << 20;

/// A file in the measured directory, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    offset: u64,
    bytes: u64,
    data: Vec<u8>,
}

fn cannot_write() -> String {
    "cannot write the file for measuring the disk".to_owned()
}

impl Disk {
    /// Creates a file for writes of a few MiB in total.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn small(dir: &Path) -> Result<Self> {
        Self::new(dir, FILE_BYTES / 8)
    }

    /// Creates a file that is large enough for measuring throughput.
    ///
    /// # Errors
    /// As [`Disk::small`].
    pub(super) fn large(dir: &Path) -> Result<Self> {
        Self::new(dir, FILE_BYTES)
    }

    fn new(dir: &Path, bytes: u64) -> Result<Self> {
        // The file has no name, so that it is removed however this process ends.
        let file = tempfile::tempfile_in(dir).context(cannot_write)?;
        let zeros = vec![0; PIECE_BYTES];
        for at in (0..bytes).step_by(PIECE_BYTES) {
            file.write_all_at(&zeros, at).context(cannot_write)?;
        }
        file.sync_all().context(cannot_write)?;
        Ok(Self { file, offset: 0, bytes, data: vec![0xA5; 4 * PIECE_BYTES] })
    }

    /// Writes bytes after the previous ones, syncs, and returns the time of both.
    ///
    /// # Errors
    /// When the write or the sync fails.
    fn sync(&mut self, bytes: usize) -> Result<Duration> {
        let bytes = bytes.min(self.data.len());
        if self.offset + bytes as u64 > self.bytes {
            self.offset = 0;
        }
        let started = Instant::now();
        self.file.write_all_at(&self.data[..bytes], self.offset).context(cannot_write)?;
        self.file.sync_data().context(cannot_write)?;
        self.offset += bytes as u64;
        Ok(started.elapsed())
    }

    /// Repeats a write with its sync for this time, and at least once.
    ///
    /// # Errors
    /// When the write or the sync fails.
    pub(super) fn measure(&mut self, bytes: usize, time: Duration) -> Result<SyncReport> {
        let (mut latencies, started) = (Latencies::new(), Instant::now());
        loop {
            latencies.record(self.sync(bytes)?);
            if started.elapsed() >= time {
                break;
            }
        }
        Ok(SyncReport { bytes, latencies, elapsed: started.elapsed() })
    }
}

/// Measures the disk during a run, on a thread of its own.
#[derive(Debug)]
pub(super) struct Probe {
    /// Never sends; the thread ends when this is dropped.
    stop: SyncSender<()>,
    thread: JoinHandle<Result<Latencies>>,
}

/// Bytes of a probe's write, as for a single frame.
const PROBE_BYTES: usize = 4 << 10;

impl Probe {
    /// Starts a thread that writes and syncs at this interval.
    ///
    /// # Errors
    /// When the thread does not start.
    pub(super) fn start(mut disk: Disk, every: Duration) -> Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let probe = move || {
            let mut latencies = Latencies::new();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                latencies.record(disk.sync(PROBE_BYTES)?);
            }
            Ok(latencies)
        };
        let thread = std::thread::Builder::new().name("bench-disk".to_owned()).spawn(probe);
        Ok(Self { stop, thread: thread.context(|| "cannot start a thread".to_owned())? })
    }

    /// Ends the thread, and returns the latencies.
    ///
    /// # Errors
    /// When a write or a sync failed.
    pub(super) fn end(self) -> Result<Latencies> {
        drop(self.stop);
        self.thread.join().map_err(|_| Problem::new("the thread that measures the disk panicked"))?
    }
}

/// Measurement of writes of one size.
#[derive(Debug)]
pub(super) struct SyncReport {
    bytes: usize,
    latencies: Latencies,
    elapsed: Duration,
}

impl SyncReport {
    /// Returns the latencies of all writes.
    #[must_use]
    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Returns the syncs a second.
    #[must_use]
    pub(super) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Returns the bytes a second.
    #[must_use]
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.per_second() * self.bytes as f64
    }
}

/// Sizes of writes: a single frame, a small group, a large one, and a usual size for throughput.
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 4 << 20];

/// One line of the report on the disk.
#[derive(Debug, Serialize)]
pub struct DiskLine {
    /// Bytes of each write.
    pub write_bytes: usize,
    /// Writes, each with its sync, a second.
    pub syncs_per_second: f64,
    /// Throughput in bytes a second.
    pub bytes_per_second: f64,
    /// Latency of a write with its sync.
    pub sync_ms: Percentiles,
}

/// Report of `icecore bench disk`.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    /// Time for which each size was written, in seconds.
    pub duration_s: f64,
    /// Measurements by size of write.
    pub writes: Vec<DiskLine>,
}

impl DiskReport {
    /// Measures the file system of a directory, for this time with each size of write.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn measure(dir: &Path, time: Duration) -> Result<Self> {
        let mut disk = Disk::large(dir)?;
        let mut writes = Vec::with_capacity(SIZES.len());
        for write_bytes in SIZES {
            let report = disk.measure(write_bytes, time)?;
            writes.push(DiskLine {
                write_bytes,
                syncs_per_second: report.per_second(),
                bytes_per_second: report.bytes_per_second(),
                sync_ms: report.latencies().percentiles(),
            });
        }
        Ok(Self { duration_s: time.as_secs_f64(), writes })
    }

    /// Returns the report as text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from(
            "write + fdatasync    p50 ms    p99 ms  p99.9 ms    max ms    per second      MB/s\n\
             ---------------------------------------------------------------------------------",
        );
        for line in &self.writes {
            let size = format!("{} KiB", line.write_bytes >> 10);
            let Percentiles { p50, p99, p999, max, .. } = line.sync_ms;
            let (rate, mb) = (line.syncs_per_second, line.bytes_per_second / 1e6);
            text.push_str(&format!("\n{size:<17} {p50:>9.3} {p99:>9.3} {p999:>9.3} {max:>9.3} {rate:>13.0} {mb:>9.1}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_written_and_synced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut disk = Disk::small(dir.path()).expect("created");
        for bytes in SIZES {
            let report = disk.measure(bytes, Duration::ZERO).expect("measured");
            assert_eq!(report.latencies().len(), 1);
            assert!(report.bytes_per_second() > 0.0);
        }
        disk.offset = disk.bytes - 1;
        disk.sync(4096).expect("continues at the start");
        assert_eq!(disk.offset, 4096);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "the file has no name");
    }

    #[test]
    fn the_disk_is_measured_until_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let syncs = |time| {
            let disk = Disk::small(dir.path()).expect("created");
            let probe = Probe::start(disk, Duration::from_millis(1)).expect("started");
            std::thread::sleep(time);
            probe.end().expect("measured").len()
        };
        // Longer and longer times, because the disk may be slow.
        assert!((0..10).any(|turn| syncs(Duration::from_millis(50 << turn)) > 1));
    }

    #[test]
    fn a_report_has_all_sizes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let report = DiskReport::measure(dir.path(), Duration::from_millis(1)).expect("measured");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["writes"].as_array().expect("a list").len(), SIZES.len());
        for key in ["p50", "p90", "p99", "p999", "max"] {
            assert!(json["writes"][0]["sync_ms"][key].is_number(), "{key}: {json}");
        }
        assert!(report.text().lines().count() == 2 + SIZES.len(), "{}", report.text());
    }
}
