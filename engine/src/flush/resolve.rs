//! One window of a flush: what of the buffer's rows is new against older segments, into segments of its own.
//!
//! The kernel of `first_wins` decides; here it is fed and its output written, as streams: of older segments only those
//! are opened whose ranges overlap, and of them only the row groups that do. Memory: a batch and a row group of each
//! of at most `merge_runs_max` older segments, and the object being encoded, up to `segment_bytes_max`. Where more
//! segments overlap, they are merged in groups first, and of each group only the rows are kept whose keys the buffer
//! has, which is never more than the buffer's own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMillisecondType, UInt64Type};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind, Totals};
use storage_format::segment::{SegmentEncoder, readings_schema};
use storage_format::{ChannelCode, LoggerId, Millis, TimeRange, Window};

use super::flusher::{FlushSpan, Flusher, Written, defect};
use crate::buffer::SortedBatches;
use crate::error::{EngineError, EngineErrorKind};
use crate::first_wins::{Merge, MergeCounts, MergeError, MergeMode, MergedBatch, YIELD_ROWS};
use crate::org::Frontier;
use crate::planted::{self, PlantedBug};
use crate::segments::{NewSegment, SegmentFilter, SegmentStream, encode_error};

/// How many older segments are opened at a time.
const OPENS_AT_ONCE: usize = 8;

/// One window of one flush, or a part of it: some of its loggers.
pub(super) struct WindowFlush {
    pub(super) flusher: Flusher,
    pub(super) span: FlushSpan,
    pub(super) manifest: Arc<Manifest>,
    pub(super) channels: Arc<[ChannelCode]>,
    pub(super) window: Window,
}

/// Where rows are that older segments may have, too: between these loggers and times, all inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspects {
    loggers: (LoggerId, LoggerId),
    times: (Millis, Millis),
}

impl Suspects {
    /// Among these rows; `None` if all of them are new.
    pub(super) fn of(rows: &SortedBatches, frontier: &Frontier) -> Option<Self> {
        let mut suspects: Option<(u64, u64, i64, i64)> = None;
        for times in rows.loggers() {
            let max = times.max.min(frontier.of(times.logger));
            if times.min <= max {
                let (first, _, min, latest) = suspects.unwrap_or((times.logger, 0, i64::MAX, i64::MIN));
                suspects = Some((first, times.logger, min.min(times.min), latest.max(max)));
            }
        }
        let (first, last, min, max) = suspects?;
        let logger = |id| LoggerId::new(id).expect("a decoded frame's logger");
        let time = |ms| Millis::new(ms).expect("between two times of a decoded frame");
        Some(Self { loggers: (logger(first), logger(last)), times: (time(min), time(max)) })
    }

    fn range(&self) -> Option<TimeRange> {
        TimeRange::new(self.times.0, self.times.1.saturating_add(1)).ok()
    }

    fn filter(&self) -> SegmentFilter {
        SegmentFilter { time: self.range(), loggers: Some(self.loggers.0..=self.loggers.1) }
    }

    fn overlaps(&self, entry: &SegmentEntry) -> bool {
        entry.overlaps_loggers(self.loggers.0, self.loggers.1)
            && self.range().is_none_or(|range| entry.overlaps_time(range))
    }
}

/// One of the sorted runs of a merge.
enum Run {
    Segment(SegmentStream),
    Kept(vec::IntoIter<RecordBatch>),
    Buffer(SortedBatches),
}

impl Stream for Run {
    type Item = Result<RecordBatch, EngineError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Segment(stream) => stream.poll_next_unpin(context).map_err(EngineError::from),
            Self::Kept(batches) => Poll::Ready(batches.next().map(Ok)),
            Self::Buffer(batches) => Poll::Ready(batches.next().map(Ok)),
        }
    }
}

impl WindowFlush {
    /// Writes what is new of these rows, which are all of the buffer's in this window of their loggers.
    pub(super) async fn run(self, rows: SortedBatches, suspects: Option<Suspects>) -> Result<Written, EngineError> {
        let filter = suspects.map(|suspects| suspects.filter()).unwrap_or_default();
        let overlaps = |entry: &&SegmentEntry| {
            suspects.is_some_and(|suspects| suspects.overlaps(entry)) && !planted::has(PlantedBug::SkipDedup)
        };
        let older: Vec<&SegmentEntry> = self.manifest.segments_in(self.window).filter(overlaps).collect();
        let schema = readings_schema(&self.channels);
        let mut runs = if older.len() <= self.flusher.merge_runs_max {
            self.open(&older, &filter, &schema).await?
        } else {
            self.merge_older(&older, &filter, &schema, &rows).await?
        };
        runs.push(Run::Buffer(rows));

        let merge = Merge::new(schema, runs, MergeMode::NewOfLast, merge_error)?;
        let mut merge = merge.with_batch_rows(YIELD_ROWS);
        let mut writer = WindowWriter::new(&self);
        while let Some(batch) = merge.next().await? {
            writer.write(batch).await?;
            // Whoever waits for this core, with frames to take or to acknowledge, need not wait for a whole time slice.
            std::thread::yield_now();
        }
        writer.finish(merge.counts()).await
    }

    async fn open(
        &self,
        older: &[&SegmentEntry],
        filter: &SegmentFilter,
        schema: &SchemaRef,
    ) -> Result<Vec<Run>, EngineError> {
        let opens: Vec<_> = older.iter().map(|entry| self.open_one(entry, filter, schema)).collect();
        futures::stream::iter(opens).buffered(OPENS_AT_ONCE).try_collect().await
    }

