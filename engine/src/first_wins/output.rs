//! The batch under way: slices of the runs' batches, rows built from several of them, conflicts.
//!
//! What can be taken as it is, is: one slice alone leaves without being copied.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::compute::{concat_batches, interleave, interleave_record_batch};
use storage_format::segment::{conflicts_schema, fills_schema};

use super::pending::{Conflict, Pending, Place, Sample};
use super::run::Batch;
use super::{Layout, MergeError, MergedBatch, United};

/// Slices shorter than this, on average, are picked row by row rather than joined.
const SLICE_ROWS_WORTH: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Piece {
    source: Source,
    start: usize,
    rows: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Pushed(usize),
    Built,
}

#[derive(Debug)]
pub(super) struct Output {
    /// Tells outputs apart, so that a batch knows which one it is a source of.
    number: u64,
    sources: Vec<RecordBatch>,
    pieces: Vec<Piece>,
    rows: usize,
    origins: Vec<Place>,
    built: Vec<Vec<Option<f64>>>,
    conflicts: Vec<Conflict>,
    united: Vec<Place>,
    fills: Vec<Sample>,
    dropped: Vec<Sample>,
}

impl Output {
    pub(super) fn new(channels: usize) -> Self {
        Self {
            number: 0,
            sources: Vec::new(),
            pieces: Vec::new(),
            rows: 0,
            origins: Vec::new(),
            built: vec![Vec::new(); channels],
            conflicts: Vec::new(),
            united: Vec::new(),
            fills: Vec::new(),
            dropped: Vec::new(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The length of what leaves beside the rows.
    pub(super) fn beside(&self) -> usize {
        self.conflicts.len().max(self.united.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0 && self.beside() == 0
    }

    /// The number of this batch among the sources.
    pub(super) fn source(&mut self, batch: &mut Batch) -> usize {
        match batch.source {
            Some((number, source)) if number == self.number => source,
            _ => {
                let source = self.sources.len();
                self.sources.push(batch.rows.clone());
                batch.source = Some((self.number, source));
                source
            }
        }
    }

    pub(super) fn slice(&mut self, source: usize, start: usize, rows: usize) {
        self.piece(Source::Pushed(source), start, rows);
    }

    fn piece(&mut self, source: Source, start: usize, rows: usize) {
        self.rows += rows;
        match self.pieces.last_mut() {
            Some(last) if last.source == source && last.start + last.rows == start => last.rows += rows,
            _ => self.pieces.push(Piece { source, start, rows }),
        }
    }

    /// Takes a settled key; tells whether it made a row, and how many conflicts.
    pub(super) fn settle(&mut self, mut pending: Pending) -> (bool, usize) {
        let conflicts = pending.take_conflicts();
        let found = conflicts.len();
        self.conflicts.extend(conflicts);
        let (fills, dropped) = pending.take_united();
        self.united.append(&mut pending.later);
        self.fills.extend(fills);
        self.dropped.extend(dropped);
        let Some(origin) = pending.origin else { return (false, found) };
        if pending.altered || pending.in_earlier {
            let row = self.origins.len();
            self.origins.push(origin);
            for (column, value) in self.built.iter_mut().zip(&pending.added) {
                column.push((!value.is_nan()).then_some(*value));
            }
            self.piece(Source::Built, row, 1);
        } else {
            self.slice(origin.0, origin.1, 1);
        }
        (true, found)
    }

    /// The batch, and a new start.
    pub(super) fn take(&mut self, layout: &Layout) -> Result<MergedBatch, MergeError> {
        let next = Self { number: self.number + 1, ..Self::new(self.built.len()) };
        let done = std::mem::replace(self, next);
        let conflicts = conflicts_batch(layout, &done.conflicts)?;
        let united = if done.united.is_empty() { None } else { Some(done.united_batches(layout)?) };
        Ok(MergedBatch { rows: done.rows_batch(layout)?, conflicts, united })
    }

    fn united_batches(&self, layout: &Layout) -> Result<United, MergeError> {
        let sources: Vec<&RecordBatch> = self.sources.iter().collect();
        let rows = with_schema(layout, &interleave_record_batch(&sources, &self.united)?)?;
        Ok(United { rows, fills: samples_batch(layout, &self.fills)?, dropped: samples_batch(layout, &self.dropped)? })
    }

    fn rows_batch(mut self, layout: &Layout) -> Result<RecordBatch, MergeError> {
        if self.pieces.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&layout.schema)));
        }
        let built = self.sources.len();
        if !self.origins.is_empty() {
            let batch = self.built_batch(layout)?;
            self.sources.push(batch);
        }
        let index = |piece: &Piece| match piece.source {
            Source::Pushed(source) => source,
            Source::Built => built,
        };
        let slice = |piece: &Piece| self.sources[index(piece)].slice(piece.start, piece.rows);
        let rows = if let [piece] = self.pieces[..] {
            slice(&piece)
        } else if self.rows / self.pieces.len() >= SLICE_ROWS_WORTH {
            let slices: Vec<RecordBatch> = self.pieces.iter().map(slice).collect();
            return with_schema(layout, &concat_batches(slices[0].schema_ref(), &slices)?);
        } else {
            let places: Vec<Place> = self
                .pieces
                .iter()
                .flat_map(|piece| (piece.start..piece.start + piece.rows).map(|row| (index(piece), row)))
                .collect();
            let sources: Vec<&RecordBatch> = self.sources.iter().collect();
            interleave_record_batch(&sources, &places)?
        };
        with_schema(layout, &rows)
    }

