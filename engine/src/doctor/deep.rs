//! Every page of every object: does it decode, and is it what the manifest says?
//!
//! One object at a time, a readings segment with its rollups, as streams: a batch and a row group of each in memory. Reads
//! give way to other tasks after each batch.

use std::collections::HashSet;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType, UInt64Type};
use durable::object_path;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use storage_format::OrgId;
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind};
use storage_format::segment::{
    FLUSH_COLUMN, RowDigest, SegmentFooter, conflicts_schema, fills_schema, merged_readings_schema, readings_schema,
};

use super::rollups::RollupCheck;
use super::{Doctor, DoctorProgress, Examined, FaultKind, Finding, of_segment};
use crate::segments::{SegmentFilter, SegmentReadError};

/// The first bytes of every object.
const MAGIC: &[u8; 4] = b"PARE";

impl Doctor {
    pub(super) async fn examine_pages(
        &self,
        org: OrgId,
        manifest: &Manifest,
        examined: &mut Examined,
        progress: DoctorProgress<'_>,
    ) {
        let count = manifest.objects().count() as u64;
        let mut compared = HashSet::new();
        for (done, entry) in (0..).zip(manifest.objects()) {
            progress(done, count);
            let is_known = |entry: &SegmentEntry, examined: &Examined| {
                let name = entry.object_key(org).to_string();
                examined.findings.iter().any(|known| known.name == name)
            };
            if compared.contains(&entry.id) || is_known(entry, examined) {
                continue;
            }
            let mut rollups = Vec::new();
            for rollup in manifest.rollups().iter().filter(|rollup| rollup.of == Some(entry.id)) {
                if !is_known(rollup, examined) {
                    compared.insert(rollup.id);
                    match RollupCheck::begin(self, org, rollup).await {
                        Ok(check) => rollups.push(check),
                        Err(finding) => self.find_still(org, rollup, finding, examined).await,
                    }
                }
            }
            match self.examine_rows(org, entry, &mut rollups).await {
                Ok(rows) => examined.rows += rows,
                Err(finding) => self.find_still(org, entry, finding, examined).await,
            }
            for rollup in rollups {
                let entry = rollup.entry().clone();
                match rollup.end().await {
                    Ok(rows) => examined.rows += rows,
                    Err(finding) => self.find_still(org, &entry, finding, examined).await,
                }
            }
        }
        progress(count, count);
    }

    /// Tells a finding, unless the object was replaced and collected meanwhile.
    async fn find_still(&self, org: OrgId, entry: &SegmentEntry, finding: Finding, examined: &mut Examined) {
        if self.names_still(org, entry).await {
            examined.find(finding);
        }
    }

    /// Reads an object wholly; answers its rows.
    async fn examine_rows(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        rollups: &mut [RollupCheck],
    ) -> Result<u64, Finding> {
        let name = entry.object_key(org);
        let wrong = |kind, detail: String| Finding { kind, name: name.to_string(), detail };
        let first = self.store.get_range(&object_path(&name), 0..MAGIC.len() as u64).await;
        match first {
            Ok(bytes) if bytes.as_ref() == MAGIC => {}
            Ok(_) => return Err(wrong(FaultKind::Damaged, "at byte 0: it does not begin as a segment".to_owned())),
            Err(object_store::Error::NotFound { .. }) => {
                return Err(of_segment(&SegmentReadError::Missing { name }));
            }
            Err(error) => return Err(wrong(FaultKind::Unreadable, error.to_string())),
        }
        let metadata = self.segments.metadata(org, entry).await.map_err(|error| of_segment(&error))?;
        let disagrees = |detail: String| wrong(FaultKind::Disagrees, detail);
        let footer = SegmentFooter::read(&metadata, entry.key_version)
            .map_err(|error| wrong(FaultKind::Damaged, error.to_string()))?;
        let spec = &footer.spec;
        if (spec.flush_first, spec.flush_last, spec.lsn_min, spec.lsn_max)
            != (entry.flush_first, entry.flush_last, entry.lsn_min, entry.lsn_max)
        {
            return Err(disagrees("its footer has other flushes or LSNs than the manifest".to_owned()));
        }
        if entry.kind.is_rollup() {
            return RollupCheck::begin(self, org, entry).await?.end().await;
        }
        let Some(schema) = schema_of(entry, &metadata) else {
            self.segments.verify(org, entry).await.map_err(|error| of_segment(&error))?;
            return Ok(entry.rows);
        };
        let mut rows = Rows::new(entry, &metadata);
        let stream = self.segments.read_with(org, entry, metadata, &SegmentFilter::default(), Some(schema));
        let mut stream = stream.map_err(|error| of_segment(&error))?;
        while let Some(batch) = stream.try_next().await.map_err(|error| of_segment(&error))? {
            rows.add(&batch).map_err(disagrees)?;
            for rollup in &mut *rollups {
                rollup.add(&batch).await;
            }
            tokio::task::yield_now().await;
        }
        let count = rows.finish(entry).map_err(disagrees)?;
        rollups.iter_mut().for_each(RollupCheck::seen_all);
        Ok(count)
    }
}

