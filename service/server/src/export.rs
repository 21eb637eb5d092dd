//! `GET` or `POST /api/v1/export`: all readings of a range of time and of some loggers, as one CSV stream.
//!
//! Parameters, in the query string or as JSON: `from` (inclusive) and `to` (exclusive) in RFC 3339, `logger` (as often
//! as there are loggers), `format`, which is `csv`.

use ::query::ExportRequest;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use storage_format::{LoggerId, Millis, TimeRange};

use super::answer;
use super::error::HttpError;
use super::{HttpState, auth, sql};
use ::export::CsvEncoder;
use problem::Problem;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    from: Option<String>,
    to: Option<String>,
    logger: Vec<String>,
    format: Option<String>,
}

pub(super) async fn get(
    State(state): State<HttpState>,
    headers: HeaderMap,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, HttpError> {
    let Query(pairs) = pairs.map_err(|error| HttpError::bad_request(error.to_string()))?;
    let mut parameters = Parameters::default();
    for (name, value) in pairs {
        match name.as_str() {
            "from" => parameters.from = Some(value),
            "to" => parameters.to = Some(value),
            "logger" => parameters.logger.push(value),
            "format" => parameters.format = Some(value),
            _ => return Err(HttpError::bad_request(format!("there is no parameter {name:?}"))),
        }
    }
    export(&state, &headers, &parameters).await
}

pub(super) async fn post(
    State(state): State<HttpState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    // Asked first, so that nobody unknown makes the server hold a body.
    auth::organisation(&state, &headers).await?;
    let body = sql::read_body(&state, body).await?;
    let parameters = match body.is_empty() {
        true => Parameters::default(),
        false => serde_json::from_slice(&body).map_err(|error| HttpError::bad_request(error.to_string()))?,
    };
    export(&state, &headers, &parameters).await
}

async fn export(state: &HttpState, headers: &HeaderMap, parameters: &Parameters) -> Result<Response, HttpError> {
    let org = auth::organisation(state, headers).await?;
    let place = state.place(org)?;
    let request = request(parameters)?;
    let backend = state.backend(org, state.0.config.request_time_max).await?;
    let batches = backend.query.session(org).export(request).await?;
    let encoder = CsvEncoder::new(&batches.schema(), batches.channels())
        .map_err(|error| HttpError::internal(&Problem::new("an export cannot be encoded").detail(error)))?;
    answer::encoded(batches, Box::new(encoder), place, state.patience(state.0.config.export_time_max)).await
}

fn request(parameters: &Parameters) -> Result<ExportRequest, HttpError> {
    if let Some(format) = parameters.format.as_deref().filter(|format| *format != "csv") {
        return Err(HttpError::bad_request(format!("there is no export format {format:?}; there is csv")));
    }
    let time = |name: &str, text: &Option<String>| {
        let time = text.as_deref().map(str::parse::<Millis>).transpose();
        time.map_err(|error| HttpError::bad_request(format!("{name}: {error}")))
    };
    let (from, to) = (time("from", &parameters.from)?, time("to", &parameters.to)?);
    let range = match (from, to) {
        (None, None) => None,
        // Later than every reading: the end of a range is not in it.
        (from, to) => {
            let range = TimeRange::new(from.unwrap_or(Millis::MIN), to.unwrap_or(Millis::MAX));
            Some(range.map_err(|error| HttpError::bad_request(error.to_string()))?)
        }
    };
    let loggers: Result<Vec<LoggerId>, _> =
        parameters.logger.iter().flat_map(|list| list.split(',')).map(|text| text.trim().parse()).collect();
    let loggers = loggers.map_err(|error| HttpError::bad_request(format!("logger: {error}")))?;
    Ok(ExportRequest { range, loggers: (!loggers.is_empty()).then_some(loggers) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(from: Option<&str>, to: Option<&str>, logger: &[&str], format: Option<&str>) -> Option<ExportRequest> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let logger = logger.iter().map(|text| (*text).to_owned()).collect();
        request(&Parameters { from: owned(from), to: owned(to), logger, format: owned(format) }).ok()
    }

    #[test]
    fn parameters() {
        assert_eq!(of(None, None, &[], None), Some(ExportRequest::default()));
        let some = of(Some("2024-01-01T00:00:00Z"), None, &["00124B0000000001,00124B0000000002"], Some("csv"));
        let some = some.expect("fine");
        assert_eq!(some.loggers.map(|loggers| loggers.len()), Some(2));
        assert_eq!(some.range.map(|range| range.end()), Some(Millis::MAX));
        assert_eq!(of(Some("2024-01-01"), None, &[], None), None);
        assert_eq!(of(Some("2024-01-02T00:00:00Z"), Some("2024-01-01T00:00:00Z"), &[], None), None);
        assert_eq!(of(None, None, &["7"], None), None);
        assert_eq!(of(None, None, &[], Some("xlsx")), None);
    }
}
