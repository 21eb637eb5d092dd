//! Runs of one partition: found in batches, aggregated, given out when they have ended.

use std::sync::Arc;

use arrow::array::BooleanBufferBuilder;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat, take};
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, aggregate_expressions};

/// One aggregate of the statement: its state, what it is given, and which rows it takes.
struct Aggregate {
    accumulator: Box<dyn GroupsAccumulator>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

/// The runs that have not been given out. See the module.
///
/// Invariant: each accumulator and `keys` know the same runs, `open` of them, in the order in which they came.
pub(super) struct Runs {
    schema: SchemaRef,
    key_exprs: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<Aggregate>,
    /// For each key expression, its values of the runs, in pieces.
    keys: Vec<Vec<ArrayRef>>,
    runs: usize,
    /// The keys of the row that came last, one array of one value each.
    last: Option<Vec<ArrayRef>>,
    /// For each row of a batch, its run; kept for the allocation.
    run_of_row: Vec<usize>,
}

impl Runs {
    /// Nothing yet, of this first stage of an aggregation.
    pub(super) fn new(partial: &AggregateExec) -> Result<Self> {
        let arguments = aggregate_expressions(partial.aggr_expr(), partial.mode(), 0)?;
        let aggregates = partial.aggr_expr().iter().zip(arguments).zip(partial.filter_expr());
        let aggregates = aggregates.map(|((aggregate, arguments), filter)| {
            let accumulator = aggregate.create_groups_accumulator()?;
            Ok(Aggregate { accumulator, arguments, filter: filter.clone() })
        });
        let key_exprs = partial.group_expr().input_exprs();
        Ok(Self {
            schema: partial.schema(),
            keys: vec![Vec::new(); key_exprs.len()],
            key_exprs,
            aggregates: aggregates.collect::<Result<_>>()?,
            runs: 0,
            last: None,
            run_of_row: Vec::new(),
        })
    }

    /// How many runs have not been given out, that of the last row included.
    pub(super) fn len(&self) -> usize {
        self.runs
    }

    /// What is held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().flatten().map(|piece| piece.get_array_memory_size()).sum();
        let states: usize = self.aggregates.iter().map(|aggregate| aggregate.accumulator.size()).sum();
        keys + states + self.run_of_row.capacity() * size_of::<usize>()
    }

    /// Takes the rows of a batch in. Returns how many runs began with them.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<usize> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(0);
        }
        let keys = values(&self.key_exprs, batch)?;
        let starts = self.starts(&keys, rows)?;
        let first_rows: Vec<u32> = starts.set_indices_u32().collect();
        let began = first_rows.len();
        self.number_rows(&first_rows, rows);
        self.runs += began;
        for Aggregate { accumulator, arguments, filter } in &mut self.aggregates {
            let filter = filter.as_ref().map(|filter| filter.evaluate(batch)?.into_array(rows)).transpose()?;
            let filter = filter.as_ref().map(|filter| filter.as_boolean());
            accumulator.update_batch(&values(arguments, batch)?, &self.run_of_row, filter, self.runs)?;
        }
        if began > 0 {
            let first_rows = UInt32Array::from(first_rows);
            for (pieces, key) in self.keys.iter_mut().zip(&keys) {
                pieces.push(take(key, &first_rows, None)?);
            }
        }
        self.last = Some(keys.iter().map(|key| key.slice(rows - 1, 1)).collect());
        Ok(began)
    }

    /// Which rows begin a run.
    fn starts(&self, keys: &[ArrayRef], rows: usize) -> Result<BooleanBuffer> {
        let differs = |before: &dyn Fn(usize) -> ArrayRef, after: &dyn Fn(usize) -> ArrayRef| {
            let of_keys = (0..keys.len()).map(|key| Ok(distinct(&before(key), &after(key))?.into_parts().0));
            of_keys.reduce(|all, one| Ok(&all? | &one?)).unwrap_or_else(|| Err(internal_datafusion_err!("no keys")))
        };
        let first = match &self.last {
            Some(last) => differs(&|key| Arc::clone(&last[key]), &|key| keys[key].slice(0, 1))?.value(0),
            None => true,
        };
        let within = differs(&|key| keys[key].slice(0, rows - 1), &|key| keys[key].slice(1, rows - 1))?;
        let mut starts = BooleanBufferBuilder::new(rows);
        starts.append(first);
        starts.append_buffer(&within);
        Ok(starts.finish())
    }

    /// Gives each row of a batch the number of its run. Before the first start, rows go on with the run of the batch
    /// before.
    fn number_rows(&mut self, first_rows: &[u32], rows: usize) {
        self.run_of_row.clear();
        for (run, &first) in (self.runs..).zip(first_rows) {
            // The rows up to here belong to the run before; there are none before the first run of all. A row's number
            // fits: it is below the batch's length, which is a usize.
            self.run_of_row.resize(first as usize, run.saturating_sub(1));
        }
        let last = (self.runs + first_rows.len()).saturating_sub(1);
        self.run_of_row.resize(rows, last);
    }

    /// The runs that have ended: all but that of the last row.
    pub(super) fn take_ended(&mut self) -> Result<Option<RecordBatch>> {
        self.take(self.runs.saturating_sub(1))
    }

    /// All runs. If the last one goes on in the next batch, it is given again.
    pub(super) fn take_all(&mut self) -> Result<Option<RecordBatch>> {
        let batch = self.take(self.runs);
        self.last = None;
        batch
    }

    fn take(&mut self, runs: usize) -> Result<Option<RecordBatch>> {
        if runs == 0 {
            return Ok(None);
        }
        let emit = if runs == self.runs { EmitTo::All } else { EmitTo::First(runs) };
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for pieces in &mut self.keys {
            let whole = match pieces.as_slice() {
                [one] => Arc::clone(one),
                several => concat(&several.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
            };
            columns.push(whole.slice(0, runs));
            pieces.clear();
            if whole.len() > runs {
                pieces.push(whole.slice(runs, whole.len() - runs));
            }
        }
        for aggregate in &mut self.aggregates {
            columns.extend(aggregate.accumulator.state(emit)?);
        }
        self.runs -= runs;
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}

fn values(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    exprs.iter().map(|expr| expr.evaluate(batch)?.into_array(batch.num_rows())).collect()
}
