//! What rows hold, as a sum that does not depend on their order: so that what went into a merge can be compared with
//! what came out of it, without going through the merge.
//!
//! Two sums of a hash of each row, the logger and the flush included: if they agree, they agree for every logger, but
//! for a chance of one in 2^128. It is not made to withstand somebody who wants it to fail; the bytes are
//! authenticated.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType, UInt64Type};

/// The rows that were added, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Content {
    pub(super) rows: u64,
    sums: [u64; 2],
}

/// Odd numbers without any structure.
const FACTORS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F];

fn mix(hash: u64, value: u64, factor: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(factor);
    (mixed ^ (mixed >> 32)).wrapping_mul(factor.rotate_left(31) | 1)
}

impl Content {
    /// Adds rows. Columns count by their place, so that batches that are compared must have the same.
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        let mut hashes = vec![FACTORS; batch.num_rows()];
        let mut add = |row: usize, value: u64| {
            for (hash, factor) in hashes[row].iter_mut().zip(FACTORS) {
                *hash = mix(hash.rotate_left(17), value, factor);
            }
        };
        for (place, column) in (1..).zip(batch.columns()) {
            match column.data_type() {
                DataType::UInt64 => {
                    let values = column.as_primitive::<UInt64Type>().values();
                    values.iter().enumerate().for_each(|(row, value)| add(row, *value));
                }
                DataType::Float64 => {
                    let values = column.as_primitive::<Float64Type>();
                    for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
                        add(row, place);
                        add(row, values.value(row).to_bits());
                    }
                }
                // The times.
                _ => {
                    let values = column.as_primitive::<TimestampMillisecondType>().values();
                    values.iter().enumerate().for_each(|(row, value)| add(row, value.cast_unsigned()));
                }
            }
        }
        for hash in &hashes {
            for (sum, hash) in self.sums.iter_mut().zip(hash) {
                *sum = sum.wrapping_add(*hash);
            }
        }
        self.rows += batch.num_rows() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, TimestampMillisecondArray, UInt64Array};
    use storage_format::ChannelCode;
    use storage_format::segment::merged_readings_schema;

    use super::*;

    type Row = (u64, i64, Option<f64>, Option<f64>, u64, i64, u64);

    const ROWS: [Row; 3] = [
        (1, 10, Some(1.0), None, 5, 1000, 1),
        (1, 20, Some(1.0), Some(2.0), 5, 1000, 2),
        (2, 10, None, Some(1.0), 5, 1000, 1),
    ];

    fn content(rows: &[Row]) -> Content {
        let codes = [1, 2].map(|code| ChannelCode::new(code).expect("not zero"));
        let numbers = |of: fn(&Row) -> u64| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<UInt64Array>()) };
        let times = |of: fn(&Row) -> i64| -> ArrayRef {
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(of)).with_timezone("UTC"))
        };
        let values =
            |of: fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
        let columns = vec![
            numbers(|row| row.0),
            times(|row| row.1),
            values(|row| row.2),
            values(|row| row.3),
            numbers(|row| row.4),
            times(|row| row.5),
            numbers(|row| row.6),
        ];
        let batch = RecordBatch::try_new(merged_readings_schema(&codes), columns).expect("a batch");
        let mut content = Content::default();
        content.add(&batch);
        content
    }

    #[test]
    fn order_and_batches_do_not_count_and_everything_else_does() {
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
    }
}
