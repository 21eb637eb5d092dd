//! Where a segment is damaged: column chunk by column chunk, then page by page.
//!
//! parquet-rs says that something does not decode or decrypt, not where. This looks for the place, for the one error
//! that an operator reads; nothing that works comes here.

use std::sync::Arc;

use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use storage_format::manifest::SegmentEntry;
use storage_format::{FileKind, FormatError, FormatErrorKind, OrgId};

use super::{SegmentReadError, Segments};

/// Some rows of one column of one row group.
struct Part {
    row_group: usize,
    column: usize,
    rows: Option<RowSelection>,
}

impl Segments {
    /// Reads a whole segment from the store itself, and tells where the first damage is.
    ///
    /// # Errors
    /// [`SegmentReadError`], with the offset of the first page that does not decode.
    pub async fn verify(&self, org: OrgId, entry: &SegmentEntry) -> Result<(), SegmentReadError> {
        let this = self.past_cache();
        let metadata = this.metadata(org, entry).await?;
        for row_group in 0..metadata.num_row_groups() {
            for column in 0..metadata.row_group(row_group).num_columns() {
                let part = Part { row_group, column, rows: None };
                if let Err(error) = this.decode(org, entry, &metadata, &part).await {
                    return Err(this.narrow(org, entry, &metadata, &part, error).await);
                }
            }
        }
        Ok(())
    }

    /// The error with the place, for one that came from parquet-rs without; others already tell it.
    pub(super) async fn locate(&self, org: OrgId, entry: &SegmentEntry, error: ParquetError) -> SegmentReadError {
        match self.verify(org, entry).await {
            Err(located) => located,
            // Whole by now: a read that went wrong once.
            Ok(()) => SegmentReadError::Parquet { name: entry.object_key(org), source: error },
        }
    }

    async fn narrow(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        metadata: &Arc<ParquetMetaData>,
        chunk: &Part,
        error: SegmentReadError,
    ) -> SegmentReadError {
        let SegmentReadError::Parquet { name, source } = error else { return error };
        let Part { row_group, column, .. } = *chunk;
        let group = metadata.row_group(row_group);
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let pages = metadata.offset_index().and_then(|index| index.get(row_group)?.get(column));
        let pages = pages.map_or(&[][..], |index| index.page_locations());
        let mut offset = group.column(column).byte_range().0;
        for (at, page) in pages.iter().enumerate() {
            let first = usize::try_from(page.first_row_index).unwrap_or(0);
            let next = pages.get(at + 1).and_then(|next| usize::try_from(next.first_row_index).ok()).unwrap_or(rows);
            let selected = vec![RowSelector::skip(first), RowSelector::select(next.saturating_sub(first))];
            let part = Part { row_group, column, rows: Some(selected.into()) };
            if self.decode(org, entry, metadata, &part).await.is_err() {
                // A damaged dictionary spoils every page: then it is the chunk's start that is told.
                if at > 0 {
                    offset = u64::try_from(page.offset).unwrap_or(offset);
                }
                break;
            }
        }
        let column = group.column(column).column_path();
        let detail = format!("{column} of row group {row_group} does not decode: {source}");
        let source = FormatError::new(FileKind::Segment, FormatErrorKind::Damaged, offset, detail);
        SegmentReadError::Object { name, source }
    }

    async fn decode(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        metadata: &Arc<ParquetMetaData>,
        part: &Part,
    ) -> Result<(), SegmentReadError> {
        let name = entry.object_key(org);
        let parquet = |source| SegmentReadError::Parquet { name, source };
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata), options).map_err(parquet)?;
        let mut builder = ParquetPushDecoderBuilder::new_with_metadata(metadata).with_row_groups(vec![part.row_group]);
        let mask = ProjectionMask::leaves(builder.parquet_schema(), [part.column]);
        builder = builder.with_projection(mask);
        if let Some(rows) = &part.rows {
            builder = builder.with_row_selection(rows.clone());
        }
        let mut decoder = builder.build().map_err(parquet)?;
        loop {
            match decoder.try_decode().map_err(parquet)? {
                DecodeResult::Data(_) => {}
                DecodeResult::Finished => return Ok(()),
                DecodeResult::NeedsData(ranges) => {
                    let bytes = self.read_ranges(org, entry, &ranges).await?;
                    decoder.push_ranges(ranges, bytes).map_err(parquet)?;
                }
            }
        }
    }
}
