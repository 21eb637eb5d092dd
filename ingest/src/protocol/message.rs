//! Messages and their bytes, and the reader that splits a stream of bytes into messages.
//!
//! Invariants: the reader holds at most one message, never more than the larger of `frame_bytes_max` and
//! `CONTROL_BYTES_MAX` plus its head. It reserves memory only as bytes arrive, and no more than the message has. It
//! reports a frame that is declared too large at once, and skips its bytes instead of keeping them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use storage_format::{FrameSequence, Millis, SpoolId};

use super::version::ProtocolVersion;
use crate::error::{ProtocolError, RefusalCode};

/// Size limit of the body of a message that is not a frame. Without a refusal's text, today's messages
/// need less than a tenth of it.
pub const CONTROL_BYTES_MAX: u32 = 1024;

/// Size limit of a refusal's text, in bytes.
pub const DETAIL_BYTES_MAX: usize = 256;

/// Bytes of a frame that a stream may buffer without reserving memory: about one datagram.
const UNRESERVED_BYTES_MAX: usize = 2 << 10;

/// Size of length and kind, which precede every message's body.
const HEAD_BYTES: usize = 5;
/// Size of the sequence number at the start of a frame's body.
const SEQUENCE_BYTES: u32 = 8;
/// Size of everything that precedes the bytes of a frame.
pub const FRAME_HEAD_BYTES: usize = HEAD_BYTES + 8;

const WELCOME: u8 = 1;
const OPEN: u8 = 2;
const OPENED: u8 = 3;
const FRAME: u8 = 4;
const ACK: u8 = 5;
const REFUSED: u8 = 6;

const WELCOME_BYTES: usize = 48;

