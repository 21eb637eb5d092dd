//! One UDP socket for many clients of one process.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::udp::UdpSocketState;
use quinn::{EndpointConfig, TokioRuntime};
use tracing::debug;

/// Answers for many clients come in bursts, and what the system's default buffer does not hold is lost and sent again.
/// The system may give less.
const SHARED_BUFFER_BYTES: usize = 4 << 20;

/// A UDP socket that clients can share: see [`ClientConfig::endpoint`](super::ClientConfig::endpoint). Cloning it gives
/// another handle to the same socket.
#[derive(Debug, Clone)]
pub struct Endpoint(pub(super) quinn::Endpoint);

impl Endpoint {
    /// A socket on a port of the system's choice, able to reach this address, with buffers for many clients. It works
    /// on the tokio runtime that this is called in.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn shared(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(any(server))?;
        let enlarge = || {
            let state = UdpSocketState::new((&socket).into())?;
            state.set_recv_buffer_size((&socket).into(), SHARED_BUFFER_BYTES)?;
            state.set_send_buffer_size((&socket).into(), SHARED_BUFFER_BYTES)
        };
        if let Err(error) = enlarge() {
            // It works with small ones, only slower.
            debug!(%error, "UDP socket buffers stay as they are");
        }
        quinn::Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).map(Self)
    }

    /// A socket for one connection.
    pub(super) fn own(server: SocketAddr) -> io::Result<Self> {
        quinn::Endpoint::client(any(server)).map(Self)
    }
}

fn any(server: SocketAddr) -> SocketAddr {
    if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}
