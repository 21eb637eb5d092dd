//! Rollups with sums beyond the greatest double. The average of such values is a double all the same, so their readings
//! are read instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::Float64Type;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use engine::SegmentFilter;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use storage_format::manifest::SegmentEntry;
use storage_format::segment::readings_schema;
use storage_format::{ChannelCode, LoggerId, Millis, TimeRange};

use super::keys::keys_of;
use super::pieces::Grain;
use super::question::{Measure, Part};
use super::scan::{Columns, of_channel, required};
use super::table::of_one;
use crate::error::external;
use crate::scan::SegmentReaderFactory;

/// Loggers and starts of such rollups, ascending.
#[derive(Debug)]
pub(super) struct Huge(Vec<(u64, i64)>);

/// Takes the rows with such sums out of a batch of a rollup.
pub(super) fn split(rollup: RecordBatch, measures: &[Measure]) -> Result<(RecordBatch, Option<Huge>)> {
    let sums = measures.iter().filter_map(|measure| match measure {
        Measure::Of(code, Part::Sum) => of_channel(&rollup, *code, "sum"),
        _ => None,
    });
    let mut huge = vec![false; rollup.num_rows()];
    for sums in sums {
        let sums =
            sums.as_primitive_opt::<Float64Type>().ok_or_else(|| internal_datafusion_err!("a sum is not one"))?;
        for (huge, sum) in huge.iter_mut().zip(sums) {
            *huge |= sum.is_some_and(f64::is_infinite);
        }
    }
    if !huge.contains(&true) {
        return Ok((rollup, None));
    }
    let (loggers, starts) = keys_of(&rollup, "bucket")?;
    let found =
        loggers.iter().zip(starts).zip(&huge).filter(|(_, huge)| **huge).map(|((logger, start), _)| (*logger, *start));
    let found = Huge(found.collect());
    let rest = filter_record_batch(&rollup, &not(&BooleanArray::from(huge))?)?;
    Ok((rest, Some(found)))
}

impl Huge {
    /// The readings of these rollups as rows of the table that stand for one each.
    pub(super) fn readings(
        self,
        readers: Arc<SegmentReaderFactory>,
        segment: SegmentEntry,
        grain: Grain,
        columns: Arc<Columns>,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let read = async move {
            let channels: BTreeSet<ChannelCode> =
                columns.measures.iter().filter_map(|m| Some(m.channel()?.code)).collect();
            let schema = readings_schema(&channels.into_iter().collect::<Vec<_>>());
            let rows = readers.read_readings(&segment, &self.filter(grain), schema).await.map_err(external)?;
            Ok::<_, DataFusionError>(rows.map(move |rows| self.select(&rows.map_err(external)?, grain, &columns)))
        };
        stream::once(read).try_flatten().boxed()
    }

    fn filter(&self, grain: Grain) -> SegmentFilter {
        let logger = |key: Option<&(u64, i64)>| key.and_then(|key| LoggerId::new(key.0).ok());
        let starts = || self.0.iter().map(|key| key.1);
        let time = |ms: i64| Millis::new(ms).ok();
        let times = starts().min().and_then(time).zip(starts().max().and_then(|last| time(last + grain.length())));
        SegmentFilter {
            loggers: logger(self.0.first()).zip(logger(self.0.last())).map(|(first, last)| first..=last),
            time: times.and_then(|(first, end)| TimeRange::new(first, end).ok()),
        }
    }

    fn select(&self, rows: &RecordBatch, grain: Grain, columns: &Columns) -> Result<RecordBatch> {
        let (loggers, times) = keys_of(rows, "time")?;
        let start = |time: i64| time - time.rem_euclid(grain.length());
        let is_one = |(&logger, &time): (&u64, &i64)| self.0.binary_search(&(logger, start(time))).is_ok();
        let selected: BooleanArray = loggers.iter().zip(times).map(|key| Some(is_one(key))).collect();
        let rows = filter_record_batch(rows, &selected)?;
        let schema = rows.schema();
        columns.batch(
            rows.num_rows(),
            |name| required(&rows, name),
            |measure, _| of_one(measure, &schema)?.evaluate(&rows)?.into_array(rows.num_rows()),
        )
    }
}
