//! A query's answer as it comes: batches, then the end or an error.
//!
//! The work runs in a task of its own, on threads of its own, so that a limit of time ends the answer even while an
//! operator is busy, and the reader's threads never are. The task owns what the query holds (snapshot, place among the running queries) and is aborted when the stream is
//! dropped: whoever disconnects costs nothing more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{FutureExt, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::error::{ErrorMapper, LimitKind, QueryError, internal};
use crate::scan::SegmentReaderFactory;
use crate::session::Over;

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

/// What is to be run.
pub(crate) struct Work {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) task: Arc<TaskContext>,
    /// Set when nobody waits for the answer any more.
    pub(crate) over: Over,
    /// The threads to run on.
    pub(crate) workers: Handle,
    /// What opens the segments: it can tell which one is damaged.
    pub(crate) readers: Arc<SegmentReaderFactory>,
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
    over: Over,
    task: JoinSet<()>,
}

impl std::fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryStream").field("rows", &self.rows).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl QueryStream {
    /// Starts the work. `held` lives as long as it.
    pub(crate) fn start(work: Work, limits: AnswerLimits, held: impl Send + 'static) -> Self {
        let Work { plan, task: task_context, over, workers, readers } = work;
        let schema = plan.schema();
        let (sender, messages) = mpsc::channel(BATCHES_AHEAD);
        let mut task = JoinSet::new();
        let run = async move {
            let _held = held;
            let mut batches = match execute_stream(plan, task_context) {
                Ok(batches) => batches,
                Err(error) => {
                    let _ = sender.send(Message::Failed(limits.errors.map(error))).await;
                    return;
                }
            };
            while let Some(next) = batches.next().await {
                let message = match next {
                    Ok(batch) if batch.num_rows() == 0 => continue,
                    Ok(batch) => Message::Batch(batch),
                    Err(error) => {
                        let error = limits.errors.map(error);
                        if matches!(error, QueryError::Engine) {
                            readers.find_damage().await;
                        }
                        let _ = sender.send(Message::Failed(error)).await;
                        return;
                    }
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Message::End).await;
        };
        task.spawn_on(run, &workers);
        Self {
            schema,
            messages,
            deadline: limits.deadline.map(|(at, time_max)| (Box::pin(tokio::time::sleep_until(at)), time_max)),
            rows_max: limits.rows_max,
            rows: 0,
            ended: false,
            over,
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
        self.over.set();
        self.task.abort_all();
        Poll::Ready(last.map(Err))
    }
}

impl Drop for QueryStream {
    fn drop(&mut self) {
        self.over.set();
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
