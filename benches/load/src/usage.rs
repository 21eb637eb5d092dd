//! What a process has used, as the kernel tells it in `/proc`: CPU time and memory.
//!
//! Not what it wrote: `/proc/PID/io` charges a sync of 4 KiB with a whole large folio, a hundred times too much.

use std::fs;
use std::time::Duration;

use problem::{Context, Problem, Result};

/// The unit of CPU times in `/proc`: `USER_HZ`, which is 100 a second on every Linux that Rust's standard library runs
/// on.
const TICK: Duration = Duration::from_millis(10);

/// A process to ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// This one.
    This,
    /// The one of this id.
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

    /// CPU time of all its threads, user and system, since it began.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn cpu(self) -> Result<Duration> {
        cpu(&self.read("stat")?).ok_or_else(|| Problem::new("the kernel does not tell CPU times as expected"))
    }

    /// What it has in memory now, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn rss_bytes(self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that it ever had in memory, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn rss_bytes_max(self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(self, name: &str) -> Result<u64> {
        kib(&self.read("status")?, name).ok_or_else(|| Problem::new(format!("the kernel does not tell {name}")))
    }
}

/// The name of the program may hold blanks and parentheses; the last one ends it. Of what follows, the 12th and 13th
/// fields are user and system time.
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
    fn the_kernels_pages_are_understood() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("42 (a"), None);
        let status = "Name:\ticecore\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(kib(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(kib(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let this = Process::This;
        assert!(this.rss_bytes().expect("told") > 1 << 20);
        assert!(this.rss_bytes_max().expect("told") >= 1 << 20);
        assert!(this.cpu().is_ok());
        assert!(Process::Other(u32::MAX).cpu().is_err());
    }
}
