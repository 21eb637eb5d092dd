//! A consistent prefix of a write buffer, read in the order of (logger, time, arrival).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;
use storage_format::segment::readings_schema;
use storage_format::{ChannelCode, LoggerId, Millis, TimeRange, Window};

use super::WriteBuffer;
use crate::limits::BATCH_ROWS;

/// The rows that a write buffer had at one instant. Holds the buffer's memory while it lives.
#[derive(Clone)]
pub struct BufferView {
    buffer: Arc<WriteBuffer>,
    rows: usize,
}

/// One row, ready to be sorted: the sort is stable, so arrival needs no key.
#[derive(Clone, Copy)]
pub(crate) struct RowRef {
    logger: u64,
    time: i64,
    row: u32,
    frame: u32,
}

impl BufferView {
    pub(super) fn new(buffer: Arc<WriteBuffer>, rows: usize) -> Self {
        Self { buffer, rows }
    }

    /// Readings in it, repeated ones too.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Is nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// First and last time, both inside; perhaps wider than the rows are. `None` if empty.
    #[must_use]
    pub fn time_bounds(&self) -> Option<(Millis, Millis)> {
        if self.is_empty() { None } else { self.buffer.time_bounds() }
    }

    /// First and last logger, both inside; perhaps wider than the rows are. `None` if empty.
    #[must_use]
    pub fn logger_bounds(&self) -> Option<(LoggerId, LoggerId)> {
        if self.is_empty() { None } else { self.buffer.logger_bounds() }
    }

    /// The channels that it may have values of, by ascending code.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelCode> {
        self.buffer.channels()
    }

    /// The buffer.
    #[must_use]
    pub fn buffer(&self) -> &Arc<WriteBuffer> {
        &self.buffer
    }

    /// Its rows as batches of the readings schema with these channels (ascending), sorted by (logger, time, arrival):
    /// rows of one (logger, time) may repeat, the first to arrive first. Only rows within `range` and of `loggers`
    /// (ascending; `None`: all). The sort happens here, 24 bytes a row; batches are built as they are taken.
    #[must_use]
    pub fn batches(
        &self,
        range: Option<TimeRange>,
        loggers: Option<&[LoggerId]>,
        channels: &[ChannelCode],
    ) -> SortedBatches {
        let mut rows = Vec::new();
        self.each_row(|row| {
            let inside = range.is_none_or(|range| range.start().get() <= row.time && row.time < range.end().get());
            let wanted = loggers.is_none_or(|loggers| loggers.binary_search_by(|l| l.get().cmp(&row.logger)).is_ok());
            if inside && wanted {
                rows.push(row);
            }
        });
        SortedBatches::new(self.clone(), rows, channels)
    }

    /// Calls `take` with the logger and time of every row, in the order of arrival.
    pub fn each_key(&self, mut take: impl FnMut(u64, i64)) {
        self.each_row(|row| take(row.logger, row.time));
    }

    /// Its rows in so many parts, each as [`BufferView::batches`] gives them: `part_of` tells the part of a (logger,
    /// time), or that it is in none.
    #[must_use]
    pub fn parts(
        &self,
        parts: usize,
        channels: &[ChannelCode],
        part_of: impl Fn(u64, i64) -> Option<usize>,
    ) -> Vec<SortedBatches> {
        let mut rows = vec![Vec::new(); parts];
        self.each_row(|row| {
            if let Some(part) = part_of(row.logger, row.time).and_then(|part| rows.get_mut(part)) {
                part.push(row);
            }
        });
        rows.into_iter().map(|rows| SortedBatches::new(self.clone(), rows, channels)).collect()
    }

    /// Its rows by window, as the flush wants them.
    pub(crate) fn by_window(&self) -> BTreeMap<Window, Vec<RowRef>> {
        let mut windows: BTreeMap<Window, Vec<RowRef>> = BTreeMap::new();
        // Rows come in runs of one month: the map is asked only when the month changes.
        let mut current: Option<(Window, Vec<RowRef>)> = None;
        self.each_row(|row| {
            // Times were validated as `Millis` when the frame was decoded.
            let Ok(time) = Millis::new(row.time) else { return };
            match &mut current {
                Some((window, rows)) if window.range().contains(time) => rows.push(row),
                _ => {
                    if let Some((window, rows)) = current.take() {
                        windows.insert(window, rows);
                    }
                    let window = Window::month_of(time);
                    let mut rows = windows.remove(&window).unwrap_or_default();
                    rows.push(row);
                    current = Some((window, rows));
                }
            }
        });
        if let Some((window, rows)) = current {
            windows.insert(window, rows);
        }
        windows
    }

    fn each_row(&self, mut take: impl FnMut(RowRef)) {
        let buffer = &*self.buffer;
        let frames = buffer.extent.frames();
        let start_of = |frame: usize| if frame < frames { buffer.frame_starts.get(frame) } else { u64::MAX };
        let (mut frame, mut next_start) = (0, start_of(1));
        for row in 0..self.rows {
            while row as u64 >= next_start {
                frame += 1;
                next_start = start_of(frame + 1);
            }
            take(RowRef {
                logger: buffer.loggers.get(row),
                time: buffer.times.get(row).cast_signed(),
                row: u32::try_from(row).expect("a buffer holds fewer rows, as limits assert"),
                frame: u32::try_from(frame).expect("there are no more frames than rows"),
            });
        }
    }
}

