//! A durable record into a write buffer: the only function that builds buffers.
//!
//! The appender calls it after the sync, recovery after reading the WAL, so that what was accepted once can be
//! accepted again. It cannot fail: whatever could be wrong with a frame was refused before it reached the WAL. A
//! buffer that is full is frozen here, by its single writer, and the flush is woken.

use storage_format::{Frame, GatewayId, Lsn, Millis};

use crate::org::OrgWriter;

/// A frame with what its WAL record tells about it, as appender and recovery both have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameRecord<'a> {
    /// The record's LSN; they grow.
    pub(crate) lsn: Lsn,
    /// Who sent it.
    pub(crate) gateway: GatewayId,
    /// When it arrived.
    pub(crate) received: Millis,
    /// The readings.
    pub(crate) frame: &'a Frame,
}

/// Appends the record's readings to the organisation's active buffer and shows them to new snapshots.
pub(crate) fn apply(record: &FrameRecord<'_>, writer: &mut OrgWriter) {
    if !writer.buffer().has_room(record.frame.len()) {
        writer.freeze();
        writer.want_flush();
    }
    writer.buffer().append(record.frame, record.gateway, record.received, record.lsn);
    if writer.is_full() {
        writer.freeze();
        writer.want_flush();
    } else if writer.memory_is_high() {
        writer.want_flush();
    }
}
