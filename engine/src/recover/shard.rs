//! A file's records by shard: each has a part of the organisations, and puts their records, in the log's order, into
//! their write buffers, in a task of its own.
//!
//! Invariant: all of an organisation's records and its writer are in one shard, so that the log's order is kept where it
//! means something. Owns the writers while it runs. Does no I/O: what cannot be applied it hands back.

use std::collections::BTreeSet;

use storage_format::wal::{WalBlock, WalRecord, WalRecordKind};
use storage_format::{Frame, Lsn, OrgId};

use super::table::{FrameState, OrgState, RecordAction, on_record};
use crate::apply::{FrameRecord, apply};
use crate::org::Writers;
use crate::planted::{self, PlantedBug};
use crate::wal::FrameOfLog;

/// More than there are cores, so that these have something to do although organisations differ in size. Each has a
/// decoded frame in memory, and may go over the write buffers' budget by one.
const SHARDS: u64 = 8;

/// After frames of so many bytes a shard lets other tasks have its thread: a millisecond or two.
const YIELD_BYTES: usize = 256 << 10;

/// What is to be applied, by shard; each in the log's order.
#[derive(Debug)]
pub(super) struct Sharded {
    pub(super) shards: Vec<Records>,
    /// Whose records they are.
    pub(super) orgs: BTreeSet<OrgId>,
    /// The last record of all.
    pub(super) last: Option<Lsn>,
}

/// Records of one shard.
pub(super) type Records = std::vec::IntoIter<WalRecord>;

/// A record that cannot be applied, and why.
pub(super) struct Unfit {
    pub(super) record: FrameOfLog,
    pub(super) why: String,
}

/// A shard at work.
pub(super) struct Shard {
    pub(super) writers: Writers,
    /// What is left.
    pub(super) records: Records,
    pub(super) applied: u64,
    pub(super) readings: u64,
    pub(super) skipped: u64,
    pub(super) unfit: Vec<Unfit>,
    /// Records of organisations in trouble.
    pub(super) to_carry: Vec<FrameOfLog>,
}

/// Sorts a file's records.
pub(super) fn by_shard(blocks: Vec<WalBlock>) -> Sharded {
    let mut shards: Vec<_> = (0..SHARDS).map(|_| Vec::new()).collect();
    let (mut orgs, mut last) = (BTreeSet::new(), None);
    for record in blocks.into_iter().flat_map(|block| block.records) {
        last = Some(record.lsn);
        let WalRecordKind::Frame { org, .. } = record.kind else { continue };
        orgs.insert(org);
        shards[shard_of(org)].push(record);
    }
    Sharded { shards: shards.into_iter().map(Vec::into_iter).collect(), orgs, last }
}

/// The shard of an organisation.
pub(super) fn shard_of(org: OrgId) -> usize {
    (org.get() % SHARDS) as usize
}

impl Shard {
    pub(super) fn new(writers: Writers, records: Records) -> Self {
        Self { writers, records, applied: 0, readings: 0, skipped: 0, unfit: Vec::new(), to_carry: Vec::new() }
    }

    /// Applies records, at least one, until none is left or the write buffers take too much memory.
    pub(super) async fn run(mut self) -> Self {
        let mut bytes = 0;
        while let Some(WalRecord { lsn, kind }) = self.records.next() {
            if let WalRecordKind::Frame { org, gateway, received, frame } = kind {
                bytes += frame.len();
                self.record(FrameOfLog { lsn, org, gateway, received, frame });
            }
            if self.writers.orgs().budget().is_high() {
                break;
            }
            if bytes >= YIELD_BYTES {
                bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        self
    }

    fn record(&mut self, record: FrameOfLog) {
        let FrameOfLog { lsn, org, gateway, received, ref frame } = record;
        let covered = self.writers.org(org).map(|writer| writer.lsn_covered());
        let trouble = self.writers.orgs().troubles().get(org);
        let org_state = match (covered, trouble) {
            (Some(covered), _) if lsn <= covered && !planted::has(PlantedBug::ForgetCovered) => OrgState::Covered,
            (_, Some(trouble)) if lsn <= trouble.carried_up_to() => OrgState::Covered,
            (_, Some(_)) => OrgState::InTrouble,
            (Some(_), None) => OrgState::Open,
            (None, None) => OrgState::Missing,
        };
        let decoded = match org_state {
            // Nobody will look at it: not worth decoding.
            OrgState::Covered => None,
            OrgState::Missing | OrgState::InTrouble | OrgState::Open => Some(Frame::decode(frame.clone())),
        };
        let frame_state = match decoded {
            Some(Err(_)) => FrameState::Bad,
            Some(Ok(_)) | None => FrameState::Good,
        };
        match (on_record(org_state, frame_state), decoded, self.writers.org(org)) {
            (RecordAction::Skip, ..) => self.skipped += 1,
            (RecordAction::CarryOn, ..) => self.to_carry.push(record),
            (RecordAction::Apply, Some(Ok(frame)), Some(writer)) => {
                apply(&FrameRecord { lsn, gateway, received, frame: &frame }, writer);
                self.applied += 1;
                self.readings += frame.len() as u64;
            }
            (_, decoded, _) => {
                let why = match decoded {
                    Some(Err(error)) => error.to_string(),
                    Some(Ok(_)) | None => "there is no such organisation in the store".to_owned(),
                };
                self.unfit.push(Unfit { record, why });
            }
        }
    }
}
