//! What a client needs to know, and how patient it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use storage_format::{FrameSequence, SpoolId};

use super::endpoint::Endpoint;
use super::identity::Identity;
use crate::error::RefusalCode;

/// Is told every answer as it comes, on the client's own task: it must be quick, and must not call the client.
pub trait Answers: fmt::Debug + Send + Sync {
    /// Every frame up to this number is answered: durable, unless it was refused before. The numbers grow, but for a
    /// connection that takes up where another one ended.
    fn answered(&self, up_to: FrameSequence);

    /// One frame is refused.
    fn refused(&self, sequence: FrameSequence, code: RefusalCode);
}

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The server, as `host:port`. A host name is looked up anew for every attempt.
    pub server: String,
    /// Who this gateway is, and whom it trusts.
    pub identity: Identity,
    /// The spool to go on with; a new random one without. Two senders must never use one spool at the same time.
    pub spool: Option<SpoolId>,
    /// The first sequence number to give: past all that this spool ever gave before.
    pub first_sequence: FrameSequence,
    /// Bytes of frames kept in memory until they are acknowledged; [`send`](super::Client::send) waits past that.
    pub spool_bytes_max: usize,
    /// The same bound in frames.
    pub spool_frames_max: usize,
    /// The socket to use. Without one, every attempt to connect has a socket of its own: the old one may belong to a
    /// network that is gone.
    pub endpoint: Option<Endpoint>,
    /// Who is told every answer; [`Client::progress`](super::Client::progress) tells sums only.
    pub answers: Option<Arc<dyn Answers>>,
    /// How long to go on without any frame acknowledged, while some wait, before giving up.
    pub patience: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long the server may take to answer the opening of a stream.
    pub open_timeout: Duration,
    /// The first pause between attempts; it doubles, up to [`pause_max`](Self::pause_max).
    pub pause_min: Duration,
    /// The longest pause between attempts.
    pub pause_max: Duration,
    /// How often a silent connection is kept alive.
    pub keep_alive: Duration,
    /// How long a server may be silent before it is taken for gone: some keep-alives long.
    pub idle_timeout: Duration,
}

impl ClientConfig {
    /// The defaults, for this server and identity.
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
            answers: None,
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
