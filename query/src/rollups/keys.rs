//! The rows of a covered segment whose keys are of rows: those that its rollups bring are left out.
//!
//! It stands right above the scan of one segment, also below a merge: keys that others may hold too are of rows.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{TimestampMillisecondType, UInt64Type};
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::ExecutionPlan;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::cover::Cover;
use super::pieces::Grain;
use crate::leaf::{Source, leaf};

/// See the module.
#[derive(Debug)]
struct RowsBesideRollups {
    /// Plans of one partition each, one of each segment.
    segments: Vec<Arc<dyn ExecutionPlan>>,
    /// Number of partitions that read them, each one after the other.
    partitions: usize,
    keys: Keys,
}

/// A plan over rows of covered segments: plans of one partition and of one schema, each sorted by (logger, time) for speed.
pub(crate) fn rows_beside_rollups(
    segments: Vec<Arc<dyn ExecutionPlan>>,
    cover: &Arc<Cover>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(first) = segments.first() else { return internal_err!("it reads one segment at least") };
    let keys = Keys::of("time", cover, Grain::Rows);
    let partitions = partitions.clamp(1, segments.len());
    let equivalences = match segments.as_slice() {
        [single] => single.properties().equivalence_properties().clone(),
        _ => EquivalenceProperties::new(first.schema()),
    };
    Ok(leaf(RowsBesideRollups { segments, partitions, keys }, equivalences, partitions))
}

/// Loggers and times of a batch, times being in the column of this name.
pub(super) fn keys_of<'a>(batch: &'a RecordBatch, time: &str) -> Result<(&'a [u64], &'a [i64])> {
    let wrong = || internal_datafusion_err!("a batch without keys, or with keys of other types");
    let (Some(loggers), Some(times)) = (batch.column_by_name("logger"), batch.column_by_name(time)) else {
        return Err(wrong());
    };
    let loggers = loggers.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let times = times.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(wrong)?;
    Ok((loggers.values(), times.values()))
}

/// Finds the rows of one grain by their keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    cover: Arc<Cover>,
    grain: Grain,
    time: &'static str,
}

impl Keys {
    /// In batches that have the times in the column of this name.
    pub(super) fn of(time: &'static str, cover: &Arc<Cover>, grain: Grain) -> Self {
        Self { cover: Arc::clone(cover), grain, time }
    }

    /// The rows of this grain.
    pub(super) fn select(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let (loggers, times) = keys_of(&batch, self.time)?;
        let mut selected = BooleanBufferBuilder::new(batch.num_rows());
        let mut row = 0;
        while let (Some(&logger), Some(&first)) = (loggers.get(row), times.get(row)) {
            let (grain, until) = self.cover.run(logger, first);
            let rest = loggers[row..].iter().zip(&times[row..]);
            // Times ascend within a logger; should they not, the run ends.
            let run = rest.take_while(|&(&of, &time)| of == logger && first <= time && time < until).count();
            selected.append_n(run, grain == self.grain);
            row += run;
        }
        let selected = BooleanArray::new(selected.finish(), None);
        match selected.true_count() {
            count if count == batch.num_rows() => Ok(batch),
            0 => Ok(batch.slice(0, 0)),
            _ => Ok(filter_record_batch(&batch, &selected)?),
        }
    }
}

impl Source for RowsBesideRollups {
    const NAME: &'static str = "KeysExec";

    fn detail(&self) -> String {
        format!("segments={}, without what comes from rollups", self.segments.len())
    }

    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let keys = self.keys.clone();
        let segments: Vec<_> = self.segments.iter().skip(partition).step_by(self.partitions).cloned().collect();
        let batches = stream::iter(segments)
            .map(move |segment| segment.execute(0, Arc::clone(&context)))
            .try_flatten()
            .map(move |batch| keys.select(batch?));
        Ok(batches.boxed())
    }
}
