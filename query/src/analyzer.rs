//! What is made of a plan after its types are known and before it is optimized.

mod times;
mod types;

pub(crate) use times::Times;
pub(crate) use types::SqlTypes;
