//! Budget of the memory for incoming frames, for the whole process: how much each gateway and organisation may reserve.
//!
//! There are three stages, each with bytes of its own: what QUIC may receive before it is read (`windows`), incomplete
//! frames (`receiving`), and decoded frames that wait for the sink (`decoded`). All bytes of a frame are reserved at
//! once, when its first bytes arrive. A task that holds a reservation waits only for a later stage, and one with the
//! last stage waits for the sink, so that there is no deadlock. Within a stage the waiting tasks are served in order. A
//! reservation is taken first from the gateway's share, then from the organisation's, then from the total: one gateway
//! gets a sixteenth at most, an organisation half.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage_format::OrgId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::IngestLimits;
use crate::ports::GatewayIdentity;

/// Divisor of a stage for the share of one gateway.
const GATEWAY_PART: usize = 16;
/// Divisor of a stage for the share of one organisation.
const ORG_PART: usize = 2;

/// Purpose of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Flow-control credit beyond what every connection has.
    Windows,
    /// Incomplete frames.
    Receiving,
    /// Decoded frames that the sink has not yet accepted.
    Decoded,
}

impl Stage {
    pub(super) const ALL: [Self; 3] = [Self::Windows, Self::Receiving, Self::Decoded];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Receiving => "receiving",
            Self::Decoded => "decoded",
        }
    }
}

/// Permits for the bytes of the three stages, for one gateway, one organisation, or in total.
struct StagePermits([Arc<Semaphore>; 3]);

/// Size of one stage.
#[derive(Debug, Clone, Copy)]
struct StageBytes {
    total: usize,
    /// Size limit of one reservation.
    item_max: usize,
}

impl StagePermits {
    fn new(stages: [StageBytes; 3], part: usize) -> Self {
        // The largest reservation must always fit, or it would wait for ever.
        Self(stages.map(|bytes| Arc::new(Semaphore::new((bytes.total / part).max(bytes.item_max)))))
    }

    fn of(&self, stage: Stage) -> &Arc<Semaphore> {
        &self.0[stage as usize]
    }
}

/// Permits by key, each with the number of shares that use them.
type PermitsByKey<K> = Mutex<HashMap<K, (Arc<StagePermits>, usize)>>;

/// The budget of the whole process.
pub(super) struct Budget {
    stages: [StageBytes; 3],
    total: StagePermits,
    orgs: PermitsByKey<OrgId>,
    gateways: PermitsByKey<Option<GatewayIdentity>>,
}

/// One connection's access to the budget. All connections of a gateway use the same permits.
pub(super) struct Share {
    budget: Arc<Budget>,
    from: Option<GatewayIdentity>,
    /// Permits of the gateway and of its organisation.
    permits: [Arc<StagePermits>; 2],
}

/// Reserved bytes, released when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    _permits: [OwnedSemaphorePermit; 3],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the permits of a key, and creates them for its first share.
fn add_share<K: Hash + Eq>(
    by_key: &PermitsByKey<K>,
    key: K,
    create: impl FnOnce() -> StagePermits,
) -> Arc<StagePermits> {
    let mut by_key = lock(by_key);
    let (permits, shares) = by_key.entry(key).or_insert_with(|| (Arc::new(create()), 0));
    *shares += 1;
    Arc::clone(permits)
}

/// Removes the permits of a key with its last share.
fn remove_share<K: Hash + Eq>(by_key: &PermitsByKey<K>, key: &K) {
    let mut by_key = lock(by_key);
    if let Some((_, shares)) = by_key.get_mut(key) {
        *shares -= 1;
        if *shares == 0 {
            by_key.remove(key);
        }
    }
}

impl Budget {
    pub(super) fn new(limits: &IngestLimits) -> Arc<Self> {
        let quarter = limits.frame_memory_bytes / 4;
        let stages = [
            StageBytes {
                total: limits.frame_memory_bytes - 2 * quarter,
                item_max: limits.extra_window_bytes() as usize,
            },
            StageBytes { total: quarter, item_max: limits.incomplete_frame_bytes_max() },
            StageBytes { total: quarter, item_max: limits.decoded_frame_bytes_max() },
        ];
        Arc::new(Self {
            stages,
            total: StagePermits::new(stages, 1),
            orgs: Mutex::default(),
            gateways: Mutex::default(),
        })
    }

    /// Returns the share of a connection of this gateway. `None` stands for a connection whose frames are refused; all
    /// of these use the same permits of a gateway.
    pub(super) fn share(self: &Arc<Self>, from: Option<GatewayIdentity>) -> Share {
        let gateway = add_share(&self.gateways, from, || StagePermits::new(self.stages, GATEWAY_PART));
        let org = match from {
            Some(from) => add_share(&self.orgs, from.org, || StagePermits::new(self.stages, ORG_PART)),
            None => Arc::new(StagePermits::new(self.stages, ORG_PART)),
        };
        Share { budget: Arc::clone(self), from, permits: [gateway, org] }
    }

    /// Returns the bytes of a stage that are reserved at present.
    pub(super) fn held(&self, stage: Stage) -> usize {
        self.stages[stage as usize].total.saturating_sub(self.total.of(stage).available_permits())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        remove_share(&self.budget.gateways, &self.from);
        if let Some(from) = self.from {
            remove_share(&self.budget.orgs, &from.org);
        }
    }
}

impl Share {
    /// Reserves bytes if they are available at once.
    pub(super) fn try_reserve(&self, stage: Stage, bytes: usize) -> Option<Reservation> {
        let [gateway, org] = &self.permits;
        let count = self.count(stage, bytes);
        let take = |permits: &StagePermits| Arc::clone(permits.of(stage)).try_acquire_many_owned(count).ok();
        Some(Reservation { _permits: [take(gateway)?, take(org)?, take(&self.budget.total)?] })
    }

    /// Waits for bytes and reserves them. `None` cannot happen, because these semaphores are never closed.
    pub(super) async fn reserve(&self, stage: Stage, bytes: usize) -> Option<Reservation> {
        let [gateway, org] = &self.permits;
        let count = self.count(stage, bytes);
        let take = |permits: &StagePermits| Arc::clone(permits.of(stage)).acquire_many_owned(count);
        let gateway = take(gateway).await.ok()?;
        let org = take(org).await.ok()?;
        Some(Reservation { _permits: [gateway, org, take(&self.budget.total).await.ok()?] })
    }

    fn count(&self, stage: Stage, bytes: usize) -> u32 {
        // No caller asks for more than the largest item, because it would wait for ever.
        debug_assert!(bytes <= self.budget.stages[stage as usize].item_max, "{stage:?}: {bytes} bytes");
        u32::try_from(bytes.min(self.budget.stages[stage as usize].item_max)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
