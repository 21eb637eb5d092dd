//! State machines of one stream, for either end: which message may arrive when, and how long it may take.
//!
//! Invariants: a server's session returns frames only after `open`, with growing sequence numbers; a client's session
//! returns responses only for frames that were sent; acknowledgements grow. Neither keeps more than one message. Times
//! are durations since a fixed moment that the caller chooses, and never decrease.

use std::time::Duration;

use bytes::Bytes;
use storage_format::{FrameSequence, SpoolId};

use super::message::{Message, MessageReader, Received, Welcome};
use crate::error::{ProtocolError, RefusalCode};

/// Event that the server receives from a stream's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// The stream is open: respond with `opened`.
    Open {
        /// The sender's spool.
        spool: SpoolId,
    },
    /// A complete frame, not yet validated.
    Frame {
        /// Sequence number in the message.
        sequence: FrameSequence,
        /// Bytes of the frame.
        frame: Bytes,
    },
    /// A frame that is declared too large: refuse it. Its bytes are skipped.
    TooLarge {
        /// Sequence number of the frame.
        sequence: FrameSequence,
        /// Declared size of the frame.
        bytes: u32,
    },
}

/// The server's end of a stream.
#[derive(Debug)]
pub struct ServerSession {
    reader: MessageReader,
    spool: Option<SpoolId>,
    last: FrameSequence,
    open_timeout: Duration,
    message_timeout: Duration,
    deadline: Option<Duration>,
    /// Number of the message that `deadline` is for.
    deadline_message: u64,
}

impl ServerSession {
    /// Creates a session for a stream that starts at `now`.
    #[must_use]
    pub fn new(now: Duration, frame_bytes_max: u32, open_timeout: Duration, message_timeout: Duration) -> Self {
        Self {
            reader: MessageReader::with_frames(frame_bytes_max),
            spool: None,
            last: FrameSequence::ZERO,
            open_timeout,
            message_timeout,
            deadline: Some(now.saturating_add(open_timeout)),
            deadline_message: 0,
        }
    }

    /// Returns the spool, once the stream is open.
    #[must_use]
    pub fn spool(&self) -> Option<SpoolId> {
        self.spool
    }

    /// Returns when the client must have completed the message that it has started; `None` between messages, where
    /// there is no time limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Returns the bytes of memory in use.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.reader.memory_bytes()
    }

    /// Returns the size that the incomplete frame will have; `None` when there is no incomplete frame.
    #[must_use]
    pub fn incomplete_frame_bytes(&self) -> Option<usize> {
        self.reader.incomplete_frame_bytes()
    }

    /// Consumes bytes from the front of `input` up to the next event. Returns `None` when all of `input` is consumed.
    ///
    /// # Errors
    /// [`ProtocolError`]; close the stream.
    pub fn receive(&mut self, now: Duration, input: &mut &[u8]) -> Result<Option<ServerEvent>, ProtocolError> {
        let received = self.reader.next(input)?;
        let event = match received {
            None => None,
            Some(Received::TooLarge { sequence, bytes }) => {
                self.check_sequence(sequence)?;
                Some(ServerEvent::TooLarge { sequence, bytes })
            }
            Some(Received::Message(Message::Frame { sequence, frame })) => {
                self.check_sequence(sequence)?;
                Some(ServerEvent::Frame { sequence, frame })
            }
            Some(Received::Message(Message::Open { spool })) if self.spool.is_none() => {
                self.spool = Some(spool);
                Some(ServerEvent::Open { spool })
            }
            Some(Received::Message(other)) => return Err(other.unexpected()),
        };
        self.update_deadline(now);
        Ok(event)
    }

    /// Checks that the client may end the stream here.
    ///
    /// # Errors
    /// [`ProtocolError::Truncated`] inside a message or before `open`.
    pub fn end(&self) -> Result<(), ProtocolError> {
        if self.reader.is_inside() || self.spool.is_none() { Err(ProtocolError::Truncated) } else { Ok(()) }
    }

    fn check_sequence(&mut self, sequence: FrameSequence) -> Result<(), ProtocolError> {
        if self.spool.is_none() {
            return Err(Message::Frame { sequence, frame: Bytes::new() }.unexpected());
        }
        if sequence <= self.last {
            return Err(ProtocolError::Sequence { last: self.last.get(), found: sequence.get() });
        }
        self.last = sequence;
        Ok(())
    }

    fn update_deadline(&mut self, now: Duration) {
        if self.spool.is_none() {
            // One deadline applies to the whole `open` message, however slowly its bytes arrive.
            return;
        }
        if !self.reader.is_inside() {
            self.deadline = None;
        } else if self.deadline.is_none() || self.deadline_message != self.reader.completed() {
            self.deadline_message = self.reader.completed();
            self.deadline = Some(now.saturating_add(self.message_timeout));
        }
    }

    /// Returns the time limit behind [`deadline`](Self::deadline), for the text of an error.
    #[must_use]
    pub fn time_allowed(&self) -> Duration {
        if self.spool.is_none() { self.open_timeout } else { self.message_timeout }
    }
}

