//! Buffered rows as a run for the merge: batches are built as they are asked for, so that only one is held.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use engine::SortedBatches;
use futures::stream::{self, BoxStream, StreamExt};

/// The batches of a run.
pub(super) fn batches(rows: SortedBatches) -> BoxStream<'static, Result<RecordBatch>> {
    stream::iter(rows.map(Ok)).boxed()
}

/// Takes what the order of buffered rows occupies from the query's memory, or fails as any operator would.
pub(crate) fn reserve(pool: &Arc<dyn MemoryPool>, bytes: usize) -> Result<MemoryReservation> {
    let reservation = MemoryConsumer::new("buffered readings").register(pool);
    reservation.try_grow(bytes)?;
    Ok(reservation)
}
