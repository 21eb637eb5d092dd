//! How DataFusion's Parquet reader opens a segment: footer from the cache or the engine, bytes through the engine,
//! which checks them before they are decoded.
//!
//! DataFusion is told nothing of encryption: the metadata that is returned carries what decrypts its segment. What is
//! read is told by the manifest's entry that travels with the file, never by the file's name.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use engine::{SegmentFilter, SegmentReadError, SegmentStream, Segments};
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use storage_format::manifest::SegmentEntry;
use storage_format::rollup::RollupGrain;
use storage_format::{ChannelCode, OrgId};

use crate::metadata_cache::OrgMetadataCache;

/// Opens the segments of one organisation.
#[derive(Clone)]
pub(crate) struct SegmentReaderFactory {
    org: OrgId,
    segments: Arc<Segments>,
    cache: OrgMetadataCache,
    /// What was opened last, for [`SegmentReaderFactory::find_damage`].
    opened: Arc<Mutex<VecDeque<SegmentEntry>>>,
}

/// Segments that are looked at after an error: those that were being read then are among the last ones opened.
const SUSPECTS_MAX: usize = 32;

impl SegmentReaderFactory {
    pub(crate) fn new(org: OrgId, segments: Arc<Segments>, cache: OrgMetadataCache) -> Self {
        Self { org, segments, cache, opened: Arc::default() }
    }

    fn remember(&self, entry: &SegmentEntry) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        // Partitions that share a segment open it each for itself.
        if opened.iter().any(|known| known.id == entry.id) {
            return;
        }
        if opened.len() == SUSPECTS_MAX {
            opened.pop_front();
        }
        opened.push_back(entry.clone());
    }

    /// A segment's metadata, from the cache if it is there.
    async fn metadata(&self, entry: &SegmentEntry) -> Result<Arc<ParquetMetaData>, SegmentReadError> {
        if let Some(metadata) = self.cache.get(entry.id, entry.key_version) {
            return Ok(metadata);
        }
        let metadata = self.segments.metadata(self.org, entry).await?;
        self.cache.put(entry.id, entry.key_version, &metadata);
        Ok(metadata)
    }

    /// Rows of a rollup, sorted by (logger, bucket): all that pass the filter, and perhaps others. They have the columns that
    /// a rollup of this grain has, as far as this one has them.
    pub(crate) async fn read_rollup(
        &self,
        entry: &SegmentEntry,
        filter: &SegmentFilter,
        columns: RollupGrain,
        channels: &[ChannelCode],
    ) -> Result<SegmentStream, SegmentReadError> {
        self.remember(entry);
        let metadata = self.metadata(entry).await?;
        self.segments.read_rollup_with(self.org, entry, metadata, filter, columns, channels)
    }

    /// Rows of a segment with these columns, sorted by (logger, time): all that pass the filter, and perhaps others.
    pub(crate) async fn read_readings(
        &self,
        entry: &SegmentEntry,
        filter: &SegmentFilter,
        schema: SchemaRef,
    ) -> Result<SegmentStream, SegmentReadError> {
        self.remember(entry);
        let metadata = self.metadata(entry).await?;
        self.segments.read_with(self.org, entry, metadata, filter, Some(schema))
    }

    /// After a query failed in the storage layer: logs which segment is damaged, and where. What reads segments says
    /// neither. Returns whether the damage stays, so that trying again does not help.
    pub(crate) async fn find_damage(&self) -> bool {
        let suspects = std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        for entry in suspects.iter().rev() {
            if let Err(error) = self.segments.verify(self.org, entry).await {
                tracing::error!(%error, "a segment cannot be read; restore it from a backup");
                return !matches!(error, SegmentReadError::Store { .. });
            }
        }
        false
    }
}

impl fmt::Debug for SegmentReaderFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentReaderFactory").finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for SegmentReaderFactory {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let entry = file
            .extension::<SegmentEntry>()
            .ok_or_else(|| internal_datafusion_err!("a file that is in no manifest"))?
            .clone();
        self.remember(&entry);
        Ok(Box::new(SegmentFile { factory: self.clone(), entry }))
    }
}

/// One segment that is being read.
struct SegmentFile {
    factory: SegmentReaderFactory,
    entry: SegmentEntry,
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for SegmentFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let ranges = self.get_byte_ranges(vec![range]).await?;
            ranges.into_iter().next().ok_or_else(|| ParquetError::EOF("no bytes".to_owned()))
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            let factory = &self.factory;
            factory.segments.read_ranges(factory.org, &self.entry, &ranges).await.map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move { self.factory.metadata(&self.entry).await.map_err(external) }.boxed()
    }
}