/// First message of the server on every connection: its version and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Version of the protocol.
    pub version: ProtocolVersion,
    /// The highest channel code that the server's registry has; codes are dense from 1.
    pub channel_code_max: u16,
    /// Size limit of a frame, in bytes.
    pub frame_bytes_max: u32,
    /// Concurrent streams on this connection.
    pub streams_max: u32,
    /// Milliseconds of silence after which the server drops the connection.
    pub idle_timeout_ms: u32,
    /// Milliseconds that one message may take from its first byte to its last.
    pub message_timeout_ms: u32,
    /// Time of the server's clock.
    pub server_time: Millis,
    /// The earliest time that a reading may have.
    pub time_min: Millis,
    /// Limit of the time by which a reading may be ahead of the server's clock, in milliseconds.
    pub ahead_ms_max: u64,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Sent by the server, once per connection, on a stream of its own.
    Welcome(Welcome),
    /// Sent by the client, first on a stream: the spool of the frames that follow.
    Open {
        /// The sender's spool.
        spool: SpoolId,
    },
    /// Sent by the server in response to `Open`: the frames that it already has.
    Opened {
        /// The highest durable sequence number of that spool; zero for none.
        durable: FrameSequence,
    },
    /// Sent by the client: a frame.
    Frame {
        /// The frame's sequence number, so that it can be refused by number even when its bytes are damaged.
        sequence: FrameSequence,
        /// The frame, as `storage-format/docs/frame.md` describes it.
        frame: Bytes,
    },
    /// Sent by the server: every frame on this stream up to this number is durable, or was refused.
    Ack {
        /// The sequence number.
        up_to: FrameSequence,
    },
    /// Sent by the server: one frame is refused.
    Refused {
        /// Sequence number of the frame.
        sequence: FrameSequence,
        /// Reason.
        code: RefusalCode,
        /// Detail for people; at most [`DETAIL_BYTES_MAX`] bytes.
        detail: String,
    },
}

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Welcome(_) => WELCOME,
            Self::Open { .. } => OPEN,
            Self::Opened { .. } => OPENED,
            Self::Frame { .. } => FRAME,
            Self::Ack { .. } => ACK,
            Self::Refused { .. } => REFUSED,
        }
    }

    pub(super) const fn unexpected(&self) -> ProtocolError {
        ProtocolError::Unexpected(self.kind())
    }

    /// Appends the message's bytes. A refusal's text is truncated to [`DETAIL_BYTES_MAX`].
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Welcome(w) => {
                encode_head(out, WELCOME, WELCOME_BYTES);
                out.put_u16_le(w.version.get());
                out.put_u16_le(w.channel_code_max);
                out.put_u32_le(w.frame_bytes_max);
                out.put_u32_le(w.streams_max);
                out.put_u32_le(w.idle_timeout_ms);
                out.put_u32_le(w.message_timeout_ms);
                out.put_u32_le(0);
                out.put_i64_le(w.server_time.get());
                out.put_i64_le(w.time_min.get());
                out.put_u64_le(w.ahead_ms_max);
            }
            Self::Open { spool } => {
                encode_head(out, OPEN, 8);
                out.put_u64_le(spool.get());
            }
            Self::Opened { durable } => {
                encode_head(out, OPENED, 8);
                out.put_u64_le(durable.get());
            }
            Self::Frame { sequence, frame } => {
                encode_head(out, FRAME, 8 + frame.len());
                out.put_u64_le(sequence.get());
                out.put_slice(frame);
            }
            Self::Ack { up_to } => {
                encode_head(out, ACK, 8);
                out.put_u64_le(up_to.get());
            }
            Self::Refused { sequence, code, detail } => {
                let detail = truncated(detail);
                encode_head(out, REFUSED, 10 + detail.len());
                out.put_u64_le(sequence.get());
                out.put_u16_le(code.number());
                out.put_slice(detail.as_bytes());
            }
        }
    }

    /// Returns the message's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Self, ProtocolError> {
        let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
        let wrong_length = ProtocolError::Length { kind, length };
        let field = |field| ProtocolError::Field { kind, field };
        let body_bytes_min = match kind {
            WELCOME => WELCOME_BYTES,
            OPEN | OPENED | FRAME | ACK => 8,
            REFUSED => 10,
            _ => return Err(ProtocolError::UnknownKind(kind)),
        };
        // Later versions may append fields to `welcome`, `open` and `opened`: unknown bytes are skipped.
        if body.len() < body_bytes_min || (kind == ACK && body.len() > body_bytes_min) {
            return Err(wrong_length);
        }
        Ok(match kind {
            WELCOME => {
                let version = ProtocolVersion::new(body.get_u16_le())?;
                let channel_code_max = body.get_u16_le();
                let frame_bytes_max = body.get_u32_le();
                let streams_max = body.get_u32_le();
                let idle_timeout_ms = body.get_u32_le();
                let message_timeout_ms = body.get_u32_le();
                let _reserved = body.get_u32_le();
                let server_time = Millis::new(body.get_i64_le()).map_err(|_| field("server_time"))?;
                let time_min = Millis::new(body.get_i64_le()).map_err(|_| field("time_min"))?;
                let ahead_ms_max = body.get_u64_le();
                Self::Welcome(Welcome {
                    version,
                    channel_code_max,
                    frame_bytes_max,
                    streams_max,
                    idle_timeout_ms,
                    message_timeout_ms,
                    server_time,
                    time_min,
                    ahead_ms_max,
                })
            }
            OPEN => Self::Open { spool: SpoolId::new(body.get_u64_le()).map_err(|_| field("spool"))? },
            OPENED => Self::Opened { durable: FrameSequence::new(body.get_u64_le()) },
            FRAME => Self::Frame { sequence: nonzero(body.get_u64_le(), field)?, frame: body },
            ACK => Self::Ack { up_to: nonzero(body.get_u64_le(), field)? },
            _ => {
                let sequence = nonzero(body.get_u64_le(), field)?;
                let code = RefusalCode::from_number(body.get_u16_le()).ok_or_else(|| field("code"))?;
                let detail = String::from_utf8_lossy(&body).into_owned();
                Self::Refused { sequence, code, detail }
            }
        })
    }
}

