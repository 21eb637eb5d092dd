//! The server's TLS: its certificate, and the verifier that asks the directory inside the handshake, so that a revoked
//! gateway is refused there and never gets as far as a stream.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::tls13::{Hkdf, OkmBlock};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
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

    fn certified_key(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        CertifiedKey::from_der(self.certificates.clone(), self.key.clone_key(), &provider())
            .map(Arc::new)
            .map_err(|error| TlsError::new("server certificate and key", error))
    }
}

/// The certificate that a server shows: a handle by which it is replaced while the server runs. Cloning it gives another
/// handle to the same certificate.
#[derive(Debug, Clone)]
pub struct ServerCertificate(Arc<Shown>);

impl ServerCertificate {
    pub(crate) fn new(tls: &ServerTls) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Shown(RwLock::new(tls.certified_key()?)))))
    }

    /// Shows this certificate, with this key, in every handshake from now on. Connections that there are go on. The CA
    /// of the gateways stays as it was, and so does the key of stateless resets.
    ///
    /// # Errors
    /// [`TlsError`] when key and certificate do not fit; then nothing has changed.
    pub fn replace(&self, tls: &ServerTls) -> Result<(), TlsError> {
        let next = tls.certified_key()?;
        // Nothing panics while the lock is held.
        *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

/// Not a new configuration for the endpoint: that would have other keys for address validation tokens, and clients that
/// are about to prove their address would be refused.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Asks the directory without holding up the other tasks of this thread, where the runtime allows that.
fn ask(directory: &dyn GatewayDirectory, certificate: &CertificateDer<'_>) -> Answer {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| directory.lookup(certificate)),
        _ => directory.lookup(certificate),
    }
}

/// What the directory said within handshakes, for those who ask once the handshake is done: asking it is a tenth of what
/// a handshake costs.
///
/// Bounded, and for a moment only: an answer that is old, that another connection of the same gateway has taken, or for
/// which there was no room, is asked for again.
pub(crate) struct Answered {
    directory: Arc<dyn GatewayDirectory>,
    kept: Mutex<HashMap<Vec<u8>, (Instant, Answer)>>,
    kept_max: usize,
    age_max: Duration,
}

type Answer = Result<GatewayIdentity, Refusal>;

impl Answered {
    /// Keeps so many answers for so long.
    pub(crate) fn new(directory: Arc<dyn GatewayDirectory>, kept_max: usize, age_max: Duration) -> Arc<Self> {
        Arc::new(Self { directory, kept: Mutex::default(), kept_max, age_max })
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Vec<u8>, (Instant, Answer)>> {
        // Nothing panics while the lock is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn within_handshake(&self, certificate: &CertificateDer<'_>) -> Answer {
        // Before it is asked: the answer is no younger than that.
        let now = Instant::now();
        let answer = ask(self.directory.as_ref(), certificate);
        let mut kept = self.kept();
        if kept.len() >= self.kept_max {
            kept.retain(|_, (at, _)| now.saturating_duration_since(*at) < self.age_max);
        }
        if kept.len() < self.kept_max {
            kept.insert(certificate.to_vec(), (now, answer));
        }
        answer
    }

    /// What was said within the handshake that is just done, or what is said now.
    pub(crate) fn after_handshake(&self, certificate: &CertificateDer<'_>) -> Answer {
        let said = self.kept().remove(certificate.as_ref());
        match said {
            Some((at, answer)) if at.elapsed() < self.age_max => answer,
            _ => ask(self.directory.as_ref(), certificate),
        }
    }
}

struct DirectoryVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    answered: Arc<Answered>,
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
        match self.answered.within_handshake(end_entity) {
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
    certificate: &ServerCertificate,
    answered: Arc<Answered>,
    now: NowFn,
) -> Result<Arc<QuicServerConfig>, TlsError> {
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&tls.client_ca)?), provider())
        .build()
        .map_err(|error| TlsError::new("CA certificate", error))?;
    let mut config = rustls::ServerConfig::builder_with_details(provider(), Arc::new(InjectedTime(now)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::new("TLS", error))?
        .with_client_cert_verifier(Arc::new(DirectoryVerifier { webpki, answered }))
        .with_cert_resolver(Arc::clone(&certificate.0) as _);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl GatewayDirectory for Counting {
        fn lookup(&self, _: &CertificateDer<'_>) -> Answer {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(Refusal::OrgSuspended)
        }
    }

    fn certificate(number: u8) -> CertificateDer<'static> {
        CertificateDer::from(vec![number; 3])
    }

    #[test]
    fn an_answer_from_the_handshake_serves_one_connection() {
        let directory = Arc::new(Counting::default());
        let answered = Answered::new(Arc::clone(&directory) as _, 2, Duration::from_secs(3600));
        let asked = || directory.0.load(Ordering::Relaxed);
        for number in 1..=3 {
            answered.within_handshake(&certificate(number)).expect_err("suspended");
        }
        assert_eq!((asked(), answered.kept().len()), (3, 2), "there is room for two");
        for number in 1..=2 {
            answered.after_handshake(&certificate(number)).expect_err("suspended");
        }
        assert_eq!((asked(), answered.kept().len()), (3, 0));
        answered.after_handshake(&certificate(1)).expect_err("suspended");
        assert_eq!(asked(), 4, "it was taken");
        answered.after_handshake(&certificate(3)).expect_err("suspended");
        assert_eq!(asked(), 5, "it was not kept");
    }

    #[test]
    fn an_old_answer_is_asked_for_again_and_makes_room() {
        let directory = Arc::new(Counting::default());
        let answered = Answered::new(Arc::clone(&directory) as _, 1, Duration::ZERO);
        for number in 1..=2 {
            answered.within_handshake(&certificate(number)).expect_err("suspended");
        }
        assert_eq!(answered.kept().keys().collect::<Vec<_>>(), [&vec![2; 3]]);
        answered.after_handshake(&certificate(2)).expect_err("suspended");
        assert_eq!(directory.0.load(Ordering::Relaxed), 3);
    }
}