    async fn open_one(
        &self,
        entry: &SegmentEntry,
        filter: &SegmentFilter,
        schema: &SchemaRef,
    ) -> Result<Run, EngineError> {
        let stream = self.flusher.segments.read(self.span.org, entry, filter, Some(schema.clone())).await?;
        Ok(Run::Segment(stream))
    }

    /// Fewer runs instead of many segments: a group of segments at a time, and of it only what the buffer asks about.
    async fn merge_older(
        &self,
        older: &[&SegmentEntry],
        filter: &SegmentFilter,
        schema: &SchemaRef,
        rows: &SortedBatches,
    ) -> Result<Vec<Run>, EngineError> {
        let mut merged = Vec::new();
        for group in older.chunks(self.flusher.merge_runs_max) {
            let runs = self.open(group, filter, schema).await?;
            let mut merge = Merge::new(schema.clone(), runs, MergeMode::Rows, merge_error)?;
            let mut kept = Vec::new();
            let mut from = 0;
            while let Some(batch) = merge.next().await? {
                let batch = keep_asked(&batch.rows, rows, &mut from)?;
                if batch.num_rows() > 0 {
                    kept.push(batch);
                }
            }
            merged.push(Run::Kept(kept.into_iter()));
        }
        Ok(merged)
    }
}

/// The rows whose keys the buffer has, too. `from` goes along, as both are sorted.
fn keep_asked(batch: &RecordBatch, rows: &SortedBatches, from: &mut usize) -> Result<RecordBatch, EngineError> {
    let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
    let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
    let asked: BooleanArray =
        loggers.iter().zip(times).map(|(logger, time)| Some(rows.seek((*logger, *time), from))).collect();
    filter_record_batch(batch, &asked).map_err(|error| defect("merged rows could not be selected").because(error))
}

/// The objects that a window's rows go to.
struct WindowWriter<'a> {
    window: &'a WindowFlush,
    readings: Option<SegmentEncoder>,
    conflicts: Option<SegmentEncoder>,
    last_logger: u64,
    entries: Vec<SegmentEntry>,
}

impl<'a> WindowWriter<'a> {
    fn new(window: &'a WindowFlush) -> Self {
        Self { window, readings: None, conflicts: None, last_logger: 0, entries: Vec::new() }
    }

    async fn write(&mut self, batch: MergedBatch) -> Result<(), EngineError> {
        self.write_readings(batch.rows).await?;
        if batch.conflicts.num_rows() > 0 {
            let mut encoder = self.encoder(SegmentKind::Conflicts).await?;
            encoder.write(&batch.conflicts).map_err(encode_error)?;
            if self.is_full(&encoder) {
                self.put(encoder).await?;
            } else {
                self.conflicts = Some(encoder);
            }
        }
        Ok(())
    }

    async fn write_readings(&mut self, mut rows: RecordBatch) -> Result<(), EngineError> {
        while rows.num_rows() > 0 {
            let mut encoder = self.encoder(SegmentKind::Readings).await?;
            let loggers = rows.column(0).as_primitive::<UInt64Type>().values();
            let mut here = rows.num_rows();
            // Segments of one flush have no key in common, and show it by their ranges: one ends where a logger does.
            let full = self.is_full(&encoder);
            if full {
                here = loggers.iter().position(|logger| *logger != self.last_logger).unwrap_or(here);
            }
            self.last_logger = loggers[rows.num_rows() - 1];
            encoder.write(&rows.slice(0, here)).map_err(encode_error)?;
            if full && here < rows.num_rows() {
                self.put(encoder).await?;
            } else {
                self.readings = Some(encoder);
            }
            rows = rows.slice(here, rows.num_rows() - here);
        }
        Ok(())
    }

    fn is_full(&self, encoder: &SegmentEncoder) -> bool {
        encoder.rows() > 0 && encoder.memory_bytes() as u64 >= self.window.flusher.segment_bytes_max
    }

    /// The object being encoded, or a new one.
    async fn encoder(&mut self, kind: SegmentKind) -> Result<SegmentEncoder, EngineError> {
        let current = match kind {
            SegmentKind::Readings => self.readings.take(),
            _ => self.conflicts.take(),
        };
        if let Some(encoder) = current {
            return Ok(encoder);
        }
        let WindowFlush { flusher, span, window, channels, .. } = self.window;
        let new = NewSegment {
            kind,
            org: span.org,
            window: *window,
            flush_first: span.flush,
            flush_last: span.flush,
            lsn_min: span.lsn_min,
            lsn_max: span.lsn_max,
            channels: channels.to_vec(),
        };
        flusher.segments.encoder(&new).await
    }

    async fn put(&mut self, encoder: SegmentEncoder) -> Result<(), EngineError> {
        let encoded = encoder.finish().map_err(encode_error)?;
        self.entries.push(self.window.flusher.segments.put(self.window.span.org, encoded).await?);
        Ok(())
    }

    async fn finish(mut self, counts: MergeCounts) -> Result<Written, EngineError> {
        for encoder in [self.readings.take(), self.conflicts.take()].into_iter().flatten() {
            self.put(encoder).await?;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.kind == SegmentKind::Readings) {
            entry.shares_keys = counts.shares_keys;
        }
        let totals = Totals {
            readings: counts.readings,
            duplicates: counts.duplicates,
            conflicts: counts.conflicts,
            filled: counts.filled,
            dropped: 0,
        };
        Ok(Written { entries: self.entries, totals })
    }
}

/// What a merge refuses is in a stored segment, or a defect.
fn merge_error(error: MergeError) -> EngineError {
    EngineError::new(
        EngineErrorKind::Corrupt,
        "readings could not be compared with those of older segments",
        "Nothing is lost. `icecore doctor --deep` names what is damaged; if nothing is, please report it.",
    )
    .because(error)
}
