//! The TLS profile of both ends: 1.3 only, mutual, the internal CA only, ALPN `icecore/1`, no resumption, no early data.
//!
//! No resumption, because a resumed session would not be verified again, and saves little
//! (`docs/decisions/0007-no-session-resumption.md`); no early data, because it can be replayed and would be read before
//! the certificate is checked.

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "server")]
mod server;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

#[cfg(feature = "client")]
pub(crate) use client::client_crypto;
#[cfg(feature = "server")]
pub(crate) use server::{Answered, ConnectionIds, StableReset, server_crypto};
#[cfg(feature = "server")]
pub use server::{ServerCertificate, ServerTls};

/// Certificates or keys that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {detail}")]
pub struct TlsError {
    /// Which of them.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
}

impl TlsError {
    pub(crate) fn new(what: impl Into<String>, detail: impl ToString) -> Self {
        Self { what: what.into(), detail: detail.to_string() }
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Fills with bytes from the operating system's generator.
pub(crate) fn random(out: &mut [u8]) {
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(out);
    // An operating system without random numbers cannot do TLS either: the handshake would fail before.
    filled.expect("the operating system gives random numbers");
}

pub(crate) fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::new(what, format!("not PEM: {error:?}")))?;
    if found.is_empty() { Err(TlsError::new(what, "there is no certificate in it")) } else { Ok(found) }
}

pub(crate) fn private_key(what: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| TlsError::new(what, format!("no private key: {error:?}")))
}

pub(crate) fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone()).map_err(|error| TlsError::new("CA certificate", error))?;
    }
    Ok(roots)
}
