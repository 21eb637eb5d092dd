//! A load that remembers nothing but counts: every reading can be computed from its seed, gateway and row number, so
//! what must be there, what may be there and what must never be there follows from two numbers for each gateway.
//!
//! Gateways send with the client library and keep sending over restarts of the server: new rows, earlier rows again
//! (their own and their neighbours'), and rows that are acknowledged with another value. Organisations use the same
//! loggers and times with values of their own, so that whatever crosses over shows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ingest::client::{Client, ClientConfig, Identity, Progress, Summary};
use kit::SplitMix64;
use storage_format::{ChannelCode, FrameBuilder, LoggerId, Millis};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::model::{self, Place};
use crate::server::{Icecore, Org, PATIENCE};

/// What a load is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) orgs: u8,
    pub(crate) gateways_per_org: u8,
    /// Rows in a frame: up to so many, and now and then twenty times as many.
    pub(crate) rows_max: u32,
    /// Of a hundred frames, so many hold rows that were sent before: they fill the log and add nothing to compare.
    pub(crate) repeats: u64,
    /// Do rows have values in the other channels, too? Nobody compares those; no encoding makes them smaller.
    pub(crate) bulky: bool,
    /// The longest pause between two frames of a gateway.
    pub(crate) pause_max: Duration,
    /// Bytes of frames that a gateway keeps waiting at most.
    pub(crate) spool_bytes_max: usize,
}

impl Shape {
    /// Two organisations of three gateways each, at a pace that a debug build keeps up with.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            orgs: 2,
            gateways_per_org: 3,
            rows_max: 60,
            repeats: 10,
            bulky: false,
            pause_max: Duration::from_millis(20),
            spool_bytes_max: 256 << 10,
        }
    }

    /// The same with rows that are mostly repeats, and as large as rows get: they fill the log, and leave little to
    /// compare.
    pub(crate) fn bulky(seed: u64) -> Self {
        Self { repeats: 85, bulky: true, pause_max: Duration::from_millis(5), ..Self::new(seed) }
    }
}

/// Rows of a gateway that were sent once more with another value.
#[derive(Debug, Clone, Copy)]
struct Forged {
    gateway: u8,
    row: u32,
    rows: u32,
}

/// What a gateway has given to its client.
#[derive(Debug, Default)]
struct Ledger {
    /// New rows: all of 0 to this.
    rows: u32,
    /// For each frame, how many new rows it and those before it have together.
    frames: Vec<u32>,
    forged: Vec<Forged>,
}

#[derive(Debug)]
struct Gateway {
    place: Place,
    ledger: Mutex<Ledger>,
    progress: watch::Receiver<Progress>,
}

impl Gateway {
    fn sent_rows(&self) -> u32 {
        self.ledger.lock().expect("no panic while held").rows
    }

    fn acked_frames(&self) -> usize {
        usize::try_from(self.progress.borrow().acknowledged_frames).expect("it fits")
    }

    /// Answers come in the order of the frames, and none is refused, so the count of frames tells the rows.
    fn acked_rows(&self) -> u32 {
        let frames = self.acked_frames();
        let ledger = self.ledger.lock().expect("no panic while held");
        frames.checked_sub(1).map_or(0, |last| ledger.frames[last])
    }
}

#[derive(Debug, Default)]
struct Switches {
    paused: AtomicBool,
    stopped: AtomicBool,
}

/// A load under way.
pub(crate) struct Load {
    shape: Shape,
    runtime: Runtime,
    orgs: Vec<(Org, Vec<Arc<Gateway>>)>,
    tasks: Vec<JoinHandle<Result<Summary, String>>>,
    switches: Arc<Switches>,
    /// Of each organisation: rows before these were found in an earlier look.
    seen: Vec<Vec<u32>>,
}