/// The columns of an object whose rows have a digest in canonical form.
fn schema_of(entry: &SegmentEntry, metadata: &ParquetMetaData) -> Option<SchemaRef> {
    let columns = metadata.file_metadata().schema_descr().columns();
    match entry.kind {
        SegmentKind::Readings if columns.iter().any(|column| column.name() == FLUSH_COLUMN) => {
            Some(merged_readings_schema(&entry.channels))
        }
        SegmentKind::Readings => Some(readings_schema(&entry.channels)),
        SegmentKind::Conflicts => Some(conflicts_schema()),
        SegmentKind::Fills => Some(fills_schema()),
        SegmentKind::RollupHourly | SegmentKind::RollupDaily => None,
    }
}

/// Smallest and greatest logger, and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    logger: (u64, u64),
    time: (i64, i64),
}

impl Bounds {
    const NONE: Self = Self { logger: (u64::MAX, 0), time: (i64::MAX, i64::MIN) };

    fn add(&mut self, logger: u64, time: i64) {
        self.logger = (self.logger.0.min(logger), self.logger.1.max(logger));
        self.time = (self.time.0.min(time), self.time.1.max(time));
    }

    fn join(&mut self, other: Self) {
        self.logger = (self.logger.0.min(other.logger.0), self.logger.1.max(other.logger.1));
        self.time = (self.time.0.min(other.time.0), self.time.1.max(other.time.1));
    }

    /// What a row group's statistics say; pruning believes them.
    fn of_statistics(group: &parquet::file::metadata::RowGroupMetaData) -> Option<Self> {
        let bounds = |column: usize| match group.columns().get(column)?.statistics()? {
            Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
            _ => None,
        };
        let (logger, time) = (bounds(0)?, bounds(1)?);
        Some(Self { logger: (logger.0.cast_unsigned(), logger.1.cast_unsigned()), time })
    }
}

/// What the rows read so far are.
struct Rows {
    kind: SegmentKind,
    digest: RowDigest,
    count: u64,
    last: Option<(u64, i64)>,
    flushes: (u64, u64),
    all: Bounds,
    group: Bounds,
    /// Of the row groups that are not read to their end: the row after the last, and what the statistics say.
    groups: std::vec::IntoIter<(u64, Option<Bounds>)>,
    next: Option<(u64, Option<Bounds>)>,
}

impl Rows {
    fn new(entry: &SegmentEntry, metadata: &ParquetMetaData) -> Self {
        let mut end = 0;
        let groups = metadata.row_groups().iter().map(|group| {
            end += u64::try_from(group.num_rows()).unwrap_or(0);
            (end, Bounds::of_statistics(group))
        });
        let mut groups = groups.collect::<Vec<_>>().into_iter();
        Self {
            kind: entry.kind,
            digest: RowDigest::new(entry.kind),
            count: 0,
            last: None,
            flushes: (entry.flush_first.get(), entry.flush_last.get()),
            all: Bounds::NONE,
            group: Bounds::NONE,
            next: groups.next(),
            groups,
        }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        for (&logger, &time) in loggers.iter().zip(times) {
            let key = (logger, time);
            let ordered = match self.kind {
                SegmentKind::Readings => self.last.is_none_or(|last| last < key),
                _ => self.last.is_none_or(|last| last <= key),
            };
            if !ordered {
                return Err(format!("its row {} is out of order", self.count));
            }
            self.last = Some(key);
            self.group.add(logger, time);
            self.count += 1;
            if self.next.is_some_and(|(end, _)| end == self.count) {
                self.end_group()?;
            }
        }
        if let Some(flushes) = batch.column_by_name(FLUSH_COLUMN) {
            let (first, last) = self.flushes;
            let flushes = flushes.as_primitive::<UInt64Type>().values();
            if let Some(flush) = flushes.iter().find(|flush| !(first..=last).contains(*flush)) {
                return Err(format!("it has a row of flush {flush}, and the manifest says {first} to {last}"));
            }
        }
        self.digest.update(batch);
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), String> {
        if let Some((_, Some(told))) = self.next
            && told != self.group
        {
            return Err(format!("the statistics of the row group before row {} are not those of its rows", self.count));
        }
        self.all.join(std::mem::replace(&mut self.group, Bounds::NONE));
        self.next = self.groups.next();
        Ok(())
    }

    fn finish(mut self, entry: &SegmentEntry) -> Result<u64, String> {
        self.all.join(self.group);
        if self.count != entry.rows {
            return Err(format!("it has {} rows, and the manifest says {}", self.count, entry.rows));
        }
        let told = Bounds {
            logger: (entry.logger_min.get(), entry.logger_max.get()),
            time: (entry.time_min.get(), entry.time_max.get()),
        };
        if told != self.all {
            return Err("its loggers or times are not those that the manifest says".to_owned());
        }
        if self.digest.finish() != entry.digest {
            return Err("the digest of its rows is not the one in the manifest".to_owned());
        }
        Ok(self.count)
    }
}
