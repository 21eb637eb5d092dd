//! Which windows are being merged now, and how much merges may take together: one merge of a window at a time, whoever
//! asked for it, and no more memory and cores than the settings say.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage_format::{OrgId, Window};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit of memory: a semaphore counts no further than 32 bits.
const PERMIT_BYTES: u64 = 1 << 10;

/// The merges of one engine.
#[derive(Debug)]
pub(super) struct Claims {
    windows: Mutex<HashSet<(OrgId, Window)>>,
    released: Notify,
    running: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    memory_permits: u32,
}

/// The right to merge a window. Nobody else merges it while this lives.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    window: (OrgId, Window),
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.windows().remove(&self.window);
        self.claims.released.notify_waiters();
    }
}

impl Claims {
    /// At most `merges` at the same time, of inputs of `bytes` together.
    pub(super) fn new(merges: usize, bytes: u64) -> Arc<Self> {
        let permits = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        Arc::new(Self {
            windows: Mutex::default(),
            released: Notify::new(),
            running: Arc::new(Semaphore::new(merges.max(1))),
            memory: Arc::new(Semaphore::new(permits as usize)),
            memory_permits: permits,
        })
    }

    fn windows(&self) -> MutexGuard<'_, HashSet<(OrgId, Window)>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a window; `None` while somebody else has it.
    pub(super) fn claim(self: &Arc<Self>, org: OrgId, window: Window) -> Option<Claim> {
        let window = (org, window);
        self.windows().insert(window).then(|| Claim { claims: Arc::clone(self), window })
    }

    /// Waits until a window of this organisation is given back; returns at once if none is claimed.
    pub(super) async fn released(&self, org: OrgId) {
        let mut released = std::pin::pin!(self.released.notified());
        // Before the look, so that nothing that comes after it is missed.
        released.as_mut().enable();
        if self.windows().iter().any(|(of, _)| *of == org) {
            released.await;
        }
    }

    /// Waits for room for a merge of so many bytes. One that is too large for all of the memory gets all of it.
    pub(super) async fn room(&self, bytes: u64) -> Option<[OwnedSemaphorePermit; 2]> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.memory_permits);
        // The semaphores are never closed.
        let running = Arc::clone(&self.running).acquire_owned().await.ok()?;
        let memory = Arc::clone(&self.memory).acquire_many_owned(permits).await.ok()?;
        Some([running, memory])
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn org(id: u64) -> OrgId {
        OrgId::new(id).expect("not zero")
    }

    #[tokio::test]
    async fn a_window_is_merged_once_at_a_time() {
        let claims = Claims::new(2, 1 << 20);
        let may: Window = "2024050100-2024060100".parse().expect("a window");
        let june: Window = "2024060100-2024070100".parse().expect("a window");
        let claim = claims.claim(org(1), may).expect("nobody has it");
        assert!(claims.claim(org(1), may).is_none());
        let _others = (claims.claim(org(2), may).expect("another"), claims.claim(org(2), june).expect("another"));
        assert!(claims.released(org(1)).now_or_never().is_none(), "it waits");
        let (released, ()) = futures::join!(claims.released(org(1)).map(|()| true), async { drop(claim) });
        assert!(released && claims.claim(org(1), may).is_some());
        assert!(claims.released(org(1)).now_or_never().is_some(), "nothing to wait for");
    }

    #[tokio::test]
    async fn merges_share_memory() {
        let claims = Claims::new(3, 10 << 10);
        let six = claims.room(6 << 10).await.expect("room");
        let four = claims.room(4 << 10).await.expect("room");
        assert!(claims.room(1).now_or_never().is_none(), "all memory is taken");
        drop((six, four));
        let all = claims.room(1 << 40).await.expect("however large");
        assert!(claims.room(1).now_or_never().is_none(), "all memory is taken");
        drop(all);
    }
}
