//! Those who only hold a connection: idle ones, whose memory in the server is measured, and ones that all come back at
//! once. They have a thread of their own, so that their handshakes do not hold up those who send.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use ingest::client::{Client, ClientConfig, Endpoint, Identity};

use super::load::{HANDSHAKES, PATIENCE, Worker};
use problem::{Context, Result};

/// Often enough for the server's patience with silence, and rarely enough to be idle.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longer than a keep-alive.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A storm is rough: attempts to connect are given up late.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that send nothing.
#[derive(Debug)]
pub(super) struct Crowd {
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

impl Crowd {
    /// Connects all of them, some at a time.
    ///
    /// # Errors
    /// When one cannot.
    pub(super) async fn connect(server: SocketAddr, identities: Vec<Identity>) -> Result<Self> {
        let worker = Worker::start("bench-crowd")?;
        let endpoints = worker.endpoints(server, identities.len()).await?;
        let mut this = Self { worker, endpoints, server, identities, clients: Vec::new() };
        this.clients = this.connect_all(HANDSHAKES).await?;
        Ok(this)
    }

    async fn connect_all(&self, at_once: usize) -> Result<Vec<Client>> {
        let connecting = self.identities.iter().zip(self.endpoints.iter().cycle()).map(|(identity, endpoint)| {
            let (server, endpoint, identity) = (self.server, endpoint.clone(), identity.clone());
            self.worker.run(connect(server, endpoint, identity))
        });
        stream::iter(connecting).buffer_unordered(at_once.max(1)).try_collect().await
    }

    /// All of them lose their connections, and come back at once. Tells how long it took until the last one was there.
    ///
    /// # Errors
    /// When one cannot.
    pub(super) async fn storm(&mut self) -> Result<Duration> {
        self.clients.clear();
        let begun = Instant::now();
        self.clients = self.connect_all(self.identities.len()).await?;
        Ok(begun.elapsed())
    }

    /// How many.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }
}
