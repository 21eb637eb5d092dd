//! What happens to every request, whatever its route: an id, a count, and the document of an error.

use std::fmt;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use engine::{Random, SystemRandom};
use tracing::Instrument;

use crate::error::HttpError;
use crate::{metrics, routes};

/// Names a request, so that a person can find its line in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The random id of one request: 16 hex digits.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    fn random() -> Self {
        let mut bytes = [0; 8];
        SystemRandom.fill(&mut bytes);
        Self(format!("{:016x}", u64::from_be_bytes(bytes)).into())
    }

    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives the request an id, counts it by its route, and writes the document of an error.
pub(crate) async fn handle(request: Request, next: Next) -> Response {
    let id = RequestId::random();
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // Only paths of the table become labels: others are the caller's invention, and there is no end to them.
    let route = path.and_then(routes::path).unwrap_or("other");
    let start = tokio::time::Instant::now();
    // Of the highest level, so that no filter of the log leaves the id out.
    let span = tracing::error_span!("request", request_id = %id);
    let mut response = next.run(request).instrument(span).await;
    if let Some(error) = response.extensions_mut().remove::<HttpError>() {
        response = error.respond(&id);
    }
    if let Ok(id) = HeaderValue::try_from(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    metrics::responded(route, response.status().as_u16(), start.elapsed());
    response
}
