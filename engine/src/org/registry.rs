//! The organisations that are loaded, each with its one state, and the appender's right to write to them.
//!
//! Invariants: an organisation's manifest, frozen buffers and active buffer are one value behind one pointer, so that
//! one load of it sees every reading exactly once; the active buffer is swapped only by its writer ([`OrgWriter`]),
//! the manifest and the frozen ones only by `commit`; each changes the state by compare-and-swap and touches no more
//! than its part. Every `OrgWriter` is made from the writer half that was parked in its [`Org`]: once.
//!
//! Owns the set of loaded organisations, and which LSN is applied. Loads nothing itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use storage_format::manifest::Manifest;
use storage_format::{FrameSequence, GatewayId, Lsn, OrgId, SpoolId};
use tokio::sync::{Notify, oneshot};

use super::Frontier;
use super::kept::Kept;
use super::state::State;
use super::troubles::Troubles;
use crate::buffer::{Budget, BufferWriter, WriteBuffer};
use crate::planted::{self, PlantedBug};
use crate::sync::Applied;

/// What an organisation's readings are at one instant.
pub(crate) type OrgState = State<Manifest, WriteBuffer>;

impl OrgState {
    /// The first LSN that no segment holds; `None` if segments hold all.
    pub(crate) fn first_unflushed(&self) -> Option<Lsn> {
        if planted::has(PlantedBug::TrimBeforeCommit) {
            return self.active.lsn_first();
        }
        self.buffers().find_map(|buffer| buffer.lsn_first())
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.buffers().map(|buffer| buffer.bytes()).sum()
    }
}

/// One loaded organisation.
#[derive(Debug)]
pub(crate) struct Org {
    id: OrgId,
    state: ArcSwap<OrgState>,
    /// Parked here until the appender first writes to the organisation.
    writer: Mutex<Option<BufferWriter>>,
    /// Of its frames that wait for room, one at a time stands in the queue's line.
    pub(crate) waiting: tokio::sync::Mutex<()>,
    /// Held by whoever changes the manifest; with what flushes know of the organisation's loggers. Only `commit` takes it.
    pub(crate) turn: tokio::sync::Mutex<Frontier>,
    /// May the store have objects of it that no manifest names?
    suspect: AtomicBool,
    kept: Kept,
}

impl Org {
    /// Its id.
    pub(crate) fn id(&self) -> OrgId {
        self.id
    }

    /// Its state now: one load.
    pub(crate) fn state(&self) -> Arc<OrgState> {
        self.state.load_full()
    }

    /// The highest durable sequence number of this spool.
    pub(crate) fn durable_sequence(&self, gateway: GatewayId, spool: SpoolId) -> FrameSequence {
        let state = self.state.load();
        let buffered = state.buffers().map(|buffer| buffer.spool_sequence(gateway, spool)).max();
        buffered.unwrap_or_default().max(state.manifest.spool_sequence(gateway, spool))
    }

    /// Records up to this LSN are in segments.
    pub(crate) fn lsn_covered(&self) -> Lsn {
        self.state.load().manifest.lsn_covered()
    }

    /// Must its frames wait for memory?
    pub(crate) fn must_wait(&self, budget: &Budget) -> bool {
        budget.is_full_for(|| self.state.load().buffer_bytes())
    }

    /// Waits until they need not.
    pub(crate) async fn room(&self, budget: &Budget) {
        budget.room_for(|| self.state.load().buffer_bytes()).await;
    }

    /// What must stay in the store although the manifest does not name it.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The manifest was found changed in the store, without this process's doing.
    pub(crate) fn reloaded(&self, manifest: &Arc<Manifest>) {
        self.kept.superseded(&self.state().manifest);
        self.state.rcu(|state| state.reloaded(manifest));
    }

    /// The store may have objects of it that no manifest names: at first, after a flush that failed, and after a merge.
    pub(crate) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// Was that said since the last time that somebody asked?
    pub(crate) fn take_suspicion(&self) -> bool {
        self.suspect.swap(false, Ordering::Relaxed)
    }

    /// A flush is committed: the manifest is this one from now on, and the buffer's rows are in segments.
    pub(crate) fn flushed(&self, manifest: &Arc<Manifest>, buffer: &Arc<WriteBuffer>) {
        self.kept.superseded(&self.state().manifest);
        self.state.rcu(|state| state.flushed(manifest, buffer));
        buffer.budget().let_look_again();
    }

