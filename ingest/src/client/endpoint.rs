//! One UDP socket for many clients of one process.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A UDP socket that clients can share: see [`ClientConfig::endpoint`](super::ClientConfig::endpoint). Cloning it gives
/// another handle to the same socket.
#[derive(Debug, Clone)]
pub struct Endpoint(pub(super) quinn::Endpoint);

impl Endpoint {
    /// A socket on a port of the system's choice, able to reach this address. It works on the tokio runtime that this
    /// is called in.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr =
            if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        quinn::Endpoint::client(any).map(Self)
    }

    /// Waits until every connection on it has said goodbye.
    pub async fn wait_idle(&self) {
        self.0.wait_idle().await;
    }
}
