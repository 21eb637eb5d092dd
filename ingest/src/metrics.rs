//! The server's metrics: their names, units and meanings, in one place. No label identifies an organisation or a gateway.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::error::RefusalCode;

const CONNECTIONS_TOTAL: &str = "icecore_ingest_connections_total";
const CONNECTIONS: &str = "icecore_ingest_connections";
const CONNECTIONS_REFUSED: &str = "icecore_ingest_connections_refused_total";
const STREAMS: &str = "icecore_ingest_streams";
const STREAMS_CUT: &str = "icecore_ingest_streams_cut_total";
const FRAMES: &str = "icecore_ingest_frames_total";
const READINGS: &str = "icecore_ingest_readings_total";
const FRAME_BYTES: &str = "icecore_ingest_frame_bytes_total";
const FRAMES_REFUSED: &str = "icecore_ingest_frames_refused_total";
const MEMORY_WAITS: &str = "icecore_ingest_frame_memory_waits_total";
const MEMORY_BYTES: &str = "icecore_ingest_frame_memory_bytes";
const HELD_BACK_SECONDS: &str = "icecore_ingest_held_back_seconds";

/// Tells a recorder what the names mean.
pub(crate) fn describe() {
    describe_counter!(CONNECTIONS_TOTAL, Unit::Count, "Connections of gateways that were let in");
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections of gateways that are open");
    describe_counter!(CONNECTIONS_REFUSED, Unit::Count, "Connections that were refused or failed, by reason");
    describe_gauge!(STREAMS, Unit::Count, "Streams of frames that are open");
    describe_counter!(STREAMS_CUT, Unit::Count, "Streams that the server ended, by reason");
    describe_counter!(FRAMES, Unit::Count, "Frames received and handed to the engine");
    describe_counter!(READINGS, Unit::Count, "Readings in those frames, repeated ones too");
    describe_counter!(FRAME_BYTES, Unit::Bytes, "Bytes of those frames");
    describe_counter!(FRAMES_REFUSED, Unit::Count, "Frames that were refused, by code");
    describe_counter!(
        MEMORY_WAITS,
        Unit::Count,
        "Times that a stream was not read because the memory for frames was in use, by stage"
    );
    describe_gauge!(MEMORY_BYTES, Unit::Bytes, "Memory of frames that are not handed to the engine yet, by stage");
    describe_histogram!(
        HELD_BACK_SECONDS,
        Unit::Seconds,
        "Time that a stream was not read because the engine's queue was full"
    );
}

pub(crate) fn connection_opened() {
    counter!(CONNECTIONS_TOTAL).increment(1);
    gauge!(CONNECTIONS).increment(1.0);
}

pub(crate) fn connection_closed() {
    gauge!(CONNECTIONS).decrement(1.0);
}

/// Counts a refused connection. `why` is `limit`, `waiting_limit`, `waited`, `handshake`, `certificate`,
/// `gateway_limit` or `directory`.
pub(crate) fn connection_refused(why: &'static str) {
    counter!(CONNECTIONS_REFUSED, "why" => why).increment(1);
}

/// An open stream, counted until it is dropped: the task of a stream ends early when its connection does.
#[derive(Debug)]
pub(crate) struct OpenStream(());

impl OpenStream {
    /// Counts a stream that was opened.
    pub(crate) fn new() -> Self {
        gauge!(STREAMS).increment(1.0);
        Self(())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        gauge!(STREAMS).decrement(1.0);
    }
}

/// Counts a stream that the server ended. `why` is `protocol`, `slow` or `unavailable`.
pub(crate) fn stream_cut(why: &'static str) {
    counter!(STREAMS_CUT, "why" => why).increment(1);
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
        Self { frames: counter!(FRAMES), readings: counter!(READINGS), bytes: counter!(FRAME_BYTES) }
    }

    pub(crate) fn accepted(&self, readings: usize, bytes: usize) {
        self.frames.increment(1);
        self.readings.increment(readings as u64);
        self.bytes.increment(bytes as u64);
    }
}

pub(crate) fn refused(code: RefusalCode) {
    counter!(FRAMES_REFUSED, "code" => code.name()).increment(1);
}

/// Counts a stream that was not read because the frame memory was in use. `stage` is `receiving` or `decoded`.
pub(crate) fn memory_waited(stage: &'static str) {
    counter!(MEMORY_WAITS, "stage" => stage).increment(1);
}

/// Sets the gauges of the frame memory in use, by stage.
pub(crate) fn memory_held(bytes: [(&'static str, usize); 3]) {
    for (stage, bytes) in bytes {
        gauge!(MEMORY_BYTES, "stage" => stage).set(bytes as f64);
    }
}

/// Records how long a stream was not read because the sink was full.
pub(crate) fn blocked_by_sink(time: Duration) {
    histogram!(HELD_BACK_SECONDS).record(time.as_secs_f64());
}
