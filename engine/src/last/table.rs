//! Last readings as one batch of the readings schema: a row a logger, by ascending logger.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, Float64Array, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{TimestampMillisecondType, UInt64Type};
use storage_format::ChannelCode;
use storage_format::segment::{channels_of, readings_schema};

/// Source of a row of a fold: a row of one of the two; where both have a row of the logger with the same time,
/// the first one's, and what it does not have from the second one's.
#[derive(Debug, Clone, Copy)]
enum Pick {
    First(usize),
    Second(usize),
    Both(usize, usize),
}

/// No reading of any logger.
pub(super) fn empty() -> RecordBatch {
    RecordBatch::new_empty(readings_schema(&[]))
}

/// The last readings of both together; of readings with the same time, `first` takes precedence, channel by channel.
pub(super) fn fold(first: &RecordBatch, second: &RecordBatch) -> RecordBatch {
    if first.num_rows() == 0 {
        return second.clone();
    }
    if second.num_rows() == 0 {
        return first.clone();
    }
    let mut channels: Vec<ChannelCode> =
        channels_of(&first.schema()).into_iter().chain(channels_of(&second.schema())).collect();
    channels.sort_unstable();
    channels.dedup();
    let picks = picks(first, second);
    let schema = readings_schema(&channels);
    let columns =
        schema.fields().iter().map(|field| match (column(first, field.name()), column(second, field.name())) {
            (Some(a), Some(b)) => gather(&picks, &a, &b),
            // A channel that one of them does not have.
            (a, b) => {
                let (a, b) = (a.unwrap_or_else(|| nulls(first)), b.unwrap_or_else(|| nulls(second)));
                gather(&picks, &a, &b)
            }
        });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).expect("the columns are those of the schema")
}

/// The same with exactly these channels, ascending; of the others only what has no value may go.
pub(super) fn with_channels(last: &RecordBatch, channels: &[ChannelCode]) -> RecordBatch {
    let schema = readings_schema(channels);
    let columns = schema.fields().iter().map(|field| column(last, field.name()).unwrap_or_else(|| nulls(last)));
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).expect("the columns are those of the schema")
}

/// The loggers, ascending.
pub(super) fn loggers(last: &RecordBatch) -> &[u64] {
    last.column(0).as_primitive::<UInt64Type>().values()
}

fn times(last: &RecordBatch) -> &[i64] {
    last.column(1).as_primitive::<TimestampMillisecondType>().values()
}

fn column(last: &RecordBatch, name: &str) -> Option<ArrayRef> {
    last.column_by_name(name).map(Arc::clone)
}

fn nulls(last: &RecordBatch) -> ArrayRef {
    Arc::new(Float64Array::new_null(last.num_rows()))
}

fn picks(first: &RecordBatch, second: &RecordBatch) -> Vec<Pick> {
    let (a, b) = (loggers(first), loggers(second));
    let (a_times, b_times) = (times(first), times(second));
    let mut picks = Vec::with_capacity(a.len().max(b.len()));
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let order = match (a.get(i), b.get(j)) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => picks.push(Pick::First(i)),
            Ordering::Greater => picks.push(Pick::Second(j)),
            Ordering::Equal => picks.push(match a_times[i].cmp(&b_times[j]) {
                Ordering::Greater => Pick::First(i),
                Ordering::Less => Pick::Second(j),
                Ordering::Equal => Pick::Both(i, j),
            }),
        }
        i += usize::from(order != Ordering::Greater);
        j += usize::from(order != Ordering::Less);
    }
    picks
}

fn gather(picks: &[Pick], first: &ArrayRef, second: &ArrayRef) -> ArrayRef {
    let place = |pick: &Pick| match *pick {
        Pick::First(i) => (0, i),
        Pick::Second(j) => (1, j),
        Pick::Both(i, _) if first.is_valid(i) => (0, i),
        Pick::Both(_, j) => (1, j),
    };
    let places: Vec<(usize, usize)> = picks.iter().map(place).collect();
    interleave(&[first.as_ref(), second.as_ref()], &places).expect("both are of the field's type")
}
