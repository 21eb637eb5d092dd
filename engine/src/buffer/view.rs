//! A consistent prefix of a write buffer, read in the order of (logger, time, arrival).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;
use storage_format::segment::readings_schema;
use storage_format::{ChannelCode, LoggerId, Millis, TimeRange, Window};

use super::WriteBuffer;
use super::sorted::{LoggerTimes, RowRun, Runs, SortedRuns};
use crate::limits::BATCH_ROWS;
use crate::sync::Column;

/// The rows that a write buffer had at one instant. Holds the buffer's memory while it lives.
#[derive(Clone)]
pub struct BufferView {
    buffer: Arc<WriteBuffer>,
    rows: usize,
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
    /// (ascending; `None`: all). They are put in order here; batches are built as they are taken.
    #[must_use]
    pub fn batches(
        &self,
        range: Option<TimeRange>,
        loggers: Option<&[LoggerId]>,
        channels: &[ChannelCode],
    ) -> SortedBatches {
        let mut runs = Runs::default();
        self.each_row(|row, frame, logger, time| {
            let inside = range.is_none_or(|range| range.start().get() <= time && time < range.end().get());
            let wanted = loggers.is_none_or(|loggers| loggers.binary_search_by(|l| l.get().cmp(&logger)).is_ok());
            if inside && wanted {
                runs.push(row, frame, logger, time);
            }
        });
        SortedBatches::new(self.clone(), runs, channels)
    }

    /// Calls `take` with the logger and time of every row, in the order of arrival.
    pub fn each_key(&self, mut take: impl FnMut(u64, i64)) {
        self.each_row(|_, _, logger, time| take(logger, time));
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
        let mut runs = vec![Runs::default(); parts];
        self.each_row(|row, frame, logger, time| {
            if let Some(part) = part_of(logger, time).and_then(|part| runs.get_mut(part)) {
                part.push(row, frame, logger, time);
            }
        });
        runs.into_iter().map(|runs| SortedBatches::new(self.clone(), runs, channels)).collect()
    }

    /// Its rows by window, each as [`BufferView::batches`] gives them.
    pub(crate) fn by_window(&self, channels: &[ChannelCode]) -> Vec<(Window, SortedBatches)> {
        let mut windows: BTreeMap<Window, Runs> = BTreeMap::new();
        // Rows come in runs of one month: the map is asked only when the month changes.
        let mut current: Option<(Window, RangeInclusive<i64>, Runs)> = None;
        self.each_row(|row, frame, logger, time| {
            if let Some((_, range, runs)) = &mut current
                && range.contains(&time)
            {
                return runs.push(row, frame, logger, time);
            }
            let window = Window::month_of(Millis::new(time).expect("a decoded frame's time is one"));
            if let Some((window, _, runs)) = current.take() {
                windows.insert(window, runs);
            }
            let mut runs = windows.remove(&window).unwrap_or_default();
            runs.push(row, frame, logger, time);
            current = Some((window, window.range().start().get()..=window.range().end().get() - 1, runs));
        });
        windows.extend(current.map(|(window, _, runs)| (window, runs)));
        windows.into_iter().map(|(window, runs)| (window, SortedBatches::new(self.clone(), runs, channels))).collect()
    }

    /// Calls `take` with each row's number, the number of its frame, its logger and its time.
    pub(super) fn each_row(&self, mut take: impl FnMut(u32, u32, u64, i64)) {
        let buffer = &*self.buffer;
        let frames = buffer.extent.frames();
        let start_of = |frame: usize| if frame < frames { buffer.frame_starts.get(frame) } else { u64::MAX };
        let short = |number: usize| u32::try_from(number).expect("a buffer holds fewer rows, as limits assert");
        let (all_times, all_loggers) = (buffer.times.reader(self.rows), buffer.loggers.reader(self.rows));
        let (mut times, mut loggers) = (Vec::with_capacity(BATCH_ROWS), Vec::with_capacity(BATCH_ROWS));
        let (mut frame, mut next_start) = (0, start_of(1));
        for begin in (0..self.rows).step_by(BATCH_ROWS) {
            let count = BATCH_ROWS.min(self.rows - begin);
            times.clear();
            loggers.clear();
            all_times.extend(&mut times, begin, count, u64::cast_signed);
            all_loggers.extend(&mut loggers, begin, count, |logger| logger);
            for (row, (&logger, &time)) in (begin..).zip(loggers.iter().zip(&times)) {
                while row as u64 >= next_start {
                    frame += 1;
                    next_start = start_of(frame + 1);
                }
                take(short(row), short(frame), logger, time);
            }
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
    sorted: Arc<SortedRuns>,
    /// The run that is next, and how many of its rows are taken.
    next: (usize, usize),
    channels: Vec<ChannelCode>,
    schema: SchemaRef,
}

impl SortedBatches {
    fn new(view: BufferView, runs: Runs, channels: &[ChannelCode]) -> Self {
        let sorted = Arc::new(runs.sort(&view.buffer.times));
        Self { view, sorted, next: (0, 0), channels: channels.to_vec(), schema: readings_schema(channels) }
    }

    /// The schema of its batches.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows of all its batches together, also of those already taken.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.sorted.rows()
    }

    /// What putting the rows in order occupies in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.sorted.memory_bytes()
    }

