//! The way back: what an earlier process left of the WAL, through the same function that the appender uses, into
//! write buffers.
//!
//! Streams, on several cores: while a file's records are decoded and applied, by `shard`s of the organisations, the next
//! file is read, checked and decrypted. That changes nothing: a file's end is settled and judged when the file before is
//! applied, and what is wrong with it is told only then. In memory are the records of two files at most, and the later
//! one's bytes while it is read; and when the write buffers are full, the host flushes some before the next records. What
//! to do with a file's end, with a record, and with the log as a whole is looked up in `table`.
//!
//! Crash consistency, WAL and manifest: a record is in the WAL until a manifest covers it, so it is in one of them or
//! in both; which, the manifest tells (`lsn_covered`), and records that it covers are skipped. A crash during recovery
//! leaves what was there before, and perhaps flushes that stand on their own. The end of the log is made durable
//! before anything is built on it. A record that cannot be applied is kept in a file of its own, under its LSN, before
//! recovery goes on; the same again at the next start changes nothing. Records of an organisation in trouble (its manifest
//! cannot be read, or an earlier process has carried records of it on that are not applied again yet) are carried on, file
//! by file of the log, before anything lets the log go; those that carried files hold are passed over.

mod set_aside;
mod shard;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, Files, Random, Spawn, beside};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::wal::WalEnd;
use storage_format::{Lsn, OrgId, WalFileId};

use crate::carried::CarriedFiles;
use crate::error::{EngineError, EngineErrorKind};
use crate::keys::KeyProvider;
use crate::org::Writers;
use crate::wal::{FrameOfLog, WalDirectory, WalFile, WalFileEnd, WalFileScan, WalReader, WalWriter, corrupt};
use set_aside::SetAside;
use shard::{Shard, Sharded, Unfit, by_shard, shard_of};
use table::{FileAction, FileEnd, LogAction, LogState, ManifestsState, NextFile, on_file, on_log};

/// Organisations that are loaded at a time.
const LOADS_AT_ONCE: usize = 32;

/// What recovery needs of the layers beside it.
#[async_trait]
pub(crate) trait RecoveryHost: Send + Sync {
    /// Sees to it that the organisation is loaded. Errors of its own ([`EngineError::is_of_one_org`]) leave it in trouble.
    async fn load(&self, org: OrgId) -> Result<(), EngineError>;

    /// The highest LSN that any organisation's manifest covers. Only asked when there is no WAL at all.
    async fn covered_max(&self) -> Result<Lsn, EngineError>;

    /// Write buffers take too much memory: flush until they do not.
    async fn relieve(&self, writers: &mut Writers) -> Result<(), EngineError>;
}

/// Where and how the log is kept.
#[derive(Debug, Clone)]
pub(crate) struct WalSettings {
    /// The WAL files' directory.
    pub(crate) dir: PathBuf,
    /// Where records go that cannot be applied.
    pub(crate) set_aside_dir: PathBuf,
    pub(crate) file_bytes: u64,
    pub(crate) bytes_max: u64,
    pub(crate) block_bytes_max: u64,
}

/// What recovery is given.
#[derive(Debug, Clone)]
pub(crate) struct RecoveryParts {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) keys: Arc<dyn KeyProvider>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Files that records of organisations in trouble go to.
    pub(crate) carried: Arc<CarriedFiles>,
}

/// What a start found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// WAL files read.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records applied to write buffers.
    pub applied: u64,
    /// Readings in them, repeated ones too.
    pub readings: u64,
    /// Records that segments hold already.
    pub skipped: u64,
    /// Records that could not be applied, and are kept aside.
    pub set_aside: u64,
    /// Records of organisations in trouble that were copied into carried files.
    pub carried: u64,
    /// Blocks that a crash had torn, and that were cut; nothing in them was acknowledged.
    pub torn: u64,
    /// The LSN that the log goes on with: every record before it was found.
    pub next_lsn: Lsn,
    /// Was the log closed cleanly, or not there yet?
    pub clean: bool,
    /// How long it took.
    pub took: Duration,
}

/// The engine's state after recovery.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) writers: Writers,
    pub(crate) wal: WalWriter,
    pub(crate) report: RecoveryReport,
}

