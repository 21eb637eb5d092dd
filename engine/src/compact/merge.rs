//! One merge: objects of one kind in, one object of that kind out, as streams; and beside it what became of rows that
//! were united.
//!
//! Memory: a batch and a row group of each input, and the objects being encoded, which are about as large as all inputs
//! together; the chooser bounds both. What goes in comes out: every value is in the merged rows, or in the lists beside
//! them. That is checked against what is read back from the store, before anybody may name the result. A damaged input
//! or a defect makes the merge an error, and all stays as it is.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::TryStreamExt as _;
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind, Totals};
use storage_format::segment::{EncodedSegment, merged_readings_schema, readings_schema};
use storage_format::{ChannelCode, FlushNumber, Lsn, ObjectKey, OrgId, SegmentId};

use super::content::{Content, Rows, Samples};
use super::lists::{Lists, schema_of};
use super::pace::Pacer;
use super::readings::encode_readings;
use crate::error::{EngineError, EngineErrorKind};
use crate::first_wins::{MergeError, unify};
use crate::segments::{NewSegment, SegmentFilter, Segments, encode_error};

/// What is merged.
#[derive(Debug, Clone)]
pub(super) struct MergeJob {
    pub(super) segments: Arc<Segments>,
    pub(super) org: OrgId,
    /// Objects of one kind and window: neighbours in the order of precedence, two at least.
    pub(super) inputs: Vec<SegmentEntry>,
    /// The fills objects of the window: what they list is not listed again.
    pub(super) fills: Vec<SegmentEntry>,
    /// Whether rollups are made of merged readings.
    pub(super) rolls_up: bool,
}

/// What an object must hold when it is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Readings(Content),
    Fills(Samples),
    Rows(Rows),
}

/// The objects that a merge makes, none of which is in the store yet.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The merged object, then the lists beside it.
    pub(super) objects: Vec<(EncodedSegment, Expected)>,
    /// The rollups of the merged object, if its rows are readings.
    pub(super) rollups: Vec<EncodedSegment>,
    /// What the merge found that was not counted before: nothing, unless the inputs were not made here.
    pub(super) totals: Totals,
}

impl MergeJob {
    pub(super) fn kind(&self) -> SegmentKind {
        self.inputs[0].kind
    }

    pub(super) fn bytes(&self) -> u64 {
        self.inputs.iter().map(|entry| entry.bytes).sum()
    }

    pub(super) fn rows(&self) -> u64 {
        self.inputs.iter().map(|entry| entry.rows).sum()
    }

