//! Settings of HTTP, as the program has resolved them.

use std::net::SocketAddr;
use std::time::Duration;

/// Settings of HTTP.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where programs ask, TCP.
    pub addr: SocketAddr,
    /// The largest request body.
    pub body_bytes_max: usize,
    /// From a request to the end of its answer.
    pub request_time_max: Duration,
    /// The same for exports.
    pub export_time_max: Duration,
    /// TCP connections at once.
    pub connections_max: usize,
    /// How long a request's header may take to come.
    pub header_timeout: Duration,
    /// How long a reader may take nothing of its answer.
    pub stall_timeout: Duration,
    /// How long answers may take to end at shutdown.
    pub shutdown_grace: Duration,
}
