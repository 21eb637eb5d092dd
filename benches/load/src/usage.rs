//! CPU time and memory of a process, from `/proc`.
//!
//! Written bytes are not measured, because `/proc/PID/io` charges a sync of 4 KiB with a whole large folio, a hundred
//! times too much.

use std::fs;
use std::time::Duration;

use problem::{Context, Problem, Result};

/// Unit of CPU times in `/proc`: `USER_HZ`, which is 100 a second on every Linux that Rust's standard library supports.
const TICK: Duration = Duration::from_millis(10);

/// A process to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// This process.
    This,
    /// The process with this id.
    Other(u32),
}

impl Process {
    fn read(self, file: &str) -> Result<String> {
        let path = match self {
            Self::This => format!("/proc/self/{file}"),
            Self::Other(id) => format!("/proc/{id}/{file}"),
        };
        fs::read_to_string(&path).context(|| format!("cannot read {path}"))
    }

    /// Returns the CPU time of all its threads, user and system, since its start.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn cpu(self) -> Result<Duration> {
        cpu(&self.read("stat")?).ok_or_else(|| Problem::new("the kernel reports CPU times in an unknown format"))
    }

    /// Returns its resident memory in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn rss_bytes(self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Returns the peak of its resident memory in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn rss_bytes_max(self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(self, name: &str) -> Result<u64> {
        kib(&self.read("status")?, name).ok_or_else(|| Problem::new(format!("the kernel does not report {name}")))
    }
}

/// Parses the CPU time of `/proc/PID/stat`. The name of the program may have spaces and parentheses, and ends at the
/// last parenthesis. After it, the 12th and 13th fields are user and system time.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    TICK.checked_mul(user.checked_add(system)?)
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_and_status_are_parsed() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("42 (a"), None);
        let status = "Name:\ticecore\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(kib(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(kib(status, "VmSwap:"), None);
    }

    #[test]
    fn usage_of_this_process_is_measured() {
        let this = Process::This;
        assert!(this.rss_bytes().expect("known") > 1 << 20);
        assert!(this.rss_bytes_max().expect("known") >= 1 << 20);
        assert!(this.cpu().is_ok());
        assert!(Process::Other(u32::MAX).cpu().is_err());
    }
}
