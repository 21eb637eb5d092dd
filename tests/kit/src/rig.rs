//! A real engine for tests: its parts with a fixed master key, frames to send to it, acknowledgements to wait for, and
//! everything that it holds, read back and compared with the model.

mod acks;
mod read;
mod rollups;

use std::sync::Arc;

use engine::{AckSink, Clock, Engine, EngineParts, MasterKey, RealFiles, Submission, SystemRandom};
use object_store::ObjectStore;
use storage_format::encryption::SecretKey;
use storage_format::{Frame, OrgId, SpoolId};

use crate::first_wins::FirstWins;
use crate::ids::spool;
use crate::reading::Sent;

pub use acks::Acks;
pub use read::{Rows, Unread, conflicts, last_readings, rows};
pub use rollups::check_rollups;

/// Returns the master key of every rig, the same in each process, so that one opens what another left.
#[must_use]
pub fn master_key() -> MasterKey {
    MasterKey::new(SecretKey::from_bytes([7; 32]), SystemRandom)
}

/// Returns the parts of an engine on the machine's own files, with this store and this clock.
pub fn parts(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> EngineParts {
    EngineParts {
        files: Arc::new(RealFiles),
        store,
        keys: Arc::new(master_key()),
        clock,
        random: Arc::new(SystemRandom),
    }
}

/// Encodes a frame and submits it, waiting for room in the queue.
///
/// # Panics
/// When the engine is closed.
pub async fn submit(engine: &Engine, org: OrgId, spool: SpoolId, sequence: u64, sent: &mut Sent, acks: &Arc<Acks>) {
    let frame = Frame::decode(sent.encode(spool, sequence)).expect("what was encoded decodes");
    let acks = Arc::clone(acks) as Arc<dyn AckSink>;
    let submission = Submission { org, gateway: sent.gateway, received: sent.received, frame, acks };
    engine.submit(submission).await.expect("the engine is open");
}

/// One spool of one organisation, which numbers its frames.
#[derive(Debug)]
pub struct Sender {
    /// The organisation.
    pub org: OrgId,
    /// The spool's id.
    pub spool: u64,
    /// The next frame's sequence number.
    pub next: u64,
    /// What the engine answered.
    pub acks: Arc<Acks>,
}

impl Sender {
    /// Creates a sender that has sent nothing yet.
    #[must_use]
    pub fn new(org: OrgId, spool: u64) -> Self {
        Self { org, spool, next: 1, acks: Arc::default() }
    }

    /// Submits a frame, waiting for room in the queue; returns its sequence number.
    ///
    /// # Panics
    /// When the engine is closed.
    pub async fn submit(&mut self, engine: &Engine, sent: &mut Sent) -> u64 {
        let sequence = self.next;
        self.next += 1;
        submit(engine, self.org, spool(self.spool), sequence, sent, &self.acks).await;
        sequence
    }

    /// Submits a frame, waits until it is acknowledged, and applies it to the model.
    ///
    /// # Panics
    /// When the engine is closed or refuses the frame.
    pub async fn send(&mut self, engine: &Engine, model: &mut FirstWins, mut sent: Sent) {
        let sequence = self.submit(engine, &mut sent).await;
        assert!(self.acks.answered(sequence).await, "frame {sequence} is acknowledged");
        model.apply(&sent);
    }
}
