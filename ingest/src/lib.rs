//! The wire: the protocol as state machines without I/O, the QUIC server, the gateway client.
//!
//! The crate depends on `storage-format` only. Frames go to one port ([`FrameSink`]), and another port maps
//! certificates to gateways ([`GatewayDirectory`]), so that the wire can be tested without a store, and the client
//! stays small: with the `client` feature alone it builds without engine and server. `PROTOCOL.md` describes the bytes.

#[cfg(feature = "client")]
pub mod client;
mod error;
#[cfg(feature = "server")]
mod limits;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod ports;
pub mod protocol;
#[cfg(feature = "server")]
mod server;
mod tls;
#[cfg(any(feature = "client", feature = "server"))]
mod transport;

pub use error::{CloseCode, ProtocolError, RefusalCode};
#[cfg(feature = "server")]
pub use limits::{IngestLimits, LimitError};
#[cfg(feature = "server")]
pub use ports::{AckSink, BoxFuture, FrameSink, FrameStream, GatewayDirectory, GatewayIdentity, Refusal, SinkError};
#[cfg(feature = "server")]
pub use protocol::TimePolicy;
pub use protocol::{CONTROL_BYTES_MAX, DETAIL_BYTES_MAX};
#[cfg(feature = "server")]
pub use server::{NowFn, Server, ServerConfig, ServerError};
pub use tls::TlsError;
#[cfg(feature = "server")]
pub use tls::{ServerCertificate, ServerTls};
