//! Encoding on the query's threads: batches become bytes there, and only bytes reach the threads that serve the network.
//!
//! An encoder computes without a pause for as long as a batch takes (a spreadsheet or a PDF: for seconds). On a thread of
//! the network that would delay acknowledgements and timers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array as _, RecordBatch};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::{Message, Output, QueryStream};
use crate::error::{LimitKind, QueryError, defect};

/// Encoded batches that wait for a slow reader. Few, because their memory is not counted by the query's limit.
const ENCODED_AHEAD: usize = 1;

/// Rows that are encoded at once have so many bytes, or are one. What is encoded can be six times as long.
const PIECE_BYTES: usize = 4 << 20;

/// Turns batches into bytes.
pub trait Encode: Send + 'static {
    /// Encodes one more batch. An empty result is encoded as one batch without rows, so that there can be a header.
    ///
    /// # Errors
    /// When the batch does not have the schema that the encoder was made for.
    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError>;

    /// Returns the bytes after the last batch.
    ///
    /// # Errors
    /// When the encoded form cannot be completed.
    fn finish(&mut self) -> Result<Vec<u8>, ArrowError>;
}

/// The response to one query, encoded.
///
/// A response is whole only if it ends without an error.
pub struct EncodedStream {
    output: Output<Bytes>,
}

impl std::fmt::Debug for EncodedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodedStream").field("ended", &self.output.ended).finish_non_exhaustive()
    }
}

impl EncodedStream {
    /// Starts a task that reads `batches` and encodes them. It holds what the query holds, so that the limit of
    /// running queries also counts a query that is only being encoded any more.
    pub(super) fn start(batches: QueryStream, encoder: impl Encode) -> Self {
        let (sender, messages) = mpsc::channel(ENCODED_AHEAD);
        let workers = batches.workers.clone();
        // The reader's side has the deadline too, because a busy encoder does not look at its own.
        let mut output = Output::new(messages, batches.limits.deadline, batches.output.over.clone());
        let held = batches.held.clone();
        let run = async move {
            let last = match encode_all(batches, encoder, &sender).await {
                Ok(()) => Message::End,
                Err(Some(error)) => Message::Failed(error),
                Err(None) => return,
            };
            drop(held);
            let _ = sender.send(last).await;
        };
        output.task.spawn_on(run, &workers);
        Self { output }
    }
}

/// Encodes everything; the error is none when nobody reads any more.
async fn encode_all(
    mut batches: QueryStream,
    mut encoder: impl Encode,
    sender: &mpsc::Sender<Message<Bytes>>,
) -> Result<(), Option<QueryError>> {
    let cannot_encode = |error: ArrowError| Some(defect(&format_args!("a result cannot be encoded: {error}")));
    let send = async |bytes: Vec<u8>| match bytes.is_empty() {
        true => Ok(()),
        false => sender.send(Message::Item(bytes.into())).await.map_err(|_| None),
    };
    let limits = batches.limits;
    let mut any = false;
    while let Some(batch) = batches.next().await {
        any = true;
        let mut pieces = vec![batch.map_err(Some)?];
        while let Some(piece) = pieces.pop() {
            let bytes = piece_bytes(&piece).map_err(cannot_encode)?;
            let rows = piece.num_rows();
            if bytes > PIECE_BYTES && rows > 1 {
                pieces.push(piece.slice(rows / 2, rows - rows / 2));
                pieces.push(piece.slice(0, rows / 2));
                continue;
            }
            if bytes > limits.value_bytes_max && rows == 1 {
                let bytes_max = limits.errors.memory_bytes_max;
                return Err(Some(QueryError::Limit(LimitKind::Memory { bytes_max })));
            }
            send(encoder.encode(&piece).map_err(cannot_encode)?).await?;
        }
    }
    if !any {
        let empty = RecordBatch::new_empty(Arc::clone(&batches.schema));
        send(encoder.encode(&empty).map_err(cannot_encode)?).await?;
    }
    send(encoder.finish().map_err(cannot_encode)?).await
}

/// Bytes of the rows themselves, also where they are a slice of more.
fn piece_bytes(piece: &RecordBatch) -> Result<usize, ArrowError> {
    piece.columns().iter().map(|column| column.to_data().get_slice_memory_size()).sum()
}

impl Stream for EncodedStream {
    type Item = Result<Bytes, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.output.poll(cx)
    }
}
