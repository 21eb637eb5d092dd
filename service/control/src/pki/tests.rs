//! Certificates: the chain from the internal CA, who they name, and that their keys stay private.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn now() -> Millis {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn ids() -> (OrgId, GatewayId) {
    (OrgId::new(7).expect("an id"), GatewayId::new(9).expect("an id"))
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

#[test]
fn a_gateway_certificate_says_whose_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::create(dir.path(), now()).expect("made");
    let (org, gateway) = ids();
    let issued = authority.issue_gateway(org, gateway, now(), 30).expect("signed");
    let certificate = der(&issued.certificate_pem);
    assert_eq!(parse_gateway(&certificate), Some((org, gateway)));
    assert_eq!(fingerprint(&certificate), issued.fingerprint);
    assert_eq!(issued.expires, "2026-01-31T00:00:00Z".parse().expect("a time"));
    let (_, parsed) = X509Certificate::from_der(&certificate).expect("parsed");
    assert_eq!(parsed.validity().not_after.timestamp() * 1_000, issued.expires.get());
    // After loading it signs with the same key: what it signs verifies with the certificate made first.
    let again = Authority::load(dir.path()).expect("loaded");
    let second = der(&again.issue_gateway(org, gateway, now(), 30).expect("signed").certificate_pem);
    let ca = der(authority.pem());
    let (_, ca) = X509Certificate::from_der(&ca).expect("parsed");
    let (_, second) = X509Certificate::from_der(&second).expect("parsed");
    assert!(second.verify_signature(Some(ca.public_key())).is_ok());
    assert_eq!(second.issuer(), ca.subject());
    assert_eq!(parse_gateway(&der(authority.pem())), None, "the CA is no gateway");
}

#[test]
fn keys_are_private() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::create(dir.path(), now()).expect("made");
    authority.ensure_server_certificate(dir.path(), &["localhost".to_owned()], now()).expect("issued");
    for entry in std::fs::read_dir(dir.path()).expect("listed") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("its metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    assert!(Authority::create(dir.path(), now()).is_err(), "an authority is never replaced");
}

#[test]
fn the_server_certificate_follows_the_configuration() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::create(dir.path(), now()).expect("made");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let current = || load_server(dir.path()).expect("loaded").certificate;
    let ensure = |wanted: &[&str], now| authority.ensure_server_certificate(dir.path(), &names(wanted), now);
    ensure(&["localhost", "127.0.0.1", "::1"], now()).expect("issued");
    let first = current();
    ensure(&["127.0.0.1", "::1", "localhost"], now()).expect("fine as it is");
    assert_eq!(current(), first, "nothing to do");
    ensure(&["ice.example.org"], now()).expect("issued anew");
    let second = current();
    assert_ne!(second, first, "other names");
    ensure(&["ice.example.org"], now().saturating_add((SERVER_DAYS - 1) * DAY_MS)).expect("issued anew");
    assert_ne!(current(), second, "close to its end");
    assert!(ensure(&["not a name"], now()).is_err());
}

#[test]
fn a_renewal_keeps_the_key_and_180_days_are_the_limit() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::create(dir.path(), now()).expect("made");
    let names = ["localhost".to_owned()];
    let ensure = |days: i64| {
        let expires = authority.ensure_server_certificate(dir.path(), &names, now().saturating_add(days * DAY_MS));
        (expires.expect("issued"), load_server(dir.path()).expect("loaded"))
    };
    let (expires, first) = ensure(0);
    assert_eq!(expires, now().saturating_add(SERVER_DAYS * DAY_MS));
    let (same, kept) = ensure(SERVER_DAYS - 181);
    assert_eq!((same, kept.certificate), (expires, first.certificate.clone()), "181 days are enough");
    let (later, renewed) = ensure(SERVER_DAYS - 179);
    assert_ne!(renewed.certificate, first.certificate, "179 days are not");
    assert_eq!(renewed.key, first.key);
    assert_eq!(later, now().saturating_add((2 * SERVER_DAYS - 179) * DAY_MS));
}

#[test]
fn what_a_crash_leaves_of_key_and_certificate_is_mended() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::create(dir.path(), now()).expect("made");
    let (certificate, key) = server_paths(dir.path());
    let ensure = || {
        authority.ensure_server_certificate(dir.path(), &["localhost".to_owned()], now()).expect("issued");
        let pem = load_server(dir.path()).expect("loaded");
        let der = der(&pem.certificate);
        let (_, certificate) = X509Certificate::from_der(&der).expect("parsed");
        let key = KeyPair::from_pem(&pem.key).expect("a key");
        assert_eq!(certificate.public_key().raw, key.subject_public_key_info(), "they belong together");
        pem
    };
    let first = ensure();
    // The certificate was not written yet.
    std::fs::remove_file(&certificate).expect("removed");
    assert_eq!(ensure().key, first.key);
    // The key is another one than the certificate's.
    let other = KeyPair::generate().expect("a key").serialize_pem();
    private_file::replace(&key, &other).expect("written");
    assert_eq!(ensure().key, other);
    // The key is gone.
    std::fs::remove_file(&key).expect("removed");
    assert_ne!(ensure().key, other);
    // A key that is none is left to a person.
    private_file::replace(&key, "torn").expect("written");
    let refused = authority.ensure_server_certificate(dir.path(), &["localhost".to_owned()], now());
    assert!(refused.expect_err("refused").to_string().contains("not a private key"));
}
