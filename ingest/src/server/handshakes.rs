//! Places for handshakes, and what an attempt to connect must show to get one while they are short.
//!
//! A half-open handshake costs memory and holds its place until it times out, and opening one costs nothing. So when
//! half of the places are taken, an address must prove that it can receive (forged ones cannot), and one network gets
//! no more than its part: whoever fills places has to do it from many networks at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics;

/// What one network may hold of the places while they are short: this part of them, and two at least.
const NETWORK_PART: usize = 16;

type Networks = Mutex<HashMap<IpAddr, usize>>;

/// The places.
pub(super) struct Handshakes {
    places: Arc<Semaphore>,
    places_max: usize,
    networks: Arc<Networks>,
}

/// A handshake's place, until it is dropped.
pub(super) struct Handshake {
    network: IpAddr,
    networks: Arc<Networks>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut networks = lock(&self.networks);
        if let Some(count) = networks.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                networks.remove(&self.network);
            }
        }
    }
}

fn lock(networks: &Networks) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    // Nothing panics while the lock is held.
    networks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose address it is: an IPv4 address, or an IPv6 network, of which one host has 2^64 addresses.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Handshakes {
    pub(super) fn new(places_max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places_max)), places_max, networks: Arc::default() }
    }

    /// Waits for a place. `None` cannot happen: the semaphore is never closed.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Gives the place to this attempt, or tells it to prove its address, or to come again.
    pub(super) fn admit(&self, incoming: Incoming, place: OwnedSemaphorePermit) -> Option<(Incoming, Handshake)> {
        let rush = self.places.available_permits() < self.places_max / 2;
        if rush && !incoming.remote_address_validated() && incoming.may_retry() {
            // It fails only when a retry is not possible, which was just asked.
            let _ = incoming.retry();
            return None;
        }
        let network = network(incoming.remote_address().ip());
        {
            let mut networks = lock(&self.networks);
            let count = networks.entry(network).or_insert(0);
            if rush && *count >= (self.places_max / NETWORK_PART).max(2) {
                drop(networks);
                metrics::connection_refused("network_limit");
                incoming.refuse();
                return None;
            }
            *count += 1;
        }
        Some((incoming, Handshake { network, networks: Arc::clone(&self.networks), _place: place }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_and_a_mapped_address_as_ipv4() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
