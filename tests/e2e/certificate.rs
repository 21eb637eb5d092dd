//! The server's certificate near its end: renewed by the server that runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use control::pki::Authority;
use control::private_file;
use engine::{Clock, SystemClock};

use crate::readings;
use crate::server::{Icecore, PATIENCE};

/// Long enough for a check to come between any two steps of a test.
const SETTINGS: &[(&str, &str)] = &[("ICECORE_INGEST__CERTIFICATE_CHECK_INTERVAL", "20ms")];

const DAY_MS: i64 = 86_400_000;

/// A certificate of the same authority, for the same key, that has ten days left.
fn nearly_expired(keys: &Path, work: &Path) -> String {
    let copy = work.join("keys-of-long-ago");
    fs::create_dir(&copy).expect("a directory");
    for name in ["ca.pem", "ca.key.pem", "server.key.pem"] {
        fs::copy(keys.join(name), copy.join(name)).expect("copied");
    }
    let long_ago = SystemClock::new().now().saturating_add((10 - 2 * 365) * DAY_MS);
    let authority = Authority::load(&copy).expect("loaded");
    authority.ensure_server_certificate(&copy, &["localhost".to_owned()], long_ago).expect("issued");
    fs::read_to_string(copy.join("server.pem")).expect("text")
}

fn until(icecore: &Icecore, what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}\n{}", icecore.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_certificate_near_its_end_is_renewed_without_a_start() {
    let mut icecore = Icecore::with_environment(SETTINGS);
    let keys = Path::new(&icecore.data_dir()).join("keys");
    fs::write(keys.join("server.pem.tmp"), "torn").expect("written");
    icecore.start();
    assert!(!keys.join("server.pem.tmp").exists(), "a start removes what a crash left");
    let org = icecore.org("lab");
    let sent = readings::fleet(2, 50);
    icecore.send(&org.identity, &readings::file(icecore.work(), "a.csv", &sent)).ok();
    let certificate = keys.join("server.pem");
    let old = nearly_expired(&keys, icecore.work());

    // It cannot be renewed, is told once, and tried again.
    let key = keys.join("server.key.pem");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("changed");
    private_file::replace(&certificate, &old).expect("written");
    let failures = || icecore.log().matches("cannot be renewed; it is tried again").count();
    until(&icecore, "a failure is logged", || failures() > 0);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(failures(), 1, "{}", icecore.log());
    assert_eq!(fs::read_to_string(&certificate).expect("text"), old);

    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("changed");
    until(&icecore, "it is renewed", || icecore.log().contains("certificate is renewed"));
    assert_ne!(fs::read_to_string(&certificate).expect("text"), old);
    let metrics = icecore.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("icecore_server_certificate_expires_seconds "));
    let expires: f64 = line.expect("the metric").parse().expect("a number");
    let days = (expires - SystemClock::new().now().get() as f64 / 1_000.0) / 86_400.0;
    assert!((729.0..731.0).contains(&days), "{days} days are left");
    icecore.send(&org.identity, &readings::file(icecore.work(), "b.csv", &sent)).ok();
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
    assert_eq!(icecore.terminate(), Some(0));
}
