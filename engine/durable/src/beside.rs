//! Work that takes a core for a while, as a task of its own beside whoever waits for it.
//!
//! It lives no longer than somebody waits: what a flush that was given up would still read, encode and put, nobody
//! names, and what a recovery that was given up would still read, nobody applies.

use futures::TryFutureExt as _;
use tokio::sync::oneshot;

use crate::Spawn;

/// A task ended before its work did: it panicked, or whoever runs tasks has dropped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task ended before its work did")]
pub struct TaskLost;

/// Does the work in a task that begins now, and answers with its result. When the answer is dropped, the work is, too.
///
/// # Errors
/// [`TaskLost`].
pub fn beside<T, W>(spawn: &dyn Spawn, work: W) -> impl Future<Output = Result<T, TaskLost>> + use<T, W>
where
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
{
    let (mut tell, told) = oneshot::channel();
    spawn.spawn(Box::pin(async move {
        // In this order: once nobody waits, not even the next step of the work is taken.
        let done = tokio::select! {
            biased;
            () = tell.closed() => None,
            done = work => Some(done),
        };
        let _gone = done.map(|done| tell.send(done));
    }));
    told.map_err(|_| TaskLost)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use tokio::runtime::{Builder, Handle};
    use tokio::task::yield_now;

    use super::*;

    /// Lets every other task of this thread do what it can.
    async fn others() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    fn run(test: impl Future<Output = ()>) {
        Builder::new_current_thread().build().expect("a runtime").block_on(test);
    }

    /// Starts work, gives it up, and looks whether it is gone; `goes_on` is work after its first step.
    async fn given_up(goes_on: impl Future<Output = ()> + Send + 'static) {
        let (spawn, held) = (Handle::current(), Arc::new(()));
        let work = {
            let held = Arc::clone(&held);
            async move {
                goes_on.await;
                drop(held);
            }
        };
        {
            let mut answer = pin!(beside(&spawn, work));
            assert!(answer.as_mut().now_or_never().is_none());
            others().await;
            assert_eq!(Arc::strong_count(&held), 2, "the work is under way");
        }
        others().await;
        assert_eq!(Arc::strong_count(&held), 1, "the work is gone");
    }

    #[test]
    fn work_that_nobody_waits_for_any_more_does_not_run_on() {
        run(async {
            // It waits for something.
            given_up(std::future::pending()).await;
            // It always has something to do.
            given_up(async {
                loop {
                    yield_now().await;
                }
            })
            .await;
        });
    }

    #[test]
    fn the_result_is_answered_and_a_lost_one_is_an_error() {
        struct Forgets;
        impl Spawn for Forgets {
            fn spawn(&self, _: BoxFuture<'static, ()>) {}
        }
        run(async {
            assert_eq!(beside(&Handle::current(), async { 7 }).await.expect("done"), 7);
            beside(&Forgets, async {}).await.expect_err("nobody did it");
        });
    }
}
