//! The internal certificate authority: it signs the server's certificate and those of the gateways, and nothing else.
//!
//! A gateway's certificate carries its organisation and its own id as one URI in the subject alternative name, never a
//! person's or an organisation's name. Whether it is still good is the control database's business.
//!
//! The server's key is made once and stays; a renewal replaces the certificate alone. A new key would protect nothing,
//! because the authority's key lies beside it, and it would make two files out of one step. Stateless resets are derived
//! from the server's key, so they too outlive a renewal.
//!
//! Crash consistency: the key is durable before the first certificate for it is written, and each file is replaced in
//! one step. Between the two there is a key without a certificate, or with one for another key: the next call issues a
//! certificate for the key that is there.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use storage_format::{GatewayId, Millis, OrgId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::private_file;

const DAY_MS: i64 = 86_400_000;
const CA_DAYS: i64 = 20 * 365;
const SERVER_DAYS: i64 = 2 * 365;
/// A certificate starts a little in the past: the clocks of gateways and servers differ.
const BACKDATED_MS: i64 = DAY_MS;
/// A server certificate with no more time left than this is renewed.
const RENEW_MS: i64 = 180 * DAY_MS;

/// How long a gateway's certificate is good for unless told otherwise, in days.
pub const GATEWAY_DAYS: u32 = 10 * 365;

/// The authority, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// A certificate with its key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key: a secret.
    pub key_pem: String,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// When it ends.
    pub expires: Millis,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires", &self.expires).finish_non_exhaustive()
    }
}

fn ca_paths(keys: &Path) -> (PathBuf, PathBuf) {
    (keys.join("ca.pem"), keys.join("ca.key.pem"))
}

fn server_paths(keys: &Path) -> (PathBuf, PathBuf) {
    (keys.join("server.pem"), keys.join("server.key.pem"))
}

fn params(common_name: &str, now: Millis, days: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let expires = now.saturating_add(days.saturating_mul(DAY_MS));
    let at = |time: Millis| {
        let since = u64::try_from(time.get()).ok().map(Duration::from_millis);
        let since = since.ok_or_else(|| Error::new(ErrorKind::Invalid, Subject::Clock, "the clock is before 1970"))?;
        Ok(rcgen::date_time_ymd(1970, 1, 1) + since)
    };
    params.not_before = at(now.saturating_add(-BACKDATED_MS))?;
    params.not_after = at(expires)?;
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::no_random())?;
    // A serial number is positive: its first bit is none.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn cannot_sign() -> String {
    "cannot make a certificate".to_owned()
}

impl Authority {
    /// Makes the authority of a new data directory.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(keys: &Path, now: Millis) -> Result<Self> {
        let (certificate, key_file) = ca_paths(keys);
        let mut params = params("icecore internal CA", now, CA_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context(cannot_sign)?;
        let pem = params.self_signed(&key).context(cannot_sign)?.pem();
        private_file::create(&key_file, &key.serialize_pem())?;
        private_file::create(&certificate, &pem)?;
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The authority of a data directory.
    ///
    /// # Errors
    /// When it is missing, damaged, or its key can be read by others.
    pub fn load(keys: &Path) -> Result<Self> {
        let (certificate, key_file) = ca_paths(keys);
        let what = || format!("{} and its key do not make an authority", certificate.display());
        let pem = std::fs::read_to_string(&certificate).context(|| format!("cannot read {}", certificate.display()))?;
        let key = KeyPair::from_pem(&private_file::read_secret(&key_file)?);
        let key = key.context_as(ErrorKind::Corrupt, Subject::Certificate, what)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key);
        let issuer = issuer.context_as(ErrorKind::Corrupt, Subject::Certificate, what)?;
        Ok(Self { issuer, pem })
    }

    /// The authority's certificate, which both sides trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair, now: Millis, days: i64) -> Result<Issued> {
        let certificate = params.signed_by(key, &self.issuer).context(cannot_sign)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            fingerprint: fingerprint(certificate.der()),
            expires: now.saturating_add(days.saturating_mul(DAY_MS)),
        })
    }

    /// A certificate for a gateway.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_gateway(&self, org: OrgId, gateway: GatewayId, now: Millis, days: u32) -> Result<Issued> {
        let mut params = params(&format!("gateway {gateway}"), now, i64::from(days))?;
        let uri = gateway_uri(org, gateway).try_into().context(cannot_sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, &KeyPair::generate().context(cannot_sign)?, now, i64::from(days))
    }

    fn issue_server(&self, names: &[String], key: &KeyPair, now: Millis) -> Result<Issued> {
        let mut params = params("icecore server", now, SERVER_DAYS)?;
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params, key, now, SERVER_DAYS)
    }

    /// Makes sure that the server has a key, and a certificate for it with these names and more than 180 days left.
    /// Returns when the certificate expires. Blocks on the disk; one caller at a time.
    ///
    /// # Errors
    /// When a name is none, or files cannot be read or written.
    pub fn ensure_server_certificate(&self, keys: &Path, names: &[String], now: Millis) -> Result<Millis> {
        let (certificate, key_file) = server_paths(keys);
        let key = server_key(&key_file)?;
        if let Some(expires) = usable_until(&certificate, &self.pem, &key, names, now)? {
            return Ok(expires);
        }
        let issued = self.issue_server(names, &key, now)?;
        private_file::replace(&certificate, &issued.certificate_pem)?;
        Ok(issued.expires)
    }
}

