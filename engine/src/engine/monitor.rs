//! Looks at the engine from time to time: what is over for the log, what is full, and the gauges, so that they are right
//! also when nothing is flushed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::EngineError;
use crate::flush::FlushStep;
use crate::health::{Condition, Health};
use crate::maintain::{Maintenance, Pace, Progress, Stop};
use crate::metrics;
use crate::org::Orgs;
use crate::wal::WalDirectory;

/// A step of maintenance that changes nothing.
pub(super) struct MonitorStep {
    pub(super) orgs: Arc<Orgs>,
    pub(super) wal: Arc<WalDirectory>,
    pub(super) flush: Arc<FlushStep>,
    pub(super) health: Arc<Health>,
    pub(super) interval: Duration,
}

#[async_trait]
impl Maintenance for MonitorStep {
    fn pace(&self) -> Pace {
        Pace { idle: Duration::ZERO, interval: self.interval }
    }

    async fn run_once(&self, _: &Stop) -> Result<Progress, EngineError> {
        let budget = self.orgs.budget();
        if self.orgs.all().iter().any(|org| org.must_wait(budget)) {
            self.health.begin(Condition::WriteBuffersFull);
        } else {
            self.health.end(Condition::WriteBuffersFull);
        }
        self.health.log_what_is_over();
        metrics::sizes(budget.used(), self.wal.bytes(), self.orgs.len());
        let holds = |condition| self.health.holds(condition);
        metrics::health(
            holds(Condition::WalFull),
            holds(Condition::WalWithoutFile),
            holds(Condition::WriteBuffersFull),
            holds(Condition::StoreUnavailable),
            self.flush.failing(),
            self.orgs.troubles().len(),
        );
        Ok(Progress::Idle)
    }
}
