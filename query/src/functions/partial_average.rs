//! The average of values of which sums and counts are given: as `avg` of the values themselves, but for the rounding of
//! the sums that are given. Statements cannot call it; plans that read rollups do.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility};

use super::exact_sum::{PartialAverageAccumulator, PartialAverageGroups, state_fields};

/// The function, of a sum and a count.
pub(crate) fn partial_average() -> Arc<AggregateUDF> {
    static FUNCTION: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(PartialAverage::new())));
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PartialAverage {
    signature: Signature,
}

impl PartialAverage {
    fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::Float64, DataType::Int64], Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for PartialAverage {
    fn name(&self) -> &str {
        "partial_avg"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(PartialAverageAccumulator::new()))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(state_fields(&args))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(PartialAverageGroups::new()))
    }
}
