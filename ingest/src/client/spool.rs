//! Frames without a response, in memory.
//!
//! Invariants: sequence numbers grow from front to back; a frame is removed only because of a response to it, or
//! because it is durable on the server and cannot have been refused; `waiting_bytes` is the memory of all frames. The
//! caller enforces the limits: it checks [`Spool::has_room`] before it adds a frame, so that the limits are exceeded by
//! one frame at most.

use std::collections::VecDeque;

use bytes::Bytes;
use storage_format::{Frame, FrameSequence, Millis, SpoolId};

use crate::error::RefusalCode;
use crate::protocol::Welcome;

/// Memory of an entry in addition to its bytes.
const ENTRY_BYTES: usize = 128;
/// Limit of the refusals that are kept one by one; further ones are only counted.
const REFUSED_MAX: usize = 10_000;

/// A frame that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFrame {
    /// Sequence number of the frame.
    pub sequence: FrameSequence,
    /// Number of its readings.
    pub readings: u64,
    /// Reason.
    pub code: RefusalCode,
    /// Detail for people.
    pub detail: String,
}

#[derive(Debug)]
struct Entry {
    sequence: FrameSequence,
    bytes: Bytes,
    readings: u64,
}

/// Limits that every frame in flight had to satisfy: the strictest of the welcomes of the connections that it was sent
/// on.
#[derive(Debug, Clone, Copy)]
struct FrameLimits {
    frame_bytes_max: u32,
    channel_code_max: u16,
    time_min: Millis,
    time_max: Millis,
}

impl FrameLimits {
    fn of(welcome: &Welcome) -> Self {
        let ahead = i64::try_from(welcome.ahead_ms_max).unwrap_or(i64::MAX);
        Self {
            frame_bytes_max: welcome.frame_bytes_max,
            channel_code_max: welcome.channel_code_max,
            time_min: welcome.time_min,
            time_max: welcome.server_time.saturating_add(ahead),
        }
    }

    /// Returns the stricter of both in each limit.
    fn intersect(self, other: Self) -> Self {
        Self {
            frame_bytes_max: self.frame_bytes_max.min(other.frame_bytes_max),
            channel_code_max: self.channel_code_max.min(other.channel_code_max),
            time_min: self.time_min.max(other.time_min),
            time_max: self.time_max.min(other.time_max),
        }
    }

    /// Returns whether a server with these limits accepts the frame, or else refuses every later frame as well.
    fn allow(self, spool: SpoolId, entry: &Entry) -> bool {
        let Ok(frame) = Frame::decode(entry.bytes.clone()) else { return false };
        frame.spool() == spool
            && frame.sequence() == entry.sequence
            && entry.bytes.len() <= self.frame_bytes_max as usize
            && frame.channels().iter().all(|code| code.get() <= self.channel_code_max)
            && frame.time_min() >= self.time_min
            && frame.time_max() <= self.time_max
    }
}

/// Outcome of the frames so far.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings in these frames.
    pub acknowledged_readings: u64,
    /// Frames that were refused.
    pub refused_frames: u64,
    /// Readings in these frames.
    pub refused_readings: u64,
    /// The first ten thousand refused frames, one by one.
    pub refused: Vec<RefusedFrame>,
}

/// The frames of one sender that have no response. It does no I/O, so that a client can use it over any transport.
#[derive(Debug)]
pub struct Spool {
    id: SpoolId,
    entries: VecDeque<Entry>,
    /// Number of entries, from the front, that were sent on this stream.
    sent: usize,
    /// Last sequence number sent on this stream.
    sent_up_to: FrameSequence,
    /// Last sequence number sent on any stream.
    ever_sent: FrameSequence,
    limits: Option<FrameLimits>,
    waiting_bytes: usize,
    bytes_max: usize,
    frames_max: usize,
    last: FrameSequence,
    pub(super) fate: Fate,
}

impl Spool {
    /// Creates an empty spool with a limit of its bytes.
    #[must_use]
    pub fn new(id: SpoolId, bytes_max: usize) -> Self {
        Self {
            id,
            entries: VecDeque::new(),
            sent: 0,
            sent_up_to: FrameSequence::ZERO,
            ever_sent: FrameSequence::ZERO,
            limits: None,
            waiting_bytes: 0,
            bytes_max,
            frames_max: usize::MAX,
            last: FrameSequence::ZERO,
            fate: Fate::default(),
        }
    }

