//! A query's answer as it comes: batches, then the end or an error.
//!
//! The work runs in a task of its own, so that a limit of time ends the answer even while an operator is busy. The
//! task owns what the query holds (snapshot, place among the running queries) and is aborted when the stream is
//! dropped: whoever disconnects costs nothing more.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::error::{ErrorMapper, LimitKind, QueryError, internal};

/// Batches that wait for a slow reader, beside the one that it is at.
const BATCHES_AHEAD: usize = 2;

/// What bounds one answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerLimits {
    pub(crate) deadline: Option<(Instant, Duration)>,
    pub(crate) rows_max: Option<u64>,
    pub(crate) errors: ErrorMapper,
}

enum Message {
    Batch(RecordBatch),
    Failed(QueryError),
    /// Tells a finished answer from a task that was lost.
    End,
}

/// The answer of one query: batches of one schema.
///
/// An answer is whole only if it ends without an error.
pub struct QueryStream {
    schema: SchemaRef,
    messages: mpsc::Receiver<Message>,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    rows_max: Option<u64>,
    rows: u64,
    ended: bool,
    task: JoinSet<()>,
}

impl std::fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryStream").field("rows", &self.rows).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl QueryStream {
    /// Starts the work. `held` lives as long as it.
    pub(crate) fn start(batches: SendableRecordBatchStream, limits: AnswerLimits, held: impl Send + 'static) -> Self {
        let schema = batches.schema();
        let (sender, messages) = mpsc::channel(BATCHES_AHEAD);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _held = held;
            let mut batches = batches;
            while let Some(next) = batches.next().await {
                let message = match next {
                    Ok(batch) if batch.num_rows() == 0 => continue,
                    Ok(batch) => Message::Batch(batch),
                    Err(error) => {
                        let _ = sender.send(Message::Failed(limits.errors.map(error))).await;
                        return;
                    }
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Message::End).await;
        });
        Self {
            schema,
            messages,
            deadline: limits.deadline.map(|(at, time_max)| (Box::pin(tokio::time::sleep_until(at)), time_max)),
            rows_max: limits.rows_max,
            rows: 0,
            ended: false,
            task,
        }
    }

    /// The schema of every batch, known before the first one.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Rows given out so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn end(&mut self, last: Option<QueryError>) -> Poll<Option<Result<RecordBatch, QueryError>>> {
        self.ended = true;
        self.messages.close();
        self.task.abort_all();
        Poll::Ready(last.map(Err))
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some((sleep, time_max)) = &mut this.deadline {
            let time_max = *time_max;
            if sleep.poll_unpin(cx).is_ready() {
                return this.end(Some(QueryError::Limit(LimitKind::Time { time_max })));
            }
        }
        match ready!(this.messages.poll_recv(cx)) {
            Some(Message::Batch(batch)) => {
                this.rows += batch.num_rows() as u64;
                match this.rows_max {
                    Some(rows_max) if this.rows > rows_max => {
                        this.end(Some(QueryError::Limit(LimitKind::Rows { rows_max })))
                    }
                    _ => Poll::Ready(Some(Ok(batch))),
                }
            }
            Some(Message::Failed(error)) => this.end(Some(error)),
            Some(Message::End) => this.end(None),
            None => {
                let error = internal(&"the task of a query was lost: it panicked, or the runtime is ending");
                this.end(Some(error))
            }
        }
    }
}
