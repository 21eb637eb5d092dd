//! The rule that answers aggregates from rollups. See the parent module.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, Filter, LogicalPlan, Projection};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::cover::Cover;
use super::question::{Answer, Measure, Question, none};
use super::table::RollupTable;
use crate::prune::KeyBounds;
use crate::scan::ScanContext;

/// See the parent module. To be the last rule, so that it sees filters where they end up.
#[derive(Debug)]
pub(crate) struct FromRollups {
    context: Arc<ScanContext>,
    /// Adds up counts.
    sum: Arc<AggregateUDF>,
}

impl FromRollups {
    /// For queries over this snapshot; `sum` adds up counts.
    pub(crate) fn new(context: &Arc<ScanContext>, sum: Arc<AggregateUDF>) -> Self {
        Self { context: Arc::clone(context), sum }
    }

    fn rewritten(&self, aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
        let Some(mut question) = Question::of(aggregate, &self.sum)? else { return Ok(None) };
        if !crate::tables::is_readings(source_as_provider(&question.scan.source)?.as_ref()) {
            return Ok(None);
        }
        let bounds = KeyBounds::of_filters(&question.filters);
        if question.of_one_logger && !question.groups_by_logger() && !bounds.one_logger() {
            return Ok(None);
        }
        if self.is_in_the_manifest(&question) {
            return Ok(None);
        }
        let hourly = !question.measures.iter().any(|measure| measure.is_daily());
        let of_rows = question.measures.iter().any(|measure| measure.is_of_rows());
        let snapshot = &self.context.snapshot;
        // Which reading is first is known from the values of all channels.
        let usable = |entry: &storage_format::manifest::SegmentEntry| {
            !of_rows || entry.channels.iter().all(|code| code.channel().is_some())
        };
        let cover = Cover::new(snapshot, &bounds, &mut question.steps, hourly, usable)?;
        cover.map(|cover| self.plan(aggregate, question, cover)).transpose()
    }

    /// Counts of all readings and their first and last times stand in the manifest, unless write buffers may add to them.
    fn is_in_the_manifest(&self, question: &Question) -> bool {
        let in_the_manifest = |measure| matches!(measure, Measure::Rows | Measure::FirstTime | Measure::LastTime);
        let snapshot = &self.context.snapshot;
        question.groups.is_empty()
            && question.filters.is_empty()
            && question.measures.iter().copied().all(in_the_manifest)
            && !question.answers.iter().any(Answer::is_filtered)
            && snapshot.buffers.is_empty()
            && !snapshot.manifest.segments().iter().any(|entry| entry.shares_keys)
    }

    fn plan(&self, aggregate: &Aggregate, question: Question, cover: Arc<Cover>) -> Result<LogicalPlan> {
        let Question { scan, filters, groups, answers, measures, .. } = question;
        let table = RollupTable::new(Arc::clone(&self.context), cover, measures);
        let source = provider_as_source(Arc::new(table));
        let scan = TableScanBuilder::new(scan.table_name, source).with_filters(filters.clone()).build()?;
        let mut input = LogicalPlan::TableScan(scan);
        if let Some(predicate) = conjunction(filters) {
            input = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?);
        }
        let counts: Vec<bool> = answers.iter().map(|answer| answer.is_count).collect();
        // Columns of other names can be the same in terms of the table's, and an aggregate wants different ones.
        let groups = groups.into_iter().enumerate().map(|(index, group)| group.alias(format!("group {index}")));
        let answers =
            answers.into_iter().enumerate().map(|(index, answer)| answer.expr.alias(format!("answer {index}")));
        let groups_count = aggregate.schema.fields().len() - counts.len();
        let combined = Aggregate::try_new(Arc::new(input), groups.collect(), answers.collect())?;
        let outputs = combined.schema.columns().into_iter().enumerate().map(|(index, column)| {
            let (qualifier, field) = aggregate.schema.qualified_field(index);
            let is_count = index.checked_sub(groups_count).and_then(|answer| counts.get(answer)) == Some(&true);
            named(column, is_count, qualifier.cloned(), field.name())
        });
        let outputs: Vec<Expr> = outputs.collect();
        let projection = Projection::try_new(outputs, Arc::new(LogicalPlan::Aggregate(combined)))?;
        Ok(LogicalPlan::Projection(projection))
    }
}

/// The column under the name that it has in the original plan.
fn named(column: Column, is_count: bool, qualifier: Option<datafusion::common::TableReference>, name: &str) -> Expr {
    if !is_count && column.relation == qualifier && column.name == name {
        return Expr::Column(column);
    }
    let value = Expr::Column(column);
    let value = if is_count { coalesce(vec![value, none()]) } else { value };
    value.alias_qualified(qualifier, name)
}

impl OptimizerRule for FromRollups {
    fn name(&self) -> &str {
        "from_rollups"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let rewritten = match &plan {
            LogicalPlan::Aggregate(aggregate) => self.rewritten(aggregate)?,
            _ => None,
        };
        Ok(rewritten.map_or_else(|| Transformed::no(plan), Transformed::yes))
    }
}
