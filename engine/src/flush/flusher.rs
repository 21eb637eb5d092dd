//! One frozen buffer into segments, and the one commit that makes them count.
//!
//! Crash consistency, objects and manifest: all objects of the flush are durable before the commit names them. When
//! the store does not say whether the commit happened, the manifest is loaded again and looked at: if it covers the
//! buffer's records, they are in segments, and the buffer goes; if not, it stays. A record is never flushed twice.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use durable::{PutError, Spawn, beside};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::manifest::{Manifest, SPOOLS_PER_GATEWAY_MAX, SegmentEntry, SpoolPosition, Totals};
use storage_format::{ChannelCode, FlushNumber, GatewayId, Lsn, OrgId, Window};

use super::FlushReport;
use super::resolve::{Suspects, WindowFlush};
use crate::buffer::{SortedBatches, WriteBuffer};
use crate::config::EngineConfig;
use crate::error::{EngineError, EngineErrorKind};
use crate::manifest::{CommitError, ManifestChange, ManifestStore};
use crate::org::{Frontier, Org};
use crate::planted::{self, PlantedBug};
use crate::segments::Segments;

/// Flushes frozen buffers.
#[derive(Clone)]
pub(crate) struct Flusher {
    manifests: Arc<ManifestStore>,
    pub(super) segments: Arc<Segments>,
    pub(super) segment_bytes_max: u64,
    pub(super) merge_runs_max: usize,
    /// Parts of one flush that are encoded at the same time.
    parts_max: usize,
    /// Rows that are worth a part of their own, which makes a segment of its own.
    part_rows: NonZeroUsize,
    /// Where the log ended when this process began: records up to there may be flushed by earlier processes.
    log_end: Arc<OnceLock<Lsn>>,
    /// Where parts are encoded: that takes a core for a while.
    spawn: Arc<dyn Spawn>,
}

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flusher").finish_non_exhaustive()
    }
}

/// What was written for a flush so far, to be named by its commit.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) entries: Vec<SegmentEntry>,
    pub(super) totals: Totals,
}

impl Written {
    fn add(&mut self, mut part: Self) -> Result<(), EngineError> {
        self.entries.append(&mut part.entries);
        self.totals = self.totals.checked_add(part.totals).ok_or_else(|| defect("a flush counts past u64"))?;
        Ok(())
    }
}

/// What every object of a flush has in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlushSpan {
    pub(super) org: OrgId,
    pub(super) flush: FlushNumber,
    pub(super) lsn_min: Lsn,
    pub(super) lsn_max: Lsn,
}

impl Flusher {
    pub(crate) fn new(
        config: &EngineConfig,
        manifests: &Arc<ManifestStore>,
        segments: &Arc<Segments>,
        log_end: Arc<OnceLock<Lsn>>,
        spawn: Arc<dyn Spawn>,
    ) -> Self {
        Self {
            log_end,
            spawn,
            parts_max: config.flush_concurrency,
            part_rows: config.flush_part_rows,
            manifests: Arc::clone(manifests),
            segments: Arc::clone(segments),
            segment_bytes_max: config.segment_bytes_max,
            merge_runs_max: config.merge_runs_max,
        }
    }

    /// Flushes the buffers of an organisation that are frozen now, oldest first, each in a commit of its own.
    ///
    /// # Errors
    /// Whatever the store or the manifest says; the buffers not yet flushed stay frozen.
    pub(crate) async fn flush_frozen(&self, org: &Org) -> Result<FlushReport, EngineError> {
        let mut frontier = org.flushing.lock().await;
        let mut report = FlushReport::default();
        // Those frozen meanwhile wait for the next step: others want their turn.
        // Counted before: the loop's head would hold all buffers, and their memory, to its end.
        let frozen = org.state().frozen.len();
        for _ in 0..frozen {
            let state = org.state();
            let Some(buffer) = state.frozen.first() else { break };
            report.add(self.flush_buffer(org, &state.manifest, buffer, &mut frontier).await?);
        }
        Ok(report)
    }

