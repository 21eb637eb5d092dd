//! The last readings in segments: where each logger's last row is, then only these rows.
//!
//! A segment is sorted by (logger, time), so a logger's last row is the one before the next logger's first. Small segments
//! of the newest window are read as a whole. Of others it is found who is in them, and where, and then the pages are read
//! with the rows that are wanted. A daily rollup tells who and where: it has the number of rows of each logger and day.
//! Where there is none, the loggers are read alone, which are a few bytes for each. Loggers that a newer window has are
//! not wanted of older ones, so that years of readings are not read.
//!
//! Memory: 16 bytes a logger for each segment that is read at the same time, and the result.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::array::{AsArray as _, RecordBatch};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef, UInt64Type};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_format::manifest::{SegmentEntry, SegmentKind};
use storage_format::segment::readings_schema;
use storage_format::{OrgId, SegmentId, Window};

use super::table::{empty, fold, loggers};
use crate::error::{EngineError, EngineErrorKind};
use crate::segments::{SegmentFilter, SegmentReadError, Segments};

/// Segments that are looked at beside each other.
const READS_AT_ONCE: usize = 8;

/// Segments of the newest window with no more rows are read as a whole: with one request less, and hardly more bytes.
const SMALL_ROWS: u64 = 1 << 16;

/// Loggers in a segment.
enum Found {
    /// All that is asked, of a small one.
    Last(RecordBatch),
    /// The number of each logger's last row, by ascending logger.
    Places(Vec<(u64, usize)>),
}

/// The last readings of `before`, and of these segments, which take no precedence over it.
pub(super) async fn last_of(
    segments: &Segments,
    org: OrgId,
    entries: &[&SegmentEntry],
    rollups: &[SegmentEntry],
    before: RecordBatch,
) -> Result<RecordBatch, EngineError> {
    // The newest window first; within one, in order of precedence.
    let mut order = entries.to_vec();
    order.sort_by_key(|entry| (Reverse(entry.window), entry.flush_first, entry.id));
    let daily = rollups.iter().filter(|rollup| rollup.kind == SegmentKind::RollupDaily);
    let daily: HashMap<SegmentId, &SegmentEntry> = daily.filter_map(|rollup| Some((rollup.of?, rollup))).collect();
    let newest = order.first().map(|entry| entry.window);
    let finds = order.iter().map(|entry| {
        let daily = daily.get(&entry.id).copied();
        let whole = Some(entry.window) == newest && entry.rows <= SMALL_ROWS;
        async move {
            let found = if whole {
                Found::Last(of_small(segments, org, entry).await?)
            } else {
                Found::Places(places(segments, org, entry, daily).await?)
            };
            Ok::<_, SegmentReadError>((*entry, found))
        }
    });
    let mut finds = futures::stream::iter(finds.collect::<Vec<_>>()).buffered(READS_AT_ONCE);
    let mut newer = Newer::default();
    let mut of_window = empty();
    let mut window: Option<Window> = None;
    while let Some((entry, found)) = finds.try_next().await? {
        if window.is_some_and(|window| window != entry.window) {
            newer.add(std::mem::replace(&mut of_window, empty()));
        }
        window = Some(entry.window);
        let last = match found {
            Found::Last(last) => last,
            Found::Places(mut places) => {
                places.retain(|(logger, _)| !newer.loggers.contains(logger));
                if places.is_empty() {
                    continue;
                }
                rows(segments, org, entry, &places).await?
            }
        };
        of_window = fold(&of_window, &last);
    }
    newer.add(of_window);
    // Windows share no times, so that these do not either, but perhaps with what was before.
    Ok(fold(&before, &newer.last))
}

/// The last readings of the windows that were looked at.
struct Newer {
    last: RecordBatch,
    loggers: HashSet<u64>,
}

impl Default for Newer {
    fn default() -> Self {
        Self { last: empty(), loggers: HashSet::new() }
    }
}

impl Newer {
    fn add(&mut self, of_window: RecordBatch) {
        self.loggers.extend(loggers(&of_window));
        self.last = fold(&self.last, &of_window);
    }
}

