//! The merge against a naive model: a map from key to what is known of it, filled row by row.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _, Float64Array, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use futures::{FutureExt as _, StreamExt as _, stream};
use proptest::prelude::*;
use storage_format::ChannelCode;
use storage_format::segment::{conflicts_schema, readings_schema};

use super::run::Key;
use super::*;

/// Two channels; gateway and received tell rows apart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    key: Key,
    values: [Option<f64>; 2],
    gateway: u64,
    received: i64,
}

type Conflict = (Key, usize, f64, f64, u64, i64);

#[derive(Debug, Default, PartialEq)]
struct Told {
    rows: Vec<Row>,
    conflicts: Vec<Conflict>,
    counts: MergeCounts,
}

fn schema() -> SchemaRef {
    readings_schema(&[1, 2].map(|code| ChannelCode::new(code).expect("a code")))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let times = |of: fn(&Row) -> i64| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(of)).with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.key.0))),
        times(|row| row.key.1),
        Arc::new(rows.iter().map(|row| row.values[0]).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.values[1]).collect::<Float64Array>()),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.gateway))),
        times(|row| row.received),
    ];
    RecordBatch::try_new(schema(), columns).expect("a batch")
}

fn unbatch(batch: &RecordBatch) -> Vec<Row> {
    let number = |i: usize| batch.column(i).as_primitive::<UInt64Type>();
    let time = |i: usize| batch.column(i).as_primitive::<TimestampMillisecondType>();
    let value = |i: usize, row: usize| {
        let column = batch.column(i).as_primitive::<Float64Type>();
        column.is_valid(row).then(|| column.value(row))
    };
    (0..batch.num_rows())
        .map(|row| Row {
            key: (number(0).value(row), time(1).value(row)),
            values: [value(2, row), value(3, row)],
            gateway: number(4).value(row),
            received: time(5).value(row),
        })
        .collect()
}

fn unbatch_conflicts(batch: &RecordBatch) -> Vec<Conflict> {
    let number = |i: usize, row: usize| batch.column(i).as_primitive::<UInt64Type>().value(row);
    let time = |i: usize, row: usize| batch.column(i).as_primitive::<TimestampMillisecondType>().value(row);
    let value = |i: usize, row: usize| batch.column(i).as_primitive::<Float64Type>().value(row);
    let names: &StringArray = batch.column(2).as_string();
    (0..batch.num_rows())
        .map(|row| {
            let channel = usize::from(names.value(row) == "humidity");
            ((number(0, row), time(1, row)), channel, value(3, row), value(4, row), number(5, row), time(6, row))
        })
        .collect()
}

type Run = stream::BoxStream<'static, Result<RecordBatch, MergeError>>;

/// A run cut into batches of so many rows.
fn run(rows: &[Row], cut: usize) -> Run {
    let batches: Vec<_> = rows.chunks(cut).map(|rows| Ok(batch(rows))).collect();
    stream::iter(batches).boxed()
}

fn merge_of(runs: Vec<Run>, mode: MergeMode) -> Merge<Run, MergeError> {
    Merge::new(schema(), runs, mode, std::convert::identity).expect("readings")
}

/// Runs a merge, each run cut into batches of so many rows.
fn merge(runs: &[Vec<Row>], mode: MergeMode, cut: usize, batch_rows: usize) -> Told {
    let runs = runs.iter().map(|rows| run(rows, cut)).collect();
    let mut merge = merge_of(runs, mode).with_batch_rows(batch_rows);
    let (mut rows, mut conflicts) =
        (vec![RecordBatch::new_empty(schema())], vec![RecordBatch::new_empty(conflicts_schema())]);
    while let Some(merged) = merge.next().now_or_never().expect("all is there").expect("well formed") {
        assert!(merged.rows.num_rows() <= batch_rows);
        assert!(merged.rows.num_rows() + merged.conflicts.num_rows() > 0, "an empty batch says nothing");
        assert_eq!(merged.rows.schema(), schema());
        rows.push(merged.rows);
        conflicts.push(merged.conflicts);
    }
    Told {
        rows: unbatch(&concat_batches(&schema(), &rows).expect("one schema")),
        conflicts: unbatch_conflicts(&concat_batches(&conflicts_schema(), &conflicts).expect("one schema")),
        counts: merge.counts(),
    }
}

