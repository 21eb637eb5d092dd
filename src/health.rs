//! What keeps the server from taking frames, as the engine says it, for `/readyz` and `/metrics`.

use std::sync::Arc;

use engine::Engine;
use server::{Condition, Health, HealthCheck};

/// A check of this engine.
pub(crate) fn check(engine: Arc<Engine>) -> HealthCheck {
    HealthCheck::new(move || health(&engine))
}

fn health(engine: &Engine) -> Health {
    let status = engine.status();
    let condition = |name, detail: &str, hint| Condition { name, since: None, detail: detail.to_owned(), hint };
    let all = [
        (status.failed.is_some(), "engine_failed", "the engine has stopped", "look at the log, then start again"),
        (
            status.wal_bytes >= status.wal_bytes_max,
            "wal_full",
            "the WAL has reached wal_bytes_max",
            "see whether an organisation cannot flush, and why",
        ),
        (
            status.buffer_bytes >= status.buffer_bytes_max,
            "write_buffers_full",
            "the write buffers have reached buffer_bytes_max",
            "see whether flushes fail, and why",
        ),
    ];
    let held = all.into_iter().filter(|(holds, ..)| *holds);
    Health {
        conditions: held.map(|(_, name, detail, hint)| condition(name, detail, hint)).collect(),
        orgs_not_flushing: status.flush_troubles.len(),
    }
}
