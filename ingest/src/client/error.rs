//! What can go wrong for a client, and which of it passes.
//!
//! With TLS 1.3 a client's handshake is done before the server has looked at its certificate: a refusal arrives
//! afterwards, as a close with a TLS alert. So a TLS alert is final whenever it comes.

use std::time::Duration;

use quinn::{ConnectError, ConnectionError, ReadError, VarInt, WriteError};

use crate::error::{CloseCode, ProtocolError};
use crate::tls::TlsError;

/// Why a client ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The settings cannot work.
    #[error("cannot start: {0}")]
    Config(String),
    /// The server does not accept this gateway's certificate.
    #[error("the server refuses this gateway's certificate: {0}")]
    CertificateRefused(String),
    /// The server's certificate is not one of the CA in the identity, or not for its server name.
    #[error("the server's certificate is not trusted: {0}")]
    ServerNotTrusted(String),
    /// The server speaks another protocol or version, or says that this end broke it.
    #[error("this client and the server do not understand each other: {0}")]
    Incompatible(String),
    /// Nothing was acknowledged for as long as the patience lasts.
    #[error("gave up after {} s without progress: {last}", patience.as_secs_f64())]
    GaveUp {
        /// How long it tried.
        patience: Duration,
        /// What went wrong last.
        last: String,
    },
    /// A frame that cannot go into this client's spool.
    #[error("the frame does not belong here: {0}")]
    Frame(String),
}

impl From<TlsError> for ClientError {
    fn from(error: TlsError) -> Self {
        Self::Config(error.to_string())
    }
}

/// Something went wrong with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Trying again will not help.
    Permanent(ClientError),
    /// Try again.
    Passing(String),
}

const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

const INTERNAL_ERROR: u64 = 80;
const NO_APPLICATION_PROTOCOL: u64 = 120;

fn alert_text(alert: u64) -> String {
    let text = match alert {
        42 => "it is not valid",
        43 => "it is of a kind that is not supported",
        44 => "it is revoked",
        45 => "it is expired, or not valid yet",
        46 => "it is not acceptable",
        // A CA of the same name as the server's, with another key, shows as a wrong signature.
        48 | 51 => "it is not signed by the server's CA",
        49 => "no gateway is enrolled with it",
        116 => "none was sent",
        other => return format!("TLS alert {other}"),
    };
    text.to_owned()
}

impl Trouble {
    fn of_alert(alert: u64, by_server: bool, reason: &str) -> Self {
        Self::Permanent(match alert {
            INTERNAL_ERROR => return Self::Passing(format!("TLS failed: {reason}")),
            NO_APPLICATION_PROTOCOL => {
                ClientError::Incompatible("the server does not speak this protocol version (ALPN)".into())
            }
            70 => ClientError::Incompatible("the server does not speak TLS 1.3".into()),
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
            Some(code) => Self::Passing(code.to_string()),
            None => Self::Passing(format!("closed with code {code} {reason}").trim().to_owned()),
        }
    }
}

impl From<ConnectionError> for Trouble {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::VersionMismatch => {
                Self::Permanent(ClientError::Incompatible("the server does not speak this QUIC version".into()))
            }
            ConnectionError::TransportError(error) => {
                let code = u64::from(error.code);
                if TLS_ALERTS.contains(&code) {
                    return Self::of_alert(code - TLS_ALERTS.start, false, &error.reason);
                }
                Self::Passing(error.to_string())
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                if TLS_ALERTS.contains(&code) {
                    let reason = String::from_utf8_lossy(&close.reason).into_owned();
                    return Self::of_alert(code - TLS_ALERTS.start, true, &reason);
                }
                Self::Passing(close.to_string())
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::of_code(close.error_code, &String::from_utf8_lossy(&close.reason))
            }
            ConnectionError::Reset => Self::Passing("the server has restarted".into()),
            ConnectionError::TimedOut => Self::Passing("the server does not answer".into()),
            other => Self::Passing(other.to_string()),
        }
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::Reset(code) => Self::of_code(code, ""),
            other => Self::Passing(other.to_string()),
        }
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(code) => Self::of_code(code, ""),
            other => Self::Passing(other.to_string()),
        }
    }
}

impl From<ConnectError> for Trouble {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::InvalidServerName(name) => {
                Self::Permanent(ClientError::Config(format!("{name:?} is not a server's name")))
            }
            other => Self::Passing(other.to_string()),
        }
    }
}

impl From<ProtocolError> for Trouble {
    fn from(error: ProtocolError) -> Self {
        Self::Permanent(ClientError::Incompatible(error.to_string()))
    }
}
