//! The version of the protocol. Old and new do not mix: each major version has its own ALPN name, so that ends which do
//! not fit part in the handshake.

use std::fmt;

use crate::error::ProtocolError;

/// What both ends offer in the TLS handshake.
pub const ALPN: &[u8] = b"icecore/1";

/// The protocol's version, as the server's `welcome` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProtocolVersion(u16);

impl ProtocolVersion {
    /// The one that this program speaks.
    pub const CURRENT: Self = Self(1);

    /// The version of this number.
    ///
    /// # Errors
    /// [`ProtocolError::Version`] for one that is not spoken here.
    pub const fn new(number: u16) -> Result<Self, ProtocolError> {
        if number == Self::CURRENT.0 { Ok(Self(number)) } else { Err(ProtocolError::Version(number)) }
    }

    /// The number.
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
