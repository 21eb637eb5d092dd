//! Bodies of requests, within their limits of size and time.

use axum::body::{Body, Bytes, to_bytes};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::HttpState;
use crate::error::{HttpError, kind};

/// Reads the whole body, until the deadline.
pub(crate) async fn read(state: &HttpState, body: Body, deadline: Instant) -> Result<Bytes, HttpError> {
    let config = &state.0.config;
    let body = to_bytes(body, config.body_bytes_max);
    match timeout_at(deadline, body).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let detail = format!("the body is longer than {} bytes, or broke off", config.body_bytes_max);
            Err(HttpError::new(&kind::TOO_LARGE, detail))
        }
        Err(_) => Err(HttpError::timeout("the body did not come in time")),
    }
}

/// Reads a JSON object. Whether its members are right is for the caller to say.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, HttpError> {
    serde_json::from_slice(bytes)
        .map_err(|error| HttpError::invalid_body(format!("the body is no JSON object: {error}")))
}
