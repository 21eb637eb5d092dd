//! Errors as HTTP reports them: problem documents by RFC 9457, each of one of the types in [`kind`].
//!
//! A handler returns an [`HttpError`]; the middleware in [`crate::request`] knows the request's id and writes the
//! document, and the log line of an error that is not the caller's. So an error is logged once, with that id.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use control::ErrorKind;
use engine::{EngineError, EngineErrorKind};
use problem::Problem;
use query::{LimitKind, QueryError, TurnRefused};
use serde::Serialize;

pub(crate) mod kind;

use crate::request::RequestId;
use kind::ErrorType;

/// After how many seconds a client should try again, where nothing better is known.
const RETRY_AFTER_S: u32 = 1;

/// After how many seconds a client should try again what the store or the engine could not do.
const ENGINE_RETRY_AFTER_S: u32 = 5;

/// A condition because of which a server is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) condition: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    pub(crate) detail: String,
    pub(crate) hint: &'static str,
}

/// An error as the caller sees it. Boxed, because errors are rare and results that can be one are many.
#[derive(Debug, Clone)]
pub(crate) struct HttpError(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    kind: &'static ErrorType,
    detail: String,
    hint: Option<Cow<'static, str>>,
    parameter: Option<String>,
    reasons: Vec<Reason>,
    retry_after_s: Option<u32>,
    allow: Option<String>,
    /// What the log gets and the caller does not.
    log: Option<Problem>,
}

