//! Organisations that are not loaded: the background looks at a few of them in each interval, and loads those that have
//! something to merge, one at a time, or objects for the garbage collection, such as what a merge without a server has
//! replaced.
//!
//! A look costs two lists and the reads of up to 64 versions of a manifest. What is not loaded does not change, but for the
//! month that begins; so each is looked at once in a process and month, and a round, which finds those that were never
//! looked at, begins once a day at most. Nothing of it happens within a start.
//!
//! In memory are the ids of those that are left of a round and of those that had nothing, and one manifest while it is
//! looked at.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage_format::{OrgId, Window};

use super::{Compactor, Traffic};
use crate::error::EngineError;

/// Organisations that are looked at in one interval.
const LOOKS: usize = 8;
/// From the begin of a round to the next one, at least.
const ROUND: Duration = Duration::from_secs(86_400);
/// From a list of organisations that failed to the next try.
const RETRY: Duration = Duration::from_secs(600);

/// The walk over all organisations of the store.
pub(super) struct Walker {
    compactor: Arc<Compactor>,
    interval: Duration,
    walk: Mutex<Walk>,
}

/// Progress of the walk. Times are monotonic.
#[derive(Debug, Default)]
struct Walk {
    /// Organisations that are left of this round, the next one last.
    left: Vec<OrgId>,
    /// The month in which those in `idle` were looked at.
    month: Option<Window>,
    /// Organisations that had nothing.
    idle: HashSet<OrgId>,
    next_look: Duration,
    next_round: Duration,
}

impl Walker {
    pub(super) fn new(compactor: &Arc<Compactor>, interval: Duration) -> Self {
        Self { compactor: Arc::clone(compactor), interval, walk: Mutex::default() }
    }

    fn walk(&self) -> MutexGuard<'_, Walk> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the next few, if it is time.
    ///
    /// # Errors
    /// What must end the engine. An organisation that cannot be looked at is passed over until the next round.
    pub(super) async fn go_on(&self, traffic: &Traffic) -> Result<(), EngineError> {
        if !self.is_due() {
            return Ok(());
        }
        if self.walk().left.is_empty() {
            self.begin_round().await?;
        }
        for _ in 0..LOOKS {
            if traffic.is_stopped() || traffic.is_heavy() {
                return Ok(());
            }
            let Some(org) = self.next() else { return Ok(()) };
            match self.load_if_it_has_work(org).await {
                // Its merges come first.
                Ok(true) => return Ok(()),
                Ok(false) => self.found_nothing(org),
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => tracing::debug!(%org, %error, "an organisation is not looked at for merges"),
            }
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let now = self.compactor.clock.monotonic();
        let mut walk = self.walk();
        if now < walk.next_look || (walk.left.is_empty() && now < walk.next_round) {
            return false;
        }
        walk.next_look = now.saturating_add(self.interval);
        true
    }

    async fn begin_round(&self) -> Result<(), EngineError> {
        let listed = self.compactor.source.all().await;
        let (now, month) = (self.compactor.clock.monotonic(), Window::month_of(self.compactor.clock.now()));
        let mut walk = self.walk();
        match listed {
            Ok(mut all) => {
                if walk.month.replace(month) != Some(month) {
                    walk.idle.clear();
                }
                all.retain(|org| !walk.idle.contains(org));
                all.reverse();
                walk.left = all;
                walk.next_round = now.saturating_add(ROUND);
                Ok(())
            }
            Err(error) if error.ends_the_engine() => Err(error),
            Err(error) => {
                walk.next_round = now.saturating_add(RETRY);
                tracing::debug!(%error, "organisations are not listed for merges now; it is tried again");
                Ok(())
            }
        }
    }

    /// The next one that is not loaded.
    fn next(&self) -> Option<OrgId> {
        let mut walk = self.walk();
        while let Some(org) = walk.left.pop() {
            if self.compactor.orgs.get(org).is_none() {
                return Some(org);
            }
        }
        // Let go of the memory until the next round.
        walk.left = Vec::new();
        None
    }

    /// It need not be looked at again in this month.
    fn found_nothing(&self, org: OrgId) {
        let month = Window::month_of(self.compactor.clock.now());
        let mut walk = self.walk();
        if walk.month == Some(month) {
            walk.idle.insert(org);
        }
    }

    /// Returns whether it has something to merge. One that has orphans is loaded, too, which is all that they need.
    async fn load_if_it_has_work(&self, org: OrgId) -> Result<bool, EngineError> {
        let source = &self.compactor.source;
        let Some(manifest) = source.look(org).await? else { return Ok(false) };
        let has_work = self.compactor.has_work(&manifest);
        if has_work || source.has_orphans(org, &manifest).await? {
            source.load(org).await?;
        }
        Ok(has_work)
    }
}
