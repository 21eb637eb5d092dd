//! Measuring icecore with itself: `icecore bench ingest` loads a real server process over real QUIC, `icecore bench
//! disk` looks at the disk alone. `benches/README.md` tells the method and how to read the figures.
//!
//! `ingest` is a run from its beginning to its report; `load` is what sends, `supply` what is sent, `schedule` when;
//! `server` is the process under load, `owners` who takes part, `crowd` those who only hold connections, `readers` those
//! who ask; `usage`, `disk`, `latency`, `facts` and `report` are the figures.

mod crowd;
mod disk;
mod facts;
mod ingest;
mod latency;
mod load;
mod owners;
mod readers;
mod report;
mod schedule;
mod server;
mod supply;
mod usage;

pub use disk::{DiskLine, DiskReport};
pub use ingest::{IngestBench, IngestBenchConfig};
pub use latency::{Latencies, Percentiles};
pub use readers::ReadersReport;
pub use report::{CpuReport, IdleReport, Rate, Report, StormReport, SyncPercentiles};

/// Cores of this machine, as far as this process may use them.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
