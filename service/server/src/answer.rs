//! Answers that stream: batches are encoded as they come, in a task that ends when the reader goes away or stalls, when
//! its time is over, or when the answer does.
//!
//! An error after the first byte cannot be a status any more: the body is cut without its proper end, which every HTTP
//! client reports.

use std::io;
use std::time::Duration;

use ::export::Encoder;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use problem::Problem;
use query::QueryError;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Place;
use super::error::HttpError;

/// Pieces of the answer that wait for a slow reader.
const CHUNKS_AHEAD: usize = 16;

/// The largest piece, in bytes. Small, so that a reader that is slow takes one in time and is not held to be stalled.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Batches on their way; a [`query::QueryStream`], or what a test has instead.
pub(super) trait Batches: Stream<Item = Result<RecordBatch, QueryError>> + Send + Unpin + 'static {}

impl<S: Stream<Item = Result<RecordBatch, QueryError>> + Send + Unpin + 'static> Batches for S {}

/// The answer to a query, in the form that an encoder gives it. An error before the first batch has a status.
pub(super) async fn stream(
    schema: SchemaRef,
    mut batches: impl Batches,
    mut encoder: Box<dyn Encoder>,
    place: Place,
    time_max: Duration,
    stall_max: Duration,
) -> Result<Response, HttpError> {
    let deadline = Instant::now() + time_max;
    let cannot_encode =
        |error: ArrowError| HttpError::internal(&Problem::new("an answer cannot be encoded").detail(error));
    let first = timeout_at(deadline, batches.next()).await;
    let first = first.map_err(|_| HttpError::timeout("the answer took longer than a request may"))?;
    let content_type = [(header::CONTENT_TYPE, encoder.content_type())];
    let Some(first) = first.transpose()? else {
        let empty = encoder.encode(&RecordBatch::new_empty(schema)).map_err(cannot_encode)?;
        let end = encoder.finish().map_err(cannot_encode)?;
        return Ok((content_type, [empty, end].concat()).into_response());
    };
    let head = encoder.encode(&first).map_err(cannot_encode)?;
    let (chunks, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_AHEAD);
    tokio::spawn(async move {
        let work = produce(batches, encoder, head, &chunks, stall_max);
        let done = timeout_at(deadline, work).await.unwrap_or_else(|_| Err("it took longer than it may".to_owned()));
        if let Err(why) = done {
            tracing::warn!(why, "an answer was cut off");
            let cut = tokio::time::timeout(Duration::from_secs(1), chunks.send(Err(io::Error::other("cut off"))));
            // A reader that takes nothing finds the channel closed instead, and its connection is closed with it.
            let _ = cut.await;
        }
        drop(place);
    });
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

/// Sends all bytes; an empty chunk says that the answer is whole.
async fn produce(
    mut batches: impl Batches,
    mut encoder: Box<dyn Encoder>,
    head: Vec<u8>,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
    stall_max: Duration,
) -> Result<(), String> {
    let mut next = head;
    loop {
        send(next.into(), chunks, stall_max).await?;
        match batches.next().await {
            Some(Ok(batch)) => next = encoder.encode(&batch).map_err(|error| error.to_string())?,
            Some(Err(error)) => return Err(error.to_string()),
            None => break,
        }
    }
    send(encoder.finish().map_err(|error| error.to_string())?.into(), chunks, stall_max).await?;
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