    async fn flush_buffer(
        &self,
        org: &Org,
        manifest: &Arc<Manifest>,
        buffer: &Arc<WriteBuffer>,
        frontier: &mut Frontier,
    ) -> Result<FlushReport, EngineError> {
        let (Some(lsn_min), Some(lsn_max)) = (buffer.lsn_first(), buffer.lsn_last()) else {
            return Err(defect("a frozen buffer is empty"));
        };
        match covered(manifest, lsn_min, lsn_max) {
            Covered::Nothing => {}
            Covered::All => {
                org.flushed(manifest, buffer);
                return Ok(FlushReport { buffers: 1, ..FlushReport::default() });
            }
            Covered::Some => return Err(late_commit(org.id(), manifest.lsn_covered())),
        }
        let Some(flush) = manifest.flush().next() else {
            return Err(defect("there are no more flush numbers"));
        };
        let span = FlushSpan { org: org.id(), flush, lsn_min, lsn_max };
        let Written { entries, totals } = self.write(span, manifest, buffer, frontier).await?;
        let report = FlushReport {
            buffers: 1,
            readings: totals.readings,
            duplicates: totals.duplicates,
            conflicts: totals.conflicts,
            filled: totals.filled,
            segments: entries.len() as u64,
            bytes: entries.iter().map(|entry| entry.bytes).sum(),
        };
        let change = ManifestChange {
            added: entries,
            removed: Vec::new(),
            lsn_covered: lsn_max.max(manifest.lsn_covered()),
            flush,
            spools: spools(buffer, manifest),
            totals,
        };
        let committed = self.commit(org, manifest, change, (lsn_min, lsn_max), frontier).await?;
        org.flushed(&Arc::new(committed), buffer);
        Ok(report)
    }

    /// Writes what is new of a buffer, part by part.
    async fn write(
        &self,
        span: FlushSpan,
        manifest: &Arc<Manifest>,
        buffer: &Arc<WriteBuffer>,
        frontier: &mut Frontier,
    ) -> Result<Written, EngineError> {
        let view = buffer.view();
        let channels: Arc<[ChannelCode]> = view.channels().into();
        let parts = {
            let (channels, parts_max, part_rows) = (Arc::clone(&channels), self.parts_max, self.part_rows);
            let sorted = async move {
                let split = |(window, rows): (Window, SortedBatches)| {
                    let parts = rows.rows().div_ceil(part_rows.get()).min(parts_max);
                    rows.split(parts).into_iter().map(move |part| (window, part))
                };
                view.by_window(&channels).into_iter().flat_map(split).collect::<Vec<_>>()
            };
            beside(&*self.spawn, sorted).await?
        };
        frontier.hold_for(manifest);
        let parts: Vec<_> =
            parts.into_iter().map(|(window, rows)| (window, Suspects::of(&rows, frontier), rows)).collect();
        // Whatever comes of it: bounds may be too late, never too early.
        for times in parts.iter().flat_map(|(_, _, rows)| rows.loggers()) {
            frontier.raise(times.logger, times.max);
        }
        let encoded = parts.into_iter().map(|(window, suspects, rows)| {
            let (flusher, manifest, channels) = (self.clone(), Arc::clone(manifest), Arc::clone(&channels));
            let part = WindowFlush { flusher, span, manifest, channels, window };
            async move { beside(&*self.spawn, part.run(rows, suspects)).await? }
        });
        let mut encoded = futures::stream::iter(encoded).buffered(self.parts_max);
        let mut written = Written::default();
        while let Some(part) = encoded.try_next().await? {
            written.add(part)?;
        }
        Ok(written)
    }

