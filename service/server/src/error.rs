//! Errors as HTTP tells them: a status, and a JSON object with code, message and help.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use query::{LimitKind, QueryError};
use serde_json::json;

use problem::Problem;

/// An error as the caller sees it.
#[derive(Debug)]
pub(super) struct HttpError {
    status: StatusCode,
    code: &'static str,
    message: String,
    help: Option<&'static str>,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .help("send a token as `Authorization: Bearer ice_…`; `icecore token create --org ORG` makes one")
    }

    pub(super) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the server has as many requests as it takes")
            .help("try again in a moment")
    }

    pub(super) fn too_many(requests_max: usize) -> Self {
        let message = format!("this organisation has {requests_max} requests under way, which is the limit");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message).help("wait for one of them to end")
    }

    pub(super) fn starting() -> Self {
        let message = "the server is still recovering what was acknowledged before it started";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message).help("try again when /readyz says 200")
    }

    pub(super) fn timeout(what: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", what)
    }

    /// Something that the caller is not to blame for and learns nothing about; it is logged here.
    pub(super) fn internal(problem: &Problem) -> Self {
        tracing::error!(%problem, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server could not answer; its log says why")
    }
}

impl From<QueryError> for HttpError {
    fn from(error: QueryError) -> Self {
        let message = error.to_string();
        match error {
            QueryError::Refused(_) => Self::new(StatusCode::FORBIDDEN, "not_allowed", message)
                .help("only queries run here: SELECT, WITH, UNION, EXPLAIN"),
            QueryError::Invalid(_) => Self::new(StatusCode::BAD_REQUEST, "invalid_sql", message),
            QueryError::Limit(LimitKind::Queries { .. }) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).help("try again in a moment")
            }
            QueryError::Limit(LimitKind::Memory { .. }) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "limit", message)
                    .help("narrow the times or loggers, aggregate, or wait until more is flushed")
            }
            QueryError::Limit(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "limit", message)
                .help("narrow the times or loggers, aggregate, or use an export, which has no limit of rows"),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": {"code": self.code, "message": self.message, "help": self.help}}));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"icecore\""));
            }
            _ => {}
        }
        response
    }
}

pub(super) async fn not_found() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
        .help("try POST /api/v1/sql, GET /api/v1/export, /healthz, /readyz or /metrics")
}

pub(super) async fn method_not_allowed() -> HttpError {
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take this method")
}
