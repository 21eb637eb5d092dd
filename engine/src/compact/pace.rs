//! The pace of a merge: at a rate, and not at all while ingest or flushes need the machine more.

use std::sync::Arc;
use std::time::Duration;

use durable::Clock;

use crate::health::{Condition, Health};
use crate::maintain::Stop;
use crate::org::Orgs;

/// Time that is owed before it is waited for: a shorter wait would cost more than it is.
const OWED_LEAST: Duration = Duration::from_millis(5);
/// Pause between two looks whether the engine has room again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What a merge must give way to.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    pub(super) orgs: Arc<Orgs>,
    pub(super) health: Arc<Health>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop: Stop,
}

impl Traffic {
    /// Returns whether the engine has better things to do: memory or the log wait for flushes.
    pub(super) fn is_heavy(&self) -> bool {
        // A store that takes nothing makes merges fail, which has pauses of its own. It need not be a flush that finds
        // out that it is back.
        let conditions = [Condition::WalFull, Condition::WalWithoutFile, Condition::WriteBuffersFull];
        conditions.into_iter().any(|condition| self.health.holds(condition)) || self.orgs.budget().is_high()
    }

    pub(super) fn is_stopped(&self) -> bool {
        // An error means that the engine was dropped.
        self.stop.has_changed().is_err() || *self.stop.borrow()
    }
}

/// The pace of one merge.
#[derive(Debug)]
pub(super) struct Pacer {
    traffic: Traffic,
    /// What one row may take, at least.
    row: f64,
    owed: Duration,
    last: Duration,
}

impl Pacer {
    /// The pace for rows of so many bytes together, at this rate.
    pub(super) fn new(traffic: Traffic, rows: u64, bytes: u64, bytes_per_second: u64) -> Self {
        let row = bytes as f64 / bytes_per_second.max(1) as f64 / rows.max(1) as f64;
        let last = traffic.clock.monotonic();
        Self { traffic, row, owed: Duration::ZERO, last }
    }

    /// Waits for as long as these rows, which are done, may take; then for as long as the engine needs the machine more.
    /// Answers whether to go on: not if the engine stops.
    pub(super) async fn wait(&mut self, rows: u64) -> bool {
        // Tasks of flushes on the same threads go first.
        tokio::task::yield_now().await;
        let clock = Arc::clone(&self.traffic.clock);
        let now = clock.monotonic();
        let took = now.saturating_sub(self.last);
        self.owed = (self.owed + Duration::from_secs_f64(self.row * rows as f64)).saturating_sub(took);
        self.last = now;
        if self.owed >= OWED_LEAST {
            clock.sleep(std::mem::take(&mut self.owed)).await;
            self.last = clock.monotonic();
        }
        while !self.traffic.is_stopped() && self.traffic.is_heavy() {
            clock.sleep(LOOK_AGAIN).await;
            self.last = clock.monotonic();
        }
        !self.traffic.is_stopped()
    }
}
