//! The engine's fixed limits, gathered in one place, each with its reason. Settings that an operator may change are
//! in `config`.

use crate::sync::ROWS_MAX;

/// Rows that one write buffer holds: the columns' capacity, less one frame, since a frame is applied whole.
pub(crate) const BUFFER_ROWS_MAX: usize = ROWS_MAX - FRAME_READINGS_MAX;

/// Readings in one frame at most, as the frame format says.
const FRAME_READINGS_MAX: usize = 65_536;

/// Rows of the batches that a write buffer is read in: fits a core's cache with a handful of columns.
pub(crate) const BATCH_ROWS: usize = 8_192;

/// A group must hold at least one frame of the largest size and its record.
pub(crate) const GROUP_BYTES_LEAST: u64 = 2 << 20;

/// The queue must hold at least one decoded frame: 65,536 readings of 16 channels and time.
pub(crate) const QUEUE_BYTES_LEAST: u64 = 16 << 20;

/// Below this one frame could fill all write buffers.
pub(crate) const BUFFER_BYTES_LEAST: u64 = 32 << 20;

/// Segments that one merge reads at the same time: each takes a row group of memory.
pub(crate) const COMPACTION_INPUTS_MAX: usize = 16;

/// Row groups of a Parquet file: their numbers are signed and have 16 bits.
pub(crate) const ROW_GROUPS_MAX: u64 = 32_767;

/// The least that readings are kept, in months of the calendar: nothing younger is dropped, whatever is asked for.
pub(crate) const KEEP_MONTHS_MIN: u32 = 24;

/// Objects that one commit of retention drops, unless a single window has more: bounds the record of a drop.
pub(crate) const DROP_OBJECTS_MAX: usize = 4096;

/// Reads of the same bytes of a segment, or of a manifest, that must find damage before it is reported. What an operator
/// is told then is to restore the object from a backup, which a bit that flipped on the way does not call for.
pub(crate) const READ_ATTEMPTS: u32 = 3;

const _: () = assert!(BUFFER_ROWS_MAX > FRAME_READINGS_MAX && BUFFER_ROWS_MAX < u32::MAX as usize);
