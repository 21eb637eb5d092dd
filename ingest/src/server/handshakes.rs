//! Starts handshakes: at a limited rate, with a limited number at once, and after an address validation where needed.
//!
//! A handshake costs a millisecond of CPU, which connected gateways need, too. So the rate of handshakes is limited
//! (`token_bucket`). The other attempts wait, round robin over the networks (`fair_queue`), for no longer than a
//! gateway does. Attempts that would wait in vain are refused at once, because that is cheap, and their clients retry.
//!
//! A half-open handshake costs memory and holds its permit until it times out, and opening one costs an attacker
//! nothing. So every attempt that has to wait, and every attempt while half of the permits are taken, must first prove
//! that it can receive at its address, which one with a forged address cannot. While half are taken, one network gets
//! no more than its part of the permits, and its other attempts wait, so that an attacker needs many networks at once.
//! A fleet behind one address does not reach this limit, because at the limited rate few handshakes are in progress.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::fair_queue::FairQueue;
use super::token_bucket::TokenBucket;
use crate::limits::{HANDSHAKE_WAIT_MAX, IngestLimits};
use crate::metrics;

/// Divisor of the permits that one network may hold while they are scarce; it gets two at least.
const NETWORK_PART: usize = 16;

/// Numbers of handshakes in progress, by network.
#[derive(Default)]
struct NetworkCounts {
    counts: Mutex<HashMap<IpAddr, usize>>,
    /// Notified when a handshake ends.
    ended: Notify,
}

impl NetworkCounts {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while the lock is held.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permits of handshakes, and the attempts that wait for one.
pub(super) struct Handshakes {
    permits: Arc<Semaphore>,
    permits_max: usize,
    networks: Arc<NetworkCounts>,
    rate: TokenBucket,
    queue: FairQueue<Incoming>,
    /// No waiting attempt may start before another handshake has ended, because all their networks hold their part.
    blocked: bool,
}

/// Permit of a handshake, released when this is dropped.
pub(super) struct Handshake {
    network: IpAddr,
    networks: Arc<NetworkCounts>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        {
            let mut counts = self.networks.counts();
            if let Some(count) = counts.get_mut(&self.network) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.network);
                }
            }
        }
        // Released before the notification, so that the permit is available to the task that it wakes.
        drop(self.permit.take());
        self.networks.ended.notify_one();
    }
}

/// Returns the network of an address: an IPv4 address itself, or a /64 of IPv6, because one host has 2^64 addresses.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Handshakes {
    pub(super) fn new(limits: &IngestLimits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.handshakes_max)),
            permits_max: limits.handshakes_max,
            networks: Arc::default(),
            rate: TokenBucket::new(limits.handshakes_per_second(), Instant::now()),
            queue: FairQueue::new(limits.handshakes_waiting(), HANDSHAKE_WAIT_MAX),
            blocked: false,
        }
    }

    /// Returns whether more than half of the permits are taken.
    fn permits_are_scarce(&self) -> bool {
        self.permits.available_permits() < self.permits_max / 2
    }

    /// Queues an attempt, or asks its client to prove its address first, or refuses it.
    pub(super) fn arrived(&mut self, incoming: Incoming) {
        let now = Instant::now();
        let network = network(incoming.remote_address().ip());
        if self.queue.is_full() {
            self.refuse_expired(now);
        }
        if !self.queue.has_room(network) {
            refuse(incoming, "waiting_limit");
            return;
        }
        let waits = !self.queue.is_empty() || self.rate.ready_at() > now || self.permits.available_permits() == 0;
        if (waits || self.permits_are_scarce()) && !incoming.remote_address_validated() && incoming.may_retry() {
            // It fails only when a retry is not possible, which was just checked.
            let _ = incoming.retry();
            return;
        }
        self.blocked = false;
        if let Some(rejected) = self.queue.push(network, now, incoming) {
            refuse(rejected, "waiting_limit");
        }
    }

    /// Waits until an attempt is queued, the rate allows another handshake, and there is a permit for it.
    pub(super) async fn turn(&mut self) -> OwnedSemaphorePermit {
        if !self.queue.is_empty() {
            if self.blocked {
                self.networks.ended.notified().await;
                // The notification is consumed, also when this future is dropped at one of the next waits.
                self.blocked = false;
            }
            sleep_until(self.rate.ready_at()).await;
            // An error cannot happen: the semaphore is never closed.
            if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
                return permit;
            }
        }
        // The caller drops this future when an attempt arrives.
        std::future::pending().await
    }

    /// Starts the next attempt in the queue with this permit.
    pub(super) fn begin(&mut self, permit: OwnedSemaphorePermit) -> Option<(Incoming, Handshake)> {
        let now = Instant::now();
        self.refuse_expired(now);
        let network_max =
            if self.permits_are_scarce() { (self.permits_max / NETWORK_PART).max(2) } else { self.permits_max };
        let next = {
            let mut counts = self.networks.counts();
            let next = self.queue.pop(|network| counts.get(&network).is_none_or(|count| *count < network_max));
            if let Some((network, _)) = &next {
                *counts.entry(*network).or_insert(0) += 1;
            }
            next
        };
        self.blocked = next.is_none();
        let (network, incoming) = next?;
        self.rate.take(now);
        Some((incoming, Handshake { network, networks: Arc::clone(&self.networks), permit: Some(permit) }))
    }

    fn refuse_expired(&mut self, now: Instant) {
        for incoming in self.queue.expire(now) {
            refuse(incoming, "waited");
        }
    }
}

fn refuse(incoming: Incoming, why: &'static str) {
    metrics::connection_refused(why);
    incoming.refuse();
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
