//! The rollups of one segment: made from its rows as they pass by, and read back before anybody names them.

use arrow::array::RecordBatch;
use futures::TryStreamExt as _;
use storage_format::OrgId;
use storage_format::manifest::SegmentEntry;
use storage_format::rollup::{RollupDigest, RollupEncoder, RollupGrain};
use storage_format::segment::EncodedSegment;

use super::builder::RollupBuilder;
use crate::error::{EngineError, EngineErrorKind};
use crate::segments::{NewSegment, SegmentFilter, Segments, encode_error};

/// Interval of loggers that have none of their own: a value stands for 2.5 times that at most.
pub(crate) const INTERVAL_S: u32 = 300;

/// Writer of the rollups of one segment.
#[derive(Debug)]
pub(crate) struct RollupWriter {
    builder: RollupBuilder,
    hourly: RollupEncoder,
    daily: RollupEncoder,
}

impl RollupWriter {
    /// Starts both rollups of the segment that `of` describes.
    ///
    /// # Errors
    /// As [`Segments::rollup_encoder`].
    pub(crate) async fn new(segments: &Segments, of: &NewSegment) -> Result<Self, EngineError> {
        let new = |grain: RollupGrain| NewSegment { kind: grain.kind(), ..of.clone() };
        Ok(Self {
            builder: RollupBuilder::new(&of.channels, INTERVAL_S),
            hourly: segments.rollup_encoder(&new(RollupGrain::Hourly), INTERVAL_S).await?,
            daily: segments.rollup_encoder(&new(RollupGrain::Daily), INTERVAL_S).await?,
        })
    }

    /// Adds rows of the segment, which follow those before.
    ///
    /// # Errors
    /// [`EngineErrorKind::Failed`] for rows that no segment can have.
    pub(crate) fn push(&mut self, rows: &RecordBatch) -> Result<(), EngineError> {
        self.builder.push(rows);
        let ready = self.builder.take_ready();
        ready.into_iter().try_for_each(|(grain, rows)| self.write(grain, &rows))
    }

    fn write(&mut self, grain: RollupGrain, rows: &RecordBatch) -> Result<(), EngineError> {
        let encoder = match grain {
            RollupGrain::Hourly => &mut self.hourly,
            RollupGrain::Daily => &mut self.daily,
        };
        encoder.write(rows).map_err(encode_error)
    }

    /// Finishes both, of the segment with this entry: the hourly one, then the daily one.
    ///
    /// # Errors
    /// [`EngineErrorKind::Failed`] if the rows were not all of the segment's.
    pub(crate) fn finish(mut self, source: &SegmentEntry) -> Result<[EncodedSegment; 2], EngineError> {
        let builder = std::mem::replace(&mut self.builder, RollupBuilder::new(&[], INTERVAL_S));
        builder.finish().into_iter().try_for_each(|(grain, rows)| self.write(grain, &rows))?;
        Ok([self.hourly.finish(source).map_err(encode_error)?, self.daily.finish(source).map_err(encode_error)?])
    }
}

/// Puts rollups into the store and reads them back; answers their entries.
///
/// # Errors
/// From store and keys; [`EngineErrorKind::Corrupt`] for a rollup that is not what was written.
pub(crate) async fn put_rollups(
    segments: &Segments,
    org: OrgId,
    rollups: [EncodedSegment; 2],
) -> Result<Vec<SegmentEntry>, EngineError> {
    let mut entries = Vec::with_capacity(2);
    for rollup in rollups {
        let entry = segments.put(org, rollup).await?;
        verify(segments, org, &entry).await?;
        entries.push(entry);
    }
    Ok(entries)
}

async fn verify(segments: &Segments, org: OrgId, entry: &SegmentEntry) -> Result<(), EngineError> {
    let Some(grain) = RollupGrain::of_kind(entry.kind) else { return Ok(()) };
    let mut digest = RollupDigest::new(grain);
    let mut rows = segments.read_rollup(org, entry, &SegmentFilter::default(), &entry.channels).await?;
    while let Some(batch) = rows.try_next().await? {
        digest.update(&batch);
        tokio::task::yield_now().await;
    }
    if digest.finish() == entry.digest {
        return Ok(());
    }
    Err(EngineError::new(
        EngineErrorKind::Corrupt,
        "a rollup does not hold what was written into it",
        "Nothing was changed, and nothing is lost. Please report it, with the output of `icecore manifest show`.",
    )
    .at(entry.object_key(org)))
}
