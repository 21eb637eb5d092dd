//! A gateway on a bad network: whatever the network does, every frame is delivered, in order and without a hole, and
//! what was acknowledged is durable.
//!
//! `WEATHER_SEED` sets the seed of the first run, `WEATHER_RUNS` how many; each run prints its seed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ingest::IngestLimits;
use ingest::client::{Client, ClientConfig};
use kit::SplitMix64;
use storage_format::SpoolId;
use tokio::task::JoinSet;

use crate::house::{House, LONG, Running, readings, sequence, until, within};
use crate::network::{Gate, Network, Weather};
use crate::pki::Issued;
use crate::sink::{MemorySink, Mode};

const IDLE: Duration = Duration::from_millis(700);

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

fn house() -> House {
    let mut house = House::new();
    house.limits = IngestLimits { idle_timeout: 2 * IDLE, ..IngestLimits::default() };
    house
}

fn config(house: &House, network: &Network, gateway: &Issued) -> ClientConfig {
    ClientConfig {
        patience: 4 * LONG,
        idle_timeout: IDLE,
        keep_alive: IDLE / 4,
        connect_timeout: IDLE,
        // Little, so that sending waits for answers, and the network has its time.
        spool_bytes_max: 8 << 10,
        pause_max: IDLE / 4,
        ..house.config(network.addr(), gateway)
    }
}

/// Numbers in the order in which they were first kept: all from 1 on, and none before those before it.
fn without_a_hole(house: &House, id: SpoolId, frames: u64) -> usize {
    let kept = house.disk.sequences(id);
    let mut seen = BTreeSet::new();
    let first: Vec<u64> = kept.iter().copied().filter(|number| seen.insert(*number)).collect();
    assert_eq!(first, (1..=frames).collect::<Vec<u64>>(), "first deliveries");
    kept.len() - first.len()
}

/// Asserts for as long as the test runs that what a client takes for acknowledged is on the disk.
fn watch(house: &House, client: &Client) -> tokio::task::JoinHandle<()> {
    let (disk, mut progress, id) = (Arc::clone(&house.disk), client.progress(), client.spool());
    tokio::spawn(async move {
        loop {
            let acknowledged = progress.borrow_and_update().acknowledged_frames;
            let kept: BTreeSet<u64> = disk.sequences(id).into_iter().collect();
            // Nothing is refused here: so many acknowledged frames are the first so many.
            assert!((1..=acknowledged).all(|number| kept.contains(&number)), "{acknowledged} acknowledged, not kept");
            if progress.changed().await.is_err() {
                return;
            }
        }
    })
}

/// Makes frames durable some time after they were taken, as a disk does.
struct SlowDisk {
    /// Nothing becomes durable meanwhile.
    stalls: AtomicBool,
    ends: AtomicBool,
}

fn slow_disk(sink: &Arc<MemorySink>, seed: u64) -> Arc<SlowDisk> {
    let disk = Arc::new(SlowDisk { stalls: AtomicBool::new(false), ends: AtomicBool::new(false) });
    let (sink, shared) = (Arc::clone(sink), Arc::clone(&disk));
    tokio::spawn(async move {
        let mut draw = SplitMix64::new(seed);
        while !shared.ends.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(draw.below(10))).await;
            if !shared.stalls.load(Ordering::Relaxed) {
                sink.commit(usize::try_from(draw.below(20)).expect("small"));
            }
        }
        sink.set(Mode::Keeps);
    });
    disk
}

async fn storm(network: &Network, disk: &SlowDisk, draw: &mut SplitMix64) {
    let mut weather = || Weather {
        lost_per_mille: draw.below(150),
        doubled_per_mille: draw.below(100),
        damaged_per_mille: draw.below(60),
        late_per_mille: draw.below(300),
        delay_ms_max: 1 + draw.below(40),
    };
    let (up, down) = (weather(), weather());
    network.rule(|rules| (rules.up, rules.down) = (up, down));
    match draw.below(8) {
        0 => network.rebind(),
        kind @ 1..=3 => {
            // Cut off for about as long as either end waits; in one direction only, or in both.
            let gate = |shut| if shut { Gate::Shut } else { Gate::Open };
            // In half of the cases the client is back before what it had sent is durable.
            disk.stalls.store(draw.below(2) == 0, Ordering::Relaxed);
            network.rule(|rules| (rules.gate_up, rules.gate_down) = (gate(kind != 1), gate(kind != 2)));
            tokio::time::sleep(IDLE / 2 + Duration::from_millis(draw.below(1200))).await;
            network.rule(|rules| (rules.gate_up, rules.gate_down) = (Gate::Open, Gate::Open));
            if draw.below(2) == 0 {
                network.rebind();
            }
            tokio::time::sleep(IDLE / 2).await;
            disk.stalls.store(false, Ordering::Relaxed);
        }
        _ => {}
    }
    tokio::time::sleep(Duration::from_millis(100 + draw.below(200))).await;
}

