//! HTTP: SQL and exports for programs with tokens; health, readiness and metrics for operators.
//!
//! It answers from the first moment: until the engine has recovered, `/readyz` says 503 and questions wait for it.
//! Every request has a limit of size, of time, and of how many there are at once, over all and per organisation. More
//! requests than may run wait for their turn ([`query::Turns`]).

use std::sync::Arc;

use axum::Router;
use control::Standings;
use engine::Engine;
use query::{InFlight, QueryEngine, Turn, TurnKind, Turns};
use storage_format::OrgId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

mod accept;
mod answer;
mod auth;
mod body;
mod config;
mod error;
mod export;
mod health;
mod listen;
mod metrics;
mod request;
mod routes;
mod sql;

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
    turns: Turns,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl HttpState {
    /// The state of a server whose engine comes later, through `backend`. Requests take these turns, which are those of
    /// its queries.
    #[must_use]
    pub fn new(
        config: HttpConfig,
        turns: Turns,
        standings: Standings,
        metrics: RenderMetrics,
        backend: watch::Receiver<Option<Backend>>,
    ) -> Self {
        metrics::describe();
        Self(Arc::new(Shared { config, standings, metrics, backend, turns }))
    }

    /// Counts a request of this organisation as in flight, or refuses it with 503 or 429.
    fn enter(&self, org: OrgId) -> Result<InFlight, HttpError> {
        Ok(self.0.turns.enter(org)?)
    }

    /// Waits for the turn of a request, within its own time.
    async fn turn(&self, request: &InFlight, kind: TurnKind, deadline: Instant) -> Result<Turn, HttpError> {
        let begun = Instant::now();
        let turn = timeout_at(deadline, request.turn(kind)).await;
        metrics::waited(kind, begun.elapsed());
        Ok(turn.map_err(|_| HttpError::timeout("the request's turn did not come before its time was over"))??)
    }

    /// The backend, once it is there, with this organisation in it; waits until the deadline at most.
    async fn backend(&self, org: OrgId, deadline: Instant) -> Result<Backend, HttpError> {
        let mut backend = self.0.backend.clone();
        // Read again afterwards: what the waiting itself returns is a lock, not to be held while waiting on.
        let _ = timeout_at(deadline, backend.wait_for(Option::is_some)).await.is_ok();
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
