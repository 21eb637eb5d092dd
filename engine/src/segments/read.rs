//! Reading a segment's rows as a stream of record batches, in order.
//!
//! parquet-rs' decoder says which bytes it wants and never fetches: the same steps run over any store, and on one
//! thread. Bytes are checked before it gets them.
//!
//! Damage is reported only when several reads of the same rows find it: what went wrong on the way from the disk or the
//! network is not there when the bytes are read again. A read starts again at the first row that was not handed out,
//! never at the start of the segment, so that its chance of success does not shrink with the segment's size.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelector};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use storage_format::OrgId;
use storage_format::manifest::SegmentEntry;

use super::{SegmentFilter, SegmentReadError, Segments, warn_reread};
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
    /// Rows handed out so far.
    done_rows: usize,
    /// Attempts to read the next batch that found damage.
    damaged: u32,
}

/// What is read of a segment.
struct Plan {
    metadata: ArrowReaderMetadata,
    row_groups: Vec<usize>,
    projection: Option<ProjectionMask>,
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
        if skipped_rows > 0 {
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
        let metadata = self.metadata(org, entry).await?;
        self.read_with(org, entry, metadata, filter, schema)
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
        let name = entry.object_key(org);
        let parquet = |source| SegmentReadError::Parquet { name, source };
        let row_groups = filter.row_groups(&metadata);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(metadata, options).map_err(parquet)?;
        let projection = schema.as_ref().map(|schema| {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            ProjectionMask::columns(metadata.parquet_schema(), names)
        });
        let plan = Plan { metadata, row_groups, projection };
        let decoder = plan.decoder(0).map_err(parquet)?;
        let (segments, entry) = (self.clone(), entry.clone());
        let state = State { segments, org, entry, plan, decoder, done_rows: 0, damaged: 0 };
        let rows = futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(match schema {
            None => rows.boxed(),
            Some(schema) => rows
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
                    let bytes = self.segments.read_ranges(self.org, &self.entry, &ranges).await?;
                    self.decoder.push_ranges(ranges, bytes).map_err(parquet)?;
                }
            }
        }
    }
}
