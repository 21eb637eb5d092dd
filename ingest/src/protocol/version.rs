//! The version of the protocol. Each major version has its own ALPN name, so that the handshake fails between ends with
//! different versions.

use std::fmt;

use crate::error::ProtocolError;

/// ALPN name that both ends offer in the TLS handshake.
pub const ALPN: &[u8] = b"icecore/1";

/// Version of the protocol, as the server's `welcome` contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProtocolVersion(u16);

impl ProtocolVersion {
    /// The version that this program supports.
    pub const CURRENT: Self = Self(1);

    /// Returns the version with this number.
    ///
    /// # Errors
    /// [`ProtocolError::Version`] for a version that is not supported.
    pub const fn new(number: u16) -> Result<Self, ProtocolError> {
        if number == Self::CURRENT.0 { Ok(Self(number)) } else { Err(ProtocolError::Version(number)) }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
