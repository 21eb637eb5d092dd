//! The configuration as the program uses it: every value checked, every unit resolved.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use engine::EngineConfig;
use ingest::IngestLimits;
use query::QueryLimits;
use server::HttpConfig;
use storage_format::Millis;

use super::raw::{RawConfig, RawEngine, RawHttp, RawIngest, RawLog, RawLogFormat, RawQuery};
use super::store::StoreConfig;
use super::unit::ByteSize;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The wire.
    pub ingest: IngestConfig,
    /// HTTP.
    pub http: HttpConfig,
    engine: EngineConfig,
    /// What one query may cost.
    pub query: QueryLimits,
    /// Memory for segments' metadata, in bytes.
    pub metadata_cache_bytes_max: usize,
    /// Store of the objects.
    pub store: StoreConfig,
    /// Logs.
    pub log: LogConfig,
}

/// Settings of the wire.
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// Where gateways connect, UDP.
    pub addr: SocketAddr,
    /// Names in the server's certificate; the first is what gateways check.
    pub server_names: Vec<String>,
    /// How often the server's certificate is looked at while the server runs.
    pub certificate_check_interval: Duration,
    /// Readings before it are refused.
    pub time_min: Millis,
    /// Readings further in the future are refused.
    pub future_max: Duration,
    /// Limits.
    pub limits: IngestLimits,
    /// How long connections may take to end at shutdown.
    pub shutdown_grace: Duration,
}

/// Settings of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// What is logged.
    pub filter: String,
    /// How.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Config {
    /// The engine's settings for a data directory.
    #[must_use]
    pub fn engine(&self, data_dir: &Path) -> EngineConfig {
        EngineConfig { data_dir: data_dir.to_owned(), ..self.engine.clone() }
    }
}

/// More of anything that is counted at once (connections, handshakes) is a slip of the finger, and more than a
/// semaphore can hold.
const COUNT_MAX: usize = u32::MAX as usize;

/// A rule that a value breaks, as text that names the setting.
type Rule = String;

pub(super) fn resolve(raw: RawConfig) -> Result<Config, Rule> {
    // A slow reader holds its query's turn for as long as it reads.
    for (org_key, org_max, key, max) in [
        ("query.queries_per_org_max", raw.query.queries_per_org_max, "query.queries_max", raw.query.queries_max),
        ("http.requests_per_org_max", raw.http.requests_per_org_max, "http.requests_max", raw.http.requests_max),
    ] {
        if max < 2 {
            return Err(format!("{key} is {max}, but must be at least 2: no organisation may have all of them"));
        }
        if at_least_one(org_key, org_max)? >= max {
            return Err(format!(
                "{org_key} is {org_max}, but must be less than {key}, which is {max}: one organisation could have all \
                 of them, and block all others"
            ));
        }
    }
    let metadata_cache_bytes_max = size("query.metadata_cache_bytes_max", raw.query.metadata_cache_bytes_max)?;
    Ok(Config {
        ingest: ingest(raw.ingest)?,
        http: http(&raw.http)?,
        engine: engine_config(&raw.engine)?,
        query: query(&raw.query, &raw.http)?,
        metadata_cache_bytes_max,
        store: super::store::resolve(raw.store)?,
        log: log(raw.log),
    })
}

fn address(key: &str, text: &str) -> Result<SocketAddr, Rule> {
    text.parse().map_err(|_| format!("{key}: {text:?} is not an address and port such as 127.0.0.1:8080"))
}

fn size<T: TryFrom<u64>>(key: &str, size: ByteSize) -> Result<T, Rule> {
    size.0.try_into().map_err(|_| format!("{key}: {} bytes are too many", size.0))
}

fn at_least_one(key: &str, value: usize) -> Result<usize, Rule> {
    if value == 0 { Err(format!("{key} must not be 0")) } else { Ok(value) }
}

pub(super) fn not_zero(key: &str, value: Duration) -> Result<Duration, Rule> {
    if value.is_zero() { Err(format!("{key} must not be 0")) } else { Ok(value) }
}

fn ingest(raw: RawIngest) -> Result<IngestConfig, Rule> {
    if raw.server_names.is_empty() {
        return Err("ingest.server_names must have at least one name".to_owned());
    }
    for name in &raw.server_names {
        if name.parse::<IpAddr>().is_err() && rustls_pki_types::DnsName::try_from(name.as_str()).is_err() {
            return Err(format!("ingest.server_names: {name:?} is neither a DNS name nor an IP address"));
        }
    }
    let limits = IngestLimits {
        connections_max: raw.connections_max,
        connections_per_gateway_max: raw.connections_per_gateway_max,
        handshakes_max: raw.handshakes_max,
        handshakes_per_second_max: raw.handshakes_per_second_max,
        handshakes_waiting_max: raw.handshakes_waiting_max,
        streams_max: raw.streams_max,
        stream_window_bytes: size("ingest.stream_window_bytes", raw.stream_window_bytes)?,
        connection_window_bytes: size("ingest.connection_window_bytes", raw.connection_window_bytes)?,
        send_window_bytes: size("ingest.send_window_bytes", raw.send_window_bytes)?,
        frame_memory_bytes: size("ingest.frame_memory_bytes", raw.frame_memory_bytes)?,
        frame_bytes_max: size("ingest.frame_bytes_max", raw.frame_bytes_max)?,
        idle_timeout: raw.idle_timeout.0,
        handshake_timeout: raw.handshake_timeout.0,
        open_timeout: raw.open_timeout.0,
        message_timeout: raw.message_timeout.0,
        answer_timeout: raw.answer_timeout.0,
        recheck_interval: raw.recheck_interval.0,
        socket_buffer_bytes: size("ingest.socket_buffer_bytes", raw.socket_buffer_bytes)?,
    };
    for (key, count) in [
        ("connections_max", limits.connections_max),
        ("connections_per_gateway_max", limits.connections_per_gateway_max),
        ("handshakes_max", limits.handshakes_max),
        ("handshakes_waiting_max", limits.handshakes_waiting_max),
    ] {
        if count > COUNT_MAX {
            return Err(format!("ingest.{key}: {count} are too many"));
        }
    }
    limits.check().map_err(|error| {
        let keys: Vec<_> = error.name.split(", ").map(|limit| format!("ingest.{limit}")).collect();
        format!("{}: {}", keys.join(", "), error.why)
    })?;
    let frame_most = storage_format::limits::FRAME_BYTES_MAX;
    if u64::from(limits.frame_bytes_max) > u64::try_from(frame_most).unwrap_or(u64::MAX) {
        return Err(format!("ingest.frame_bytes_max: the format allows {frame_most} bytes at most"));
    }
    Ok(IngestConfig {
        addr: address("ingest.addr", &raw.addr)?,
        server_names: raw.server_names,
        certificate_check_interval: check_interval(raw.certificate_check_interval.0)?,
        time_min: raw.time_min.parse().map_err(|error| format!("ingest.time_min: {error}"))?,
        future_max: raw.future_max.0,
        limits,
        shutdown_grace: raw.shutdown_grace.0,
    })
}

