//! The engine's own files, as they are.

use super::notify;

#[path = "../../src/sync/applied.rs"]
pub(crate) mod applied;
#[path = "../../src/buffer/budget.rs"]
pub(crate) mod budget;
#[path = "../../src/sync/column.rs"]
pub(crate) mod column;
#[path = "../../src/sync/extent.rs"]
pub(crate) mod extent;
#[path = "../../src/sync/gate.rs"]
pub(crate) mod gate;
#[path = "../../src/org/state.rs"]
pub(crate) mod state;