    /// Is there a row of this key? `from` is where to begin, and where the next key, which is greater, may begin.
    pub(crate) fn seek(&self, key: (u64, i64), from: &mut usize) -> bool {
        self.sorted.seek(&self.view.buffer.times, key, from)
    }

    /// Its loggers, ascending, each with the times of its rows.
    pub(crate) fn loggers(&self) -> &[LoggerTimes] {
        self.sorted.loggers()
    }

    /// First and last logger, first and last time, all inside, of all its rows; `None` if it has none.
    #[must_use]
    pub fn bounds(&self) -> Option<((LoggerId, LoggerId), (Millis, Millis))> {
        let loggers = self.loggers();
        let id = |times: &LoggerTimes| LoggerId::new(times.logger).ok();
        let first_and_last = (id(loggers.first()?)?, id(loggers.last()?)?);
        let min = loggers.iter().map(|logger| logger.min).min()?;
        let max = loggers.iter().map(|logger| logger.max).max()?;
        Some((first_and_last, (Millis::new(min).ok()?, Millis::new(max).ok()?)))
    }

    /// The same rows in so many parts, or fewer, of about the same size, none of which has a logger in common with
    /// another. To be called before a batch is taken.
    pub(crate) fn split(self, parts: usize) -> Vec<Self> {
        if parts <= 1 {
            return vec![self];
        }
        let sorted = SortedRuns::split(&self.sorted, parts).into_iter();
        sorted.map(|sorted| Self { sorted: Arc::new(sorted), ..self.clone() }).collect()
    }

    /// The runs, or parts of them, that make up the next batch.
    fn take_runs(&mut self) -> (Vec<RowRun>, usize) {
        let (mut taken, mut rows) = (Vec::new(), 0);
        while rows < BATCH_ROWS
            && let Some(run) = self.sorted.runs().get(self.next.0)
        {
            let done = self.next.1;
            let here = (run.len as usize - done).min(BATCH_ROWS - rows);
            taken.push(run.part(done, here));
            rows += here;
            self.next = if done + here == run.len as usize { (self.next.0 + 1, 0) } else { (self.next.0, done + here) };
        }
        (taken, rows)
    }
}

impl fmt::Debug for SortedBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SortedBatches").field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Iterator for SortedBatches {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        let (runs, rows) = self.take_runs();
        if rows == 0 {
            return None;
        }
        let buffer = &*self.view.buffer;
        let frames = buffer.extent.frames();
        let (gateways, received) = (buffer.frame_gateways.reader(frames), buffer.frame_received.reader(frames));
        // What all rows of a run have in common.
        let mut of_runs = (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::with_capacity(rows));
        for run in &runs {
            let end = of_runs.0.len() + run.len as usize;
            of_runs.0.resize(end, self.sorted.logger(run));
            of_runs.1.resize(end, gateways.get(run.frame as usize));
            of_runs.2.resize(end, received.get(run.frame as usize).cast_signed());
        }
        let (loggers, gateways, received) = of_runs;
        let gather = Gather { runs: &runs, rows, len: self.view.rows };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.channels.len() + 4);
        columns.push(Arc::new(UInt64Array::from(loggers)));
        columns.push(Arc::new(times(gather.values(&buffer.times, u64::cast_signed))));
        for code in &self.channels {
            columns.push(Arc::new(match buffer.column(*code) {
                Some(column) => channel(gather.values(column, f64::from_bits)),
                None => Float64Array::new_null(rows),
            }));
        }
        columns.push(Arc::new(UInt64Array::from(gateways)));
        columns.push(Arc::new(times(received)));
        Some(RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("columns are made as the schema says"))
    }
}

/// Picks the rows of runs out of columns.
struct Gather<'a> {
    runs: &'a [RowRun],
    rows: usize,
    /// Rows that the view has.
    len: usize,
}

impl Gather<'_> {
    fn values<T>(&self, column: &Column, value: impl Fn(u64) -> T) -> Vec<T> {
        let column = column.reader(self.len);
        let mut values = Vec::with_capacity(self.rows);
        for run in self.runs {
            // Rows are `u32`, which `sorted` says why: `as usize` loses nothing.
            if run.len == 1 {
                values.push(value(column.get(run.row as usize)));
            } else {
                column.extend(&mut values, run.row as usize, run.len as usize, &value);
            }
        }
        values
    }
}

pub(super) fn times(values: Vec<i64>) -> TimestampMillisecondArray {
    TimestampMillisecondArray::from(values).with_timezone("UTC")
}

pub(super) fn channel(values: Vec<f64>) -> Float64Array {
    let nulls = values.iter().any(|value| value.is_nan()).then(|| {
        let measured = BooleanBuffer::collect_bool(values.len(), |index| !values[index].is_nan());
        NullBuffer::new(measured)
    });
    Float64Array::new(ScalarBuffer::from(values), nulls)
}
