//! The engine's metrics: their names, units and meanings, in one place. No organisation, gateway or logger is ever a
//! label.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::error::EngineError;

const FLUSHES: &str = "icecore_flushes_total";
const FLUSH_FAILURES: &str = "icecore_flush_failures_total";
const FLUSH_SECONDS: &str = "icecore_flush_duration_seconds";
const READINGS_KEPT: &str = "icecore_flushed_readings_total";
const DUPLICATES: &str = "icecore_duplicate_samples_total";
const CONFLICTS: &str = "icecore_conflict_samples_total";
const SEGMENTS: &str = "icecore_segments_written_total";
const SEGMENT_BYTES: &str = "icecore_segment_written_bytes_total";
const COMPACTIONS: &str = "icecore_compactions_total";
const COMPACTION_FAILURES: &str = "icecore_compaction_failures_total";
const COMPACTION_SECONDS: &str = "icecore_compaction_duration_seconds";
const COMPACTED_SEGMENTS: &str = "icecore_compacted_segments_total";
const COMPACTION_READ: &str = "icecore_compaction_read_bytes_total";
const COMPACTION_WRITTEN: &str = "icecore_compaction_written_bytes_total";
const COLLECTED: &str = "icecore_orphaned_objects_removed_total";
const DROPPED: &str = "icecore_retention_dropped_readings_total";
const BUFFER_BYTES: &str = "icecore_write_buffer_bytes";
const WAL_BYTES: &str = "icecore_wal_bytes";
const ORGS_LOADED: &str = "icecore_orgs_loaded";
const WAL_FULL: &str = "icecore_wal_full";
const WAL_WITHOUT_FILE: &str = "icecore_wal_without_file";
const WRITE_BUFFERS_FULL: &str = "icecore_write_buffers_full";
const STORE_UNAVAILABLE: &str = "icecore_store_unavailable";
const ORGS_NOT_FLUSHING: &str = "icecore_orgs_not_flushing";
const ORGS_IN_TROUBLE: &str = "icecore_orgs_in_trouble";

/// Tells a recorder what the names mean.
pub(crate) fn describe() {
    describe_counter!(FLUSHES, Unit::Count, "Write buffers flushed, by reason");
    describe_counter!(FLUSH_FAILURES, Unit::Count, "Flushes that failed and will be tried again, by kind of error");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "Time of a flush, from frozen to committed");
    describe_counter!(READINGS_KEPT, Unit::Count, "Readings written to segments");
    describe_counter!(DUPLICATES, Unit::Count, "Samples dropped because the same value was there already");
    describe_counter!(CONFLICTS, Unit::Count, "Samples kept as conflicts because another value was there first");
    describe_counter!(SEGMENTS, Unit::Count, "Segments and conflicts objects written");
    describe_counter!(SEGMENT_BYTES, Unit::Bytes, "Bytes of segments and conflicts objects written");
    describe_counter!(COMPACTIONS, Unit::Count, "Merges of segments");
    describe_counter!(COMPACTION_FAILURES, Unit::Count, "Merges of segments that failed, by kind of error");
    describe_histogram!(COMPACTION_SECONDS, Unit::Seconds, "Time of a merge of segments, with its pauses");
    describe_counter!(COMPACTED_SEGMENTS, Unit::Count, "Segments replaced by merged ones");
    describe_counter!(COMPACTION_READ, Unit::Bytes, "Bytes of segments replaced by merged ones");
    describe_counter!(COMPACTION_WRITTEN, Unit::Bytes, "Bytes of merged segments");
    describe_counter!(COLLECTED, Unit::Count, "Objects removed that a crash, a failure or a merge had left behind");
    describe_counter!(
        DROPPED,
        Unit::Count,
        "Readings dropped because they are older than their organisation keeps them"
    );
    describe_gauge!(BUFFER_BYTES, Unit::Bytes, "Memory of all write buffers");
    describe_gauge!(WAL_BYTES, Unit::Bytes, "Bytes of all WAL files");
    describe_gauge!(ORGS_LOADED, Unit::Count, "Organisations whose manifest is in memory");
    describe_gauge!(WAL_FULL, Unit::Count, "1 while frames are not taken because the WAL is as long as it may be");
    describe_gauge!(WAL_WITHOUT_FILE, Unit::Count, "1 while nothing is acknowledged because no WAL file can be made");
    describe_gauge!(WRITE_BUFFERS_FULL, Unit::Count, "1 while frames are not taken because write buffers are full");
    describe_gauge!(STORE_UNAVAILABLE, Unit::Count, "1 while the object store does not take objects");
    describe_gauge!(ORGS_NOT_FLUSHING, Unit::Count, "Organisations whose last flush failed");
    describe_gauge!(ORGS_IN_TROUBLE, Unit::Count, "Organisations whose stored data is damaged or missing");
}

pub(crate) fn flushed(reason: &'static str, seconds: f64) {
    counter!(FLUSHES, "reason" => reason).increment(1);
    histogram!(FLUSH_SECONDS).record(seconds);
}

pub(crate) fn flush_wrote(readings: u64, duplicates: u64, conflicts: u64, segments: u64, bytes: u64) {
    counter!(READINGS_KEPT).increment(readings);
    counter!(DUPLICATES).increment(duplicates);
    counter!(CONFLICTS).increment(conflicts);
    counter!(SEGMENTS).increment(segments);
    counter!(SEGMENT_BYTES).increment(bytes);
}

pub(crate) fn flush_failed(error: &EngineError) {
    counter!(FLUSH_FAILURES, "kind" => error.kind().as_str()).increment(1);
}

pub(crate) fn compacted(segments: u64, bytes_read: u64, bytes_written: u64, seconds: f64) {
    counter!(COMPACTIONS).increment(1);
    counter!(COMPACTED_SEGMENTS).increment(segments);
    counter!(COMPACTION_READ).increment(bytes_read);
    counter!(COMPACTION_WRITTEN).increment(bytes_written);
    histogram!(COMPACTION_SECONDS).record(seconds);
}

pub(crate) fn compaction_failed(error: &EngineError) {
    counter!(COMPACTION_FAILURES, "kind" => error.kind().as_str()).increment(1);
}

pub(crate) fn collected(objects: u64) {
    counter!(COLLECTED).increment(objects);
}

pub(crate) fn dropped(readings: u64) {
    counter!(DROPPED).increment(readings);
}

pub(crate) fn sizes(buffer_bytes: u64, wal_bytes: u64, orgs: usize) {
    gauge!(BUFFER_BYTES).set(buffer_bytes as f64);
    gauge!(WAL_BYTES).set(wal_bytes as f64);
    gauge!(ORGS_LOADED).set(orgs as f64);
}

pub(crate) fn health(
    wal_full: bool,
    wal_without_file: bool,
    buffers_full: bool,
    store: bool,
    orgs: usize,
    trouble: usize,
) {
    let gauges = [
        (WAL_FULL, wal_full),
        (WAL_WITHOUT_FILE, wal_without_file),
        (WRITE_BUFFERS_FULL, buffers_full),
        (STORE_UNAVAILABLE, store),
    ];
    for (name, holds) in gauges {
        gauge!(name).set(if holds { 1.0 } else { 0.0 });
    }
    gauge!(ORGS_NOT_FLUSHING).set(orgs as f64);
    gauge!(ORGS_IN_TROUBLE).set(trouble as f64);
}
