//! Responses over a real socket: one that is not whole does not look so, and none is in flight for ever.

use axum::Router;
use axum::routing::get;
use futures::stream;
use query::{QueryLimits, Turns};
use storage_format::OrgId;

use super::*;

/// Turns with one request, which has none to spare.
fn full() -> (Turns, InFlight) {
    let turns = Turns::new(&QueryLimits { requests_max: 1, ..QueryLimits::default() });
    let in_flight = turns.enter(org()).expect("room");
    (turns, in_flight)
}

fn org() -> OrgId {
    OrgId::new(1).expect("an id")
}

fn patience(time_max: Duration, stall_max: Duration) -> Patience {
    Patience { deadline: Instant::now() + time_max, stall_max }
}

type Item = Result<Bytes, QueryError>;

fn rows() -> Item {
    Ok(Bytes::from_static(b"1,21.79\n"))
}

/// What an HTTP client gets for such bytes: the status and the body, or `None` when the body was cut off.
async fn fetch(items: fn() -> Vec<Item>, then_hang: bool) -> (u16, Option<String>) {
    let handler = move || async move {
        let hang = if then_hang { stream::pending().boxed() } else { stream::empty().boxed() };
        let encoded = stream::iter(items()).chain(hang);
        let patience = patience(Duration::from_millis(300), Duration::from_secs(60));
        // The status alone: the document is the middleware's.
        stream("text/csv", Box::pin(encoded), full().1, patience, std::future::pending()).await
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(handler))).await });
    let response = reqwest::get(format!("http://{addr}/")).await.expect("a status");
    (response.status().as_u16(), response.text().await.ok())
}

#[tokio::test]
async fn what_ends_well_is_whole() {
    let two = || vec![rows(), rows()];
    assert_eq!(fetch(two, false).await, (200, Some("1,21.79\n1,21.79\n".to_owned())));
    let nothing = || Vec::new();
    assert_eq!(fetch(nothing, false).await, (200, Some(String::new())));
}

#[tokio::test]
async fn an_error_before_the_first_row_has_a_status() {
    let failed = || vec![Err(QueryError::Invalid("no such column".to_owned()))];
    let (status, _) = fetch(failed, false).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn an_error_after_it_cuts_the_body() {
    let failed = || vec![rows(), Err(QueryError::Engine)];
    assert_eq!(fetch(failed, false).await, (200, None));
    let slow = || vec![rows()];
    assert_eq!(fetch(slow, true).await, (200, None), "time is over");
    let never = || Vec::new();
    assert_eq!(fetch(never, true).await.0, 408);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_not_in_flight_any_more() {
    let (turns, in_flight) = full();
    let patience = patience(Duration::from_secs(4 * 3600), Duration::from_millis(100));
    let answer = super::stream("text/csv", stream::repeat_with(rows), in_flight, patience, std::future::pending())
        .await
        .expect("begun");
    let freed = async {
        while turns.enter(org()).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), freed).await.expect("long before the response's time is over");
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

#[tokio::test]
async fn a_running_response_ends_with_its_token() {
    let patience = patience(Duration::from_secs(4 * 3600), Duration::from_secs(3600));
    let (revoke, revoked) = tokio::sync::oneshot::channel::<()>();
    let rejected = async { revoked.await.expect("the test revokes") };
    let response =
        super::stream("text/csv", stream::repeat_with(rows), full().1, patience, rejected).await.expect("begun");
    let read = tokio::spawn(axum::body::to_bytes(response.into_body(), 1 << 40));
    revoke.send(()).expect("the response runs");
    let read = tokio::time::timeout(Duration::from_secs(30), read).await.expect("long before its time is over");
    assert!(read.expect("no panic").is_err(), "a response that is cut off does not look complete");
}
