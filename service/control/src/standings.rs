//! Who every certificate and every token is, in memory: what the network asks never waits for the database.
//!
//! Owns a snapshot of all gateways and tokens with the standing of their organisations, and the task that replaces it
//! when the database changes, whichever process changed it. The task looks every quarter of a second, which is one small
//! statement, and reads only what the audit log says has changed.
//!
//! Two rules say how old an answer may be:
//! - Whoever is not in the snapshot may have been added a moment ago by a command beside the server. Then a look that
//!   begins after the question decides. All questions that wait share one look, and looks have a distance, so that
//!   strangers cannot keep the database busy.
//! - When the database cannot be read, the snapshot counts for [`Pace::stale_max`] more. After that every answer is
//!   `Unavailable`, because a revoked certificate must not live on while the disk is away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{SHA256, digest};
use storage_format::{GatewayId, Millis, OrgId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Control;
use crate::error::{Error, ErrorKind, Result, Subject};

mod load;
mod snapshot;

use load::Loader;
use snapshot::Snapshot;

/// What a gateway's identity or a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In good standing, for this organisation.
    Good(OrgId),
    /// Revoked by an operator.
    Revoked,
    /// Its organisation is suspended.
    Suspended,
}

/// A gateway, by its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayStanding {
    /// The gateway.
    pub id: GatewayId,
    /// When its certificate ends.
    pub expires: Millis,
    /// How it stands, but for time that passes.
    pub standing: Standing,
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How often the task looks whether the database has changed.
    poll: Duration,
    /// The least distance between the beginnings of two looks.
    gap: Duration,
    /// How long a question waits for a look.
    wait_max: Duration,
    /// How long the snapshot counts when the database cannot be read.
    stale_max: Duration,
}

impl Pace {
    const DEFAULT: Self = Self {
        poll: Duration::from_millis(250),
        gap: Duration::from_millis(20),
        wait_max: Duration::from_secs(2),
        stale_max: Duration::from_secs(30),
    };
}

/// The standing of every gateway and every token. Cheap to clone; the task ends with the last clone.
#[derive(Debug, Clone)]
pub struct Standings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: ArcSwap<Snapshot>,
    pace: Pace,
    started: Instant,
    /// How many looks have begun.
    begun: AtomicU64,
    /// The last look that has ended.
    ended: watch::Sender<Look>,
    /// When the last look that could read the database ended, in milliseconds since `started`.
    good_ms: AtomicU64,
    wanted: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// A look at the database that has ended.
#[derive(Debug, Clone)]
struct Look {
    number: u64,
    at: Instant,
    failed: Option<Error>,
}

