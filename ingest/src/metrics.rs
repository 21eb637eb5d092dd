//! The server's metrics. No label identifies an organisation or a gateway.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::error::RefusalCode;

pub(crate) fn connection_opened() {
    counter!("icecore_ingest_connections_total").increment(1);
    gauge!("icecore_ingest_connections").increment(1.0);
}

pub(crate) fn connection_closed() {
    gauge!("icecore_ingest_connections").decrement(1.0);
}

/// Counts a refused connection. `why` is `limit`, `waiting_limit`, `waited`, `handshake`, `certificate`,
/// `gateway_limit` or `directory`.
pub(crate) fn connection_refused(why: &'static str) {
    counter!("icecore_ingest_connections_refused_total", "why" => why).increment(1);
}

/// An open stream, counted until it is dropped: the task of a stream ends early when its connection does.
#[derive(Debug)]
pub(crate) struct OpenStream(());

impl OpenStream {
    /// Counts a stream that was opened.
    pub(crate) fn new() -> Self {
        gauge!("icecore_ingest_streams").increment(1.0);
        Self(())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        gauge!("icecore_ingest_streams").decrement(1.0);
    }
}

/// Counts a stream that the server ended. `why` is `protocol`, `slow` or `unavailable`.
pub(crate) fn stream_cut(why: &'static str) {
    counter!("icecore_ingest_streams_cut_total", "why" => why).increment(1);
}

/// Handles of the counters per frame, so that no name is looked up for each frame.
#[derive(Clone)]
pub(crate) struct FrameCounters {
    frames: metrics::Counter,
    readings: metrics::Counter,
    bytes: metrics::Counter,
}

impl FrameCounters {
    pub(crate) fn new() -> Self {
        Self {
            frames: counter!("icecore_ingest_frames_total"),
            readings: counter!("icecore_ingest_readings_total"),
            bytes: counter!("icecore_ingest_frame_bytes_total"),
        }
    }

    pub(crate) fn accepted(&self, readings: usize, bytes: usize) {
        self.frames.increment(1);
        self.readings.increment(readings as u64);
        self.bytes.increment(bytes as u64);
    }
}

pub(crate) fn refused(code: RefusalCode) {
    counter!("icecore_ingest_frames_refused_total", "code" => code.name()).increment(1);
}

/// Counts a stream that was not read because the frame memory was in use. `stage` is `receiving` or `decoded`.
pub(crate) fn memory_waited(stage: &'static str) {
    counter!("icecore_ingest_frame_memory_waits_total", "stage" => stage).increment(1);
}

/// Sets the gauges of the frame memory in use, by stage.
pub(crate) fn memory_held(bytes: [(&'static str, usize); 3]) {
    for (stage, bytes) in bytes {
        #[allow(clippy::cast_precision_loss, reason = "a gauge; exact up to 2^53 bytes")]
        gauge!("icecore_ingest_frame_memory_bytes", "stage" => stage).set(bytes as f64);
    }
}

/// Records how long a stream was not read because the sink was full.
pub(crate) fn blocked_by_sink(time: Duration) {
    histogram!("icecore_ingest_held_back_seconds").record(time.as_secs_f64());
}