impl Load {
    /// Makes organisations and gateways on a running server and begins to send.
    pub(crate) fn begin(icecore: &Icecore, shape: Shape) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let switches = Arc::new(Switches::default());
        let mut dice = SplitMix64::new(shape.seed);
        let (mut orgs, mut tasks) = (Vec::new(), Vec::new());
        for org in 0..shape.orgs {
            let made = icecore.org(&format!("org-{org}"));
            let mut clients = Vec::new();
            let mut gateways = Vec::new();
            for gateway in 0..shape.gateways_per_org {
                let identity = icecore.enroll(&made.name, &format!("gateway-{gateway}"));
                let identity = Identity::load(&identity).expect("an identity");
                let config = patient(icecore.ingest(), identity, shape.spool_bytes_max);
                let client = runtime.block_on(Client::connect(config)).expect("the server is there");
                let place = Place { seed: shape.seed, org, gateway };
                gateways.push(Arc::new(Gateway { place, ledger: Mutex::default(), progress: client.progress() }));
                clients.push(client);
            }
            for (gateway, client) in gateways.iter().zip(clients) {
                let sender = Sender {
                    me: Arc::clone(gateway),
                    org: gateways.clone(),
                    dice: SplitMix64::new(dice.any()),
                    switches: Arc::clone(&switches),
                    shape,
                };
                tasks.push(runtime.spawn(sender.run(client)));
            }
            orgs.push((made, gateways));
        }
        let seen = vec![vec![0; usize::from(shape.gateways_per_org)]; usize::from(shape.orgs)];
        Self { shape, runtime, orgs, tasks, switches, seen }
    }

    fn each_gateway(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.orgs.iter().flat_map(|(_, gateways)| gateways)
    }

    /// New rows that are acknowledged.
    pub(crate) fn acked_rows(&self) -> u64 {
        self.each_gateway().map(|gateway| u64::from(gateway.acked_rows())).sum()
    }

    /// New rows that were given to the clients.
    pub(crate) fn sent_rows(&self) -> u64 {
        self.each_gateway().map(|gateway| u64::from(gateway.sent_rows())).sum()
    }

    /// Acknowledged frames of all gateways.
    pub(crate) fn acked_frames(&self) -> usize {
        self.each_gateway().map(|gateway| gateway.acked_frames()).sum()
    }

    /// How often gateways came back.
    pub(crate) fn reconnects(&self) -> u64 {
        self.each_gateway().map(|gateway| gateway.progress.borrow().reconnects).sum()
    }

    pub(crate) fn gateways(&self) -> usize {
        self.each_gateway().count()
    }

    /// Gateways that have a connection, as far as they know.
    pub(crate) fn connected(&self) -> usize {
        self.each_gateway().filter(|gateway| gateway.progress.borrow().connected).count()
    }

    /// Waits until so many more frames are acknowledged; false when that takes longer than `at_most`.
    pub(crate) fn wait_for_acks(&self, frames: usize, at_most: Duration) -> bool {
        let (begun, from) = (Instant::now(), self.acked_frames());
        while self.acked_frames() < from + frames {
            self.assert_alive();
            if begun.elapsed() > at_most {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Stops new frames for a while; what was given to the clients still goes its way.
    pub(crate) fn pause(&self, paused: bool) {
        self.switches.paused.store(paused, Ordering::Relaxed);
    }

    #[track_caller]
    fn assert_alive(&self) {
        let stopped = self.switches.stopped.load(Ordering::Relaxed);
        assert!(stopped || self.tasks.iter().all(|task| !task.is_finished()), "a gateway has given up");
        for gateway in self.each_gateway() {
            let refused = gateway.progress.borrow().refused_frames;
            assert_eq!(refused, 0, "the server refuses frames of {:?}", gateway.place);
        }
    }

    /// Looks at what came since the last look, or at everything. Fails when something that was acknowledged before is
    /// missing, or anything is there twice, changed, or was never sent. Answers how many readings it has seen.
    #[track_caller]
    pub(crate) fn check(&mut self, icecore: &Icecore, everything: bool) -> u64 {
        self.assert_alive();
        let mut found = 0;
        for (org, seen) in self.orgs.iter().zip(&mut self.seen) {
            let ((org, gateways), number) = (org, org.1[0].place.org);
            let acked: Vec<_> = gateways.iter().map(|gateway| gateway.acked_rows()).collect();
            let since = if everything { 0 } else { seen.iter().copied().min().unwrap_or(0) };
            let since_ms = if everything { i64::MIN } else { model::time_since(since) };
            let filter =
                if everything { String::new() } else { format!(" WHERE time >= to_timestamp_millis({since_ms})") };
            let sql = format!("SELECT logger, CAST(time AS BIGINT) AS ms, temperature, humidity FROM readings{filter}");
            let answer = icecore.sql(org, &sql).unwrap_or_else(|error| panic!("{error}"));
            let sent: Vec<_> = gateways.iter().map(|gateway| gateway.sent_rows()).collect();
            let place = Place { seed: self.shape.seed, org: number, gateway: 0 };
            match model::compare(place, &acked, &sent, since_ms, &answer) {
                Ok(rows) => found += rows,
                Err(fault) => panic!("{} of seed {}: {fault}\nasked with {sql}", org.name, self.shape.seed),
            }
            *seen = acked;
        }
        found
    }

    /// Sends no more, waits until everything is acknowledged, and looks at all of it once more.
    #[track_caller]
    pub(crate) fn finish(mut self, icecore: &Icecore) -> u64 {
        self.switches.stopped.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE * 2, task).await });
            let ended = ended.expect("a gateway does not come to an end").expect("its task does not panic");
            ended.unwrap_or_else(|error| panic!("a gateway has failed: {error}"));
        }
        assert_eq!(self.acked_rows(), self.sent_rows(), "everything is acknowledged in the end");
        let found = self.check(icecore, true);
        assert_eq!(found, self.sent_rows());
        self.check_conflicts(icecore);
        found
    }

    /// Every value that came second is listed with the one that stays; nothing else is.
    #[track_caller]
    fn check_conflicts(&self, icecore: &Icecore) {
        for (org, gateways) in &self.orgs {
            let mut forged = BTreeSet::new();
            for gateway in gateways {
                for part in &gateway.ledger.lock().expect("no panic while held").forged {
                    let place = Place { gateway: part.gateway, ..gateway.place };
                    forged.extend((part.row..part.row + part.rows).map(|row| model::conflict_line(place, row)));
                }
            }
            let sql = "SELECT logger, CAST(time AS BIGINT) AS ms, channel, kept, refused FROM conflicts";
            let answer = icecore.sql(org, sql).unwrap_or_else(|error| panic!("{error}"));
            let listed: BTreeSet<_> = answer.lines().skip(1).map(str::to_owned).collect();
            let missing: Vec<_> = forged.difference(&listed).take(5).collect();
            assert!(missing.is_empty(), "conflicts of {} that are not listed, such as {missing:?}", org.name);
            let invented: Vec<_> = listed.difference(&forged).take(5).collect();
            assert!(invented.is_empty(), "conflicts of {} that never were, such as {invented:?}", org.name);
        }
    }
}

