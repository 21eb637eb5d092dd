//! Strangers who flood the server with the beginnings of connections: what they hold is bounded, and gateways still
//! get in.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ingest::client::Client;
use ingest::protocol::ALPN;
use kit::SplitMix64;
use quinn::{ConnectionError, Endpoint, TransportErrorCode};
use tokio::task::JoinSet;

use crate::house::{House, readings, until, within};
use crate::network::{Gate, Network};
use crate::pki::{Issued, SERVER_NAME};
use crate::raw;
use crate::sink::Mode;

const PLACES: usize = 32;

/// A server with few places for handshakes, where a half-open one would hold its place for longer than a test waits.
fn house() -> (House, Issued) {
    let mut house = House::new();
    house.limits.handshakes_max = PLACES;
    house.limits.handshake_timeout = Duration::from_secs(300);
    // Fast enough that the places are what is short, unless a test says otherwise.
    house.limits.handshakes_per_second_max = 1000;
    let gateway = house.enrolled(1);
    (house, gateway)
}

/// All at once, each once only: tells how many of them were taken; the others were told to come again, and nothing else.
async fn taken_at_once(house: &House, addr: SocketAddr, gateway: &Issued, count: usize) -> usize {
    let (endpoint, config) = (raw::endpoint(), raw::client_config(&house.ca, Some(gateway), ALPN));
    let mut coming = JoinSet::new();
    for _ in 0..count {
        let (endpoint, config) = (endpoint.clone(), config.clone());
        coming.spawn(async move { raw::connect_over(&endpoint, config, addr).await });
    }
    let ended = within(coming.join_all()).await;
    for error in ended.iter().filter_map(|connected| connected.as_ref().err()) {
        let refused = matches!(error, ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED);
        assert!(refused, "{error}");
    }
    ended.iter().filter(|connected| connected.is_ok()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_are_begun_at_a_pace_and_those_that_would_wait_in_vain_are_refused() {
    let (mut house, gateway) = house();
    house.limits.handshakes_per_second_max = 5;
    house.limits.connections_per_gateway_max = 1000;
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let started = Instant::now();
    let taken = taken_at_once(&house, server.addr(), &gateway, 60).await;
    let most = 2 + 5 * started.elapsed().as_secs() + 5;
    assert!(taken as u64 <= most, "{taken} handshakes, and at most {most} were due");
    assert!(taken >= 2, "some waited for their turn: {taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_behind_one_address_comes_back_without_a_refusal() {
    let (mut house, gateway) = house();
    // Fewer places than come, and few for one network while half are taken.
    house.limits.handshakes_max = 64;
    house.limits.handshakes_per_second_max = 100;
    house.limits.connections_per_gateway_max = 1000;
    let server = house.serve(&house.sink(10, Mode::Keeps));
    assert_eq!(taken_at_once(&house, server.addr(), &gateway, 100).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_has_its_part_goes_on_as_its_own_handshakes_end() {
    let (mut house, gateway) = house();
    // It gets two of them at a time, and nobody else comes.
    house.limits.handshakes_max = 4;
    let server = house.serve(&house.sink(10, Mode::Keeps));
    assert_eq!(taken_at_once(&house, server.addr(), &gateway, 12).await, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_network_cannot_take_every_turn() {
    let (mut house, gateway) = house();
    // Twenty wait at most.
    house.limits.handshakes_per_second_max = 10;
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let network = Network::from(Ipv4Addr::new(127, 0, 2, 4), server.addr(), 1).await;
    network.rule(|rules| rules.gate_down = Gate::RetriesOnly);
    let _flood = begin(&house, &network, 200);
    // Its attempts, the retries, the attempts with a proof; and the refusals, which do not stop them.
    until("more wait than there is room for", || network.counts().0 + network.counts().1 >= 700).await;
    for _ in 0..3 {
        // At its first attempt: a place among those who wait, and the next turn.
        assert_eq!(taken_at_once(&house, server.addr(), &gateway, 1).await, 1);
    }
}

/// Begins so many connections through a network. What begins them goes on sending for as long as it is kept.
fn begin(house: &House, network: &Network, count: usize) -> (Endpoint, Vec<quinn::Connecting>) {
    let endpoint = raw::endpoint();
    let config = raw::client_config(&house.ca, None, ALPN);
    let begun = (0..count)
        .map(|_| endpoint.connect_with(config.clone(), network.addr(), SERVER_NAME).expect("an attempt"))
        .collect();
    (endpoint, begun)
}

async fn honest_one_gets_through(house: &House, addr: SocketAddr, gateway: &Issued) {
    let mut client = within(Client::connect(house.config(addr, gateway))).await.expect("a client");
    within(client.send(&mut readings(1, 0, 3))).await.expect("sent");
    let summary = within(client.finish()).await.expect("acknowledged");
    assert_eq!(summary.acknowledged_readings, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_addresses_get_no_more_than_half_of_the_places() {
    let (house, gateway) = house();
    let server = house.serve(&house.sink(10, Mode::Keeps));
    // From forty networks, none of which hears a word of what the server answers.
    let mut flood = Vec::new();
    for number in 1..=40 {
        let network = Network::from(Ipv4Addr::new(127, 0, 1, number), server.addr(), 1).await;
        network.rule(|rules| rules.gate_down = Gate::Shut);
        flood.push((begin(&house, &network, 5), network));
    }
    let heard = || flood.iter().map(|(_, network)| network.counts()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    until("every attempt arrived and had an answer", || heard().0 >= 200 && heard().1 >= 200).await;
    assert!(server.connections() >= PLACES / 2, "{}", server.connections());
    assert!(server.connections() <= PLACES / 2 + 1, "{} places for strangers", server.connections());
    honest_one_gets_through(&house, server.addr(), &gateway).await;
    assert!(server.connections() <= PLACES / 2 + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_network_cannot_take_every_place() {
    let (house, gateway) = house();
    let server = house.serve(&house.sink(10, Mode::Keeps));
    // It proves its address, and then goes silent: handshakes that are begun and never go on.
    let network = Network::from(Ipv4Addr::new(127, 0, 2, 1), server.addr(), 1).await;
    network.rule(|rules| rules.gate_down = Gate::RetriesOnly);
    let mut flood = Vec::new();
    for _ in 0..4 {
        flood.push(begin(&house, &network, 50));
    }
    until("half of the places are taken", || server.connections() >= PLACES / 2).await;
    until("every attempt had an answer", || network.counts().0 + network.counts().1 >= 500).await;
    for _ in 0..5 {
        honest_one_gets_through(&house, server.addr(), &gateway).await;
        assert!(server.connections() < PLACES, "{}", server.connections());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_never_goes_on_gives_its_place_back() {
    let (mut house, gateway) = house();
    house.limits.handshake_timeout = Duration::from_millis(500);
    house.limits.idle_timeout = Duration::from_secs(300);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let network = Network::from(Ipv4Addr::new(127, 0, 2, 2), server.addr(), 1).await;
    network.rule(|rules| rules.gate_down = Gate::Shut);
    let flood = begin(&house, &network, 10);
    until("places are taken", || server.connections() > 0).await;
    until("they are free again", || server.connections() == 0).await;
    network.rule(|rules| rules.gate_up = Gate::Shut);
    drop(flood);
    honest_one_gets_through(&house, server.addr(), &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_makes_no_connection() {
    let (house, gateway) = house();
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::new(127, 0, 2, 3), 0)).await.expect("a socket");
    let mut draw = SplitMix64::new(7);
    for number in 0..5000_u32 {
        let length = draw.pick(&[1, 20, 60, 300, 1200, 1452]);
        let mut datagram: Vec<u8> = (0..length).map(|_| draw.any().to_le_bytes()[0]).collect();
        if length >= 300 {
            // An Initial packet of version 1, an Initial of a version that does not exist, a short header.
            let head: &[u8] = match number % 3 {
                0 => &[0xC3, 0, 0, 0, 1, 8],
                1 => &[0xC0, 0xFA, 0xCE, 0xB0, 0x0C, 8],
                _ => &[0x40],
            };
            datagram[..head.len()].copy_from_slice(head);
        }
        let _ = socket.send_to(&datagram, server.addr()).await;
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.connections(), 0);
    honest_one_gets_through(&house, server.addr(), &gateway).await;
}
