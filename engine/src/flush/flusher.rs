//! One frozen buffer into segments, and the one commit that makes them count.
//!
//! Crash consistency, objects and manifest: all objects of the flush are durable before the commit names them. What a
//! commit leaves whose response was lost, `commit` settles: the buffer goes if it was made, and stays if not.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use durable::{Spawn, beside};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::manifest::{Manifest, SPOOLS_PER_GATEWAY_MAX, SegmentEntry, SpoolPosition, Totals};
use storage_format::{ChannelCode, FlushNumber, GatewayId, Lsn, OrgId, Window};

use super::FlushReport;
use super::resolve::{Suspects, WindowFlush};
use crate::buffer::{SortedBatches, WriteBuffer};
use crate::commit::{Commit, CommitReason, Committer, Turn};
use crate::config::EngineConfig;
use crate::error::{EngineError, EngineErrorKind};
use crate::last::LastReadings;
use crate::manifest::ManifestChange;
use crate::org::{Frontier, Org};
use crate::segments::Segments;

/// Flushes frozen buffers.
#[derive(Clone)]
pub(crate) struct Flusher {
    commits: Arc<Committer>,
    last: Arc<LastReadings>,
    pub(super) segments: Arc<Segments>,
    pub(super) segment_bytes_max: u64,
    pub(super) merge_runs_max: usize,
    /// Parts of one flush that are encoded at the same time.
    parts_max: usize,
    /// Rows that are worth a part of their own, which makes a segment of its own.
    part_rows: NonZeroUsize,
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
        commits: &Arc<Committer>,
        segments: &Arc<Segments>,
        last: &Arc<LastReadings>,
        spawn: Arc<dyn Spawn>,
    ) -> Self {
        Self {
            spawn,
            parts_max: config.flush_concurrency,
            part_rows: config.flush_part_rows,
            commits: Arc::clone(commits),
            last: Arc::clone(last),
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
        let mut turn = self.commits.turn(org).await;
        let mut report = FlushReport::default();
        // Only the buffers that are frozen now, so that one organisation cannot starve the others. Counted before: the
        // loop's head would hold all buffers, and their memory, to its end.
        let frozen = org.state().frozen.len();
        for _ in 0..frozen {
            let Some(buffer) = org.state().frozen.first().cloned() else { break };
            report.add(self.flush_buffer(org.id(), &mut turn, &buffer).await?);
        }
        Ok(report)
    }

    async fn flush_buffer(
        &self,
        org: OrgId,
        turn: &mut Turn<'_>,
        buffer: &Arc<WriteBuffer>,
    ) -> Result<FlushReport, EngineError> {
        let (Some(lsn_min), Some(lsn_max)) = (buffer.lsn_first(), buffer.lsn_last()) else {
            return Err(defect("a frozen buffer is empty"));
        };
        if turn.settle(buffer)? {
            return Ok(FlushReport { buffers: 1, ..FlushReport::default() });
        }
        let manifest = turn.manifest();
        let Some(flush) = manifest.flush().next() else {
            return Err(defect("there are no more flush numbers"));
        };
        let span = FlushSpan { org, flush, lsn_min, lsn_max };
        let Written { entries, totals } = self.write(span, &manifest, buffer, turn.frontier()).await?;
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
            spools: spools(buffer, &manifest),
            totals,
        };
        let committed = turn.commit(Commit { reason: CommitReason::Flush, change, flushed: Some(buffer) }).await?;
        self.last.flushed(org, &manifest, &committed, &buffer.view());
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
