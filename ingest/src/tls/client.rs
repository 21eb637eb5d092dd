//! The client's TLS: its own certificate, and the one CA that it trusts.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{TlsError, provider, roots};
use crate::protocol::ALPN;

pub(crate) fn client_crypto(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: &[CertificateDer<'static>],
) -> Result<Arc<QuicClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::new("TLS", error))?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(certificates, key)
        .map_err(|error| TlsError::new("gateway certificate and key", error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map(Arc::new).map_err(|error| TlsError::new("TLS", error))
}
