//! Uniting rows: what is merged is what a merge of rows gives, and every sample of a later row is told of once.

use storage_format::segment::{fills_schema, merged_readings_schema};

use super::*;

/// A sample of a later row: key, channel, value, flush, gateway, received.
type Sample = (Key, usize, f64, u64, u64, i64);

#[derive(Debug, Default, PartialEq)]
struct United {
    told: Told,
    flushes: Vec<u64>,
    later: Vec<(Row, u64)>,
    fills: Vec<Sample>,
    dropped: Vec<Sample>,
}

fn schema() -> SchemaRef {
    merged_readings_schema(&[1, 2].map(|code| ChannelCode::new(code).expect("a code")))
}

fn flushes(batch: &RecordBatch) -> Vec<u64> {
    batch.column(6).as_primitive::<UInt64Type>().values().to_vec()
}

fn samples(batch: &RecordBatch) -> Vec<Sample> {
    let number = |i: usize, row: usize| batch.column(i).as_primitive::<UInt64Type>().value(row);
    let time = |i: usize, row: usize| batch.column(i).as_primitive::<TimestampMillisecondType>().value(row);
    let names: &StringArray = batch.column(2).as_string();
    (0..batch.num_rows())
        .map(|row| {
            let channel = usize::from(names.value(row) == "humidity");
            let value = batch.column(3).as_primitive::<Float64Type>().value(row);
            ((number(0, row), time(1, row)), channel, value, number(4, row), number(5, row), time(6, row))
        })
        .collect()
}

/// Unites runs, of which the first is of flush 1, and so on.
fn unite(runs: &[Vec<Row>], cut: usize, batch_rows: usize) -> United {
    let with_flush = |(rows, flush): (&[Row], u64)| {
        let plain = batch(rows);
        let flushes: ArrayRef = Arc::new(UInt64Array::from_value(flush, rows.len()));
        RecordBatch::try_new(schema(), plain.columns().iter().cloned().chain([flushes]).collect()).map_err(Into::into)
    };
    let streams = runs.iter().zip(1..).map(|(rows, flush)| {
        let batches: Vec<_> = rows.chunks(cut).map(|rows| with_flush((rows, flush))).collect();
        stream::iter(batches).boxed()
    });
    let merge = Merge::new(schema(), streams.collect(), MergeMode::Unite, std::convert::identity);
    let mut merge: Merge<Run, MergeError> = merge.expect("readings").with_batch_rows(batch_rows);
    let mut united = United::default();
    while let Some(merged) = merge.next().now_or_never().expect("all is there").expect("well formed") {
        assert!(merged.rows.num_rows() <= batch_rows);
        united.told.rows.extend(unbatch(&merged.rows));
        united.flushes.extend(flushes(&merged.rows));
        united.told.conflicts.extend(unbatch_conflicts(&merged.conflicts));
        let Some(beside) = merged.united else { continue };
        assert_eq!((beside.rows.schema(), beside.fills.schema()), (schema(), fills_schema()));
        united.later.extend(unbatch(&beside.rows).into_iter().zip(flushes(&beside.rows)));
        united.fills.extend(samples(&beside.fills));
        united.dropped.extend(samples(&beside.dropped));
    }
    united.told.counts = merge.counts();
    united
}

fn model(runs: &[Vec<Row>]) -> United {
    let mut rows: BTreeMap<Key, Vec<(Row, u64)>> = BTreeMap::new();
    for (run, flush) in runs.iter().zip(1..) {
        run.iter().for_each(|row| rows.entry(row.key).or_default().push((*row, flush)));
    }
    let mut united = United::default();
    for (key, rows) in rows {
        let ((mut first, flush), later) = (rows[0], &rows[1..]);
        let (mut fills, mut conflicts) = (Vec::new(), Vec::new());
        for (row, flush) in later {
            for (channel, value) in row.values.into_iter().enumerate() {
                let Some(value) = value else { continue };
                let sample = (key, channel, value, *flush, row.gateway, row.received);
                match first.values[channel] {
                    None => {
                        first.values[channel] = Some(value);
                        fills.push(sample);
                        united.told.counts.filled += 1;
                        continue;
                    }
                    Some(kept) => {
                        let same = |c: &Conflict| (c.1, c.3, c.4) == (channel, value, row.gateway);
                        if kept == value || conflicts.iter().any(same) {
                            united.told.counts.duplicates += 1;
                        } else {
                            united.told.counts.conflicts += 1;
                            conflicts.push((key, channel, kept, value, row.gateway, row.received));
                        }
                        united.dropped.push(sample);
                    }
                }
            }
        }
        fills.sort_by_key(|fill: &Sample| fill.1);
        conflicts.sort_by_key(|conflict: &Conflict| conflict.1);
        united.fills.extend(fills);
        united.told.conflicts.extend(conflicts);
        united.told.rows.push(first);
        united.flushes.push(flush);
        united.later.extend(later);
    }
    united
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_sample_is_told_of(runs in prop::collection::vec(any_run(), 0..5), cut in 1..20_usize, batch_rows in 1..20_usize) {
        let united = unite(&runs, cut, batch_rows);
        prop_assert_eq!(&united, &model(&runs));
        prop_assert_eq!(&united.told.rows, &model_rows(&runs).rows);
        let samples: usize = united.later.iter().map(|(row, _)| row.values.iter().flatten().count()).sum();
        prop_assert_eq!(samples, united.fills.len() + united.dropped.len());
    }

    #[test]
    fn of_wide_runs_too(runs in prop::collection::vec(any_wide_run(), 1..6), cut in 1..200_usize, batch_rows in 1..300_usize) {
        prop_assert_eq!(unite(&runs, cut, batch_rows), model(&runs));
    }
}
