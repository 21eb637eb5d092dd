//! What the server needs from others: who a certificate is, and somebody who keeps frames.
//!
//! The program wires these to its control data and to the engine; tests wire them to memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use storage_format::{Frame, FrameSequence, GatewayId, Millis, OrgId, SpoolId};

use crate::error::RefusalCode;

/// A future in a box, as ports return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who sends: taken from the verified certificate, never from a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GatewayIdentity {
    /// The organisation.
    pub org: OrgId,
    /// The gateway.
    pub gateway: GatewayId,
}

/// Why a certificate of the right CA is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No gateway was ever enrolled with it.
    #[error("the certificate belongs to no gateway")]
    Unknown,
    /// It was revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// It is past its time.
    #[error("the certificate is expired")]
    Expired,
    /// The gateway is known, and its organisation suspended: the connection is accepted so that each frame can be
    /// refused with that reason.
    #[error("the organisation is suspended")]
    OrgSuspended,
    /// The directory cannot tell, and has not been able to for longer than it may go on with what it knew. The client is
    /// told to come again, also one that is connected.
    #[error("the directory of gateways does not answer")]
    Unavailable,
}

/// Who a certificate is.
pub trait GatewayDirectory: Send + Sync + 'static {
    /// The gateway of this certificate, which has been verified against the CA already.
    ///
    /// Returns at once for a gateway that it knows, and may block for some tens of milliseconds for another. It is asked during the handshake (and after it, if that was longer than
    /// [`recheck_interval`](crate::IngestLimits::recheck_interval) ago), and again at that interval for as long as the
    /// connection lives; seldom while [`version`](Self::version) tells that nothing has changed.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn lookup(&self, certificate: &CertificateDer<'_>) -> Result<GatewayIdentity, Refusal>;

    /// A number that becomes another one with every change that may change an answer, but for time that passes; none
    /// when it cannot be told. It may block like a look-up, and is asked at every
    /// [`recheck_interval`](crate::IngestLimits::recheck_interval).
    fn version(&self) -> Option<u64> {
        None
    }
}

/// Where a frame's fate is told. One per stream; it costs nothing to call it often.
pub trait AckSink: Send + Sync {
    /// Every frame submitted with this sink, up to and including this number, is durable and visible.
    fn durable(&self, up_to: FrameSequence);

    /// This frame will not become durable, nor will any later one submitted with this sink. With a code: it is
    /// refused, as every later frame of the stream will be. Without: the stream is closed as
    /// [`Unavailable`](crate::CloseCode::Unavailable), and its sender keeps what was not acknowledged.
    fn failed(&self, sequence: FrameSequence, code: Option<RefusalCode>);
}

/// Why a frame was not taken.
#[derive(Debug)]
pub enum SinkError {
    /// No room now; here is the frame back. [`FrameStream::submit`] waits for room.
    Full(Frame),
    /// The sink takes nothing any more: the program shuts down.
    Closed,
    /// The sink cannot keep anything: a disk failed, for example.
    Unavailable,
}

/// Who keeps frames.
pub trait FrameSink: Send + Sync + 'static {
    /// Begins a stream of a gateway's frames, whose fate is told to `acks`.
    fn stream(&self, from: GatewayIdentity, acks: Arc<dyn AckSink>) -> Box<dyn FrameStream>;

    /// The highest durable sequence number of this gateway's spool; zero when there is none.
    fn durable_sequence(&self, from: GatewayIdentity, spool: SpoolId) -> FrameSequence;
}

/// One stream's way into the sink. Its frames are taken, made durable and told in their order.
pub trait FrameStream: Send + Sync {
    /// Takes a valid frame without waiting.
    ///
    /// `received` is the server's clock in whole seconds.
    ///
    /// # Errors
    /// [`SinkError::Full`] gives the frame back.
    #[allow(clippy::result_large_err, reason = "a frame that finds no room goes back as it is, without an allocation")]
    fn try_submit(&self, received: Millis, frame: Frame) -> Result<(), SinkError>;

    /// Takes a frame that found no room as soon as there is some; who waits longest is served first. Dropped before it
    /// is ready, it has taken nothing.
    ///
    /// # Errors
    /// As [`FrameStream::try_submit`], but never [`SinkError::Full`].
    fn submit(&self, received: Millis, frame: Frame) -> BoxFuture<'_, Result<(), SinkError>>;
}
