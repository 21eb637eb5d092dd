//! A gateway on a bad network: whatever the network does, every frame is delivered, in order and without a gap, and
//! acknowledged frames are durable.
//!
//! `WEATHER_SEED` sets the seed of the first run, `WEATHER_RUNS` the number of runs; each run prints its seed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ingest::IngestLimits;
use ingest::client::{Client, ClientConfig};
use kit::SplitMix64;
use storage_format::SpoolId;
use tokio::task::JoinSet;

use crate::harness::{Harness, LONG, TestServer, readings, sequence, wait_until, within};
use crate::network::{Gate, Impairments, Network};
use crate::pki::Issued;
use crate::sink::{MemorySink, Mode};

const IDLE: Duration = Duration::from_millis(700);

/// Returns the number in an environment variable, or a default.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn harness() -> Harness {
    let mut harness = Harness::new();
    harness.limits = IngestLimits { idle_timeout: 2 * IDLE, ..IngestLimits::default() };
    harness
}

fn config(harness: &Harness, network: &Network, gateway: &Issued) -> ClientConfig {
    ClientConfig {
        patience: 4 * LONG,
        idle_timeout: IDLE,
        keep_alive: IDLE / 4,
        connect_timeout: IDLE,
        // Small, so that sending waits for responses, and the network has time to interfere.
        spool_bytes_max: 8 << 10,
        pause_max: IDLE / 4,
        ..harness.config(network.addr(), gateway)
    }
}

/// Checks that the sequence numbers were first stored in order and without a gap, from 1 on. Returns the number of
/// repeated frames.
fn check_order(harness: &Harness, id: SpoolId, frames: u64) -> usize {
    let stored = harness.disk.sequences(id);
    let mut seen = BTreeSet::new();
    let first: Vec<u64> = stored.iter().copied().filter(|number| seen.insert(*number)).collect();
    assert_eq!(first, (1..=frames).collect::<Vec<u64>>(), "first deliveries");
    stored.len() - first.len()
}

/// Asserts during the whole test that the frames which a client considers acknowledged are on the disk.
fn watch(harness: &Harness, client: &Client) -> tokio::task::JoinHandle<()> {
    let (disk, mut progress, id) = (Arc::clone(&harness.disk), client.progress(), client.spool());
    tokio::spawn(async move {
        loop {
            let acknowledged = progress.borrow_and_update().acknowledged_frames;
            let stored: BTreeSet<u64> = disk.sequences(id).into_iter().collect();
            // No frame is refused here, so the acknowledged frames are the first ones.
            assert!(
                (1..=acknowledged).all(|number| stored.contains(&number)),
                "{acknowledged} acknowledged, not stored"
            );
            if progress.changed().await.is_err() {
                return;
            }
        }
    })
}

/// Makes frames durable some time after they were accepted, as a disk does.
struct SlowDisk {
    /// While set, no frame becomes durable.
    stalls: AtomicBool,
    /// Ends the task, and makes all frames durable at once from then on.
    ends: AtomicBool,
}

fn slow_disk(sink: &Arc<MemorySink>, seed: u64) -> Arc<SlowDisk> {
    let disk = Arc::new(SlowDisk { stalls: AtomicBool::new(false), ends: AtomicBool::new(false) });
    let (sink, shared) = (Arc::clone(sink), Arc::clone(&disk));
    tokio::spawn(async move {
        let mut rng = SplitMix64::new(seed);
        while !shared.ends.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(rng.below(10))).await;
            if !shared.stalls.load(Ordering::Relaxed) {
                sink.commit(usize::try_from(rng.below(20)).expect("small"));
            }
        }
        sink.set(Mode::Immediate);
    });
    disk
}

/// Changes the network once, at random.
async fn disturb(network: &Network, disk: &SlowDisk, rng: &mut SplitMix64) {
    let mut impairments = || Impairments {
        lost_per_mille: rng.below(150),
        duplicated_per_mille: rng.below(100),
        damaged_per_mille: rng.below(60),
        late_per_mille: rng.below(300),
        delay_ms_max: 1 + rng.below(40),
    };
    let (up, down) = (impairments(), impairments());
    network.set_rules(|rules| (rules.up, rules.down) = (up, down));
    match rng.below(8) {
        0 => network.rebind(),
        kind @ 1..=3 => {
            // The network is cut for about as long as either end waits, in one direction or in both.
            let gate = |closed| if closed { Gate::Closed } else { Gate::Open };
            // In half of the cases the client reconnects before the frames that it had sent are durable.
            disk.stalls.store(rng.below(2) == 0, Ordering::Relaxed);
            network.set_rules(|rules| (rules.gate_up, rules.gate_down) = (gate(kind != 1), gate(kind != 2)));
            tokio::time::sleep(IDLE / 2 + Duration::from_millis(rng.below(1200))).await;
            network.set_rules(|rules| (rules.gate_up, rules.gate_down) = (Gate::Open, Gate::Open));
            if rng.below(2) == 0 {
                network.rebind();
            }
            tokio::time::sleep(IDLE / 2).await;
            disk.stalls.store(false, Ordering::Relaxed);
        }
        _ => {}
    }
    tokio::time::sleep(Duration::from_millis(100 + rng.below(200))).await;
}

