//! Identifiers and times from plain numbers. Each function panics when the number is none: a test that writes one down
//! means it.

use storage_format::{ChannelCode, GatewayId, LoggerId, Millis, OrgId, SpoolId};

/// The organisation with this id.
///
/// # Panics
/// When it is zero.
#[must_use]
pub fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("an organisation's id is not zero")
}

/// The gateway with this id.
///
/// # Panics
/// When it is zero.
#[must_use]
pub fn gateway(id: u64) -> GatewayId {
    GatewayId::new(id).expect("a gateway's id is not zero")
}

/// The logger with this id.
///
/// # Panics
/// When it is zero.
#[must_use]
pub fn logger(id: u64) -> LoggerId {
    LoggerId::new(id).expect("a logger's id is not zero")
}

/// The spool with this id.
///
/// # Panics
/// When it is zero.
#[must_use]
pub fn spool(id: u64) -> SpoolId {
    SpoolId::new(id).expect("a spool's id is not zero")
}

/// The channel with this code.
///
/// # Panics
/// When it is zero.
#[must_use]
pub fn channel(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("a channel's code is not zero")
}

/// The time so many milliseconds after 1970.
///
/// # Panics
/// When it is outside of what a reading may have.
#[must_use]
pub fn millis(ms: i64) -> Millis {
    Millis::new(ms).expect("a time that a reading may have")
}