    pub(super) fn channels(&self) -> Vec<ChannelCode> {
        let mut all: Vec<ChannelCode> = self.inputs.iter().flat_map(|entry| entry.channels.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The first and the last flush of all inputs.
    pub(super) fn flushes(&self) -> (FlushNumber, FlushNumber) {
        let first = self.inputs.iter().map(|entry| entry.flush_first).min();
        let last = self.inputs.iter().map(|entry| entry.flush_last).max();
        (first.unwrap_or_default(), last.unwrap_or_default())
    }

    /// An object that the merge makes.
    pub(super) fn new_object(&self, kind: SegmentKind) -> NewSegment {
        let (flush_first, flush_last) = self.flushes();
        NewSegment {
            kind,
            org: self.org,
            window: self.inputs[0].window,
            flush_first,
            flush_last,
            lsn_min: self.inputs.iter().map(|entry| entry.lsn_min).min().unwrap_or(Lsn::ZERO),
            lsn_max: self.inputs.iter().map(|entry| entry.lsn_max).max().unwrap_or(Lsn::ZERO),
            channels: self.channels(),
        }
    }

    /// Returns whether the manifest still has all inputs.
    pub(super) fn is_live(&self, manifest: &Manifest) -> bool {
        let live = match self.kind() {
            SegmentKind::Readings => manifest.segments(),
            SegmentKind::Conflicts => manifest.conflicts(),
            _ => manifest.fills(),
        };
        self.inputs.iter().all(|input| live.contains(input))
    }

    /// Returns whether the merged rows may have keys of segments of the manifest that take precedence over them: some
    /// input fills channels of older readings, and not all of those are inputs.
    pub(super) fn shares_keys(&self, manifest: &Manifest) -> bool {
        let (first, _) = self.flushes();
        let mut fillers = self.inputs.iter().filter(|input| input.shares_keys);
        let older = || manifest.segments_in(self.inputs[0].window).filter(|entry| entry.flush_last < first);
        fillers.any(|filler| older().any(|entry| entry.may_share_keys_with(filler)))
    }

    /// What a commit of the merge removes: the inputs, and what was made from them.
    pub(super) fn replaced(&self, manifest: &Manifest) -> Vec<(SegmentId, ObjectKey)> {
        let is_input = |id: SegmentId| self.inputs.iter().any(|input| input.id == id);
        let rollups = manifest.rollups().iter().filter(|rollup| rollup.of.is_some_and(is_input));
        self.inputs.iter().chain(rollups).map(|entry| (entry.id, entry.object_key(self.org))).collect()
    }

    /// Reads and encodes; answers the objects, which are nowhere yet, and what they must hold. `None` if the pacer gave
    /// up.
    ///
    /// # Errors
    /// From keys, store and segments; [`EngineErrorKind::Corrupt`] for inputs that do not hold what the manifest says.
    pub(super) async fn encode(&self, pacer: &mut Pacer) -> Result<Option<Encoded>, EngineError> {
        match self.kind() {
            SegmentKind::Readings => encode_readings(self, pacer).await,
            kind => self.encode_lists(kind, pacer).await,
        }
    }

    async fn encode_lists(&self, kind: SegmentKind, pacer: &mut Pacer) -> Result<Option<Encoded>, EngineError> {
        let mut encoder = self.segments.encoder(&self.new_object(kind)).await?;
        let mut lists = Lists::open(&self.segments, self.org, &self.inputs, kind).await?;
        let (mut rows, mut samples) = (Rows::default(), Samples::default());
        while let Some(batch) = lists.next().await? {
            if kind == SegmentKind::Fills {
                samples.add(&batch)
            } else {
                rows.add(&batch)
            }
            encoder.write(&batch).map_err(encode_error)?;
            if !pacer.wait(batch.num_rows() as u64).await {
                return Ok(None);
            }
        }
        let read = rows.rows + samples.count;
        if read != self.rows() {
            return Err(self.differs(format_args!("{} rows in the manifest, {read} read", self.rows())));
        }
        let expected = if kind == SegmentKind::Fills { Expected::Fills(samples) } else { Expected::Rows(rows) };
        let encoded = encoder.finish().map_err(encode_error)?;
        Ok(Some(Encoded { objects: vec![(encoded, expected)], rollups: Vec::new(), totals: Totals::default() }))
    }

    /// Reads an object back from the store, past any cache, which has what was written whatever the store holds, and
    /// compares it with what it must hold.
    ///
    /// # Errors
    /// As [`MergeJob::encode`].
    pub(super) async fn verify(&self, object: &SegmentEntry, expected: &Expected) -> Result<(), EngineError> {
        let stored = self.segments.past_cache();
        let mut stream = stored.read(self.org, object, &SegmentFilter::default(), None).await?;
        let (mut content, mut samples, mut rows) = (Content::default(), Samples::default(), Rows::default());
        let schema = match object.kind {
            SegmentKind::Readings if object.flush_first < object.flush_last => merged_readings_schema(&object.channels),
            SegmentKind::Readings => readings_schema(&object.channels),
            kind => schema_of(kind),
        };
        while let Some(batch) = stream.try_next().await? {
            let batch: RecordBatch = unify(&batch, &schema).map_err(merge_error)?;
            match expected {
                Expected::Readings(_) => content.add(&batch, object.flush_first.get()),
                Expected::Fills(_) => samples.add(&batch),
                Expected::Rows(_) => rows.add(&batch),
            }
            tokio::task::yield_now().await;
        }
        let (found, read) = match expected {
            Expected::Readings(_) => (Expected::Readings(content), content.rows),
            Expected::Fills(_) => (Expected::Fills(samples), samples.count),
            Expected::Rows(_) => (Expected::Rows(rows), rows.rows),
        };
        if found == *expected {
            return Ok(());
        }
        let name = object.kind.name();
        Err(self.differs(format_args!("the {read} rows of {name} that came out are not those that went in")))
    }

    pub(super) fn differs(&self, detail: std::fmt::Arguments<'_>) -> EngineError {
        let ids: Vec<String> = self.inputs.iter().map(|entry| entry.id.to_string()).collect();
        EngineError::new(
            EngineErrorKind::Corrupt,
            format!("a merge of segments does not hold what went into it: {detail}"),
            "Nothing was changed, and nothing is lost. Please report it, with the output of `icecore manifest show`.",
        )
        .at(format_args!("organisation {}, segments {}", self.org, ids.join(", ")))
    }
}

/// What a merge refuses is in a stored segment, or a defect.
pub(super) fn merge_error(error: MergeError) -> EngineError {
    EngineError::new(
        EngineErrorKind::Corrupt,
        "segments could not be merged",
        "Nothing was changed, and nothing is lost. Please report it.",
    )
    .because(error)
}

#[cfg(test)]
mod tests;