/// The server's private key; makes it when there is none.
fn server_key(path: &Path) -> Result<KeyPair> {
    if path.exists() {
        let what = || format!("{} is not a private key", path.display());
        let key = KeyPair::from_pem(&private_file::read_secret(path)?);
        return key.context_as(ErrorKind::Corrupt, Subject::ServerKey, what);
    }
    let key = KeyPair::generate().context(cannot_sign)?;
    private_file::create(path, &key.serialize_pem())?;
    Ok(key)
}

fn server_name(name: &str) -> Result<SanType> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let wrong = || format!("{name:?} is not a name for the server's certificate");
    rustls_pki_types::DnsName::try_from(name).context_as(ErrorKind::Invalid, Subject::Certificate, wrong)?;
    let name = name.to_owned().try_into();
    Ok(SanType::DnsName(name.context_as(ErrorKind::Invalid, Subject::Certificate, wrong)?))
}

/// Returns when this certificate expires; `None` unless it is signed by this authority, for this key, has exactly these
/// names, and more than [`RENEW_MS`] left.
fn usable_until(path: &Path, ca_pem: &str, key: &KeyPair, names: &[String], now: Millis) -> Result<Option<Millis>> {
    let Ok(der) = CertificateDer::from_pem_file(path) else { return Ok(None) };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return Ok(None) };
    let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes());
    let ca_der =
        ca_der.context_as(ErrorKind::Corrupt, Subject::Certificate, || "the CA is no certificate".to_owned())?;
    let Ok((_, ca)) = X509Certificate::from_der(&ca_der) else { return Ok(None) };
    let signed_by_it = certificate.verify_signature(Some(ca.public_key())).is_ok();
    let for_the_key = certificate.public_key().raw == key.subject_public_key_info();
    let Ok(expires) = Millis::new(certificate.validity().not_after.timestamp().saturating_mul(1_000)) else {
        return Ok(None);
    };
    let mut found: Vec<String> = general_names(&certificate).iter().filter_map(name_text).collect();
    let mut wanted = names.to_vec();
    found.sort();
    wanted.sort();
    let has_time_left = expires.get().saturating_sub(now.get()) > RENEW_MS;
    Ok((signed_by_it && for_the_key && has_time_left && found == wanted).then_some(expires))
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn general_names<'a>(certificate: &X509Certificate<'a>) -> Vec<GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.map(|extension| extension.value.general_names.clone()).unwrap_or_default()
}

/// What the server shows and trusts, as PEM.
pub struct ServerPem {
    /// The server's certificate.
    pub certificate: String,
    /// Its private key: a secret.
    pub key: String,
    /// The authority, by which gateways are known.
    pub ca: String,
}

impl std::fmt::Debug for ServerPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerPem(…)")
    }
}

/// Reads what the server shows and trusts.
///
/// # Errors
/// When a file cannot be read, or others can read the key.
pub fn load_server(keys: &Path) -> Result<ServerPem> {
    let (certificate, key_file) = server_paths(keys);
    let (ca, _) = ca_paths(keys);
    let read = |path: &Path| std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()));
    Ok(ServerPem { certificate: read(&certificate)?, key: private_file::read_secret(&key_file)?, ca: read(&ca)? })
}

/// SHA-256 of a certificate, by which the control database knows it.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate.as_ref()).as_ref());
    bytes
}

fn gateway_uri(org: OrgId, gateway: GatewayId) -> String {
    format!("icecore:org:{org}:gateway:{gateway}")
}

/// What a gateway's certificate says; `None` for a certificate that is no gateway's.
#[must_use]
pub fn parse_gateway(certificate: &CertificateDer<'_>) -> Option<(OrgId, GatewayId)> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = general_names(&certificate);
    let [GeneralName::URI(uri)] = names.as_slice() else { return None };
    let (org, gateway) = uri.strip_prefix("icecore:org:")?.split_once(":gateway:")?;
    Some((org.parse().ok()?, gateway.parse().ok()?))
}

#[cfg(test)]
mod tests;
