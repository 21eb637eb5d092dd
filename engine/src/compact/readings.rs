//! Readings segments into one, by first-wins.
//!
//! Rows with the same key are united: a segment that fills channels of older readings has keys of theirs. A value that
//! filled a channel is listed with the flush and the provenance that it came with, unless it is listed already; the row
//! keeps those of its first value. Two values for one channel do not occur in segments that were made here; should they,
//! the first stays, and the other one is kept as a conflict or counted as a duplicate, as a flush would have done.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use storage_format::manifest::{SegmentEntry, SegmentKind, Totals};
use storage_format::segment::{FLUSH_COLUMN, SegmentEncoder, merged_readings_schema, readings_schema};

use super::content::{Content, Rows, Samples};
use super::lists::Listed;
use super::merge::{Encoded, Expected, MergeJob, merge_error};
use super::pace::Pacer;
use crate::error::EngineError;
use crate::first_wins::{Merge, MergeMode, United, YIELD_ROWS};
use crate::rollup::RollupWriter;
use crate::segments::{SegmentFilter, encode_error};

type Run = BoxStream<'static, Result<RecordBatch, EngineError>>;

/// The content of all inputs, as far as they are read.
type Seen = Arc<Mutex<Content>>;

/// See [`MergeJob::encode`].
pub(super) async fn encode_readings(job: &MergeJob, pacer: &mut Pacer) -> Result<Option<Encoded>, EngineError> {
    let (flush_first, flush_last) = job.flushes();
    let mut encoder = job.segments.encoder(&job.new_object(SegmentKind::Readings)).await?;
    let mut rollups = match job.rolls_up {
        true => Some(RollupWriter::new(&job.segments, &job.new_object(SegmentKind::Readings)).await?),
        false => None,
    };
    let seen = Seen::default();
    let mut runs = Vec::with_capacity(job.inputs.len());
    for entry in &job.inputs {
        runs.push(run(job, entry, flush_first < flush_last, &seen).await?);
    }
    let merge = Merge::new(encoder.schema().clone(), runs, MergeMode::Unite, merge_error)?;
    let mut merge = merge.with_batch_rows(YIELD_ROWS);
    let mut beside = Beside::new(job);
    while let Some(batch) = merge.next().await? {
        encoder.write(&batch.rows).map_err(encode_error)?;
        if let Some(rollups) = &mut rollups {
            rollups.push(&batch.rows)?;
        }
        if let Some(united) = &batch.united {
            beside.unite(united).await?;
        }
        if batch.conflicts.num_rows() > 0 {
            beside.conflicts(&batch.conflicts).await?;
        }
        if !pacer.wait(batch.rows.num_rows() as u64).await {
            return Ok(None);
        }
    }
    let counts = merge.counts();
    let read = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    let expected = read.without(&beside.rows, &beside.dropped);
    let encoded = encoder.finish().map_err(encode_error)?;
    if read.rows != job.rows() || encoded.entry.rows != expected.rows {
        let (told, united, merged) = (job.rows(), beside.rows.rows, encoded.entry.rows);
        let read = read.rows;
        return Err(job.differs(format_args!(
            "{told} rows in the manifest, {read} read, {united} of them united with others, {merged} merged"
        )));
    }
    let rollups = rollups.map_or(Ok(Vec::new()), |rollups| rollups.finish(&encoded.entry))?;
    let mut objects = vec![(encoded, Expected::Readings(expected))];
    beside.finish(&mut objects)?;
    let totals = Totals { duplicates: counts.duplicates, conflicts: counts.conflicts, ..Totals::default() };
    Ok(Some(Encoded { objects, rollups, totals }))
}

