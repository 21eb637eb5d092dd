//! Where background tasks run: handed in, so that a simulation runs them in an order of its own.

use futures::future::BoxFuture;

/// Runs a task to its end, beside everything else.
pub trait Spawn: Send + Sync {
    /// Starts the task.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

impl Spawn for tokio::runtime::Handle {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // Nobody waits for it; a panic in it is told where it happens.
        drop(Self::spawn(self, task));
    }
}
