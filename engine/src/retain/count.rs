//! How many readings a window has, if some of its segments share keys with others: rows with one key are one reading.

use arrow::datatypes::{Schema, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::OrgId;
use storage_format::manifest::SegmentEntry;
use storage_format::segment::readings_schema;

use crate::error::{EngineError, EngineErrorKind};
use crate::first_wins::{Merge, MergeError, MergeMode};
use crate::segments::{SegmentFilter, Segments};

/// Counts the keys of these segments, which are those of one window. Memory: a batch and a row group of each.
pub(super) async fn readings(segments: &Segments, org: OrgId, entries: &[SegmentEntry]) -> Result<u64, EngineError> {
    let keys = keys_schema();
    let mut runs = Vec::with_capacity(entries.len());
    for entry in entries {
        let rows = segments.read(org, entry, &SegmentFilter::default(), Some(keys.clone())).await?;
        runs.push(rows.map_err(EngineError::from).boxed());
    }
    let mut merge = Merge::new(keys, runs, MergeMode::Rows, merge_error)?;
    let mut count = 0;
    while let Some(batch) = merge.next().await? {
        count += batch.rows.num_rows() as u64;
        tokio::task::yield_now().await;
    }
    Ok(count)
}

/// Logger and time.
fn keys_schema() -> SchemaRef {
    let fields = readings_schema(&[]).fields().iter().take(2).cloned().collect::<Vec<_>>();
    SchemaRef::new(Schema::new(fields))
}

fn merge_error(error: MergeError) -> EngineError {
    EngineError::new(
        EngineErrorKind::Corrupt,
        "the readings of a window could not be counted",
        "Nothing was changed. `icecore doctor --deep` names what is damaged.",
    )
    .because(error)
}
