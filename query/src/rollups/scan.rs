//! Rollups as rows of the table: those of each covered segment that its cover says are read, one segment after the other.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, PrimitiveArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::{cast, kernels::cmp::eq, not, nullif};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Int64Type, SchemaRef, TimestampMillisecondType};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::ExecutionPlan;
use engine::SegmentFilter;
use futures::FutureExt;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use storage_format::manifest::SegmentEntry;
use storage_format::rollup::RollupGrain;
use storage_format::{ChannelCode, LoggerId, Millis, TimeRange};

use super::cover::Cover;
use super::huge;
use super::keys::Keys;
use super::pieces::Grain;
use super::question::{Measure, Part};
use crate::error::external;
use crate::leaf::{Source, leaf, slices};
use crate::prune::KeyBounds;
use crate::scan::{ScanContext, SegmentReaderFactory};

/// One rollup, and what is read of it.
#[derive(Debug, Clone)]
struct Input {
    entry: SegmentEntry,
    /// The segment that it was made of.
    of: SegmentEntry,
    grain: Grain,
    filter: SegmentFilter,
    /// Hourly where nothing is asked that only daily rollups know: then fewer columns of them are read.
    columns: RollupGrain,
    channels: Vec<ChannelCode>,
}

/// See the module.
#[derive(Debug)]
struct RollupRows {
    readers: Arc<SegmentReaderFactory>,
    cover: Arc<Cover>,
    inputs: Vec<Input>,
    columns: Arc<Columns>,
    partitions: usize,
    /// Memory of the cover.
    _reservation: MemoryReservation,
}

/// A plan that reads the covered rollups that may have a key within `bounds`, in rows of this schema.
pub(super) fn rollup_rows(
    context: &ScanContext,
    cover: &Arc<Cover>,
    bounds: &KeyBounds,
    columns: Columns,
    partitions: usize,
    reservation: MemoryReservation,
) -> Arc<dyn ExecutionPlan> {
    let measures = &columns.measures;
    let is_daily = measures.iter().any(|measure| measure.is_daily());
    let grain_of_columns = if is_daily { RollupGrain::Daily } else { RollupGrain::Hourly };
    let mut inputs = Vec::new();
    for entry in context.snapshot.manifest.segments().iter().filter(|entry| bounds.may_hold(entry)) {
        let Some(rollups) = cover.of(entry) else { continue };
        for (grain, rollup) in [(Grain::Daily, &rollups.daily), (Grain::Hourly, &rollups.hourly)] {
            let filter = cover.reads(entry, grain).and_then(|times| filter(times, bounds));
            let channels = channels(entry, measures);
            inputs.extend(filter.map(|filter| Input {
                entry: rollup.clone(),
                of: entry.clone(),
                grain,
                filter,
                columns: grain_of_columns,
                channels,
            }));
        }
    }
    let partitions = partitions.clamp(1, inputs.len().max(1));
    let equivalences = EquivalenceProperties::new(Arc::clone(&columns.schema));
    let source = RollupRows {
        readers: Arc::clone(&context.readers),
        cover: Arc::clone(cover),
        inputs,
        columns: Arc::new(columns),
        partitions,
        _reservation: reservation,
    };
    leaf(source, equivalences, partitions)
}

/// Between these times, the last one included, as far as there are bounds.
fn filter(times: (i64, i64), bounds: &KeyBounds) -> Option<SegmentFilter> {
    let time = |ms: i64| Millis::new(ms.clamp(Millis::MIN.get(), Millis::MAX.get())).ok();
    let (first, last) = bounds.loggers()?;
    Some(SegmentFilter {
        time: TimeRange::new(time(times.0)?, time(times.1.saturating_add(1))?).ok(),
        loggers: LoggerId::new(first).ok().zip(LoggerId::new(last).ok()).map(|(first, last)| first..=last),
    })
}

