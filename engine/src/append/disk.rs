//! Blocks on their way to the disk: written by the appender itself, or by a thread beside it, one at a time.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use durable::Clock;

use super::thread::spawn;
use crate::error::{EngineError, EngineErrorKind};
use crate::wal::SealedBlock;

/// A written block, and how long write and sync took.
type Written = Result<(SealedBlock, Duration), EngineError>;

/// A block that is on its way.
#[derive(Debug)]
pub(super) enum Flight {
    /// The appender writes it when it comes to it.
    Here(SealedBlock),
    /// The thread writes it.
    There(Landing),
}

impl Flight {
    /// Ends when the block is durable.
    pub(super) fn land(self, clock: &dyn Clock) -> Written {
        match self {
            Self::Here(block) => write(block, clock),
            Self::There(landing) => landing.wait(),
        }
    }
}

fn write(block: SealedBlock, clock: &dyn Clock) -> Written {
    let start = clock.monotonic();
    block.write()?;
    Ok((block, clock.monotonic().saturating_sub(start)))
}

/// Where the thread's answer comes.
#[derive(Debug)]
pub(super) struct Landing(Receiver<Written>);

impl Landing {
    fn wait(self) -> Written {
        self.0.recv().unwrap_or_else(|_| Err(gone()))
    }
}

/// The thread. Dropping it waits for the block that it has.
#[derive(Debug)]
pub(super) struct DiskThread {
    blocks: Option<Sender<SealedBlock>>,
    written: Receiver<Written>,
    thread: Option<JoinHandle<()>>,
}

impl DiskThread {
    pub(super) fn start(clock: Arc<dyn Clock>) -> Result<Self, EngineError> {
        let (blocks, to_write) = bounded(1);
        let (landed, written) = bounded(1);
        let thread = spawn("icecore-wal-sync", move || {
            for block in to_write {
                // Nobody listens any more: the appender has ended, and says so itself.
                let _gone = landed.send(write(block, &*clock));
            }
        })?;
        Ok(Self { blocks: Some(blocks), written, thread: Some(thread) })
    }

    /// Has the thread write this block. The one before must have landed.
    pub(super) fn send(&self, block: SealedBlock) -> Result<Landing, EngineError> {
        let sent = self.blocks.as_ref().is_some_and(|blocks| blocks.send(block).is_ok());
        if sent { Ok(Landing(self.written.clone())) } else { Err(gone()) }
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        self.blocks.take();
        // A panic was told by whoever waited for the block.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn gone() -> EngineError {
    EngineError::new(
        EngineErrorKind::Failed,
        "the thread that writes the WAL is gone",
        "This is a defect: please report it with the log. Start again: everything acknowledged is kept.",
    )
}