/// A client that outlasts any outage of a test, and is quick to come back.
fn patient(server: String, identity: Identity, spool_bytes_max: usize) -> ClientConfig {
    ClientConfig {
        spool_bytes_max,
        patience: PATIENCE * 10,
        connect_timeout: Duration::from_secs(1),
        pause_min: Duration::from_millis(5),
        pause_max: Duration::from_millis(40),
        keep_alive: Duration::from_millis(150),
        idle_timeout: Duration::from_secs(1),
        ..ClientConfig::new(server, identity)
    }
}

/// One gateway's doing.
struct Sender {
    me: Arc<Gateway>,
    /// All gateways of its organisation.
    org: Vec<Arc<Gateway>>,
    dice: SplitMix64,
    switches: Arc<Switches>,
    shape: Shape,
}

impl Sender {
    async fn run(mut self, mut client: Client) -> Result<Summary, String> {
        let mut builder = FrameBuilder::new();
        while !self.switches.stopped.load(Ordering::Relaxed) {
            if self.switches.paused.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            self.next_frame(&mut builder);
            client.send(&mut builder).await.map_err(|error| error.to_string())?;
            let pause_us = u64::try_from(self.shape.pause_max.as_micros()).expect("short");
            tokio::time::sleep(Duration::from_micros(self.dice.below(pause_us + 1))).await;
        }
        client.finish().await.map_err(|failure| failure.to_string())
    }

    /// Fills the builder, and writes into the ledger what will have been sent, before it is.
    fn next_frame(&mut self, builder: &mut FrameBuilder) {
        let neighbour = Arc::clone(&self.org[self.dice.index(self.org.len())]);
        let kind = self.dice.below(100);
        let (sent, acked) = (neighbour.sent_rows(), neighbour.acked_rows());
        let values = if self.shape.bulky { Values::Bulky } else { Values::First };
        let mut fresh = 0;
        if kind < self.shape.repeats && sent > 0 {
            let (row, rows) = self.some_of(sent, self.shape.rows_max);
            fill(builder, neighbour.place, row, rows, values);
        } else if kind < self.shape.repeats + 6 && acked > 0 {
            // Only what is acknowledged has a first value that is known here.
            let (row, rows) = self.some_of(acked, 4);
            fill(builder, neighbour.place, row, rows, Values::Forged);
            let forged = Forged { gateway: neighbour.place.gateway, row, rows };
            self.me.ledger.lock().expect("no panic while held").forged.push(forged);
        } else {
            let large = if self.dice.below(150) == 0 { 20 } else { 1 };
            fresh = 1 + self.small_below(self.shape.rows_max * large);
            fill(builder, self.me.place, self.me.sent_rows(), fresh, values);
        }
        let mut ledger = self.me.ledger.lock().expect("no panic while held");
        ledger.rows += fresh;
        let rows = ledger.rows;
        ledger.frames.push(rows);
    }

    fn small_below(&mut self, below: u32) -> u32 {
        u32::try_from(self.dice.below(u64::from(below))).expect("small")
    }

    fn some_of(&mut self, there: u32, rows_max: u32) -> (u32, u32) {
        let row = self.small_below(there);
        (row, 1 + self.small_below(rows_max.min(there - row)))
    }
}

/// What a frame's rows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Temperature, and mostly humidity.
    First,
    /// The same and the other channels.
    Bulky,
    /// Another temperature.
    Forged,
}

fn fill(builder: &mut FrameBuilder, place: Place, row: u32, rows: u32, values: Values) {
    let channel = |code| ChannelCode::new(code).expect("a channel");
    for row in row..row + rows {
        let reading = model::reading(place, row);
        let temperature = if values == Values::Forged { reading.forged } else { reading.temperature };
        let mut samples = vec![(channel(1), temperature)];
        samples.extend(reading.humidity.map(|humidity| (channel(2), humidity)));
        if values == Values::Bulky {
            // An infinite fraction each, in every channel's range.
            samples.extend((3..=8).map(|code| (channel(code), 1.0 / (3.0 + f64::from(row) * 8.0 + f64::from(code)))));
        }
        let (logger, time) = (LoggerId::new(reading.logger), Millis::new(reading.time_ms));
        builder.push(logger.expect("not zero"), time.expect("in range"), &samples).expect("a frame has room for it");
    }
}
