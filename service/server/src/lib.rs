//! HTTP: SQL and exports for programs with tokens; health, readiness and metrics for operators.
//!
//! It answers from the first moment: until the engine has recovered, `/readyz` says 503 and questions wait for it.
//! Every request has a limit of size, of time, and of how many there are at once, over all and per organisation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use control::Standings;
use engine::Engine;
use query::QueryEngine;
use storage_format::OrgId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

mod answer;
mod auth;
mod body;
mod config;
mod error;
mod export;
mod health;
mod listen;
mod request;
mod routes;
mod sql;

use answer::Patience;
pub use config::HttpConfig;
use error::HttpError;
pub use health::{Condition, Health, HealthCheck};
pub use listen::serve;

/// What answers questions once the engine has recovered.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Readings.
    pub engine: Arc<Engine>,
    /// Questions about them.
    pub query: QueryEngine,
    /// Whether frames are taken.
    pub health: HealthCheck,
}

/// Renders the process's metrics, as Prometheus reads them.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What all handlers share.
#[derive(Debug, Clone)]
pub struct HttpState(Arc<Shared>);

struct Shared {
    config: HttpConfig,
    standings: Standings,
    metrics: RenderMetrics,
    backend: watch::Receiver<Option<Backend>>,
    requests: Arc<Semaphore>,
    per_org: Arc<Mutex<HashMap<OrgId, usize>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A place among the requests at once; free again when dropped.
#[derive(Debug)]
struct Place {
    _request: OwnedSemaphorePermit,
    org: OrgId,
    per_org: Arc<Mutex<HashMap<OrgId, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut per_org = self.per_org.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_org.get_mut(&self.org) {
            *count -= 1;
            if *count == 0 {
                per_org.remove(&self.org);
            }
        }
    }
}

impl HttpState {
    /// The state of a server whose engine comes later, through `backend`.
    #[must_use]
    pub fn new(
        config: HttpConfig,
        standings: Standings,
        metrics: RenderMetrics,
        backend: watch::Receiver<Option<Backend>>,
    ) -> Self {
        let requests = Arc::new(Semaphore::new(config.requests_max.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared { config, standings, metrics, backend, requests, per_org: Arc::default() }))
    }

    /// How long a response may take, of this much time for the whole of it.
    fn patience(&self, time_max: Duration) -> Patience {
        Patience { time_max, stall_max: self.0.config.stall_timeout }
    }

    /// A place for a request of this organisation, or 503 or 429.
    fn place(&self, org: OrgId) -> Result<Place, HttpError> {
        let shared = &self.0;
        let request = Arc::clone(&shared.requests).try_acquire_owned().map_err(|_| HttpError::busy())?;
        let mut per_org = shared.per_org.lock().unwrap_or_else(PoisonError::into_inner);
        let count = per_org.entry(org).or_default();
        if *count >= shared.config.requests_per_org_max {
            return Err(HttpError::too_many(shared.config.requests_per_org_max));
        }
        *count += 1;
        drop(per_org);
        Ok(Place { _request: request, org, per_org: Arc::clone(&shared.per_org) })
    }

    /// The backend, once it is there, with this organisation in it; waits at most so long.
    async fn backend(&self, org: OrgId, time_max: Duration) -> Result<Backend, HttpError> {
        let mut backend = self.0.backend.clone();
        // Read again afterwards: what the waiting itself returns is a lock, not to be held while waiting on.
        let _ = tokio::time::timeout(time_max, backend.wait_for(Option::is_some)).await.is_ok();
        let backend = backend.borrow().clone().ok_or_else(HttpError::starting)?;
        let loaded = backend.engine.ensure_org(org).await;
        loaded.map_err(|error| HttpError::engine(&error, "an organisation cannot be loaded"))?;
        Ok(backend)
    }
}

/// All routes, over this state.
pub fn router(state: HttpState) -> Router {
    routes::router(state)
}

#[cfg(test)]
mod tests;
