//! What all parts of a run share, and what is told to them: the machines, the truth, the trace, the figures.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{
    Engine, EngineError, EngineErrorKind, FaultRates, FaultyFiles, Files as _, LocalDurable, RecoveryReport, Snapshot,
};
use futures::{FutureExt as _, TryStreamExt as _};
use kit::rig::Unread;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use storage_format::{ObjectKey, OrgId};

use crate::draw::Draw;
use crate::exec::{Door, Executor, Group, Time};
use crate::keeper::SharedDrops;
use crate::network::Network;
use crate::oracle::Oracle;
use crate::parts::{SimClock, SimRandom};
use crate::plan::{DATA_DIR, NetworkFaults, Plan, StoreFaults, StoreKind};
use crate::store::ChaosStore;

/// Lines of the trace that are kept when nobody wants to see all of it.
const TRACE_LINES: usize = 60;

/// How long what was under way may still fail after everything is well.
const AFTERMATH: Duration = Duration::from_secs(5);
/// An organisation in trouble of which nothing is damaged any more is read again within this time.
const MENDED_WITHIN: Duration = Duration::from_secs(60);

/// How the server's process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// There is none.
    Down,
    /// It reads what the last one left.
    Starting,
    /// It serves.
    Up,
    /// It has ended by itself.
    Ended,
    /// It has ended because it was told to.
    Closed,
}

/// Figures of a run that nobody else counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looks {
    /// Comparisons with the truth.
    pub looks: u64,
    /// Readings compared.
    pub readings: u64,
    /// Comparisons that found something unreadable for a while.
    pub unreadable: u64,
    /// Starts of the server.
    pub starts: u64,
    /// Starts that were refused.
    pub refused_starts: u64,
    /// Ends that the server chose itself.
    pub ends: u64,
    /// Records replayed.
    pub replayed: u64,
    /// Torn blocks cut.
    pub torn: u64,
    /// Objects in stores that no manifest names.
    pub orphans: u64,
    /// Segments seen at the end that were merged from several.
    pub merged: u64,
    /// Manifest versions that were seen to be collected at the end.
    pub versions_collected: u64,
    /// Readings that retention has dropped.
    pub dropped: u64,
    /// Rollups compared with the rows of their segments.
    pub rollups: u64,
    /// Errors, refusals and losses after the disk has lied.
    pub lies_told: u64,
    /// Bytes changed where they lay.
    pub rotten_bytes: u64,
    /// Objects damaged or taken away.
    pub damaged: u64,
    /// Objects put back.
    pub restored: u64,
    /// Looks at which there were carried records.
    pub carried: u64,
}

impl Looks {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.looks += other.looks;
        self.readings += other.readings;
        self.unreadable += other.unreadable;
        self.starts += other.starts;
        self.refused_starts += other.refused_starts;
        self.ends += other.ends;
        self.replayed += other.replayed;
        self.torn += other.torn;
        self.orphans += other.orphans;
        self.merged += other.merged;
        self.versions_collected += other.versions_collected;
        self.dropped += other.dropped;
        self.rollups += other.rollups;
        self.lies_told += other.lies_told;
        self.rotten_bytes += other.rotten_bytes;
        self.damaged += other.damaged;
        self.restored += other.restored;
        self.carried += other.carried;
    }
}

#[derive(Debug)]
struct Trace {
    lines: VecDeque<String>,
    hash: u64,
    print: bool,
}

