//! How the readings of one snapshot are read: which segments as plain Parquet, which through the first-wins merge,
//! and which rows of the write buffers with which.
//!
//! Owns the choice (the [`Layout`]) and the plans made of it. Does not own what a filter means (`prune`), nor how two
//! rows become one (`engine::Merge`).

mod buffer;
mod last;
mod layout;
mod merge;
mod reader_factory;
mod segment;

use std::sync::Arc;
use std::sync::OnceLock;

use arrow::datatypes::SchemaRef;
use datafusion::execution::object_store::ObjectStoreUrl;
use engine::Snapshot;

pub(crate) use buffer::reserve;
pub(crate) use last::LastReadings;
pub(crate) use layout::{Layout, MergePart};
pub(crate) use merge::{MergeUnit, Merged, first_wins_merge, merge_runs};
pub(crate) use reader_factory::SegmentReaderFactory;
pub(crate) use segment::SegmentScan;

/// Which keys a statement sorts by first: then partitions are kept in order, so that they need only be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SortHint {
    pub(crate) logger: bool,
    pub(crate) time: bool,
}

/// What all tables of one query share: one snapshot, one way to open segments. Nothing in it reaches another organisation.
#[derive(Debug)]
pub(crate) struct ScanContext {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) readers: Arc<SegmentReaderFactory>,
    pub(crate) last: LastReadings,
    pub(crate) store_url: ObjectStoreUrl,
    /// The schema of `readings`: every channel of the registry.
    pub(crate) schema: SchemaRef,
    pub(crate) merge_inputs_max: usize,
    pub(crate) sort_hint: OnceLock<SortHint>,
    /// Whether rollups may be read in place of rows.
    pub(crate) rollups: bool,
}

impl ScanContext {
    pub(crate) fn sort_hint(&self) -> SortHint {
        self.sort_hint.get().copied().unwrap_or_default()
    }
}
