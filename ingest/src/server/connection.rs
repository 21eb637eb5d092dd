//! One connection: handshake, identity of the gateway, welcome, and a task for each stream. All tasks end with it.

use std::sync::Arc;

use quinn::{Connection, Incoming, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::admission::{ConnectionPermit, LiveConnection};
use super::budget::{Reservation, Stage};
use super::endpoint::Shared;
use super::handshakes::Handshake;
use super::stream;
use crate::error::CloseCode;
use crate::metrics;
use crate::protocol::{Message, ProtocolVersion, Welcome};

pub(super) async fn serve(shared: Arc<Shared>, incoming: Incoming, _permit: ConnectionPermit, handshake: Handshake) {
    let Some(connection) = complete_handshake(&shared, incoming).await else {
        metrics::connection_refused("handshake");
        return;
    };
    drop(handshake);
    let Some(certificate) = peer_certificate(&connection) else {
        // Cannot happen, because the verifier makes a certificate mandatory.
        connection.close(CloseCode::CertificateRefused.var_int(), b"no client certificate");
        return;
    };
    let lookup = shared.answered.after_handshake(&certificate);
    let per_gateway_max = shared.limits.connections_per_gateway_max;
    let share = shared.budget.share(lookup.ok());
    let entry = match shared.admission.register(connection.clone(), certificate, lookup, share, per_gateway_max) {
        Ok(entry) => entry,
        Err(code) => {
            metrics::connection_refused(match code {
                CloseCode::TooManyConnections => "gateway_limit",
                CloseCode::Unavailable => "directory",
                _ => "certificate",
            });
            connection.close(code.var_int(), code.to_string().as_bytes());
            return;
        }
    };
    metrics::connection_opened();
    debug!(standing = ?entry.live.standing(), "connected");
    let reason = serve_streams(&shared, &connection, &entry.live).await;
    metrics::connection_closed();
    debug!(%reason, "disconnected");
}

async fn complete_handshake(shared: &Shared, incoming: Incoming) -> Option<Connection> {
    let connecting = incoming.accept().map_err(|error| debug!(%error, "handshake failed")).ok()?;
    match timeout(shared.limits.handshake_timeout, connecting).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            debug!(%error, "handshake failed");
            None
        }
        Err(_) => {
            debug!("handshake took too long");
            None
        }
    }
}

fn peer_certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

async fn serve_streams(
    shared: &Arc<Shared>,
    connection: &Connection,
    live: &Arc<LiveConnection>,
) -> quinn::ConnectionError {
    let welcome = welcome(shared);
    let opened_at = welcome.server_time;
    let mut extra_window = None;
    let mut streams = JoinSet::new();
    streams.spawn(send_welcome(connection.clone(), welcome));
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok((send, receive)) => {
                    if extra_window.is_none() {
                        extra_window = widen_window(shared, connection, live);
                    }
                    streams.spawn(stream::serve(Arc::clone(shared), Arc::clone(live), opened_at, send, receive));
                }
                // Dropping the set ends the tasks of all streams.
                Err(reason) => return reason,
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
        }
    }
}

/// Widens the receive window of a connection that opens a stream to its full size, if there is memory for it.
/// Flow-control credit cannot be revoked, so the memory stays reserved until the connection ends.
fn widen_window(shared: &Shared, connection: &Connection, live: &LiveConnection) -> Option<Reservation> {
    let reservation = live.share.try_reserve(Stage::Windows, shared.limits.extra_window_bytes() as usize)?;
    connection.set_receive_window(VarInt::from_u32(shared.limits.connection_window_bytes));
    Some(reservation)
}

fn welcome(shared: &Shared) -> Welcome {
    let limits = &shared.limits;
    let ms = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let channels = storage_format::channels();
    Welcome {
        version: ProtocolVersion::CURRENT,
        channel_code_max: channels.last().map_or(0, |channel| channel.code.get()),
        frame_bytes_max: limits.frame_bytes_max,
        streams_max: limits.streams_max,
        idle_timeout_ms: ms(limits.idle_timeout),
        message_timeout_ms: ms(limits.message_timeout),
        server_time: (shared.now)(),
        time_min: shared.times.time_min,
        ahead_ms_max: u64::try_from(shared.times.ahead_max.as_millis()).unwrap_or(u64::MAX),
    }
}

async fn send_welcome(connection: Connection, welcome: Welcome) {
    let Ok(mut send) = connection.open_uni().await else { return };
    if send.write_all(&Message::Welcome(welcome).to_bytes()).await.is_ok() {
        let _ = send.finish();
        // A finished stream is not reset when it is dropped.
    }
}
