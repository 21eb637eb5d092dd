//! The appender's metrics: names, units, meanings. Per group, never per frame.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

const FRAMES: &str = "icecore_appended_frames_total";
const READINGS: &str = "icecore_appended_readings_total";
const BYTES: &str = "icecore_wal_written_bytes_total";
const SYNC_SECONDS: &str = "icecore_wal_sync_duration_seconds";
const WAITS: &str = "icecore_wal_waits_total";

/// Tells a recorder what the names mean.
pub(crate) fn describe() {
    describe_counter!(FRAMES, Unit::Count, "Frames made durable");
    describe_counter!(READINGS, Unit::Count, "Readings made durable, repeated ones too");
    describe_counter!(BYTES, Unit::Bytes, "Bytes of WAL blocks written");
    describe_histogram!(SYNC_SECONDS, Unit::Seconds, "Time to write and sync one WAL block");
    describe_counter!(WAITS, Unit::Count, "Times that the WAL had no room");
}

pub(super) fn appended(frames: usize, readings: usize, bytes: u64, seconds: f64) {
    counter!(FRAMES).increment(frames as u64);
    counter!(READINGS).increment(readings as u64);
    counter!(BYTES).increment(bytes);
    histogram!(SYNC_SECONDS).record(seconds);
}

pub(super) fn waited() {
    counter!(WAITS).increment(1);
}
