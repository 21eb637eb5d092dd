use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::datatypes::Float64Type;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Digits before and after the decimal point of any sum of a few thousand doubles, written out.
const WHOLE_DIGITS: usize = 320;
const FRACTION_DIGITS: usize = 1074;

/// The sum as school does it: written out in decimals, one below the other; the standard library reads the result.
fn model(values: &[f64]) -> f64 {
    let special = values.iter().filter(|value| !value.is_finite()).fold(0.0, |sum, value| sum + value);
    if special.is_nan() || special != 0.0 {
        return special;
    }
    let mut digits = [0_i32; WHOLE_DIGITS + FRACTION_DIGITS];
    for value in values {
        let sign = if value.is_sign_negative() { -1 } else { 1 };
        let written = format!("{:.FRACTION_DIGITS$}", value.abs()).replace('.', "");
        for (digit, written) in digits.iter_mut().rev().zip(written.bytes().rev()) {
            *digit += sign * i32::from(written - b'0');
        }
    }
    let carried = |digits: &mut [i32]| {
        let mut carry = 0;
        for digit in digits.iter_mut().rev() {
            let sum = *digit + carry;
            (*digit, carry) = (sum.rem_euclid(10), sum.div_euclid(10));
        }
        carry
    };
    let negative = carried(&mut digits.clone()) < 0;
    if negative {
        digits.iter_mut().for_each(|digit| *digit = -*digit);
    }
    assert_eq!(carried(&mut digits), 0, "there are digits enough");
    let written: String = digits.iter().map(|digit| digit.to_string()).collect();
    let magnitude: f64 = format!("{written}e-{FRACTION_DIGITS}").parse().expect("digits");
    if negative { -magnitude } else { magnitude }
}

/// The same, as an accumulator answers: nothing of nothing, one NaN, one zero.
fn expected(values: &[f64]) -> Option<u64> {
    if values.is_empty() {
        return None;
    }
    let sum = model(values);
    Some(if sum.is_nan() { f64::NAN } else { sum + 0.0 }.to_bits())
}

/// Doubles of every kind, those most often that stress: of one size, opposite ones, next to limits.
fn double() -> impl Strategy<Value = f64> {
    let edges = prop::sample::select(vec![
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        1.7e308,
        2_f64.powi(-20),
        2_f64.powi(-20).next_down(),
        2_f64.powi(44),
        2_f64.powi(44).next_down(),
        -2_f64.powi(44).next_down(),
        2_f64.powi(53),
        9.9e37,
        -9.9e37,
        1e16,
        1.0,
    ]);
    prop_oneof![
        4 => (-400_i32..1000).prop_map(|tenths| f64::from(tenths) / 10.0),
        3 => edges,
        2 => any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
        2 => (any::<bool>(), 0_u64..1 << 53, -1074_i32..971).prop_map(|(negative, mantissa, exponent)| {
            let value = mantissa as f64 * 2_f64.powi(exponent.max(-1000)) * 2_f64.powi(exponent.min(-1000) + 1000);
            if negative { -value } else { value }
        }),
    ]
}

fn any_double() -> impl Strategy<Value = f64> {
    prop_oneof![
        40 => double(),
        1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN]),
    ]
}

fn arrays(values: &[Option<f64>]) -> [ArrayRef; 1] {
    [Arc::new(Float64Array::from(values.to_vec()))]
}

fn some(values: &[f64]) -> [ArrayRef; 1] {
    [Arc::new(Float64Array::from(values.to_vec()))]
}

fn bits(scalar: ScalarValue) -> Option<u64> {
    match scalar {
        ScalarValue::Float64(value) => value.map(f64::to_bits),
        other => panic!("not a float: {other:?}"),
    }
}

fn state_arrays(accumulator: &mut dyn Accumulator) -> Vec<ArrayRef> {
    let state = accumulator.state().expect("a state");
    state.iter().map(|field| field.to_array().expect("an array")).collect()
}

