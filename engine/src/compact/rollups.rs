//! Rollups for segments that no merge has made, such as what a flush, an import or an older build has written: once their
//! window is over and no merge of it is wanted any more.
//!
//! Crash consistency, objects and manifest: as in a merge; a commit adds both rollups of a segment, or none.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use futures::TryStreamExt as _;
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind};
use storage_format::segment::readings_schema;
use storage_format::{Millis, ObjectKey, SegmentId};

use super::Merged;
use super::pace::Pacer;
use super::work::{Unnamed, Work};
use crate::commit::{Commit, CommitReason};
use crate::error::EngineError;
use crate::manifest::ManifestChange;
use crate::rollup::{RollupWriter, put_rollups};
use crate::segments::SegmentFilter;

/// Returns the next of a window's objects that lacks rollups, alone, if the window is over and they are segments.
/// Segments that fill channels of readings in others have none.
pub(super) fn without_rollups<'a>(
    manifest: &Manifest,
    of_window: &'a [SegmentEntry],
    now: Millis,
) -> Option<&'a [SegmentEntry]> {
    let first = of_window.first()?;
    if first.kind != SegmentKind::Readings || first.window.range().end() > now {
        return None;
    }
    let of_this = manifest.rollups().iter().filter(|rollup| rollup.window == first.window);
    let made: HashSet<(SegmentId, SegmentKind)> =
        of_this.filter_map(|rollup| Some((rollup.of?, rollup.kind))).collect();
    let has = |segment: &SegmentEntry, kind| made.contains(&(segment.id, kind));
    let lacks = |segment: &SegmentEntry| {
        !segment.shares_keys
            && [SegmentKind::RollupHourly, SegmentKind::RollupDaily].into_iter().any(|kind| !has(segment, kind))
    };
    of_window.iter().position(lacks).map(|place| &of_window[place..=place])
}

impl Work {
    /// Makes the rollups of the one input, which stays as it is.
    pub(super) async fn roll_up(self, mut pacer: Pacer) -> Result<Option<Merged>, EngineError> {
        let Self { org, commits, clock, job } = self;
        let source = &job.inputs[0];
        let mut writer = RollupWriter::new(&job.segments, &job.new_object(SegmentKind::Readings)).await?;
        let columns = readings_schema(&source.channels);
        let columns = columns.fields().iter().take(2 + source.channels.len()).cloned().collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(columns));
        let mut rows = job.segments.read(org.id(), source, &SegmentFilter::default(), Some(schema)).await?;
        while let Some(batch) = rows.try_next().await? {
            writer.push(&batch)?;
            if !pacer.wait(batch.num_rows() as u64).await {
                return Ok(None);
            }
        }
        let rollups = writer.finish(source)?;
        // Named by nobody until the commit, and written without the turn: the garbage collection must know.
        let _writing: Vec<_> = rollups.iter().map(|object| org.kept().write(object.entry.id)).collect();
        let unnamed = Unnamed(Some(&org));
        let sight = commits.sight(&org);
        let added = put_rollups(&job.segments, org.id(), rollups).await?;
        let report = Merged {
            segments: 0,
            rows: added.iter().map(|entry| entry.rows).sum(),
            bytes_read: job.bytes(),
            bytes_written: added.iter().map(|entry| entry.bytes).sum(),
        };
        let mut turn = commits.turn(&org).await;
        turn.check(sight)?;
        let manifest = turn.manifest();
        if !job.is_live(&manifest) || without_rollups(&manifest, &job.inputs, clock.now()).is_none() {
            // Another change was faster, such as an earlier try of this one whose response was lost.
            return Ok(None);
        }
        // One of the two, should there be one alone, is made again.
        let alone = job.replaced(&manifest).into_iter().filter(|(id, _)| *id != source.id);
        let replaced: Vec<(SegmentId, ObjectKey)> = alone.collect();
        let removed = replaced.iter().map(|(id, _)| *id).collect();
        let change = ManifestChange { added, removed, ..turn.unchanged() };
        turn.commit(Commit { reason: CommitReason::Rollup, change, flushed: None }).await?;
        org.kept().replace_named(replaced, clock.monotonic());
        unnamed.forget();
        Ok(Some(report))
    }
}