/// The channels that are read of a segment's rollups.
fn channels(entry: &SegmentEntry, measures: &[Measure]) -> Vec<ChannelCode> {
    let all = measures.iter().any(|measure| measure.is_of_rows());
    let is_wanted = |code: &ChannelCode| measures.iter().any(|m| matches!(m, Measure::Of(wanted, _) if wanted == code));
    entry.channels.iter().filter(|code| all || is_wanted(code)).copied().collect()
}

impl Source for RollupRows {
    const NAME: &'static str = "RollupExec";

    fn detail(&self) -> String {
        let of = |grain| self.inputs.iter().filter(|input| input.grain == grain).count();
        format!("daily={}, hourly={}", of(Grain::Daily), of(Grain::Hourly))
    }

    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let inputs: Vec<Input> = self.inputs.iter().skip(partition).step_by(self.partitions).cloned().collect();
        let (readers, cover, columns) = (Arc::clone(&self.readers), Arc::clone(&self.cover), Arc::clone(&self.columns));
        let batch_rows = context.session_config().batch_size();
        let batches = stream::iter(inputs)
            .then(move |input| open(Arc::clone(&readers), Arc::clone(&cover), Arc::clone(&columns), input).boxed())
            .try_flatten()
            .map_ok(move |batch| stream::iter(slices(batch, batch_rows).map(Ok)))
            .try_flatten();
        Ok(batches.boxed())
    }
}

async fn open(
    readers: Arc<SegmentReaderFactory>,
    cover: Arc<Cover>,
    columns: Arc<Columns>,
    input: Input,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let rollup = readers.read_rollup(&input.entry, &input.filter, input.columns, &input.channels).await;
    let rollup = rollup.map_err(external)?;
    let input = Arc::new(input);
    let batches = rollup.map(move |batch| -> Result<_> {
        let batch = batch.map_err(external)?;
        let keys = Keys::of("bucket", &cover, input.grain);
        let (rollup, huge) = huge::split(keys.select(batch)?, &columns.measures)?;
        let rollup = stream::iter([columns.of(&rollup)]);
        Ok(match huge {
            None => rollup.boxed(),
            Some(huge) => {
                let readings = huge.readings(Arc::clone(&readers), input.of.clone(), input.grain, Arc::clone(&columns));
                rollup.chain(readings).boxed()
            }
        })
    });
    Ok(batches.try_flatten().boxed())
}

/// Makes the table's columns of those of a rollup.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    pub(super) measures: Vec<Measure>,
}

impl Columns {
    /// A batch of so many rows, of the key columns and measures that these functions give. It may have no columns.
    pub(super) fn batch(
        &self,
        rows: usize,
        key: impl Fn(&str) -> Result<ArrayRef>,
        measured: impl Fn(Measure, &DataType) -> Result<ArrayRef>,
    ) -> Result<RecordBatch> {
        let mut measures = self.measures.iter();
        let fields = self.schema.fields().iter();
        let columns = fields.map(|field| match field.name().as_str() {
            name @ ("logger" | "time") => key(name),
            _ => {
                let measure = measures.next().ok_or_else(|| internal_datafusion_err!("a column of no measure"))?;
                measured(*measure, field.data_type())
            }
        });
        let columns = columns.collect::<Result<_>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &rows)?)
    }

    fn of(&self, rollup: &RecordBatch) -> Result<RecordBatch> {
        let key = |name: &str| required(rollup, if name == "time" { "bucket" } else { name });
        self.batch(rollup.num_rows(), key, |measure, data_type| measured(rollup, measure, data_type))
    }
}

pub(super) fn required(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let column = batch.column_by_name(name).cloned();
    column.ok_or_else(|| internal_datafusion_err!("a batch without a column {name}"))
}

/// A column of a rollup about a channel; none if no row of the segment has a value of it.
pub(super) fn of_channel<'a>(rollup: &'a RecordBatch, code: ChannelCode, name: &str) -> Option<&'a ArrayRef> {
    rollup.column_by_name(&format!("{}_{name}", code.channel()?.name))
}

