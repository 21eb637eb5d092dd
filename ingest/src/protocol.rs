//! The protocol without I/O and without a clock: bytes and `now` in, messages and actions out.
//!
//! `PROTOCOL.md` describes it. Both ends are here, so that each can be tested against the other, and a test can play a
//! misbehaving client.

mod message;
mod session;
#[cfg(feature = "server")]
mod validate;
mod version;

pub use message::{
    CONTROL_BYTES_MAX, DETAIL_BYTES_MAX, FRAME_HEAD_BYTES, Message, MessageReader, Received, Welcome, frame_head,
};
pub use session::{ClientEvent, ClientSession, ServerEvent, ServerSession, WelcomeSession};
#[cfg(feature = "server")]
pub use validate::{FrameRefusal, TimePolicy, check_frame, decoded_bytes};
pub use version::{ALPN, ProtocolVersion};
