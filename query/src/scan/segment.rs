//! Segments as DataFusion's own Parquet scans: what of them is read, row groups and pages are left to it.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics};
use datafusion::config::{ParquetOptions, TableParquetOptions};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use storage_format::OrgId;
use storage_format::manifest::{SegmentEntry, SegmentKind};

use super::ScanContext;

/// How segments are scanned.
#[derive(Debug, Clone)]
pub(crate) struct SegmentScan {
    /// The schema that they are read as; columns that one lacks are NULL.
    pub(crate) schema: SchemaRef,
    pub(crate) projection: Option<Vec<usize>>,
    /// Prunes row groups and pages; rows that do not pass may still come.
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// The order of the schema's rows within each segment, when it is to be told.
    pub(crate) ordering: Option<LexOrdering>,
    pub(crate) limit: Option<usize>,
    pub(crate) options: ParquetOptions,
}

impl SegmentScan {
    /// The plan that reads these segments: one partition per group, the segments of a group one after the other.
    pub(crate) fn plan(&self, context: &ScanContext, groups: Vec<Vec<SegmentEntry>>) -> Result<Arc<dyn ExecutionPlan>> {
        let org = context.snapshot.org;
        let mut files = Vec::with_capacity(groups.len());
        let mut statistics = Vec::new();
        for group in groups {
            let mut group_files = Vec::with_capacity(group.len());
            for entry in group {
                let of_file = Arc::new(statistics_of(&entry, &self.schema));
                statistics.push(Arc::clone(&of_file));
                let file = PartitionedFile::new(relative_path(org, &entry), entry.bytes)
                    .with_statistics(of_file)
                    .with_extension(entry);
                group_files.push(file);
            }
            files.push(FileGroup::new(group_files));
        }
        let all = Statistics::try_merge_iter(statistics.iter().map(AsRef::as_ref), &self.schema)?;

        let options = TableParquetOptions { global: self.options.clone(), ..TableParquetOptions::default() };
        let readers = Arc::clone(&context.readers);
        let mut source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(readers);
        if let Some(predicate) = &self.predicate {
            source = source.with_predicate(Arc::clone(predicate));
        }
        let config = FileScanConfigBuilder::new(context.store_url.clone(), Arc::new(source))
            .with_file_groups(files)
            .with_statistics(all)
            .with_output_ordering(self.ordering.iter().cloned().collect())
            .with_limit(self.limit)
            .with_projection_indices(self.projection.clone())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// A segment's name without its organisation: all that plans and metrics show of it.
fn relative_path(org: OrgId, entry: &SegmentEntry) -> String {
    let whole = entry.object_key(org).to_string();
    match whole.strip_prefix(&format!("orgs/{org}/")) {
        Some(relative) => relative.to_owned(),
        None => whole,
    }
}

/// What the manifest knows of a segment, for the planner: exact counts and bounds answer `count(*)`, `min(time)` and
/// `max(time)` without opening anything, and let a growing `LIMIT` threshold skip whole segments.
fn statistics_of(entry: &SegmentEntry, schema: &Schema) -> Statistics {
    let rows = usize::try_from(entry.rows).unwrap_or(usize::MAX);
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = Precision::Exact(rows);
    let bounds = |min, max| ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: Precision::Exact(min),
        max_value: Precision::Exact(max),
        ..ColumnStatistics::new_unknown()
    };
    let time = |ms| ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into()));
    for (field, column) in schema.fields().iter().zip(&mut statistics.column_statistics) {
        match field.name().as_str() {
            "logger" => {
                let (min, max) = (entry.logger_min.get(), entry.logger_max.get());
                *column = bounds(ScalarValue::UInt64(Some(min)), ScalarValue::UInt64(Some(max)));
            }
            "time" => *column = bounds(time(entry.time_min.get()), time(entry.time_max.get())),
            name if entry.kind == SegmentKind::Readings && field.is_nullable() => {
                if !entry.channels.iter().any(|code| code.channel().is_some_and(|channel| channel.name == name)) {
                    column.null_count = Precision::Exact(rows);
                }
            }
            _ => column.null_count = Precision::Exact(0),
        }
    }
    statistics
}
