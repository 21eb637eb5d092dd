//! For operators and their tools: is the process alive, is it ready, and what does it count.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::HttpState;
use super::error::HttpError;

/// Alive: the process answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Ready: everything acknowledged before the start can be asked for.
pub(super) async fn ready(State(state): State<HttpState>) -> Response {
    let ready = state.0.backend.borrow().is_some();
    if ready { (StatusCode::OK, "ready\n").into_response() } else { HttpError::starting().into_response() }
}

/// Everything that is counted, as Prometheus reads it.
pub(super) async fn metrics(State(state): State<HttpState>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, (state.0.metrics)()).into_response()
}
