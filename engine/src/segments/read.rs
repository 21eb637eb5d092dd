//! Reading a segment's rows as a stream of record batches, in order.
//!
//! parquet-rs' decoder says which bytes it wants and never fetches: the same steps run over any store, and on one
//! thread. Bytes are checked before it gets them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use storage_format::OrgId;
use storage_format::manifest::SegmentEntry;

use super::{SegmentFilter, SegmentReadError, Segments};
use crate::first_wins::{MERGE_BATCH_ROWS, unify};

/// A segment's rows, in order.
pub type SegmentStream = BoxStream<'static, Result<RecordBatch, SegmentReadError>>;

struct State {
    segments: Segments,
    org: OrgId,
    entry: SegmentEntry,
    decoder: ParquetPushDecoder,
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
        let mut builder = ParquetPushDecoderBuilder::new_with_metadata(metadata)
            .with_batch_size(MERGE_BATCH_ROWS)
            .with_row_groups(row_groups);
        if let Some(schema) = &schema {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let mask = ProjectionMask::columns(builder.parquet_schema(), names);
            builder = builder.with_projection(mask);
        }
        let decoder = builder.build().map_err(parquet)?;
        let state = State { segments: self.clone(), org, entry: entry.clone(), decoder };
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
        let parquet = |source| SegmentReadError::Parquet { name, source };
        loop {
            let step = match self.decoder.try_decode() {
                Ok(step) => step,
                Err(error) => return Err(self.segments.locate(self.org, &self.entry, error).await),
            };
            match step {
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
