//! `POST /api/v1/sql`: one query, as text or as JSON `{"sql": …}`; the answer in the form that `Accept` asks for.

use ::export::Format;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use problem::Problem;
use query::TurnKind;
use serde_json::Value;
use tokio::time::Instant;

use crate::answer::Patience;
use crate::auth::Caller;
use crate::error::{HttpError, kind};
use crate::{HttpState, accept, answer, body};

pub(crate) async fn post(state: HttpState, caller: Caller, request: Request) -> Result<Response, HttpError> {
    let deadline = Instant::now() + state.0.config.request_time_max;
    let in_flight = state.enter(caller.org)?;
    let (parts, body) = request.into_parts();
    body::only_parameters(&parts.uri)?;
    let format = format(&parts.headers)?;
    let sql = statement(&parts.headers, &body::read(&state, &parts.headers, body, deadline).await?)?;
    let backend = state.backend(caller.org, deadline).await?;
    let turn = state.turn(&in_flight, TurnKind::Query, deadline).await?;
    let batches = backend.query.session(caller.org).sql_in(turn, &sql).await?;
    let encoder = ::export::encoder(format, &batches.schema())
        .map_err(|error| HttpError::internal(Problem::new("a result cannot be encoded").detail(error)))?;
    let patience = Patience { deadline, stall_max: state.0.config.stall_timeout };
    answer::encoded(batches, encoder, in_flight, patience, caller.rejected(state)).await
}

fn statement(headers: &HeaderMap, body: &[u8]) -> Result<String, HttpError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("text/plain");
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let unsupported = |detail| HttpError::new(&kind::UNSUPPORTED_MEDIA_TYPE, detail);
    match media_type.as_str() {
        "application/json" => member(body),
        "text/plain" | "application/sql" => {
            std::str::from_utf8(body).map(str::to_owned).map_err(|_| HttpError::invalid_body("the body is not UTF-8"))
        }
        // `curl -d` says this of everything.
        "application/x-www-form-urlencoded" => Err(unsupported("the body is sent as a web form")
            .hint("with curl: -H 'Content-Type: text/plain' --data-binary 'SELECT …'")),
        _ => Err(unsupported("the body must be text/plain with the SQL, or application/json with {\"sql\": \"…\"}")),
    }
}

/// The statement in a JSON object `{"sql": …}`.
fn member(body: &[u8]) -> Result<String, HttpError> {
    let mut object = body::object(body)?;
    let sql = object.remove("sql");
    if let Some(name) = object.keys().next() {
        return Err(HttpError::invalid_parameter(name, "there is no such parameter; there is sql"));
    }
    match sql {
        Some(Value::String(sql)) => Ok(sql),
        Some(_) => Err(HttpError::invalid_parameter("sql", "it is no text")),
        None => Err(HttpError::invalid_parameter("sql", "it is missing")),
    }
}

/// What a result can be given as, by media type; the first is given to whoever does not ask.
const FORMATS: [(&str, Format); 5] = [
    ("application/json", Format::Json),
    ("application/x-ndjson", Format::JsonLines),
    ("application/jsonl", Format::JsonLines),
    ("text/csv", Format::Csv),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
];

/// The form asked for.
fn format(headers: &HeaderMap) -> Result<Format, HttpError> {
    accept::choose(headers, &FORMATS).ok_or_else(|| {
        HttpError::new(&kind::NOT_ACCEPTABLE, "no media type that Accept allows is available")
            .hint("Accept: application/json, application/x-ndjson, text/csv or application/vnd.apache.arrow.stream")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn accept_decides_the_form() {
        let of = |accept| format(&headers(header::ACCEPT, accept)).ok();
        assert_eq!(of("text/csv"), Some(Format::Csv));
        assert_eq!(of("text/html, application/json;q=0.9, */*;q=0.8"), Some(Format::Json));
        assert_eq!(of("application/vnd.apache.arrow.stream"), Some(Format::Arrow));
        assert_eq!(of("application/x-ndjson"), Some(Format::JsonLines));
        assert_eq!(of("image/png"), None);
        assert_eq!(of("application/json;q=0.5, text/csv"), Some(Format::Csv));
        assert_eq!(of("application/json;q=0"), None);
        assert_eq!(format(&HeaderMap::new()).ok(), Some(Format::Json));
    }

    #[test]
    fn a_statement_comes_as_text_or_json() {
        let of =
            |content_type, body: &str| statement(&headers(header::CONTENT_TYPE, content_type), body.as_bytes()).ok();
        assert_eq!(of("text/plain; charset=utf-8", "SELECT 1").as_deref(), Some("SELECT 1"));
        assert_eq!(of("application/json", r#"{"sql": "SELECT 1"}"#).as_deref(), Some("SELECT 1"));
        assert_eq!(of("application/json", r#"{"sql": "SELECT 1", "org": 7}"#), None);
        assert_eq!(of("application/json", "SELECT 1"), None);
        assert_eq!(of("application/x-www-form-urlencoded", "SELECT 1"), None);
        assert_eq!(statement(&HeaderMap::new(), b"SELECT 1").ok().as_deref(), Some("SELECT 1"));
        assert!(statement(&HeaderMap::new(), b"\xff").is_err());
    }
}
