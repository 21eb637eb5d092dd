//! Errors of a client, and which of them are temporary.
//!
//! With TLS 1.3 a client's handshake is complete before the server has checked its certificate: a refusal arrives
//! afterwards, as a close with a TLS alert. So a TLS alert is final whenever it arrives.

use std::time::Duration;

use quinn::{ConnectError, ConnectionError, ReadError, VarInt, WriteError};

use crate::error::{CloseCode, ProtocolError};
use crate::tls::TlsError;

/// Reason why a client ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration is not usable.
    #[error("cannot start the client: {0}")]
    Config(String),
    /// The server does not accept this gateway's certificate.
    #[error("the server refuses this gateway's certificate: {0}")]
    CertificateRefused(String),
    /// The server's certificate is not signed by the CA in the identity, or not issued for its server name.
    #[error("the server's certificate is not trusted: {0}")]
    ServerNotTrusted(String),
    /// The server uses another protocol or version, or reports that this end violated it.
    #[error("this client and the server are not compatible: {0}")]
    Incompatible(String),
    /// No frame was acknowledged for the time of [`patience`](super::ClientConfig::patience).
    #[error("gave up after {} s without progress: {last}", patience.as_secs_f64())]
    GaveUp {
        /// Time after which the client gave up.
        patience: Duration,
        /// The last error.
        last: String,
    },
    /// A frame that cannot be added to this client's spool.
    #[error("cannot add the frame to the spool: {0}")]
    Frame(String),
}

impl From<TlsError> for ClientError {
    fn from(error: TlsError) -> Self {
        Self::Config(error.to_string())
    }
}

/// Failure of a connection or of an attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionFailure {
    /// A retry will not help.
    Permanent(ClientError),
    /// A retry may help.
    Temporary(String),
}

/// QUIC error codes that contain a TLS alert (RFC 9001, 4.8).
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

const INTERNAL_ERROR: u64 = 80;
const NO_APPLICATION_PROTOCOL: u64 = 120;

/// Describes an alert about this client's certificate.
fn alert_text(alert: u64) -> String {
    let text = match alert {
        42 => "it is not valid",
        43 => "it is of a kind that is not supported",
        44 => "it is revoked",
        45 => "it is expired, or not valid yet",
        46 => "it is not acceptable",
        // A CA with the name of the server's CA and another key causes a wrong signature.
        48 | 51 => "it is not signed by the server's CA",
        49 => "no gateway is enrolled with it",
        116 => "no certificate was sent",
        other => return format!("TLS alert {other}"),
    };
    text.to_owned()
}

impl ConnectionFailure {
    fn of_alert(alert: u64, by_server: bool, reason: &str) -> Self {
        Self::Permanent(match alert {
            INTERNAL_ERROR => return Self::Temporary(format!("the TLS handshake failed: {reason}")),
            NO_APPLICATION_PROTOCOL => {
                ClientError::Incompatible("the server does not support this protocol version (ALPN)".into())
            }
            70 => ClientError::Incompatible("the server does not support TLS 1.3".into()),
            41..=49 | 51 | 116 if by_server => ClientError::CertificateRefused(alert_text(alert)),
            41..=49 | 51 => ClientError::ServerNotTrusted(reason.to_owned()),
            _ => ClientError::Incompatible(format!("TLS alert {alert}: {reason}")),
        })
    }

    fn of_code(code: VarInt, reason: &str) -> Self {
        match CloseCode::from_number(code.into_inner()) {
            Some(CloseCode::CertificateRefused) => Self::Permanent(ClientError::CertificateRefused(reason.to_owned())),
            Some(CloseCode::ProtocolViolation) => {
                Self::Permanent(ClientError::Incompatible(format!("protocol violation {reason}").trim().to_owned()))
            }
            Some(code) => Self::Temporary(code.to_string()),
            None => Self::Temporary(format!("closed with code {code} {reason}").trim().to_owned()),
        }
    }
}

impl From<ConnectionError> for ConnectionFailure {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::VersionMismatch => {
                Self::Permanent(ClientError::Incompatible("the server does not support this QUIC version".into()))
            }
            ConnectionError::TransportError(error) => {
                let code = u64::from(error.code);
                if TLS_ALERTS.contains(&code) {
                    return Self::of_alert(code - TLS_ALERTS.start, false, &error.reason);
                }
                Self::Temporary(error.to_string())
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                if TLS_ALERTS.contains(&code) {
                    let reason = String::from_utf8_lossy(&close.reason).into_owned();
                    return Self::of_alert(code - TLS_ALERTS.start, true, &reason);
                }
                Self::Temporary(close.to_string())
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::of_code(close.error_code, &String::from_utf8_lossy(&close.reason))
            }
            ConnectionError::Reset => Self::Temporary("the server has restarted".into()),
            ConnectionError::TimedOut => Self::Temporary("the server does not respond".into()),
            other => Self::Temporary(other.to_string()),
        }
    }
}

impl From<ReadError> for ConnectionFailure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::Reset(code) => Self::of_code(code, ""),
            other => Self::Temporary(other.to_string()),
        }
    }
}

impl From<WriteError> for ConnectionFailure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(code) => Self::of_code(code, ""),
            other => Self::Temporary(other.to_string()),
        }
    }
}

impl From<ConnectError> for ConnectionFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::InvalidServerName(name) => {
                Self::Permanent(ClientError::Config(format!("{name:?} is not a server name")))
            }
            other => Self::Temporary(other.to_string()),
        }
    }
}

impl From<ProtocolError> for ConnectionFailure {
    fn from(error: ProtocolError) -> Self {
        Self::Permanent(ClientError::Incompatible(error.to_string()))
    }
}