async fn run(seed: u64) {
    let harness = harness();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(60, Mode::Manual);
    let server = harness.serve(&sink);
    let disk = slow_disk(&sink, seed ^ 1);
    let network = Arc::new(Network::in_front_of(server.addr(), seed).await);
    let mut client = within(Client::connect(config(&harness, &network, &gateway))).await.expect("a client");
    let (id, watching) = (client.spool(), watch(&harness, &client));
    let disturbance = {
        let (network, disk, mut rng) = (Arc::clone(&network), Arc::clone(&disk), SplitMix64::new(seed ^ 2));
        tokio::spawn(async move {
            loop {
                disturb(&network, &disk, &mut rng).await;
            }
        })
    };
    let (mut rng, mut model) = (SplitMix64::new(seed ^ 3), Vec::new());
    let frames = 150;
    for index in 1..=frames {
        let count = 1 + usize::try_from(rng.below(200)).expect("small");
        let (logger, first) = (1 + rng.below(5), 1000 * usize::try_from(index).expect("small"));
        let mut builder = readings(logger, first, count);
        model.push(readings(logger, first, count).encode(id, sequence(index)));
        let sent = tokio::time::timeout(2 * LONG, client.send(&mut builder)).await.expect("in time").expect("sent");
        assert_eq!(sent, sequence(index));
        tokio::time::sleep(Duration::from_millis(rng.below(20))).await;
    }
    // The network recovers in the end, because a client promises nothing without one.
    disturbance.abort();
    let _ = disturbance.await;
    network.set_rules(|rules| *rules = crate::network::Rules::default());
    disk.ends.store(true, Ordering::Relaxed);
    let summary = tokio::time::timeout(2 * LONG, client.finish()).await.expect("in time").expect("all acknowledged");
    within(watching).await.expect("acknowledged frames are durable");
    assert_eq!((summary.acknowledged_frames, summary.refused_frames), (frames, 0));
    let repeats = check_order(&harness, id, frames);
    for (sent, stored) in model.iter().zip(harness.disk.first_frames(id)) {
        assert_eq!(*sent, stored, "byte for byte");
    }
    let (forwarded, dropped) = network.counts();
    println!(
        "seed {seed}: {} reconnects, {repeats} repeats, {forwarded} datagrams forwarded, {dropped} dropped",
        summary.reconnects
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_arrives_whatever_the_network_does() {
    let (seed, runs) = (number("WEATHER_SEED", 1), number("WEATHER_RUNS", 3));
    let mut all = JoinSet::new();
    for seed in seed..seed + runs {
        println!("seed {seed}");
        all.spawn(run(seed));
    }
    all.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_port_changes_keeps_its_connection() {
    let harness = harness();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(60, Mode::Immediate));
    let network = Network::in_front_of(server.addr(), 1).await;
    let mut client = within(Client::connect(config(&harness, &network, &gateway))).await.expect("a client");
    let mut progress = client.progress();
    for index in 0..5 {
        within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
        within(progress.wait_for(|p| p.acknowledged_frames == index as u64 + 1)).await.expect("acknowledged");
        network.rebind();
    }
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (5, 0));
    assert!(harness.disk.readings().values().all(|times| *times == 1));
}

/// Sends frames, makes them durable while no response arrives, and waits until the client has lost its connection.
async fn lose_the_responses(harness: &Harness, server: &TestServer, sink: &Arc<MemorySink>) -> (Network, Client) {
    let gateway = harness.enrolled(1);
    let network = Network::in_front_of(server.addr(), 1).await;
    let mut client = within(Client::connect(config(harness, &network, &gateway))).await.expect("a client");
    for index in 0..10 {
        within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
    }
    wait_until("all frames are accepted", || sink.waiting() == 10).await;
    network.set_rules(|rules| rules.gate_down = Gate::Closed);
    sink.commit(10);
    let mut progress = client.progress();
    within(progress.wait_for(|p| !p.connected)).await.expect("progress");
    assert_eq!(progress.borrow().acknowledged_frames, 0, "no response arrived");
    (network, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_lost_with_a_connection_are_replaced_by_opened() {
    let harness = harness();
    let sink = harness.sink(60, Mode::Manual);
    let server = harness.serve(&sink);
    let (network, client) = lose_the_responses(&harness, &server, &sink).await;
    network.set_rules(|rules| rules.gate_down = Gate::Open);
    let id = client.spool();
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 10);
    assert_eq!(check_order(&harness, id, 10), 0, "no frame is sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_are_sent_again_to_a_server_that_forgot_the_spool() {
    let harness = harness();
    let sink = harness.sink(60, Mode::Manual);
    let server = harness.serve(&sink);
    let (network, client) = lose_the_responses(&harness, &server, &sink).await;
    // As a server does that remembers only the last few spools.
    sink.forget_spools();
    sink.set(Mode::Immediate);
    network.set_rules(|rules| rules.gate_down = Gate::Open);
    let id = client.spool();
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 10);
    assert_eq!(check_order(&harness, id, 10), 10, "each frame once more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_until_its_responses_have_arrived() {
    let harness = harness();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(60, Mode::Manual);
    let server = harness.serve(&sink);
    let network = Network::in_front_of(server.addr(), 1).await;
    let mut client = within(Client::connect(config(&harness, &network, &gateway))).await.expect("a client");
    for index in 0..10 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    wait_until("all frames are accepted", || sink.waiting() == 10).await;
    let progress = client.progress();
    // The first packets are lost, and must be sent again before the connection is closed.
    network.set_rules(|rules| rules.gate_down = Gate::Closed);
    let ending = tokio::spawn(server.shutdown(LONG));
    sink.set(Mode::Immediate);
    tokio::time::sleep(IDLE / 4).await;
    network.set_rules(|rules| rules.gate_down = Gate::Open);
    within(ending).await.expect("no panic");
    wait_until("the responses arrive", || progress.borrow().acknowledged_frames == 10).await;
    within(client.finish()).await.expect("all acknowledged");
}
