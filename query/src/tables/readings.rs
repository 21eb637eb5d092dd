//! `readings`: one row per (logger, time), as first received.
//!
//! Its columns are those of every channel in the registry, so that a statement does not fail only because a channel
//! was never used; what a segment lacks is NULL.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use storage_format::manifest::SegmentEntry;
use storage_format::segment::{channels_of, readings_schema};

use crate::canonical::CanonicalFloatsExec;
use crate::prune::KeyBounds;
use crate::rollups::{Cover, Rows, rows_beside_rollups};
use crate::scan::{Layout, MergeUnit, ScanContext, SegmentScan, first_wins_merge, reserve};

/// See the module.
#[derive(Debug)]
pub(crate) struct ReadingsTable {
    context: Arc<ScanContext>,
}

impl ReadingsTable {
    pub(crate) fn new(context: Arc<ScanContext>) -> Self {
        Self { context }
    }
}

#[async_trait]
impl TableProvider for ReadingsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.context.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters choose segments, row groups and pages here; every row is filtered again above.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.plan(state, projection, filters, limit, None)
    }
}

/// The readings of these columns that do not come from rollups, and with them some that do not pass the filters.
pub(crate) fn readings_beside(
    context: &Arc<ScanContext>,
    state: &dyn Session,
    projection: &Vec<usize>,
    filters: &[Expr],
    cover: &Arc<Cover>,
) -> Result<Arc<dyn ExecutionPlan>> {
    ReadingsTable::new(Arc::clone(context)).plan(state, Some(projection), filters, None, Some(cover))
}

impl ReadingsTable {
    /// The scan; with a cover, of what does not come from rollups.
    fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        cover: Option<&Arc<Cover>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = &self.context.schema;
        let projection = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let bounds = KeyBounds::of_filters(filters);
        let merged_schema = merged_schema(schema, &projection);
        let snapshot = &self.context.snapshot;
        let mut layout = Layout::new(&snapshot.manifest, &snapshot.buffers, &bounds, &channels_of(&merged_schema));
        let partial = cover.map(|cover| split_off_covered(&mut layout.plain, cover)).unwrap_or_default();
        if layout.parts() + partial.len() == 0 {
            return Ok(Arc::new(EmptyExec::new(Arc::new(schema.project(&projection)?))));
        }

        let threads = state.config().target_partitions();
        let ordered = cover.is_none() && self.is_ordered(&layout, &bounds, threads);
        let scan = SegmentScan {
            schema: Arc::clone(schema),
            projection: Some(projection.clone()),
            predicate: None,
            ordering: if ordered { key_ordering(schema) } else { None },
            limit,
            options: state.config_options().execution.parquet.clone(),
        };
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !layout.merges.is_empty() {
            inputs.push(self.merge_plan(state, &scan, &layout, merged_schema, filters, cover, ordered)?);
        }
        if let Some(cover) = cover.filter(|_| !partial.is_empty()) {
            let plan = |(entry, rows): (SegmentEntry, Expr)| {
                let predicate = key_predicate(state, schema, filters.iter().chain([&rows]))?;
                SegmentScan { predicate, ..scan.clone() }.plan(&self.context, vec![vec![entry]])
            };
            let partial = partial.into_iter().map(plan).collect::<Result<_>>()?;
            inputs.push(rows_beside_rollups(partial, cover, threads)?);
        }
        if !layout.plain.is_empty() {
            let groups = if ordered { one_each(layout.plain) } else { by_size(layout.plain, threads) };
            inputs.push(scan.plan(&self.context, groups)?);
        }
        let readings = if inputs.len() == 1 { inputs.swap_remove(0) } else { UnionExec::try_new(inputs)? };
        Ok(CanonicalFloatsExec::over(readings))
    }
}

