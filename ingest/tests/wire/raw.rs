//! A client directly on quinn, for behaviour that the client library does not have.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ingest::protocol::{ALPN, ClientEvent, ClientSession, Message};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use storage_format::{FrameSequence, SpoolId};

use crate::harness::within;
use crate::pki::{Ca, Issued, SERVER_NAME};

pub(crate) struct Raw {
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

pub(crate) const SEND_WINDOW: u64 = 16 << 10;

/// Returns the QUIC configuration of a raw client.
pub(crate) fn client_config(ca: &Ca, issued: Option<&Issued>, alpn: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = match issued {
        Some(issued) => {
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(vec![issued.der()], key).expect("usable")
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("usable")));
    let mut transport = TransportConfig::default();
    transport.send_window(SEND_WINDOW).keep_alive_interval(Some(Duration::from_secs(1)));
    config.transport_config(Arc::new(transport));
    config
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()).expect("an endpoint")
}

/// Connects with an endpoint that other connections use, too.
pub(crate) async fn connect_over(
    endpoint: &Endpoint,
    config: ClientConfig,
    addr: SocketAddr,
) -> Result<Raw, ConnectionError> {
    let connection = endpoint.connect_with(config, addr, SERVER_NAME).expect("an attempt").await?;
    Ok(Raw { connection, _endpoint: endpoint.clone() })
}

pub(crate) async fn connect(
    addr: SocketAddr,
    ca: &Ca,
    issued: Option<&Issued>,
    alpn: &[u8],
) -> Result<Raw, ConnectionError> {
    within(connect_over(&endpoint(), client_config(ca, issued, alpn), addr)).await
}

pub(crate) async fn connect_enrolled(addr: SocketAddr, ca: &Ca, issued: &Issued) -> Raw {
    connect(addr, ca, Some(issued), ALPN).await.expect("connected")
}

impl Raw {
    /// The certificate that the server has shown.
    pub(crate) fn server_certificate(&self) -> CertificateDer<'static> {
        let shown = self.connection.peer_identity().expect("the handshake is done");
        shown.downcast::<Vec<CertificateDer<'static>>>().expect("rustls").swap_remove(0)
    }
}

pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    session: ClientSession,
    rest: Vec<u8>,
    pub(crate) sent: FrameSequence,
}

impl Raw {
    /// Opens a QUIC stream without sending anything.
    pub(crate) async fn stream(&self) -> Stream {
        let (send, receive) = within(self.connection.open_bi()).await.expect("a stream");
        let (session, rest) = (ClientSession::new(), Vec::new());
        Stream { send, receive, session, rest, sent: FrameSequence::ZERO }
    }

    /// Opens a stream for a spool, and waits for the response.
    pub(crate) async fn open_stream(&self, spool: SpoolId) -> Stream {
        let mut stream = self.stream().await;
        stream.write(&Message::Open { spool }).await;
        assert!(matches!(stream.next_event().await, Some(ClientEvent::Opened { .. })));
        stream
    }

    pub(crate) async fn closed(&self) -> ConnectionError {
        within(self.connection.closed()).await
    }
}

impl Stream {
    pub(crate) async fn write(&mut self, message: &Message) {
        if let Message::Frame { sequence, .. } = message {
            self.sent = *sequence;
        }
        within(self.send.write_all(&message.to_bytes())).await.expect("written");
    }

    /// Returns the next response; `None` when the server has ended the stream.
    pub(crate) async fn next_event(&mut self) -> Option<ClientEvent> {
        loop {
            let mut input = &self.rest[..];
            let event = self.session.receive(self.sent, &mut input).expect("a valid response");
            self.rest = input.to_vec();
            if event.is_some() {
                return event;
            }
            self.rest = within(self.receive.read_chunk(4096, true)).await.expect("a stream")?.bytes.to_vec();
        }
    }
}

/// Returns the TLS alert that closed a connection.
pub(crate) fn alert(error: &ConnectionError) -> Option<u64> {
    let code = match error {
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        ConnectionError::TransportError(error) => u64::from(error.code),
        _ => return None,
    };
    code.checked_sub(0x100).filter(|alert| *alert < 0x100)
}
