//! SQL functions of icecore's own, beside DataFusion's, and those of DataFusion's that are changed.

mod aggregates;
mod bounded;
mod eui64;
mod eui64_text;
mod exact_sum;
mod sliding;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use aggregates::aggregates;
pub(crate) use bounded::bounded;

/// All of them.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::new_from_impl(eui64::Eui64::new())),
        Arc::new(ScalarUDF::new_from_impl(eui64_text::Eui64Text::new())),
    ]
}