fn measured(rollup: &RecordBatch, measure: Measure, data_type: &DataType) -> Result<ArrayRef> {
    let plain = |code, name| {
        let column = of_channel(rollup, code, name).cloned();
        column.unwrap_or_else(|| new_null_array(data_type, rollup.num_rows()))
    };
    Ok(match measure {
        Measure::Rows => cast(&required(rollup, "rows")?, &DataType::Int64)?,
        Measure::FirstTime => Arc::new(extreme_time(rollup, "first_time", Ord::min)?),
        Measure::LastTime => Arc::new(extreme_time(rollup, "last_time", Ord::max)?),
        Measure::Of(code, Part::Count) => match of_channel(rollup, code, "count") {
            Some(counts) => without_nulls(&cast(counts, &DataType::Int64)?)?,
            None => Arc::new(Int64Array::from(vec![0; rollup.num_rows()])),
        },
        Measure::Of(code, Part::Min) => plain(code, "min"),
        Measure::Of(code, Part::Max) => plain(code, "max"),
        Measure::Of(code, Part::Sum) => plain(code, "sum"),
        Measure::Of(code, Part::FirstSeen) => plain(code, "first"),
        Measure::Of(code, Part::FirstSeenTime) => plain(code, "first_time"),
        Measure::Of(code, Part::LastSeen) => plain(code, "last"),
        Measure::Of(code, Part::LastSeenTime) => plain(code, "last_time"),
        Measure::Of(code, Part::First) => {
            let first = extreme_time(rollup, "first_time", Ord::min)?;
            only_at(plain(code, "first"), of_channel(rollup, code, "first_time"), &first)?
        }
        Measure::Of(code, Part::Last) => {
            let last = extreme_time(rollup, "last_time", Ord::max)?;
            only_at(plain(code, "last"), of_channel(rollup, code, "last_time"), &last)?
        }
    })
}

fn without_nulls(counts: &ArrayRef) -> Result<ArrayRef> {
    let counts = counts.as_primitive::<Int64Type>();
    Ok(Arc::new(Int64Array::from_iter_values(counts.iter().map(|count| count.unwrap_or(0)))))
}

/// The first or last time of each row's readings: each of them has a value of some channel.
fn extreme_time(
    rollup: &RecordBatch,
    name: &str,
    of_two: fn(i64, i64) -> i64,
) -> Result<PrimitiveArray<TimestampMillisecondType>> {
    type Time = <TimestampMillisecondType as ArrowPrimitiveType>::Native;
    let mut found: Vec<Option<Time>> = vec![None; rollup.num_rows()];
    let schema = rollup.schema();
    let names = schema.fields().iter().map(|field| field.name());
    for column in names.filter(|of| of.strip_suffix(name).is_some_and(|channel| channel.ends_with('_'))) {
        let times = required(rollup, column)?;
        let times = times.as_primitive_opt::<TimestampMillisecondType>();
        let times = times.ok_or_else(|| internal_datafusion_err!("a time of a rollup is not one"))?;
        for (found, time) in found.iter_mut().zip(times) {
            *found = match (*found, time) {
                (Some(one), Some(other)) => Some(of_two(one, other)),
                (one, other) => one.or(other),
            };
        }
    }
    let found: PrimitiveArray<TimestampMillisecondType> = found.into_iter().collect();
    if found.null_count() > 0 {
        return Err(internal_datafusion_err!("a rollup of readings without values"));
    }
    Ok(found.with_timezone("UTC"))
}

/// The values that are of these times; the others are NULL.
fn only_at(
    values: ArrayRef,
    of: Option<&ArrayRef>,
    times: &PrimitiveArray<TimestampMillisecondType>,
) -> Result<ArrayRef> {
    let Some(of) = of else { return Ok(values) };
    let others = not(&eq(of, times)?)?;
    Ok(nullif(&values, &others)?)
}
