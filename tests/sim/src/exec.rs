//! The executor: every task of a run on one thread, the next one drawn from the seed, and time that moves only when
//! nobody has anything to do.
//!
//! A group of tasks dies at once, wherever each of them waits: that is a crash at an await.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use engine::Spawn;
use futures::future::{BoxFuture, LocalBoxFuture};

use crate::draw::Draw;

/// What dies together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    /// The server's process.
    Server,
    /// Gateways: machines of their own.
    Fleet,
    /// A remote store's own machines.
    Store,
}

/// Virtual time and who waits for it; shared with clocks and timers.
#[derive(Debug, Default)]
pub(crate) struct Time {
    micros: AtomicU64,
    next_timer: AtomicU64,
    timers: Mutex<BTreeMap<(u64, u64), Waker>>,
}

impl Time {
    fn timers(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Waker>> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the run began.
    #[must_use]
    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// Something took its time, and everybody waited.
    pub(crate) fn pass(&self, time: Duration) {
        self.micros.fetch_add(micros(time), Ordering::Relaxed);
    }

    /// Ready after so long.
    #[must_use]
    pub(crate) fn sleep(self: &Arc<Self>, time: Duration) -> Sleep {
        let deadline = self.micros.load(Ordering::Relaxed).saturating_add(micros(time).max(1));
        Sleep { time: Arc::clone(self), key: (deadline, self.next_timer.fetch_add(1, Ordering::Relaxed)) }
    }

    /// Moves on to the next moment that somebody waits for; `false` if nobody does.
    fn advance(&self) -> bool {
        let mut timers = self.timers();
        let Some((&(deadline, _), _)) = timers.first_key_value() else { return false };
        self.micros.fetch_max(deadline, Ordering::Relaxed);
        let now = self.micros.load(Ordering::Relaxed);
        while let Some(due) = timers.first_entry().filter(|entry| entry.key().0 <= now) {
            due.remove().wake();
        }
        true
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}

/// A wait for a moment.
#[derive(Debug)]
pub(crate) struct Sleep {
    time: Arc<Time>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.time.micros.load(Ordering::Relaxed) >= self.key.0 {
            return Poll::Ready(());
        }
        self.time.timers().insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.time.timers().remove(&self.key);
    }
}

#[derive(Debug)]
struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

struct Task {
    group: Group,
    future: LocalBoxFuture<'static, ()>,
    waker: Arc<TaskWaker>,
}

/// A task that was not looked at yet.
type NewTask = (Group, LocalBoxFuture<'static, ()>);
/// The same, from a part that could be on another thread.
type SentTask = (Group, BoxFuture<'static, ()>);

/// Takes new tasks; clones share the executor's door.
#[derive(Clone)]
pub(crate) struct Door {
    local: Rc<RefCell<Vec<NewTask>>>,
    sent: Arc<Mutex<Vec<SentTask>>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// Starts a task.
    pub(crate) fn spawn(&self, group: Group, task: impl Future<Output = ()> + 'static) {
        self.local.borrow_mut().push((group, Box::pin(task)));
    }

    /// A door for one group only.
    #[must_use]
    pub(crate) fn for_group(&self, group: Group) -> Arc<dyn Spawn> {
        Arc::new(GroupDoor { group, sent: Arc::clone(&self.sent) })
    }
}

/// A door that parts of the engine, which know nothing of groups, can have.
struct GroupDoor {
    group: Group,
    sent: Arc<Mutex<Vec<SentTask>>>,
}

impl Spawn for GroupDoor {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push((self.group, task));
    }
}

/// What a step of the executor did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A task went on.
    Ran,
    /// Time went on.
    Waited,
    /// Nobody will ever do anything again.
    Stuck,
}

/// All tasks.
pub(crate) struct Executor {
    time: Arc<Time>,
    door: Door,
    tasks: BTreeMap<u64, Task>,
    next: u64,
    woken: Arc<Mutex<Vec<u64>>>,
    ready: Vec<u64>,
    draw: Draw,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl Executor {
    /// No tasks, at time zero.
    #[must_use]
    pub(crate) fn new(draw: Draw) -> Self {
        Self {
            time: Arc::default(),
            door: Door { local: Rc::default(), sent: Arc::default() },
            tasks: BTreeMap::new(),
            next: 0,
            woken: Arc::default(),
            ready: Vec::new(),
            draw,
        }
    }

    /// Virtual time.
    #[must_use]
    pub(crate) fn time(&self) -> &Arc<Time> {
        &self.time
    }

    /// Where tasks come in.
    #[must_use]
    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// Ends all tasks of a group where they are.
    pub(crate) fn kill(&mut self, group: Group) {
        self.take_new();
        let dying: Vec<u64> = self.tasks.iter().filter(|(_, task)| task.group == group).map(|(id, _)| *id).collect();
        // In the order of their birth: dropping may wake others.
        for id in dying {
            self.tasks.remove(&id);
        }
    }

    /// One task, drawn from those that can go on, goes on; if there is none, time does.
    pub(crate) fn step(&mut self) -> Step {
        self.take_new();
        self.ready.append(&mut self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        if self.ready.is_empty() {
            return if self.time.advance() { Step::Waited } else { Step::Stuck };
        }
        let id = self.ready.swap_remove(self.draw.index(self.ready.len()));
        let Some(task) = self.tasks.get_mut(&id) else { return Step::Ran };
        task.waker.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.waker));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(&id);
        }
        Step::Ran
    }

    fn take_new(&mut self) {
        let local = std::mem::take(&mut *self.door.local.borrow_mut());
        let sent = std::mem::take(&mut *self.door.sent.lock().unwrap_or_else(PoisonError::into_inner));
        let sent = sent.into_iter().map(|(group, task)| -> NewTask { (group, task) });
        for (group, future) in local.into_iter().chain(sent) {
            let waker =
                Arc::new(TaskWaker { id: self.next, queued: AtomicBool::new(true), woken: Arc::clone(&self.woken) });
            self.tasks.insert(self.next, Task { group, future, waker });
            self.ready.push(self.next);
            self.next += 1;
        }
    }
}
