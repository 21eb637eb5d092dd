//! `GET` or `POST /api/v1/export`: all readings of a range of time and of some loggers, as one CSV stream.
//!
//! Parameters, in the query string or as JSON: `from` (inclusive) and `to` (exclusive) in RFC 3339, `logger` (as often
//! as there are loggers), `format`, which is `csv`.

use ::export::CsvEncoder;
use ::query::{ExportRequest, InFlight, TurnKind};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, Request};
use axum::response::Response;
use problem::Problem;
use serde_json::Value;
use storage_format::{LoggerId, Millis, TimeRange};
use tokio::time::Instant;

use crate::answer::Patience;
use crate::auth::Caller;
use crate::error::HttpError;
use crate::{HttpState, answer, body};

/// The parameters as they came, from the query string or from a JSON object.
#[derive(Debug, Default)]
struct Parameters {
    from: Option<String>,
    to: Option<String>,
    logger: Vec<String>,
    format: Option<String>,
}

impl Parameters {
    fn set(&mut self, name: &str, value: String) -> Result<(), HttpError> {
        let only = match name {
            "from" => &mut self.from,
            "to" => &mut self.to,
            "format" => &mut self.format,
            "logger" => {
                self.logger.push(value);
                return Ok(());
            }
            _ => {
                let detail = "there is no such parameter; there are from, to, logger and format";
                return Err(HttpError::invalid_parameter(name, detail));
            }
        };
        match only.replace(value) {
            None => Ok(()),
            Some(_) => Err(HttpError::invalid_parameter(name, "it is given twice; only logger can be")),
        }
    }

    fn from_json(body: &[u8]) -> Result<Self, HttpError> {
        let mut parameters = Self::default();
        if body.is_empty() {
            return Ok(parameters);
        }
        for (name, value) in body::object(body)? {
            let values = match value {
                Value::Null => Vec::new(),
                Value::Array(values) if name == "logger" => values,
                value => vec![value],
            };
            for value in values {
                let Value::String(text) = value else {
                    return Err(HttpError::invalid_parameter(&name, "it is no text"));
                };
                parameters.set(&name, text)?;
            }
        }
        Ok(parameters)
    }
}

pub(crate) async fn get(state: HttpState, caller: Caller, request: Request) -> Result<Response, HttpError> {
    let begun = Begun::now(&state, &caller)?;
    let (mut parts, _) = request.into_parts();
    let pairs: Result<Query<Vec<(String, String)>>, QueryRejection> = Query::from_request_parts(&mut parts, &()).await;
    let Query(pairs) = pairs.map_err(|error| HttpError::invalid_parameter("query string", error))?;
    let mut parameters = Parameters::default();
    for (name, value) in pairs {
        parameters.set(&name, value)?;
    }
    export(&state, caller, &parameters, begun).await
}

pub(crate) async fn post(state: HttpState, caller: Caller, request: Request) -> Result<Response, HttpError> {
    let begun = Begun::now(&state, &caller)?;
    let (parts, body) = request.into_parts();
    body::only_parameters(&parts.uri)?;
    let body = body::read(&state, &parts.headers, body, begun.deadline(&state)).await?;
    export(&state, caller, &Parameters::from_json(&body)?, begun).await
}

/// An export from its arrival on.
struct Begun {
    at: Instant,
    in_flight: InFlight,
}

impl Begun {
    fn now(state: &HttpState, caller: &Caller) -> Result<Self, HttpError> {
        Ok(Self { at: Instant::now(), in_flight: state.enter(caller.org)? })
    }

    /// When it must be running: it may take long, but not to begin.
    fn deadline(&self, state: &HttpState) -> Instant {
        self.at + state.0.config.request_time_max
    }
}

async fn export(
    state: &HttpState,
    caller: Caller,
    parameters: &Parameters,
    begun: Begun,
) -> Result<Response, HttpError> {
    let request = request(parameters)?;
    let deadline = begun.deadline(state);
    let backend = state.backend(caller.org, deadline).await?;
    let turn = state.turn(&begun.in_flight, TurnKind::Export, deadline).await?;
    let batches = backend.query.session(caller.org).export_in(turn, request).await?;
    let encoder = CsvEncoder::new(&batches.schema(), batches.channels())
        .map_err(|error| HttpError::internal(Problem::new("an export cannot be encoded").detail(error)))?;
    let config = &state.0.config;
    let patience = Patience { deadline: begun.at + config.export_time_max, stall_max: config.stall_timeout };
    answer::encoded(batches, Box::new(encoder), begun.in_flight, patience, caller.rejected(state.clone())).await
}

fn request(parameters: &Parameters) -> Result<ExportRequest, HttpError> {
    if let Some(format) = parameters.format.as_deref().filter(|format| *format != "csv") {
        return Err(HttpError::invalid_parameter("format", format!("there is no format {format:?}; there is csv")));
    }
    let time = |name: &str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        text.parse().map(Some).map_err(|error| {
            let error = HttpError::invalid_parameter(name, error);
            // In a query string, `+` stands for a space.
            match text.replace(' ', "+").parse::<Millis>() {
                Ok(_) => error.hint("in a URL, send the `+` of a zone as `%2B`, or give the time in UTC, with Z"),
                Err(_) => error,
            }
        })
    };
    let (from, to) = (time("from", &parameters.from)?, time("to", &parameters.to)?);
    let range = match (from, to) {
        (None, None) => None,
        // Later than every reading: the end of a range is not in it.
        (from, to) => {
            let range = TimeRange::new(from.unwrap_or(Millis::MIN), to.unwrap_or(Millis::MAX));
            Some(range.map_err(|error| HttpError::invalid_parameter("to", error))?)
        }
    };
    let loggers: Result<Vec<LoggerId>, _> =
        parameters.logger.iter().flat_map(|list| list.split(',')).map(|text| text.trim().parse()).collect();
    let loggers = loggers.map_err(|error| HttpError::invalid_parameter("logger", error))?;
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

    #[test]
    fn parameters_as_json() {
        let of = |text: &str| Parameters::from_json(text.as_bytes()).ok();
        let both = of(r#"{"from": "2024-01-01T00:00:00Z", "to": null, "logger": ["1", "2"]}"#).expect("fine");
        assert_eq!((both.from.as_deref(), both.to, both.logger.len()), (Some("2024-01-01T00:00:00Z"), None, 2));
        assert_eq!(of("").map(|parameters| parameters.logger), Some(Vec::new()));
        assert_eq!(of(r#"{"logger": "1"}"#).map(|parameters| parameters.logger.len()), Some(1));
        for bad in [
            "[]",
            "{",
            r#"{"org": "7"}"#,
            r#"{"to": null, "to": null}"#,
            r#"{"from": 7}"#,
            r#"{"from": ["x"]}"#,
            r#"{"logger": [7]}"#,
        ] {
            assert!(of(bad).is_none(), "{bad}");
        }
    }
}
