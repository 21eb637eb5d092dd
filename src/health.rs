//! What keeps the server from taking frames, from the engine's health, for `/readyz` and `icecore_ready`.

use std::sync::Arc;

use engine::{Engine, EngineHealth};
use server::{Condition, Health, HealthCheck};

/// Makes a check of this engine.
pub(crate) fn check(engine: Arc<Engine>) -> HealthCheck {
    HealthCheck::new(move || {
        let status = engine.status();
        health(&engine.health(), status.buffer_bytes >= status.buffer_bytes_max)
    })
}

/// Translates the engine's health. Its errors stay behind: they can have paths and organisations' ids, and whoever reads
/// `/readyz` has no token. Full write buffers count only if everybody waits: below their maximum only organisations wait
/// that hold much of them, and the server is ready for the others.
fn health(engine: &EngineHealth, everybody_waits: bool) -> Health {
    let failed = engine.failed.is_some().then(|| Condition {
        name: "engine_failed",
        since: None,
        detail: "the engine has stopped after an error that it cannot go on from".to_owned(),
        hint: "Look at the log, then start the server again.",
    });
    let troubles = engine.conditions().into_iter().filter_map(|(name, trouble)| {
        let trouble = trouble.filter(|_| everybody_waits || name != "write_buffers_full")?;
        Some(Condition { name, since: Some(trouble.since), detail: trouble.what.to_owned(), hint: trouble.advice })
    });
    Health {
        conditions: failed.into_iter().chain(troubles).collect(),
        orgs_not_flushing: engine.orgs_not_flushing.len(),
        orgs_in_trouble: engine.orgs_in_trouble.len(),
    }
}

#[cfg(test)]
mod tests {
    use engine::{EngineError, EngineErrorKind, Trouble};
    use storage_format::Millis;

    use super::*;

    #[test]
    fn whatever_holds_is_a_condition_without_its_error() {
        assert_eq!(health(&EngineHealth::default(), true), Health::default());
        let secret = "/srv/icecore/store/orgs/0123456789abcdef";
        let trouble = |what| {
            Some(Trouble { what, since: Millis::EPOCH, error: Some(secret.to_owned()), advice: "Look at the disk." })
        };
        let engine = EngineHealth {
            wal_full: trouble("one"),
            wal_without_file: trouble("two"),
            write_buffers_full: trouble("three"),
            store_unavailable: trouble("four"),
            orgs_not_flushing: Vec::new(),
            orgs_in_trouble: Vec::new(),
            failed: Some(EngineError::new(EngineErrorKind::Failed, secret, "look")),
        };
        let found = health(&engine, true);
        let names: Vec<_> = found.conditions.iter().map(|condition| condition.name).collect();
        let all = ["engine_failed", "wal_full", "wal_without_file", "write_buffers_full", "store_unavailable"];
        assert_eq!(names, all);
        assert!(found.conditions.iter().skip(1).all(|condition| condition.since == Some(Millis::EPOCH)));
        assert!(!format!("{found:?}").contains(secret), "{found:?}");
        let others = health(&engine, false).conditions;
        assert_eq!(others.len(), 4, "some organisations wait for memory, and the others do not: {others:?}");
        assert!(others.iter().all(|condition| condition.name != "write_buffers_full"), "{others:?}");
    }
}
