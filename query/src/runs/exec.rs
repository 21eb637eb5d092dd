//! The first stage of an aggregation, by runs. See the parent module.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;

use super::grouping::Runs;

/// Rows of a run, on average, below which a hash table is the better way: it keeps a group once, while every run is
/// handed on to the second stage.
const RUN_ROWS_LEAST: usize = 8;

/// Rows that are looked at before the length of runs is judged.
const ROWS_TO_JUDGE: usize = 4_096;

/// A child of other properties is given.
const RECOMPUTE: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);

/// See the module.
#[derive(Debug)]
pub(super) struct RunAggregateExec {
    /// The stage as DataFusion planned it, over the same input.
    partial: Arc<AggregateExec>,
    metrics: ExecutionPlanMetricsSet,
}

impl RunAggregateExec {
    /// In place of this first stage (`AggregateMode::Partial`).
    pub(super) fn new(partial: Arc<AggregateExec>) -> Self {
        Self { partial, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for RunAggregateExec {
    fn fmt_as(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by runs: ")?;
        self.partial.fmt_as(form, f)
    }
}

impl ExecutionPlan for RunAggregateExec {
    fn name(&self) -> &'static str {
        "RunAggregateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.partial.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.partial.children()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.partial.maintains_input_order()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let partial: Arc<dyn ExecutionPlan> = Arc::clone(&self.partial) as _;
        let rebuilt = partial.replace_children(children, RECOMPUTE)?;
        let partial = rebuilt.downcast_ref::<AggregateExec>();
        let partial = partial.ok_or_else(|| internal_datafusion_err!("an aggregation stays one"))?;
        Ok(Arc::new(Self::new(Arc::new(partial.clone()))))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.partial.apply_expressions(f)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let state = State {
            runs: Runs::new(&self.partial)?,
            input: Input::Rows(self.partial.input().execute(partition, Arc::clone(&context))?),
            reservation: MemoryConsumer::new("aggregation by runs").register(context.memory_pool()),
            batch_rows: context.session_config().batch_size(),
            judged: Judged::default(),
            partial: Arc::clone(&self.partial),
            rows_in_runs: MetricBuilder::new(&self.metrics).counter("rows_in_runs", partition),
            context,
        };
        let batches = futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// Where the next rows come from.
enum Input {
    /// The input, to be aggregated by runs.
    Rows(SendableRecordBatchStream),
    /// The rest of it, aggregated by a hash table.
    Hashed(SendableRecordBatchStream),
    Ended,
}

/// How long runs have been since this was last reset.
#[derive(Default)]
struct Judged {
    rows: usize,
    runs: usize,
}

impl Judged {
    fn too_short(&mut self, rows: usize, runs: usize) -> bool {
        self.rows += rows;
        self.runs += runs;
        if self.rows < ROWS_TO_JUDGE {
            return false;
        }
        let short = self.runs.saturating_mul(RUN_ROWS_LEAST) > self.rows;
        *self = Self::default();
        short
    }
}

struct State {
    runs: Runs,
    input: Input,
    reservation: MemoryReservation,
    batch_rows: usize,
    judged: Judged,
    partial: Arc<AggregateExec>,
    rows_in_runs: Count,
    context: Arc<TaskContext>,
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let input = match &mut self.input {
                Input::Rows(input) => input,
                Input::Hashed(groups) => return groups.next().await.transpose(),
                Input::Ended => return Ok(None),
            };
            let Some(batch) = input.next().await.transpose()? else {
                self.input = Input::Ended;
                return self.runs.take_all();
            };
            let began = self.runs.push(&batch)?;
            self.rows_in_runs.add(batch.num_rows());
            if self.judged.too_short(batch.num_rows(), began) {
                self.hash_the_rest()?;
                return self.runs.take_all();
            }
            let ended = if self.runs.len() > self.batch_rows { self.runs.take_ended()? } else { None };
            self.reservation.try_resize(self.runs.bytes())?;
            if ended.is_some() {
                return Ok(ended);
            }
        }
    }

    fn hash_the_rest(&mut self) -> Result<()> {
        if let Input::Rows(rest) = std::mem::replace(&mut self.input, Input::Ended) {
            let rest = Rest::new(rest, self.partial.input().properties());
            let partial: Arc<dyn ExecutionPlan> = Arc::clone(&self.partial) as _;
            let hashing = partial.replace_children(vec![Arc::new(rest)], RECOMPUTE)?;
            self.input = Input::Hashed(hashing.execute(0, Arc::clone(&self.context))?);
        }
        Ok(())
    }
}

/// What is left of an input's partition, as the input of a plan that is executed once.
struct Rest {
    stream: Mutex<Option<SendableRecordBatchStream>>,
    properties: Arc<PlanProperties>,
}

impl Rest {
    fn new(stream: SendableRecordBatchStream, of: &PlanProperties) -> Self {
        let properties = of.clone().with_partitioning(Partitioning::UnknownPartitioning(1));
        Self { stream: Mutex::new(Some(stream)), properties: Arc::new(properties) }
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").finish_non_exhaustive()
    }
}

impl DisplayAs for Rest {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rest")
    }
}

impl ExecutionPlan for Rest {
    fn name(&self) -> &'static str {
        "Rest"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| internal_datafusion_err!("what is left of an input is read once"))
    }
}
