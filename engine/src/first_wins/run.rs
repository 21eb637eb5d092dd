//! One run: the batches that were pushed and not yet read, and where the cursor is.

use std::collections::VecDeque;

use arrow::array::{Array as _, AsArray as _, Float64Array, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};

use super::{Layout, MergeError};

/// What rows are sorted by.
pub(super) type Key = (u64, i64);

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) rows: RecordBatch,
    loggers: ScalarBuffer<u64>,
    times: ScalarBuffer<i64>,
    channels: Vec<Float64Array>,
    provenance: Option<(ScalarBuffer<u64>, ScalarBuffer<i64>)>,
    flushes: Option<ScalarBuffer<u64>>,
    /// Which source of which output this batch is, if it is one.
    pub(super) source: Option<(u64, usize)>,
}

impl Batch {
    fn new(rows: RecordBatch, layout: &Layout) -> Self {
        let number = |index: usize| rows.column(index).as_primitive::<UInt64Type>().values().clone();
        let time = |index: usize| rows.column(index).as_primitive::<TimestampMillisecondType>().values().clone();
        Self {
            loggers: number(0),
            times: time(1),
            channels: layout.channels.iter().map(|&i| rows.column(i).as_primitive::<Float64Type>().clone()).collect(),
            provenance: layout.provenance.map(|(gateway, received)| (number(gateway), time(received))),
            flushes: layout.flush.map(number),
            rows,
            source: None,
        }
    }

    fn len(&self) -> usize {
        self.loggers.len()
    }

    pub(super) fn key(&self, row: usize) -> Key {
        (self.loggers[row], self.times[row])
    }

    /// The channel's value in this row; NaN for none.
    pub(super) fn value(&self, channel: usize, row: usize) -> f64 {
        let column = &self.channels[channel];
        if column.is_null(row) { f64::NAN } else { column.value(row) }
    }

    /// Who sent the row, and when it arrived; zeroes in a merge without provenance.
    pub(super) fn provenance(&self, row: usize) -> (u64, i64) {
        self.provenance.as_ref().map_or((0, 0), |(gateways, received)| (gateways[row], received[row]))
    }

    /// The flush that the row is of; zero if the merge's schema has none.
    pub(super) fn flush(&self, row: usize) -> u64 {
        self.flushes.as_ref().map_or(0, |flushes| flushes[row])
    }

    /// The first row from `from` on whose key is not below `bound`.
    fn lower_bound(&self, from: usize, bound: Key) -> usize {
        // Gallop: the answer is mostly near, and in the worst case costs twice a binary search.
        let mut step = 1;
        let mut low = from;
        while low + step < self.len() && self.key(low + step) < bound {
            low += step;
            step *= 2;
        }
        let high = (low + step).min(self.len());
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// One run.
#[derive(Debug, Default)]
pub(super) struct Run {
    batches: VecDeque<Batch>,
    at: usize,
    finished: bool,
    last: Option<Key>,
}

impl Run {
    pub(super) fn push(&mut self, run: usize, rows: RecordBatch, layout: &Layout) -> Result<(), MergeError> {
        let wrong = |detail: &str| MergeError::Schema { run, detail: detail.to_owned() };
        if self.finished {
            return Err(wrong("a batch after the run's end"));
        }
        let same = rows.num_columns() == layout.schema.fields().len()
            && rows.columns().iter().zip(layout.schema.fields()).all(|(c, f)| c.data_type() == f.data_type());
        if !same {
            return Err(wrong("other columns"));
        }
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if rows.column(0).null_count() + rows.column(1).null_count() > 0 {
            return Err(wrong("a null in logger or time"));
        }
        let batch = Batch::new(rows, layout);
        let sorted = (1..batch.len()).all(|row| batch.key(row - 1) <= batch.key(row));
        if !sorted || self.last.is_some_and(|last| batch.key(0) < last) {
            return Err(MergeError::Order { run });
        }
        self.last = Some(batch.key(batch.len() - 1));
        self.batches.push_back(batch);
        Ok(())
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Must more be pushed before anything can be said?
    pub(super) fn wants(&self) -> bool {
        self.batches.is_empty() && !self.finished
    }

    /// The key at the cursor; `None` at the end of what was pushed.
    pub(super) fn head(&self) -> Option<Key> {
        self.batches.front().map(|batch| batch.key(self.at))
    }

    /// The batch and row at the cursor, which must be at one.
    pub(super) fn current(&mut self) -> Option<(&mut Batch, usize)> {
        self.batches.front_mut().map(|batch| (batch, self.at))
    }

    /// Moves over so many rows of the current batch.
    pub(super) fn advance(&mut self, rows: usize) {
        self.at += rows;
        if self.batches.front().is_some_and(|batch| self.at >= batch.len()) {
            self.batches.pop_front();
            self.at = 0;
        }
    }

    /// Moves to the first pushed row whose key is not below `bound`.
    pub(super) fn skip_below(&mut self, bound: Key) {
        while let Some(batch) = self.batches.front() {
            let to = batch.lower_bound(self.at, bound);
            let stays = to < batch.len();
            self.advance(to - self.at);
            if stays {
                return;
            }
        }
    }

    /// How many rows from the cursor on, at most `limit`, have keys below `bound` that no other row of this run has:
    /// they can be taken as they are. The last row of a batch may have its like in the next one: it does not count.
    pub(super) fn plain_rows(&self, bound: Option<Key>, limit: usize) -> usize {
        let Some(batch) = self.batches.front() else { return 0 };
        let last = self.finished && self.batches.len() == 1;
        let end = bound.map_or(batch.len(), |bound| batch.lower_bound(self.at, bound));
        let end = if end == batch.len() && !last { end - 1 } else { end };
        let end = end.min(self.at.saturating_add(limit));
        let twice = |row: &usize| row + 1 < batch.len() && batch.key(*row) == batch.key(row + 1);
        (self.at..end).find(twice).unwrap_or(end) - self.at
    }
}
