//! A certificate authority for tests, and a directory that tests can change while a server uses it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ingest::client::Identity;
use ingest::{GatewayDirectory, GatewayIdentity, Refusal, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use storage_format::{GatewayId, OrgId};

pub(crate) const SERVER_NAME: &str = "ingest.test";

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
}

impl Issued {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate")
    }

    pub(crate) fn identity(&self, ca: &Ca) -> Identity {
        Identity::from_pem(self.pem.as_bytes(), self.key_pem.as_bytes(), ca.pem.as_bytes(), SERVER_NAME)
            .expect("an identity")
    }
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, expired: bool) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.extended_key_usages = vec![usage];
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { pem, key_pem: key.serialize_pem() }
    }

    pub(crate) fn server(&self) -> Issued {
        self.issue(SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth, false)
    }

    pub(crate) fn server_tls(&self, server: &Issued) -> ServerTls {
        ServerTls::from_pem(server.pem.as_bytes(), server.key_pem.as_bytes(), self.pem.as_bytes()).expect("usable")
    }

    pub(crate) fn gateway(&self) -> Issued {
        self.issue("gateway.test", ExtendedKeyUsagePurpose::ClientAuth, false)
    }

    pub(crate) fn expired_gateway(&self) -> Issued {
        self.issue("gateway.test", ExtendedKeyUsagePurpose::ClientAuth, true)
    }
}

#[derive(Default)]
pub(crate) struct Directory {
    known: Mutex<HashMap<Vec<u8>, Result<GatewayIdentity, Refusal>>>,
    lookups: AtomicUsize,
    version: Mutex<Option<u64>>,
    version_requests: AtomicUsize,
}

impl Directory {
    /// Sets the result of look-ups of a certificate.
    pub(crate) fn set(&self, issued: &Issued, result: Result<GatewayIdentity, Refusal>) {
        self.known.lock().expect("the lock").insert(issued.der().to_vec(), result);
    }

    /// Returns the number of look-ups.
    pub(crate) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Returns how often the version was requested.
    pub(crate) fn version_requests(&self) -> usize {
        self.version_requests.load(Ordering::Relaxed)
    }

    /// Sets the version.
    pub(crate) fn set_version(&self, version: Option<u64>) {
        *self.version.lock().expect("the lock") = version;
    }

    /// Enrolls a gateway with this number in an organisation with the same number.
    pub(crate) fn enroll(&self, issued: &Issued, number: u64) -> GatewayIdentity {
        let identity = identity(number);
        self.set(issued, Ok(identity));
        identity
    }
}

pub(crate) fn identity(number: u64) -> GatewayIdentity {
    GatewayIdentity {
        org: OrgId::new(number).expect("not zero"),
        gateway: GatewayId::new(1000 + number).expect("not zero"),
    }
}

impl GatewayDirectory for Directory {
    fn lookup(&self, certificate: &CertificateDer<'_>) -> Result<GatewayIdentity, Refusal> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let known = self.known.lock().expect("the lock");
        known.get(certificate.as_ref()).copied().unwrap_or(Err(Refusal::Unknown))
    }

    fn version(&self) -> Option<u64> {
        self.version_requests.fetch_add(1, Ordering::Relaxed);
        *self.version.lock().expect("the lock")
    }
}

pub(crate) fn directory() -> Arc<Directory> {
    Arc::default()
}