fn sum_of(values: &[f64]) -> Option<u64> {
    let mut accumulator = SumAccumulator::new(Question::Sum);
    accumulator.update_batch(&some(values)).expect("floats");
    bits(accumulator.evaluate().expect("a sum"))
}

fn average_of(values: &[f64]) -> Option<f64> {
    let mut accumulator = SumAccumulator::new(Question::Average);
    accumulator.update_batch(&some(values)).expect("floats");
    bits(accumulator.evaluate().expect("an average")).map(f64::from_bits)
}

#[test]
fn the_model_adds() {
    assert_eq!(model(&[0.1, 0.2, -0.3]), 2.0_f64.powi(-55));
    assert_eq!(model(&[1e308, 1e308, -1e308]), 1e308);
    assert_eq!(model(&[f64::MAX, f64::MAX]), f64::INFINITY);
    assert_eq!(model(&[5e-324, -1e-323]), -5e-324);
    assert!(model(&[f64::INFINITY, f64::NEG_INFINITY, 1.0]).is_nan());
    assert_eq!(model(&[f64::NEG_INFINITY, 1.0]), f64::NEG_INFINITY);
}

#[test]
fn halves_go_to_the_even_number() {
    let one = 1.0_f64;
    let half = 2_f64.powi(-53);
    assert_eq!(sum_of(&[one, half]), Some(one.to_bits()));
    assert_eq!(sum_of(&[one, half, 5e-324]), Some(one.next_up().to_bits()));
    assert_eq!(sum_of(&[one.next_up(), half]), Some(one.next_up().next_up().to_bits()));
    // Halfway between the greatest double and what would be the next one.
    assert_eq!(sum_of(&[f64::MAX, 2_f64.powi(970)]), Some(f64::INFINITY.to_bits()));
    assert_eq!(sum_of(&[f64::MAX, 2_f64.powi(970), -5e-324]), Some(f64::MAX.to_bits()));
}

#[test]
fn averages_are_finite_where_sums_are_not() {
    assert_eq!(average_of(&[1.7e308, 1.7e308]), Some(1.7e308));
    for count in [3, 7, 100, 1001] {
        assert_eq!(average_of(&vec![f64::MAX; count]), Some(f64::MAX));
        assert_eq!(average_of(&vec![f64::MIN; count]), Some(f64::MIN));
    }
    assert_eq!(average_of(&[f64::MAX, f64::MAX, f64::MIN, 6.0]), Some(f64::MAX / 4.0));
    assert_eq!(average_of(&[f64::INFINITY, 1.0]), Some(f64::INFINITY));
    assert_eq!(average_of(&[-5e-324, 0.0, 0.0]).map(f64::to_bits), Some(0), "no negative zero");
    assert_eq!(average_of(&[]), None);
}

#[test]
fn the_fixed_point_number_overflows_into_the_wide_one() {
    let great = 2_f64.powi(44).next_down();
    let mut accumulator = SumAccumulator::new(Question::Sum);
    let all = vec![great; 5000];
    for batch in all.chunks(10) {
        accumulator.update_batch(&some(batch)).expect("floats");
    }
    assert_eq!(bits(accumulator.evaluate().expect("a sum")), expected(&all));
    assert!(accumulator.sum.wide.is_some());
    accumulator.retract_batch(&some(&all[1..])).expect("floats");
    assert_eq!(bits(accumulator.evaluate().expect("a sum")), Some(great.to_bits()));
}

#[test]
fn ordinary_readings_take_no_more_than_a_few_words() {
    assert_eq!(size_of::<ExactSum>(), 32);
    let readings: Vec<f64> = (-400..1000).map(|tenths| f64::from(tenths) / 10.0).chain([1e12, 1e-6, 0.0]).collect();
    let mut accumulator = SumAccumulator::new(Question::Sum);
    accumulator.update_batch(&some(&readings)).expect("floats");
    assert!(accumulator.sum.wide.is_none());
    let before = accumulator.size();
    accumulator.update_batch(&some(&[1e300])).expect("floats");
    assert_eq!(accumulator.size() - before, size_of::<Wide>());
}

