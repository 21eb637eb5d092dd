//! The rollups of one segment: made from its rows as they pass by, and read back before anybody names them.

use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use futures::TryStreamExt as _;
use storage_format::OrgId;
use storage_format::manifest::SegmentEntry;
use storage_format::rollup::{RollupDigest, RollupEncoder, RollupGrain};
use storage_format::segment::{EncodedSegment, FLUSH_COLUMN};

use super::builder::RollupBuilder;
use crate::error::{EngineError, EngineErrorKind};
use crate::planted::{self, PlantedBug};
use crate::segments::{NewSegment, SegmentFilter, Segments, encode_error};

/// Interval of loggers that have none of their own: a value stands for 2.5 times that at most.
pub(crate) const INTERVAL_S: u32 = 300;

/// Writer of the rollups of one segment.
#[derive(Debug)]
pub(crate) struct RollupWriter {
    /// For [`PlantedBug::RollupForgetsLate`]: what later flushes than this one brought is left out.
    first_flush: u64,
    readings: u64,
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
            first_flush: of.flush_first.get(),
            readings: 0,
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
        let timely = planted::has(PlantedBug::RollupForgetsLate).then(|| self.timely(rows));
        let rows = timely.as_ref().unwrap_or(rows);
        self.readings += rows.num_rows() as u64;
        self.builder.push(rows);
        let ready = self.builder.take_ready();
        ready.into_iter().try_for_each(|(grain, rows)| self.write(grain, &rows))
    }

    /// The rows of the first flush of all.
    fn timely(&self, rows: &RecordBatch) -> RecordBatch {
        let Some(flushes) = rows.column_by_name(FLUSH_COLUMN) else { return rows.clone() };
        let flushes = flushes.as_primitive::<UInt64Type>().values();
        let timely: BooleanArray = flushes.iter().map(|flush| Some(*flush == self.first_flush)).collect();
        arrow::compute::filter_record_batch(rows, &timely).unwrap_or_else(|_| rows.clone())
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
    pub(crate) fn finish(mut self, source: &SegmentEntry) -> Result<Vec<EncodedSegment>, EngineError> {
        let mut told = source.clone();
        if planted::has(PlantedBug::RollupForgetsLate) {
            told.rows = self.readings;
        }
        let builder = std::mem::replace(&mut self.builder, RollupBuilder::new(&[], INTERVAL_S));
        builder.finish().into_iter().try_for_each(|(grain, rows)| self.write(grain, &rows))?;
        Ok(vec![self.hourly.finish(&told).map_err(encode_error)?, self.daily.finish(&told).map_err(encode_error)?])
    }
}

/// Puts rollups into the store and reads them back; answers their entries.
///
/// # Errors
/// From store and keys; [`EngineErrorKind::Corrupt`] for a rollup that is not what was written.
pub(crate) async fn put_rollups(
    segments: &Segments,
    org: OrgId,
    rollups: Vec<EncodedSegment>,
) -> Result<Vec<SegmentEntry>, EngineError> {
    let mut entries = Vec::with_capacity(rollups.len());
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
    // A cache has what was written, whatever the store holds.
    let stored = segments.past_cache();
    let mut rows = stored.read_rollup(org, entry, &SegmentFilter::default(), &entry.channels).await?;
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
