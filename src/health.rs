//! What keeps the server from taking frames, from the engine's health, for `/readyz`.
//!
//! Nothing here repeats the text of an error, because `/readyz` needs no token; the log has it.

use std::sync::Arc;

use engine::Engine;
use server::{Condition, Health, HealthCheck};

/// A check of this engine.
pub(crate) fn check(engine: Arc<Engine>) -> HealthCheck {
    HealthCheck::new(move || health(&engine))
}

fn health(engine: &Engine) -> Health {
    let health = engine.health();
    let failed = health.failed.is_some().then(|| Condition {
        name: "engine_failed",
        since: None,
        detail: "the engine has stopped".to_owned(),
        hint: "look at the log, then start again",
    });
    let troubles = health.conditions().into_iter().filter_map(|(name, trouble)| {
        trouble.map(|trouble| Condition {
            name,
            since: Some(trouble.since),
            detail: trouble.what.to_owned(),
            hint: trouble.advice,
        })
    });
    Health {
        conditions: failed.into_iter().chain(troubles).collect(),
        orgs_not_flushing: health.orgs_not_flushing.len(),
    }
}
