//! The server: binds, accepts within its limits, shuts down in order.
//!
//! Owns the endpoint, the accept loop and the recheck of standings. Does not own the sink: frames that were submitted
//! become durable, or not, whatever happens here.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::udp::UdpSocketState;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, Incoming, TokioRuntime, TransportConfig, VarInt};
use storage_format::Millis;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info};

use super::admission::Admission;
use super::budget::{Budget, Stage};
use super::connection;
use super::handshakes::Handshakes;
use crate::error::CloseCode;
use crate::limits::{IngestLimits, LimitError, WINDOW_BYTES_MIN};
use crate::metrics::{self, FrameCounters};
use crate::ports::{FrameSink, GatewayDirectory};
use crate::protocol::TimePolicy;
use crate::tls::{Answered, ConnectionIds, ServerCertificate, ServerTls, StableReset, TlsError, server_crypto};
use crate::transport::fewer_acks;

/// How often the gauges of memory are set.
const MEMORY_WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The wall clock, injected.
pub type NowFn = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What a server needs to know.
pub struct ServerConfig {
    /// Where to listen; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Certificates and keys.
    pub tls: ServerTls,
    /// What it allows.
    pub limits: IngestLimits,
    /// Which times readings may have.
    pub times: TimePolicy,
    /// The wall clock: for receive times, accepted times and the validity of certificates.
    pub now: NowFn,
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("addr", &self.addr)
            .field("limits", &self.limits)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A limit that cannot work: change the configuration.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Certificates or keys that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is taken, not of this machine, or not allowed.
    #[error("cannot listen on UDP {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

pub(super) struct Shared {
    pub(super) limits: IngestLimits,
    pub(super) times: TimePolicy,
    pub(super) now: NowFn,
    pub(super) sink: Arc<dyn FrameSink>,
    pub(super) answered: Arc<Answered>,
    pub(super) admission: Arc<Admission>,
    pub(super) budget: Arc<Budget>,
    pub(super) counters: FrameCounters,
    pub(super) draining: watch::Sender<bool>,
}

/// A listening server. Dropping it closes every connection at once; [`Server::shutdown`] is the orderly way.
pub struct Server {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    certificate: ServerCertificate,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 3],
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens and serves, on the tokio runtime that this is called in.
    ///
    /// # Errors
    /// [`ServerError`]
    pub fn bind(
        config: ServerConfig,
        sink: Arc<dyn FrameSink>,
        directory: Arc<dyn GatewayDirectory>,
    ) -> Result<Self, ServerError> {
        let ServerConfig { addr, tls, limits, times, now } = config;
        limits.check()?;
        metrics::describe();
        let bind = |source| ServerError::Bind { addr, source };
        let socket = UdpSocket::bind(addr).map_err(bind)?;
        enlarge_buffers(&socket, limits.socket_buffer_bytes);

        let answered = Answered::new(Arc::clone(&directory), limits.handshakes_max, limits.recheck_interval);
        let certificate = ServerCertificate::new(&tls)?;
        let crypto = server_crypto(&tls, &certificate, Arc::clone(&answered), Arc::clone(&now))?;
        let mut quic = quinn::ServerConfig::with_crypto(crypto);
        quic.transport_config(Arc::new(transport(&limits)))
            // As many again for those that nobody has looked at yet: past it quinn says nothing to anybody.
            .max_incoming(limits.handshakes_waiting_max.saturating_mul(2))
            .incoming_buffer_size(16 << 10)
            .incoming_buffer_size_total(16 << 20);
        let mut endpoint_config = EndpointConfig::new(Arc::new(StableReset::new(&tls)?));
        endpoint_config.cid_generator(|| Box::new(ConnectionIds));
        let endpoint = Endpoint::new(endpoint_config, Some(quic), socket, Arc::new(TokioRuntime)).map_err(bind)?;
        let local_addr = endpoint.local_addr().map_err(bind)?;

        let budget = Budget::new(&limits);
        let shared = Arc::new(Shared {
            limits,
            times,
            now,
            sink,
            answered,
            admission: Arc::new(Admission::default()),
            budget,
            counters: FrameCounters::new(),
            draining: watch::Sender::new(false),
        });
        let recheck = Arc::clone(&shared.admission).recheck(directory, shared.limits.recheck_interval);
        let accept = accept(endpoint.clone(), Arc::clone(&shared));
        let tasks =
            [tokio::spawn(accept), tokio::spawn(recheck), tokio::spawn(watch_memory(Arc::clone(&shared.budget)))];
        info!(%local_addr, "ingest listens");
        Ok(Self { endpoint, local_addr, certificate, shared, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The certificate that it shows, to be replaced while it runs.
    #[must_use]
    pub fn certificate(&self) -> &ServerCertificate {
        &self.certificate
    }

    /// Connections at present, those still in their handshake included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.admission.connections()
    }

    /// Bytes of the memory of frames that are held at present: for windows, incomplete frames, and decoded frames.
    #[must_use]
    pub fn frame_memory(&self) -> [usize; 3] {
        Stage::ALL.map(|stage| self.shared.budget.held(stage))
    }

    /// Stops in order: accepts nobody more, reads no further, answers what was submitted for at most `grace`, and
    /// closes every connection with [`CloseCode::ShuttingDown`].
    pub async fn shutdown(self, grace: Duration) {
        self.endpoint.set_server_config(None);
        self.shared.draining.send_replace(true);
        // Each stream finishes by itself once everything is answered; its counter is the number of those that listen.
        let drained = async {
            while self.shared.draining.receiver_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(grace, drained).await.is_err() {
            debug!("streams were not all answered in time");
        }
        let code = CloseCode::ShuttingDown;
        self.endpoint.close(code.var_int(), code.to_string().as_bytes());
        // What was answered last must leave the socket before the process does.
        let _ = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let code = CloseCode::ShuttingDown;
        self.endpoint.close(code.var_int(), code.to_string().as_bytes());
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn transport(limits: &IngestLimits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // An idle timeout too long to be written on the wire is a day at least; then quinn's own longest is as good.
    let idle = IdleTimeout::try_from(limits.idle_timeout).unwrap_or(IdleTimeout::from(VarInt::from_u32(u32::MAX)));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        .receive_window(VarInt::from_u32(limits.connection_window_bytes.min(WINDOW_BYTES_MIN)))
        .send_window(u64::from(limits.send_window_bytes))
        .ack_frequency_config(Some(fewer_acks()))
        .max_idle_timeout(Some(idle));
    transport
}

/// The system's default buffers hold a few hundred packets, and what comes past that is lost and sent again.
fn enlarge_buffers(socket: &UdpSocket, bytes: usize) {
    let enlarge = || {
        let state = UdpSocketState::new(socket.into())?;
        state.set_recv_buffer_size(socket.into(), bytes)?;
        state.set_send_buffer_size(socket.into(), bytes)
    };
    if let Err(error) = enlarge() {
        // It works with small ones, only slower.
        debug!(%error, "UDP socket buffers stay as they are");
    }
}

async fn watch_memory(budget: Arc<Budget>) {
    loop {
        metrics::memory_held(Stage::ALL.map(|stage| (stage.name(), budget.held(stage))));
        tokio::time::sleep(MEMORY_WATCH_INTERVAL).await;
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut handshakes = Handshakes::new(&shared.limits);
    let connections_max = shared.limits.connections_max;
    loop {
        tokio::select! {
            biased;
            place = handshakes.turn() => {
                if *shared.draining.borrow() {
                    // Those who wait are refused with this: the next process serves them.
                    return;
                }
                let Some((incoming, handshake)) = handshakes.begin(place) else { continue };
                let Some(place) = shared.admission.place(connections_max) else {
                    refuse_at_limit(incoming);
                    continue;
                };
                tokio::spawn(connection::serve(Arc::clone(&shared), incoming, place, handshake));
            }
            arrived = endpoint.accept() => match arrived {
                // There is no use in waiting for a handshake without a place for the connection.
                Some(incoming) if shared.admission.connections() >= connections_max => refuse_at_limit(incoming),
                Some(incoming) => handshakes.arrived(incoming),
                None => return,
            },
        }
    }
}

fn refuse_at_limit(incoming: Incoming) {
    metrics::connection_refused("limit");
    incoming.refuse();
}
