//! Answers over a real socket: every form is whole, and one that is not whole does not look so.

use std::sync::Arc;

use ::export::{Format, encoder};
use arrow::array::{Float64Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use axum::Router;
use axum::routing::get;
use futures::stream;
use storage_format::OrgId;
use tokio::sync::Semaphore;

use super::*;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("logger", DataType::UInt64, false),
        Field::new("temperature", DataType::Float64, true),
    ]))
}

fn batch(first: u64) -> RecordBatch {
    let loggers = UInt64Array::from_iter_values(first..first + 2);
    let temperatures = Float64Array::from(vec![Some(21.79), None]);
    RecordBatch::try_new(schema(), vec![Arc::new(loggers), Arc::new(temperatures)]).expect("a batch")
}

fn place() -> Place {
    let request = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
    Place { _request: request, org: OrgId::new(1).expect("an id"), per_org: Arc::default() }
}

type Item = Result<RecordBatch, QueryError>;

/// What an HTTP client gets for such batches: the status and the body, or `None` when the body was cut off.
async fn fetch(format: Format, items: fn() -> Vec<Item>, then_hang: bool) -> (u16, Option<String>) {
    let handler = move || async move {
        let hang = if then_hang { stream::pending().boxed() } else { stream::empty().boxed() };
        let batches = stream::iter(items()).chain(hang);
        let encoder = encoder(format, &schema()).map_err(|error| HttpError::bad_request(error.to_string()))?;
        stream(schema(), Box::pin(batches), encoder, place(), Duration::from_millis(300), Duration::from_secs(60)).await
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(handler))).await });
    let response = reqwest::get(format!("http://{addr}/")).await.expect("a status");
    (response.status().as_u16(), response.text().await.ok())
}

#[tokio::test]
async fn every_form_is_whole() {
    let two = || vec![Ok(batch(1)), Ok(batch(3))];
    let (status, csv) = fetch(Format::Csv, two, false).await;
    assert_eq!((status, csv.as_deref()), (200, Some("logger,temperature\n1,21.79\n2,\n3,21.79\n4,\n")));
    let (_, json) = fetch(Format::Json, two, false).await;
    let json: serde_json::Value = serde_json::from_str(&json.expect("whole")).expect("JSON");
    assert_eq!(json[1], serde_json::json!({"logger": 2, "temperature": null}));
    assert_eq!(json.as_array().map(Vec::len), Some(4));
    let (_, lines) = fetch(Format::JsonLines, two, false).await;
    assert_eq!(lines.expect("whole").lines().count(), 4);
    let nothing = || Vec::new();
    assert_eq!(fetch(Format::Csv, nothing, false).await, (200, Some("logger,temperature\n".to_owned())));
    assert_eq!(fetch(Format::Json, nothing, false).await, (200, Some("[]".to_owned())));
}

#[tokio::test]
async fn an_error_before_the_first_row_has_a_status() {
    let failed = || vec![Err(QueryError::Invalid("no such column".to_owned()))];
    let (status, body) = fetch(Format::Csv, failed, false).await;
    assert_eq!(status, 400);
    assert!(body.expect("a body").contains("no such column"));
}

#[tokio::test]
async fn an_error_after_it_cuts_the_body() {
    for format in [Format::Csv, Format::Json, Format::JsonLines, Format::Arrow] {
        let failed = || vec![Ok(batch(1)), Err(QueryError::Engine)];
        assert_eq!(fetch(format, failed, false).await, (200, None), "{format:?}");
    }
    let slow = || vec![Ok(batch(1))];
    assert_eq!(fetch(Format::Csv, slow, true).await, (200, None), "time is over");
    let never = || Vec::new();
    assert_eq!(fetch(Format::Csv, never, true).await.0, 408);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_gives_its_place_back() {
    let places = Arc::new(Semaphore::new(1));
    let request = Arc::clone(&places).try_acquire_owned().expect("a permit");
    let place = Place { _request: request, org: OrgId::new(1).expect("an id"), per_org: Arc::default() };
    let batches = stream::repeat_with(|| Ok(batch(1)));
    let encoder = encoder(Format::Csv, &schema()).expect("an encoder");
    let (hours, stall_max) = (Duration::from_secs(4 * 3600), Duration::from_millis(100));
    let answer = super::stream(schema(), batches, encoder, place, hours, stall_max).await.expect("begun");
    let freed = tokio::time::timeout(Duration::from_secs(30), places.acquire()).await;
    drop(freed.expect("long before the answer's time is over").expect("open"));
    let rest = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
    assert!(rest.is_err(), "what is cut off does not look whole");
}

#[tokio::test]
async fn a_large_batch_goes_out_in_pieces() {
    let (chunks, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
    let bytes = Bytes::from(vec![7; 2 * CHUNK_BYTES_MAX + 1]);
    send(bytes, &chunks, Duration::from_secs(1)).await.expect("room");
    drop(chunks);
    let mut sizes = Vec::new();
    while let Some(piece) = receiver.recv().await {
        sizes.push(piece.expect("bytes").len());
    }
    assert_eq!(sizes, [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, 1]);
}