/// Reads the WAL and applies what no segment holds.
///
/// # Errors
/// When the log is damaged in a way that no crash leaves, with file and offset; when it cannot be read, or its key does
/// not open; and what the host answers.
pub(crate) async fn recover(
    settings: &WalSettings,
    parts: RecoveryParts,
    spawn: Arc<dyn Spawn>,
    writers: Writers,
    host: &dyn RecoveryHost,
) -> Result<Recovered, EngineError> {
    let start = parts.clock.monotonic();
    let mut carried_max = Lsn::ZERO;
    for (org, files) in parts.carried.find()? {
        carried_max = files.iter().map(|file| file.last).max().unwrap_or_default().max(carried_max);
        writers.orgs().troubles().found(org, files, parts.clock.now());
    }
    let reader = WalReader::open(Arc::clone(&parts.files), Arc::clone(&parts.keys), settings.dir.clone())?;
    let reader = Arc::new(reader);
    let scan = |index: usize| {
        let (reader, id) = (Arc::clone(&reader), *reader.ids().get(index)?);
        let last = index + 1 == reader.ids().len();
        Some(beside(&*spawn, async move {
            let mut scanned = reader.scan(id, last).await?;
            let sharded = by_shard(std::mem::take(&mut scanned.blocks));
            Ok::<_, EngineError>((scanned, sharded))
        }))
    };
    let set_aside = SetAside::new(settings.set_aside_dir.clone(), parts.clone());
    let mut replay = Replay {
        writers,
        host,
        spawn: Arc::clone(&spawn),
        set_aside,
        carried: Arc::clone(&parts.carried),
        clock: Arc::clone(&parts.clock),
        covered_max: carried_max,
        report: RecoveryReport::default(),
    };
    let mut found = Vec::new();
    let mut next_lsn = Lsn::new(1);
    replay.report.clean = true;
    let mut next = scan(0);
    while let Some(scanned) = next.take() {
        let (mut scanned, sharded) = scanned.await??;
        reader.settle(&mut scanned)?;
        let index = found.len() + 1;
        let end = replay.judge_file(&reader, &scanned, reader.ids().get(index).copied())?;
        next = scan(index);
        replay.report.clean = end == FileEnd::Closed;
        replay.report.files += 1;
        replay.report.bytes += scanned.file.bytes;
        found.push(scanned.file);
        next_lsn = scanned.next_lsn;
        replay.apply(sharded).await?;
    }
    let next_lsn = replay.judge_log(&found, next_lsn).await?;
    let last_id = found.last().map(|file| file.id);
    let next_id = match last_id {
        None => Some(WalFileId::FIRST),
        Some(id) => id.next(),
    };
    let Some(next_id) = next_id else {
        return Err(refuse("there are no more WAL file numbers"));
    };
    let Replay { writers, mut report, .. } = replay;
    report.next_lsn = next_lsn;
    report.took = parts.clock.monotonic().saturating_sub(start);
    let RecoveryParts { files, keys, random, clock, carried: _ } = parts;
    let directory = WalDirectory::new(files, settings.dir.clone(), found, settings.file_bytes, settings.bytes_max);
    let wal = WalWriter::new(directory, keys, random, clock, next_id, next_lsn, settings.block_bytes_max);
    Ok(Recovered { writers, wal, report })
}

/// A recovery under way.
struct Replay<'a> {
    writers: Writers,
    host: &'a dyn RecoveryHost,
    spawn: Arc<dyn Spawn>,
    set_aside: SetAside,
    carried: Arc<CarriedFiles>,
    clock: Arc<dyn Clock>,
    /// The highest LSN that a manifest seen so far covers, or that a carried file holds.
    covered_max: Lsn,
    report: RecoveryReport,
}