fn nonzero(sequence: u64, field: impl Fn(&'static str) -> ProtocolError) -> Result<FrameSequence, ProtocolError> {
    if sequence == 0 { Err(field("sequence")) } else { Ok(FrameSequence::new(sequence)) }
}

/// Returns the bytes that precede a frame of this length, for a sender that does not want to copy the frame.
#[must_use]
pub fn frame_head(sequence: FrameSequence, frame_bytes: usize) -> [u8; FRAME_HEAD_BYTES] {
    let mut out = [0; FRAME_HEAD_BYTES];
    let mut rest = &mut out[..];
    rest.put_u32_le(length_field(8 + frame_bytes));
    rest.put_u8(FRAME);
    rest.put_u64_le(sequence.get());
    out
}

fn encode_head(out: &mut BytesMut, kind: u8, body_bytes: usize) {
    out.reserve(HEAD_BYTES + body_bytes);
    out.put_u32_le(length_field(body_bytes));
    out.put_u8(kind);
}

fn length_field(body_bytes: usize) -> u32 {
    // A frame of 4 GiB cannot be built, because FrameBuilder stops at 1 MiB. If it could, the saturated length would
    // have the message refused.
    u32::try_from(body_bytes + 1).unwrap_or(u32::MAX)
}

fn truncated(detail: &str) -> &str {
    let mut end = detail.len().min(DETAIL_BYTES_MAX);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    &detail[..end]
}

/// Item that a stream of bytes contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A complete message.
    Message(Message),
    /// The start of a frame that is larger than allowed; its bytes will be skipped.
    TooLarge {
        /// Sequence number of the frame.
        sequence: FrameSequence,
        /// Declared size of the frame in bytes.
        bytes: u32,
    },
}

#[derive(Debug)]
enum State {
    /// Length and kind, as far as they have arrived.
    Head,
    /// The sequence number of a frame that is too large.
    LargeHead { length: u32 },
    /// The body of a message of this kind, of which `missing` bytes have not arrived.
    Body { kind: u8, missing: usize },
    /// The rest of a frame that is too large.
    Skip { missing: u32 },
}

/// Splits a stream of bytes into messages.
#[derive(Debug)]
pub struct MessageReader {
    frame_bytes_max: Option<u32>,
    state: State,
    head: [u8; 8],
    head_bytes: usize,
    buffer: BytesMut,
    /// Number of messages that are complete.
    completed: u64,
}

impl MessageReader {
    /// Creates a reader for the server's end, which accepts frames of at most this size.
    #[must_use]
    pub fn with_frames(frame_bytes_max: u32) -> Self {
        Self::new(Some(frame_bytes_max))
    }

    /// Creates a reader for the client's end, which accepts no frames.
    #[must_use]
    pub fn without_frames() -> Self {
        Self::new(None)
    }

    fn new(frame_bytes_max: Option<u32>) -> Self {
        Self { frame_bytes_max, state: State::Head, head: [0; 8], head_bytes: 0, buffer: BytesMut::new(), completed: 0 }
    }

