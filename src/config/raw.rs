//! The configuration as it is written: names and shapes of `config/default.toml`, unchecked.

use std::num::NonZeroUsize;

use serde::Deserialize;

use super::store::RawStore;
use super::unit::{ByteSize, Span};

/// All sections.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) ingest: RawIngest,
    pub(super) http: RawHttp,
    pub(super) engine: RawEngine,
    pub(super) query: RawQuery,
    pub(super) store: RawStore,
    pub(super) log: RawLog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIngest {
    pub(super) addr: String,
    pub(super) server_names: Vec<String>,
    pub(super) certificate_check_interval: Span,
    pub(super) time_min: String,
    pub(super) future_max: Span,
    pub(super) connections_max: usize,
    pub(super) connections_per_gateway_max: usize,
    pub(super) handshakes_max: usize,
    pub(super) handshakes_per_second_max: u32,
    pub(super) handshakes_waiting_max: usize,
    pub(super) streams_max: u32,
    pub(super) stream_window_bytes: ByteSize,
    pub(super) connection_window_bytes: ByteSize,
    pub(super) send_window_bytes: ByteSize,
    pub(super) frame_memory_bytes: ByteSize,
    pub(super) frame_bytes_max: ByteSize,
    pub(super) idle_timeout: Span,
    pub(super) handshake_timeout: Span,
    pub(super) open_timeout: Span,
    pub(super) message_timeout: Span,
    pub(super) answer_timeout: Span,
    pub(super) recheck_interval: Span,
    pub(super) socket_buffer_bytes: ByteSize,
    pub(super) shutdown_grace: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) addr: String,
    pub(super) allow_plain_on_network: bool,
    pub(super) body_max: ByteSize,
    pub(super) request_time_max: Span,
    pub(super) export_time_max: Span,
    pub(super) requests_max: usize,
    pub(super) requests_per_org_max: usize,
    pub(super) connections_max: usize,
    pub(super) header_timeout: Span,
    pub(super) stall_timeout: Span,
    pub(super) shutdown_grace: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEngine {
    pub(super) wal_file_bytes: ByteSize,
    pub(super) wal_bytes_max: ByteSize,
    pub(super) queue_bytes_max: ByteSize,
    pub(super) group_bytes_max: ByteSize,
    pub(super) group_frames_max: usize,
    pub(super) buffer_bytes_max: ByteSize,
    pub(super) flush_bytes: ByteSize,
    pub(super) flush_age: Span,
    pub(super) flush_concurrency: usize,
    pub(super) flush_part_rows: NonZeroUsize,
    pub(super) segment_bytes_max: ByteSize,
    pub(super) row_group_rows: NonZeroUsize,
    pub(super) merge_runs_max: usize,
    pub(super) flush_retry_min: Span,
    pub(super) flush_retry_max: Span,
    pub(super) garbage_delay: Span,
    pub(super) compaction: bool,
    pub(super) compaction_interval: Span,
    pub(super) compaction_inputs_min: usize,
    pub(super) compaction_settle: Span,
    pub(super) compaction_bytes_max: ByteSize,
    pub(super) compaction_rate_bytes_max: ByteSize,
    pub(super) last_readings_bytes_max: ByteSize,
    pub(super) schedule_interval: Span,
    pub(super) flush_at_close: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuery {
    pub(super) memory_max: ByteSize,
    pub(super) spill_bytes_max: ByteSize,
    pub(super) time_max: Span,
    pub(super) rows_max: u64,
    pub(super) threads: usize,
    pub(super) queries_max: usize,
    pub(super) queries_per_org_max: usize,
    pub(super) queue_time_max: Span,
    pub(super) metadata_cache_bytes_max: ByteSize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) filter: String,
    pub(super) format: RawLogFormat,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawLogFormat {
    Text,
    Json,
}
