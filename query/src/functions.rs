//! SQL functions of icecore's own, beside DataFusion's.

mod bounded;
mod eui64;
mod eui64_text;
mod operators;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use bounded::{TextLimits, bounded, longest, longest_text};
pub(crate) use operators::{JoinedTexts, matching};

/// All of them.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::new_from_impl(eui64::Eui64::new())),
        Arc::new(ScalarUDF::new_from_impl(eui64_text::Eui64Text::new())),
    ]
}