    /// Returns whether a message has started and is not complete.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !(matches!(self.state, State::Head) && self.head_bytes == 0)
    }

    /// Returns how many messages are complete.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// Returns the size that the incomplete frame will have; `None` when there is no incomplete frame.
    #[must_use]
    pub fn incomplete_frame_bytes(&self) -> Option<usize> {
        match self.state {
            State::Body { kind: FRAME, missing } => Some(self.buffer.len() + missing),
            _ => None,
        }
    }

    /// Returns the bytes of memory reserved at present.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Consumes bytes from the front of `input` up to the next item. Returns `None` when all of `input` is consumed and
    /// more is needed.
    ///
    /// # Errors
    /// [`ProtocolError`]; the reader cannot continue after it.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Received>, ProtocolError> {
        loop {
            match self.state {
                State::Head => {
                    if !self.fill_head(input, HEAD_BYTES) {
                        return Ok(None);
                    }
                    let mut head = &self.head[..];
                    let (length, kind) = (head.get_u32_le(), head.get_u8());
                    self.state = self.start_body(length, kind)?;
                }
                State::LargeHead { length } => {
                    if !self.fill_head(input, 8) {
                        return Ok(None);
                    }
                    let sequence = u64::from_le_bytes(self.head);
                    let sequence = nonzero(sequence, |field| ProtocolError::Field { kind: FRAME, field })?;
                    let bytes = length - 1 - SEQUENCE_BYTES;
                    self.state = State::Skip { missing: bytes };
                    return Ok(Some(Received::TooLarge { sequence, bytes }));
                }
                State::Body { kind, ref mut missing } => {
                    let n = (*missing).min(input.len());
                    reserve(&mut self.buffer, n, *missing);
                    *missing -= n;
                    let done = *missing == 0;
                    self.buffer.extend_from_slice(&input[..n]);
                    input.advance(n);
                    if !done {
                        return Ok(None);
                    }
                    self.state = State::Head;
                    self.completed += 1;
                    let body = std::mem::take(&mut self.buffer).freeze();
                    return Message::decode(kind, body).map(|message| Some(Received::Message(message)));
                }
                State::Skip { ref mut missing } => {
                    let n = (*missing as usize).min(input.len());
                    input.advance(n);
                    // `n` is at most `missing`, a u32.
                    *missing -= u32::try_from(n).unwrap_or(*missing);
                    if *missing > 0 {
                        return Ok(None);
                    }
                    self.state = State::Head;
                    self.completed += 1;
                }
            }
        }
    }

    fn start_body(&mut self, length: u32, kind: u8) -> Result<State, ProtocolError> {
        let body = length.checked_sub(1).ok_or(ProtocolError::Length { kind, length })?;
        let body_bytes_max = match (kind, self.frame_bytes_max) {
            (FRAME, Some(frame_bytes_max)) => {
                if body < SEQUENCE_BYTES {
                    return Err(ProtocolError::Length { kind, length });
                }
                if body - SEQUENCE_BYTES > frame_bytes_max {
                    return Ok(State::LargeHead { length });
                }
                body
            }
            (FRAME, None) => return Err(ProtocolError::Unexpected(kind)),
            (WELCOME | OPEN | OPENED | ACK | REFUSED, _) => CONTROL_BYTES_MAX,
            _ => return Err(ProtocolError::UnknownKind(kind)),
        };
        if body > body_bytes_max {
            return Err(ProtocolError::Length { kind, length });
        }
        let missing = body as usize;
        self.buffer = BytesMut::with_capacity(missing.min(UNRESERVED_BYTES_MAX));
        Ok(State::Body { kind, missing })
    }

    /// Moves bytes from `input` to the head until it has `wanted` bytes, and resets its count. Returns false when
    /// `input` ends before.
    fn fill_head(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let n = (wanted - self.head_bytes).min(input.len());
        self.head[self.head_bytes..self.head_bytes + n].copy_from_slice(&input[..n]);
        self.head_bytes += n;
        input.advance(n);
        let full = self.head_bytes == wanted;
        if full {
            self.head_bytes = 0;
        }
        full
    }
}

/// Reserves room for `n` more bytes, of the `missing` bytes that the message still lacks. The capacity doubles as bytes
/// arrive, but never exceeds the message's own size.
fn reserve(buffer: &mut BytesMut, n: usize, missing: usize) {
    if buffer.capacity() - buffer.len() >= n {
        return;
    }
    let capacity = (2 * buffer.capacity()).max(buffer.len() + n).min(buffer.len() + missing);
    let mut larger = BytesMut::with_capacity(capacity);
    larger.extend_from_slice(buffer);
    *buffer = larger;
}

#[cfg(test)]
mod tests;
