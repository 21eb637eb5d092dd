//! Ports of the server: a directory that maps certificates to gateways, and a sink that stores frames.
//!
//! The program connects them to its control data and to the engine; tests use implementations in memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use storage_format::{Frame, FrameSequence, GatewayId, Millis, OrgId, SpoolId};

use crate::error::RefusalCode;

/// Boxed future that ports return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Identity of a sender, taken from the verified certificate, never from a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GatewayIdentity {
    /// The organisation.
    pub org: OrgId,
    /// The gateway.
    pub gateway: GatewayId,
}

/// Reason for not accepting a certificate that the right CA has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No gateway was ever enrolled with it.
    #[error("the certificate belongs to no gateway")]
    Unknown,
    /// The certificate was revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// The certificate has expired.
    #[error("the certificate is expired")]
    Expired,
    /// The gateway is known, and its organisation is suspended. The connection is accepted, so that each frame can be
    /// refused with that reason.
    #[error("the organisation is suspended")]
    OrgSuspended,
    /// The directory cannot respond, and has not been able to for longer than its last state may be used. Clients are
    /// asked to reconnect later, also those that are connected.
    #[error("the directory of gateways does not respond")]
    Unavailable,
}

/// Maps certificates to gateways.
pub trait GatewayDirectory: Send + Sync + 'static {
    /// Returns the gateway of this certificate, which has already been verified against the CA.
    ///
    /// Returns at once for a gateway that it knows, and may block for some tens of milliseconds for another. The server
    /// calls it during the handshake (and after it, if that was longer than
    /// [`recheck_interval`](crate::IngestLimits::recheck_interval) ago), and again at that interval for as long as the
    /// connection lives; seldom while [`version`](Self::version) does not change.
    ///
    /// # Errors
    /// The reason why the certificate is not accepted.
    fn lookup(&self, certificate: &CertificateDer<'_>) -> Result<GatewayIdentity, Refusal>;

    /// Returns a number that changes with every change that may affect a result of [`lookup`](Self::lookup), except for
    /// the passing of time; `None` when it is not known. May block like a look-up, and is called at every
    /// [`recheck_interval`](crate::IngestLimits::recheck_interval).
    fn version(&self) -> Option<u64> {
        None
    }
}

/// Receives the outcome of the frames of one stream. Frequent calls are cheap.
pub trait AckSink: Send + Sync {
    /// Reports that every frame submitted with this sink, up to and including this number, is durable and visible.
    fn durable(&self, up_to: FrameSequence);

    /// Reports that this frame will not become durable, nor any later one submitted with this sink. With a code, the
    /// frame and every later one of the stream are refused. Without a code, the stream is closed as
    /// [`Unavailable`](crate::CloseCode::Unavailable), and its sender keeps the frames that were not acknowledged.
    fn failed(&self, sequence: FrameSequence, code: Option<RefusalCode>);

    /// Returns whether a frame of the stream has failed.
    fn has_failed(&self) -> bool;
}

/// Reason why a frame was not accepted.
#[derive(Debug)]
pub enum SinkError {
    /// The sink has no room now, and returns the frame. [`FrameStream::submit`] waits for room.
    Full(Frame),
    /// The sink accepts no more frames, because the program shuts down.
    Closed,
    /// The sink cannot store anything, for example because a disk failed.
    Unavailable,
    /// The sink takes nothing of this organisation until an operator has restored a part of its stored data.
    InTrouble,
}

/// Stores frames.
pub trait FrameSink: Send + Sync + 'static {
    /// Opens a stream of a gateway's frames, whose outcome is reported to `acks`.
    fn stream(&self, from: GatewayIdentity, acks: Arc<dyn AckSink>) -> Box<dyn FrameStream>;

    /// Returns the highest durable sequence number of this gateway's spool; zero when there is none.
    fn durable_sequence(&self, from: GatewayIdentity, spool: SpoolId) -> FrameSequence;
}

/// One stream into the sink. Its frames are accepted, made durable and reported in their order.
pub trait FrameStream: Send + Sync {
    /// Submits a valid frame without waiting.
    ///
    /// `received` is the server's clock in whole seconds.
    ///
    /// # Errors
    /// [`SinkError`]; [`SinkError::Full`] contains the frame.
    #[allow(clippy::result_large_err, reason = "a frame without room is returned without an allocation")]
    fn try_submit(&self, received: Millis, frame: Frame) -> Result<(), SinkError>;

    /// Waits for room and submits a frame; the stream that has waited longest is served first. When the future is
    /// dropped before it is ready, the frame was not submitted.
    ///
    /// # Errors
    /// [`SinkError`], but never [`SinkError::Full`].
    fn submit(&self, received: Millis, frame: Frame) -> BoxFuture<'_, Result<(), SinkError>>;
}
