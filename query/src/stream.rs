//! A query's response as it comes: batches or encoded bytes, then the end or an error.
//!
//! The work runs in tasks on the query's own threads, so that a limit of time ends the response even while an operator or
//! an encoder is busy, and the threads that serve the network never are. The tasks hold what the query holds (its
//! snapshot, its turn) and are aborted when the stream is dropped, so that a reader who disconnects costs nothing more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{FutureExt, Stream, StreamExt};
use storage_format::ChannelCode;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::budget::Over;
use crate::error::{ErrorMapper, LimitKind, QueryError, defect};
use crate::scan::SegmentReaderFactory;

mod encoded;

pub use encoded::{Encode, EncodedStream};

/// Batches that wait for a slow reader, beside the one that it is at.
const BATCHES_AHEAD: usize = 2;

/// What bounds one response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerLimits {
    pub(crate) deadline: Option<Deadline>,
    pub(crate) rows_max: Option<u64>,
    /// Bytes of one row.
    pub(crate) value_bytes_max: usize,
    pub(crate) errors: ErrorMapper,
}

/// When a query must be over, and the limit that this comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) time_max: Duration,
}

impl Deadline {
    pub(crate) fn exceeded(self) -> QueryError {
        QueryError::Limit(LimitKind::Time { time_max: self.time_max })
    }
}

/// A message of a task that produces a response to the task that reads it.
enum Message<T> {
    Item(T),
    Failed(QueryError),
    /// Tells a finished response from a task that was lost.
    End,
}

/// What is to be run.
pub(crate) struct Work {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) task: Arc<TaskContext>,
    /// Every channel that the organisation has used in this query's snapshot.
    pub(crate) channels: Vec<ChannelCode>,
    /// Set when nobody waits for the response any more.
    pub(crate) over: Over,
    /// The threads to run on.
    pub(crate) workers: Handle,
    /// What opens the segments: it can tell which one is damaged.
    pub(crate) readers: Arc<SegmentReaderFactory>,
}

/// The reading end of a task on the query's threads. Dropped, it aborts the task.
struct Output<T> {
    messages: mpsc::Receiver<Message<T>>,
    deadline: Option<(Pin<Box<Sleep>>, Deadline)>,
    ended: bool,
    over: Over,
    task: JoinSet<()>,
}

impl<T> Output<T> {
    fn new(messages: mpsc::Receiver<Message<T>>, deadline: Option<Deadline>, over: Over) -> Self {
        let deadline = deadline.map(|deadline| (Box::pin(tokio::time::sleep_until(deadline.at)), deadline));
        Self { messages, deadline, ended: false, over, task: JoinSet::new() }
    }

    /// Ends the response here, with this error if there is one.
    fn end(&mut self, last: Option<QueryError>) -> Poll<Option<Result<T, QueryError>>> {
        self.ended = true;
        self.messages.close();
        self.over.set();
        self.task.abort_all();
        Poll::Ready(last.map(Err))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, QueryError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some((sleep, deadline)) = &mut self.deadline {
            let deadline = *deadline;
            if sleep.poll_unpin(cx).is_ready() {
                return self.end(Some(deadline.exceeded()));
            }
        }
        match ready!(self.messages.poll_recv(cx)) {
            Some(Message::Item(item)) => Poll::Ready(Some(Ok(item))),
            Some(Message::Failed(error)) => self.end(Some(error)),
            Some(Message::End) => self.end(None),
            None => {
                let error = defect(&"the task of a query was lost: it panicked, or the runtime is ending");
                self.end(Some(error))
            }
        }
    }
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        self.over.set();
    }
}

/// What a query holds until its last task has ended.
type Held = Arc<dyn Send + Sync>;

/// The response to one query: batches of one schema.
///
/// A response is whole only if it ends without an error.
pub struct QueryStream {
    schema: SchemaRef,
    channels: Vec<ChannelCode>,
    output: Output<RecordBatch>,
    limits: AnswerLimits,
    rows: u64,
    workers: Handle,
    /// Gone once the response has ended. The snapshot in it keeps the segments that it names in the store, also when they
    /// are merged meanwhile.
    held: Option<Held>,
}

impl std::fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.output.ended;
        f.debug_struct("QueryStream").field("rows", &self.rows).field("ended", &ended).finish_non_exhaustive()
    }
}

impl QueryStream {
    /// Starts the work. `held` lives as long as the response.
    pub(crate) fn start(work: Work, limits: AnswerLimits, held: impl Send + Sync + 'static) -> Self {
        let Work { plan, task, channels, over, workers, readers } = work;
        // The pool of the task's context has the query's place: it is kept while the response is only encoded any more.
        let held: Held = Arc::new((held, Arc::clone(&task)));
        let schema = plan.schema();
        let (sender, messages) = mpsc::channel(BATCHES_AHEAD);
        let mut output = Output::new(messages, limits.deadline, over);
        let holds = Arc::clone(&held);
        let run = async move {
            let mut batches = match execute_stream(plan, task) {
                Ok(batches) => batches,
                Err(error) => {
                    let _ = sender.send(Message::Failed(limits.errors.map(error))).await;
                    return;
                }
            };
            while let Some(next) = batches.next().await {
                let message = match next {
                    Ok(batch) if batch.num_rows() == 0 => continue,
                    Ok(batch) => Message::Item(batch),
                    Err(error) => {
                        let mut error = limits.errors.map(error);
                        if matches!(error, QueryError::Engine | QueryError::Defect) && readers.find_damage().await {
                            error = QueryError::Damaged;
                        }
                        let _ = sender.send(Message::Failed(error)).await;
                        return;
                    }
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            // What the query held is gone before the reader sees its end.
            drop((batches, holds));
            let _ = sender.send(Message::End).await;
        };
        output.task.spawn_on(run, &workers);
        Self { schema, channels, output, limits, rows: 0, workers, held: Some(held) }
    }

    /// The schema of every batch, known before the first one.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Every channel that the organisation has used in the snapshot that this query reads, by ascending code.
    #[must_use]
    pub fn channels(&self) -> &[ChannelCode] {
        &self.channels
    }

    /// Rows given out so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Encodes what has not been read yet, on the query's threads. The limits of the query go on to hold.
    #[must_use]
    pub fn encode(self, encoder: impl Encode) -> EncodedStream {
        EncodedStream::start(self, encoder)
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut next = ready!(this.output.poll(cx));
        if let Some(Ok(batch)) = &next {
            this.rows += batch.num_rows() as u64;
            if let Some(rows_max) = this.limits.rows_max.filter(|rows_max| this.rows > *rows_max) {
                next = ready!(this.output.end(Some(QueryError::Limit(LimitKind::Rows { rows_max }))));
            }
        }
        if this.output.ended {
            this.held = None;
        }
        Poll::Ready(next)
    }
}
