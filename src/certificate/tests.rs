//! The running check with a clock that the test sets: when it renews, and that it goes on after a failure.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

const DAY_MS: i64 = 86_400_000;
const LIFE_DAYS: i64 = 2 * 365;
const CHECK_INTERVAL: Duration = Duration::from_millis(1);
/// Only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

struct House {
    dir: tempfile::TempDir,
    clock: Arc<AtomicI64>,
    checks: Arc<AtomicUsize>,
    shown: Arc<AtomicUsize>,
    first: String,
    task: tokio::task::JoinHandle<()>,
}

impl House {
    /// A certificate of today, and the task at work.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start: Millis = "2026-01-01T00:00:00Z".parse().expect("a time");
        Authority::create(dir.path(), start).expect("made");
        let (clock, checks) = (Arc::new(AtomicI64::new(start.get())), Arc::new(AtomicUsize::new(0)));
        let now = {
            let (clock, checks) = (Arc::clone(&clock), Arc::clone(&checks));
            move || {
                checks.fetch_add(1, Ordering::SeqCst);
                Millis::new(clock.load(Ordering::SeqCst)).expect("a time")
            }
        };
        let names = vec!["localhost".to_owned()];
        let certificates = Certificates::new(dir.path().to_owned(), names, Arc::new(now)).expect("loaded");
        let current = certificates.current().expect("issued");
        let first = current.pem.certificate.clone();
        let shown = Arc::new(AtomicUsize::new(0));
        let show = {
            let shown = Arc::clone(&shown);
            move |_: &ServerTls| {
                shown.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        };
        let task = tokio::spawn(certificates.keep_renewed(current, CHECK_INTERVAL, show));
        Self { dir, clock, checks, shown, first, task }
    }

    fn days_left(&self, days: i64) {
        let start: Millis = "2026-01-01T00:00:00Z".parse().expect("a time");
        self.clock.store(start.get() + (LIFE_DAYS - days) * DAY_MS, Ordering::SeqCst);
    }

    fn on_disk(&self) -> String {
        pki::load_server(self.dir.path()).expect("loaded").certificate
    }

    fn shown(&self) -> usize {
        self.shown.load(Ordering::SeqCst)
    }

    /// Waits for checks that began after this call and are over.
    async fn checked(&self) {
        let begun = self.checks.load(Ordering::SeqCst);
        until(|| self.checks.load(Ordering::SeqCst) >= begun + 3).await;
    }
}

async fn until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "it never happens");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_with_179_days_left_and_not_with_181() {
    let house = House::new();
    house.days_left(181);
    house.checked().await;
    assert_eq!((house.shown(), house.on_disk()), (0, house.first.clone()), "181 days are enough");
    house.days_left(179);
    until(|| house.shown() == 1).await;
    let renewed = house.on_disk();
    assert_ne!(renewed, house.first);
    house.checked().await;
    assert_eq!((house.shown(), house.on_disk()), (1, renewed), "once");
    assert!(!house.task.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_fails_is_tried_again() {
    let house = House::new();
    // A private key that others can read is refused.
    let key = house.dir.path().join("server.key.pem");
    let mode = |mode| std::fs::set_permissions(&key, Permissions::from_mode(mode)).expect("changed");
    mode(0o644);
    house.days_left(10);
    house.checked().await;
    assert_eq!(house.shown(), 0);
    assert!(!house.task.is_finished());
    mode(0o600);
    until(|| house.shown() == 1).await;
    assert_ne!(house.on_disk(), house.first);
}
