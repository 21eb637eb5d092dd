//! Reading a segment's rows as a stream of record batches, in order.
//!
//! parquet-rs' decoder says which bytes it wants and never fetches: the same steps run over any store, and on one
//! thread. Bytes are checked before it gets them.
//!
//! Damage is reported only when several reads of the same rows find it: what went wrong on the way from the disk or the
//! network is not there when the bytes are read again. A read starts again at the first row that was not handed out,
//! never at the start of the segment, so that its chance of success does not shrink with the segment's size.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use storage_format::manifest::SegmentEntry;
use storage_format::{ObjectKey, OrgId};

use super::{Opened, SegmentFilter, SegmentReadError, Segments, TAIL_GUESS_BYTES, check_ranges, warn_reread};
use crate::first_wins::{MERGE_BATCH_ROWS, unify};
use crate::limits::READ_ATTEMPTS;

/// A segment's rows, in order.
pub type SegmentStream = BoxStream<'static, Result<RecordBatch, SegmentReadError>>;

struct State {
    segments: Segments,
    org: OrgId,
    entry: SegmentEntry,
    plan: Plan,
    decoder: ParquetPushDecoder,
    /// All bytes, if they are there already, and are not known to be damaged.
    whole: Option<Bytes>,
    /// Rows handed out so far.
    done_rows: usize,
    /// Attempts to read the next batch that found damage.
    damaged: u32,
}

/// What is asked of a segment.
struct Wanted {
    row_groups: Vec<usize>,
    rows: Option<Vec<usize>>,
    schema: Option<SchemaRef>,
}

/// What is read of a segment.
struct Plan {
    metadata: ArrowReaderMetadata,
    row_groups: Vec<usize>,
    projection: Option<ProjectionMask>,
    /// The numbers of the rows, ascending; all of them without.
    rows: Option<Vec<usize>>,
}

impl Plan {
    /// Returns a decoder of these rows without the first ones.
    fn decoder(&self, skipped_rows: usize) -> Result<ParquetPushDecoder, ParquetError> {
        let mut builder = ParquetPushDecoderBuilder::new_with_metadata(self.metadata.clone())
            .with_batch_size(MERGE_BATCH_ROWS)
            .with_row_groups(self.row_groups.clone());
        if let Some(projection) = &self.projection {
            builder = builder.with_projection(projection.clone());
        }
        if let Some(rows) = &self.rows {
            let all = usize::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(usize::MAX);
            let ranges = rows.iter().skip(skipped_rows).map(|row| *row..row + 1);
            builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, all));
        } else if skipped_rows > 0 {
            let groups = self.row_groups.iter().map(|group| self.metadata.metadata().row_group(*group).num_rows());
            let rows = groups.map(|rows| usize::try_from(rows).unwrap_or(0)).sum::<usize>();
            let rest = RowSelector::select(rows.saturating_sub(skipped_rows));
            builder = builder.with_row_selection(vec![RowSelector::skip(skipped_rows), rest].into());
        }
        builder.build()
    }
}

impl Segments {
    /// Reads a segment: its metadata, then its rows.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata); later errors come from the stream.
    pub async fn read(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        filter: &SegmentFilter,
        schema: Option<SchemaRef>,
    ) -> Result<SegmentStream, SegmentReadError> {
        let guess = if entry.bytes <= self.whole_bytes_max { entry.bytes } else { TAIL_GUESS_BYTES };
        let Opened { metadata, whole } = self.open(org, entry, guess).await?;
        let whole = whole.filter(|whole| whole.len() as u64 <= self.whole_bytes_max);
        let row_groups = filter.row_groups(&metadata);
        let plan = Wanted { row_groups, rows: None, schema };
        self.stream(org, entry, metadata, whole, plan)
    }

    /// Reads a segment whose metadata is there already. With a schema, only its columns are read, and those that the
    /// segment has not are null; without, all that it has.
    ///
    /// # Errors
    /// [`SegmentReadError::Parquet`] when the segment's columns are not what they should be.
    pub fn read_with(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        metadata: Arc<ParquetMetaData>,
        filter: &SegmentFilter,
        schema: Option<SchemaRef>,
    ) -> Result<SegmentStream, SegmentReadError> {
        let row_groups = filter.row_groups(&metadata);
        self.stream(org, entry, metadata, None, Wanted { row_groups, rows: None, schema })
    }