/// Event that the client receives from a stream's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The stream is open.
    Opened {
        /// The highest durable sequence number of the spool.
        durable: FrameSequence,
    },
    /// Every frame on this stream up to this number is durable, or was refused.
    Acknowledged {
        /// The sequence number.
        up_to: FrameSequence,
    },
    /// A frame was refused.
    Refused {
        /// Sequence number of the frame.
        sequence: FrameSequence,
        /// Reason.
        code: RefusalCode,
        /// Detail for people.
        detail: String,
    },
}

/// The client's end of a stream. The client sends [`Message::Open`] first and then frames.
#[derive(Debug)]
pub struct ClientSession {
    reader: MessageReader,
    opened: bool,
    acknowledged: FrameSequence,
}

impl Default for ClientSession {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientSession {
    /// Creates a session for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self { reader: MessageReader::without_frames(), opened: false, acknowledged: FrameSequence::ZERO }
    }

    /// Consumes bytes from the front of `input` up to the next event. Returns `None` when all of `input` is consumed.
    /// `sent` is the last sequence number sent on this stream.
    ///
    /// # Errors
    /// [`ProtocolError`]; close the connection.
    pub fn receive(&mut self, sent: FrameSequence, input: &mut &[u8]) -> Result<Option<ClientEvent>, ProtocolError> {
        let Some(received) = self.reader.next(input)? else { return Ok(None) };
        let Received::Message(message) = received else { return Ok(None) };
        let check_sent = |found: FrameSequence| {
            if found > sent { Err(ProtocolError::NotSent { sent: sent.get(), found: found.get() }) } else { Ok(()) }
        };
        match message {
            Message::Opened { durable } if !self.opened => {
                self.opened = true;
                Ok(Some(ClientEvent::Opened { durable }))
            }
            Message::Ack { up_to } if self.opened => {
                check_sent(up_to)?;
                if up_to <= self.acknowledged {
                    return Err(ProtocolError::Sequence { last: self.acknowledged.get(), found: up_to.get() });
                }
                self.acknowledged = up_to;
                Ok(Some(ClientEvent::Acknowledged { up_to }))
            }
            Message::Refused { sequence, code, detail } if self.opened => {
                check_sent(sequence)?;
                Ok(Some(ClientEvent::Refused { sequence, code, detail }))
            }
            other => Err(other.unexpected()),
        }
    }
}

/// Reads the single message of the server's own stream.
#[derive(Debug)]
pub struct WelcomeSession(MessageReader);

impl Default for WelcomeSession {
    fn default() -> Self {
        Self::new()
    }
}

impl WelcomeSession {
    /// Creates a session for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self(MessageReader::without_frames())
    }

    /// Consumes bytes from the front of `input` until the welcome is complete. Bytes after it are for later versions.
    ///
    /// # Errors
    /// [`ProtocolError`]; close the connection.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Welcome>, ProtocolError> {
        match self.0.next(input)? {
            None | Some(Received::TooLarge { .. }) => Ok(None),
            Some(Received::Message(Message::Welcome(welcome))) => Ok(Some(welcome)),
            Some(Received::Message(other)) => Err(other.unexpected()),
        }
    }
}

#[cfg(test)]
mod tests;
