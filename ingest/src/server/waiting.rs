//! Attempts to connect that wait for their handshake: network by network in turn, and within a network in the order in
//! which they came.
//!
//! A fleet behind one address may fill every place, and comes in as fast as handshakes begin. When there is another
//! network, each gets its turn; and where every place is taken, one of those who hold most gives way. So whoever floods
//! from one address, or a few, holds up nobody but himself.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// At most so many items wait, and none for longer than it is of use.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    /// None of them is empty.
    networks: HashMap<IpAddr, VecDeque<(Instant, T)>>,
    /// Each network of `networks` once.
    turns: VecDeque<IpAddr>,
    count: usize,
    count_max: usize,
    wait_max: Duration,
}

impl<T> Waiting<T> {
    pub(super) fn new(count_max: usize, wait_max: Duration) -> Self {
        Self { networks: HashMap::new(), turns: VecDeque::new(), count: 0, count_max: count_max.max(1), wait_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Would one more of this network find a place?
    pub(super) fn has_room(&self, network: IpAddr) -> bool {
        self.count < self.count_max || self.gives_way(network).is_some()
    }

    /// Whose last one would give way to one of this network, so that both have more alike.
    fn gives_way(&self, to: IpAddr) -> Option<IpAddr> {
        let of = self.networks.get(&to).map_or(0, VecDeque::len);
        let (most, network) = self.networks.iter().map(|(network, queue)| (queue.len(), *network)).max()?;
        (most >= of + 2).then_some(network)
    }

    /// Lets an item wait. Gives back the one that finds no place: another one or this.
    pub(super) fn push(&mut self, network: IpAddr, now: Instant, item: T) -> Option<T> {
        let mut gone = None;
        if self.count >= self.count_max {
            let Some(other) = self.gives_way(network) else { return Some(item) };
            // It has two at least, so it keeps its turn.
            gone = self.networks.get_mut(&other).and_then(VecDeque::pop_back).map(|(_, item)| item);
            self.count -= usize::from(gone.is_some());
        }
        let queue = self.networks.entry(network).or_default();
        if queue.is_empty() {
            self.turns.push_back(network);
        }
        queue.push_back((now, item));
        self.count += 1;
        gone
    }

    /// Takes out who has waited for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let (wait_max, mut gone) = (self.wait_max, Vec::new());
        self.networks.retain(|_, queue| {
            while let Some((_, item)) = queue.pop_front_if(|(since, _)| now.duration_since(*since) > wait_max) {
                gone.push(item);
            }
            !queue.is_empty()
        });
        if !gone.is_empty() {
            self.count -= gone.len();
            self.turns.retain(|network| self.networks.contains_key(network));
        }
        gone
    }

    /// The next one whose turn it is, of the networks that may.
    pub(super) fn next(&mut self, may: impl Fn(IpAddr) -> bool) -> Option<(IpAddr, T)> {
        let place = self.turns.iter().position(|network| may(*network))?;
        let network = self.turns.remove(place)?;
        let queue = self.networks.get_mut(&network)?;
        let (_, item) = queue.pop_front()?;
        if queue.is_empty() {
            self.networks.remove(&network);
        } else {
            self.turns.push_back(network);
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

    fn drain(waiting: &mut Waiting<u32>) -> Vec<(u8, u32)> {
        let octet = |network| match network {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(_) => 0,
        };
        std::iter::from_fn(|| waiting.next(|_| true)).map(|(network, item)| (octet(network), item)).collect()
    }

    #[test]
    fn one_network_may_have_every_place_and_keeps_its_order() {
        let (mut waiting, now) = (Waiting::new(100, WAIT_MAX), Instant::now());
        for item in 0..100 {
            assert!(waiting.has_room(network(1)));
            assert_eq!(waiting.push(network(1), now, item), None);
        }
        assert!(!waiting.has_room(network(1)), "all places are taken");
        assert_eq!(waiting.push(network(1), now, 100), Some(100));
        assert_eq!(drain(&mut waiting), (0..100).map(|item| (1, item)).collect::<Vec<_>>());
        assert!(waiting.is_empty() && waiting.has_room(network(1)));
    }

    #[test]
    fn networks_have_their_turns() {
        let (mut waiting, now) = (Waiting::new(100, WAIT_MAX), Instant::now());
        for item in 0..5 {
            waiting.push(network(1), now, item);
        }
        waiting.push(network(2), now, 10);
        waiting.push(network(3), now, 20);
        waiting.push(network(3), now, 21);
        let order = [(1, 0), (2, 10), (3, 20), (1, 1), (3, 21), (1, 2), (1, 3), (1, 4)];
        assert_eq!(drain(&mut waiting), order);
    }

    #[test]
    fn who_may_not_is_passed_over_and_keeps_its_turn() {
        let (mut waiting, now) = (Waiting::new(100, WAIT_MAX), Instant::now());
        for item in [1, 11, 21, 2, 12] {
            waiting.push(network(u8::try_from(item / 10).expect("small")), now, item);
        }
        assert_eq!(waiting.next(|_| false), None);
        assert_eq!(waiting.next(|of| of != network(0)), Some((network(1), 11)));
        assert_eq!(drain(&mut waiting), [(0, 1), (2, 21), (1, 12), (0, 2)]);
    }

    #[test]
    fn who_holds_most_gives_way() {
        let (mut waiting, now) = (Waiting::new(6, WAIT_MAX), Instant::now());
        for item in 0..6 {
            waiting.push(network(1), now, item);
        }
        for item in 0..3 {
            assert!(waiting.has_room(network(2)));
            assert_eq!(waiting.push(network(2), now, 10 + item), Some(5 - item), "the last one that came");
        }
        assert!(!waiting.has_room(network(2)), "they have as many");
        assert_eq!(waiting.push(network(2), now, 13), Some(13));
        assert_eq!(waiting.push(network(1), now, 6), Some(6));
        assert!(waiting.push(network(3), now, 20).is_some_and(|item| item == 2 || item == 12));
        assert_eq!(drain(&mut waiting).len(), 6);
    }

    #[test]
    fn who_waited_too_long_has_no_turn() {
        let (mut waiting, start) = (Waiting::new(4, WAIT_MAX), Instant::now());
        waiting.push(network(1), start, 0);
        waiting.push(network(2), start, 10);
        waiting.push(network(1), start + WAIT_MAX, 1);
        waiting.push(network(3), start + WAIT_MAX, 20);
        assert!(waiting.is_full());
        assert_eq!(waiting.expire(start + WAIT_MAX), Vec::<u32>::new());
        let mut gone = waiting.expire(start + WAIT_MAX + Duration::from_millis(1));
        gone.sort_unstable();
        assert_eq!(gone, [0, 10]);
        assert!(!waiting.is_full());
        waiting.push(network(2), start + WAIT_MAX, 11);
        assert_eq!(drain(&mut waiting), [(1, 1), (3, 20), (2, 11)]);
        assert!(waiting.is_empty());
    }
}
