//! Very many streams that send nothing, and connections that do nothing and all reconnect at once, while a gateway
//! keeps sending and gets its responses.
//!
//! `HOSTILE_STREAMS` and `HOSTILE_CONNECTIONS` set the numbers; the measurements are printed (`--nocapture`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ingest::client::Summary;
use ingest::protocol::{ALPN, Message};
use kit::SplitMix64;
use quinn::{ClientConfig, Endpoint};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::{Harness, TestServer, readings, spool, wait_until, within};
use crate::network::{Gate, Network};
use crate::pki::identity;
use crate::raw::{self, Raw};
use crate::sink::Mode;

/// Returns the number in an environment variable, or a default.
fn count(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Returns the resident memory of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap_or(0) << 10
}

/// First number of the steady gateways, above those of the crowd.
const STEADY_FIRST: u64 = 1_000_000;

/// A gateway that sends a frame at an interval, waits for its response, and measures the longest wait.
struct SteadyGateway {
    number: u64,
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Summary, Duration)>,
}

impl SteadyGateway {
    async fn start(harness: &Harness, addr: SocketAddr, number: u64) -> Self {
        let gateway = harness.enrolled(STEADY_FIRST + number);
        let mut client = harness.client(addr, &gateway).await;
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

    async fn stop(self, harness: &Harness) {
        self.stop.store(true, Ordering::Relaxed);
        let (summary, longest) = within(self.task).await.expect("no panic");
        println!("meanwhile {} frames, the slowest response took {longest:?}", summary.acknowledged_frames);
        assert_eq!(summary.refused_frames, 0);
        let gateway = identity(STEADY_FIRST + self.number).gateway.get();
        let stored = harness.disk.readings().into_keys().filter(|(from, ..)| *from == gateway).count();
        assert_eq!(stored as u64, summary.acknowledged_frames);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_that_send_almost_nothing() {
    let streams = count("HOSTILE_STREAMS", 4000);
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let steady = SteadyGateway::start(&harness, server.addr(), 1).await;
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
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
        // The client reads no response.
        let _ = receive.stop(0_u32.into());
    }
    let took = started.elapsed();
    let grown = resident_bytes().saturating_sub(before);
    println!("{streams} streams in {took:?}: {:.0} a second; {grown} bytes more", streams as f64 / took.as_secs_f64());
    // The connection still works, and can open all its streams, because none of those before is left. QUIC announces
    // free streams once an eighth of them is free.
    let (streams_max, mut all) = (harness.limits.streams_max, Vec::new());
    for number in 1..=u64::from(streams_max - streams_max / 8) {
        all.push(raw.open_stream(spool(number)).await);
    }
    steady.stop(&harness).await;
    assert_eq!(server.frame_memory()[1..], [0; 2]);
}

/// Returns one TLS configuration for each gateway, with enough gateways that each stays within its limit of
/// connections.
fn crowd(harness: &Harness, connections: usize) -> Vec<ClientConfig> {
    let gateways = connections.div_ceil(harness.limits.connections_per_gateway_max);
    (1..=gateways as u64).map(|number| raw::client_config(&harness.ca, Some(&harness.enrolled(number)), ALPN)).collect()
}

/// Opens all connections at once; each is retried until it is accepted, as a gateway does.
async fn connect_all(endpoint: &Endpoint, crowd: &[ClientConfig], addr: SocketAddr, connections: usize) -> Vec<Raw> {
    let mut attempts = JoinSet::new();
    for number in 0..connections {
        let (endpoint, config) = (endpoint.clone(), crowd[number % crowd.len()].clone());
        attempts.spawn(async move {
            let mut rng = SplitMix64::new(number as u64);
            loop {
                if let Ok(raw) = raw::connect_over(&endpoint, config.clone(), addr).await {
                    // A connection above the limit is closed only after the handshake, instead of a welcome.
                    if raw.connection.accept_uni().await.is_ok() {
                        return raw;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50 + rng.below(950))).await;
            }
        });
    }
    let patience = Duration::from_secs(60) + Duration::from_millis(20) * u32::try_from(connections).expect("few");
    tokio::time::timeout(patience, attempts.join_all()).await.expect("all are connected")
}

fn harness_for(connections: usize) -> Harness {
    let mut harness = Harness::new();
    harness.limits.connections_max = 2 * connections + 100;
    harness
}

fn print_rate(what: &str, connections: usize, started: Instant, before: usize) {
    let (took, grown) = (started.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "{connections} {what} in {took:?}: {:.0} a second; {} bytes each, both ends",
        connections as f64 / took.as_secs_f64(),
        grown / connections
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_reconnect_at_once() {
    let connections = count("HOSTILE_CONNECTIONS", 200);
    let harness = harness_for(connections);
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let crowd = crowd(&harness, connections);
    let steady = SteadyGateway::start(&harness, server.addr(), 1).await;
    let (before, started) = (resident_bytes(), Instant::now());
    let mut endpoint = raw::endpoint();
    let mut all = connect_all(&endpoint, &crowd, server.addr(), connections).await;
    print_rate("connections", connections, started, before);
    // Some attempts may have started twice under this load; the half-open ones end by themselves.
    wait_until("no other connection is left", || server.connections() == connections + 1).await;
    assert_eq!(
        server.frame_memory(),
        [harness.limits.connection_window_bytes as usize - (64 << 10), 0, 0],
        "one connection sends"
    );
    steady.stop(&harness).await;

    // All connections are closed and reconnect at once.
    let steady = SteadyGateway::start(&harness, server.addr(), 2).await;
    for _ in 0..2 {
        let (before, started) = (resident_bytes(), Instant::now());
        endpoint.close(0_u32.into(), b"");
        drop(all);
        endpoint = raw::endpoint();
        all = connect_all(&endpoint, &crowd, server.addr(), connections).await;
        print_rate("reconnected", connections, started, before);
    }
    wait_until("the closed connections are removed", || server.connections() == connections + 1).await;
    steady.stop(&harness).await;
    wait_until("the steady gateway is removed, too", || server.connections() == connections).await;
}

/// Blocks all connections without a close, and reconnects while the server still has the old ones.
async fn vanish(harness: &Harness, server: &TestServer, crowd: &[ClientConfig], connections: usize) {
    let network = Network::in_front_of(server.addr(), 1).await;
    let lost = connect_all(&raw::endpoint(), crowd, network.addr(), connections).await;
    let steady = SteadyGateway::start(harness, server.addr(), 1).await;
    // Without a close, the server keeps the connections until they have been silent for too long.
    network.set_rules(|rules| (rules.gate_up, rules.gate_down) = (Gate::Closed, Gate::Closed));
    let (endpoint, started) = (raw::endpoint(), Instant::now());
    let back = connect_all(&endpoint, crowd, server.addr(), connections).await;
    println!("{connections} vanished, and had reconnected after {:?}", started.elapsed());
    steady.stop(harness).await;
    wait_until("the vanished connections are removed", || server.connections() == connections).await;
    assert!(back.iter().all(|raw| raw.connection.close_reason().is_none()));
    drop(lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vanished_connections_reconnect_while_the_server_keeps_the_old_ones() {
    let connections = 100;
    let mut harness = harness_for(connections);
    harness.limits.idle_timeout = Duration::from_secs(3);
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let crowd = crowd(&harness, connections);
    vanish(&harness, &server, &crowd, connections).await;
}
