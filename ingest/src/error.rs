//! Codes and errors of the wire: why a frame is refused, why a connection or stream is closed, how bytes break the
//! protocol. The numbers are the protocol's (`PROTOCOL.md`) and append-only.

use std::fmt;

/// Why a frame is refused. Final: the same bytes sent again would be refused again, for as long as nobody changes
/// anything at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The bytes are not a valid frame, or not the frame that its message announces.
    Malformed,
    /// The frame is larger than the server accepts.
    TooLarge,
    /// A channel that the server's registry does not have.
    UnknownChannel,
    /// A reading's time is outside the range that the server accepts.
    TimeOutOfRange,
    /// The gateway's organisation is suspended.
    OrgSuspended,
    /// The gateway's certificate has been revoked since it connected.
    CertificateRevoked,
    /// The server took the frame and then could not keep it, for a reason that sending it again will not cure.
    NotKept,
}

impl RefusalCode {
    /// Every code, by ascending number.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::TooLarge,
        Self::UnknownChannel,
        Self::TimeOutOfRange,
        Self::OrgSuspended,
        Self::CertificateRevoked,
        Self::NotKept,
    ];

    /// The number on the wire; never zero.
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

    /// The code of this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// The one name, for metrics and machine-readable output.
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

/// Why a connection or a stream is closed: QUIC application error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// Nothing is wrong: the sender has what it wanted.
    Done,
    /// The server stops. Connect again later.
    ShuttingDown,
    /// The other end broke the protocol. Trying again will not help.
    ProtocolViolation,
    /// The server cannot keep anything at present. Keep the frames and connect again later.
    Unavailable,
    /// The other end was too slow. Connect again.
    TooSlow,
    /// The gateway's certificate is not, or no longer, accepted. Trying again will not help.
    CertificateRefused,
    /// The gateway has too many connections. Connect again later.
    TooManyConnections,
}

impl CloseCode {
    /// Every code, by ascending number.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::ShuttingDown,
        Self::ProtocolViolation,
        Self::Unavailable,
        Self::TooSlow,
        Self::CertificateRefused,
        Self::TooManyConnections,
    ];

    /// The number on the wire.
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

    /// The code of this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|code| u64::from(code.number()) == number)
    }

    /// Will trying again never help?
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

/// How bytes break the protocol. There is no going on after it on the same stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A kind of message that this version does not have.
    #[error("message kind {0} does not exist")]
    UnknownKind(u8),
    /// A message that this end never receives, or not now.
    #[error("a message of kind {0} may not come here")]
    Unexpected(u8),
    /// A length that this kind of message cannot have.
    #[error("a message of kind {kind} cannot have {length} bytes")]
    Length {
        /// The message's kind.
        kind: u8,
        /// The length that it claims.
        length: u32,
    },
    /// A field with a value that it cannot have.
    #[error("message kind {kind}: {field} is not valid")]
    Field {
        /// The message's kind.
        kind: u8,
        /// The field's name in `PROTOCOL.md`.
        field: &'static str,
    },
    /// Sequence numbers on a stream must grow.
    #[error("sequence number {found} after {last}")]
    Sequence {
        /// The number before.
        last: u64,
        /// The number that does not grow.
        found: u64,
    },
    /// An answer to something that was never sent.
    #[error("an answer for sequence number {found}, but only {sent} was sent")]
    NotSent {
        /// The last number sent.
        sent: u64,
        /// The number answered.
        found: u64,
    },
    /// The stream ended inside a message.
    #[error("the stream ends inside a message")]
    Truncated,
    /// A protocol version that this end does not speak.
    #[error("protocol version {0} is not spoken here")]
    Version(u16),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_come_back() {
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