/// The last readings of a segment that is read as a whole.
async fn of_small(segments: &Segments, org: OrgId, entry: &SegmentEntry) -> Result<RecordBatch, SegmentReadError> {
    let schema = readings_schema(&entry.channels);
    let mut stream = segments.read(org, entry, &SegmentFilter::default(), Some(schema)).await?;
    let mut last = empty();
    while let Some(batch) = stream.try_next().await? {
        last = fold(&last, &last_rows(&batch));
    }
    Ok(last)
}

/// The number of each logger's last row in a segment, by ascending logger.
async fn places(
    segments: &Segments,
    org: OrgId,
    entry: &SegmentEntry,
    daily: Option<&SegmentEntry>,
) -> Result<Vec<(u64, usize)>, SegmentReadError> {
    let all = SegmentFilter::default();
    let (mut places, mut end) = (Places::default(), 0);
    if let Some(daily) = daily {
        let mut stream = segments.read_rollup(org, daily, &all, &[]).await?;
        while let Some(batch) = stream.try_next().await? {
            let rows = batch.column_by_name("rows").map(|rows| rows.as_primitive::<UInt64Type>().values());
            for (logger, rows) in loggers(&batch).iter().zip(rows.into_iter().flatten()) {
                end += usize::try_from(*rows).unwrap_or(usize::MAX);
                places.ends(*logger, end);
            }
        }
        if end as u64 == entry.rows {
            return Ok(places.0);
        }
        tracing::warn!(%org, segment = %entry.id, rollup = %daily.id, "a rollup does not count the rows of its segment");
        (places, end) = (Places::default(), 0);
    }
    let mut stream = segments.read(org, entry, &all, Some(loggers_schema())).await?;
    while let Some(batch) = stream.try_next().await? {
        ends(loggers(&batch), |logger, row| places.ends(logger, end + row + 1));
        end += batch.num_rows();
    }
    Ok(places.0)
}

/// Place of each logger's last row.
#[derive(Default)]
struct Places(Vec<(u64, usize)>);

impl Places {
    /// The rows of this logger so far end before this row.
    fn ends(&mut self, logger: u64, end: usize) {
        let last = end.saturating_sub(1);
        match self.0.last_mut() {
            Some((known, place)) if *known == logger => *place = last,
            _ => self.0.push((logger, last)),
        }
    }
}

/// The rows at these places, which are ascending.
async fn rows(
    segments: &Segments,
    org: OrgId,
    entry: &SegmentEntry,
    places: &[(u64, usize)],
) -> Result<RecordBatch, EngineError> {
    let metadata = segments.metadata(org, entry).await?;
    let schema = readings_schema(&entry.channels);
    let rows: Vec<usize> = places.iter().map(|(_, row)| *row).collect();
    let stream = segments.read_rows(org, entry, metadata, rows, Arc::clone(&schema))?;
    let batches: Vec<RecordBatch> = stream.try_collect().await?;
    let rows = concat_batches(&schema, &batches).map_err(|error| defect().because(error))?;
    if !loggers(&rows).iter().eq(places.iter().map(|(logger, _)| logger)) {
        return Err(defect());
    }
    Ok(rows)
}

/// The last row of each logger of a batch that is sorted.
fn last_rows(batch: &RecordBatch) -> RecordBatch {
    let mut rows = Vec::new();
    ends(batch.column(0).as_primitive::<UInt64Type>().values(), |_, row| rows.push(row as u64));
    take_record_batch(batch, &UInt64Array::from(rows)).expect("rows of the batch")
}

/// Calls `take` with each logger and its last row; loggers are sorted.
fn ends(loggers: &[u64], mut take: impl FnMut(u64, usize)) {
    for (row, logger) in loggers.iter().enumerate() {
        if loggers.get(row + 1) != Some(logger) {
            take(*logger, row);
        }
    }
}

fn loggers_schema() -> SchemaRef {
    let readings = readings_schema(&[]);
    let logger: Arc<Field> = Arc::clone(&readings.fields()[0]);
    Arc::new(Schema::new(vec![logger]))
}

fn defect() -> EngineError {
    EngineError::new(
        EngineErrorKind::Failed,
        "the last readings of a segment are not where they were found",
        "This is a defect of icecore; nothing is lost. Please report it.",
    )
}
