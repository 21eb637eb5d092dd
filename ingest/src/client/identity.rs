//! Identity of a gateway: its certificate and key, the CA that it trusts, and the server name in the server's
//! certificate.
//!
//! On disk an identity is a directory of four files.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::tls::{TlsError, certificates, private_key};

/// File with the gateway's certificate chain, PEM.
pub const CERTIFICATE_FILE: &str = "gateway.pem";
/// File with the gateway's private key, PEM.
pub const KEY_FILE: &str = "gateway.key.pem";
/// File with the CA that signed the server's certificate, PEM.
pub const CA_FILE: &str = "ca.pem";
/// File with one line: the server name in the server's certificate.
pub const SERVER_NAME_FILE: &str = "server-name";

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A certificate or key is not valid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A server name that is not a DNS name or an IP address.
    #[error("{0:?} is not a server name: expected a DNS name or an IP address")]
    ServerName(String),
}

/// Identity of a gateway.
pub struct Identity {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) ca: Vec<CertificateDer<'static>>,
    pub(super) server_name: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            certificates: self.certificates.clone(),
            key: self.key.clone_key(),
            ca: self.ca.clone(),
            server_name: self.server_name.clone(),
        }
    }
}

impl Identity {
    /// Creates an identity from the gateway's certificate chain, its key and the server's CA, all PEM, and the server
    /// name.
    ///
    /// # Errors
    /// [`IdentityError`] when one of them is not valid.
    pub fn from_pem(certificate: &[u8], key: &[u8], ca: &[u8], server_name: &str) -> Result<Self, IdentityError> {
        let server_name = server_name.trim().to_owned();
        if ServerName::try_from(server_name.as_str()).is_err() {
            return Err(IdentityError::ServerName(server_name.chars().take(256).collect()));
        }
        Ok(Self {
            certificates: certificates(CERTIFICATE_FILE, certificate)?,
            key: private_key(KEY_FILE, key)?,
            ca: certificates(CA_FILE, ca)?,
            server_name,
        })
    }

    /// Loads an identity from a directory with [`CERTIFICATE_FILE`], [`KEY_FILE`], [`CA_FILE`] and
    /// [`SERVER_NAME_FILE`].
    ///
    /// # Errors
    /// [`IdentityError`] with the file that is missing or not valid.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(|source| IdentityError::Read { path, source })
        };
        let server_name = read(SERVER_NAME_FILE)?;
        Self::from_pem(
            &read(CERTIFICATE_FILE)?,
            &read(KEY_FILE)?,
            &read(CA_FILE)?,
            &String::from_utf8_lossy(&server_name),
        )
    }

    /// Returns the server name that the server's certificate must have.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server_name
    }
}
