//! Reading everything back through a snapshot, with the kernel that queries use, and comparing with the model.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use engine::{Engine, MergeKernel, MergeMode, MergePoll, SegmentFilter, Snapshot};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::segment::{channels_of, readings_schema};
use storage_format::{Channel, OrgId};

use crate::model::{Conflict, Model, Row, gateway, logger, millis};

/// Every reading of a snapshot, merged, by key.
pub(crate) async fn rows(
    engine: &Engine,
    snapshot: &Snapshot,
) -> BTreeMap<(storage_format::LoggerId, storage_format::Millis), Row> {
    let schema = readings_schema(&snapshot.channels());
    let mut runs: Vec<Vec<RecordBatch>> = Vec::new();
    for entry in snapshot.manifest.segments() {
        let stream = engine.segments().read(snapshot.org, entry, &SegmentFilter::default(), Some(schema.clone())).await;
        runs.push(stream.expect("it opens").try_collect().await.expect("it reads"));
    }
    for buffer in &snapshot.buffers {
        runs.push(buffer.batches(None, None, &channels_of(&schema)).collect());
    }
    let mut kernel = MergeKernel::new(schema, runs.len(), MergeMode::Rows).expect("a merge");
    for (run, batches) in runs.into_iter().enumerate() {
        for batch in batches {
            kernel.push(run, batch).expect("sorted");
        }
        kernel.finish(run);
    }
    let mut all = BTreeMap::new();
    loop {
        match kernel.poll().expect("a merge") {
            MergePoll::Batch(batch) => collect(&batch.rows, &mut all),
            MergePoll::Done => return all,
            MergePoll::Need(run) => panic!("run {run} is finished"),
        }
    }
}

fn collect(batch: &RecordBatch, all: &mut BTreeMap<(storage_format::LoggerId, storage_format::Millis), Row>) {
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
        let key = (logger(u64s(0).value(row)), millis(times(1).value(row)));
        let gateway = gateway(u64s(last - 1).value(row));
        let row = Row { values, gateway, received: millis(times(last).value(row)) };
        assert!(all.insert(key, row).is_none(), "a key came twice");
    }
}

/// Every conflict that objects hold.
pub(crate) async fn conflicts(engine: &Engine, snapshot: &Snapshot) -> Vec<Conflict> {
    let mut all = Vec::new();
    for entry in snapshot.manifest.conflicts() {
        let mut stream =
            engine.segments().read(snapshot.org, entry, &SegmentFilter::default(), None).await.expect("it opens");
        while let Some(batch) = stream.next().await {
            let batch = batch.expect("it reads");
            let u64s = |column: usize| batch.column(column).as_primitive::<UInt64Type>();
            let times = |column: usize| batch.column(column).as_primitive::<TimestampMillisecondType>();
            let floats = |column: usize| batch.column(column).as_primitive::<Float64Type>();
            for row in 0..batch.num_rows() {
                let name = batch.column(2).as_string::<i32>().value(row);
                all.push(Conflict {
                    logger: logger(u64s(0).value(row)),
                    time: millis(times(1).value(row)),
                    channel: Channel::by_name(name).expect("a channel").code,
                    kept: floats(3).value(row),
                    refused: floats(4).value(row),
                    gateway: gateway(u64s(5).value(row)),
                    received: millis(times(6).value(row)),
                });
            }
        }
    }
    all
}

/// What a snapshot shows must be what the model has.
pub(crate) async fn check_rows(engine: &Engine, org: OrgId, model: &Model) {
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    let found = rows(engine, &snapshot).await;
    assert_eq!(found.len(), model.rows.len(), "number of readings");
    assert_eq!(found, model.rows);
}

/// After everything is flushed, counts and conflicts must be the model's, too.
pub(crate) async fn check_flushed(engine: &Engine, org: OrgId, model: &Model) {
    check_rows(engine, org, model).await;
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    assert_eq!(snapshot.buffered_rows(), 0, "everything is flushed");
    let totals = snapshot.manifest.totals();
    assert_eq!(totals.readings, model.rows.len() as u64, "readings");
    assert_eq!(totals.filled, model.filled, "filled");
    let found = conflicts(engine, &snapshot).await;
    assert_eq!(totals.conflicts, found.len() as u64, "every conflict that is counted is kept");
    // A refused value that its gateway tells again may count as one or the other, by whether a flush came between.
    assert_eq!(totals.duplicates + totals.conflicts, model.duplicates + model.conflicts.len() as u64, "samples");
    assert_eq!(told(&found), told(&model.conflicts), "conflicts");
}

type Told = BTreeSet<(u64, i64, u16, u64, u64, u64)>;

fn told(conflicts: &[Conflict]) -> Told {
    let key = |c: &Conflict| {
        (c.logger.get(), c.time.get(), c.channel.get(), c.kept.to_bits(), c.refused.to_bits(), c.gateway.get())
    };
    conflicts.iter().map(key).collect()
}