    /// The records of these frozen buffers are in carried files: their memory is free, and so is their part of the log.
    pub(crate) fn carried(&self, buffers: &[Arc<WriteBuffer>]) {
        self.state.rcu(|state| state.carried(buffers));
        if let Some(buffer) = buffers.first() {
            buffer.budget().let_look_again();
        }
    }

    /// What was carried is in segments: all acknowledged readings are in the state again.
    pub(crate) fn mended(&self) {
        self.state.rcu(|state| state.mended());
    }
}

/// All loaded organisations of an engine.
#[derive(Debug)]
pub(crate) struct Orgs {
    loaded: RwLock<HashMap<OrgId, Arc<Org>>>,
    budget: Arc<Budget>,
    flush_bytes: u64,
    applied: Applied,
    /// The last LSN that the appender has put into the log, durable or not.
    logged: AtomicU64,
    troubles: Troubles,
    /// Told when a buffer was frozen because it was full, or when memory runs high: the flush has work.
    flush_wanted: Notify,
}

impl Orgs {
    /// None loaded yet. A buffer of `flush_bytes` is frozen.
    pub(crate) fn new(budget: Arc<Budget>, flush_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            loaded: RwLock::new(HashMap::new()),
            budget,
            flush_bytes,
            applied: Applied::new(),
            logged: AtomicU64::new(0),
            troubles: Troubles::default(),
            flush_wanted: Notify::new(),
        })
    }

    /// The organisation, if it is loaded.
    pub(crate) fn get(&self, org: OrgId) -> Option<Arc<Org>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(&org).cloned()
    }

    /// All that are loaded, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Org>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// All that are loaded, by id, so that whoever works through them does so in the same order each time.
    pub(crate) fn in_order(&self) -> Vec<Arc<Org>> {
        let mut all = self.all();
        all.sort_unstable_by_key(|org| org.id());
        all
    }

    /// Adds an organisation whose manifest was just loaded. If somebody else was faster, theirs stays.
    pub(crate) fn add(&self, org: OrgId, manifest: Arc<Manifest>) -> Arc<Org> {
        let whole = self.troubles.get(org).is_none_or(|trouble| trouble.readable);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let added = loaded.entry(org).or_insert_with(|| {
            let (active, writer) = WriteBuffer::create(&self.budget);
            Arc::new(Org {
                id: org,
                state: ArcSwap::from_pointee(OrgState { manifest, frozen: Vec::new(), active, whole }),
                writer: Mutex::new(Some(writer)),
                waiting: tokio::sync::Mutex::new(()),
                turn: tokio::sync::Mutex::new(Frontier::new()),
                suspect: AtomicBool::new(true),
                kept: Kept::default(),
            })
        });
        Arc::clone(added)
    }

    /// How many are loaded.
    pub(crate) fn len(&self) -> usize {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The budget of all write buffers.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Every record up to this LSN is applied (or set aside): told by the appender and by recovery after a group.
    pub(crate) fn set_applied(&self, lsn: Lsn) {
        self.applied.set(lsn.get());
    }

    /// The last LSN that is applied.
    pub(crate) fn applied(&self) -> Lsn {
        Lsn::new(self.applied.get())
    }

    /// The appender has given this LSN to a frame.
    pub(crate) fn set_logged(&self, lsn: Lsn) {
        self.logged.store(lsn.get(), Ordering::Release);
    }

    /// The last LSN that the appender has given to a frame since the start; zero if none.
    pub(crate) fn logged(&self) -> Lsn {
        Lsn::new(self.logged.load(Ordering::Acquire))
    }

    /// The organisations in trouble.
    pub(crate) fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// The first LSN that the WAL must keep: every record before it is in segments.
    pub(crate) fn first_unflushed(&self) -> Lsn {
        let first = |org: &Arc<Org>| org.state.load().first_unflushed().map(Lsn::get);
        Lsn::new(self.applied.first_unflushed(|| self.all().iter().filter_map(first).min()))
    }

    /// Waits until a buffer was frozen or memory runs high.
    pub(crate) fn flush_wanted(&self) -> &Notify {
        &self.flush_wanted
    }
}

