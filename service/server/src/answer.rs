//! Responses that stream: encoded bytes are passed on as they come, in a task that ends when the reader goes away or
//! stalls, when its time is over, or when the response does. Queries and encoders run elsewhere, on the query's threads.
//!
//! An error after the first byte cannot be a status any more: the body is cut without its proper end, which every HTTP
//! client reports.

use std::io;
use std::time::Duration;

use ::export::Encoder;
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use query::{Encode, InFlight, QueryError, QueryStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::error::HttpError;

/// Pieces of the response that wait for a slow reader.
const CHUNKS_AHEAD: usize = 16;

/// The largest piece, in bytes. Small, so that a reader that is slow takes one in time and is not held to be stalled.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Encoded bytes as they come; a [`query::EncodedStream`], or what a test has instead.
pub(super) trait Encoded: Stream<Item = Result<Bytes, QueryError>> + Send + Unpin + 'static {}

impl<S: Stream<Item = Result<Bytes, QueryError>> + Send + Unpin + 'static> Encoded for S {}

/// An encoder of this crate's choice, as the query's threads drive it.
struct OnWorkers(Box<dyn Encoder>);

impl Encode for OnWorkers {
    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.0.encode(batch)
    }

    fn finish(&mut self) -> Result<Vec<u8>, ArrowError> {
        self.0.finish()
    }
}

/// How long a response may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// When all of it must have been sent.
    pub(super) deadline: Instant,
    /// How long the reader may take nothing.
    pub(super) stall_max: Duration,
}

/// The response to a query, in the form that an encoder gives it. It is cut off when `rejected` completes.
pub(super) async fn encoded(
    batches: QueryStream,
    encoder: Box<dyn Encoder>,
    in_flight: InFlight,
    patience: Patience,
    rejected: impl Future<Output = ()> + Send + 'static,
) -> Result<Response, HttpError> {
    let content_type = encoder.content_type();
    stream(content_type, batches.encode(OnWorkers(encoder)), in_flight, patience, rejected).await
}

/// The response with these bytes. An error before the first of them has a status.
async fn stream(
    content_type: &'static str,
    mut encoded: impl Encoded,
    in_flight: InFlight,
    Patience { deadline, stall_max }: Patience,
    rejected: impl Future<Output = ()> + Send + 'static,
) -> Result<Response, HttpError> {
    let first = timeout_at(deadline, encoded.next()).await;
    let first = first.map_err(|_| HttpError::timeout("the answer took longer than a request may"))?;
    let content_type = [(header::CONTENT_TYPE, content_type)];
    let Some(head) = first.transpose()? else { return Ok(content_type.into_response()) };
    let (chunks, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_AHEAD);
    let task = async move {
        let work = pass_on(encoded, head, &chunks, stall_max);
        let done = tokio::select! {
            done = timeout_at(deadline, work) => done.unwrap_or_else(|_| Err("it took longer than it may".to_owned())),
            () = rejected => Err("its token is no longer valid, or its organisation is suspended".to_owned()),
        };
        if let Err(why) = done {
            tracing::warn!(why, "an answer was cut off");
            let cut = tokio::time::timeout(Duration::from_secs(1), chunks.send(Err(io::Error::other("cut off"))));
            // A reader that takes nothing finds the channel closed instead, and its connection is closed with it.
            let _ = cut.await;
        }
        drop(in_flight);
    };
    // With the request's id.
    tokio::spawn(task.instrument(tracing::Span::current()));
    let chunks = futures::stream::unfold((receiver, false), |(mut receiver, ended)| async move {
        if ended {
            return None;
        }
        match receiver.recv().await {
            Some(Ok(chunk)) if chunk.is_empty() => None,
            Some(Ok(chunk)) => Some((Ok(chunk), (receiver, false))),
            Some(Err(error)) => Some((Err(error), (receiver, true))),
            // The task went away without the empty chunk that ends an answer.
            None => Some((Err(io::Error::other("cut off")), (receiver, true))),
        }
    });
    Ok((content_type, Body::from_stream(chunks)).into_response())
}

/// Sends all bytes; an empty chunk says that the response is whole.
async fn pass_on(
    mut encoded: impl Encoded,
    head: Bytes,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
    stall_max: Duration,
) -> Result<(), String> {
    let mut next: Option<Result<Bytes, QueryError>> = Some(Ok(head));
    while let Some(bytes) = next {
        send(bytes.map_err(|error| error.to_string())?, chunks, stall_max).await?;
        next = encoded.next().await;
    }
    send_one(Bytes::new(), chunks, stall_max).await
}

/// Sends bytes in pieces, none of them empty: an empty one would say "whole".
async fn send(mut bytes: Bytes, chunks: &mpsc::Sender<io::Result<Bytes>>, stall_max: Duration) -> Result<(), String> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
        send_one(piece, chunks, stall_max).await?;
    }
    Ok(())
}

/// Sends one piece. A reader that takes nothing holds a query's turn, and memory, so it is not waited for without end.
async fn send_one(piece: Bytes, chunks: &mpsc::Sender<io::Result<Bytes>>, stall_max: Duration) -> Result<(), String> {
    match tokio::time::timeout(stall_max, chunks.send(Ok(piece))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the reader went away".to_owned()),
        Err(_) => Err("the reader took nothing for too long".to_owned()),
    }
}

#[cfg(test)]
mod tests;