#[test]
fn a_damaged_state_is_an_error() {
    let mut whole = SumAccumulator::new(Question::Sum);
    whole.update_batch(&some(&[1e300])).expect("floats");
    let mut state = state_arrays(&mut whole);
    let mut other = SumAccumulator::new(Question::Sum);
    assert!(other.merge_batch(&state[..2]).is_err());
    state[2] = ScalarValue::LargeBinary(Some(vec![0; 7])).to_array().expect("an array");
    assert!(other.merge_batch(&state).is_err());
}

/// Bits in the integer's own units, written down without the code under test.
#[test]
fn the_smallest_and_the_greatest_have_their_place() {
    let mut wide = Wide::default();
    wide.add(5e-324);
    assert_eq!(wide.to_bytes()[0], 1);
    assert_eq!(wide.rounded(), 5e-324);
    wide.subtract(5e-324);
    assert_eq!(wide, Wide::default());
    wide.add(-f64::MAX);
    wide.add_fixed(1 << FRACTION_BITS);
    wide.subtract(1.0);
    assert_eq!(wide.rounded(), f64::MIN);
    assert_eq!(Wide::from_bytes(&wide.to_bytes()), Some(wide));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// However values are ordered, cut into batches and spread over partitions.
    #[test]
    fn sums_are_exact(
        values in vec((any_double(), 0_usize..4, any::<u32>()), 0..48),
        cut in 1_usize..9,
    ) {
        let all: Vec<f64> = values.iter().map(|(value, ..)| *value).collect();
        let mut ordered = values;
        ordered.sort_by_key(|(.., order)| *order);
        let mut whole = SumAccumulator::new(Question::Sum);
        for partition in 0..4 {
            let mine: Vec<Option<f64>> =
                ordered.iter().map(|(value, of, _)| (*of == partition).then_some(*value)).collect();
            let mut part = SumAccumulator::new(Question::Sum);
            for batch in mine.chunks(cut) {
                part.update_batch(&arrays(batch)).expect("floats");
            }
            whole.merge_batch(&state_arrays(&mut part)).expect("states");
        }
        prop_assert_eq!(bits(whole.evaluate().expect("a sum")), expected(&all));
        let average = average_of(&all);
        let sum = expected(&all).map(f64::from_bits);
        if let (Some(average), Some(sum)) = (average, sum) {
            if sum.is_finite() || all.iter().any(|value| !value.is_finite()) {
                let quotient = sum / all.len() as f64;
                prop_assert!(average == quotient || average.is_nan() && quotient.is_nan());
            } else {
                prop_assert!(average.is_finite() && average.abs() <= f64::MAX);
            }
        }
    }

    /// What has left a frame is gone from it.
    #[test]
    fn frames_slide(values in vec(prop::option::weighted(0.9, any_double()), 1..24), width in 1_usize..6) {
        let mut sum = SumAccumulator::new(Question::Sum);
        let mut distinct = DistinctAccumulator::new(Question::Sum);
        for end in 0..values.len() {
            let start = (end + 1).saturating_sub(width);
            for accumulator in [&mut sum as &mut dyn Accumulator, &mut distinct] {
                accumulator.update_batch(&arrays(&canonical(&values[end..=end]))).expect("floats");
                if end >= width {
                    accumulator.retract_batch(&arrays(&canonical(&values[start - 1..start]))).expect("floats");
                }
            }
            let mut frame: Vec<f64> = canonical(&values[start..=end]).into_iter().flatten().collect();
            prop_assert_eq!(bits(sum.evaluate().expect("a sum")), expected(&frame));
            frame.sort_by(f64::total_cmp);
            frame.dedup_by_key(|value| value.to_bits());
            prop_assert_eq!(bits(distinct.evaluate().expect("a sum")), expected(&frame));
        }
    }

    /// Distinct values of several partitions count once.
    #[test]
    fn distinct_values_count_once(left in vec(any_double(), 0..16), right in vec(any_double(), 0..16)) {
        let mut whole = DistinctAccumulator::new(Question::Sum);
        let mut all = Vec::new();
        for part in [left, right] {
            let part: Vec<f64> = canonical(&part.iter().copied().map(Some).collect::<Vec<_>>()).into_iter().flatten().collect();
            let mut one = DistinctAccumulator::new(Question::Sum);
            one.update_batch(&some(&part)).expect("floats");
            one.update_batch(&some(&part)).expect("floats");
            whole.merge_batch(&state_arrays(&mut one)).expect("states");
            all.extend(part);
        }
        all.sort_by(f64::total_cmp);
        all.dedup_by_key(|value| value.to_bits());
        prop_assert_eq!(bits(whole.evaluate().expect("a sum")), expected(&all));
    }

    /// Many groups are as each of them alone: with nulls, filters, states, rows as states, and what is given out early.
    #[test]
    fn groups_are_as_one_alone(
        rows in vec((prop::option::weighted(0.9, any_double()), 0_usize..5, prop::option::weighted(0.9, any::<bool>())), 0..40),
        filtered in any::<bool>(),
        cut in 1_usize..12,
        first in 1_usize..5,
    ) {
        const GROUPS: usize = 5;
        let mut groups = SumGroupsAccumulator::new(Question::Sum);
        let mut merged = SumGroupsAccumulator::new(Question::Sum);
        let mut alone: Vec<SumAccumulator> = (0..GROUPS).map(|_| SumAccumulator::new(Question::Sum)).collect();
        let everyone: Vec<usize> = (0..GROUPS).collect();
        for (number, batch) in rows.chunks(cut).enumerate() {
            let values: Vec<Option<f64>> = batch.iter().map(|(value, ..)| *value).collect();
            let indices: Vec<usize> = batch.iter().map(|(_, group, _)| *group).collect();
            let filter = BooleanArray::from(batch.iter().map(|(.., passes)| *passes).collect::<Vec<_>>());
            let filter = filtered.then_some(&filter);
            groups.update_batch(&arrays(&values), &indices, filter, GROUPS).expect("floats");
            if number % 2 == 0 {
                let states = groups.convert_to_state(&arrays(&values), filter).expect("floats");
                merged.merge_batch(&states, &indices, GROUPS).expect("states");
            } else {
                let mut part = SumGroupsAccumulator::new(Question::Sum);
                part.update_batch(&arrays(&values), &indices, filter, GROUPS).expect("floats");
                let states = part.state(EmitTo::All).expect("states");
                merged.merge_batch(&states, &everyone, GROUPS).expect("states");
            }
            for (value, group, passes) in batch {
                if !filtered || *passes == Some(true) {
                    alone[*group].update_batch(&arrays(&[*value])).expect("floats");
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let expected: Vec<_> = alone.iter_mut().map(|one| bits(one.evaluate().expect("a sum"))).collect();
        let wides = groups.sums.iter().filter(|sum| sum.wide.is_some()).count();
        let size = groups.sums.capacity() * size_of::<ExactSum>() + wides * size_of::<Wide>();
        prop_assert_eq!(groups.size(), size);
        for mut accumulator in [groups, merged] {
            let mut found = Vec::new();
            for emit_to in [EmitTo::First(first), EmitTo::All] {
                let answers = accumulator.evaluate(emit_to).expect("sums");
                found.extend(answers.as_primitive::<Float64Type>().iter().map(|sum| sum.map(f64::to_bits)));
            }
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(accumulator.wides, 0);
        }
    }
}

/// Values as they come within SQL.
fn canonical(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let one = |value: f64| if value.is_nan() { f64::NAN } else { value + 0.0 };
    values.iter().map(|value| value.map(one)).collect()
}
