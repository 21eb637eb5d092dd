//! Very many of everything: streams that say nothing, connections that do nothing, and all of them coming back at once,
//! while a gateway goes on sending and has its answers.
//!
//! `HOSTILE_STREAMS` and `HOSTILE_CONNECTIONS` set how many; what is measured is printed (`--nocapture`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ingest::client::Summary;
use ingest::protocol::{ALPN, Message};
use kit::SplitMix64;
use quinn::{ClientConfig, Endpoint};
use tokio::task::{JoinHandle, JoinSet};

use crate::house::{House, Running, readings, spool, until, within};
use crate::network::{Gate, Network};
use crate::pki::identity;
use crate::raw::{self, Raw};
use crate::sink::Mode;

fn count(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// This process's memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap_or(0) << 10
}

/// Their numbers, past those of the crowd.
const STEADY: u64 = 1_000_000;

/// A gateway that sends a frame every so often and waits for its answer. Tells the longest wait.
struct Steady {
    number: u64,
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Summary, Duration)>,
}

impl Steady {
    async fn start(house: &House, addr: SocketAddr, number: u64) -> Self {
        let gateway = house.enrolled(STEADY + number);
        let mut client = house.client(addr, &gateway).await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut progress, mut longest) = (client.progress(), Duration::ZERO);
            for index in 0.. {
                let started = Instant::now();
                within(client.send(&mut readings(1, index, 1))).await.expect("sent");
                within(progress.wait_for(|p| p.acknowledged_frames == index as u64 + 1)).await.expect("acknowledged");
                longest = longest.max(started.elapsed());
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (within(client.finish()).await.expect("all acknowledged"), longest)
        });
        Self { number, stop, task }
    }

    async fn stop(self, house: &House) {
        self.stop.store(true, Ordering::Relaxed);
        let (summary, longest) = within(self.task).await.expect("no panic");
        println!("meanwhile {} frames, the longest answer took {longest:?}", summary.acknowledged_frames);
        assert_eq!(summary.refused_frames, 0);
        let gateway = identity(STEADY + self.number).gateway.get();
        let kept = house.disk.readings().into_keys().filter(|(from, ..)| *from == gateway).count();
        assert_eq!(kept as u64, summary.acknowledged_frames);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_say_next_to_nothing() {
    let streams = count("HOSTILE_STREAMS", 4000);
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let steady = Steady::start(&house, server.addr(), 1).await;
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    let (before, started) = (resident_bytes(), Instant::now());
    let open = Message::Open { spool: spool(1) }.to_bytes();
    for number in 0..streams {
        let (mut send, mut receive) = within(raw.connection.open_bi()).await.expect("a stream");
        let bytes: &[u8] = match number % 5 {
            0 | 1 => &[],
            2 | 3 => &open[..1],
            _ => &open,
        };
        within(send.write_all(bytes)).await.expect("written");
        if number % 2 == 0 {
            let _ = send.finish();
        } else {
            let _ = send.reset(0_u32.into());
        }
        // Nobody listens to what is answered.
        let _ = receive.stop(0_u32.into());
    }
    let took = started.elapsed();
    let grown = resident_bytes().saturating_sub(before);
    println!("{streams} streams in {took:?}: {:.0} a second; {grown} bytes more", streams as f64 / took.as_secs_f64());
    // The connection that did it still works, and has every stream that it may have: none of those before is left. QUIC
    // tells of free ones once an eighth of them is free.
    let (most, mut all) = (house.limits.streams_max, Vec::new());
    for number in 1..=u64::from(most - most / 8) {
        all.push(raw.opened(spool(number)).await);
    }
    steady.stop(&house).await;
    assert_eq!(server.frame_memory()[1..], [0; 2]);
}

/// One TLS configuration for each gateway, and so many gateways that each stays within its connections.
fn crowd(house: &House, connections: usize) -> Vec<ClientConfig> {
    let gateways = connections.div_ceil(house.limits.connections_per_gateway_max);
    (1..=gateways as u64).map(|number| raw::client_config(&house.ca, Some(&house.enrolled(number)), ALPN)).collect()
}

/// Connects all at once, each trying again for as long as it is told to come again, as a gateway does.
async fn connect_all(endpoint: &Endpoint, crowd: &[ClientConfig], addr: SocketAddr, connections: usize) -> Vec<Raw> {
    let mut coming = JoinSet::new();
    for number in 0..connections {
        let (endpoint, config) = (endpoint.clone(), crowd[number % crowd.len()].clone());
        coming.spawn(async move {
            let mut draw = SplitMix64::new(number as u64);
            loop {
                if let Ok(raw) = raw::connect_over(&endpoint, config.clone(), addr).await {
                    // A connection too many is told only after the handshake, by a close in place of a welcome.
                    if raw.connection.accept_uni().await.is_ok() {
                        return raw;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50 + draw.below(950))).await;
            }
        });
    }
    let patience = Duration::from_secs(60) + Duration::from_millis(20) * u32::try_from(connections).expect("few");
    tokio::time::timeout(patience, coming.join_all()).await.expect("all are connected")
}

fn house_for(connections: usize) -> House {
    let mut house = House::new();
    house.limits.connections_max = 2 * connections + 100;
    house
}

fn tell(what: &str, connections: usize, started: Instant, before: usize) {
    let (took, grown) = (started.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "{connections} {what} in {took:?}: {:.0} a second; {} bytes each, both ends",
        connections as f64 / took.as_secs_f64(),
        grown / connections
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_and_all_come_back_at_once() {
    let connections = count("HOSTILE_CONNECTIONS", 200);
    let house = house_for(connections);
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let crowd = crowd(&house, connections);
    let steady = Steady::start(&house, server.addr(), 1).await;
    let (before, started) = (resident_bytes(), Instant::now());
    let mut endpoint = raw::endpoint();
    let mut all = connect_all(&endpoint, &crowd, server.addr(), connections).await;
    tell("connections", connections, started, before);
    // In the crush some attempts were begun twice; the half-open ones end by themselves.
    until("all are connected and nobody else", || server.connections() == connections + 1).await;
    assert_eq!(server.frame_memory(), [house.limits.connection_window_bytes as usize - (64 << 10), 0, 0], "one sends");
    steady.stop(&house).await;

    // They leave with a word, and come back at once.
    let steady = Steady::start(&house, server.addr(), 2).await;
    for _ in 0..2 {
        let (before, started) = (resident_bytes(), Instant::now());
        endpoint.close(0_u32.into(), b"");
        drop(all);
        endpoint = raw::endpoint();
        all = connect_all(&endpoint, &crowd, server.addr(), connections).await;
        tell("came back", connections, started, before);
    }
    until("those that left are forgotten", || server.connections() == connections + 1).await;
    steady.stop(&house).await;
    until("and the steady one too", || server.connections() == connections).await;
}

async fn vanish(house: &House, server: &Running, crowd: &[ClientConfig], connections: usize) {
    let network = Network::before(server.addr(), 1).await;
    let lost = connect_all(&raw::endpoint(), crowd, network.addr(), connections).await;
    let steady = Steady::start(house, server.addr(), 1).await;
    // Without a word: to the server they are still there, until they have been silent for too long.
    network.rule(|rules| (rules.gate_up, rules.gate_down) = (Gate::Shut, Gate::Shut));
    let (endpoint, started) = (raw::endpoint(), Instant::now());
    let back = connect_all(&endpoint, crowd, server.addr(), connections).await;
    println!("{connections} vanished, and were back in {:?}", started.elapsed());
    steady.stop(house).await;
    until("the vanished are forgotten", || server.connections() == connections).await;
    assert!(back.iter().all(|raw| raw.connection.close_reason().is_none()));
    drop(lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_vanish_come_back_beside_what_is_left_of_them() {
    let connections = 100;
    let mut house = house_for(connections);
    house.limits.idle_timeout = Duration::from_secs(3);
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let crowd = crowd(&house, connections);
    vanish(&house, &server, &crowd, connections).await;
}
