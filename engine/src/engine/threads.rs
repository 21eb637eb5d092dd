//! The engine's threads: started here, ended here. They decide nothing.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use durable::Spawn;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::Core;
use super::lock::DirectoryLock;
use crate::append::{AppendStep, StopPreparer, spawn_appender, spawn_wal_preparer};
use crate::error::{EngineError, EngineErrorKind};
use crate::wal::WalPrepareStep;

/// The running threads.
pub(super) struct Threads {
    appender: JoinHandle<()>,
    preparer: JoinHandle<()>,
    stop_preparer: StopPreparer,
    flush: JoinHandle<()>,
    stop_flush: watch::Sender<bool>,
    _lock: Arc<DirectoryLock>,
}

/// Tells the engine that a thread ended, also when it panicked. Holds the lock until then.
struct Ended {
    core: Arc<Core>,
    thread: &'static str,
    result: Option<Result<(), EngineError>>,
    _lock: Arc<DirectoryLock>,
}

impl Ended {
    fn with(mut self, result: Result<(), EngineError>) {
        self.result = Some(result);
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        match self.result.take() {
            Some(Ok(())) => {}
            Some(Err(error)) => self.core.fail(&error),
            None => self.core.fail(
                &EngineError::new(
                    EngineErrorKind::Failed,
                    "a thread of the engine panicked",
                    "This is a defect: please report it with the log. Start again: everything acknowledged is kept.",
                )
                .at(self.thread),
            ),
        }
        match self.thread {
            APPENDER => self.core.appender_ended.send_replace(true),
            _ => self.core.flush_ended.send_replace(true),
        };
    }
}

const APPENDER: &str = "icecore-append";
const FLUSH: &str = "icecore-flush";
/// A third of the weight that the threads of the network and of the log have.
const FLUSH_NICENESS: i32 = 5;
/// How long the end of a flush that was given up is waited for.
const SHUTDOWN_MAX: Duration = Duration::from_secs(30);

impl Threads {
    /// Starts all of them.
    pub(super) fn start(
        core: &Arc<Core>,
        append: AppendStep,
        prepare: WalPrepareStep,
        flushes: FlushThreads,
        lock: Arc<DirectoryLock>,
    ) -> Result<Self, EngineError> {
        let ended = |thread| Ended { core: Arc::clone(core), thread, result: None, _lock: Arc::clone(&lock) };
        let append_ended = ended(APPENDER);
        let appender = spawn_appender(append, move |result| append_ended.with(result))?;
        let (preparer, stop_preparer) = spawn_wal_preparer(prepare, &core.wal)?;
        let (stop_flush, stop) = watch::channel(false);
        let flush = flushes.run(ended(FLUSH), stop)?;
        Ok(Self { appender, preparer, stop_preparer, flush, stop_flush, _lock: lock })
    }

    /// Waits for all of them to end; the queue is closed already.
    pub(super) async fn end(self, core: &Core) {
        let mut appended = core.appender_ended.subscribe();
        // An error means that the engine is gone, and with it the thread.
        let _ended = appended.wait_for(|ended| *ended).await;
        self.stop_flush.send_replace(true);
        let mut flushed = core.flush_ended.subscribe();
        let _ended = flushed.wait_for(|ended| *ended).await;
        drop(self.stop_preparer);
        // They have ended, or are about to: this takes no time. A panic was told where it happened.
        for thread in [self.appender, self.flush, self.preparer] {
            let _panicked = thread.join();
        }
    }
}

/// The threads that flushes run on, apart from the network's, so that encoding never delays an answer.
pub(super) struct FlushThreads(Option<Runtime>);

impl FlushThreads {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name(FLUSH)
            .on_thread_start(yield_to_others)
            .enable_time()
            .build();
        Ok(Self(Some(runtime.map_err(no_thread)?)))
    }

    /// To start tasks on them.
    pub(super) fn spawn(&self) -> Arc<dyn Spawn> {
        let Some(runtime) = &self.0 else { unreachable!("it is taken only when this ends") };
        Arc::new(runtime.handle().clone())
    }

    /// Runs the loop of maintenance on a thread of its own, with these beside it, until its end.
    fn run(mut self, ended: Ended, stop: watch::Receiver<bool>) -> Result<JoinHandle<()>, EngineError> {
        let body = move || {
            yield_to_others();
            let Some(runtime) = self.0.take() else { unreachable!("it is taken only when this ends") };
            let result = runtime.block_on(ended.core.maintain(&stop));
            // What a store has begun to write is at its end before anybody else may open it.
            runtime.shutdown_timeout(SHUTDOWN_MAX);
            ended.with(result);
        };
        std::thread::Builder::new().name(FLUSH.into()).spawn(body).map_err(no_thread)
    }
}

impl Drop for FlushThreads {
    fn drop(&mut self) {
        // Without waiting, since this may be a thread that must not: what is under way is given up, as in a crash.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn no_thread(error: std::io::Error) -> EngineError {
    EngineError::new(EngineErrorKind::Failed, "a thread could not be started", "Raise the limit of threads.")
        .at(FLUSH)
        .because(error)
}

/// Where cores are short, answers go first: a flush has hours.
fn yield_to_others() {
    // Of this thread only, on Linux. Where it is refused, nothing but latency is lost.
    let _refused = rustix::process::setpriority_process(None, FLUSH_NICENESS);
}
