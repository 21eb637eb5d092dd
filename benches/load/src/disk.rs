//! What the disk itself can do: writes into a file of real zeros, each followed by `fdatasync`, as the WAL does them.
//!
//! The file is made and synced first, so that a sync of data is not also one of the file's size or of its extents.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::latency::{Latencies, Percentiles};
use problem::{Context, Problem, Result};

/// How far writes go before they begin anew at the file's start.
const FILE_BYTES: u64 = 256 << 20;
/// Zeros are written in such pieces.
const PIECE_BYTES: usize = 1 << 20;

/// A file in the directory that is looked at; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    offset: u64,
    bytes: u64,
    data: Vec<u8>,
}

fn cannot_write() -> String {
    "cannot write the file that the disk is measured with".to_owned()
}

impl Disk {
    /// A file for writes of a few MiB in all.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) fn small(dir: &Path) -> Result<Self> {
        Self::new(dir, FILE_BYTES / 8)
    }

    /// A file large enough for throughput.
    ///
    /// # Errors
    /// As [`Disk::small`].
    pub(super) fn large(dir: &Path) -> Result<Self> {
        Self::new(dir, FILE_BYTES)
    }

    fn new(dir: &Path, bytes: u64) -> Result<Self> {
        // It has no name, so that nothing is left of it however this process ends.
        let file = tempfile::tempfile_in(dir).context(cannot_write)?;
        let zeros = vec![0; PIECE_BYTES];
        for at in (0..bytes).step_by(PIECE_BYTES) {
            file.write_all_at(&zeros, at).context(cannot_write)?;
        }
        file.sync_all().context(cannot_write)?;
        Ok(Self { file, offset: 0, bytes, data: vec![0xA5; 4 * PIECE_BYTES] })
    }

    /// Writes so many bytes after those before, syncs, and tells how long both took.
    ///
    /// # Errors
    /// When the disk does not take them.
    fn sync(&mut self, bytes: usize) -> Result<Duration> {
        let bytes = bytes.min(self.data.len());
        if self.offset + bytes as u64 > self.bytes {
            self.offset = 0;
        }
        let begun = Instant::now();
        self.file.write_all_at(&self.data[..bytes], self.offset).context(cannot_write)?;
        self.file.sync_data().context(cannot_write)?;
        self.offset += bytes as u64;
        Ok(begun.elapsed())
    }

    /// Writes and syncs so many bytes again and again, for so long, at least once.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub(super) fn measure(&mut self, bytes: usize, time: Duration) -> Result<SyncReport> {
        let (mut latencies, begun) = (Latencies::new(), Instant::now());
        loop {
            latencies.record(self.sync(bytes)?);
            if begun.elapsed() >= time {
                break;
            }
        }
        Ok(SyncReport { bytes, latencies, elapsed: begun.elapsed() })
    }
}

/// Looks at the disk beside a run, on a thread of its own, until its end.
#[derive(Debug)]
pub(super) struct Probe {
    /// Nothing is ever sent: when it is gone, the thread ends.
    stop: SyncSender<()>,
    thread: JoinHandle<Result<Latencies>>,
}

/// Bytes that it writes: as many as a lonely frame.
const PROBE_BYTES: usize = 4 << 10;

impl Probe {
    /// Writes and syncs so often.
    ///
    /// # Errors
    /// When the thread does not start.
    pub(super) fn start(mut disk: Disk, every: Duration) -> Result<Self> {
        let (stop, stopped) = sync_channel(0);
        let look = move || {
            let mut latencies = Latencies::new();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                latencies.record(disk.sync(PROBE_BYTES)?);
            }
            Ok(latencies)
        };
        let thread = std::thread::Builder::new().name("bench-disk".to_owned()).spawn(look);
        Ok(Self { stop, thread: thread.context(|| "cannot start a thread".to_owned())? })
    }

    /// What it has seen.
    ///
    /// # Errors
    /// When the disk did not take it.
    pub(super) fn end(self) -> Result<Latencies> {
        drop(self.stop);
        self.thread.join().map_err(|_| Problem::new("the thread that looks at the disk broke down"))?
    }
}

/// How writes of one size went.
#[derive(Debug)]
pub(super) struct SyncReport {
    bytes: usize,
    latencies: Latencies,
    elapsed: Duration,
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
impl SyncReport {
    /// Every single time.
    #[must_use]
    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Syncs in a second.
    #[must_use]
    pub(super) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Bytes in a second.
    #[must_use]
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.per_second() * self.bytes as f64
    }
}

/// Sizes of writes: a lonely frame, a small group, a large one, and what is usual for throughput.
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 4 << 20];

/// One line of the disk's report.
#[derive(Debug, Serialize)]
pub struct DiskLine {
    /// Bytes in each write.
    pub write_bytes: usize,
    /// Writes, each with its sync, in a second.
    pub syncs_per_second: f64,
    /// Throughput.
    pub bytes_per_second: f64,
    /// How long a write with its sync took.
    pub sync_ms: Percentiles,
}

/// What `icecore bench disk` tells.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    /// How long each size was written, in seconds.
    pub duration_s: f64,
    /// By size of write.
    pub writes: Vec<DiskLine>,
}

impl DiskReport {
    /// Measures the file system of this directory, for so long with each size of write.
    ///
    /// # Errors
    /// When it cannot be written.
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

    /// For people.
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
        let mut disk = Disk::small(dir.path()).expect("made");
        for bytes in SIZES {
            let report = disk.measure(bytes, Duration::ZERO).expect("measured");
            assert_eq!(report.latencies().len(), 1);
            assert!(report.bytes_per_second() > 0.0);
        }
        disk.offset = disk.bytes - 1;
        disk.sync(4096).expect("begins anew");
        assert_eq!(disk.offset, 4096);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "the file has no name");
    }

    #[test]
    fn the_disk_is_looked_at_until_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let looked = |time| {
            let disk = Disk::small(dir.path()).expect("made");
            let probe = Probe::start(disk, Duration::from_millis(1)).expect("started");
            std::thread::sleep(time);
            probe.end().expect("measured").len()
        };
        // However slow the disk is just now.
        assert!((0..10).any(|turn| looked(Duration::from_millis(50 << turn)) > 1));
    }

    #[test]
    fn a_report_tells_all_sizes() {
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
