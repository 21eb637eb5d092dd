//! A UDP socket for many clients of one process.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::udp::UdpSocketState;
use quinn::{EndpointConfig, TokioRuntime};
use tracing::debug;

/// Size of a shared socket's buffers. Responses to many clients arrive in bursts, and packets that do not fit the
/// system's default buffer are lost and sent again. The system may grant less.
const SHARED_BUFFER_BYTES: usize = 4 << 20;

/// A UDP socket that clients can share: see [`ClientConfig::endpoint`](super::ClientConfig::endpoint). A clone is
/// another handle of the same socket.
#[derive(Debug, Clone)]
pub struct Endpoint(pub(super) quinn::Endpoint);

impl Endpoint {
    /// Opens a socket on a free port that can reach this address, with buffers for many clients. It uses the current
    /// tokio runtime.
    ///
    /// # Errors
    /// The system's error if the socket cannot be opened.
    pub fn shared(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(unspecified(server))?;
        let enlarge = || {
            let state = UdpSocketState::new((&socket).into())?;
            state.set_recv_buffer_size((&socket).into(), SHARED_BUFFER_BYTES)?;
            state.set_send_buffer_size((&socket).into(), SHARED_BUFFER_BYTES)
        };
        if let Err(error) = enlarge() {
            // Small buffers work as well, but slower.
            debug!(%error, "cannot enlarge the UDP socket buffers; keeping the default size");
        }
        quinn::Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).map(Self)
    }

    /// Opens a socket for one connection.
    pub(super) fn own(server: SocketAddr) -> io::Result<Self> {
        quinn::Endpoint::client(unspecified(server)).map(Self)
    }
}

/// Returns the unspecified address of the server's address family, with port 0.
fn unspecified(server: SocketAddr) -> SocketAddr {
    if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}
