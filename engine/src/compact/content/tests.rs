//! Order and batches do not count, and everything else does.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, TimestampMillisecondArray, UInt64Array};
use storage_format::segment::{fills_schema, merged_readings_schema, readings_schema};

use super::*;

type Row = (u64, i64, Option<f64>, Option<f64>, u64, i64, u64);

const ROWS: [Row; 3] = [
    (1, 10, Some(1.0), None, 5, 1000, 1),
    (1, 20, Some(1.0), Some(2.0), 5, 1000, 2),
    (2, 10, None, Some(1.0), 5, 1000, 1),
];

fn numbers<T>(rows: &[T], of: fn(&T) -> u64) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<UInt64Array>())
}

fn times<T>(rows: &[T], of: fn(&T) -> i64) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(of)).with_timezone("UTC"))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let codes = [1, 2].map(|code| ChannelCode::new(code).expect("not zero"));
    let values = |of: fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
    let columns = vec![
        numbers(rows, |row| row.0),
        times(rows, |row| row.1),
        values(|row| row.2),
        values(|row| row.3),
        numbers(rows, |row| row.4),
        times(rows, |row| row.5),
        numbers(rows, |row| row.6),
    ];
    RecordBatch::try_new(merged_readings_schema(&codes), columns).expect("a batch")
}

fn content(rows: &[Row]) -> Content {
    let mut content = Content::default();
    content.add(&batch(rows), 99);
    content
}

/// Fills, or samples that were dropped.
fn samples(rows: &[(u64, i64, &'static str, f64, u64)]) -> Samples {
    let columns = vec![
        numbers(rows, |row| row.0),
        times(rows, |row| row.1),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3))),
        numbers(rows, |row| row.4),
        numbers(rows, |_| 5),
        times(rows, |_| 1000),
    ];
    let mut samples = Samples::default();
    samples.add(&RecordBatch::try_new(fills_schema(), columns).expect("a batch"));
    samples
}

#[test]
fn readings_count_with_all_that_they_have() {
    let [one, two, three] = ROWS;
    let all = content(&ROWS);
    assert_eq!(all.rows, 3);
    assert_eq!(content(&[three, one, two]), all);
    type Change = fn(&mut Row);
    let changes: [Change; 9] = [
        |row| row.0 += 1,
        |row| row.1 += 1,
        |row| row.2 = None,
        |row| row.2 = Some(1.5),
        |row| std::mem::swap(&mut row.2, &mut row.3),
        |row| row.4 += 1,
        |row| row.5 += 1000,
        |row| row.6 += 1,
        |row| row.1 -= 10,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = ROWS;
        change(&mut changed[0]);
        assert_ne!(content(&changed), all, "change {index}");
    }
    // What one row loses, another one gains.
    let (mut first, mut second) = (one, two);
    std::mem::swap(&mut first.6, &mut second.6);
    assert_ne!(content(&[first, second, three]), all);
    assert_ne!(content(&[one, two]), all);
    assert_ne!(content(&[one, two, three, three]), all);
    // A column that says what the segment says of all rows.
    let codes = [1, 2].map(|code| ChannelCode::new(code).expect("not zero"));
    let columns = batch(&[one, three]).columns()[..6].to_vec();
    let plain = RecordBatch::try_new(readings_schema(&codes), columns).expect("a batch");
    let mut of_one_flush = Content::default();
    of_one_flush.add(&plain, 1);
    assert_eq!(of_one_flush, content(&[one, three]));
}

#[test]
fn united_rows_are_accounted_for() {
    let [one, two, three] = ROWS;
    // A later row fills the second channel of the first one, and repeats the first.
    let filler: Row = (1, 10, Some(1.0), Some(7.0), 5, 1000, 3);
    let united: Row = (1, 10, Some(1.0), Some(7.0), 5, 1000, 1);
    let fills = samples(&[(1, 10, "humidity", 7.0, 3)]);
    let dropped = samples(&[(1, 10, "temperature", 1.0, 3)]);
    let read = content(&[one, two, three, filler]);
    assert_eq!(read.without(&content(&[filler]), &dropped), content(&[united, two, three]));
    assert_ne!(read.without(&content(&[filler]), &Samples::default()), content(&[united, two, three]));
    let mut whole = Samples::default();
    whole.add_readings(&batch(&[filler]));
    assert_eq!(fills.and(dropped), whole);
    for wrong in [(1, 10, "humidity", 7.0, 4), (1, 10, "humidity", 7.5, 3), (1, 10, "co2", 7.0, 3)] {
        assert_ne!(samples(&[wrong]).and(dropped), whole);
    }
}

#[test]
fn rows_of_any_columns_count_whole() {
    let rows = |rows: &[Row]| {
        let mut sum = Rows::default();
        sum.add(&batch(rows).project(&[0, 1, 4, 5, 6]).expect("columns"));
        sum
    };
    let [one, two, three] = ROWS;
    assert_eq!(rows(&ROWS), rows(&[three, one, two]));
    assert_ne!(rows(&ROWS), rows(&[one, two]));
    assert_ne!(rows(&ROWS), rows(&[one, two, (2, 11, None, Some(1.0), 5, 1000, 1)]));
}