/// An input's rows, with the flush of each if there are several.
async fn run(job: &MergeJob, entry: &SegmentEntry, with_flush: bool, seen: &Seen) -> Result<Run, EngineError> {
    let metadata = job.segments.metadata(job.org, entry).await?;
    let columns = metadata.file_metadata().schema_descr().columns();
    let has_flush = columns.iter().any(|column| column.name() == FLUSH_COLUMN);
    let channels = job.channels();
    let plain = readings_schema(&channels);
    let merged = merged_readings_schema(&channels);
    let schema = if has_flush { merged.clone() } else { plain };
    let stream = job.segments.read_with(job.org, entry, metadata, &SegmentFilter::default(), Some(schema))?;
    let (flush, seen) = (entry.flush_first.get(), Arc::clone(seen));
    let complete = move |batch: RecordBatch| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).add(&batch, flush);
        if !with_flush || has_flush {
            return Ok(batch);
        }
        let flushes: ArrayRef = Arc::new(UInt64Array::from_value(flush, batch.num_rows()));
        let columns = batch.columns().iter().cloned().chain([flushes]).collect();
        RecordBatch::try_new(merged.clone(), columns).map_err(|error| merge_error(error.into()))
    };
    Ok(stream.map(move |batch| complete(batch?)).boxed())
}

/// What leaves a merge beside the merged rows.
struct Beside<'a> {
    job: &'a MergeJob,
    listed: Option<Listed>,
    fills: Option<SegmentEncoder>,
    conflicts: Option<SegmentEncoder>,
    /// The rows that were united with earlier ones, and their samples.
    rows: Content,
    samples: Samples,
    /// What became of those samples.
    new: Samples,
    known: Samples,
    dropped: Samples,
    conflict_rows: Rows,
}

impl<'a> Beside<'a> {
    fn new(job: &'a MergeJob) -> Self {
        Self {
            job,
            listed: None,
            fills: None,
            conflicts: None,
            rows: Content::default(),
            samples: Samples::default(),
            new: Samples::default(),
            known: Samples::default(),
            dropped: Samples::default(),
            conflict_rows: Rows::default(),
        }
    }

    async fn unite(&mut self, united: &United) -> Result<(), EngineError> {
        let job = self.job;
        let (flush_first, flush_last) = job.flushes();
        if flush_first == flush_last {
            return Err(job.differs(format_args!("one flush has a key twice")));
        }
        self.rows.add(&united.rows, 0);
        self.samples.add_readings(&united.rows);
        self.dropped.add(&united.dropped);
        if self.listed.is_none() {
            self.listed = Some(Listed::open(&job.segments, job.org, &job.fills).await?);
        }
        let Some(listed) = &mut self.listed else { return Ok(()) };
        let (new, known) = listed.part(&united.fills).await?;
        self.new.add(&new);
        self.known.add(&known);
        if new.num_rows() == 0 {
            return Ok(());
        }
        let mut encoder = match self.fills.take() {
            Some(encoder) => encoder,
            None => job.segments.encoder(&job.new_object(SegmentKind::Fills)).await?,
        };
        encoder.write(&new).map_err(encode_error)?;
        self.fills = Some(encoder);
        Ok(())
    }

    async fn conflicts(&mut self, conflicts: &RecordBatch) -> Result<(), EngineError> {
        let mut encoder = match self.conflicts.take() {
            Some(encoder) => encoder,
            None => self.job.segments.encoder(&self.job.new_object(SegmentKind::Conflicts)).await?,
        };
        self.conflict_rows.add(conflicts);
        encoder.write(conflicts).map_err(encode_error)?;
        self.conflicts = Some(encoder);
        Ok(())
    }

    /// Every sample of a united row is a fill or went, and nothing else is.
    fn finish(self, objects: &mut Vec<(storage_format::segment::EncodedSegment, Expected)>) -> Result<(), EngineError> {
        let told = self.new.and(self.known).and(self.dropped);
        if told != self.samples {
            let (samples, told) = (self.samples.count, told.count);
            return Err(self.job.differs(format_args!("{samples} values were united with others, and {told} told of")));
        }
        if let Some(fills) = self.fills {
            objects.push((fills.finish().map_err(encode_error)?, Expected::Fills(self.new)));
        }
        if let Some(conflicts) = self.conflicts {
            objects.push((conflicts.finish().map_err(encode_error)?, Expected::Rows(self.conflict_rows)));
        }
        Ok(())
    }
}
