//! Connections between gateways and the server: ordered bytes both ways, with delays, cut into pieces, until they
//! break. What QUIC does about lost and reordered datagrams is QUIC's; what it shows of them is delay and the end of a
//! connection, and that is what happens here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::draw::Draw;
use crate::exec::Time;
use crate::plan::NetworkFaults;

/// A chunk on its way takes so many bytes at most beside others: flow control.
const IN_FLIGHT_MAX: usize = 64;

/// The connection is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

#[derive(Debug, Default)]
struct Way {
    chunks: VecDeque<(Duration, Bytes)>,
    finished: bool,
}

#[derive(Debug)]
struct Line {
    up: RefCell<Way>,
    down: RefCell<Way>,
    /// For the client.
    broken: RefCell<bool>,
    /// For the server: what is on its way up may still arrive first.
    dead: RefCell<bool>,
    moved: Notify,
}

/// One end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct End {
    line: Rc<Line>,
    network: Network,
    is_client: bool,
}

/// The network.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    time: Arc<Time>,
    draw: RefCell<Draw>,
    faults: RefCell<NetworkFaults>,
    /// Connections that wait for the server to accept them; `None` while there is no server.
    door: RefCell<Option<VecDeque<(u64, End)>>>,
    knocked: Notify,
    open: RefCell<Vec<Rc<Line>>>,
    breaks: RefCell<u64>,
    /// Chunks that arrived after their connection had broken.
    late: RefCell<u64>,
}

impl Network {
    /// A network without a server.
    #[must_use]
    pub(crate) fn new(time: &Arc<Time>, draw: Draw) -> Self {
        Self {
            inner: Rc::new(Inner {
                time: Arc::clone(time),
                draw: RefCell::new(draw),
                faults: RefCell::default(),
                door: RefCell::new(None),
                knocked: Notify::new(),
                open: RefCell::default(),
                breaks: RefCell::default(),
                late: RefCell::default(),
            }),
        }
    }

    /// What goes wrong from now on.
    pub(crate) fn set_faults(&self, faults: NetworkFaults) {
        *self.inner.faults.borrow_mut() = faults;
    }

    /// Connections broken so far.
    #[must_use]
    pub(crate) fn breaks(&self) -> u64 {
        *self.inner.breaks.borrow()
    }

    /// Chunks that arrived at the server after their connection had broken for the client.
    #[must_use]
    pub(crate) fn late(&self) -> u64 {
        *self.inner.late.borrow()
    }

    /// The server is there.
    pub(crate) fn listen(&self) {
        *self.inner.door.borrow_mut() = Some(VecDeque::new());
    }

    /// The server is gone, and every connection with it.
    pub(crate) fn vanish(&self) {
        *self.inner.door.borrow_mut() = None;
        for line in self.inner.open.borrow_mut().drain(..) {
            line.up.borrow_mut().chunks.clear();
            line.down.borrow_mut().chunks.clear();
            *line.broken.borrow_mut() = true;
            *line.dead.borrow_mut() = true;
            line.moved.notify_waiters();
        }
    }

    /// A gateway connects; `None` while there is no server. `who` is what its certificate says.
    #[must_use]
    pub(crate) fn connect(&self, who: u64) -> Option<End> {
        let mut door = self.inner.door.borrow_mut();
        let door = door.as_mut()?;
        let line = Rc::new(Line {
            up: RefCell::default(),
            down: RefCell::default(),
            broken: RefCell::new(false),
            dead: RefCell::new(false),
            moved: Notify::new(),
        });
        self.inner.open.borrow_mut().push(Rc::clone(&line));
        let end = |is_client| End { line: Rc::clone(&line), network: self.clone(), is_client };
        door.push_back((who, end(false)));
        self.inner.knocked.notify_one();
        Some(end(true))
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> (u64, End) {
        loop {
            if let Some(next) = self.inner.door.borrow_mut().as_mut().and_then(VecDeque::pop_front) {
                return next;
            }
            self.inner.knocked.notified().await;
        }
    }
}

impl End {
    fn is_broken(&self) -> bool {
        if self.is_client { *self.line.broken.borrow() } else { *self.line.dead.borrow() }
    }

    /// The connection ends here, for both.
    pub(crate) fn close(&self) {
        *self.line.broken.borrow_mut() = true;
        // After a break the server does not hear of the client's end, and goes on with what still arrives.
        if !(self.is_client && self.line.up.borrow().finished) {
            *self.line.dead.borrow_mut() = true;
        }
        self.line.moved.notify_waiters();
    }

    /// The network fails: the client sees it at once; the server too, or after what was on its way to it.
    fn snap(&self, late: bool) {
        *self.network.inner.breaks.borrow_mut() += 1;
        *self.line.broken.borrow_mut() = true;
        self.line.down.borrow_mut().chunks.clear();
        if late {
            self.line.up.borrow_mut().finished = true;
        } else {
            self.line.up.borrow_mut().chunks.clear();
            *self.line.dead.borrow_mut() = true;
        }
        self.line.moved.notify_waiters();
    }

    /// Sends bytes; waits while too much is on its way.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Broken> {
        let mut left = bytes;
        while !left.is_empty() {
            let way = if self.is_client { &self.line.up } else { &self.line.down };
            loop {
                let moved = self.line.moved.notified();
                if self.is_broken() {
                    return Err(Broken);
                }
                if !self.is_client && *self.line.broken.borrow() {
                    // Nobody hears it any more.
                    return Ok(());
                }
                if way.borrow().chunks.len() < IN_FLIGHT_MAX {
                    break;
                }
                moved.await;
            }
            let (wait, length, snaps, late) = {
                let (faults, mut draw) = (*self.network.inner.faults.borrow(), self.network.inner.draw.borrow_mut());
                let length = if draw.chance(faults.fragment) { 1 + draw.index(left.len()) } else { left.len() };
                let wait = draw.spread(10, faults.delay_max.max(20));
                (wait, length, draw.chance(faults.break_rate), draw.chance(faults.arrives_late))
            };
            let chunk = left.split_to(length);
            {
                let mut way = way.borrow_mut();
                let arrives = self.network.inner.time.now() + Duration::from_micros(wait);
                let after = way.chunks.back().map_or(arrives, |(last, _)| arrives.max(*last));
                way.chunks.push_back((after, chunk));
            }
            self.line.moved.notify_waiters();
            if snaps {
                self.snap(late && self.is_client);
                return Err(Broken);
            }
        }
        Ok(())
    }

    /// The next bytes; `None` when the other end has finished.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn receive(&self) -> Result<Option<Bytes>, Broken> {
        let way = if self.is_client { &self.line.down } else { &self.line.up };
        loop {
            let moved = self.line.moved.notified();
            if self.is_broken() {
                return Err(Broken);
            }
            let arrives = way.borrow().chunks.front().map(|(arrives, _)| *arrives);
            match arrives {
                Some(arrives) => {
                    let now = self.network.inner.time.now();
                    if arrives > now {
                        self.network.inner.time.sleep(arrives - now).await;
                        continue;
                    }
                    let chunk = way.borrow_mut().chunks.pop_front();
                    self.line.moved.notify_waiters();
                    if let Some((_, chunk)) = chunk {
                        if !self.is_client && *self.line.broken.borrow() {
                            *self.network.inner.late.borrow_mut() += 1;
                        }
                        return Ok(Some(chunk));
                    }
                }
                None if way.borrow().finished => return Ok(None),
                None => moved.await,
            }
        }
    }
}