/// A certificate is renewed half a year before it ends, so that failures show long before; this leaves some checks for
/// that.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(30 * 86_400);

fn check_interval(value: Duration) -> Result<Duration, Rule> {
    let key = "ingest.certificate_check_interval";
    if value > CHECK_INTERVAL_MAX {
        return Err(format!("{key} must not be more than 30d"));
    }
    not_zero(key, value)
}

fn http(raw: &RawHttp) -> Result<HttpConfig, Rule> {
    let addr = address("http.addr", &raw.addr)?;
    if !addr.ip().is_loopback() && !raw.allow_plain_on_network {
        return Err(format!(
            "http.addr: {addr} is not a loopback address, and tokens and readings would cross the network in clear \
             text. Use 127.0.0.1 with a proxy that speaks TLS before it, or set http.allow_plain_on_network = true"
        ));
    }
    Ok(HttpConfig {
        addr,
        body_bytes_max: size("http.body_max", raw.body_max)?,
        request_time_max: not_zero("http.request_time_max", raw.request_time_max.0)?,
        export_time_max: not_zero("http.export_time_max", raw.export_time_max.0)?,
        connections_max: at_least_one("http.connections_max", raw.connections_max)?,
        header_timeout: not_zero("http.header_timeout", raw.header_timeout.0)?,
        stall_timeout: not_zero("http.stall_timeout", raw.stall_timeout.0)?,
        shutdown_grace: raw.shutdown_grace.0,
    })
}

fn engine_config(raw: &RawEngine) -> Result<EngineConfig, Rule> {
    let last_readings_bytes_max = size("engine.last_readings_bytes_max", raw.last_readings_bytes_max)?;
    let config = EngineConfig {
        wal_file_bytes: raw.wal_file_bytes.0,
        wal_bytes_max: raw.wal_bytes_max.0,
        queue_bytes_max: raw.queue_bytes_max.0,
        group_bytes_max: raw.group_bytes_max.0,
        group_frames_max: raw.group_frames_max,
        buffer_bytes_max: raw.buffer_bytes_max.0,
        flush_bytes: raw.flush_bytes.0,
        flush_age: raw.flush_age.0,
        flush_concurrency: raw.flush_concurrency,
        flush_part_rows: raw.flush_part_rows,
        segment_bytes_max: raw.segment_bytes_max.0,
        row_group_rows: raw.row_group_rows,
        merge_runs_max: raw.merge_runs_max,
        flush_retry_min: raw.flush_retry_min.0,
        flush_retry_max: raw.flush_retry_max.0,
        garbage_delay: raw.garbage_delay.0,
        compaction: raw.compaction,
        compaction_interval: raw.compaction_interval.0,
        compaction_inputs_min: raw.compaction_inputs_min,
        compaction_settle: raw.compaction_settle.0,
        compaction_bytes_max: raw.compaction_bytes_max.0,
        compaction_rate_bytes_max: raw.compaction_rate_bytes_max.0,
        last_readings_bytes_max,
        schedule_interval: raw.schedule_interval.0,
        flush_at_close: raw.flush_at_close,
        ..EngineConfig::new("")
    };
    config.check().map_err(|error| format!("engine: {error}"))?;
    Ok(config)
}

fn query(raw: &RawQuery, http: &RawHttp) -> Result<QueryLimits, Rule> {
    let defaults = QueryLimits::default();
    Ok(QueryLimits {
        memory_bytes_max: at_least_one("query.memory_max", size("query.memory_max", raw.memory_max)?)?,
        spill_bytes_max: raw.spill_bytes_max.0,
        time_max: not_zero("query.time_max", raw.time_max.0)?,
        rows_max: raw.rows_max,
        threads: if raw.threads == 0 { defaults.threads } else { raw.threads },
        queries_max: raw.queries_max,
        queries_per_org_max: raw.queries_per_org_max,
        requests_max: http.requests_max,
        requests_per_org_max: http.requests_per_org_max,
        queue_time_max: raw.queue_time_max.0,
        ..defaults
    })
}

fn log(raw: RawLog) -> LogConfig {
    let format = match raw.format {
        RawLogFormat::Text => LogFormat::Text,
        RawLogFormat::Json => LogFormat::Json,
    };
    LogConfig { filter: raw.filter, format }
}
