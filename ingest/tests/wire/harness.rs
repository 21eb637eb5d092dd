//! Common parts of the tests: clients, and a server in a runtime of its own that can be killed without a close.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ingest::client::{Client, ClientConfig, ClientError};
use ingest::{IngestLimits, NowFn, Server, ServerCertificate, ServerConfig, TimePolicy};
use storage_format::{ChannelCode, FrameBuilder, FrameSequence, LoggerId, Millis, SpoolId};

use crate::pki::{Ca, Directory, Issued, directory};
use crate::sink::{Disk, MemorySink, Mode, SinkPort};

/// Time limit of each step. It suffices for a machine with two busy cores; a passing test never waits so long.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// A certificate authority, a directory, a disk and a clock, from which servers and clients are created.
pub(crate) struct Harness {
    pub(crate) ca: Ca,
    pub(crate) directory: Arc<Directory>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) limits: IngestLimits,
    pub(crate) server: Issued,
    same_name: Ca,
    other_name: Ca,
    clock: Arc<AtomicI64>,
}

impl Harness {
    pub(crate) fn new() -> Self {
        let ca = Ca::new("icecore test CA");
        let limits = IngestLimits {
            open_timeout: Duration::from_millis(800),
            message_timeout: Duration::from_millis(800),
            recheck_interval: Duration::from_millis(100),
            ..IngestLimits::default()
        };
        Self {
            server: ca.server(),
            same_name: Ca::new("icecore test CA"),
            other_name: Ca::new("another CA"),
            ca,
            directory: directory(),
            disk: Arc::default(),
            limits,
            clock: Arc::new(AtomicI64::new(START_MS)),
        }
    }

    pub(crate) fn set_clock(&self, ms: i64) {
        self.clock.store(ms, Ordering::SeqCst);
    }

    /// Issues a certificate and enrolls it as the gateway with this number.
    pub(crate) fn enrolled(&self, number: u64) -> Issued {
        let issued = self.ca.gateway();
        self.directory.enroll(&issued, number);
        issued
    }

    pub(crate) fn sink(&self, capacity: usize, mode: Mode) -> Arc<MemorySink> {
        MemorySink::new(&self.disk, capacity, mode)
    }

    /// Issues certificates from two unknown CAs: one with the name of the harness's CA, one with another.
    pub(crate) fn foreign_certificates(&self) -> [Issued; 2] {
        [self.same_name.gateway(), self.other_name.gateway()]
    }

    pub(crate) fn now(&self) -> NowFn {
        let clock = Arc::clone(&self.clock);
        Arc::new(move || Millis::new(clock.load(Ordering::SeqCst)).expect("a time"))
    }

    pub(crate) fn serve(&self, sink: &Arc<MemorySink>) -> TestServer {
        self.serve_at((Ipv4Addr::LOCALHOST, 0).into(), sink)
    }

    pub(crate) fn serve_at(&self, addr: SocketAddr, sink: &Arc<MemorySink>) -> TestServer {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let config = ServerConfig {
            addr,
            tls: self.ca.server_tls(&self.server),
            limits: self.limits.clone(),
            times: TimePolicy::default(),
            now: self.now(),
        };
        let guard = runtime.enter();
        let sink = Arc::new(SinkPort(Arc::clone(sink)));
        let directory = Arc::clone(&self.directory) as Arc<dyn ingest::GatewayDirectory>;
        let server = Server::bind(config, sink, directory).expect("a server");
        drop(guard);
        TestServer { server: Some(server), runtime: Some(runtime) }
    }

    pub(crate) fn config(&self, addr: SocketAddr, issued: &Issued) -> ClientConfig {
        ClientConfig { patience: LONG, ..ClientConfig::new(addr.to_string(), issued.identity(&self.ca)) }
    }

    pub(crate) async fn client(&self, addr: SocketAddr, issued: &Issued) -> Client {
        within(Client::connect(self.config(addr, issued))).await.expect("a client")
    }

    /// Connects, expects a permanent error, and returns it.
    pub(crate) async fn expect_refusal(&self, addr: SocketAddr, issued: &Issued) -> ClientError {
        let started = Instant::now();
        let error = within(Client::connect(self.config(addr, issued))).await.expect_err("refused");
        assert!(started.elapsed() < LONG / 2, "at once, not when the patience ends");
        error
    }
}

/// A running server.
pub(crate) struct TestServer {
    server: Option<Server>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestServer {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.as_ref().expect("runs").local_addr()
    }

    pub(crate) fn certificate(&self) -> &ServerCertificate {
        self.server.as_ref().expect("runs").certificate()
    }

    pub(crate) fn connections(&self) -> usize {
        self.server.as_ref().expect("runs").connections()
    }

    pub(crate) fn frame_memory(&self) -> [usize; 3] {
        self.server.as_ref().expect("runs").frame_memory()
    }

    /// Stops the server as SIGKILL would: it sends no further packet. Returns once the port is free again.
    pub(crate) fn kill(mut self) -> SocketAddr {
        let addr = self.addr();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        drop(self.server.take());
        wait_until_free(addr);
        addr
    }

    /// Shuts the server down in order. Returns once the port is free again.
    pub(crate) async fn shutdown(mut self, grace: Duration) -> SocketAddr {
        let addr = self.addr();
        let (server, runtime) = (self.server.take().expect("runs"), self.runtime.take().expect("runs"));
        let ended = runtime.spawn(server.shutdown(grace));
        within(ended).await.expect("shuts down");
        runtime.shutdown_background();
        wait_until_free(addr);
        addr
    }
}

fn wait_until_free(addr: SocketAddr) {
    let started = Instant::now();
    while UdpSocket::bind(addr).is_err() {
        assert!(started.elapsed() < LONG, "the port does not become free");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Awaits a future, and panics after [`LONG`].
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("in time")
}

/// Waits until a condition holds, and panics after [`LONG`].
pub(crate) async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn sequence(number: u64) -> FrameSequence {
    FrameSequence::new(number)
}

/// Returns `count` readings of one logger, one a second, from second `first` on.
pub(crate) fn readings(logger: u64, first: usize, count: usize) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    let channel = ChannelCode::new(1).expect("temperature");
    for index in first..first + count {
        let time = Millis::new(START_MS - 1_000_000_000 + 1000 * i64::try_from(index).expect("few")).expect("a time");
        let value = 4.0 + (index as f64) / 16.0;
        builder.push(LoggerId::new(logger).expect("not zero"), time, &[(channel, value)]).expect("a reading");
    }
    builder
}

/// Returns one reading at this time.
pub(crate) fn reading_at(time_ms: i64) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    let (time, channel) = (Millis::new(time_ms).expect("a time"), ChannelCode::new(1).expect("temperature"));
    builder.push(LoggerId::new(77).expect("not zero"), time, &[(channel, 1.5)]).expect("a reading");
    builder
}

/// Changes a frame's bytes and corrects its checksum.
pub(crate) fn altered(frame: &Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = frame.to_vec();
    let body = bytes.len() - 4;
    change(&mut bytes[..body]);
    let mut crc = !0_u32;
    for byte in &bytes[..body] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    bytes[body..].copy_from_slice(&(!crc).to_le_bytes());
    bytes.into()
}

pub(crate) fn spool(number: u64) -> SpoolId {
    SpoolId::new(number).expect("not zero")
}
