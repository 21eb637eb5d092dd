//! Attempts to connect, with random pauses that double, until every frame has a response, an error is permanent, or the
//! client's patience ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, IdleTimeout, TransportConfig, VarInt};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::config::ClientConfig;
use super::connection;
use super::endpoint::Endpoint;
use super::error::{ClientError, ConnectionFailure};
use super::session::ClientInner;
use crate::error::CloseCode;
use crate::tls::{client_crypto, random};
use crate::transport::fewer_acks;

/// Limit of the bytes in flight: throughput × round trip. They are the spool's own bytes, not copies.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// Receive window, which is small because responses are small.
const RECEIVE_WINDOW_BYTES: u32 = 256 << 10;
/// Round trip assumed before the first one is measured. A lost first packet is sent again after three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Time limit of sending a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks the configuration and converts it to that of quinn.
pub(super) fn prepare(config: &ClientConfig) -> Result<quinn::ClientConfig, ClientError> {
    if config.server.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(ClientError::Config(format!(
            "{:?} is not the address of a server: expected host:port",
            config.server
        )));
    }
    let identity = &config.identity;
    let crypto = client_crypto(identity.certificates.clone(), identity.key.clone_key(), &identity.ca)?;
    let idle = IdleTimeout::try_from(config.idle_timeout)
        .map_err(|_| ClientError::Config("idle_timeout is too long".into()))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(None)
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .ack_frequency_config(Some(fewer_acks()))
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(config.keep_alive))
        .max_idle_timeout(Some(idle));
    let mut quic = quinn::ClientConfig::new(crypto);
    quic.transport_config(Arc::new(transport));
    Ok(quic)
}

/// Runs the client until it ends, and records the error if there is one.
pub(super) async fn run(shared: Arc<ClientInner>, config: ClientConfig, quic: quinn::ClientConfig) {
    let error = connect_until_done(&shared, &config, &quic).await.err();
    shared.ended(error);
}

/// Makes attempts to connect until every frame has a response.
async fn connect_until_done(
    shared: &ClientInner,
    config: &ClientConfig,
    quic: &quinn::ClientConfig,
) -> Result<(), ClientError> {
    let mut backoff = Backoff::new(config);
    let mut was_connected = false;
    for number in 0_usize.. {
        let started = Instant::now();
        let failure = match attempt(shared, config, quic, number, &mut was_connected).await {
            Ok(()) => return Ok(()),
            Err(ConnectionFailure::Permanent(error)) => return Err(error),
            Err(ConnectionFailure::Temporary(failure)) => failure,
        };
        debug!(%failure, "connection lost");
        shared.disconnected(&failure);
        let progress_at = {
            let state = shared.state();
            if state.closing && state.spool.is_empty() {
                return Ok(());
            }
            // Without frames to send the patience does not end, once there was a connection.
            if state.spool.is_empty() && was_connected { None } else { Some(state.progress_at) }
        };
        if progress_at.is_some_and(|at| at.elapsed() >= config.patience) {
            return Err(ClientError::GaveUp { patience: config.patience, last: failure });
        }
        if progress_at.is_some_and(|at| at > started) {
            backoff.reset();
        }
        sleep(backoff.next()).await;
    }
    Ok(())
}

/// Makes one attempt to connect, and runs the connection until it ends.
async fn attempt(
    shared: &ClientInner,
    config: &ClientConfig,
    quic: &quinn::ClientConfig,
    number: usize,
    was_connected: &mut bool,
) -> Result<(), ConnectionFailure> {
    let addr = resolve(&config.server, number).await?;
    let endpoint = match &config.endpoint {
        Some(shared) => shared.clone(),
        None => Endpoint::own(addr)
            .map_err(|error| ConnectionFailure::Temporary(format!("cannot open a UDP socket: {error}")))?,
    };
    let connecting = endpoint.0.connect_with(quic.clone(), addr, config.identity.server_name())?;
    let connection: Connection = timeout(config.connect_timeout, connecting)
        .await
        .map_err(|_| ConnectionFailure::Temporary(format!("{addr} does not respond")))??;
    let outcome = connection::run(shared, config, &connection, was_connected).await;
    connection.close(CloseCode::Done.var_int(), b"");
    shared.add_wire(&connection.stats());
    if outcome.is_ok() && config.endpoint.is_none() {
        // Sends the close, so that the server does not wait for a client that is gone; but only for a short time.
        let _ = timeout(CLOSE_TIMEOUT, endpoint.0.wait_idle()).await;
    }
    outcome
}

/// Returns an address of the server; successive attempts use its addresses in turn.
async fn resolve(server: &str, attempt: usize) -> Result<SocketAddr, ConnectionFailure> {
    let found = tokio::net::lookup_host(server)
        .await
        .map_err(|error| ConnectionFailure::Temporary(format!("cannot look up {server}: {error}")))?;
    let found: Vec<SocketAddr> = found.collect();
    let index = attempt.checked_rem(found.len()).unwrap_or(0);
    found.get(index).copied().ok_or_else(|| ConnectionFailure::Temporary(format!("{server} has no address")))
}

/// Pauses between attempts. They double, and each is random between half and all of its limit, so that a thousand
/// gateways that lost the same server do not reconnect at the same moment.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(config: &ClientConfig) -> Self {
        Self { min: config.pause_min, max: config.pause_max.max(config.pause_min), next: config.pause_min }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    fn next(&mut self) -> Duration {
        let limit = self.next;
        self.next = (limit * 2).min(self.max);
        let mut byte = [0];
        random(&mut byte);
        limit / 2 + limit.mul_f64(f64::from(byte[0]) / 510.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff { min: ms(50), max: ms(400), next: ms(50) };
        for limit in [50, 100, 200, 400, 400] {
            let pause = backoff.next();
            assert!(pause >= ms(limit) / 2 && pause <= ms(limit), "{pause:?} of {limit}");
        }
        backoff.reset();
        assert!(backoff.next() <= ms(50));
    }
}
