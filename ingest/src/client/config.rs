//! Configuration of a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use storage_format::{FrameSequence, SpoolId};

use super::endpoint::Endpoint;
use super::identity::Identity;
use crate::error::RefusalCode;

/// Receives every response as it arrives, on the client's own task. Its methods must be quick, and must not call the
/// client.
pub trait ResponseObserver: fmt::Debug + Send + Sync {
    /// Reports that every frame up to this number is durable, unless it was refused before. The numbers grow, except on
    /// a connection that resumes where another one ended.
    fn acknowledged(&self, up_to: FrameSequence);

    /// Reports that one frame is refused.
    fn refused(&self, sequence: FrameSequence, code: RefusalCode);
}

/// Configuration of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Address of the server, as `host:port`. A host name is resolved again for every attempt.
    pub server: String,
    /// Identity of this gateway, with the CA that it trusts.
    pub identity: Identity,
    /// Spool to continue; `None` means a new random one. Two senders must never use one spool at the same time.
    pub spool: Option<SpoolId>,
    /// First sequence number to assign: greater than all that were assigned in this spool before.
    pub first_sequence: FrameSequence,
    /// Limit of the bytes of frames in memory that are not acknowledged; [`send`](super::Client::send) waits at this
    /// limit.
    pub spool_bytes_max: usize,
    /// Limit of the number of frames that are not acknowledged.
    pub spool_frames_max: usize,
    /// Socket to use. With `None`, every attempt to connect opens a socket of its own, because the old one may belong
    /// to a network that is gone.
    pub endpoint: Option<Endpoint>,
    /// Observer of every response; [`Client::progress`](super::Client::progress) has sums only.
    pub observer: Option<Arc<dyn ResponseObserver>>,
    /// Time without any acknowledgement, while frames wait, after which the client gives up.
    pub patience: Duration,
    /// Time limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// Time limit of the server's response to the opening of a stream.
    pub open_timeout: Duration,
    /// First pause between attempts; it doubles, up to [`pause_max`](Self::pause_max).
    pub pause_min: Duration,
    /// Longest pause between attempts.
    pub pause_max: Duration,
    /// Interval of keep-alives on a silent connection.
    pub keep_alive: Duration,
    /// Silence after which the server is treated as gone: the time of some keep-alives.
    pub idle_timeout: Duration,
}

impl ClientConfig {
    /// Creates the default configuration for this server and identity.
    #[must_use]
    pub fn new(server: impl Into<String>, identity: Identity) -> Self {
        Self {
            server: server.into(),
            identity,
            spool: None,
            first_sequence: FrameSequence::new(1),
            spool_bytes_max: 16 << 20,
            spool_frames_max: usize::MAX,
            endpoint: None,
            observer: None,
            patience: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(3),
            open_timeout: Duration::from_secs(10),
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(1),
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(4),
        }
    }
}