impl fmt::Debug for BufferView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferView").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// Batches of a view, sorted; an iterator. Cloning is cheap.
#[derive(Clone)]
pub struct SortedBatches {
    view: BufferView,
    rows: Arc<Vec<RowRef>>,
    next: usize,
    channels: Vec<ChannelCode>,
    schema: SchemaRef,
}

impl SortedBatches {
    pub(crate) fn new(view: BufferView, mut rows: Vec<RowRef>, channels: &[ChannelCode]) -> Self {
        // Stable: within one (logger, time) the first to arrive stays first. Frames are sorted runs, which the
        // standard library's merge sort makes use of.
        rows.sort_by_key(|row| (row.logger, row.time));
        Self { view, rows: Arc::new(rows), next: 0, channels: channels.to_vec(), schema: readings_schema(channels) }
    }

    /// The schema of its batches.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows of all its batches together, also of those already taken.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Is there a row of this key? `from` is where to begin, and where the next key, which is greater, may begin.
    pub(crate) fn seek(&self, key: (u64, i64), from: &mut usize) -> bool {
        *from += self.rows[*from..].partition_point(|row| (row.logger, row.time) < key);
        self.rows.get(*from).is_some_and(|row| (row.logger, row.time) == key)
    }

    /// First and last logger, first and last time, all inside, of all its rows; `None` if it has none.
    #[must_use]
    pub fn bounds(&self) -> Option<((LoggerId, LoggerId), (Millis, Millis))> {
        let logger = |row: &RowRef| LoggerId::new(row.logger).ok();
        let loggers = (logger(self.rows.first()?)?, logger(self.rows.last()?)?);
        let time = |ms: Option<i64>| ms.and_then(|ms| Millis::new(ms).ok());
        let min = time(self.rows.iter().map(|row| row.time).min())?;
        let max = time(self.rows.iter().map(|row| row.time).max())?;
        Some((loggers, (min, max)))
    }
}

impl fmt::Debug for SortedBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SortedBatches").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl Iterator for SortedBatches {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        let end = (self.next + BATCH_ROWS).min(self.rows.len());
        let rows = &self.rows[self.next..end];
        if rows.is_empty() {
            return None;
        }
        self.next = end;
        let buffer = &*self.view.buffer;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.channels.len() + 4);
        columns.push(Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.logger))));
        columns.push(Arc::new(times(rows.iter().map(|row| row.time))));
        for code in &self.channels {
            columns.push(Arc::new(channel(buffer, *code, rows)));
        }
        let gateway = |row: &RowRef| buffer.frame_gateways.get(row.frame as usize);
        columns.push(Arc::new(UInt64Array::from_iter_values(rows.iter().map(gateway))));
        let received = |row: &RowRef| buffer.frame_received.get(row.frame as usize).cast_signed();
        columns.push(Arc::new(times(rows.iter().map(received))));
        Some(RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("columns are made as the schema says"))
    }
}

fn times(values: impl Iterator<Item = i64>) -> TimestampMillisecondArray {
    TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC")
}

fn channel(buffer: &WriteBuffer, code: ChannelCode, rows: &[RowRef]) -> Float64Array {
    let Some(column) = buffer.column(code) else {
        return Float64Array::new_null(rows.len());
    };
    let values: Vec<f64> = rows.iter().map(|row| f64::from_bits(column.get(row.row as usize))).collect();
    let measured = BooleanBuffer::collect_bool(values.len(), |index| !values[index].is_nan());
    Float64Array::new(
        ScalarBuffer::from(values),
        Some(NullBuffer::new(measured)).filter(|nulls| nulls.null_count() > 0),
    )
}