    async fn commit(
        &self,
        org: &Org,
        manifest: &Manifest,
        change: ManifestChange,
        span: (Lsn, Lsn),
        frontier: &mut Frontier,
    ) -> Result<Manifest, EngineError> {
        let (lsn_min, lsn_max) = span;
        let error = match self.manifests.commit(org.id(), manifest, change).await {
            Ok(committed) => {
                frontier.follow(&committed);
                return Ok(committed);
            }
            Err(error) if planted::has(PlantedBug::TrustPutErrors) => return Err(error.into()),
            Err(error @ (CommitError::Conflict { .. } | CommitError::Put(PutError::MayHaveHappened { .. }))) => error,
            Err(error) => return Err(error.into()),
        };
        // Whatever happened, the manifest that this process knows may be old: it is loaded again, also for the next try.
        let loaded = self.manifests.load(org.id()).await?;
        let covered = covered(&loaded, lsn_min, lsn_max);
        if covered != Covered::Nothing && !self.is_of_this_log(org.id(), &loaded).await? {
            return Err(EngineError::new(
                EngineErrorKind::Fenced,
                "another process has flushed other records under the same numbers",
                "End one of the two: only one may serve a store. What is not flushed stays in this one's WAL.",
            )
            .at(format_args!("organisation {}, version {}", org.id(), loaded.version())));
        }
        if covered == Covered::All {
            tracing::info!(org = %org.id(), version = %loaded.version(), "a commit whose answer was lost did happen");
            return Ok(loaded);
        }
        org.reloaded(&Arc::new(loaded));
        Err(error.into())
    }
}

impl Flusher {
    /// Does what this manifest covers come from the log that this process writes? An earlier process can only have
    /// flushed what was in the log when this one began; what is past that must be this one's own.
    async fn is_of_this_log(&self, org: OrgId, manifest: &Manifest) -> Result<bool, EngineError> {
        match self.log_end.get() {
            Some(end) if manifest.lsn_covered() > *end => Ok(self.manifests.is_own(org, manifest.version()).await?),
            _ => Ok(true),
        }
    }
}

/// How much of a buffer's records a manifest's segments hold already, if it is of the same log: a commit covers a prefix
/// of an organisation's records, so its one number tells, whether it is an earlier try of this process whose answer was
/// lost, or an earlier process's whose put arrived after its end.
#[derive(Debug, PartialEq, Eq)]
enum Covered {
    Nothing,
    Some,
    All,
}

fn covered(manifest: &Manifest, lsn_min: Lsn, lsn_max: Lsn) -> Covered {
    let covered = manifest.lsn_covered();
    if covered < lsn_min {
        Covered::Nothing
    } else if covered < lsn_max {
        Covered::Some
    } else {
        Covered::All
    }
}

/// Some of a buffer's records are flushed and some are not, which only recovery can tell apart.
fn late_commit(org: OrgId, covered: Lsn) -> EngineError {
    EngineError::new(
        EngineErrorKind::Fenced,
        "a commit of an earlier process arrived after its end and covers a part of what is in memory",
        "Start again: the start reads from the WAL what it does not cover. Nothing is lost.",
    )
    .at(format_args!("organisation {org}, covered up to LSN {covered}"))
}

/// How far each spool got with this buffer.
fn spools(buffer: &WriteBuffer, manifest: &Manifest) -> Vec<SpoolPosition> {
    let mut gateways: BTreeMap<GatewayId, Vec<SpoolPosition>> = BTreeMap::new();
    for (gateway, spool, buffered) in buffer.spools() {
        // A frame may be sent again, later, with a lower number than one that is durable: the highest stays.
        let sequence = buffered.sequence.max(manifest.spool_sequence(gateway, spool));
        gateways.entry(gateway).or_default().push(SpoolPosition { gateway, spool, sequence, lsn: buffered.lsn });
    }
    let mut positions = Vec::new();
    for mut of_gateway in gateways.into_values() {
        of_gateway.sort_by_key(|position| std::cmp::Reverse((position.lsn, position.spool)));
        of_gateway.truncate(SPOOLS_PER_GATEWAY_MAX);
        positions.append(&mut of_gateway);
    }
    positions.sort_unstable();
    positions
}

pub(super) fn defect(what: &'static str) -> EngineError {
    EngineError::new(EngineErrorKind::Failed, what, "This is a defect of icecore; nothing is lost. Please report it.")
}
