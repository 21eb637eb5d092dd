//! The frames without an answer: their bytes and where their readings came from.
//!
//! A frame that is refused for its times holds good readings too. It is kept here until the sender repacks it. The bytes
//! are the spool's own, not copies: what waits here is bounded by the spool, and by how soon the sender looks at refusals.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ingest::RefusalCode;
use ingest::client::ResponseObserver;
use storage_format::FrameSequence;

use super::Origin;

/// Refused frames whose origins are kept; more are only counted.
const REFUSED_MAX: usize = 10_000;

/// A frame that was sent.
#[derive(Debug, Clone)]
pub(super) struct SentFrame {
    pub(super) bytes: Bytes,
    /// Where its first reading came from.
    pub(super) begins: Origin,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<FrameSequence, SentFrame>,
    refused_for_time: Vec<(FrameSequence, SentFrame)>,
    refused: HashMap<FrameSequence, Origin>,
}

/// Shared with the client's task, which reports the answers.
#[derive(Debug, Default)]
pub(super) struct Frames(Mutex<State>);

impl Frames {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, sequence: FrameSequence, frame: SentFrame) {
        self.state().waiting.insert(sequence, frame);
    }

    /// Takes the frames that were refused for their times.
    pub(super) fn take_refused_for_time(&self) -> Vec<(FrameSequence, SentFrame)> {
        std::mem::take(&mut self.state().refused_for_time)
    }

    /// Notes where a refused frame began.
    pub(super) fn keep_origin(&self, sequence: FrameSequence, begins: Origin) {
        let mut state = self.state();
        if state.refused.len() < REFUSED_MAX {
            state.refused.insert(sequence, begins);
        }
    }

    /// Where a refused frame began.
    pub(super) fn origin(&self, sequence: FrameSequence) -> Option<Origin> {
        self.state().refused.get(&sequence).copied()
    }
}

impl ResponseObserver for Frames {
    fn acknowledged(&self, up_to: FrameSequence) {
        let mut state = self.state();
        state.waiting = match up_to.next() {
            Some(next) => state.waiting.split_off(&next),
            None => BTreeMap::new(),
        };
    }

    fn refused(&self, sequence: FrameSequence, code: RefusalCode) {
        let frame = self.state().waiting.remove(&sequence);
        match frame {
            Some(frame) if code == RefusalCode::TimeOutOfRange => {
                self.state().refused_for_time.push((sequence, frame));
            }
            Some(frame) => self.keep_origin(sequence, frame.begins),
            None => {}
        }
    }
}
