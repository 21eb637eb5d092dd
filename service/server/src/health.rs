//! For operators and their tools: is the process alive, is it ready, and what does it count.
//!
//! None of this needs a token, so none of it names an organisation or repeats an error's text, which can have paths.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use storage_format::Millis;

use crate::HttpState;
use crate::error::{HttpError, Reason};

/// A condition because of which frames are not taken, or soon will not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// A name for programs, such as `wal_full`.
    pub name: &'static str,
    /// Since when, if that is known.
    pub since: Option<Millis>,
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// What is wrong with a server that has recovered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// While there is one, the server is not ready.
    pub conditions: Vec<Condition>,
    /// Organisations whose last flush failed. They do not make the server unready: others are served.
    pub orgs_not_flushing: usize,
    /// Organisations whose stored data is damaged or missing. Nor do they: others are served.
    pub orgs_in_trouble: usize,
}

/// Reads the health without waiting for anything. The program makes one from what it has started.
#[derive(Clone)]
pub struct HealthCheck(Arc<dyn Fn() -> Health + Send + Sync>);

impl HealthCheck {
    /// A check that calls this.
    pub fn new(check: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    fn check(&self) -> Health {
        (self.0)()
    }
}

impl fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HealthCheck")
    }
}

/// The health, or `None` while the server still recovers.
fn health(state: &HttpState) -> Option<Health> {
    state.0.backend.borrow().as_ref().map(|backend| backend.health.check())
}

/// Alive: the process answers.
pub(crate) async fn live() -> Result<Response, HttpError> {
    Ok("ok\n".into_response())
}

/// Ready: everything acknowledged before the start can be queried, and frames are taken.
pub(crate) async fn ready(state: HttpState) -> Result<Response, HttpError> {
    readiness(health(&state))
}

fn readiness(health: Option<Health>) -> Result<Response, HttpError> {
    let health = health.ok_or_else(HttpError::starting)?;
    if health.conditions.is_empty() {
        let Health { orgs_not_flushing, orgs_in_trouble, .. } = health;
        let ready = json!({"ready": true, "orgs_not_flushing": orgs_not_flushing, "orgs_in_trouble": orgs_in_trouble});
        return Ok(Json(ready).into_response());
    }
    let reason = |condition: Condition| Reason {
        condition: condition.name,
        since: condition.since.map(|since| since.to_string()),
        detail: condition.detail,
        hint: condition.hint,
    };
    Err(HttpError::not_ready(health.conditions.into_iter().map(reason).collect()))
}

/// Everything that is counted, as Prometheus reads it.
pub(crate) async fn metrics(state: HttpState) -> Result<Response, HttpError> {
    let health = health(&state);
    let is_ready = health.is_some_and(|health| health.conditions.is_empty());
    crate::metrics::now(&state.0.turns, is_ready);
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((content_type, (state.0.metrics)()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestId;

    async fn body(response: Response) -> serde_json::Value {
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[tokio::test]
    async fn ready_means_recovered_and_taking_frames() {
        let refused = |health| readiness(health).err().map(|error| error.respond(&RequestId::of("0")));
        let starting = refused(None).expect("refused");
        assert_eq!(starting.status(), 503);
        assert!(body(starting).await.get("reasons").is_none());

        let organisations = Health { orgs_not_flushing: 3, orgs_in_trouble: 2, ..Health::default() };
        let response = readiness(Some(organisations)).expect("ready, whatever an organisation is like");
        assert_eq!(body(response).await, json!({"ready": true, "orgs_not_flushing": 3, "orgs_in_trouble": 2}));

        let full = Condition {
            name: "wal_full",
            since: Some(Millis::EPOCH),
            detail: "the WAL is full".to_owned(),
            hint: "see why nothing is flushed",
        };
        let unready = refused(Some(Health { conditions: vec![full], ..Health::default() })).expect("refused");
        assert_eq!(unready.status(), 503);
        assert!(unready.headers().contains_key(header::RETRY_AFTER));
        let document = body(unready).await;
        assert_eq!(document["type"], "/problems/unavailable");
        let reason = json!({
            "condition": "wal_full",
            "since": Millis::EPOCH.to_string(),
            "detail": "the WAL is full",
            "hint": "see why nothing is flushed",
        });
        assert_eq!(document["reasons"], json!([reason]));
    }
}
