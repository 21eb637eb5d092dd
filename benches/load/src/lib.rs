//! Benchmarks in the program itself: `icecore bench ingest` loads a real server process over real QUIC, `icecore bench
//! disk` measures the disk by itself. `benches/README.md` describes the method and how to read the figures.
//!
//! `ingest` is a run from its start to its report. `load` sends, `frame_source` creates the frames, `schedule` fixes
//! when they are due. `server` is the process under load, `enrollment` creates organisations and gateways,
//! `silent_clients` hold connections without sending, `readers` send queries. `usage`, `disk`, `latency`,
//! `measurements` and `report` are the figures.

mod disk;
mod enrollment;
mod frame_source;
mod ingest;
mod latency;
mod load;
mod measurements;
mod readers;
mod report;
mod schedule;
mod server;
mod silent_clients;
mod usage;

pub use disk::{DiskLine, DiskReport};
pub use ingest::{IngestBench, IngestBenchConfig};
pub use latency::{Latencies, Percentiles};
pub use readers::ReadersReport;
pub use report::{CpuReport, IdleReport, Rate, Report, StormReport, SyncPercentiles};

/// Returns the number of cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
