//! A model of tokio's `Notify`, as far as the budget uses it: what its documentation promises, and no more.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::Thread;

/// Wakes all that wait, and all whose [`Notified`] was made before.
#[derive(Debug)]
pub(crate) struct Notify {
    calls: AtomicUsize,
    waiters: Mutex<Vec<Waker>>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self { calls: AtomicUsize::new(0), waiters: Mutex::new(Vec::new()) }
    }

    pub(crate) fn notify_waiters(&self) {
        let mut waiters = self.waiters.lock().expect("no panic");
        self.calls.fetch_add(1, Ordering::AcqRel);
        waiters.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, calls: self.calls.load(Ordering::Acquire) }
    }
}

/// Hears of every call since it was made, polled or not.
pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    calls: usize,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.notify.waiters.lock().expect("no panic");
        if self.notify.calls.load(Ordering::Acquire) != self.calls {
            return Poll::Ready(());
        }
        waiters.push(context.waker().clone());
        Poll::Pending
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread. If nobody wakes it, loom finds that no thread can go on, and fails.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(std::sync::Arc::new(Unpark(loom::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => loom::thread::park(),
        }
    }
}