/// A row of this key with one value.
fn one(key: Key, value: f64) -> Row {
    Row { key, values: [Some(value), None], gateway: 1, received: 0 }
}

#[test]
fn a_run_s_error_is_the_caller_s() {
    let failing: Run = stream::iter([Ok(batch(&[one((1, 1), 1.0)])), Err(MergeError::Order { run: 77 })]).boxed();
    let mut merge = merge_of(vec![failing, run(&[one((9, 9), 1.0)], 1)], MergeMode::Rows);
    let error = merge.next().now_or_never().expect("at once").expect_err("the run fails");
    assert!(matches!(error, MergeError::Order { run: 77 }), "{error}");
}

#[test]
fn a_defect_of_the_kernel_is_converted() {
    let unsorted = run(&[one((2, 1), 1.0), one((1, 1), 1.0)], 2);
    let run = unsorted.map(|batch| batch.map_err(|error| error.to_string())).boxed();
    let defect = |error: MergeError| format!("defect: {error}");
    let mut merge = Merge::new(schema(), vec![run], MergeMode::Rows, defect).expect("readings");
    let error = merge.next().now_or_never().expect("at once").expect_err("not sorted");
    assert_eq!(error, "defect: run 0: rows are not sorted by (logger, time)");
}

#[test]
fn a_call_that_is_given_up_loses_nothing() {
    // The first look at each run finds nothing yet.
    let slow = |rows: &[Row]| {
        let mut waits = true;
        let pause = stream::poll_fn(move |_| {
            if std::mem::take(&mut waits) { std::task::Poll::Pending } else { std::task::Poll::Ready(None) }
        });
        pause.chain(run(rows, 1)).boxed()
    };
    let (first, second) = ([one((1, 1), 1.0), one((1, 2), 2.0)], [one((1, 1), 5.0), one((1, 3), 3.0)]);
    let mut merge = merge_of(vec![slow(&first), slow(&second)], MergeMode::Rows);
    let (mut given_up, mut found) = (0, Vec::new());
    loop {
        match merge.next().now_or_never() {
            None => given_up += 1,
            Some(Ok(Some(merged))) => found.extend(unbatch(&merged.rows)),
            Some(Ok(None)) => break,
            Some(Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(given_up, 2);
    assert_eq!(found, [one((1, 1), 1.0), one((1, 2), 2.0), one((1, 3), 3.0)]);
}

fn model_rows(runs: &[Vec<Row>]) -> Told {
    let mut known: BTreeMap<Key, Row> = BTreeMap::new();
    for row in runs.iter().flatten() {
        let kept = known.entry(row.key).or_insert(*row);
        for (kept, value) in kept.values.iter_mut().zip(row.values) {
            *kept = kept.or(value);
        }
    }
    Told { rows: known.into_values().collect(), ..Told::default() }
}

fn model_new(runs: &[Vec<Row>]) -> Told {
    let Some((last, earlier)) = runs.split_last() else { return Told::default() };
    let mut known: BTreeMap<Key, [Option<f64>; 2]> = BTreeMap::new();
    for row in earlier.iter().flatten() {
        let kept = known.entry(row.key).or_default();
        for (kept, value) in kept.iter_mut().zip(row.values) {
            *kept = kept.or(value);
        }
    }
    let old: std::collections::BTreeSet<Key> = known.keys().copied().collect();
    let mut told = Told::default();
    let mut new: BTreeMap<Key, Row> = BTreeMap::new();
    for row in last {
        let was_there = known.contains_key(&row.key);
        let kept = known.entry(row.key).or_default();
        for (channel, value) in row.values.into_iter().enumerate() {
            let Some(value) = value else { continue };
            match kept[channel] {
                None => {
                    kept[channel] = Some(value);
                    let empty = Row { values: [None, None], ..*row };
                    new.entry(row.key).or_insert(empty).values[channel] = Some(value);
                    told.counts.filled += u64::from(was_there);
                }
                Some(there) if there == value => told.counts.duplicates += 1,
                Some(there) => {
                    let same = |c: &Conflict| (c.0, c.1, c.3, c.4) == (row.key, channel, value, row.gateway);
                    if told.conflicts.iter().any(same) {
                        told.counts.duplicates += 1;
                    } else {
                        told.counts.conflicts += 1;
                        told.conflicts.push((row.key, channel, there, value, row.gateway, row.received));
                    }
                }
            }
        }
    }
    told.conflicts.sort_by_key(|conflict| (conflict.0, conflict.1));
    told.counts.readings = new.keys().filter(|key| !old.contains(key)).count() as u64;
    told.counts.shares_keys = new.keys().any(|key| old.contains(key));
    told.rows = new.into_values().collect();
    told
}

prop_compose! {
    /// Few keys and few values, so that everything happens.
    fn any_row()(logger in 1..4_u64, time in 0..6_i64, first in prop::option::weighted(0.8, 0..3_i8), second in prop::option::of(0..3_i8),
        gateway in 1..4_u64, received in 0..1000_i64) -> Row {
        // At least one value, as every reading has.
        let first = if first.is_none() && second.is_none() { Some(0) } else { first };
        Row { key: (logger, time), values: [first.map(f64::from), second.map(f64::from)], gateway, received }
    }
}

fn any_run() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec(any_row(), 0..40).prop_map(|mut rows| {
        // Stable: equal keys stay in the order of arrival.
        rows.sort_by_key(|row| row.key);
        rows
    })
}

/// Runs as segments are: many rows, few of which collide.
fn any_wide_run() -> impl Strategy<Value = Vec<Row>> {
    (0..3_u64, 0..400_i64, 1..300_i64, 1..4_i64, any::<bool>()).prop_map(|(logger, start, count, step, odd)| {
        (0..count)
            .map(|i| Row {
                key: (logger + 1, start + i * step),
                values: [Some(f64::from(u8::from(odd))), (i % 5 == 0).then_some(2.0)],
                gateway: 1 + u64::from(odd),
                received: i,
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rows_are_as_the_model_says(runs in prop::collection::vec(any_run(), 0..5), cut in 1..20_usize, batch_rows in 1..20_usize) {
        prop_assert_eq!(merge(&runs, MergeMode::Rows, cut, batch_rows), model_rows(&runs));
    }

    #[test]
    fn what_is_new_is_as_the_model_says(runs in prop::collection::vec(any_run(), 0..5), cut in 1..20_usize, batch_rows in 1..20_usize) {
        prop_assert_eq!(merge(&runs, MergeMode::NewOfLast, cut, batch_rows), model_new(&runs));
    }

    #[test]
    fn wide_runs_too(runs in prop::collection::vec(any_wide_run(), 1..6), cut in 1..200_usize, batch_rows in 1..300_usize) {
        prop_assert_eq!(merge(&runs, MergeMode::Rows, cut, batch_rows), model_rows(&runs));
        prop_assert_eq!(merge(&runs, MergeMode::NewOfLast, cut, batch_rows), model_new(&runs));
    }
}

fn row(logger: u64, time: i64, values: [Option<f64>; 2], gateway: u64) -> Row {
    Row { key: (logger, time), values, gateway, received: 1000 }
}

#[test]
fn the_four_fates_of_a_sample() {
    let old = vec![row(1, 0, [Some(4.0), None], 1), row(1, 1, [Some(4.0), None], 1)];
    let new = vec![
        row(1, 0, [Some(4.0), None], 2),
        row(1, 1, [Some(5.0), Some(40.0)], 2),
        row(1, 1, [Some(5.0), None], 2),
        row(1, 1, [Some(5.0), None], 3),
        row(1, 2, [Some(6.0), None], 2),
    ];
    let told = merge(&[old, new], MergeMode::NewOfLast, 100, 100);
    assert_eq!(told.rows, [row(1, 1, [None, Some(40.0)], 2), row(1, 2, [Some(6.0), None], 2)]);
    assert_eq!(told.conflicts, [((1, 1), 0, 4.0, 5.0, 2, 1000), ((1, 1), 0, 4.0, 5.0, 3, 1000)]);
    let counts = MergeCounts { readings: 1, duplicates: 2, conflicts: 2, filled: 1, shares_keys: true };
    assert_eq!(told.counts, counts);
}

#[test]
fn what_does_not_overlap_is_not_copied() {
    let rows: Vec<Row> = (0..100).map(|time| row(1, time, [Some(1.0), None], 1)).collect();
    let (first, second) = (batch(&rows[..50]), batch(&rows[50..]));
    let mut kernel = MergeKernel::new(schema(), 2, MergeMode::Rows).expect("readings").with_batch_rows(49);
    kernel.push(0, first.clone()).expect("sorted");
    kernel.push(1, second).expect("sorted");
    kernel.finish(1);
    let MergePoll::Batch(merged) = kernel.poll().expect("well formed") else { panic!("rows are there") };
    assert_eq!(merged.rows.num_rows(), 49);
    let values = |batch: &RecordBatch| batch.column(2).as_primitive::<Float64Type>().values().as_ptr();
    assert_eq!(values(&merged.rows), values(&first), "the very same memory");
}

#[test]
fn what_is_wrong_is_refused() {
    let sorted = batch(&[row(1, 0, [Some(1.0), None], 1), row(1, 1, [Some(1.0), None], 1)]);
    let unsorted = batch(&[row(1, 1, [Some(1.0), None], 1), row(1, 0, [Some(1.0), None], 1)]);
    let mut kernel = MergeKernel::new(schema(), 1, MergeMode::Rows).expect("readings");
    assert!(matches!(kernel.push(0, unsorted), Err(MergeError::Order { run: 0 })));
    kernel.push(0, sorted.slice(1, 1)).expect("sorted");
    assert!(matches!(kernel.push(0, sorted.slice(0, 1)), Err(MergeError::Order { run: 0 })));
    assert!(matches!(
        kernel.push(0, RecordBatch::new_empty(conflicts_schema())),
        Err(MergeError::Schema { run: 0, .. })
    ));
    assert!(MergeKernel::new(conflicts_schema(), 1, MergeMode::Rows).is_ok(), "conflicts have logger and time as well");
    assert!(MergeKernel::new(Arc::new(Schema::empty()), 1, MergeMode::Rows).is_err());
}

#[test]
fn a_narrow_batch_becomes_a_wide_one() {
    let wide = batch(&[row(1, 0, [Some(1.0), None], 1)]);
    let narrow = wide.project(&[0, 1, 2, 4, 5]).expect("columns");
    assert_eq!(unify(&narrow, &schema()).expect("humidity is null"), wide);
    assert!(unify(&wide.project(&[0, 1]).expect("columns"), &schema()).is_err(), "gateway may not be null");
    let none = unify(&wide, &Arc::new(Schema::empty())).expect("no columns are asked for");
    assert_eq!(none.num_rows(), wide.num_rows());
}

#[test]
fn a_clock_that_stands_still_costs_no_square() {
    // A quarter of a million values for one key: compared each with each, this would take minutes.
    let many: Vec<Row> = (0..250_000_u32).map(|value| row(1, 0, [Some(f64::from(value)), None], 9)).collect();
    let told = merge(&[many], MergeMode::NewOfLast, 1_000, 1_000);
    assert_eq!((told.counts.readings, told.counts.conflicts), (1, 249_999));
}

mod unite;