/// What all parts share.
#[derive(Debug)]
pub(crate) struct World {
    /// What the run is.
    pub(crate) plan: Plan,
    /// Virtual time.
    pub(crate) time: Arc<Time>,
    /// New tasks.
    pub(crate) door: Door,
    /// The server's disk.
    pub(crate) files: FaultyFiles,
    /// The server's clock.
    pub(crate) clock: Arc<SimClock>,
    /// The server's randomness.
    pub(crate) random: Arc<SimRandom>,
    /// The network.
    pub(crate) network: Network,
    /// The store, whatever is beneath.
    pub(crate) store: ChaosStore,
    /// What must not be, found so far.
    pub(crate) violations: Arc<Mutex<Vec<String>>>,
    /// The record of what retention drops.
    pub(crate) drops: SharedDrops,
    oracle: Arc<Mutex<Oracle>>,
    draw: RefCell<Draw>,
    server: Cell<Server>,
    /// Since when nothing goes wrong any more.
    healed: Cell<Option<Duration>>,
    closing: Cell<bool>,
    /// What objects were that are damaged or missing now.
    damaged: RefCell<Vec<(Path, Bytes)>>,
    /// Faults of the disk that end a process, when the present one started.
    faults_at_start: Cell<u64>,
    /// A lying disk has brought the run to its end.
    pub(crate) over: Cell<bool>,
    /// Tasks that send what was sent before.
    pub(crate) again: Cell<u64>,
    looks: Cell<Looks>,
    trace: RefCell<Trace>,
    engine: RefCell<Option<Arc<Engine>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// The world of a plan, before anything happens.
    #[must_use]
    pub(crate) fn new(plan: Plan, choices: &Draw, executor: &Executor, print: bool) -> Rc<Self> {
        let time = Arc::clone(executor.time());
        let later = match plan.store {
            StoreKind::Local => None,
            StoreKind::Remote => {
                let door = executor.door().for_group(Group::Store);
                Some(Arc::new(move |task| door.spawn(task)) as crate::store::Later)
            }
        };
        let store = ChaosStore::new(Arc::new(InMemory::new()), &time, later, choices.split("store"));
        let files = FaultyFiles::new();
        let cost = {
            let (time, most) = (Arc::clone(&time), plan.sync_max);
            let draw = Mutex::new(choices.split("syncs"));
            move |_| time.pass(Duration::from_micros(locked(&draw).spread(20, most)))
        };
        files.set_sync_cost(Some(Arc::new(cost)));
        let world = Self {
            time: Arc::clone(&time),
            door: executor.door().clone(),
            files,
            clock: Arc::new(SimClock::new(&time)),
            random: Arc::new(SimRandom::new(choices.split("random"))),
            network: Network::new(&time, choices.split("network")),
            store,
            violations: Arc::default(),
            drops: Arc::default(),
            oracle: Arc::default(),
            draw: RefCell::new(choices.split("world")),
            server: Cell::new(Server::Down),
            healed: Cell::new(None),
            closing: Cell::new(false),
            damaged: RefCell::default(),
            faults_at_start: Cell::new(0),
            over: Cell::new(false),
            again: Cell::new(0),
            looks: Cell::default(),
            trace: RefCell::new(Trace { lines: VecDeque::new(), hash: 0xCBF2_9CE4_8422_2325, print }),
            engine: RefCell::new(None),
            plan,
        };
        world.network.set_faults(world.plan.network);
        Rc::new(world)
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.draw.borrow_mut().below(end.max(1))
    }

