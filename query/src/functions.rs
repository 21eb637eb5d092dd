//! SQL functions of icecore's own, beside DataFusion's or in place of them.

mod aggregates;
mod bounded;
mod date_trunc;
mod eui64;
mod eui64_text;
mod exact_sum;
mod instant;
mod interval_length;
mod local_shift;
mod operators;
mod partial_average;
mod sliding;
mod timezone;
mod to_timestamp;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use aggregates::aggregates;
pub(crate) use bounded::{TextLimits, bounded, longest, longest_text};
pub(crate) use instant::Instant;
pub(crate) use interval_length::IntervalLength;
pub(crate) use local_shift::LocalShift;
pub(crate) use operators::{JoinedTexts, matching};
pub(crate) use partial_average::partial_average;
pub(crate) use to_timestamp::to_timestamps;

/// All of them. Those that come later stand in place of others with the same names.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::new_from_impl(eui64::Eui64::new())),
        Arc::new(ScalarUDF::new_from_impl(eui64_text::Eui64Text::new())),
        Arc::new(ScalarUDF::new_from_impl(date_trunc::DateTrunc::new())),
        Arc::new(ScalarUDF::new_from_impl(timezone::Timezone::new())),
    ]
}
