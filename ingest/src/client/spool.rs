//! The frames that are not yet answered, in memory.
//!
//! Invariants: sequence numbers grow from front to back; a frame leaves only by an answer for it, or because the server
//! has it durably and cannot have refused it; `waiting_bytes` is what all of them take. The bound is enforced by the
//! caller, who asks [`Spool::has_room`] before it adds one: so at most one frame more than the bound is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use storage_format::{Frame, FrameSequence, Millis, SpoolId};

use crate::error::RefusalCode;
use crate::protocol::Welcome;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 128;
/// How many refusals are kept one by one; past that they are only counted.
const REFUSED_MAX: usize = 10_000;

/// A frame that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFrame {
    /// Its number.
    pub sequence: FrameSequence,
    /// How many readings it has.
    pub readings: u64,
    /// Why.
    pub code: RefusalCode,
    /// Why, for people.
    pub detail: String,
}

#[derive(Debug)]
struct Entry {
    sequence: FrameSequence,
    bytes: Bytes,
    readings: u64,
}

/// What every frame that was sent and is not answered had to fit: the narrowest of the welcomes that it was sent under.
#[derive(Debug, Clone, Copy)]
struct Terms {
    frame_bytes_max: u32,
    channel_code_max: u16,
    time_min: Millis,
    time_max: Millis,
}

impl Terms {
    fn of(welcome: &Welcome) -> Self {
        let ahead = i64::try_from(welcome.ahead_ms_max).unwrap_or(i64::MAX);
        Self {
            frame_bytes_max: welcome.frame_bytes_max,
            channel_code_max: welcome.channel_code_max,
            time_min: welcome.time_min,
            time_max: welcome.server_time.saturating_add(ahead),
        }
    }

    fn narrow(self, other: Self) -> Self {
        Self {
            frame_bytes_max: self.frame_bytes_max.min(other.frame_bytes_max),
            channel_code_max: self.channel_code_max.min(other.channel_code_max),
            time_min: self.time_min.max(other.time_min),
            time_max: self.time_max.min(other.time_max),
        }
    }

    /// A server with these terms takes the frame, or refuses everything after it as well.
    fn fit(self, spool: SpoolId, entry: &Entry) -> bool {
        let Ok(frame) = Frame::decode(entry.bytes.clone()) else { return false };
        frame.spool() == spool
            && frame.sequence() == entry.sequence
            && entry.bytes.len() <= self.frame_bytes_max as usize
            && frame.channels().iter().all(|code| code.get() <= self.channel_code_max)
            && frame.time_min() >= self.time_min
            && frame.time_max() <= self.time_max
    }
}

/// What became of the frames so far.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings in them.
    pub acknowledged_readings: u64,
    /// Frames that were refused.
    pub refused_frames: u64,
    /// Readings in them.
    pub refused_readings: u64,
    /// The refused frames one by one; the first ten thousand.
    pub refused: Vec<RefusedFrame>,
}

/// The frames of one sender without an answer. Without I/O: for a client over any transport.
#[derive(Debug)]
pub struct Spool {
    id: SpoolId,
    entries: VecDeque<Entry>,
    /// So many from the front have been sent on this stream.
    sent: usize,
    /// The last number sent on this stream.
    sent_up_to: FrameSequence,
    /// The last number sent on any stream.
    ever_sent: FrameSequence,
    terms: Option<Terms>,
    waiting_bytes: usize,
    bytes_max: usize,
    frames_max: usize,
    last: FrameSequence,
    pub(super) fate: Fate,
}

impl Spool {
    /// None yet. It has room up to so many bytes.
    #[must_use]
    pub fn new(id: SpoolId, bytes_max: usize) -> Self {
        Self {
            id,
            entries: VecDeque::new(),
            sent: 0,
            sent_up_to: FrameSequence::ZERO,
            ever_sent: FrameSequence::ZERO,
            terms: None,
            waiting_bytes: 0,
            bytes_max,
            frames_max: usize::MAX,
            last: FrameSequence::ZERO,
            fate: Fate::default(),
        }
    }

    /// Numbers start here.
    pub fn start_after(&mut self, first: FrameSequence) {
        self.last = FrameSequence::new(first.get().saturating_sub(1));
    }

    /// It has room up to so many frames, too.
    pub fn limit_frames(&mut self, frames_max: usize) {
        self.frames_max = frames_max;
    }

    /// The id that the numbers count in.
    #[must_use]
    pub fn id(&self) -> SpoolId {
        self.id
    }