    /// The rows that no run has as they are.
    fn built_batch(&mut self, layout: &Layout) -> Result<RecordBatch, MergeError> {
        let built = std::mem::take(&mut self.built);
        let mut values = built.into_iter();
        let columns = (0..layout.schema.fields().len()).map(|index| -> Result<ArrayRef, MergeError> {
            if layout.channels.contains(&index) {
                return Ok(Arc::new(Float64Array::from(values.next().unwrap_or_default())));
            }
            let columns: Vec<&dyn Array> = self.sources.iter().map(|batch| batch.column(index).as_ref()).collect();
            Ok(interleave(&columns, &self.origins)?)
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&layout.schema), columns)?)
    }
}

/// Batches may differ from the merge's schema in what it says about nulls.
fn with_schema(layout: &Layout, batch: &RecordBatch) -> Result<RecordBatch, MergeError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(&layout.schema), batch.columns().to_vec(), &options)?)
}

fn samples_batch(layout: &Layout, samples: &[Sample]) -> Result<RecordBatch, MergeError> {
    let name = |s: &Sample| layout.schema.field(layout.channels[s.channel]).name().as_str();
    let numbers = |of: fn(&Sample) -> u64| -> ArrayRef { Arc::new(samples.iter().map(of).collect::<UInt64Array>()) };
    let times = |of: fn(&Sample) -> i64| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from_iter_values(samples.iter().map(of)).with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        numbers(|s| s.key.0),
        times(|s| s.key.1),
        Arc::new(StringArray::from_iter_values(samples.iter().map(name))),
        Arc::new(Float64Array::from_iter_values(samples.iter().map(|s| s.value))),
        numbers(|s| s.flush),
        numbers(|s| s.gateway),
        times(|s| s.received),
    ];
    Ok(RecordBatch::try_new(fills_schema(), columns)?)
}

fn conflicts_batch(layout: &Layout, conflicts: &[Conflict]) -> Result<RecordBatch, MergeError> {
    let schema = conflicts_schema();
    if conflicts.is_empty() {
        return Ok(RecordBatch::new_empty(schema));
    }
    let name = |c: &Conflict| layout.schema.field(layout.channels[c.channel]).name().as_str();
    let numbers =
        |of: fn(&Conflict) -> u64| -> ArrayRef { Arc::new(conflicts.iter().map(of).collect::<UInt64Array>()) };
    let values =
        |of: fn(&Conflict) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(conflicts.iter().map(of))) };
    let times = |of: fn(&Conflict) -> i64| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from_iter_values(conflicts.iter().map(of)).with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        numbers(|c| c.key.0),
        times(|c| c.key.1),
        Arc::new(StringArray::from_iter_values(conflicts.iter().map(name))),
        values(|c| c.kept),
        values(|c| c.refused),
        numbers(|c| c.gateway),
        times(|c| c.received),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}
