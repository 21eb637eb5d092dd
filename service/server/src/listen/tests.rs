//! Connections over real sockets: half a header, too many at once, a peer that stops reading, and the server's stop.

use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::routing::get;
use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

/// Long enough for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

async fn serving(router: Router, connections_max: usize) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    let config = HttpConfig { connections_max, header_timeout: SHORT, stall_timeout: SHORT, ..crate::tests::config() };
    let (stop, stopped) = watch::channel(false);
    (addr, stop, tokio::spawn(serve(listener, router, config, stopped)))
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// All that comes until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    // A reset is an end as well.
    let _ = read.is_ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn half_a_header_is_cut() {
    let (addr, _stop, _task) = serving(hello(), 8).await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.expect("sent");
    assert!(!rest(&mut stream).await.contains("hello"));
    assert!(start.elapsed() >= SHORT, "not before its time");
}

#[tokio::test]
async fn past_the_bound_connections_wait_their_turn() {
    let (addr, _stop, _task) = serving(hello(), 1).await;
    let start = Instant::now();
    let mut first = TcpStream::connect(addr).await.expect("connected");
    first.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    let mut second = TcpStream::connect(addr).await.expect("the kernel takes it");
    second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    assert!(rest(&mut second).await.contains("hello"));
    assert!(start.elapsed() >= SHORT, "it waited until the first was cut");
}

#[tokio::test]
async fn a_peer_that_stops_reading_loses_its_connection() {
    let (alive, mut gone) = mpsc::channel::<()>(1);
    let endless = move || {
        let alive = alive.clone();
        async move {
            Body::from_stream(stream::repeat_with(move || {
                let _held = &alive;
                Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 65_536]))
            }))
        }
    };
    let (addr, stop, task) = serving(Router::new().route("/", get(endless)), 8).await;
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    assert!(stream.read_u8().await.is_ok(), "the answer begins");
    stop.send_replace(true);
    timeout(PATIENCE, task).await.expect("the stop does not wait for it").expect("no panic");
    assert!(timeout(PATIENCE, gone.recv()).await.expect("the answer is dropped").is_none());
    assert!(!rest(&mut stream).await.ends_with("0\r\n\r\n"), "what is cut off does not look whole");
}

#[tokio::test]
async fn a_stop_lets_answers_end_and_idle_connections_go() {
    let slow = || async {
        sleep(SHORT).await;
        "slow"
    };
    let (addr, stop, task) = serving(Router::new().route("/", get(slow)), 8).await;
    let _idle = TcpStream::connect(addr).await.expect("connected");
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    sleep(SHORT / 3).await;
    stop.send_replace(true);
    assert!(rest(&mut stream).await.ends_with("slow"));
    timeout(PATIENCE, task).await.expect("stopped").expect("no panic");
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens");
}
