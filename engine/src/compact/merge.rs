//! One merge: segments in, one segment out, as streams.
//!
//! Memory: a batch and a row group of each input, and the object being encoded, which is about as large as all inputs
//! together; the chooser bounds both. The inputs share no keys, so what goes in comes out, row by row; that is checked
//! against what is read back from the store, before anybody may name the result. An input that does share keys, a
//! damaged one, or a defect makes the merge an error, and all stays as it is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::manifest::{SegmentEntry, SegmentKind};
use storage_format::segment::{EncodedSegment, FLUSH_COLUMN, merged_readings_schema, readings_schema};
use storage_format::{ChannelCode, FlushNumber, Lsn, OrgId};

use super::content::Content;
use super::pace::Pacer;
use crate::error::{EngineError, EngineErrorKind};
use crate::first_wins::{Merge, MergeError, MergeMode};
use crate::segments::{NewSegment, SegmentFilter, Segments, encode_error};

/// Rows that are encoded without a break: some tenths of a millisecond.
const YIELD_ROWS: usize = 2048;

/// What is merged: neighbours of one window in the order of precedence, two at least, that share no keys.
#[derive(Debug, Clone)]
pub(super) struct MergeJob {
    pub(super) segments: Arc<Segments>,
    pub(super) org: OrgId,
    pub(super) inputs: Vec<SegmentEntry>,
}

type Run = BoxStream<'static, Result<RecordBatch, EngineError>>;

/// The content of all inputs, as far as they are read.
type Seen = Arc<Mutex<Content>>;

impl MergeJob {
    pub(super) fn bytes(&self) -> u64 {
        self.inputs.iter().map(|entry| entry.bytes).sum()
    }

    pub(super) fn rows(&self) -> u64 {
        self.inputs.iter().map(|entry| entry.rows).sum()
    }

    fn channels(&self) -> Vec<ChannelCode> {
        let all: BTreeSet<ChannelCode> = self.inputs.iter().flat_map(|entry| entry.channels.iter().copied()).collect();
        all.into_iter().collect()
    }

    fn flushes(&self) -> (FlushNumber, FlushNumber) {
        let first = self.inputs.iter().map(|entry| entry.flush_first).min();
        let last = self.inputs.iter().map(|entry| entry.flush_last).max();
        (first.unwrap_or_default(), last.unwrap_or_default())
    }

    /// Reads and encodes; answers the object, which is nowhere yet, and what went in. `None` if the pacer gave up.
    ///
    /// # Errors
    /// From keys, store and segments; [`EngineErrorKind::Corrupt`] for inputs that do not hold what the manifest says.
    pub(super) async fn encode(&self, pacer: &mut Pacer) -> Result<Option<(EncodedSegment, Content)>, EngineError> {
        let (channels, (flush_first, flush_last)) = (self.channels(), self.flushes());
        let new = NewSegment {
            kind: SegmentKind::Readings,
            org: self.org,
            window: self.inputs[0].window,
            flush_first,
            flush_last,
            lsn_min: self.inputs.iter().map(|entry| entry.lsn_min).min().unwrap_or(Lsn::ZERO),
            lsn_max: self.inputs.iter().map(|entry| entry.lsn_max).max().unwrap_or(Lsn::ZERO),
            channels: channels.clone(),
        };
        let mut encoder = self.segments.encoder(&new).await?;
        let seen = Seen::default();
        let mut runs = Vec::with_capacity(self.inputs.len());
        for entry in &self.inputs {
            runs.push(self.run(entry, &channels, flush_first < flush_last, &seen).await?);
        }
        let merge = Merge::new(encoder.schema().clone(), runs, MergeMode::Rows, merge_error)?;
        let mut merge = merge.with_batch_rows(YIELD_ROWS);
        while let Some(batch) = merge.next().await? {
            encoder.write(&batch.rows).map_err(encode_error)?;
            if !pacer.wait(batch.rows.num_rows() as u64).await {
                return Ok(None);
            }
        }
        let read = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        let encoded = encoder.finish().map_err(encode_error)?;
        if read.rows != self.rows() || encoded.entry.rows != read.rows {
            let (told, read, merged) = (self.rows(), read.rows, encoded.entry.rows);
            return Err(self.differs(format_args!("{told} rows in the manifest, {read} read, {merged} merged")));
        }
        Ok(Some((encoded, read)))
    }

    /// An input's rows, with the flush of each if there are several.
    async fn run(
        &self,
        entry: &SegmentEntry,
        channels: &[ChannelCode],
        with_flush: bool,
        seen: &Seen,
    ) -> Result<Run, EngineError> {
        let metadata = self.segments.metadata(self.org, entry).await?;
        let columns = metadata.file_metadata().schema_descr().columns();
        let has_flush = columns.iter().any(|column| column.name() == FLUSH_COLUMN);
        let plain = readings_schema(channels);
        let merged = merged_readings_schema(channels);
        let schema = if has_flush { merged.clone() } else { plain };
        let stream = self.segments.read_with(self.org, entry, metadata, &SegmentFilter::default(), Some(schema))?;
        let (flush, seen) = (entry.flush_first.get(), Arc::clone(seen));
        let complete = move |batch: RecordBatch| {
            let batch = if with_flush && !has_flush {
                let flushes: ArrayRef = Arc::new(UInt64Array::from_value(flush, batch.num_rows()));
                let columns = batch.columns().iter().cloned().chain([flushes]).collect();
                RecordBatch::try_new(merged.clone(), columns).map_err(|error| merge_error(error.into()))?
            } else {
                batch
            };
            seen.lock().unwrap_or_else(PoisonError::into_inner).add(&batch);
            Ok(batch)
        };
        Ok(stream.map(move |batch| complete(batch?)).boxed())
    }

    /// Reads the object back from the store and compares it with what went in.
    ///
    /// # Errors
    /// As [`MergeJob::encode`].
    pub(super) async fn verify(&self, merged: &SegmentEntry, wanted: Content) -> Result<(), EngineError> {
        let mut stream = self.segments.read(self.org, merged, &SegmentFilter::default(), None).await?;
        let (mut found, schema) = (Content::default(), self.columns(merged));
        while let Some(batch) = stream.try_next().await? {
            let batch = crate::first_wins::unify(&batch, &schema).map_err(merge_error)?;
            found.add(&batch);
            tokio::task::yield_now().await;
        }
        if found == wanted {
            return Ok(());
        }
        Err(self.differs(format_args!("{} rows went in, and the {} that came out are others", wanted.rows, found.rows)))
    }

    fn columns(&self, merged: &SegmentEntry) -> arrow::datatypes::SchemaRef {
        let channels = self.channels();
        if merged.flush_first < merged.flush_last {
            merged_readings_schema(&channels)
        } else {
            readings_schema(&channels)
        }
    }

    fn differs(&self, detail: std::fmt::Arguments<'_>) -> EngineError {
        let ids: Vec<String> = self.inputs.iter().map(|entry| entry.id.to_string()).collect();
        EngineError::new(
            EngineErrorKind::Corrupt,
            format!("a merge of segments does not hold what went into it: {detail}"),
            "Nothing was changed, and nothing is lost. Please report it, with the output of `icecore manifest show`.",
        )
        .at(format_args!("organisation {}, segments {}", self.org, ids.join(", ")))
    }
}

/// What a merge refuses is in a stored segment, or a defect.
fn merge_error(error: MergeError) -> EngineError {
    EngineError::new(
        EngineErrorKind::Corrupt,
        "segments could not be merged",
        "Nothing was changed, and nothing is lost. Please report it.",
    )
    .because(error)
}

#[cfg(test)]
mod tests;
