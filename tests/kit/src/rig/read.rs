//! Reads a snapshot back, all of it: its segments and write buffers through the merge that queries use, and its lists
//! of conflicts.

use std::collections::BTreeMap;
use std::fmt::Display;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use engine::{Engine, MergeKernel, MergeMode, MergePoll, SegmentFilter, Snapshot};
use futures::TryStreamExt as _;
use storage_format::segment::{channels_of, readings_schema};
use storage_format::{Channel, GatewayId, LoggerId, Millis};

use crate::first_wins::{Conflict, Key, Row};

/// Readings by key.
pub type Rows = BTreeMap<Key, Row>;

/// Why a snapshot was not read to its end.
#[derive(Debug)]
pub enum Unread {
    /// Something could not be read. Whether that may be is for the caller to say: its store may be a faulty one.
    Failed(String),
    /// Something was read that must never be there.
    Wrong(String),
}

fn failed(error: impl Display) -> Unread {
    Unread::Failed(error.to_string())
}

fn wrong(error: impl Display) -> Unread {
    Unread::Wrong(error.to_string())
}

/// Reads every reading of a snapshot.
///
/// # Errors
/// [`Unread`].
pub async fn rows(engine: &Engine, snapshot: &Snapshot) -> Result<Rows, Unread> {
    let schema = readings_schema(&snapshot.channels());
    let mut runs: Vec<Vec<RecordBatch>> = Vec::new();
    for entry in snapshot.manifest.segments() {
        let filter = SegmentFilter::default();
        let stream = engine.segments().read(snapshot.org, entry, &filter, Some(schema.clone())).await;
        runs.push(stream.map_err(failed)?.try_collect().await.map_err(failed)?);
    }
    for buffer in &snapshot.buffers {
        runs.push(buffer.batches(None, None, &channels_of(&schema)).collect());
    }
    let mut kernel = MergeKernel::new(schema, runs.len(), MergeMode::Rows).map_err(failed)?;
    for (run, batches) in runs.into_iter().enumerate() {
        for batch in batches {
            kernel.push(run, batch).map_err(failed)?;
        }
        kernel.finish(run);
    }
    let mut all = Rows::new();
    loop {
        match kernel.poll().map_err(failed)? {
            MergePoll::Batch(batch) => collect(&batch.rows, &mut all)?,
            MergePoll::Done => return Ok(all),
            MergePoll::Need(run) => return Err(wrong(format_args!("run {run} is finished and asked for"))),
        }
    }
}

fn collect(batch: &RecordBatch, all: &mut Rows) -> Result<(), Unread> {
    let codes = channels_of(&batch.schema());
    let last = batch.num_columns() - 1;
    let u64s = |column: usize| batch.column(column).as_primitive::<UInt64Type>();
    let times = |column: usize| batch.column(column).as_primitive::<TimestampMillisecondType>();
    for row in 0..batch.num_rows() {
        let mut values = BTreeMap::new();
        for (index, code) in codes.iter().enumerate() {
            let column = batch.column(2 + index).as_primitive::<Float64Type>();
            if column.is_valid(row) {
                values.insert(*code, column.value(row));
            }
        }
        let key = (logger(u64s(0).value(row))?, millis(times(1).value(row))?);
        let row =
            Row { values, gateway: gateway(u64s(last - 1).value(row))?, received: millis(times(last).value(row))? };
        if all.insert(key, row).is_some() {
            return Err(wrong(format_args!("{key:?} came twice")));
        }
    }
    Ok(())
}

/// Reads the last reading of each logger of a snapshot.
///
/// # Errors
/// [`Unread`].
pub async fn last_readings(engine: &Engine, snapshot: &Snapshot) -> Result<Rows, Unread> {
    let batch = engine.last_readings(snapshot).await.map_err(failed)?;
    let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
    if !loggers.is_sorted_by(|a, b| a < b) {
        return Err(wrong("the last readings are not by ascending logger, one for each"));
    }
    let mut all = Rows::new();
    collect(&batch, &mut all)?;
    Ok(all)
}

/// Reads every conflict that the snapshot's objects keep.
///
/// # Errors
/// [`Unread`].
pub async fn conflicts(engine: &Engine, snapshot: &Snapshot) -> Result<Vec<Conflict>, Unread> {
    let mut all = Vec::new();
    for entry in snapshot.manifest.conflicts() {
        let stream = engine.segments().read(snapshot.org, entry, &SegmentFilter::default(), None).await;
        let batches: Vec<RecordBatch> = stream.map_err(failed)?.try_collect().await.map_err(failed)?;
        for batch in batches {
            let u64s = |column: usize| batch.column(column).as_primitive::<UInt64Type>();
            let times = |column: usize| batch.column(column).as_primitive::<TimestampMillisecondType>();
            let floats = |column: usize| batch.column(column).as_primitive::<Float64Type>();
            for row in 0..batch.num_rows() {
                let name = batch.column(2).as_string::<i32>().value(row);
                all.push(Conflict {
                    logger: logger(u64s(0).value(row))?,
                    time: millis(times(1).value(row))?,
                    channel: Channel::by_name(name).ok_or_else(|| wrong(format_args!("channel {name}")))?.code,
                    kept: floats(3).value(row),
                    refused: floats(4).value(row),
                    gateway: gateway(u64s(5).value(row))?,
                    received: millis(times(6).value(row))?,
                });
            }
        }
    }
    Ok(all)
}

fn logger(id: u64) -> Result<LoggerId, Unread> {
    LoggerId::new(id).map_err(wrong)
}

fn gateway(id: u64) -> Result<GatewayId, Unread> {
    GatewayId::new(id).map_err(wrong)
}

fn millis(ms: i64) -> Result<Millis, Unread> {
    Millis::new(ms).map_err(wrong)
}