    /// The truth.
    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        locked(&self.oracle)
    }

    /// The truth, to be held.
    #[must_use]
    pub(crate) fn oracle_handle(&self) -> Arc<Mutex<Oracle>> {
        Arc::clone(&self.oracle)
    }

    /// What the network does now.
    #[must_use]
    pub(crate) fn network_faults(&self) -> NetworkFaults {
        if self.is_healed() { NetworkFaults::default() } else { self.plan.network }
    }

    /// Nothing goes wrong any more from now on.
    pub(crate) fn heal(&self) {
        self.healed.set(Some(self.time.now()));
        self.network.set_faults(NetworkFaults::default());
        self.store.set_faults(StoreFaults::default());
        self.files.set_faults(0, FaultRates::default());
        self.files.set_space(None);
        self.clock.jump(0);
        self.trace(format_args!("everything is well from now on"));
    }

    /// Does nothing go wrong any more?
    #[must_use]
    pub(crate) fn is_healed(&self) -> bool {
        self.healed.get().is_some()
    }

    /// Is what went wrong over, with all that came of it? What was under way when it ended may still fail.
    #[must_use]
    pub(crate) fn is_calm(&self) -> bool {
        self.healed.get().is_some_and(|since| self.time.now() >= since + AFTERMATH)
    }

    /// How the server is.
    #[must_use]
    pub(crate) fn server(&self) -> Server {
        self.server.get()
    }

    /// The engine that runs.
    #[must_use]
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.borrow().clone()
    }

    /// A new process begins: faults are those of the plan again.
    pub(crate) fn starting(&self) {
        self.server.set(Server::Starting);
        self.faults_at_start.set(self.disk_faults());
        if !self.is_healed() {
            self.files.set_faults(self.below(u64::MAX), self.plan.file_faults);
            self.store.set_faults(self.plan.store_faults);
        }
        self.trace(format_args!("the server starts"));
    }

    /// The process is gone: killed from outside.
    pub(crate) fn down(&self) {
        self.closing.set(false);
        self.server.set(Server::Down);
        self.engine.replace(None);
        self.network.vanish();
    }

    /// The store as this process opens it.
    ///
    /// # Errors
    /// Of the file layer, for a local one.
    pub(crate) fn open_store(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let inner: Arc<dyn ObjectStore> = match self.plan.store {
            StoreKind::Remote => Arc::clone(self.store.inner()),
            StoreKind::Local => {
                let files = self.files.of_this_process();
                let (root, staging) = (PathBuf::from("/server/store"), PathBuf::from("/server/tmp"));
                Arc::new(LocalDurable::open_on(files, root, staging)?)
            }
        };
        Ok(Arc::new(self.store.reopened(inner)))
    }

    /// The server has recovered and serves.
    pub(crate) fn started(&self, engine: &Arc<Engine>, report: &RecoveryReport) {
        self.trace(format_args!(
            "the server serves: {} files, {} records replayed, {} skipped, {} torn, next LSN {}",
            report.files, report.applied, report.skipped, report.torn, report.next_lsn
        ));
        self.check(self.oracle().started(report.next_lsn.get(), report.clean));
        if report.set_aside > 0 {
            self.violate(format!("{} records could not be applied", report.set_aside));
        }
        self.count(|looks| {
            looks.starts += 1;
            looks.replayed += report.applied;
            looks.torn += report.torn;
        });
        self.server.set(Server::Up);
        self.engine.replace(Some(Arc::clone(engine)));
        self.network.listen();
    }

    /// The engine refuses to start.
    pub(crate) fn refused_start(&self, error: &EngineError) {
        if self.files.is_crashed() {
            return;
        }
        self.trace(format_args!("the server refuses to start: {error}"));
        self.count(|looks| looks.refused_starts += 1);
        let rot = self.plan.lies || self.plan.file_faults.read_rot > 0 || self.plan.store_faults.read_rot > 0;
        let may = match error.kind() {
            EngineErrorKind::Corrupt | EngineErrorKind::Invalid => rot,
            _ => true,
        };
        if !self.may_fail() || !may {
            self.violate(format!("REFUSED START: {error}"));
        }
        self.server.set(Server::Ended);
    }

    /// Files of the log, without those made ahead.
    pub(crate) fn wal_files(&self) -> usize {
        let names = self.files.list(&std::path::Path::new(DATA_DIR).join("wal")).unwrap_or_default();
        names.iter().filter(|name| name.ends_with(".wal")).count()
    }

    /// A byte of the log changes where it lies.
    pub(crate) fn rot(&self) {
        let dir = std::path::Path::new(DATA_DIR).join("wal");
        let Ok(names) = self.files.list(&dir) else { return };
        if names.is_empty() {
            return;
        }
        let path = dir.join(&names[usize::try_from(self.below(names.len() as u64)).unwrap_or(0)]);
        let Ok(Ok(len)) = self.files.open(&path).map(|file| file.len()) else { return };
        if len > 0 {
            // Most of a file is zeros that nobody has written over: the beginning is where it hurts.
            let offset = usize::try_from(self.below(len.min(8192))).unwrap_or(0);
            self.files.rot(&path, offset, 1 << self.below(8));
            self.count(|looks| looks.rotten_bytes += 1);
            self.trace(format_args!("a bit of {} changes at byte {offset}", path.display()));
        }
    }

    /// The process ends because something is wrong.
    pub(crate) fn ended(&self, why: &EngineError) {
        self.ends(&why.to_string(), why.kind() == EngineErrorKind::Fenced);
    }

    /// The process ends because its store does not open.
    pub(crate) fn no_store(&self, why: &object_store::Error) {
        self.ends(&format!("the store does not open: {why}"), false);
    }

    /// Nothing ends a process but what calls for it: for one that is fenced, a put of an earlier process that arrived
    /// after its end; for any other, a fault of the disk in its own time. What the store refuses or takes back never does.
    fn ends(&self, why: &str, fenced: bool) {
        if self.files.is_crashed() {
            return;
        }
        self.trace(format_args!("the server ends: {why}"));
        self.count(|looks| looks.ends += 1);
        let called_for = if fenced {
            self.store.counts().applied_late > 0
        } else {
            self.disk_faults() > self.faults_at_start.get() && !self.is_calm()
        };
        if !called_for && !self.plan.lies {
            self.violate(format!("the server ends, and nothing that calls for it has happened: {why}"));
        }
        self.server.set(Server::Ended);
    }

    /// Faults of the disk so far that can end a process.
    fn disk_faults(&self) -> u64 {
        let counts = self.files.counts();
        counts.write_errors
            + counts.torn_writes
            + counts.sync_errors
            + counts.dir_sync_errors
            + counts.name_errors
            + counts.open_errors
            + counts.read_errors
            + counts.no_space
    }

    /// The organisation whose objects are damaged and taken away.
    pub(crate) fn victim(&self) -> OrgId {
        crate::gateway::orgs(&self.plan.fleet)[0]
    }

    /// Returns whether anything of it is damaged or missing now.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.borrow().is_empty()
    }

    /// All objects of the victim, but for its keys, and how new its newest manifest is.
    fn objects_of_victim(&self) -> (Vec<Path>, u64) {
        let prefix = Path::from(ObjectKey::org_prefix(self.victim()));
        let listed = self.store.inner().list(Some(&prefix)).try_collect::<Vec<_>>().now_or_never();
        let mut newest = 0;
        let mut paths = Vec::new();
        for meta in listed.and_then(Result::ok).unwrap_or_default() {
            match meta.location.as_ref().parse() {
                Ok(ObjectKey::Manifest { version, .. }) => newest = version.get().max(newest),
                Ok(ObjectKey::Segment { .. } | ObjectKey::Conflicts { .. }) => {}
                _ => continue,
            }
            paths.push(meta.location);
        }
        (paths, newest)
    }

    /// An object of one organisation is damaged or taken away.
    pub(crate) fn damage(&self) {
        let (paths, newest) = self.objects_of_victim();
        if paths.is_empty() {
            return;
        }
        let path = &paths[usize::try_from(self.below(paths.len() as u64)).unwrap_or(0)];
        if self.damaged.borrow().iter().any(|(known, _)| known == path) {
            return;
        }
        let store = self.store.inner();
        let read = async { store.get(path).await?.bytes().await };
        let Some(Ok(bytes)) = read.now_or_never() else { return };
        // Without its newest manifest a store is an older store, whole in itself: nobody can tell.
        let is_newest =
            matches!(path.as_ref().parse(), Ok(ObjectKey::Manifest { version, .. }) if version.get() == newest);
        let done = if is_newest || self.below(2) == 0 {
            let mut wrong = bytes.to_vec();
            let at = usize::try_from(self.below(wrong.len() as u64)).unwrap_or(0);
            wrong[at] ^= 1 << self.below(8);
            self.trace(format_args!("{path} is damaged"));
            store.put(path, wrong.into()).now_or_never().is_some_and(|put| put.is_ok())
        } else {
            self.trace(format_args!("{path} is taken away"));
            store.delete(path).now_or_never().is_some_and(|deleted| deleted.is_ok())
        };
        if done {
            self.count(|looks| looks.damaged += 1);
            self.damaged.borrow_mut().push((path.clone(), bytes));
        }
    }

    /// Everything that was damaged or taken away is put back.
    pub(crate) fn restore(&self) {
        let store = self.store.inner();
        for (path, bytes) in self.damaged.take() {
            self.trace(format_args!("{path} is put back"));
            let put = store.put(&path, bytes.into()).now_or_never();
            if put.is_some_and(|put| put.is_ok()) {
                self.count(|looks| looks.restored += 1);
            }
        }
    }

    /// Looks whether there are carried records.
    pub(crate) fn look_for_carried(&self) {
        let names = self.files.list(&std::path::Path::new(DATA_DIR).join("carried")).unwrap_or_default();
        if names.iter().any(|name| name.ends_with(".wal")) {
            self.count(|looks| looks.carried += 1);
        }
    }

    /// Tells the server to close.
    pub(crate) fn close(&self) {
        self.closing.set(true);
    }

    /// Is it to close?
    #[must_use]
    pub(crate) fn closing(&self) -> bool {
        self.closing.get()
    }

    /// It has closed.
    pub(crate) fn closed(&self) {
        self.trace(format_args!("the server has closed"));
        self.closing.set(false);
        self.server.set(Server::Closed);
    }

    /// A frame is refused: which only a clock that is wrong may bring about.
    pub(crate) fn refused(&self, why: &str) {
        self.trace(format_args!("a frame is refused: {why}"));
        if self.plan.clock_jumps == 0 {
            self.violate(format!("a good frame is refused: {why}"));
        }
    }

    /// May the server fail, as far as disk and store go?
    fn may_fail(&self) -> bool {
        let plan = &self.plan;
        !self.is_calm()
            && (plan.lies
                || plan.disk_space.is_some()
                || plan.file_faults != FaultRates::default()
                || StoreFaults { delay_max: 0, list_lag_max: 0, ..plan.store_faults } != StoreFaults::default())
    }

    /// A comparison came out well.
    pub(crate) fn looked(&self, readings: u64) {
        self.count(|looks| {
            looks.looks += 1;
            looks.readings += readings;
        });
    }

    /// Retention has dropped readings.
    pub(crate) fn dropped(&self, readings: u64) {
        self.count(|looks| looks.dropped += readings);
    }

    /// A comparison with this organisation could not be made.
    pub(crate) fn unreadable(&self, org: OrgId, why: &str) {
        if self.files.is_crashed() || self.server.get() != Server::Up {
            return;
        }
        self.trace(format_args!("unreadable: {why}"));
        self.count(|looks| looks.unreadable += 1);
        // Mending takes its time, also where nothing is damaged but what was read.
        let is_damaged = self.plan.damage > 0 && org == self.victim();
        let is_mending = self.plan.store_faults.read_rot > 0
            && self.healed.get().is_none_or(|since| self.time.now() < since + MENDED_WITHIN);
        if !self.may_fail() && !is_damaged && !is_mending {
            self.violate(format!("unreadable, and nothing is wrong: {why}"));
        }
    }

    /// Figures so far.
    #[must_use]
    pub(crate) fn looks(&self) -> Looks {
        self.looks.get()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Looks)) {
        let mut looks = self.looks.get();
        change(&mut looks);
        self.looks.set(looks);
    }

    /// Something happened.
    #[allow(clippy::print_stdout, reason = "whoever runs one seed wants to see it")]
    pub(crate) fn trace(&self, what: Arguments<'_>) {
        let line = format!("{:>12.6} {what}", self.time.now().as_secs_f64());
        let mut trace = self.trace.borrow_mut();
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
        if trace.print {
            println!("{line}");
        } else {
            if trace.lines.len() == TRACE_LINES {
                trace.lines.pop_front();
            }
            trace.lines.push_back(line);
        }
    }

    /// The trace in a number: the same for the same trace.
    #[must_use]
    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.borrow().hash
    }

    /// The last lines of the trace.
    #[must_use]
    pub(crate) fn trace_end(&self) -> Vec<String> {
        self.trace.borrow().lines.iter().cloned().collect()
    }

    /// What must not be was found.
    pub(crate) fn violate(&self, what: String) {
        let lied = self.files.counts().misdirected_writes + self.looks.get().rotten_bytes > 0;
        if lied && ["LOST", "REFUSED", "STUCK", "unreadable", "the server ends"].iter().any(|s| what.starts_with(s)) {
            // What a lying disk may bring about. After a loss the run goes on, after anything else it is over.
            self.trace(format_args!("the disk has lied: {what}"));
            self.count(|looks| looks.lies_told += 1);
            if !what.starts_with("LOST") {
                self.over.set(true);
            }
            return;
        }
        self.trace(format_args!("VIOLATION: {what}"));
        locked(&self.violations).push(what);
    }

    /// Tells a violation, if there is one.
    pub(crate) fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.violate(what);
        }
    }

    /// Holds an organisation's objects against its manifest: each that it names is there, whole. Answers how many there
    /// are that it does not name.
    ///
    /// # Errors
    /// [`Unread`].
    pub(crate) async fn objects(&self, org: OrgId, snapshot: &Snapshot) -> Result<u64, Unread> {
        let Some(engine) = self.engine() else { return Ok(0) };
        let failed = |error: object_store::Error| Unread::Failed(error.to_string());
        let mut named = 0;
        for entry in snapshot.manifest.objects() {
            let key = entry.object_key(org);
            let path = Path::from(key.to_string());
            let meta = engine.store().head(&path).await.map_err(failed)?;
            if meta.size != entry.bytes {
                return Err(Unread::Wrong(format!(
                    "{path} has {} bytes, the manifest says {}",
                    meta.size, entry.bytes
                )));
            }
            named += 1;
        }
        let prefix = Path::from(ObjectKey::org_prefix(org));
        let all: Vec<_> = engine.store().list(Some(&prefix)).try_collect().await.map_err(failed)?;
        let segments = all.iter().filter(|meta| {
            let key = meta.location.as_ref().parse();
            let is_log = matches!(key, Ok(ObjectKey::Manifest { .. } | ObjectKey::OrgKey { .. }));
            key.is_ok() && !is_log
        });
        let is_version =
            |meta: &&object_store::ObjectMeta| matches!(meta.location.as_ref().parse(), Ok(ObjectKey::Manifest { .. }));
        // The smallest that is listed says how many went; a list may leave out what is new, not what is old.
        let versions = all.iter().filter(is_version).map(|meta| meta.location.as_ref());
        let oldest = versions.min().and_then(|name| name.parse().ok());
        let collected = match oldest {
            Some(ObjectKey::Manifest { version, .. }) => version.get() - 1,
            _ => 0,
        };
        // A list may still leave out what is new.
        let orphans = (segments.count() as u64).saturating_sub(named);
        let merged = snapshot.manifest.segments().iter().filter(|entry| entry.flush_first < entry.flush_last).count();
        self.count(|looks| {
            looks.orphans += orphans;
            looks.merged += merged as u64;
            looks.versions_collected += collected;
        });
        Ok(orphans)
    }
}
