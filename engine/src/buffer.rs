//! The write buffer: the not yet flushed readings of one organisation and generation, in memory, in columns.
//!
//! Invariants: rows are in the order of their LSNs and never change; one [`BufferWriter`] exists for a buffer, and
//! whoever holds it is the single writer; a reader's view is a prefix, taken without a lock; once the writer is
//! dropped, the buffer is frozen for good. Values that were not measured are NaN (real NaNs are refused at the edge).
//! What is measured once and what conflicts is not decided here: a buffer keeps everything that was accepted.
//!
//! Owns rows, their provenance and the bytes that they take from the engine-wide budget (given back when the last
//! reader lets the buffer go). Knows no WAL, no segments.

mod budget;
mod last;
mod sorted;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use storage_format::{ChannelCode, Frame, FrameSequence, GatewayId, LoggerId, Lsn, Millis, SpoolId, channels};

use crate::limits::BUFFER_ROWS_MAX;
use crate::sync::{Column, Extent};

pub(crate) use budget::Budget;
pub use view::{BufferView, SortedBatches};

const NAN: u64 = f64::NAN.to_bits();

/// The highest sequence number of a gateway's spool in a buffer, and the LSN that it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferedSpool {
    pub(crate) sequence: FrameSequence,
    pub(crate) lsn: Lsn,
}

/// The readings of one organisation since its last freeze. See the module.
pub struct WriteBuffer {
    loggers: Column,
    times: Column,
    /// By channel code less one; a column is there once its channel was.
    channels: Box<[OnceLock<Column>]>,
    /// Per frame: its first row, who sent it, and when it arrived.
    frame_starts: Column,
    frame_gateways: Column,
    frame_received: Column,
    extent: Extent,
    /// Highest sequence number of each spool. Touched once a frame, never by snapshots.
    spools: Mutex<HashMap<(GatewayId, SpoolId), BufferedSpool>>,
    bounds: Bounds,
    oldest_received: AtomicI64,
    bytes: AtomicU64,
    budget: Arc<Budget>,
}

/// What the rows lie between. Written before the rows are published: a reader's view may be narrower, never wider.
struct Bounds {
    time_min: AtomicI64,
    time_max: AtomicI64,
    logger_min: AtomicU64,
    logger_max: AtomicU64,
}

/// The right to append to one write buffer: there is one, and it cannot be copied.
#[derive(Debug)]
pub(crate) struct BufferWriter {
    buffer: Arc<WriteBuffer>,
    rows: usize,
    frames: usize,
}

impl WriteBuffer {
    /// An empty buffer and its only writer.
    pub(crate) fn create(budget: &Arc<Budget>) -> (Arc<Self>, BufferWriter) {
        let buffer = Arc::new(Self {
            loggers: Column::new(0),
            times: Column::new(0),
            channels: channels().iter().map(|_| OnceLock::new()).collect(),
            frame_starts: Column::new(0),
            frame_gateways: Column::new(0),
            frame_received: Column::new(0),
            extent: Extent::new(),
            spools: Mutex::new(HashMap::new()),
            bounds: Bounds {
                time_min: AtomicI64::new(i64::MAX),
                time_max: AtomicI64::new(i64::MIN),
                logger_min: AtomicU64::new(u64::MAX),
                logger_max: AtomicU64::new(0),
            },
            oldest_received: AtomicI64::new(i64::MAX),
            bytes: AtomicU64::new(0),
            budget: Arc::clone(budget),
        });
        let writer = BufferWriter { buffer: Arc::clone(&buffer), rows: 0, frames: 0 };
        (buffer, writer)
    }

    /// Readings in it, repeated ones too.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.extent.rows()
    }

    /// Bytes of memory that its columns take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The first LSN in it; `None` while it is empty.
    #[must_use]
    pub fn lsn_first(&self) -> Option<Lsn> {
        self.extent.lsn_first().map(Lsn::new)
    }

    /// The last LSN in it; `None` while it is empty.
    #[must_use]
    pub fn lsn_last(&self) -> Option<Lsn> {
        self.extent.lsn_last().map(Lsn::new)
    }

    /// When the oldest of its frames arrived; `None` while it is empty.
    #[must_use]
    pub fn oldest_received(&self) -> Option<Millis> {
        self.lsn_first()?;
        Millis::new(self.oldest_received.load(Ordering::Relaxed)).ok()
    }

    /// The channels that it has values of, by ascending code.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelCode> {
        let known = channels().iter().map(|channel| channel.code);
        known.zip(&self.channels).filter(|(_, column)| column.get().is_some()).map(|(code, _)| code).collect()
    }

    /// A consistent prefix of it, as it is now.
    #[must_use]
    pub fn view(self: &Arc<Self>) -> BufferView {
        BufferView::new(Arc::clone(self), self.rows())
    }

    /// The budget that its memory is of.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The highest sequence number of this spool; zero if none of its frames is in here.
    pub(crate) fn spool_sequence(&self, gateway: GatewayId, spool: SpoolId) -> FrameSequence {
        let spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
        spools.get(&(gateway, spool)).map_or(FrameSequence::ZERO, |spool| spool.sequence)
    }

    /// All spools with their positions, in no order.
    pub(crate) fn spools(&self) -> Vec<(GatewayId, SpoolId, BufferedSpool)> {
        let spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
        spools.iter().map(|((gateway, spool), position)| (*gateway, *spool, *position)).collect()
    }

    fn column(&self, code: ChannelCode) -> Option<&Column> {
        self.channels.get(usize::from(code.get()) - 1)?.get()
    }
}

