//! One stream's conversation, at either end: which message may come when, and how long it may take.
//!
//! Invariants: a server's session tells frames only after `open`, with growing sequence numbers; a client's session
//! tells answers only for what was sent; acknowledgements grow. Neither keeps more than one message. Times are
//! durations since any fixed moment that the caller chooses; they only ever grow.

use std::time::Duration;

use bytes::Bytes;
use storage_format::{FrameSequence, SpoolId};

use super::message::{Message, MessageReader, Received, Welcome};
use crate::error::{ProtocolError, RefusalCode};

/// What a stream's client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// The stream is open: answer with `opened`.
    Open {
        /// The sender's spool.
        spool: SpoolId,
    },
    /// A frame is there, not yet looked into.
    Frame {
        /// The number that the message gives it.
        sequence: FrameSequence,
        /// Its bytes.
        frame: Bytes,
    },
    /// A frame was declared too large: refuse it. Its bytes are being passed over.
    TooLarge {
        /// Its number.
        sequence: FrameSequence,
        /// Its declared size.
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
    /// The message, by its number, that `deadline` is for.
    watched: u64,
}

impl ServerSession {
    /// A stream that begins now.
    #[must_use]
    pub fn new(now: Duration, frame_bytes_max: u32, open_timeout: Duration, message_timeout: Duration) -> Self {
        Self {
            reader: MessageReader::with_frames(frame_bytes_max),
            spool: None,
            last: FrameSequence::ZERO,
            open_timeout,
            message_timeout,
            deadline: Some(now.saturating_add(open_timeout)),
            watched: 0,
        }
    }

    /// The spool of an open stream.
    #[must_use]
    pub fn spool(&self) -> Option<SpoolId> {
        self.spool
    }

    /// When the client must have completed what it has begun; `None` between messages, where it may take its time.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Bytes held at present.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.reader.memory_bytes()
    }

    /// The frame that is being collected takes so many bytes when all of it is there; `None` when there is none.
    #[must_use]
    pub fn collecting(&self) -> Option<usize> {
        self.reader.collecting()
    }

    /// Takes from the front of `input` until there is something to tell. `None`: all of it is taken.
    ///
    /// # Errors
    /// [`ProtocolError`]: close the stream.
    pub fn receive(&mut self, now: Duration, input: &mut &[u8]) -> Result<Option<ServerEvent>, ProtocolError> {
        let received = self.reader.next(input)?;
        let event = match received {
            None => None,
            Some(Received::TooLarge { sequence, bytes }) => {
                self.grow(sequence)?;
                Some(ServerEvent::TooLarge { sequence, bytes })
            }
            Some(Received::Message(Message::Frame { sequence, frame })) => {
                self.grow(sequence)?;
                Some(ServerEvent::Frame { sequence, frame })
            }
            Some(Received::Message(Message::Open { spool })) if self.spool.is_none() => {
                self.spool = Some(spool);
                Some(ServerEvent::Open { spool })
            }
            Some(Received::Message(other)) => return Err(other.unexpected()),
        };
        self.watch(now);
        Ok(event)
    }

    /// The client has ended the stream.
    ///
    /// # Errors
    /// [`ProtocolError::Truncated`] inside a message.
    pub fn end(&self) -> Result<(), ProtocolError> {
        if self.reader.is_inside() || self.spool.is_none() { Err(ProtocolError::Truncated) } else { Ok(()) }
    }

    fn grow(&mut self, sequence: FrameSequence) -> Result<(), ProtocolError> {
        if self.spool.is_none() {
            return Err(Message::Frame { sequence, frame: Bytes::new() }.unexpected());
        }
        if sequence <= self.last {
            return Err(ProtocolError::Sequence { last: self.last.get(), found: sequence.get() });
        }
        self.last = sequence;
        Ok(())
    }

    fn watch(&mut self, now: Duration) {
        if self.spool.is_none() {
            // One deadline for the whole of `open`, however it trickles in.
            return;
        }
        if !self.reader.is_inside() {
            self.deadline = None;
        } else if self.deadline.is_none() || self.watched != self.reader.ended() {
            self.watched = self.reader.ended();
            self.deadline = Some(now.saturating_add(self.message_timeout));
        }
    }

    /// How long the client had, for the text of an error.
    #[must_use]
    pub fn time_allowed(&self) -> Duration {
        if self.spool.is_none() { self.open_timeout } else { self.message_timeout }
    }
}

/// What a stream's server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The stream is open.
    Opened {
        /// The highest durable sequence number of the spool.
        durable: FrameSequence,
    },
    /// Everything on this stream up to this number is durable, or was refused.
    Acknowledged {
        /// That number.
        up_to: FrameSequence,
    },
    /// A frame was refused.
    Refused {
        /// Which.
        sequence: FrameSequence,
        /// Why.
        code: RefusalCode,
        /// Why, for people.
        detail: String,
    },
}

/// The client's end of a stream. What it sends is [`Message::Open`] first and then frames.
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
    /// A stream that begins.
    #[must_use]
    pub fn new() -> Self {
        Self { reader: MessageReader::without_frames(), opened: false, acknowledged: FrameSequence::ZERO }
    }

    /// Takes from the front of `input` until there is something to tell. `None`: all of it is taken. `sent` is the last
    /// sequence number that was sent on this stream.
    ///
    /// # Errors
    /// [`ProtocolError`]: close the connection.
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

/// Reads the one message of the server's own stream.
#[derive(Debug)]
pub struct WelcomeSession(MessageReader);

impl Default for WelcomeSession {
    fn default() -> Self {
        Self::new()
    }
}

impl WelcomeSession {
    /// A stream that begins.
    #[must_use]
    pub fn new() -> Self {
        Self(MessageReader::without_frames())
    }

    /// Takes from the front of `input` until the welcome is there. What follows it is for later versions.
    ///
    /// # Errors
    /// [`ProtocolError`]: close the connection.
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