    /// Reads single rows of a segment, by their numbers, ascending: only the pages that they are in.
    ///
    /// # Errors
    /// As [`read_with`](Self::read_with).
    pub(crate) fn read_rows(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        metadata: Arc<ParquetMetaData>,
        rows: Vec<usize>,
        schema: SchemaRef,
    ) -> Result<SegmentStream, SegmentReadError> {
        let row_groups = (0..metadata.num_row_groups()).collect();
        self.stream(org, entry, metadata, None, Wanted { row_groups, rows: Some(rows), schema: Some(schema) })
    }

    fn stream(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        metadata: Arc<ParquetMetaData>,
        whole: Option<Bytes>,
        Wanted { row_groups, rows, schema }: Wanted,
    ) -> Result<SegmentStream, SegmentReadError> {
        let name = entry.object_key(org);
        let parquet = |source| SegmentReadError::Parquet { name, source };
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(metadata, options).map_err(parquet)?;
        let projection = schema.as_ref().map(|schema| {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            ProjectionMask::columns(metadata.parquet_schema(), names)
        });
        let plan = Plan { metadata, row_groups, projection, rows };
        let decoder = plan.decoder(0).map_err(parquet)?;
        let (segments, entry) = (self.clone(), entry.clone());
        let state = State { segments, org, entry, plan, decoder, whole, done_rows: 0, damaged: 0 };
        let batches = futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(match schema {
            None => batches.boxed(),
            Some(schema) => batches
                .and_then(move |batch| {
                    let unified = unify(&batch, &schema)
                        .map_err(|e| SegmentReadError::Parquet { name, source: ParquetError::External(Box::new(e)) });
                    async { unified }
                })
                .boxed(),
        })
    }
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>, SegmentReadError> {
        let name = self.entry.object_key(self.org);
        loop {
            match self.read().await {
                Ok(batch) => {
                    self.damaged = 0;
                    self.done_rows += batch.as_ref().map_or(0, RecordBatch::num_rows);
                    return Ok(batch);
                }
                Err(error) if error.is_damage() && self.damaged + 1 < READ_ATTEMPTS => {
                    self.damaged += 1;
                    self.whole = None;
                    self.segments = self.segments.past_cache();
                    warn_reread(&error);
                    let decoder = self.plan.decoder(self.done_rows);
                    self.decoder = decoder.map_err(|source| SegmentReadError::Parquet { name, source })?;
                }
                Err(SegmentReadError::Parquet { source, .. }) => {
                    return Err(self.segments.locate(self.org, &self.entry, source).await);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<RecordBatch>, SegmentReadError> {
        let name = self.entry.object_key(self.org);
        let parquet = |source| SegmentReadError::Parquet { name, source };
        loop {
            match self.decoder.try_decode().map_err(parquet)? {
                DecodeResult::Data(batch) => return Ok(Some(batch)),
                DecodeResult::Finished => return Ok(None),
                DecodeResult::NeedsData(ranges) => {
                    let bytes = match &self.whole {
                        Some(whole) => slices(name, whole, &ranges)?,
                        None => self.segments.read_ranges(self.org, &self.entry, &ranges).await?,
                    };
                    self.decoder.push_ranges(ranges, bytes).map_err(parquet)?;
                }
            }
        }
    }
}

/// Returns these ranges of a whole segment, checked as [`Segments::read_ranges`] checks them.
fn slices(name: ObjectKey, whole: &Bytes, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, SegmentReadError> {
    let at = |offset: u64| usize::try_from(offset).map_or(whole.len(), |offset| offset.min(whole.len()));
    let slices: Vec<Bytes> = ranges.iter().map(|range| whole.slice(at(range.start)..at(range.end))).collect();
    check_ranges(name, ranges, &slices)?;
    Ok(slices)
}