impl ReadingsTable {
    /// Ordered: one sorted partition per part. Otherwise parts are read one after the other in as many partitions as
    /// there are threads, which holds less, and is what aggregates want.
    fn is_ordered(&self, layout: &Layout, bounds: &KeyBounds, threads: usize) -> bool {
        let hint = self.context.sort_hint();
        let wanted = hint.logger || (hint.time && bounds.one_logger());
        layout.parts() <= threads || (wanted && layout.runs() <= self.context.merge_inputs_max)
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are one scan's, made once")]
    fn merge_plan(
        &self,
        state: &dyn Session,
        scan: &SegmentScan,
        layout: &Layout,
        merged_schema: SchemaRef,
        filters: &[Expr],
        cover: Option<&Arc<Cover>>,
        ordered: bool,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = scan.projection.as_deref().unwrap_or_default();
        let reservation = reserve(&state.runtime_env().memory_pool, layout.buffered_bytes())?;
        let below = SegmentScan {
            projection: Some(indices(&scan.schema, &merged_schema)?),
            predicate: key_predicate(state, &scan.schema, filters)?,
            ordering: key_ordering(&scan.schema),
            limit: None,
            ..scan.clone()
        };
        let mut units = Vec::with_capacity(layout.merges.len());
        for part in &layout.merges {
            let mut segments = Vec::with_capacity(part.entries.len());
            for entry in &part.entries {
                let groups = vec![vec![entry.clone()]];
                match cover.map(|cover| (cover, cover.rows(entry))) {
                    None | Some((_, Rows::All)) => segments.push(below.plan(&self.context, groups)?),
                    Some((_, Rows::None)) => {}
                    Some((cover, Rows::Some(rows))) => {
                        let predicate = key_predicate(state, &scan.schema, filters.iter().chain([&rows]))?;
                        let rows = SegmentScan { predicate, ..below.clone() }.plan(&self.context, groups)?;
                        segments.push(rows_beside_rollups(vec![rows], cover, 1)?);
                    }
                }
            }
            units.push(MergeUnit { segments, buffers: part.buffers.clone() });
        }
        let partitions = if ordered {
            (0..units.len()).map(|unit| vec![unit]).collect()
        } else {
            let threads = state.config().target_partitions().min(units.len()).max(1);
            (0..threads).map(|thread| (thread..units.len()).step_by(threads).collect()).collect()
        };
        let out: Vec<usize> = projection
            .iter()
            .map(|&index| merged_schema.index_of(scan.schema.field(index).name()))
            .collect::<Result<_, _>>()?;
        let out_schema = merged_schema.project(&out)?;
        let ordering = if ordered { key_ordering(&out_schema) } else { None };
        first_wins_merge(merged_schema, out, units, partitions, ordering, reservation)
    }
}

/// What a merge must see for these columns: keys and provenance always, channels as wanted.
fn merged_schema(schema: &Schema, projection: &[usize]) -> SchemaRef {
    let mut wanted = projection.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    match schema.project(&wanted) {
        Ok(wanted) => readings_schema(&channels_of(&wanted)),
        Err(_) => readings_schema(&channels_of(schema)),
    }
}

fn indices(of: &Schema, wanted: &Schema) -> Result<Vec<usize>> {
    Ok(wanted.fields().iter().map(|field| of.index_of(field.name())).collect::<Result<_, _>>()?)
}

/// The order of rows as far as these columns can tell it: by logger, then time.
pub(crate) fn key_ordering(schema: &Schema) -> Option<LexOrdering> {
    let ascending = SortOptions { descending: false, nulls_first: false };
    let keys = ["logger", "time"].into_iter().map_while(|name| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, schema.index_of(name).ok()?));
        Some(PhysicalSortExpr::new(column, ascending))
    });
    LexOrdering::new(keys)
}

/// The filters that are about keys alone.
fn key_predicate<'a>(
    state: &dyn Session,
    schema: &SchemaRef,
    filters: impl IntoIterator<Item = &'a Expr>,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let about_keys = filters.into_iter().filter(|filter| {
        let keys_only = filter.column_refs().iter().all(|column| column.name == "logger" || column.name == "time");
        keys_only && !filter.is_volatile() && !has_subquery(filter)
    });
    match conjunction(about_keys.cloned()) {
        Some(filter) => {
            let df_schema = DFSchema::try_from(Arc::clone(schema))?;
            Ok(Some(state.create_physical_expr(filter, &df_schema)?))
        }
        None => Ok(None),
    }
}

fn has_subquery(filter: &Expr) -> bool {
    let mut found = false;
    let walked = filter.apply(|expr| {
        if matches!(
            expr,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(..)
        ) {
            found = true;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found || walked.is_err()
}

/// Takes the segments that rollups cover out of these, and returns those that rows are read of, too, with what to read.
fn split_off_covered(plain: &mut Vec<SegmentEntry>, cover: &Cover) -> Vec<(SegmentEntry, Expr)> {
    let mut partial = Vec::new();
    plain.retain(|entry| match cover.rows(entry) {
        Rows::All => true,
        Rows::None => false,
        Rows::Some(rows) => {
            partial.push((entry.clone(), rows));
            false
        }
    });
    partial
}

fn one_each(entries: Vec<SegmentEntry>) -> Vec<Vec<SegmentEntry>> {
    entries.into_iter().map(|entry| vec![entry]).collect()
}

/// So many groups of about the same number of bytes, each in the order of time.
fn by_size(entries: Vec<SegmentEntry>, groups: usize) -> Vec<Vec<SegmentEntry>> {
    let groups = groups.clamp(1, entries.len().max(1));
    let mut largest_first: Vec<usize> = (0..entries.len()).collect();
    largest_first.sort_by_key(|&index| std::cmp::Reverse(entries[index].bytes));
    let mut chosen: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new()); groups];
    for index in largest_first {
        if let Some((bytes, group)) = chosen.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += entries[index].bytes;
            group.push(index);
        }
    }
    let in_order = |(_, mut group): (u64, Vec<usize>)| {
        group.sort_unstable();
        group.into_iter().map(|index| entries[index].clone()).collect()
    };
    chosen.into_iter().map(in_order).collect()
}
