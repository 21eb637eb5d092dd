//! The memory of frames on their way in, for the whole process: who may hold how much of it, and who has to wait.
//!
//! Three stages, each with its own bytes: what QUIC may take in before it is read (`windows`), frames that are not yet
//! complete (`receiving`), and decoded ones that wait for the sink (`decoded`). A frame's bytes are taken all at once,
//! before they are collected, and a holder waits only for a later stage; the last one waits for the sink. So nobody
//! waits in a circle. Within a stage whoever waits is served in order, and takes first from the gateway's share, then
//! from the organisation's, then from what all have: one gateway gets a sixteenth at most, an organisation half.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage_format::OrgId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::IngestLimits;
use crate::ports::GatewayIdentity;

/// What one gateway may hold of a stage: this part of it.
const GATEWAY_PART: usize = 16;
/// What one organisation may hold.
const ORG_PART: usize = 2;

/// What the bytes are held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Flow-control credit beyond what every connection has.
    Windows,
    /// Frames that are not yet complete.
    Receiving,
    /// Decoded frames that the sink has not yet taken.
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

/// The bytes of the three stages, for one gateway, one organisation, or all.
struct Purse([Arc<Semaphore>; 3]);

/// Of one stage.
#[derive(Debug, Clone, Copy)]
struct Bytes {
    all: usize,
    /// The most that is ever asked for at once.
    item_max: usize,
}

impl Purse {
    fn new(stages: [Bytes; 3], part: usize) -> Self {
        // The largest single thing always fits, or it would wait for ever.
        Self(stages.map(|bytes| Arc::new(Semaphore::new((bytes.all / part).max(bytes.item_max)))))
    }

    fn of(&self, stage: Stage) -> &Arc<Semaphore> {
        &self.0[stage as usize]
    }
}

type Known<K> = Mutex<HashMap<K, (Arc<Purse>, usize)>>;

/// All the memory there is.
pub(super) struct Budget {
    stages: [Bytes; 3],
    all: Purse,
    orgs: Known<OrgId>,
    gateways: Known<Option<GatewayIdentity>>,
}

/// One connection's access to it. The shares of a gateway's connections are the same.
pub(super) struct Share {
    budget: Arc<Budget>,
    from: Option<GatewayIdentity>,
    purses: [Arc<Purse>; 2],
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    _permits: [OwnedSemaphorePermit; 3],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter<K: Hash + Eq>(known: &Known<K>, key: K, make: impl FnOnce() -> Purse) -> Arc<Purse> {
    let mut known = lock(known);
    let (purse, shares) = known.entry(key).or_insert_with(|| (Arc::new(make()), 0));
    *shares += 1;
    Arc::clone(purse)
}

fn leave<K: Hash + Eq>(known: &Known<K>, key: &K) {
    let mut known = lock(known);
    if let Some((_, shares)) = known.get_mut(key) {
        *shares -= 1;
        if *shares == 0 {
            known.remove(key);
        }
    }
}

impl Budget {
    pub(super) fn new(limits: &IngestLimits) -> Arc<Self> {
        let quarter = limits.frame_memory_bytes / 4;
        let stages = [
            Bytes { all: limits.frame_memory_bytes - 2 * quarter, item_max: limits.window_beyond_bytes() as usize },
            Bytes { all: quarter, item_max: limits.collected_bytes_max() },
            Bytes { all: quarter, item_max: limits.decoded_bytes_max() },
        ];
        Arc::new(Self { stages, all: Purse::new(stages, 1), orgs: Mutex::default(), gateways: Mutex::default() })
    }

    /// A connection of this gateway; `None`: one whose frames are refused. All of those together have one share.
    pub(super) fn share(self: &Arc<Self>, from: Option<GatewayIdentity>) -> Share {
        let gateway = enter(&self.gateways, from, || Purse::new(self.stages, GATEWAY_PART));
        let org = match from {
            Some(from) => enter(&self.orgs, from.org, || Purse::new(self.stages, ORG_PART)),
            None => Arc::new(Purse::new(self.stages, ORG_PART)),
        };
        Share { budget: Arc::clone(self), from, purses: [gateway, org] }
    }

    /// What is held of a stage at present.
    pub(super) fn held(&self, stage: Stage) -> usize {
        self.stages[stage as usize].all.saturating_sub(self.all.of(stage).available_permits())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        leave(&self.budget.gateways, &self.from);
        if let Some(from) = self.from {
            leave(&self.budget.orgs, &from.org);
        }
    }
}

impl Share {
    /// Holds so many bytes, if there is room at once.
    pub(super) fn try_hold(&self, stage: Stage, bytes: usize) -> Option<Held> {
        let [gateway, org] = &self.purses;
        let count = self.count(stage, bytes);
        let take = |purse: &Purse| Arc::clone(purse.of(stage)).try_acquire_many_owned(count).ok();
        Some(Held { _permits: [take(gateway)?, take(org)?, take(&self.budget.all)?] })
    }

    /// Waits for room, and holds so many bytes. `None` cannot happen: these semaphores are never closed.
    pub(super) async fn hold(&self, stage: Stage, bytes: usize) -> Option<Held> {
        let [gateway, org] = &self.purses;
        let count = self.count(stage, bytes);
        let take = |purse: &Purse| Arc::clone(purse.of(stage)).acquire_many_owned(count);
        let gateway = take(gateway).await.ok()?;
        let org = take(org).await.ok()?;
        Some(Held { _permits: [gateway, org, take(&self.budget.all).await.ok()?] })
    }

    fn count(&self, stage: Stage, bytes: usize) -> u32 {
        // Nothing asks for more than the largest item; if it did, it would have to wait for ever.
        debug_assert!(bytes <= self.budget.stages[stage as usize].item_max, "{stage:?}: {bytes} bytes");
        u32::try_from(bytes.min(self.budget.stages[stage as usize].item_max)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