impl Replay<'_> {
    /// Looks up what a file's end means; refuses the start if it must be refused.
    fn judge_file(
        &mut self,
        reader: &WalReader,
        scan: &WalFileScan,
        following: Option<WalFileId>,
    ) -> Result<FileEnd, EngineError> {
        let end = match &scan.end {
            WalFileEnd::Fine(WalEnd::Closed) => FileEnd::Closed,
            WalFileEnd::Fine(WalEnd::Open { .. }) => FileEnd::Open,
            WalFileEnd::Fine(WalEnd::TornTail { .. }) => FileEnd::Torn,
            WalFileEnd::Corrupt(_) => FileEnd::Corrupt,
        };
        let next = match following {
            None => NextFile::None,
            Some(id) => match reader.first_lsn(id)? {
                Some(first) if first != scan.next_lsn => NextFile::Gap,
                // A file without a whole header is told about, with its own name, when its turn comes.
                Some(_) | None => NextFile::Continues,
            },
        };
        let path = reader.path(scan.file.id);
        match (on_file(end, next), &scan.end) {
            (FileAction::Replay, _) => {}
            (FileAction::Cut, WalFileEnd::Fine(WalEnd::TornTail { offset, bytes })) => {
                self.report.torn += 1;
                tracing::info!(file = %path.display(), offset, bytes,
                    "a WAL block was being written when the machine or the process stopped; it was never acknowledged and is passed over");
            }
            (FileAction::RefuseGap, _) => {
                return Err(EngineError::new(
                    EngineErrorKind::Corrupt,
                    "the WAL has a hole: records between two files are missing",
                    "Nothing was changed. If a WAL file was moved or removed, put it back.",
                )
                .at(format_args!(
                    "{} ends before LSN {}, the next file starts after it",
                    path.display(),
                    scan.next_lsn
                )));
            }
            (FileAction::RefuseDamage, WalFileEnd::Corrupt(error)) => return Err(corrupt(&path, error)),
            (FileAction::Cut | FileAction::RefuseDamage, _) => {
                return Err(refuse("a WAL file's end is not what it is"));
            }
        }
        Ok(end)
    }

    /// Loads those of these organisations that are not loaded, many at a time: their manifests are small objects, and what
    /// takes time is to wait for each.
    async fn load_all(&self, orgs: &BTreeSet<OrgId>) -> Result<(), EngineError> {
        let new = orgs.iter().filter(|org| self.writers.orgs().get(**org).is_none());
        let loads: Vec<_> = new.map(|org| self.load(*org)).collect();
        let mut loads = futures::stream::iter(loads).buffer_unordered(LOADS_AT_ONCE);
        while loads.try_next().await?.is_some() {}
        Ok(())
    }

    /// Applies a file's records: the shards beside each other, with a stop whenever the write buffers are full.
    async fn apply(&mut self, Sharded { mut shards, orgs, last }: Sharded) -> Result<(), EngineError> {
        self.load_all(&orgs).await?;
        for org in orgs {
            let covered = self.writers.org(org).map(|writer| writer.lsn_covered());
            self.covered_max = self.covered_max.max(covered.unwrap_or(Lsn::ZERO));
        }
        let mut to_carry: BTreeMap<OrgId, Vec<FrameOfLog>> = BTreeMap::new();
        while shards.iter().any(|records| records.len() > 0) {
            if self.writers.orgs().budget().is_high() {
                self.host.relieve(&mut self.writers).await?;
            }
            let none = Writers::new(Arc::clone(self.writers.orgs()));
            let writers = std::mem::replace(&mut self.writers, none).split(shards.len(), shard_of);
            let shard = |(writers, records)| beside(&*self.spawn, Shard::new(writers, records).run());
            let running = writers.into_iter().zip(shards).map(shard);
            shards = Vec::new();
            let mut unfit = Vec::new();
            for shard in futures::future::try_join_all(running).await? {
                self.writers.join(shard.writers);
                self.report.applied += shard.applied;
                self.report.readings += shard.readings;
                self.report.skipped += shard.skipped;
                unfit.extend(shard.unfit);
                for record in shard.to_carry {
                    to_carry.entry(record.org).or_default().push(record);
                }
                shards.push(shard.records);
            }
            unfit.sort_unstable_by_key(|unfit| unfit.record.lsn);
            for Unfit { record, why } in unfit {
                let path = self.set_aside.keep(&record)?;
                self.report.set_aside += 1;
                tracing::error!(lsn = %record.lsn, file = %path.display(), detail = why,
                    "a WAL record that is whole cannot be applied; it is kept aside and the start goes on");
            }
        }
        for (org, records) in to_carry {
            let file = self.carried.write(&records)?;
            self.writers.orgs().troubles().carried(org, file);
            self.report.carried += records.len() as u64;
        }
        if let Some(last) = last {
            self.writers.orgs().set_applied(last);
        }
        Ok(())
    }

    /// Loads an organisation, or finds that it is in trouble: that must not stop the start for the others.
    async fn load(&self, org: OrgId) -> Result<(), EngineError> {
        match self.host.load(org).await {
            // The log has records of it, so that it was there.
            Err(error) if error.is_of_one_org() => {
                self.writers.orgs().troubles().begin(org, &error, false, self.clock.now());
                Ok(())
            }
            loaded => loaded,
        }
    }

    /// Looks up what log and manifests together mean; answers the LSN to go on with.
    async fn judge_log(&mut self, found: &[WalFile], next_lsn: Lsn) -> Result<Lsn, EngineError> {
        let log = if found.is_empty() { LogState::None } else { LogState::Some };
        if log == LogState::None {
            self.covered_max = self.host.covered_max().await?.max(self.covered_max);
        }
        let manifests = match self.covered_max {
            Lsn::ZERO => ManifestsState::CoverNothing,
            covered if covered < next_lsn => ManifestsState::WithinLog,
            _ => ManifestsState::BeyondLog,
        };
        match on_log(log, manifests) {
            LogAction::GoOn => Ok(next_lsn),
            LogAction::BeginAfterManifests => {
                tracing::warn!(covered = %self.covered_max,
                    "there is no WAL, although the store has flushed records of one: the log begins anew after them; what was acknowledged and not flushed went with the old log");
                let next = self.covered_max.next().ok_or_else(|| refuse("there are no more LSNs"))?;
                self.writers.orgs().set_applied(self.covered_max);
                Ok(next)
            }
            LogAction::Refuse => Err(EngineError::new(
                EngineErrorKind::Corrupt,
                "the WAL ends before records that the store has flushed: its last files are missing, or it belongs to another store",
                "Nothing was changed. Put the missing WAL files back, or point to the store that belongs to this data directory.",
            )
            .at(format_args!("the WAL goes on at LSN {next_lsn}, manifests cover LSN {}", self.covered_max))),
        }
    }
}

fn refuse(what: &'static str) -> EngineError {
    EngineError::new(EngineErrorKind::Failed, what, "This is an error in the program; please report it.")
}

#[cfg(test)]
mod tests;
