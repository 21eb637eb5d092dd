//! A bad network between a client and a server: it loses, duplicates, damages and delays datagrams, blocks them, and
//! changes a client's address during its connection. It is driven by a seeded random generator.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::SplitMix64;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Impairments of the datagrams of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Impairments {
    pub(crate) lost_per_mille: u64,
    pub(crate) duplicated_per_mille: u64,
    pub(crate) damaged_per_mille: u64,
    /// Datagrams that are delayed by up to `delay_ms_max`, and so arrive out of order.
    pub(crate) late_per_mille: u64,
    pub(crate) delay_ms_max: u64,
}

/// Filter of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Closed,
    /// Only QUIC version 1 Retry packets pass (RFC 9000, 17.2.5): the client can prove its address, and receives
    /// nothing else.
    RetriesOnly,
}

impl Gate {
    fn allows(self, datagram: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::RetriesOnly => datagram.first().is_some_and(|first| first & 0xF0 == 0xF0),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) up: Impairments,
    pub(crate) down: Impairments,
    pub(crate) gate_up: Gate,
    pub(crate) gate_down: Gate,
}

impl Default for Rules {
    fn default() -> Self {
        Self { up: Impairments::default(), down: Impairments::default(), gate_up: Gate::Open, gate_down: Gate::Open }
    }
}

/// Sockets towards the server, one for each client, with the task that reads it.
type Upstream = HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)>;

/// State that the tasks share.
struct NetworkInner {
    server: SocketAddr,
    from: IpAddr,
    listener: UdpSocket,
    rules: Mutex<(Rules, SplitMix64)>,
    upstream: Mutex<Upstream>,
    /// Datagrams that clients sent, if they are recorded.
    recorded: Mutex<Option<Vec<Vec<u8>>>>,
    forwarded: AtomicU64,
    dropped: AtomicU64,
}

/// The network; clients connect to [`Network::addr`].
pub(crate) struct Network {
    shared: Arc<NetworkInner>,
    task: JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
        for (_, reader) in self.shared.upstream.lock().expect("the lock").values() {
            reader.abort();
        }
    }
}

impl Network {
    pub(crate) async fn in_front_of(server: SocketAddr, seed: u64) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, server, seed).await
    }

    /// Creates a network whose clients have this source address for the server.
    pub(crate) async fn from(from: Ipv4Addr, server: SocketAddr, seed: u64) -> Self {
        let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let shared = Arc::new(NetworkInner {
            server,
            from: from.into(),
            listener,
            rules: Mutex::new((Rules::default(), SplitMix64::new(seed))),
            upstream: Mutex::default(),
            recorded: Mutex::default(),
            forwarded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let task = tokio::spawn(forward_up(Arc::clone(&shared)));
        Self { shared, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.shared.listener.local_addr().expect("bound")
    }

    pub(crate) fn set_rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.rules.lock().expect("the lock").0);
    }

    /// Changes the source port of each client, as when a NAT has forgotten it.
    pub(crate) fn rebind(&self) {
        for (_, (_, reader)) in self.shared.upstream.lock().expect("the lock").drain() {
            reader.abort();
        }
    }

    pub(crate) fn record(&self) {
        *self.shared.recorded.lock().expect("the lock") = Some(Vec::new());
    }

    pub(crate) fn recorded(&self) -> Vec<Vec<u8>> {
        self.shared.recorded.lock().expect("the lock").take().expect("recording")
    }

    /// Returns the numbers of forwarded and dropped datagrams.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.forwarded.load(Ordering::Relaxed), self.shared.dropped.load(Ordering::Relaxed))
    }
}

impl NetworkInner {
    async fn upstream(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        if let Some((socket, _)) = self.upstream.lock().expect("the lock").get(&client) {
            return Arc::clone(socket);
        }
        let socket = Arc::new(UdpSocket::bind((self.from, 0)).await.expect("a socket"));
        let reader = tokio::spawn(forward_down(Arc::clone(self), Arc::clone(&socket), client));
        self.upstream.lock().expect("the lock").insert(client, (Arc::clone(&socket), reader));
        socket
    }

    /// Draws the deliveries of a datagram: each copy of it, with its delay.
    fn deliveries(&self, up: bool, datagram: &[u8]) -> Vec<(Vec<u8>, Duration)> {
        let mut rules = self.rules.lock().expect("the lock");
        let (rules, rng) = &mut *rules;
        let (impairments, gate) = if up { (rules.up, rules.gate_up) } else { (rules.down, rules.gate_down) };
        if !gate.allows(datagram) || rng.chance(impairments.lost_per_mille) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        }
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        let copies = if rng.chance(impairments.duplicated_per_mille) { 2 } else { 1 };
        let mut deliveries = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut copy = datagram.to_vec();
            if rng.chance(impairments.damaged_per_mille) && !copy.is_empty() {
                let index = rng.index(copy.len());
                copy[index] ^= 1 << rng.below(8);
            }
            let late = rng.chance(impairments.late_per_mille);
            let delay = if late { rng.below(impairments.delay_ms_max + 1) } else { 0 };
            deliveries.push((copy, Duration::from_millis(delay)));
        }
        deliveries
    }
}

fn forward(deliveries: Vec<(Vec<u8>, Duration)>, send: impl Fn(Vec<u8>) -> JoinHandle<()> + Clone + Send + 'static) {
    for (copy, delay) in deliveries {
        if delay.is_zero() {
            send(copy);
        } else {
            let send = send.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                send(copy);
            });
        }
    }
}

async fn forward_up(shared: Arc<NetworkInner>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error belongs to a datagram sent before, whose receiver is gone.
        let Ok((length, client)) = shared.listener.recv_from(&mut buffer).await else { continue };
        if let Some(recorded) = &mut *shared.recorded.lock().expect("the lock") {
            recorded.push(buffer[..length].to_vec());
        }
        let deliveries = shared.deliveries(true, &buffer[..length]);
        if deliveries.is_empty() {
            continue;
        }
        let (socket, server) = (shared.upstream(client).await, shared.server);
        forward(deliveries, move |copy| {
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                let _ = socket.send_to(&copy, server).await;
            })
        });
    }
}

async fn forward_down(shared: Arc<NetworkInner>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        let deliveries = shared.deliveries(false, &buffer[..length]);
        let shared = Arc::clone(&shared);
        forward(deliveries, move |copy| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let _ = shared.listener.send_to(&copy, client).await;
            })
        });
    }
}