async fn run(seed: u64) {
    let house = house();
    let gateway = house.enrolled(1);
    let sink = house.sink(60, Mode::Waits);
    let server = house.serve(&sink);
    let disk = slow_disk(&sink, seed ^ 1);
    let network = Arc::new(Network::before(server.addr(), seed).await);
    let mut client = within(Client::connect(config(&house, &network, &gateway))).await.expect("a client");
    let (id, watching) = (client.spool(), watch(&house, &client));
    let raging = {
        let (network, disk, mut draw) = (Arc::clone(&network), Arc::clone(&disk), SplitMix64::new(seed ^ 2));
        tokio::spawn(async move {
            loop {
                storm(&network, &disk, &mut draw).await;
            }
        })
    };
    let (mut draw, mut model) = (SplitMix64::new(seed ^ 3), Vec::new());
    let frames = 150;
    for index in 1..=frames {
        let count = 1 + usize::try_from(draw.below(200)).expect("small");
        let (logger, first) = (1 + draw.below(5), 1000 * usize::try_from(index).expect("small"));
        let mut builder = readings(logger, first, count);
        model.push(readings(logger, first, count).encode(id, sequence(index)));
        let sent = tokio::time::timeout(2 * LONG, client.send(&mut builder)).await.expect("in time").expect("sent");
        assert_eq!(sent, sequence(index));
        tokio::time::sleep(Duration::from_millis(draw.below(20))).await;
    }
    // The network recovers in the end; nothing promises more.
    raging.abort();
    let _ = raging.await;
    network.rule(|rules| *rules = crate::network::Rules::default());
    disk.ends.store(true, Ordering::Relaxed);
    let summary = tokio::time::timeout(2 * LONG, client.finish()).await.expect("in time").expect("all acknowledged");
    within(watching).await.expect("what is acknowledged is durable");
    assert_eq!((summary.acknowledged_frames, summary.refused_frames), (frames, 0));
    let repeats = without_a_hole(&house, id, frames);
    for (sent, kept) in model.iter().zip(house.disk.first_frames(id)) {
        assert_eq!(*sent, kept, "byte for byte");
    }
    let (through, stopped) = network.counts();
    println!(
        "seed {seed}: {} reconnects, {repeats} repeats, {through} datagrams through, {stopped} lost",
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
    let house = house();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(60, Mode::Keeps));
    let network = Network::before(server.addr(), 1).await;
    let mut client = within(Client::connect(config(&house, &network, &gateway))).await.expect("a client");
    let mut progress = client.progress();
    for index in 0..5 {
        within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
        within(progress.wait_for(|p| p.acknowledged_frames == index as u64 + 1)).await.expect("acknowledged");
        network.rebind();
    }
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (5, 0));
    assert!(house.disk.readings().values().all(|times| *times == 1));
}

/// Sends frames, makes them durable while no answer comes through, and waits until the client has lost its connection.
async fn durable_but_not_told(house: &House, server: &Running, sink: &Arc<MemorySink>) -> (Network, Client) {
    let gateway = house.enrolled(1);
    let network = Network::before(server.addr(), 1).await;
    let mut client = within(Client::connect(config(house, &network, &gateway))).await.expect("a client");
    for index in 0..10 {
        within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
    }
    until("all are taken", || sink.waiting() == 10).await;
    network.rule(|rules| rules.gate_down = Gate::Shut);
    sink.commit(10);
    let mut progress = client.progress();
    within(progress.wait_for(|p| !p.connected)).await.expect("told");
    assert_eq!(progress.borrow().acknowledged_frames, 0, "not a single answer came through");
    (network, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_lost_with_the_connection_are_told_by_the_next() {
    let house = house();
    let sink = house.sink(60, Mode::Waits);
    let server = house.serve(&sink);
    let (network, client) = durable_but_not_told(&house, &server, &sink).await;
    network.rule(|rules| rules.gate_down = Gate::Open);
    let id = client.spool();
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 10);
    assert_eq!(without_a_hole(&house, id, 10), 0, "nothing is sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgot_the_spool_gets_everything_again() {
    let house = house();
    let sink = house.sink(60, Mode::Waits);
    let server = house.serve(&sink);
    let (network, client) = durable_but_not_told(&house, &server, &sink).await;
    // As one does that remembers the last few spools only.
    sink.forget();
    sink.set(Mode::Keeps);
    network.rule(|rules| rules.gate_down = Gate::Open);
    let id = client.spool();
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 10);
    assert_eq!(without_a_hole(&house, id, 10), 10, "each once more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_until_its_answers_have_arrived() {
    let house = house();
    let gateway = house.enrolled(1);
    let sink = house.sink(60, Mode::Waits);
    let server = house.serve(&sink);
    let network = Network::before(server.addr(), 1).await;
    let mut client = within(Client::connect(config(&house, &network, &gateway))).await.expect("a client");
    for index in 0..10 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    until("all are taken", || sink.waiting() == 10).await;
    let progress = client.progress();
    // What leaves first is lost, and has to be sent once more before the connection is closed.
    network.rule(|rules| rules.gate_down = Gate::Shut);
    let ending = tokio::spawn(server.shutdown(LONG));
    sink.set(Mode::Keeps);
    tokio::time::sleep(IDLE / 4).await;
    network.rule(|rules| rules.gate_down = Gate::Open);
    within(ending).await.expect("no panic");
    until("the answers arrive", || progress.borrow().acknowledged_frames == 10).await;
    within(client.finish()).await.expect("all acknowledged");
}
