//! Do rollups agree with the readings that they were made from? Aggregated here once more, in another way, as the
//! readings pass by.
//!
//! Sums are compared within what their rounding allows; everything else exactly. Weights are not computed again: the
//! digest tells that they are what was written.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use futures::TryStreamExt as _;
use storage_format::OrgId;
use storage_format::manifest::SegmentEntry;
use storage_format::rollup::{Aggregate, RollupDigest, RollupGrain};

use super::{Doctor, FaultKind, Finding, of_segment};
use crate::segments::{SegmentFilter, SegmentStream};

/// What sums may differ by, as a part of the sum of magnitudes.
const SUM_TOLERANCE: f64 = 1e-9;

/// A channel's values in the open bucket.
#[derive(Debug, Clone, Copy)]
struct Values {
    count: u64,
    min: f64,
    max: f64,
    sum: f64,
    magnitude: f64,
    squares: f64,
    first: (i64, f64),
    last: (i64, f64),
}

const NONE: Values = Values {
    count: 0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    sum: 0.0,
    magnitude: 0.0,
    squares: 0.0,
    first: (0, 0.0),
    last: (0, 0.0),
};

impl Values {
    fn add(&mut self, time: i64, value: f64) {
        // A zero is positive in rollups.
        let value = value + 0.0;
        if self.count == 0 {
            self.first = (time, value);
        }
        self.last = (time, value);
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.magnitude += value.abs();
        self.squares += value * value;
    }
}

/// A rollup that is compared with readings.
pub(super) struct RollupCheck {
    name: String,
    entry: SegmentEntry,
    grain: RollupGrain,
    stream: SegmentStream,
    batch: Option<RecordBatch>,
    row: usize,
    rows: u64,
    digest: RollupDigest,
    open: Option<(u64, i64)>,
    readings: u64,
    channels: Vec<Values>,
    /// Whether all readings of the segment were added.
    is_whole: bool,
    /// The first thing that is wrong.
    wrong: Option<Finding>,
}

impl RollupCheck {
    pub(super) async fn begin(doctor: &Doctor, org: OrgId, entry: &SegmentEntry) -> Result<Self, Finding> {
        let name = entry.object_key(org).to_string();
        let Some(grain) = RollupGrain::of_kind(entry.kind) else {
            let detail = format!("it has {}, which is no rollup", entry.kind.name());
            return Err(Finding { kind: FaultKind::Disagrees, name, detail });
        };
        let filter = SegmentFilter::default();
        let stream = doctor.segments.read_rollup(org, entry, &filter, &entry.channels).await;
        Ok(Self {
            name,
            entry: entry.clone(),
            grain,
            stream: stream.map_err(|error| of_segment(&error))?,
            batch: None,
            row: 0,
            rows: 0,
            digest: RollupDigest::new(grain),
            open: None,
            readings: 0,
            channels: vec![NONE; entry.channels.len()],
            is_whole: false,
            wrong: None,
        })
    }

    pub(super) fn entry(&self) -> &SegmentEntry {
        &self.entry
    }

    /// All readings of the segment were added.
    pub(super) fn seen_all(&mut self) {
        self.is_whole = true;
    }

    fn disagrees(&self, detail: String) -> Finding {
        Finding { kind: FaultKind::Disagrees, name: self.name.clone(), detail }
    }

    /// Adds readings, in order, and compares the buckets that end with them.
    pub(super) async fn add(&mut self, batch: &RecordBatch) {
        if self.wrong.is_none() {
            self.wrong = self.compare(batch).await.err();
        }
    }

    async fn compare(&mut self, batch: &RecordBatch) -> Result<(), Finding> {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let name_of = |code: &storage_format::ChannelCode| code.channel().map_or("", |channel| channel.name);
        let columns: Vec<_> = self.entry.channels.iter().map(|code| batch.column_by_name(name_of(code))).collect();
        let columns: Vec<_> =
            columns.into_iter().map(|column| column.map(|c| c.as_primitive::<Float64Type>())).collect();
        for row in 0..batch.num_rows() {
            let bucket = (loggers[row], self.grain.floor(times[row]));
            if self.open != Some(bucket) {
                self.close().await?;
                self.open = Some(bucket);
            }
            self.readings += 1;
            for (values, column) in self.channels.iter_mut().zip(&columns) {
                if let Some(column) = column.filter(|column| column.is_valid(row)) {
                    values.add(times[row], column.value(row));
                }
            }
        }
        Ok(())
    }

