//! Threads of queries' own.
//!
//! An operator or an encoder computes without yielding for as long as a batch takes. On the threads that serve the network this
//! would hold up acknowledgements and timers; here it holds up other queries. They have less weight than flushes have,
//! too: a query over years takes both cores for a minute, and flushes that stand still meanwhile are write buffers that
//! fill, and then nobody's frames are taken.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{QueryError, unavailable};

/// Expressions are evaluated recursively, as deep as a statement may nest them.
const WORKER_STACK_BYTES: usize = 8 << 20;

/// The name of these threads.
const THREAD_NAME: &str = "query";

/// Reads of a local store, at once.
const BLOCKING_THREADS_MAX: usize = 64;

/// A third of the weight that flushes have, which have a third of that of the network and the log.
const NICENESS: i32 = 10;

/// The threads that queries run on, made when the first one comes.
#[derive(Debug)]
pub(super) struct Workers {
    threads: usize,
    runtime: Mutex<Option<Runtime>>,
}

impl Workers {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), runtime: Mutex::new(None) }
    }

    pub(super) fn handle(&self) -> Result<Handle, QueryError> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let made = Builder::new_multi_thread()
            .worker_threads(self.threads)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name(THREAD_NAME)
            .on_thread_start(yield_to_others)
            .thread_stack_size(WORKER_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| unavailable(&error))?;
        Ok(runtime.insert(made).handle().clone())
    }
}

/// Where cores are short, what arrives goes first.
pub(super) fn yield_to_others() {
    // Of this thread only, on Linux. Where it is refused, flushes are slower while queries run.
    let _refused = rustix::process::setpriority_process(None, NICENESS);
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Never waits: this may be dropped within another runtime.
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_weigh_little() {
        let workers = Workers::new(1);
        let handle = workers.handle().expect("threads");
        for running in [
            handle.spawn(async { rustix::process::getpriority_process(None) }),
            handle.spawn_blocking(|| rustix::process::getpriority_process(None)),
        ] {
            let niceness = handle.block_on(running).expect("it ends").expect("a niceness");
            assert!(niceness >= NICENESS, "{niceness}");
        }
    }
}
