//! The readings of a snapshot as rows that each stand for one or many: rollups, and readings beside them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, IsNotNullExpr, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use storage_format::ChannelCode;

use super::cover::Cover;
use super::question::{Measure, Part};
use super::scan::{Columns, rollup_rows};
use crate::canonical::CanonicalFloatsExec;
use crate::prune::KeyBounds;
use crate::scan::{ScanContext, reserve};
use crate::tables::readings_beside;

/// See the module. Its columns are `logger`, `time` (where what the row stands for begins), and the measures.
#[derive(Debug)]
pub(super) struct RollupTable {
    context: Arc<ScanContext>,
    cover: Arc<Cover>,
    measures: Vec<Measure>,
    schema: SchemaRef,
}

impl RollupTable {
    pub(super) fn new(context: Arc<ScanContext>, cover: Arc<Cover>, measures: Vec<Measure>) -> Self {
        let keys = context.schema.fields().iter().filter(|field| is_key(field.name())).cloned();
        let schema = Arc::new(Schema::new(keys.chain(measures.iter().map(|m| m.field())).collect::<Vec<_>>()));
        Self { context, cover, measures, schema }
    }

    /// The measures among these columns.
    fn wanted(&self, columns: &[usize]) -> Vec<Measure> {
        let keys = self.schema.fields().len() - self.measures.len();
        columns.iter().filter_map(|column| self.measures.get(column.checked_sub(keys)?).copied()).collect()
    }

    /// Readings as rows that stand for one each.
    async fn readings(
        &self,
        state: &dyn Session,
        columns: &[usize],
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = &self.context.schema;
        let wanted = self.wanted(columns);
        let is_wanted = |name: &str| wanted.iter().any(|m| m.channel().is_some_and(|channel| channel.name == name));
        let fields = schema.fields().iter().enumerate();
        let read = fields.filter(|(_, field)| is_key(field.name()) || is_wanted(field.name()));
        let read: Vec<usize> = read.map(|(index, _)| index).collect();
        let rows = readings_beside(&self.context, state, &read, filters, &self.cover)?;
        let from = rows.schema();
        let outputs = columns.iter().map(|&column| {
            let field = self.schema.field(column);
            let measure = column.checked_sub(self.schema.fields().len() - self.measures.len());
            let expr = match measure.and_then(|measure| self.measures.get(measure)) {
                Some(measure) => of_one(*measure, &from)?,
                None => by_name(field.name(), &from)?,
            };
            Ok(ProjectionExpr { expr, alias: field.name().clone() })
        });
        Ok(Arc::new(ProjectionExec::try_new(outputs.collect::<Result<Vec<_>>>()?, rows)?))
    }
}

fn is_key(name: &str) -> bool {
    name == "logger" || name == "time"
}

fn by_name(name: &str, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    Ok(Arc::new(Column::new_with_schema(name, schema)?))
}

/// A measure of a single reading.
pub(super) fn of_one(measure: Measure, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let value = |code: ChannelCode| by_name(code.channel().map_or("", |channel| channel.name), schema);
    Ok(match measure {
        Measure::Rows => Arc::new(Literal::new(ScalarValue::Int64(Some(1)))),
        Measure::FirstTime | Measure::LastTime => by_name("time", schema)?,
        Measure::Of(code, Part::Count) => {
            let counts = Arc::new(IsNotNullExpr::new(value(code)?));
            Arc::new(CastExpr::new(counts, DataType::Int64, None))
        }
        // Of a reading without a value, no other column of the channel is looked at.
        Measure::Of(_, Part::FirstSeenTime | Part::LastSeenTime) => by_name("time", schema)?,
        Measure::Of(code, _) => value(code)?,
    })
}

#[async_trait]
impl TableProvider for RollupTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// As for readings: every row is filtered again above.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let bounds = KeyBounds::of_filters(filters);
        let reservation = reserve(&state.runtime_env().memory_pool, self.cover.bytes())?;
        let outputs = Columns { schema: Arc::new(self.schema.project(&columns)?), measures: self.wanted(&columns) };
        let threads = state.config().target_partitions();
        let rollups = rollup_rows(&self.context, &self.cover, &bounds, outputs, threads, reservation);
        let rollups = CanonicalFloatsExec::over(rollups);
        let readings = self.readings(state, &columns, filters).await?;
        UnionExec::try_new(vec![rollups, readings])
    }
}
