//! Codes and errors of the wire: why a frame is refused, why a connection or stream is closed, how bytes violate the
//! protocol. The numbers are defined in `PROTOCOL.md` and are append-only.

use std::fmt;

/// Reason for refusing a frame. It is final: the same bytes would be refused again until somebody changes something at
/// the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The bytes are not a valid frame, or not the frame that its message announces.
    Malformed,
    /// The frame is larger than the server accepts.
    TooLarge,
    /// The frame has a channel that the server's registry does not have.
    UnknownChannel,
    /// A reading's time is outside the range that the server accepts.
    TimeOutOfRange,
    /// The gateway's organisation is suspended.
    OrgSuspended,
    /// The gateway's certificate has been revoked since it connected.
    CertificateRevoked,
    /// The server accepted the frame and then could not store it, for a reason that resending does not remove.
    NotKept,
}

impl RefusalCode {
    /// All codes, in ascending order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::TooLarge,
        Self::UnknownChannel,
        Self::TimeOutOfRange,
        Self::OrgSuspended,
        Self::CertificateRevoked,
        Self::NotKept,
    ];

    /// Returns the number on the wire, which is never zero.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::TooLarge => 2,
            Self::UnknownChannel => 3,
            Self::TimeOutOfRange => 4,
            Self::OrgSuspended => 5,
            Self::CertificateRevoked => 6,
            Self::NotKept => 7,
        }
    }

    /// Returns the code with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// Returns the name for metrics and machine-readable output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::UnknownChannel => "unknown_channel",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::OrgSuspended => "org_suspended",
            Self::CertificateRevoked => "certificate_revoked",
            Self::NotKept => "not_kept",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too large",
            Self::UnknownChannel => "unknown channel",
            Self::TimeOutOfRange => "time out of range",
            Self::OrgSuspended => "organisation suspended",
            Self::CertificateRevoked => "certificate revoked",
            Self::NotKept => "not kept",
        })
    }
}

/// Reason for closing a connection or a stream: a QUIC application error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// The sender is finished; this is not an error.
    Done,
    /// The server is shutting down. Reconnect later.
    ShuttingDown,
    /// The other end violated the protocol. A retry will not help.
    ProtocolViolation,
    /// The server cannot store anything at present. Keep the frames and reconnect later.
    Unavailable,
    /// The other end was too slow. Reconnect.
    TooSlow,
    /// The gateway's certificate is not accepted, or no longer. A retry will not help.
    CertificateRefused,
    /// The gateway has too many connections. Reconnect later.
    TooManyConnections,
}

impl CloseCode {
    /// All codes, in ascending order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::ShuttingDown,
        Self::ProtocolViolation,
        Self::Unavailable,
        Self::TooSlow,
        Self::CertificateRefused,
        Self::TooManyConnections,
    ];

    /// Returns the number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::ShuttingDown => 1,
            Self::ProtocolViolation => 2,
            Self::Unavailable => 3,
            Self::TooSlow => 4,
            Self::CertificateRefused => 5,
            Self::TooManyConnections => 6,
        }
    }

    /// Returns the code with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|code| u64::from(code.number()) == number)
    }

    /// Returns whether every retry would fail in the same way.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::ProtocolViolation | Self::CertificateRefused)
    }

    pub(crate) fn var_int(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self.number())
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::ShuttingDown => "the server is shutting down",
            Self::ProtocolViolation => "protocol violation",
            Self::Unavailable => "the server cannot store anything at present",
            Self::TooSlow => "too slow",
            Self::CertificateRefused => "the gateway's certificate is not accepted",
            Self::TooManyConnections => "too many connections of this gateway",
        })
    }
}

/// A violation of the protocol. The stream cannot continue after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A kind of message that this version does not have.
    #[error("unknown message kind {0}")]
    UnknownKind(u8),
    /// A message that this end never accepts, or does not accept at this point.
    #[error("unexpected message of kind {0}")]
    Unexpected(u8),
    /// A length that this kind of message cannot have.
    #[error("message kind {kind}: a length of {length} bytes is not valid")]
    Length {
        /// Kind of the message.
        kind: u8,
        /// Length that the message declares.
        length: u32,
    },
    /// A field with an invalid value.
    #[error("message kind {kind}: {field} is not valid")]
    Field {
        /// Kind of the message.
        kind: u8,
        /// Name of the field in `PROTOCOL.md`.
        field: &'static str,
    },
    /// A sequence number that is not greater than the one before it on the stream.
    #[error("sequence number {found} is not greater than {last}, the one before it")]
    Sequence {
        /// The previous number.
        last: u64,
        /// The number that does not grow.
        found: u64,
    },
    /// A response to a frame that was never sent.
    #[error("a response for sequence number {found}, but the last one sent is {sent}")]
    NotSent {
        /// The last sequence number sent.
        sent: u64,
        /// The sequence number in the response.
        found: u64,
    },
    /// The stream ended inside a message.
    #[error("the stream ends inside a message")]
    Truncated,
    /// A protocol version that this end does not support.
    #[error("protocol version {0} is not supported")]
    Version(u16),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_maps_back_to_its_code() {
        for code in RefusalCode::ALL {
            assert_eq!(RefusalCode::from_number(code.number()), Some(code));
            assert_ne!(code.number(), 0);
        }
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(u64::from(code.number())), Some(code));
        }
        assert_eq!(RefusalCode::from_number(0), None);
        assert_eq!(CloseCode::from_number(99), None);
    }
}
