//! Who a gateway is: its certificate and key, the CA that it trusts, and the name that the server's certificate bears.
//!
//! On disk an identity is a directory of four files.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::tls::{TlsError, certificates, private_key};

/// The gateway's certificate chain, PEM.
pub const CERTIFICATE_FILE: &str = "gateway.pem";
/// The gateway's private key, PEM.
pub const KEY_FILE: &str = "gateway.key.pem";
/// The CA that signed the server's certificate, PEM.
pub const CA_FILE: &str = "ca.pem";
/// One line: the name that the server's certificate bears.
pub const SERVER_NAME_FILE: &str = "server-name";

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate or key is not what it should be.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Not a DNS name or an IP address.
    #[error("{0:?} is not the name of a server: expected a DNS name or an IP address")]
    ServerName(String),
}

/// Who a gateway is.
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
    /// From PEM: the gateway's certificate chain, its key, the server's CA; and the server's name.
    ///
    /// # Errors
    /// [`IdentityError`] when one of them is not what it should be.
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

    /// From a directory with [`CERTIFICATE_FILE`], [`KEY_FILE`], [`CA_FILE`] and [`SERVER_NAME_FILE`].
    ///
    /// # Errors
    /// [`IdentityError`], with the file that is missing or wrong.
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

    /// The name that the server's certificate must bear.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server_name
    }
}
