//! `POST /api/v1/sql`: one query, as text or as JSON `{"sql": …}`; the answer in the form that `Accept` asks for.

use ::export::Format;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

use super::answer;
use super::error::HttpError;
use super::{HttpState, auth};
use problem::Problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    sql: String,
}

pub(super) async fn post(
    State(state): State<HttpState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    let org = auth::organisation(&state, &headers).await?;
    let place = state.place(org)?;
    let format = format(&headers)?;
    let sql = statement(&headers, &read_body(&state, body).await?)?;
    let patience = state.patience(state.0.config.request_time_max);
    let backend = state.backend(org, patience.time_max).await?;
    let batches = backend.query.session(org).sql(&sql).await?;
    let encoder = ::export::encoder(format, &batches.schema())
        .map_err(|error| HttpError::internal(&Problem::new("an answer cannot be encoded").detail(error)))?;
    answer::encoded(batches, encoder, place, patience).await
}

/// The whole body, within its limits of size and time.
pub(super) async fn read_body(state: &HttpState, body: Body) -> Result<Bytes, HttpError> {
    let config = &state.0.config;
    let body = to_bytes(body, config.body_bytes_max);
    match tokio::time::timeout(config.request_time_max, body).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let message = format!("the body is longer than {} bytes, or broke off", config.body_bytes_max);
            Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
        }
        Err(_) => Err(HttpError::timeout("the body did not come in time")),
    }
}

fn statement(headers: &HeaderMap, body: &[u8]) -> Result<String, HttpError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("text/plain");
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/json" => serde_json::from_slice::<SqlRequest>(body)
            .map(|request| request.sql)
            .map_err(|error| HttpError::bad_request(format!("the body is not {{\"sql\": \"…\"}}: {error}"))),
        "text/plain" | "application/sql" => {
            std::str::from_utf8(body).map(str::to_owned).map_err(|_| HttpError::bad_request("the body is not UTF-8"))
        }
        // `curl -d` says this of everything.
        "application/x-www-form-urlencoded" => Err(HttpError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body is sent as a web form",
        )
        .help("with curl: -H 'Content-Type: text/plain' --data-binary 'SELECT …'")),
        _ => Err(HttpError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must be text/plain with the SQL, or application/json with {\"sql\": \"…\"}",
        )),
    }
}

/// The form asked for; JSON if nothing is said. Of several the first known one counts, whatever its weight.
fn format(headers: &HeaderMap) -> Result<Format, HttpError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    for range in accept.split(',') {
        match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/vnd.apache.arrow.stream" => return Ok(Format::Arrow),
            "text/csv" => return Ok(Format::Csv),
            "application/json" | "application/*" | "*/*" | "" => return Ok(Format::Json),
            "application/x-ndjson" | "application/jsonl" => return Ok(Format::JsonLines),
            _ => {}
        }
    }
    Err(HttpError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", "no form of answer in Accept is known here")
        .help("Accept: application/json, application/x-ndjson, text/csv or application/vnd.apache.arrow.stream"))
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
