//! The way to the last readings of one snapshot. The engine knows all organisations; what stands here asks it about the one
//! of the snapshot only.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use engine::{Engine, EngineError, Snapshot};

/// See the module.
pub(crate) struct LastReadings {
    engine: Arc<Engine>,
    snapshot: Arc<Snapshot>,
}

impl LastReadings {
    pub(crate) fn new(engine: &Arc<Engine>, snapshot: &Arc<Snapshot>) -> Self {
        Self { engine: Arc::clone(engine), snapshot: Arc::clone(snapshot) }
    }

    /// One row for each logger, ascending, with the snapshot's channels.
    pub(crate) async fn read(&self) -> Result<RecordBatch, EngineError> {
        self.engine.last_readings(&self.snapshot).await
    }
}

impl fmt::Debug for LastReadings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastReadings").finish_non_exhaustive()
    }
}
