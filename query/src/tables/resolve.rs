//! What the write buffers add to the segments, by the rule that a flush applies: how many new readings, how many
//! duplicates, and which conflicts.
//!
//! Each buffer is resolved against everything before it: the segments that can share keys with it, and older buffers.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, internal_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use engine::{MergeMode, SortedBatches};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use storage_format::manifest::Totals;
use storage_format::segment::{conflicts_schema, readings_schema};

use super::readings::key_ordering;
use crate::key_range::KeyRange;
use crate::leaf::{Source, leaf};
use crate::prune::KeyBounds;
use crate::scan::{Layout, MergePart, MergeUnit, Merged, ScanContext, SegmentScan, merge_runs, reserve};

/// What is wanted of the resolution.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// The conflicts, as rows.
    Conflicts,
    /// One row of counts, on top of these of the manifest, and how many rows the write buffers hold.
    Totals(Totals, u64),
}

/// Resolves the write buffers, in one partition.
#[derive(Debug)]
struct ResolveBuffers {
    wanted: Wanted,
    merged_schema: SchemaRef,
    units: Vec<MergeUnit>,
    _reservation: MemoryReservation,
}

/// The schema of `totals`.
pub(super) fn totals_schema() -> SchemaRef {
    let count = |name| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(["readings", "duplicates", "conflicts", "unflushed"].map(count).to_vec()))
}

/// What is wanted of the buffered rows within these bounds.
pub(super) fn resolve_buffers(
    context: &ScanContext,
    state: &dyn Session,
    bounds: &KeyBounds,
    wanted: Wanted,
) -> Result<Arc<dyn ExecutionPlan>> {
    let snapshot = &context.snapshot;
    let channels = snapshot.channels();
    let merged_schema = readings_schema(&channels);
    let layout = Layout::new(&snapshot.manifest, &snapshot.buffers, bounds, &channels);
    let reservation = reserve(&state.runtime_env().memory_pool, layout.buffered_bytes())?;
    let mut units = Vec::new();
    for part in layout.merges.iter().filter(|part| !part.buffers.is_empty()) {
        let scan = SegmentScan {
            schema: Arc::clone(&merged_schema),
            projection: None,
            predicate: keys_of(part, state, &merged_schema)?,
            ordering: key_ordering(&merged_schema),
            limit: None,
            options: state.config_options().execution.parquet.clone(),
        };
        let segments = part.entries.iter().map(|entry| scan.plan(context, vec![vec![entry.clone()]]));
        units.push(MergeUnit { segments: segments.collect::<Result<_>>()?, buffers: part.buffers.clone() });
    }
    let schema = match wanted {
        Wanted::Conflicts => conflicts_schema(),
        Wanted::Totals(..) => totals_schema(),
    };
    let source = ResolveBuffers { wanted, merged_schema, units, _reservation: reservation };
    Ok(leaf(source, EquivalenceProperties::new(schema), 1))
}

impl ResolveBuffers {
    fn resolved(&self, context: Arc<TaskContext>) -> impl Stream<Item = Result<Merged>> + Send + 'static {
        // Every buffer in turn is the last run: what it adds to all before it is the question.
        let turns: Vec<MergeUnit> = self
            .units
            .iter()
            .flat_map(|unit| {
                (1..=unit.buffers.len())
                    .map(|count| MergeUnit { segments: unit.segments.clone(), buffers: unit.buffers[..count].to_vec() })
            })
            .collect();
        let merged_schema = Arc::clone(&self.merged_schema);
        let batch_rows = context.session_config().batch_size();
        stream::iter(turns)
            .map(move |turn| merge_runs(&merged_schema, turn.runs(&context)?, MergeMode::NewOfLast, batch_rows))
            .try_flatten()
    }
}

/// The range of keys of a part's buffered rows: row groups and pages of its segments outside of it are not read.
fn keys_of(part: &MergePart, state: &dyn Session, schema: &SchemaRef) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let ranges = part.buffers.iter().filter_map(SortedBatches::bounds);
    let Some(keys) = ranges.map(|(loggers, times)| KeyRange::new(loggers, times)).reduce(KeyRange::around) else {
        return Ok(None);
    };
    let df_schema = DFSchema::try_from(Arc::clone(schema))?;
    Ok(Some(state.create_physical_expr(keys.predicate(), &df_schema)?))
}

fn add(sum: Totals, merged: &Merged) -> Result<Totals> {
    let Merged::Counts(counts) = merged else { return Ok(sum) };
    let more = Totals {
        readings: counts.readings,
        duplicates: counts.duplicates,
        conflicts: counts.conflicts,
        filled: counts.filled,
        dropped: 0,
    };
    sum.checked_add(more).ok_or_else(|| internal_datafusion_err!("a total is past the end of its range"))
}

fn totals_row(totals: Totals, unflushed: u64) -> Result<RecordBatch> {
    let counts = [totals.readings, totals.duplicates, totals.conflicts, unflushed];
    let columns = counts.into_iter().map(|count| Arc::new(UInt64Array::from(vec![count])) as _).collect();
    Ok(RecordBatch::try_new(totals_schema(), columns)?)
}

impl Source for ResolveBuffers {
    const NAME: &'static str = "ResolveBuffersExec";

    fn detail(&self) -> String {
        format!("parts={}", self.units.len())
    }

    fn open(&self, _: usize, context: Arc<TaskContext>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let resolved = self.resolved(context);
        Ok(match self.wanted {
            Wanted::Conflicts => resolved
                .try_filter_map(|merged| {
                    futures::future::ready(Ok(match merged {
                        Merged::Batch(batch) => Some(batch.conflicts),
                        Merged::Counts(_) => None,
                    }))
                })
                .boxed(),
            Wanted::Totals(flushed, unflushed) => {
                let sum = resolved.try_fold(flushed, |sum, merged| futures::future::ready(add(sum, &merged)));
                stream::once(async move { totals_row(sum.await?, unflushed) }).boxed()
            }
        })
    }
}