    /// May another frame be added?
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < self.bytes_max && self.entries.len() < self.frames_max
    }

    /// Is everything answered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Frames without an answer, sent or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory that they take.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// The last number given to a frame.
    #[must_use]
    pub fn last(&self) -> FrameSequence {
        self.last
    }

    /// The last number sent on this stream.
    #[must_use]
    pub fn sent_up_to(&self) -> FrameSequence {
        self.sent_up_to
    }

    /// Adds a frame; its number must be past all before it.
    pub fn push(&mut self, sequence: FrameSequence, bytes: Bytes, readings: u64) {
        debug_assert!(sequence > self.last, "numbers grow");
        self.last = sequence;
        self.waiting_bytes += bytes.len() + ENTRY_BYTES;
        self.entries.push_back(Entry { sequence, bytes, readings });
    }

    /// The next frame to send, from here on taken as sent.
    pub fn next_to_send(&mut self) -> Option<(FrameSequence, Bytes)> {
        let entry = self.entries.get(self.sent)?;
        self.sent += 1;
        self.sent_up_to = entry.sequence;
        self.ever_sent = self.ever_sent.max(entry.sequence);
        Some((entry.sequence, entry.bytes.clone()))
    }

    /// A new stream is open: what the server has is done, the rest is sent again.
    ///
    /// A frame up to `durable` whose answer got lost is either durable or was refused. Whatever fits the terms it was
    /// sent under cannot have been refused; whatever does not is sent again, so that a refusal is not taken for
    /// an acknowledgement. True: some are done by it.
    pub fn resume(&mut self, durable: FrameSequence, welcome: &Welcome) -> bool {
        let before = self.entries.len();
        if let Some(terms) = self.terms {
            let known = self.entries.partition_point(|e| e.sequence <= durable.min(self.ever_sent));
            let unknown = self.entries.split_off(known);
            for entry in std::mem::replace(&mut self.entries, unknown).into_iter().rev() {
                if terms.fit(self.id, &entry) {
                    self.waiting_bytes -= entry.bytes.len() + ENTRY_BYTES;
                    self.fate.acknowledged_frames += 1;
                    self.fate.acknowledged_readings += entry.readings;
                } else {
                    self.entries.push_front(entry);
                }
            }
        }
        let now = Terms::of(welcome);
        self.terms = Some(match self.terms {
            Some(before) if !self.entries.is_empty() => before.narrow(now),
            _ => now,
        });
        self.sent = 0;
        self.sent_up_to = FrameSequence::ZERO;
        self.entries.len() < before
    }

    /// Everything up to this number is answered.
    pub fn acknowledge(&mut self, up_to: FrameSequence) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.sequence <= up_to) {
            self.waiting_bytes -= entry.bytes.len() + ENTRY_BYTES;
            self.sent = self.sent.saturating_sub(1);
            self.fate.acknowledged_frames += 1;
            self.fate.acknowledged_readings += entry.readings;
        }
    }

    /// One frame is refused. An answer for a frame that is not here is of one sent twice: it has had its answer.
    pub fn refuse(&mut self, sequence: FrameSequence, code: RefusalCode, detail: String) {
        let Ok(index) = self.entries.binary_search_by_key(&sequence, |entry| entry.sequence) else { return };
        let Some(entry) = self.entries.remove(index) else { return };
        if index < self.sent {
            self.sent -= 1;
        }
        self.waiting_bytes -= entry.bytes.len() + ENTRY_BYTES;
        self.fate.refused_frames += 1;
        self.fate.refused_readings += entry.readings;
        if self.fate.refused.len() < REFUSED_MAX {
            self.fate.refused.push(RefusedFrame { sequence, readings: entry.readings, code, detail });
        }
    }

    /// Takes out what is not answered.
    pub fn take_waiting(&mut self) -> Vec<(FrameSequence, Bytes)> {
        self.waiting_bytes = 0;
        self.sent = 0;
        self.entries.drain(..).map(|entry| (entry.sequence, entry.bytes)).collect()
    }

    /// What became of the frames that are not here any more.
    #[must_use]
    pub fn fate(&self) -> &Fate {
        &self.fate
    }

    /// The numbers of the frames without an answer, ascending.
    pub fn waiting(&self) -> impl Iterator<Item = FrameSequence> + '_ {
        self.entries.iter().map(|entry| entry.sequence)
    }
}

#[cfg(test)]
mod tests;
