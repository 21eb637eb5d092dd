//! The server's TLS: its certificate, and the verifier that asks the directory inside the handshake, so that a revoked
//! gateway is refused there and never gets as far as a stream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::tls13::{Hkdf, OkmBlock};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::{TlsError, certificates, private_key, provider, random, roots};
use crate::ports::{GatewayDirectory, GatewayIdentity, Refusal};
use crate::protocol::ALPN;
use crate::server::NowFn;

/// What the server shows, and whose clients it takes.
pub struct ServerTls {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_ca: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// From PEM: the server's certificate chain, its private key, the CA of the gateways.
    ///
    /// # Errors
    /// [`TlsError`] when one of them is not what it should be.
    pub fn from_pem(certificate: &[u8], key: &[u8], client_ca: &[u8]) -> Result<Self, TlsError> {
        Ok(Self {
            certificates: certificates("server certificate", certificate)?,
            key: private_key("server key", key)?,
            client_ca: certificates("CA certificate", client_ca)?,
        })
    }
}

/// Asks the directory without holding up the other tasks of this thread, where the runtime allows that.
pub(crate) fn ask(
    directory: &dyn GatewayDirectory,
    certificate: &CertificateDer<'_>,
) -> Result<GatewayIdentity, Refusal> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| directory.lookup(certificate)),
        _ => directory.lookup(certificate),
    }
}

struct DirectoryVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    directory: Arc<dyn GatewayDirectory>,
}

impl fmt::Debug for DirectoryVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectoryVerifier")
    }
}

impl ClientCertVerifier for DirectoryVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.webpki.verify_client_cert(end_entity, intermediates, now)?;
        match ask(self.directory.as_ref(), end_entity) {
            // The last two are told after the handshake, where there is a code for them: a TLS alert would be taken for
            // a final refusal of the certificate.
            Ok(_) | Err(Refusal::OrgSuspended | Refusal::Unavailable) => Ok(verified),
            Err(Refusal::Revoked) => Err(CertificateError::Revoked.into()),
            Err(Refusal::Expired) => Err(CertificateError::Expired.into()),
            Err(Refusal::Unknown) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The injected clock, for the certificates' validity.
struct InjectedTime(NowFn);

impl fmt::Debug for InjectedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InjectedTime")
    }
}

impl TimeProvider for InjectedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = u64::try_from((self.0)().get()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

pub(crate) fn server_crypto(
    tls: &ServerTls,
    directory: Arc<dyn GatewayDirectory>,
    now: NowFn,
) -> Result<Arc<QuicServerConfig>, TlsError> {
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&tls.client_ca)?), provider())
        .build()
        .map_err(|error| TlsError::new("CA certificate", error))?;
    let mut config = rustls::ServerConfig::builder_with_details(provider(), Arc::new(InjectedTime(now)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::new("TLS", error))?
        .with_client_cert_verifier(Arc::new(DirectoryVerifier { webpki, directory }))
        .with_single_cert(tls.certificates.clone(), tls.key.clone_key())
        .map_err(|error| TlsError::new("server certificate and key", error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map(Arc::new).map_err(|error| TlsError::new("TLS", error))
}

/// Stateless resets that a client still understands after the server was killed and started again: their key is
/// derived from the server's private key, so it is the same in the next process.
pub(crate) struct StableReset {
    hkdf: &'static dyn Hkdf,
    key: OkmBlock,
}

impl StableReset {
    pub(crate) fn new(tls: &ServerTls) -> Result<Self, TlsError> {
        let suites = rustls::crypto::ring::default_provider().cipher_suites;
        let hkdf = suites
            .iter()
            .filter(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
            .find_map(|suite| suite.tls13())
            .map(|suite| suite.hkdf_provider)
            .ok_or_else(|| TlsError::new("TLS", "AES-128-GCM with SHA-256 is missing"))?;
        let key = hkdf.extract_from_secret(None, tls.key.secret_der()).expand_block(&[b"icecore stateless reset"]);
        Ok(Self { hkdf, key })
    }
}

impl HmacKey for StableReset {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(self.hkdf.hmac_sign(&self.key, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = self.hkdf.hmac_sign(&self.key, data);
        let expected = expected.as_ref();
        // Every byte is looked at, so that the time taken tells nothing.
        let differs = expected.iter().zip(signature).fold(0, |acc, (a, b)| acc | (a ^ b));
        if expected.len() == signature.len() && differs == 0 { Ok(()) } else { Err(CryptoError) }
    }
}

/// Random connection ids. Not quinn's own, which recognises only the ids of its own process: packets for a connection
/// of the process before would be dropped, where a stateless reset tells the client at once.
#[derive(Debug)]
pub(crate) struct ConnectionIds;

const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        random(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