    /// Sets the first sequence number.
    pub fn set_first_sequence(&mut self, first: FrameSequence) {
        self.last = FrameSequence::new(first.get().saturating_sub(1));
    }

    /// Sets a limit of the number of frames.
    pub fn set_frames_max(&mut self, frames_max: usize) {
        self.frames_max = frames_max;
    }

    /// Returns the id of the spool.
    #[must_use]
    pub fn id(&self) -> SpoolId {
        self.id
    }

    /// Returns whether another frame may be added.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < self.bytes_max && self.entries.len() < self.frames_max
    }

    /// Returns whether every frame has a response.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of frames without a response, sent or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the memory of the frames without a response.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns the last sequence number of the spool.
    #[must_use]
    pub fn last(&self) -> FrameSequence {
        self.last
    }

    /// Returns the last sequence number sent on this stream.
    #[must_use]
    pub fn sent_up_to(&self) -> FrameSequence {
        self.sent_up_to
    }

    /// Adds a frame; its sequence number must be greater than all before it.
    pub fn push(&mut self, sequence: FrameSequence, bytes: Bytes, readings: u64) {
        debug_assert!(sequence > self.last, "sequence numbers grow");
        self.last = sequence;
        self.waiting_bytes += bytes.len() + ENTRY_BYTES;
        self.entries.push_back(Entry { sequence, bytes, readings });
    }

    /// Returns the next frame to send, and marks it as sent.
    pub fn next_to_send(&mut self) -> Option<(FrameSequence, Bytes)> {
        let entry = self.entries.get(self.sent)?;
        self.sent += 1;
        self.sent_up_to = entry.sequence;
        self.ever_sent = self.ever_sent.max(entry.sequence);
        Some((entry.sequence, entry.bytes.clone()))
    }

    /// Resumes on a new stream: removes the frames that the server has, and prepares the others to be sent again.
    /// Returns whether it removed any.
    ///
    /// A frame up to `durable` whose response was lost is either durable or was refused. A frame that satisfies the
    /// limits of the connections that it was sent on cannot have been refused. Any other frame is sent again, so that a
    /// refusal is not mistaken for an acknowledgement.
    pub fn resume(&mut self, durable: FrameSequence, welcome: &Welcome) -> bool {
        let before = self.entries.len();
        if let Some(limits) = self.limits {
            let durable_count = self.entries.partition_point(|e| e.sequence <= durable.min(self.ever_sent));
            let rest = self.entries.split_off(durable_count);
            for entry in std::mem::replace(&mut self.entries, rest).into_iter().rev() {
                if limits.allow(self.id, &entry) {
                    self.waiting_bytes -= entry.bytes.len() + ENTRY_BYTES;
                    self.fate.acknowledged_frames += 1;
                    self.fate.acknowledged_readings += entry.readings;
                } else {
                    self.entries.push_front(entry);
                }
            }
        }
        let of_server = FrameLimits::of(welcome);
        self.limits = Some(match self.limits {
            Some(before) if !self.entries.is_empty() => before.intersect(of_server),
            _ => of_server,
        });
        self.sent = 0;
        self.sent_up_to = FrameSequence::ZERO;
        self.entries.len() < before
    }

    /// Removes every frame up to this number as acknowledged.
    pub fn acknowledge(&mut self, up_to: FrameSequence) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.sequence <= up_to) {
            self.waiting_bytes -= entry.bytes.len() + ENTRY_BYTES;
            self.sent = self.sent.saturating_sub(1);
            self.fate.acknowledged_frames += 1;
            self.fate.acknowledged_readings += entry.readings;
        }
    }

    /// Removes one frame as refused. A number without a frame is ignored: the frame was sent twice, and this is its
    /// second response.
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

    /// Removes and returns the frames without a response.
    pub fn take_waiting(&mut self) -> Vec<(FrameSequence, Bytes)> {
        self.waiting_bytes = 0;
        self.sent = 0;
        self.entries.drain(..).map(|entry| (entry.sequence, entry.bytes)).collect()
    }

    /// Returns the outcome of the frames that were removed.
    #[must_use]
    pub fn fate(&self) -> &Fate {
        &self.fate
    }

    /// Returns the sequence numbers of the frames without a response, in ascending order.
    pub fn waiting(&self) -> impl Iterator<Item = FrameSequence> + '_ {
        self.entries.iter().map(|entry| entry.sequence)
    }
}

#[cfg(test)]
mod tests;
