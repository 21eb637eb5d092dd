//! Tries again: attempt after attempt, with pauses that double and are drawn at random, until everything is answered,
//! or something permanent stands in the way, or the patience ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, IdleTimeout, TransportConfig, VarInt};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::config::ClientConfig;
use super::endpoint::Endpoint;
use super::error::{ClientError, Trouble};
use super::link;
use super::session::Shared;
use crate::error::CloseCode;
use crate::tls::{client_crypto, random};
use crate::transport::fewer_acks;

/// Bytes on their way at most: throughput × round trip. They are the spool's own, not copies.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// Answers are small.
const RECEIVE_WINDOW_BYTES: u32 = 256 << 10;
/// Before the first round trip is measured: three times this is how soon a lost first packet is sent again.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// How long a close may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks the settings and makes of them what quinn wants.
pub(super) fn prepare(config: &ClientConfig) -> Result<quinn::ClientConfig, ClientError> {
    if config.server.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(ClientError::Config(format!("{:?} is not a server: expected host:port", config.server)));
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

pub(super) async fn run(shared: Arc<Shared>, config: ClientConfig, quic: quinn::ClientConfig) {
    let error = try_again(&shared, &config, &quic).await.err();
    shared.ended(error);
}

async fn try_again(shared: &Shared, config: &ClientConfig, quic: &quinn::ClientConfig) -> Result<(), ClientError> {
    let mut pause = Pause::new(config);
    let mut was_connected = false;
    for attempt in 0_usize.. {
        let started = Instant::now();
        let trouble = match one_attempt(shared, config, quic, attempt, &mut was_connected).await {
            Ok(()) => return Ok(()),
            Err(Trouble::Permanent(error)) => return Err(error),
            Err(Trouble::Passing(trouble)) => trouble,
        };
        debug!(%trouble, "connection lost");
        shared.disconnected(&trouble);
        let progress_at = {
            let state = shared.state();
            if state.closing && state.spool.is_empty() {
                return Ok(());
            }
            // With nothing to send there is nothing to lose patience over, once the server was there.
            if state.spool.is_empty() && was_connected { None } else { Some(state.progress_at) }
        };
        if progress_at.is_some_and(|at| at.elapsed() >= config.patience) {
            return Err(ClientError::GaveUp { patience: config.patience, last: trouble });
        }
        if progress_at.is_some_and(|at| at > started) {
            pause.reset();
        }
        sleep(pause.next()).await;
    }
    Ok(())
}

async fn one_attempt(
    shared: &Shared,
    config: &ClientConfig,
    quic: &quinn::ClientConfig,
    attempt: usize,
    was_connected: &mut bool,
) -> Result<(), Trouble> {
    let addr = resolve(&config.server, attempt).await?;
    let endpoint = match &config.endpoint {
        Some(shared) => shared.clone(),
        None => Endpoint::own(addr).map_err(|error| Trouble::Passing(format!("no UDP socket: {error}")))?,
    };
    let connecting = endpoint.0.connect_with(quic.clone(), addr, config.identity.server_name())?;
    let connection: Connection = timeout(config.connect_timeout, connecting)
        .await
        .map_err(|_| Trouble::Passing(format!("{addr} does not answer")))??;
    let outcome = link::converse(shared, config, &connection, was_connected).await;
    connection.close(CloseCode::Done.var_int(), b"");
    shared.add_wire(&connection.stats());
    if outcome.is_ok() && config.endpoint.is_none() {
        // Otherwise the server would wait for a client that is gone; but it is not worth more than a moment.
        let _ = timeout(CLOSE_TIMEOUT, endpoint.0.wait_idle()).await;
    }
    outcome
}

async fn resolve(server: &str, attempt: usize) -> Result<SocketAddr, Trouble> {
    let found = tokio::net::lookup_host(server)
        .await
        .map_err(|error| Trouble::Passing(format!("cannot look up {server}: {error}")))?;
    let found: Vec<SocketAddr> = found.collect();
    let index = attempt.checked_rem(found.len()).unwrap_or(0);
    found.get(index).copied().ok_or_else(|| Trouble::Passing(format!("{server} has no address")))
}

/// Pauses between attempts: doubling, each drawn between half and whole, so that a thousand gateways which lost one
/// server do not come back at one moment.
struct Pause {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Pause {
    fn new(config: &ClientConfig) -> Self {
        Self { min: config.pause_min, max: config.pause_max.max(config.pause_min), next: config.pause_min }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        let mut drawn = [0];
        random(&mut drawn);
        whole / 2 + whole.mul_f64(f64::from(drawn[0]) / 510.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew() {
        let ms = Duration::from_millis;
        let mut pause = Pause { min: ms(50), max: ms(400), next: ms(50) };
        for whole in [50, 100, 200, 400, 400] {
            let drawn = pause.next();
            assert!(drawn >= ms(whole) / 2 && drawn <= ms(whole), "{drawn:?} of {whole}");
        }
        pause.reset();
        assert!(pause.next() <= ms(50));
    }
}
