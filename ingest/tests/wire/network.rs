//! A bad network between a client and a server: it loses, doubles, damages and delays datagrams, is cut off, and gives
//! a client another address in the midst of its connection. What it does is drawn from a seed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::SplitMix64;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What happens to datagrams of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost_per_mille: u64,
    pub(crate) doubled_per_mille: u64,
    pub(crate) damaged_per_mille: u64,
    /// These are delayed by up to `delay_ms_max`, and so come out of order.
    pub(crate) late_per_mille: u64,
    pub(crate) delay_ms_max: u64,
}

/// Which datagrams go through at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Shut,
    /// QUIC version 1 Retry packets only (RFC 9000, 17.2.5): the client proves its address, and hears nothing more.
    RetriesOnly,
}

impl Gate {
    fn lets_through(self, datagram: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Shut => false,
            Self::RetriesOnly => datagram.first().is_some_and(|first| first & 0xF0 == 0xF0),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) up: Weather,
    pub(crate) down: Weather,
    pub(crate) gate_up: Gate,
    pub(crate) gate_down: Gate,
}

impl Default for Rules {
    fn default() -> Self {
        Self { up: Weather::default(), down: Weather::default(), gate_up: Gate::Open, gate_down: Gate::Open }
    }
}

/// Towards the server: one socket for each client, and who reads it.
type Upstream = HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)>;

struct Shared {
    server: SocketAddr,
    from: IpAddr,
    listener: UdpSocket,
    rules: Mutex<(Rules, SplitMix64)>,
    upstream: Mutex<Upstream>,
    /// Every datagram that clients sent, when recorded.
    recorded: Mutex<Option<Vec<Vec<u8>>>>,
    through: AtomicU64,
    stopped: AtomicU64,
}

/// The network. Clients connect to [`Network::addr`].
pub(crate) struct Network {
    shared: Arc<Shared>,
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
    pub(crate) async fn before(server: SocketAddr, seed: u64) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, server, seed).await
    }

    /// The server sees clients come from this address.
    pub(crate) async fn from(from: Ipv4Addr, server: SocketAddr, seed: u64) -> Self {
        let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let shared = Arc::new(Shared {
            server,
            from: from.into(),
            listener,
            rules: Mutex::new((Rules::default(), SplitMix64::new(seed))),
            upstream: Mutex::default(),
            recorded: Mutex::default(),
            through: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
        });
        let task = tokio::spawn(go_up(Arc::clone(&shared)));
        Self { shared, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.shared.listener.local_addr().expect("bound")
    }

    pub(crate) fn rule(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.rules.lock().expect("the lock").0);
    }

    /// From here on the server sees each client come from another port, as after a NAT forgot it.
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

    /// Datagrams that went through, and that did not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.through.load(Ordering::Relaxed), self.shared.stopped.load(Ordering::Relaxed))
    }
}

impl Shared {
    async fn upstream(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        if let Some((socket, _)) = self.upstream.lock().expect("the lock").get(&client) {
            return Arc::clone(socket);
        }
        let socket = Arc::new(UdpSocket::bind((self.from, 0)).await.expect("a socket"));
        let reader = tokio::spawn(go_down(Arc::clone(self), Arc::clone(&socket), client));
        self.upstream.lock().expect("the lock").insert(client, (Arc::clone(&socket), reader));
        socket
    }

    /// What becomes of a datagram: each copy of it, and when it goes.
    fn fate(&self, up: bool, datagram: &[u8]) -> Vec<(Vec<u8>, Duration)> {
        let mut rules = self.rules.lock().expect("the lock");
        let (rules, draw) = &mut *rules;
        let (weather, gate) = if up { (rules.up, rules.gate_up) } else { (rules.down, rules.gate_down) };
        if !gate.lets_through(datagram) || draw.chance(weather.lost_per_mille) {
            self.stopped.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        }
        self.through.fetch_add(1, Ordering::Relaxed);
        let copies = if draw.chance(weather.doubled_per_mille) { 2 } else { 1 };
        let mut fate = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut copy = datagram.to_vec();
            if draw.chance(weather.damaged_per_mille) && !copy.is_empty() {
                let place = draw.index(copy.len());
                copy[place] ^= 1 << draw.below(8);
            }
            let late = draw.chance(weather.late_per_mille);
            let delay = if late { draw.below(weather.delay_ms_max + 1) } else { 0 };
            fate.push((copy, Duration::from_millis(delay)));
        }
        fate
    }
}

fn forward(fate: Vec<(Vec<u8>, Duration)>, send: impl Fn(Vec<u8>) -> JoinHandle<()> + Clone + Send + 'static) {
    for (copy, delay) in fate {
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

async fn go_up(shared: Arc<Shared>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error is of a datagram sent before: its receiver is gone.
        let Ok((length, client)) = shared.listener.recv_from(&mut buffer).await else { continue };
        if let Some(recorded) = &mut *shared.recorded.lock().expect("the lock") {
            recorded.push(buffer[..length].to_vec());
        }
        let fate = shared.fate(true, &buffer[..length]);
        if fate.is_empty() {
            continue;
        }
        let (socket, server) = (shared.upstream(client).await, shared.server);
        forward(fate, move |copy| {
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                let _ = socket.send_to(&copy, server).await;
            })
        });
    }
}

async fn go_down(shared: Arc<Shared>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        let fate = shared.fate(false, &buffer[..length]);
        let shared = Arc::clone(&shared);
        forward(fate, move |copy| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let _ = shared.listener.send_to(&copy, client).await;
            })
        });
    }
}