/// The right to write to one organisation. The appender has it, and recovery before the appender starts.
#[derive(Debug)]
pub(crate) struct OrgWriter {
    org: Arc<Org>,
    orgs: Arc<Orgs>,
    buffer: BufferWriter,
}

impl OrgWriter {
    /// Records up to this LSN are in segments already: recovery skips them.
    pub(crate) fn lsn_covered(&self) -> Lsn {
        self.org.lsn_covered()
    }

    /// The writer half of the active buffer.
    pub(crate) fn buffer(&mut self) -> &mut BufferWriter {
        &mut self.buffer
    }

    /// Has the active buffer reached the size at which it is flushed?
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.buffer().bytes() >= self.orgs.flush_bytes
    }

    /// Wakes the flush.
    pub(crate) fn want_flush(&self) {
        self.orgs.flush_wanted.notify_one();
    }

    /// Does memory of all buffers run high?
    pub(crate) fn memory_is_high(&self) -> bool {
        self.orgs.budget.is_high()
    }

    /// Puts a new, empty buffer in the active one's place, which is frozen from then on. Answers whether there was
    /// anything to freeze.
    pub(crate) fn freeze(&mut self) -> bool {
        if self.buffer.buffer().rows() == 0 {
            return false;
        }
        let (active, writer) = WriteBuffer::create(&self.orgs.budget);
        self.org.state.rcu(|state| state.froze(&active));
        self.buffer = writer;
        true
    }
}

/// What the single writer is asked to do between two groups. The appender runs these in its queue's order.
#[derive(Debug)]
pub(crate) enum WriterCommand {
    /// Freeze this organisation's active buffer; answers whether there was anything in it.
    Freeze {
        /// Whose buffer.
        org: OrgId,
        /// Told when it is done.
        done: oneshot::Sender<bool>,
    },
    /// Do this: whoever sends it knows when it is done. It must not take long, since the log waits.
    Run(WriterWork),
}

/// Work for the single writer.
pub(crate) struct WriterWork(pub(crate) Box<dyn FnOnce(&mut Writers) + Send>);

impl std::fmt::Debug for WriterWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterWork")
    }
}

/// Every organisation's writer that was needed so far. There is one `Writers` in an engine: recovery fills it and
/// hands it to the appender. While recovery runs on several threads, each has a part of it.
#[derive(Debug)]
pub(crate) struct Writers {
    orgs: Arc<Orgs>,
    writers: HashMap<OrgId, OrgWriter>,
}

impl Writers {
    /// No writer yet.
    pub(crate) fn new(orgs: Arc<Orgs>) -> Self {
        Self { orgs, writers: HashMap::new() }
    }

    /// The organisations.
    pub(crate) fn orgs(&self) -> &Arc<Orgs> {
        &self.orgs
    }

    /// The writer of this organisation; `None` if it is not loaded.
    pub(crate) fn org(&mut self, org: OrgId) -> Option<&mut OrgWriter> {
        match self.writers.entry(org) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(vacant) => {
                let loaded = self.orgs.get(org)?;
                let buffer = loaded.writer.lock().unwrap_or_else(PoisonError::into_inner).take()?;
                Some(vacant.insert(OrgWriter { org: loaded, orgs: Arc::clone(&self.orgs), buffer }))
            }
        }
    }

    /// Deals the writers out into so many parts.
    pub(crate) fn split(self, parts: usize, part_of: impl Fn(OrgId) -> usize) -> Vec<Self> {
        let mut split: Vec<_> = (0..parts).map(|_| Self::new(Arc::clone(&self.orgs))).collect();
        for (org, writer) in self.writers {
            split[part_of(org)].writers.insert(org, writer);
        }
        split
    }

    /// Takes the writers of a part back.
    pub(crate) fn join(&mut self, part: Self) {
        self.writers.extend(part.writers);
    }

    /// Does what was asked.
    pub(crate) fn run(&mut self, command: WriterCommand) {
        match command {
            WriterCommand::Freeze { org, done } => {
                let frozen = self.org(org).is_some_and(OrgWriter::freeze);
                // Whoever asked may have gone away.
                let _gone = done.send(frozen);
            }
            WriterCommand::Run(WriterWork(work)) => work(self),
        }
    }
}