impl Standings {
    /// Reads all gateways and tokens, and begins to watch the database.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn start(control: &Control) -> Result<Self> {
        Self::with_pace(control, Pace::DEFAULT).await
    }

    async fn with_pace(control: &Control, pace: Pace) -> Result<Self> {
        let mut loader = Loader::new(control.clone());
        let snapshot = loader.look(&Snapshot::default()).await?.unwrap_or_default();
        let started = Instant::now();
        let inner = Arc::new(Inner {
            snapshot: ArcSwap::from_pointee(snapshot),
            pace,
            started,
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(Look { number: 0, at: started, failed: None }),
            good_ms: AtomicU64::new(0),
            wanted: Arc::default(),
            task: Mutex::default(),
        });
        let task = tokio::spawn(watch_database(Arc::downgrade(&inner), loader, pace, Arc::clone(&inner.wanted)));
        *inner.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(Self(inner))
    }

    /// The gateway whose certificate has this SHA-256; `None` when there is none. Waits only for one that is not in
    /// memory.
    ///
    /// # Errors
    /// `Unavailable` when the database could not be read for too long, or cannot tell about one that is not in memory.
    pub async fn gateway(&self, fingerprint: &[u8; 32]) -> Result<Option<GatewayStanding>> {
        self.find(|snapshot| snapshot.gateway(fingerprint), |_| true).await
    }

    /// The standing of this token; `None` when there is none. Waits only for one that is not in memory, or whose
    /// organisation is suspended: the suspension may have been lifted a moment ago.
    ///
    /// # Errors
    /// As [`Self::gateway`].
    pub async fn token(&self, secret: &str) -> Result<Option<Standing>> {
        if !secret.starts_with(crate::database::TOKEN_PREFIX) {
            return Ok(None);
        }
        let hash = sha256(secret);
        let settled = |standing: &Standing| *standing != Standing::Suspended;
        self.find(|snapshot| snapshot.token(&hash), settled).await
    }

    /// A number that becomes another one with every change; `None` when the database could not be read for too long.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.is_fresh().then(|| self.0.snapshot.load().version())
    }

    /// Ends the watch, so that the database can be closed.
    pub async fn stop(&self) {
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // Only cancelled: nothing is lost with it.
            let _cancelled = task.await;
        }
    }

    fn is_fresh(&self) -> bool {
        let good = Duration::from_millis(self.0.good_ms.load(Ordering::Acquire));
        self.0.started.elapsed().saturating_sub(good) < self.0.pace.stale_max
    }

    async fn find<T>(&self, find: impl Fn(&Snapshot) -> Option<T>, settled: impl Fn(&T) -> bool) -> Result<Option<T>> {
        let found = find(&self.0.snapshot.load());
        let fresh = self.is_fresh();
        if fresh && found.as_ref().is_some_and(settled) {
            return Ok(found);
        }
        match self.look().await {
            Ok(()) => Ok(find(&self.0.snapshot.load())),
            Err(_) if fresh && found.is_some() => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// Waits for a look at the database that begins after this call.
    async fn look(&self) -> Result<()> {
        let unavailable =
            || Error::new(ErrorKind::Unavailable, Subject::Database, "the control database does not answer");
        let mut ended = self.0.ended.subscribe();
        {
            // While the database cannot be read, the watch finds out often enough for everybody.
            let last = ended.borrow();
            if let Some(error) = &last.failed
                && last.at.elapsed() < 2 * self.0.pace.poll
            {
                return Err(error.clone());
            }
        }
        let before = self.0.begun.load(Ordering::Acquire);
        self.0.wanted.notify_one();
        let looked = ended.wait_for(|look| look.number > before);
        match tokio::time::timeout(self.0.pace.wait_max, looked).await {
            Ok(Ok(look)) => look.failed.clone().map_or(Ok(()), Err),
            Ok(Err(_)) | Err(_) => Err(unavailable()),
        }
    }
}

/// SHA-256 of a token's text, by which it is known.
pub(crate) fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

/// Looks at the database at intervals, when a question waits for it, and when this process has changed it.
async fn watch_database(inner: Weak<Inner>, mut loader: Loader, pace: Pace, wanted: Arc<Notify>) {
    let mut changed = loader.changed();
    let mut failing = false;
    loop {
        let begun_at = Instant::now();
        let Some(this) = inner.upgrade() else { return };
        let number = this.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let current = this.snapshot.load_full();
        let failed = match loader.look(&current).await {
            Ok(next) => {
                if let Some(next) = next {
                    this.snapshot.store(Arc::new(next));
                }
                let since = u64::try_from(this.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                this.good_ms.store(since, Ordering::Release);
                None
            }
            Err(error) => Some(error),
        };
        match (&failed, failing) {
            (Some(error), false) => tracing::error!(
                %error,
                stale_max = ?pace.stale_max,
                "the control database cannot be read; what was known of gateways and tokens counts a while longer"
            ),
            (None, true) => tracing::info!("the control database can be read again"),
            _ => {}
        }
        failing = failed.is_some();
        this.ended.send_replace(Look { number, at: Instant::now(), failed });
        drop(this);
        tokio::select! {
            () = tokio::time::sleep(pace.poll) => {}
            () = wanted.notified() => {}
            _ = changed.changed() => {}
        }
        tokio::time::sleep_until(begun_at + pace.gap).await;
    }
}

#[cfg(test)]
mod tests;
