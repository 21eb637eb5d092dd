use arrow::datatypes::{DataType, Field};
use datafusion::functions_aggregate::{correlation, covariance, regr, stddev, variance};
use datafusion::physical_expr::expressions::Column;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One or two columns of floats as arguments of a function.
struct Call {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    fields: Vec<FieldRef>,
}

impl Call {
    fn new(function: Arc<AggregateUDF>, arguments: usize) -> Self {
        let names = ["x", "y"].into_iter().take(arguments);
        let fields: Vec<FieldRef> = names.map(|name| Arc::new(Field::new(name, DataType::Float64, true))).collect();
        let return_field = function.return_field(&fields).expect("of floats");
        let exprs = fields.iter().enumerate().map(|(index, field)| Arc::new(Column::new(field.name(), index)) as _);
        let exprs = exprs.collect();
        Self { function, return_field, schema: Schema::new(fields.clone()), exprs, fields }
    }

    fn args(&self) -> AccumulatorArgs<'_> {
        AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: "call",
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.fields,
        }
    }

    fn sliding(&self) -> SlidingAccumulator {
        SlidingAccumulator::try_new(Arc::clone(&self.function), &self.args()).expect("makes")
    }

    /// Of these rows and no others.
    fn alone(&self, rows: &[[Option<f64>; 2]]) -> ScalarValue {
        let mut accumulator = self.function.accumulator(self.args()).expect("makes");
        accumulator.update_batch(&self.arrays(rows)).expect("floats");
        accumulator.evaluate().expect("a result")
    }

    fn arrays(&self, rows: &[[Option<f64>; 2]]) -> Vec<ArrayRef> {
        let column = |index: usize| Arc::new(rows.iter().map(|row| row[index]).collect::<Float64Array>()) as ArrayRef;
        (0..self.exprs.len()).map(column).collect()
    }
}

fn calls() -> Vec<Call> {
    vec![
        Call::new(variance::var_samp_udaf(), 1),
        Call::new(variance::var_pop_udaf(), 1),
        Call::new(stddev::stddev_udaf(), 1),
        Call::new(stddev::stddev_pop_udaf(), 1),
        Call::new(covariance::covar_samp_udaf(), 2),
        Call::new(covariance::covar_pop_udaf(), 2),
        Call::new(correlation::corr_udaf(), 2),
        Call::new(regr::regr_slope_udaf(), 2),
        Call::new(regr::regr_intercept_udaf(), 2),
        Call::new(regr::regr_count_udaf(), 2),
        Call::new(regr::regr_r2_udaf(), 2),
        Call::new(regr::regr_avgx_udaf(), 2),
        Call::new(regr::regr_avgy_udaf(), 2),
        Call::new(regr::regr_sxx_udaf(), 2),
        Call::new(regr::regr_syy_udaf(), 2),
        Call::new(regr::regr_sxy_udaf(), 2),
    ]
}

/// Whether two results are the same but for rounding.
fn near(found: &ScalarValue, expected: &ScalarValue) -> bool {
    match (found, expected) {
        (ScalarValue::Float64(Some(found)), ScalarValue::Float64(Some(expected))) => {
            found == expected
                || (found.is_nan() && expected.is_nan())
                || (found - expected).abs() <= 1e-9 * expected.abs().max(1.0)
        }
        (found, expected) => found == expected,
    }
}

#[test]
fn long_frames_turn_many_times_and_free_what_has_left() {
    let call = Call::new(variance::var_pop_udaf(), 1);
    let mut sliding = call.sliding();
    let value = |row: usize| [Some(f64::from(u32::try_from(row % 977).expect("small"))), None];
    let (width, rows) = (2 * STATES_PER_CHUNK + 17, 3 * (2 * STATES_PER_CHUNK + 17) + 5);
    let mut greatest = 0;
    for row in 0..rows {
        sliding.update_batch(&call.arrays(&[value(row)])).expect("floats");
        if row >= width {
            sliding.retract_batch(&call.arrays(&[value(row - width)])).expect("floats");
        }
        greatest = greatest.max(sliding.size());
        if row % 613 == 0 || row + 1 == rows {
            let frame: Vec<_> = ((row + 1).saturating_sub(width)..=row).map(value).collect();
            let (found, expected) = (sliding.evaluate().expect("a result"), call.alone(&frame));
            assert!(near(&found, &expected), "{row}: {found} for {expected}");
        }
    }
    assert!(greatest > width * 24, "three numbers a row are told: {greatest}");
    for row in rows - width..rows {
        sliding.retract_batch(&call.arrays(&[value(row)])).expect("floats");
    }
    assert_eq!(sliding.evaluate().expect("a result"), ScalarValue::Float64(None));
    assert!(sliding.older.is_empty() && sliding.size() < greatest / 2, "{}", sliding.size());
    assert!(sliding.retract_batch(&call.arrays(&[value(0)])).is_err(), "nothing is left");
}

fn value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        12 => (-400_i32..400).prop_map(|tenths| Some(f64::from(tenths) / 10.0)),
        2 => Just(None),
        1 => Just(Some(f64::INFINITY)),
        1 => Just(Some(f64::NAN)),
        1 => Just(Some(9.9e37)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A result is that of the rows that are in the frame, whatever was in it before.
    #[test]
    fn results_are_of_the_frame(
        rows in vec([value(), value()], 1..40),
        moves in vec((0_usize..6, 0_usize..6), 1..20),
    ) {
        for call in calls() {
            let mut sliding = call.sliding();
            let (mut start, mut end) = (0, 0);
            for &(come, leave) in &moves {
                let to = (end + come).min(rows.len());
                sliding.update_batch(&call.arrays(&rows[end..to])).expect("floats");
                end = to;
                let from = (start + leave).min(end);
                sliding.retract_batch(&call.arrays(&rows[start..from])).expect("floats");
                start = from;
                let frame = &rows[start..end];
                // False values are so great that which of two roundings comes first shows.
                if frame.iter().flatten().flatten().any(|value| *value > 1e6) {
                    continue;
                }
                let (found, expected) = (sliding.evaluate().expect("a result"), call.alone(frame));
                prop_assert!(near(&found, &expected), "{}: {} for {}", call.function.name(), found, expected);
            }
        }
    }
}