    /// The next row of the rollup must be the bucket that is open.
    async fn close(&mut self) -> Result<(), Finding> {
        let Some((logger, bucket)) = self.open.take() else { return Ok(()) };
        let readings = std::mem::take(&mut self.readings);
        let channels = std::mem::replace(&mut self.channels, vec![NONE; self.entry.channels.len()]);
        if !self.advance().await? {
            return Err(self.disagrees(format!("it ends before logger {logger:016X}, {bucket} ms")));
        }
        let Some(batch) = &self.batch else { return Ok(()) };
        let found = (
            batch.column(0).as_primitive::<UInt64Type>().value(self.row),
            batch.column(1).as_primitive::<TimestampMillisecondType>().value(self.row),
            batch.column(2).as_primitive::<UInt64Type>().value(self.row),
        );
        let place = format!("logger {logger:016X}, {} from {bucket} ms", self.entry.kind.name());
        if found != (logger, bucket, readings) {
            return Err(self.disagrees(format!("it has other readings than its segment: {place}")));
        }
        for (index, values) in channels.iter().enumerate() {
            for (at, of) in Aggregate::of(self.grain).iter().enumerate() {
                let column = batch.column(3 + index * Aggregate::of(self.grain).len() + at);
                if !agrees(*of, values, column, self.row) {
                    let channel = self.entry.channels[index];
                    return Err(self.disagrees(format!("its {of:?} of channel {} is wrong: {place}", channel.get())));
                }
            }
        }
        self.row += 1;
        Ok(())
    }

    /// Makes `row` a row of `batch`; answers whether there is one.
    async fn advance(&mut self) -> Result<bool, Finding> {
        while self.batch.as_ref().is_none_or(|batch| self.row == batch.num_rows()) {
            match self.stream.try_next().await.map_err(|error| of_segment(&error))? {
                Some(batch) => {
                    self.digest.update(&batch);
                    self.rows += batch.num_rows() as u64;
                    (self.batch, self.row) = (Some(batch), 0);
                    tokio::task::yield_now().await;
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What is left must be nothing, if all readings were added; otherwise it is read all the same. Answers the rollup's
    /// rows.
    pub(super) async fn end(mut self) -> Result<u64, Finding> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        if self.is_whole {
            self.close().await?;
            if self.advance().await? {
                return Err(self.disagrees("it has buckets without readings".to_owned()));
            }
        }
        while self.advance().await? {
            self.row = self.batch.as_ref().map_or(0, RecordBatch::num_rows);
        }
        self.digest()
    }

    fn digest(self) -> Result<u64, Finding> {
        let Self { name, entry, digest, rows, .. } = self;
        let disagrees = |detail: String| Err(Finding { kind: FaultKind::Disagrees, name, detail });
        if rows != entry.rows {
            return disagrees(format!("it has {rows} rows, and the manifest says {}", entry.rows));
        }
        if digest.finish() != entry.digest {
            return disagrees("the digest of its rows is not the one in the manifest".to_owned());
        }
        Ok(rows)
    }
}

fn agrees(of: Aggregate, values: &Values, column: &dyn arrow::array::Array, row: usize) -> bool {
    if of == Aggregate::Count {
        return column.as_primitive::<UInt64Type>().value(row) == values.count;
    }
    if values.count == 0 {
        return column.is_null(row);
    }
    let exact = |value: f64| {
        column.is_valid(row) && column.as_primitive::<Float64Type>().value(row).to_bits() == value.to_bits()
    };
    let near = |value: f64, magnitude: f64| {
        let found = || column.as_primitive::<Float64Type>().value(row);
        // Of two infinite ones there is no difference.
        column.is_valid(row) && (found() == value || (found() - value).abs() <= magnitude * SUM_TOLERANCE)
    };
    let at = |time: i64| column.is_valid(row) && column.as_primitive::<TimestampMillisecondType>().value(row) == time;
    match of {
        Aggregate::Count | Aggregate::Weight | Aggregate::WeightedSum | Aggregate::WeightedMkt => true,
        Aggregate::Min => exact(values.min),
        Aggregate::Max => exact(values.max),
        Aggregate::First => exact(values.first.1),
        Aggregate::Last => exact(values.last.1),
        Aggregate::FirstTime => at(values.first.0),
        Aggregate::LastTime => at(values.last.0),
        Aggregate::Sum => near(values.sum, values.magnitude),
        Aggregate::SumSquares => near(values.squares, values.squares),
    }
}
