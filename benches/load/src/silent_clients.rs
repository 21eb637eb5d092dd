//! Clients that send nothing: idle ones, whose memory in the server is measured, and ones that all reconnect at once.
//! They run on a thread of their own, so that their handshakes do not delay the senders.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use ingest::client::{Client, ClientConfig, Endpoint, Identity};

use super::load::{HANDSHAKES_MAX, PATIENCE, Worker};
use problem::{Context, Result};

/// Interval of keep-alives: short enough for the server's idle timeout, and long enough for an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Idle timeout of the clients, longer than the interval of keep-alives.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of an attempt to connect, which is long because attempts take long when all clients reconnect at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Clients that send nothing.
#[derive(Debug)]
pub(super) struct SilentClients {
    worker: Worker,
    endpoints: Vec<Endpoint>,
    server: SocketAddr,
    identities: Vec<Identity>,
    clients: Vec<Client>,
}

async fn connect(server: SocketAddr, endpoint: Endpoint, identity: Identity) -> Result<Client> {
    let config = ClientConfig {
        endpoint: Some(endpoint),
        keep_alive: KEEP_ALIVE,
        idle_timeout: IDLE_TIMEOUT,
        connect_timeout: CONNECT_TIMEOUT,
        patience: PATIENCE,
        ..ClientConfig::new(server.to_string(), identity)
    };
    Client::connect(config).await.context(|| "a gateway cannot connect".to_owned())
}

impl SilentClients {
    /// Connects a client for each identity, some at a time.
    ///
    /// # Errors
    /// When a client cannot connect.
    pub(super) async fn connect(server: SocketAddr, identities: Vec<Identity>) -> Result<Self> {
        let worker = Worker::start("bench-silent")?;
        let endpoints = worker.endpoints(server, identities.len()).await?;
        let mut this = Self { worker, endpoints, server, identities, clients: Vec::new() };
        this.clients = this.connect_all(HANDSHAKES_MAX).await?;
        Ok(this)
    }

    async fn connect_all(&self, concurrency: usize) -> Result<Vec<Client>> {
        let connecting = self.identities.iter().zip(self.endpoints.iter().cycle()).map(|(identity, endpoint)| {
            let (server, endpoint, identity) = (self.server, endpoint.clone(), identity.clone());
            self.worker.run(connect(server, endpoint, identity))
        });
        stream::iter(connecting).buffer_unordered(concurrency.max(1)).try_collect().await
    }

    /// Closes all connections, and reconnects all clients at once. Returns the time until the last one was connected.
    ///
    /// # Errors
    /// When a client cannot connect.
    pub(super) async fn reconnect_all(&mut self) -> Result<Duration> {
        self.clients.clear();
        let started = Instant::now();
        self.clients = self.connect_all(self.identities.len()).await?;
        Ok(started.elapsed())
    }

    /// Returns the number of clients.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }
}
