//! Admission of connections: limits of their number, and the standing of each gateway, looked up again at an interval.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use storage_format::GatewayId;

use super::budget::Share;
use crate::error::{CloseCode, RefusalCode};
use crate::ports::{GatewayDirectory, GatewayIdentity, Refusal};

/// Rounds in which every connection is looked up once even if the directory has not changed, because certificates
/// expire.
const RECHECK_ROUNDS: u64 = 64;

/// Standing of a connected gateway, by the last look-up in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its frames are accepted.
    Good(GatewayIdentity),
    /// Its frames are refused.
    Refused(RefusalCode),
}

/// One live connection, with the state that rechecks need.
pub(super) struct LiveConnection {
    pub(super) connection: quinn::Connection,
    pub(super) share: Share,
    certificate: CertificateDer<'static>,
    standing: RwLock<Standing>,
    /// Version of the directory at the last look-up.
    version: Mutex<Option<u64>>,
}

impl LiveConnection {
    /// Returns false when the standing is good and the directory has not changed since the last look-up.
    fn needs_lookup(&self, version: Option<u64>) -> bool {
        version.is_none() || version != *lock(&self.version) || !matches!(self.standing(), Standing::Good(_))
    }

    fn set_version(&self, version: Option<u64>) {
        *lock(&self.version) = version;
    }

    pub(super) fn standing(&self) -> Standing {
        *self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_standing(&self, standing: Standing) {
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// Permit of a connection, held from its first packet to its end.
pub(super) struct ConnectionPermit(Arc<AtomicUsize>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Admission {
    /// Permits in use.
    permits: Arc<AtomicUsize>,
    live: Mutex<HashMap<u64, Arc<LiveConnection>>>,
    /// Connections of each gateway.
    gateways: Mutex<HashMap<GatewayId, usize>>,
    next: AtomicU64,
}

/// Entry of a connection, removed when this is dropped.
pub(super) struct Entry<'a> {
    admission: &'a Admission,
    number: u64,
    gateway: Option<GatewayId>,
    pub(super) live: Arc<LiveConnection>,
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
    /// Returns a permit for one more connection, if there is one.
    pub(super) fn place(&self, connections_max: usize) -> Option<ConnectionPermit> {
        let before = self.permits.fetch_add(1, Ordering::AcqRel);
        let permit = ConnectionPermit(Arc::clone(&self.permits));
        (before < connections_max).then_some(permit)
    }

    /// Returns the number of connections, those in their handshake included.
    pub(super) fn connections(&self) -> usize {
        self.permits.load(Ordering::Acquire)
    }

    /// Registers a connection whose handshake is complete.
    pub(super) fn register(
        &self,
        connection: quinn::Connection,
        certificate: CertificateDer<'static>,
        lookup: Result<GatewayIdentity, Refusal>,
        share: Share,
        per_gateway_max: usize,
    ) -> Result<Entry<'_>, CloseCode> {
        let (standing, gateway) = match lookup {
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
        let live = Arc::new(LiveConnection {
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

    /// Looks up all connected gateways at an interval, for as long as the server lives.
    ///
    /// While the directory has not changed, a round covers only those that were not looked up since the change, and a
    /// part of the others. When a gateway is not accepted any more, its frames are refused with a code from this round
    /// on, and its connections are closed in the next, so that the refusals arrive.
    pub(super) async fn recheck(self: Arc<Self>, directory: Arc<dyn GatewayDirectory>, interval: Duration) {
        let mut round = 0;
        loop {
            tokio::time::sleep(interval).await;
            let live: Vec<_> = lock(&self.live).iter().map(|(number, live)| (*number, Arc::clone(live))).collect();
            if live.is_empty() {
                continue;
            }
            round = (round + 1) % RECHECK_ROUNDS;
            let directory = Arc::clone(&directory);
            // A panic in the directory must not end the rechecks; the next round tries again.
            let lookups = tokio::task::spawn_blocking(move || {
                // Read before the look-ups, so that a change meanwhile is another version in the next round.
                let version = directory.version();
                for (number, connected) in live {
                    let due = number % RECHECK_ROUNDS == round || connected.needs_lookup(version);
                    if due && recheck_connection(&connected, directory.as_ref()) {
                        connected.set_version(version);
                    }
                }
            });
            if let Err(error) = lookups.await {
                tracing::error!(%error, "cannot look up the connected gateways in the directory; trying again");
            }
        }
    }
}

/// Looks up the gateway of one connection. Returns false when the directory does not respond.
fn recheck_connection(connected: &LiveConnection, directory: &dyn GatewayDirectory) -> bool {
    let standing = connected.standing();
    match directory.lookup(&connected.certificate) {
        Ok(identity) if standing == Standing::Good(identity) => {}
        // A suspension ended, or the certificate belongs to another gateway now. Streams keep the identity that they
        // were opened with, so the client has to reconnect.
        Ok(_) => connected.connection.close(CloseCode::ShuttingDown.var_int(), b"the gateway's standing changed"),
        // The directory has not responded for as long as its last state may be used, so a gateway that was revoked
        // meanwhile must not stay connected.
        Err(Refusal::Unavailable) => {
            connected.connection.close(CloseCode::Unavailable.var_int(), b"the directory of gateways does not respond");
            return false;
        }
        Err(Refusal::OrgSuspended) => connected.set_standing(Standing::Refused(RefusalCode::OrgSuspended)),
        Err(refusal) => {
            if standing == Standing::Refused(RefusalCode::CertificateRevoked) {
                let reason = refusal.to_string();
                connected.connection.close(CloseCode::CertificateRefused.var_int(), reason.as_bytes());
            } else {
                connected.set_standing(Standing::Refused(RefusalCode::CertificateRevoked));
            }
        }
    }
    true
}
