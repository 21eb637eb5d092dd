//! How handshakes are begun: at a pace, each in a place, and what an attempt to connect must show to get there.
//!
//! A handshake costs a millisecond of CPU, which those who are connected want, too. So only so many are begun in a
//! second; the other attempts wait, network by network in turn (`waiting`), for no longer than a gateway does, and those
//! that would wait in vain are refused at once: that costs little, and they come again.
//!
//! A half-open handshake costs memory and holds its place until it times out, and opening one costs nothing. So whoever
//! has to wait, and everybody while half of the places are taken, must prove that he can receive at his address (forged
//! ones cannot). While half are taken one network gets no more than its part, and waits beyond it: whoever fills places
//! has to do it from many networks at once. A fleet behind one address does not come to that: at this pace few handshakes
//! are under way.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::pace::Pace;
use super::waiting::Waiting;
use crate::limits::{HANDSHAKE_WAIT_MAX, IngestLimits};
use crate::metrics;

/// What one network may hold of the places while they are short: this part of them, and two at least.
const NETWORK_PART: usize = 16;

/// Who is in a handshake.
#[derive(Default)]
struct Networks {
    counts: Mutex<HashMap<IpAddr, usize>>,
    /// One of them has ended.
    ended: Notify,
}

impl Networks {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while the lock is held.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places, and those who wait for one.
pub(super) struct Handshakes {
    places: Arc<Semaphore>,
    places_max: usize,
    networks: Arc<Networks>,
    pace: Pace,
    waiting: Waiting<Incoming>,
    /// Of those who wait nobody may begin before another handshake has ended: their networks have all that they get.
    held_up: bool,
}

/// A handshake's place, until it is dropped.
pub(super) struct Handshake {
    network: IpAddr,
    networks: Arc<Networks>,
    place: Option<OwnedSemaphorePermit>,
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
        // Free before somebody looks whether it is.
        drop(self.place.take());
        self.networks.ended.notify_one();
    }
}

/// Whose address it is: an IPv4 address, or an IPv6 network, of which one host has 2^64 addresses.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Handshakes {
    pub(super) fn new(limits: &IngestLimits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.handshakes_max)),
            places_max: limits.handshakes_max,
            networks: Arc::default(),
            pace: Pace::new(limits.handshakes_per_second(), Instant::now()),
            waiting: Waiting::new(limits.handshakes_waiting(), HANDSHAKE_WAIT_MAX),
            held_up: false,
        }
    }

    fn places_are_short(&self) -> bool {
        self.places.available_permits() < self.places_max / 2
    }

    /// Lets an attempt wait for its turn, or tells it to prove its address first, or to come again.
    pub(super) fn arrived(&mut self, incoming: Incoming) {
        let now = Instant::now();
        let network = network(incoming.remote_address().ip());
        if self.waiting.is_full() {
            self.refuse_late(now);
        }
        if !self.waiting.has_room(network) {
            refuse(incoming, "waiting_limit");
            return;
        }
        let waits = !self.waiting.is_empty() || self.pace.ready_at() > now || self.places.available_permits() == 0;
        if (waits || self.places_are_short()) && !incoming.remote_address_validated() && incoming.may_retry() {
            // It fails only when a retry is not possible, which was just asked.
            let _ = incoming.retry();
            return;
        }
        self.held_up = false;
        if let Some(gone) = self.waiting.push(network, now, incoming) {
            refuse(gone, "waiting_limit");
        }
    }

    /// Waits until somebody waits, the pace allows another handshake, and there is a place for it.
    pub(super) async fn turn(&mut self) -> OwnedSemaphorePermit {
        if !self.waiting.is_empty() {
            if self.held_up {
                self.networks.ended.notified().await;
                // What was told is used up, also when this is dropped at one of the next waits.
                self.held_up = false;
            }
            sleep_until(self.pace.ready_at()).await;
            // An error cannot happen: the semaphore is never closed.
            if let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
                return place;
            }
        }
        // An arrival ends this wait.
        std::future::pending().await
    }

    /// Gives the place to whose turn it is.
    pub(super) fn begin(&mut self, place: OwnedSemaphorePermit) -> Option<(Incoming, Handshake)> {
        let now = Instant::now();
        self.refuse_late(now);
        let network_max =
            if self.places_are_short() { (self.places_max / NETWORK_PART).max(2) } else { self.places_max };
        let begun = {
            let mut counts = self.networks.counts();
            let begun = self.waiting.next(|network| counts.get(&network).is_none_or(|count| *count < network_max));
            if let Some((network, _)) = &begun {
                *counts.entry(*network).or_insert(0) += 1;
            }
            begun
        };
        self.held_up = begun.is_none();
        let (network, incoming) = begun?;
        self.pace.begin(now);
        Some((incoming, Handshake { network, networks: Arc::clone(&self.networks), place: Some(place) }))
    }

    fn refuse_late(&mut self, now: Instant) {
        for incoming in self.waiting.expire(now) {
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
