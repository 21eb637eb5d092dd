//! Who may connect, and who may stay: counts of connections, and the standing of each, asked again and again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use storage_format::GatewayId;

use super::budget::Share;
use crate::error::{CloseCode, RefusalCode};
use crate::ports::{GatewayDirectory, GatewayIdentity, Refusal};

/// Time passes, and certificates expire: everybody is asked about once in so many rounds although nothing has changed.
const ROUNDS: u64 = 64;

/// What the directory last said of a connected gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its frames are taken.
    Good(GatewayIdentity),
    /// Its frames are refused.
    Refused(RefusalCode),
}

/// One live connection, as the recheck sees it.
pub(super) struct Live {
    pub(super) connection: quinn::Connection,
    pub(super) share: Share,
    certificate: CertificateDer<'static>,
    standing: RwLock<Standing>,
    /// The directory's version when it told something last.
    version: Mutex<Option<u64>>,
}

impl Live {
    /// False when the directory is as it was when it called this one good.
    fn may_have_changed(&self, version: Option<u64>) -> bool {
        version.is_none() || version != *lock(&self.version) || !matches!(self.standing(), Standing::Good(_))
    }

    fn told_at(&self, version: Option<u64>) {
        *lock(&self.version) = version;
    }

    pub(super) fn standing(&self) -> Standing {
        *self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, standing: Standing) {
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// Counts a connection, from its first packet to its end.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All that is connected.
#[derive(Default)]
pub(super) struct Admission {
    places: Arc<AtomicUsize>,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    gateways: Mutex<HashMap<GatewayId, usize>>,
    next: AtomicU64,
}

/// A connection's entry; leaving removes it.
pub(super) struct Entry<'a> {
    admission: &'a Admission,
    number: u64,
    gateway: Option<GatewayId>,
    pub(super) live: Arc<Live>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.admission.live).remove(&self.number);
        if let Some(gateway) = self.gateway {
            let mut gateways = lock(&self.admission.gateways);
            if let Some(count) = gateways.get_mut(&gateway) {
                *count -= 1;
                if *count == 0 {
                    gateways.remove(&gateway);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// A place for one more connection, if there is one.
    pub(super) fn place(&self, connections_max: usize) -> Option<Place> {
        let before = self.places.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&self.places));
        (before < connections_max).then_some(place)
    }

    pub(super) fn connections(&self) -> usize {
        self.places.load(Ordering::Acquire)
    }

    /// Enters a connection whose handshake is done.
    pub(super) fn enter(
        &self,
        connection: quinn::Connection,
        certificate: CertificateDer<'static>,
        answer: Result<GatewayIdentity, Refusal>,
        share: Share,
        per_gateway_max: usize,
    ) -> Result<Entry<'_>, CloseCode> {
        let (standing, gateway) = match answer {
            Ok(identity) => (Standing::Good(identity), Some(identity.gateway)),
            Err(Refusal::OrgSuspended) => (Standing::Refused(RefusalCode::OrgSuspended), None),
            Err(Refusal::Unavailable) => return Err(CloseCode::Unavailable),
            Err(Refusal::Unknown | Refusal::Revoked | Refusal::Expired) => return Err(CloseCode::CertificateRefused),
        };
        if let Some(gateway) = gateway {
            let mut gateways = lock(&self.gateways);
            let count = gateways.entry(gateway).or_insert(0);
            if *count >= per_gateway_max {
                return Err(CloseCode::TooManyConnections);
            }
            *count += 1;
        }
        let live = Arc::new(Live {
            connection,
            share,
            certificate,
            standing: RwLock::new(standing),
            version: Mutex::default(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.live).insert(number, Arc::clone(&live));
        Ok(Entry { admission: self, number, gateway, live })
    }

    /// Asks the directory about everybody, for as long as the server lives.
    ///
    /// While it tells that it has not changed, only about those whom it has not been asked about since, and a part of the
    /// others. Who is not accepted any more has its frames refused from this round on, with a code, and is closed in the next,
    /// so that the refusals arrive.
    pub(super) async fn recheck(self: Arc<Self>, directory: Arc<dyn GatewayDirectory>, interval: Duration) {
        let mut round = 0;
        loop {
            tokio::time::sleep(interval).await;
            let live: Vec<_> = lock(&self.live).iter().map(|(number, live)| (*number, Arc::clone(live))).collect();
            if live.is_empty() {
                continue;
            }
            round = (round + 1) % ROUNDS;
            let directory = Arc::clone(&directory);
            // A panic in the directory must not end the rechecking; the next round asks again.
            let asking = tokio::task::spawn_blocking(move || {
                // Before it is asked about anybody: what changes meanwhile is another version in the next round.
                let version = directory.version();
                for (number, connected) in live {
                    let due = number % ROUNDS == round || connected.may_have_changed(version);
                    if due && check(&connected, directory.as_ref()) {
                        connected.told_at(version);
                    }
                }
            });
            if let Err(error) = asking.await {
                tracing::error!(%error, "asking the directory about connected gateways failed");
            }
        }
    }
}

/// False: the directory does not answer.
fn check(connected: &Live, directory: &dyn GatewayDirectory) -> bool {
    let standing = connected.standing();
    match directory.lookup(&connected.certificate) {
        Ok(identity) if standing == Standing::Good(identity) => {}
        // A suspension ended, or the certificate is another's now: streams hold who they were, so begin anew.
        Ok(_) => connected.connection.close(CloseCode::ShuttingDown.var_int(), b"the gateway's standing changed"),
        // The directory has waited for as long as it may: whoever was revoked meanwhile must not stay for ever.
        Err(Refusal::Unavailable) => {
            connected.connection.close(CloseCode::Unavailable.var_int(), b"the directory of gateways does not answer");
            return false;
        }
        Err(Refusal::OrgSuspended) => connected.set(Standing::Refused(RefusalCode::OrgSuspended)),
        Err(refusal) => {
            if standing == Standing::Refused(RefusalCode::CertificateRevoked) {
                let reason = refusal.to_string();
                connected.connection.close(CloseCode::CertificateRefused.var_int(), reason.as_bytes());
            } else {
                connected.set(Standing::Refused(RefusalCode::CertificateRevoked));
            }
        }
    }
    true
}