impl HttpError {
    pub(crate) fn new(kind: &'static ErrorType, detail: impl Into<String>) -> Self {
        let retry_after_s = kind.tries_again().then_some(RETRY_AFTER_S);
        Self(Box::new(Parts {
            kind,
            detail: detail.into(),
            hint: None,
            parameter: None,
            reasons: Vec::new(),
            retry_after_s,
            allow: None,
            log: None,
        }))
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// A parameter of the query string, or a member of the body, that is wrong.
    pub(crate) fn invalid_parameter(name: &str, detail: impl std::fmt::Display) -> Self {
        let mut error = Self::new(&kind::INVALID_PARAMETER, format!("{name}: {detail}"));
        error.0.parameter = Some(name.to_owned());
        error
    }

    pub(crate) fn invalid_body(detail: impl Into<String>) -> Self {
        Self::new(&kind::INVALID_BODY, detail)
    }

    pub(crate) fn sign_in_required(detail: &str) -> Self {
        Self::new(&kind::SIGN_IN_REQUIRED, detail)
            .hint("send a token as `Authorization: Bearer ice_…`; `icecore token create --org ORG` makes one")
    }

    pub(crate) fn org_closed() -> Self {
        Self::new(&kind::ORG_CLOSED, "the organisation is suspended").hint("ask the operator of this server")
    }

    pub(crate) fn method_not_allowed(allow: String) -> Self {
        let mut error = Self::new(&kind::METHOD_NOT_ALLOWED, format!("this path takes {allow}"));
        error.0.allow = Some(allow);
        error
    }

    pub(crate) fn starting() -> Self {
        let detail = "the server is still recovering what was acknowledged before it started";
        Self::new(&kind::UNAVAILABLE, detail).hint("try again when /readyz answers 200")
    }

    pub(crate) fn not_ready(reasons: Vec<Reason>) -> Self {
        let mut error = Self::new(&kind::UNAVAILABLE, "the server does not take frames, or is about to stop");
        error.0.reasons = reasons;
        error
    }

    pub(crate) fn timeout(detail: &str) -> Self {
        Self::new(&kind::TIMEOUT, detail)
    }

    /// A defect: the caller is not to blame for it and learns nothing about it.
    pub(crate) fn internal(problem: Problem) -> Self {
        Self::new(&kind::INTERNAL, "the server could not answer because of a defect")
            .hint("tell the operator of this server the request's id; the log has the cause under it")
            .logged(problem)
    }

    /// Maps an error of the control data by its kind. Its message is for the caller only where the error is the caller's.
    pub(crate) fn control(error: &control::Error) -> Self {
        let log = Problem::new("a request to the control database failed").detail(error);
        match error.kind() {
            ErrorKind::NotFound => Self::new(&kind::NOT_FOUND, error.message()),
            ErrorKind::Taken => Self::new(&kind::CONFLICT, error.message()),
            ErrorKind::Invalid => Self::new(&kind::INVALID_PARAMETER, error.message()),
            ErrorKind::Forbidden => Self::new(&kind::FORBIDDEN, error.message()),
            ErrorKind::Unavailable => {
                let error = Self::new(&kind::UNAVAILABLE, "the control database does not answer");
                error.hint("try again in a moment").logged(log)
            }
            // An operator must look, so the log has it; the caller cannot do anything.
            ErrorKind::Corrupt => {
                let mut error = Self::new(&kind::UNAVAILABLE, "the control database is damaged").logged(log);
                error.0.retry_after_s = None;
                error.hint("trying again does not help until the operator of this server has acted")
            }
        }
    }

    /// The engine could not do something: unavailable, and to be tried again only where it says that this may help.
    pub(crate) fn engine(error: &EngineError, what: &str) -> Self {
        let log = Problem::new(what).detail(error);
        let (hint, retry_after_s) = match error.kind() {
            EngineErrorKind::Invalid => return Self::internal(log),
            EngineErrorKind::Retry | EngineErrorKind::Full => ("try again in a moment", Some(ENGINE_RETRY_AFTER_S)),
            _ => ("trying again does not help until the operator of this server has acted", None),
        };
        let mut error = Self::new(&kind::UNAVAILABLE, "the readings of this organisation are not available").hint(hint);
        error.0.retry_after_s = retry_after_s;
        error.logged(log)
    }

    fn logged(mut self, log: Problem) -> Self {
        self.0.log = Some(log);
        self
    }

    /// Writes the document, and the log line if there is one.
    pub(crate) fn respond(self, request_id: &RequestId) -> Response {
        if let Some(problem) = &self.0.log {
            tracing::error!(%request_id, kind = self.0.kind.word, %problem, "a request failed");
        }
        let document = Document {
            kind: self.0.kind.uri(),
            title: self.0.kind.title,
            status: self.0.kind.status,
            detail: &self.0.detail,
            hint: self.0.hint.as_deref(),
            parameter: self.0.parameter.as_deref(),
            reasons: &self.0.reasons,
            request_id: request_id.as_str(),
        };
        // The fields are texts and numbers, so this does not fail.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let status = StatusCode::from_u16(self.0.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"icecore\""));
        }
        if let Some(allow) = self.0.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

/// The members of a problem document.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Reason]>::is_empty")]
    reasons: &'a [Reason],
    request_id: &'a str,
}

impl From<TurnRefused> for HttpError {
    fn from(refused: TurnRefused) -> Self {
        match refused.is_own() {
            true => Self::new(&kind::RATE_LIMITED, refused.to_string()).hint("wait for one of them to end"),
            false => Self::new(&kind::UNAVAILABLE, refused.to_string()).hint("try again in a moment"),
        }
    }
}

impl From<QueryError> for HttpError {
    fn from(error: QueryError) -> Self {
        let detail = error.to_string();
        match error {
            QueryError::Refused(_) => {
                Self::new(&kind::FORBIDDEN, detail).hint("only queries run here: SELECT, WITH, UNION, EXPLAIN")
            }
            QueryError::Invalid(_) => Self::new(&kind::INVALID_SQL, detail),
            QueryError::Limit(LimitKind::Queries(refused)) => refused.into(),
            QueryError::Limit(LimitKind::Memory { .. }) => Self::new(&kind::QUOTA, detail)
                .hint("narrow the times or loggers, aggregate, or wait until more is flushed"),
            QueryError::Limit(_) => Self::new(&kind::QUOTA, detail)
                .hint("narrow the times or loggers, aggregate, or use an export, which has no limit of rows"),
            // The query has logged it, with what the caller must not see.
            QueryError::Engine => Self::new(&kind::UNAVAILABLE, detail),
            _ => Self::new(&kind::INTERNAL, detail),
        }
    }
}

impl IntoResponse for HttpError {
    /// Hands the error to the middleware, which knows the request's id.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests;
