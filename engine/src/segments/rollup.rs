//! Rollups in the store: encoders for new ones, and reading.

use std::sync::Arc;

use durable::Random;
use futures::StreamExt as _;
use parquet::file::metadata::ParquetMetaData;
use storage_format::encryption::{NONCE_BYTES, SecretKey};
use storage_format::manifest::SegmentEntry;
use storage_format::rollup::{RollupEncoder, RollupGrain, decode_rollup, stored_schema};
use storage_format::segment::SegmentSpec;
use storage_format::{ChannelCode, FileKind, FormatError, FormatErrorKind, Millis, OrgId, SegmentId, TimeRange};

use super::{NewSegment, SegmentFilter, SegmentReadError, SegmentStream, Segments, encode_error};
use crate::error::EngineError;

/// A fresh random id.
pub(super) fn fresh_id(random: &dyn Random) -> SegmentId {
    let mut id = [0; 16];
    random.fill(&mut id);
    // Zero, once in 2^128, is no id: one is as random.
    SegmentId::new(u128::from_le_bytes(id)).unwrap_or(SegmentId::MIN)
}

/// The filter that leaves in whichever bucket has a time that is asked for: rows have the times of buckets' starts.
fn by_bucket(grain: RollupGrain, filter: &SegmentFilter) -> SegmentFilter {
    let time = filter.time.and_then(|time| {
        let start = Millis::new(grain.floor(time.start().get())).ok()?;
        TimeRange::new(start, time.end()).ok()
    });
    SegmentFilter { time, loggers: filter.loggers.clone() }
}

impl Segments {
    /// Starts a rollup under a fresh random id, with a fresh data key. `new` has the kind of the rollup; the rest is that
    /// of the segment whose readings it is made from.
    ///
    /// # Errors
    /// [`EngineError`] when the organisation's key can not be had.
    pub async fn rollup_encoder(&self, new: &NewSegment, interval_s: u32) -> Result<RollupEncoder, EngineError> {
        let (org_key, key_version) = self.keys.current(new.org).await?;
        let (mut key, mut nonce) = ([0; 32], [0; NONCE_BYTES]);
        self.random.fill(&mut key);
        self.random.fill(&mut nonce);
        let spec = SegmentSpec {
            kind: new.kind,
            org: new.org,
            window: new.window,
            id: fresh_id(&*self.random),
            flush_first: new.flush_first,
            flush_last: new.flush_last,
            lsn_min: new.lsn_min,
            lsn_max: new.lsn_max,
            key_version,
        };
        let key = SecretKey::from_bytes(key);
        RollupEncoder::new(spec, interval_s, &new.channels, (&org_key, &key), nonce, self.row_group_rows)
            .map_err(encode_error)
    }

    /// Reads a rollup: its metadata, then its rows, with the columns of
    /// [`rollup_schema`](storage_format::rollup::rollup_schema) of these channels, sorted by (logger, bucket). A channel
    /// that the rollup has not has no values. The filter's times are those of readings; it leaves out row groups only.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata); [`SegmentReadError::Object`] for an entry that is not a rollup's; later errors
    /// come from the stream.
    pub async fn read_rollup(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        filter: &SegmentFilter,
        channels: &[ChannelCode],
    ) -> Result<SegmentStream, SegmentReadError> {
        let metadata = self.metadata(org, entry).await?;
        self.read_rollup_with(org, entry, metadata, filter, RollupGrain::Daily, channels)
    }

    /// Reads a rollup whose metadata is there already, as [`read_rollup`](Self::read_rollup). Of a daily one, `columns` can
    /// be those of an hourly one, which are fewer.
    ///
    /// # Errors
    /// As [`read_with`](Self::read_with).
    pub fn read_rollup_with(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        metadata: Arc<ParquetMetaData>,
        filter: &SegmentFilter,
        columns: RollupGrain,
        channels: &[ChannelCode],
    ) -> Result<SegmentStream, SegmentReadError> {
        let name = entry.object_key(org);
        let wrong = move |source| SegmentReadError::Object { name, source };
        let grain = RollupGrain::of_kind(entry.kind).ok_or_else(|| {
            let detail = format!("it has {}, which is no rollup", entry.kind.name());
            wrong(FormatError::new(FileKind::Segment, FormatErrorKind::Invalid, 0, detail))
        })?;
        let there: Vec<ChannelCode> = channels.iter().copied().filter(|code| entry.channels.contains(code)).collect();
        let columns = if grain == RollupGrain::Hourly { grain } else { columns };
        let (schema, filter) = (stored_schema(columns, &there), by_bucket(grain, filter));
        let stored = self.read_with(org, entry, metadata, &filter, Some(schema))?;
        let channels = channels.to_vec();
        Ok(stored.map(move |batch| decode_rollup(columns, &channels, &batch?).map_err(wrong)).boxed())
    }
}
