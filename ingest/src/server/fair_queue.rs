//! Queue of attempts to connect that wait for their handshake: round robin over the networks, and within a network
//! first in, first out.
//!
//! A fleet behind one address may fill the whole queue, and connects as fast as handshakes start. When another network
//! waits, the networks alternate; when the queue is full, an attempt of the network with most of them is evicted. So a
//! flood from one address, or a few, delays only its own attempts.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Fair queue with a limit of items and a limit of their waiting time.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// Items by network; no network is without items.
    networks: HashMap<IpAddr, VecDeque<(Instant, T)>>,
    /// Round-robin order; contains each network of `networks` once.
    order: VecDeque<IpAddr>,
    count: usize,
    count_max: usize,
    wait_max: Duration,
}

impl<T> FairQueue<T> {
    pub(super) fn new(count_max: usize, wait_max: Duration) -> Self {
        Self { networks: HashMap::new(), order: VecDeque::new(), count: 0, count_max: count_max.max(1), wait_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns whether there is room for one more item of this network.
    pub(super) fn has_room(&self, network: IpAddr) -> bool {
        self.count < self.count_max || self.network_to_evict(network).is_some()
    }

    /// Returns the network whose last item would be evicted for one of this network: the one with most items, if it has
    /// two more at least, so that the eviction makes the counts more even.
    fn network_to_evict(&self, to: IpAddr) -> Option<IpAddr> {
        let count = self.networks.get(&to).map_or(0, VecDeque::len);
        let (most, network) = self.networks.iter().map(|(network, queue)| (queue.len(), *network)).max()?;
        (most >= count + 2).then_some(network)
    }

    /// Adds an item. Returns the item for which there is no room: an evicted one, or this one.
    pub(super) fn push(&mut self, network: IpAddr, now: Instant, item: T) -> Option<T> {
        let mut evicted = None;
        if self.count >= self.count_max {
            let Some(other) = self.network_to_evict(network) else { return Some(item) };
            // The network has two items at least, so it stays in the order.
            evicted = self.networks.get_mut(&other).and_then(VecDeque::pop_back).map(|(_, item)| item);
            self.count -= usize::from(evicted.is_some());
        }
        let queue = self.networks.entry(network).or_default();
        if queue.is_empty() {
            self.order.push_back(network);
        }
        queue.push_back((now, item));
        self.count += 1;
        evicted
    }

    /// Removes and returns the items that have waited for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let (wait_max, mut expired) = (self.wait_max, Vec::new());
        self.networks.retain(|_, queue| {
            while let Some((_, item)) = queue.pop_front_if(|(since, _)| now.duration_since(*since) > wait_max) {
                expired.push(item);
            }
            !queue.is_empty()
        });
        if !expired.is_empty() {
            self.count -= expired.len();
            self.order.retain(|network| self.networks.contains_key(network));
        }
        expired
    }

    /// Removes and returns the next item of the networks that are eligible.
    pub(super) fn pop(&mut self, eligible: impl Fn(IpAddr) -> bool) -> Option<(IpAddr, T)> {
        let index = self.order.iter().position(|network| eligible(*network))?;
        let network = self.order.remove(index)?;
        let queue = self.networks.get_mut(&network)?;
        let (_, item) = queue.pop_front()?;
        if queue.is_empty() {
            self.networks.remove(&network);
        } else {
            self.order.push_back(network);
        }
        self.count -= 1;
        Some((network, item))
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= self.count_max
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(2);

    fn network(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    fn drain(queue: &mut FairQueue<u32>) -> Vec<(u8, u32)> {
        let octet = |network| match network {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(_) => 0,
        };
        std::iter::from_fn(|| queue.pop(|_| true)).map(|(network, item)| (octet(network), item)).collect()
    }

    #[test]
    fn one_network_may_fill_the_queue_and_keeps_its_order() {
        let (mut queue, now) = (FairQueue::new(100, WAIT_MAX), Instant::now());
        for item in 0..100 {
            assert!(queue.has_room(network(1)));
            assert_eq!(queue.push(network(1), now, item), None);
        }
        assert!(!queue.has_room(network(1)), "the queue is full");
        assert_eq!(queue.push(network(1), now, 100), Some(100));
        assert_eq!(drain(&mut queue), (0..100).map(|item| (1, item)).collect::<Vec<_>>());
        assert!(queue.is_empty() && queue.has_room(network(1)));
    }

    #[test]
    fn networks_take_turns() {
        let (mut queue, now) = (FairQueue::new(100, WAIT_MAX), Instant::now());
        for item in 0..5 {
            queue.push(network(1), now, item);
        }
        queue.push(network(2), now, 10);
        queue.push(network(3), now, 20);
        queue.push(network(3), now, 21);
        let order = [(1, 0), (2, 10), (3, 20), (1, 1), (3, 21), (1, 2), (1, 3), (1, 4)];
        assert_eq!(drain(&mut queue), order);
    }

    #[test]
    fn a_network_that_is_not_eligible_keeps_its_position() {
        let (mut queue, now) = (FairQueue::new(100, WAIT_MAX), Instant::now());
        for item in [1, 11, 21, 2, 12] {
            queue.push(network(u8::try_from(item / 10).expect("small")), now, item);
        }
        assert_eq!(queue.pop(|_| false), None);
        assert_eq!(queue.pop(|of| of != network(0)), Some((network(1), 11)));
        assert_eq!(drain(&mut queue), [(0, 1), (2, 21), (1, 12), (0, 2)]);
    }

    #[test]
    fn the_network_with_most_items_is_evicted_from() {
        let (mut queue, now) = (FairQueue::new(6, WAIT_MAX), Instant::now());
        for item in 0..6 {
            queue.push(network(1), now, item);
        }
        for item in 0..3 {
            assert!(queue.has_room(network(2)));
            assert_eq!(queue.push(network(2), now, 10 + item), Some(5 - item), "the newest item");
        }
        assert!(!queue.has_room(network(2)), "the counts are even");
        assert_eq!(queue.push(network(2), now, 13), Some(13));
        assert_eq!(queue.push(network(1), now, 6), Some(6));
        assert!(queue.push(network(3), now, 20).is_some_and(|item| item == 2 || item == 12));
        assert_eq!(drain(&mut queue).len(), 6);
    }

    #[test]
    fn items_that_waited_too_long_expire() {
        let (mut queue, start) = (FairQueue::new(4, WAIT_MAX), Instant::now());
        queue.push(network(1), start, 0);
        queue.push(network(2), start, 10);
        queue.push(network(1), start + WAIT_MAX, 1);
        queue.push(network(3), start + WAIT_MAX, 20);
        assert!(queue.is_full());
        assert_eq!(queue.expire(start + WAIT_MAX), Vec::<u32>::new());
        let mut expired = queue.expire(start + WAIT_MAX + Duration::from_millis(1));
        expired.sort_unstable();
        assert_eq!(expired, [0, 10]);
        assert!(!queue.is_full());
        queue.push(network(2), start + WAIT_MAX, 11);
        assert_eq!(drain(&mut queue), [(1, 1), (3, 20), (2, 11)]);
        assert!(queue.is_empty());
    }
}