impl BufferWriter {
    /// The buffer that it writes to.
    pub(crate) fn buffer(&self) -> &Arc<WriteBuffer> {
        &self.buffer
    }

    /// Is there room for so many more rows? A frame has at least one row, so frames fit when rows do.
    pub(crate) fn has_room(&self, rows: usize) -> bool {
        self.rows + rows <= BUFFER_ROWS_MAX
    }

    /// Appends a frame and publishes its rows at once.
    ///
    /// The caller saw to it that there is room, and that LSNs grow.
    pub(crate) fn append(&mut self, frame: &Frame, gateway: GatewayId, received: Millis, lsn: Lsn) {
        let buffer = &*self.buffer;
        let (start, count) = (self.rows, frame.len());
        debug_assert!(self.has_room(count), "the caller freezes a full buffer first");
        debug_assert!(buffer.lsn_last().is_none_or(|last| lsn > last), "LSNs grow");

        let mut grown = 0;
        for run in frame.runs() {
            let (at, len) = (start + run.start as usize, run.len as usize);
            grown += buffer.loggers.write(at, len, |_| run.logger.get());
        }
        let times = frame.times();
        grown += buffer.times.write(start, count, |row| times[row].cast_unsigned());
        for (index, code) in frame.channels().iter().enumerate() {
            let Some(slot) = buffer.channels.get(usize::from(code.get()) - 1) else {
                // A decoded frame has registered channels only.
                continue;
            };
            let values = frame.column(index);
            let column = slot.get_or_init(|| Column::new(NAN));
            grown += column.write(start, count, |row| values[row].to_bits());
        }
        grown += buffer.frame_starts.write(self.frames, 1, |_| start as u64);
        grown += buffer.frame_gateways.write(self.frames, 1, |_| gateway.get());
        grown += buffer.frame_received.write(self.frames, 1, |_| received.whole_seconds().get().cast_unsigned());

        buffer.widen(frame, received);
        buffer.remember_spool(gateway, frame.spool(), BufferedSpool { sequence: frame.sequence(), lsn });
        if grown > 0 {
            buffer.bytes.fetch_add(grown as u64, Ordering::Relaxed);
            buffer.budget.take(grown as u64);
        }
        self.frames += 1;
        self.rows += count;
        buffer.extent.publish(self.rows, self.frames, lsn.get());
    }
}

// There is one writer: what it has read nobody changes before it writes.
fn lower(bound: &AtomicI64, value: i64) {
    bound.store(value.min(bound.load(Ordering::Relaxed)), Ordering::Relaxed);
}

fn raise(bound: &AtomicI64, value: i64) {
    bound.store(value.max(bound.load(Ordering::Relaxed)), Ordering::Relaxed);
}

impl WriteBuffer {
    fn widen(&self, frame: &Frame, received: Millis) {
        let bounds = &self.bounds;
        lower(&bounds.time_min, frame.time_min().get());
        raise(&bounds.time_max, frame.time_max().get());
        if let (Some(first), Some(last)) = (frame.runs().first(), frame.runs().last()) {
            let (min, max) = (first.logger.get(), last.logger.get());
            let known = (bounds.logger_min.load(Ordering::Relaxed), bounds.logger_max.load(Ordering::Relaxed));
            bounds.logger_min.store(min.min(known.0), Ordering::Relaxed);
            bounds.logger_max.store(max.max(known.1), Ordering::Relaxed);
        }
        lower(&self.oldest_received, received.get());
    }

    fn remember_spool(&self, gateway: GatewayId, spool: SpoolId, position: BufferedSpool) {
        let mut spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
        let known = spools.entry((gateway, spool)).or_insert(position);
        known.sequence = known.sequence.max(position.sequence);
        known.lsn = position.lsn;
    }

    fn time_bounds(&self) -> Option<(Millis, Millis)> {
        let (min, max) = (self.bounds.time_min.load(Ordering::Relaxed), self.bounds.time_max.load(Ordering::Relaxed));
        Some((Millis::new(min).ok()?, Millis::new(max).ok()?))
    }

    fn logger_bounds(&self) -> Option<(LoggerId, LoggerId)> {
        let (min, max) =
            (self.bounds.logger_min.load(Ordering::Relaxed), self.bounds.logger_max.load(Ordering::Relaxed));
        Some((LoggerId::new(min).ok()?, LoggerId::new(max).ok()?))
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes.load(Ordering::Relaxed));
    }
}

impl fmt::Debug for WriteBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBuffer")
            .field("rows", &self.rows())
            .field("bytes", &self.bytes())
            .field("lsn_first", &self.lsn_first())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
