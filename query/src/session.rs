//! One caller's way to one organisation's readings.
//!
//! A session sees what it is given and nothing else: a catalog with that organisation's four tables, readers of that
//! organisation's segments, no store, memory and disk that are bounded, functions that reach no file. Each query gets
//! all of this anew, over one snapshot. There is no session of two organisations.

mod environment;
mod interrupt;
mod memory;
mod meter;
mod store;
mod workers;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use engine::Engine;
use storage_format::segment::readings_schema;
use storage_format::{ChannelCode, OrgId, channels};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use workers::Workers;

use crate::budget::{Budget, Over, OverOnDrop};
use crate::checks;
use crate::error::{ErrorMapper, LimitKind, QueryError, defect, of_engine, unavailable};
use crate::export::ExportRequest;
use crate::guard::guarded;
use crate::limits::{PLAN_STACK_BYTES, QueryLimits};
use crate::metadata_cache::MetadataCache;
use crate::scan::{LastReadings, ScanContext, SegmentReaderFactory, SortHint};
use crate::statement;
use crate::stream::{AnswerLimits, Deadline, QueryStream, Work};
use crate::turns::{Turn, TurnKind, Turns};

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    limits: QueryLimits,
    spill_dir: Option<PathBuf>,
    cache: Arc<MetadataCache>,
    workers: Workers,
}

/// Makes sessions; holds what they share: limits and the cache of footers.
#[derive(Debug, Clone)]
pub struct QueryEngine {
    shared: Arc<Shared>,
    turns: Turns,
}

impl QueryEngine {
    /// Over this engine. Footers of segments are cached up to so many bytes. Nothing is spilled to disk.
    #[must_use]
    pub fn new(engine: Arc<Engine>, limits: QueryLimits, metadata_cache_bytes_max: usize) -> Self {
        Self::build(engine, limits, metadata_cache_bytes_max, None)
    }

    /// The same, and queries that need more memory than they may have spill to this directory. What is spilled is
    /// not encrypted, and is deleted when the query ends.
    #[must_use]
    pub fn with_spill_dir(
        engine: Arc<Engine>,
        limits: QueryLimits,
        metadata_cache_bytes_max: usize,
        spill_dir: PathBuf,
    ) -> Self {
        Self::build(engine, limits, metadata_cache_bytes_max, Some(spill_dir))
    }

    fn build(
        engine: Arc<Engine>,
        limits: QueryLimits,
        metadata_cache_bytes_max: usize,
        spill_dir: Option<PathBuf>,
    ) -> Self {
        // Without disk, all memory goes to whoever asks: none is set aside for merging what was spilled.
        let spill_dir = spill_dir.filter(|_| limits.spill_bytes_max > 0);
        let turns = Turns::new(&limits);
        let cache = MetadataCache::new(metadata_cache_bytes_max);
        let workers = Workers::new(limits.threads);
        Self { shared: Arc::new(Shared { engine, limits, spill_dir, cache, workers }), turns }
    }

    /// The turns of its queries and exports, for callers that take a turn themselves.
    #[must_use]
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The same engine with these turns instead of its own, which a server has before it has an engine.
    #[must_use]
    pub fn with_turns(mut self, turns: Turns) -> Self {
        self.turns = turns;
        self
    }

    /// A session of this organisation.
    #[must_use]
    pub fn session(&self, org: OrgId) -> Session {
        Session { shared: Arc::clone(&self.shared), turns: self.turns.clone(), org, rollups: true }
    }

    /// Bytes of footers that are cached now, of all organisations.
    #[must_use]
    pub fn metadata_cache_bytes(&self) -> usize {
        self.shared.cache.bytes()
    }
}

/// Asks questions about one organisation. See the module.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
    turns: Turns,
    org: OrgId,
    /// Whether rollups may be read in place of rows.
    rollups: bool,
}

/// What is asked: text, or a request that came as a value.
#[derive(Debug)]
enum Question {
    Sql(String),
    Export(ExportRequest),
}

impl Session {
    /// The same session, which reads rows only: results are the same, but for the last digits of sums.
    #[must_use]
    pub fn without_rollups(self) -> Self {
        Self { rollups: false, ..self }
    }

    /// Runs one query when its turn comes. The response is of one instant, that in which it is planned.
    ///
    /// # Errors
    /// [`QueryError`]: no turn, a statement that is not run here or is wrong, a limit, or the engine. More errors can
    /// come while the response is read.
    pub async fn sql(&self, sql: &str) -> Result<QueryStream, QueryError> {
        self.check_size(sql)?;
        let deadline = self.deadline();
        let turn = self.turn(TurnKind::Query).await?;
        self.run(Question::Sql(sql.to_owned()), turn, Some(deadline)).await
    }

    /// Runs one query with a turn that the caller has taken. Its time begins here.
    ///
    /// # Errors
    /// As [`Session::sql`], but for the turn.
    pub async fn sql_in(&self, turn: Turn, sql: &str) -> Result<QueryStream, QueryError> {
        self.check_size(sql)?;
        self.run(Question::Sql(sql.to_owned()), turn, Some(self.deadline())).await
    }

    /// All readings of these keys, ordered by (logger, time), however many.
    ///
    /// # Errors
    /// As [`Session::sql`]; there is no limit of rows or time.
    pub async fn export(&self, request: ExportRequest) -> Result<QueryStream, QueryError> {
        let turn = self.turn(TurnKind::Export).await?;
        self.export_in(turn, request).await
    }

    /// The same, with a turn that the caller has taken.
    ///
    /// # Errors
    /// As [`Session::export`], but for the turn.
    pub async fn export_in(&self, turn: Turn, request: ExportRequest) -> Result<QueryStream, QueryError> {
        self.run(Question::Export(request), turn, None).await
    }

    fn check_size(&self, sql: &str) -> Result<(), QueryError> {
        statement::check_size(sql, self.shared.limits.sql_bytes_max)
    }

    fn deadline(&self) -> Deadline {
        let time_max = self.shared.limits.time_max;
        Deadline { at: Instant::now() + time_max, time_max }
    }

    async fn turn(&self, kind: TurnKind) -> Result<Turn, QueryError> {
        let refused = |refused| QueryError::Limit(LimitKind::Queries(refused));
        self.turns.enter(self.org).map_err(refused)?.turn(kind).await.map_err(refused)
    }

    /// Runs a question. With a deadline, the rows of the response are limited too.
    async fn run(&self, question: Question, turn: Turn, deadline: Option<Deadline>) -> Result<QueryStream, QueryError> {
        let limits = &self.shared.limits;
        let errors = ErrorMapper { memory_bytes_max: limits.memory_bytes_max };
        let rows_max = deadline.map(|_| limits.rows_max);
        let (workers, over) = (self.shared.workers.handle()?, Over::default());
        let mut waiting = OverOnDrop::new(&over);
        let planning = self.clone().plan_aside(question, errors, turn, over.clone(), workers.clone())?;
        let planned = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.at, planning).await.map_err(|_| deadline.exceeded())?,
            None => planning.await,
        };
        let Planned { plan, task, channels, context } =
            planned.map_err(|_| defect(&"planning was lost: it panicked, or the runtime is ending"))??;
        waiting.disarm();
        let readers = Arc::clone(&context.readers);
        let work = Work { plan, task, channels, over, workers, readers };
        Ok(QueryStream::start(
            work,
            AnswerLimits { deadline, rows_max, value_bytes_max: limits.value_bytes_max(), errors },
            context,
        ))
    }

    /// Parses and plans on a thread of its own. Planning computes without pause, so that the deadline could not end it within a
    /// task; and it recurses over the statement, so that it wants a stack of a known size. The thread holds the
    /// query's turn until it is done, also when nobody waits for it any more.
    fn plan_aside(
        self,
        question: Question,
        errors: ErrorMapper,
        turn: Turn,
        over: Over,
        handle: Handle,
    ) -> Result<oneshot::Receiver<Result<Planned, QueryError>>, QueryError> {
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .name("query-plan".to_owned())
            .stack_size(PLAN_STACK_BYTES)
            .spawn(move || {
                workers::yield_to_others();
                // Nobody may wait any more.
                let _ = sender.send(handle.block_on(self.plan(question, errors, turn, over)));
            })
            .map_err(|error| unavailable(&error))?;
        Ok(receiver)
    }

    async fn plan(
        &self,
        question: Question,
        errors: ErrorMapper,
        turn: Turn,
        over: Over,
    ) -> Result<Planned, QueryError> {
        let context = Arc::new(self.scan_context().await?);
        let budget = Budget::new(&self.shared.limits, over);
        let spill_dir = self.shared.spill_dir.as_deref();
        let state = environment::state(&self.shared.limits, spill_dir, &context, &budget, turn)
            .map_err(|error| errors.map(error))?;
        let plan = match question {
            Question::Sql(sql) => {
                let statement = statement::parse(&sql, self.shared.limits.sql_bytes_max)?;
                let plan = state.statement_to_plan(statement).await.map_err(|error| errors.map(error))?;
                only_reads().verify_plan(&plan).map_err(|error| QueryError::Refused(error.strip_backtrace()))?;
                checks::columns(plan.schema().as_arrow())?;
                checks::types(&plan)?;
                checks::frames(&plan)?;
                plan
            }
            Question::Export(request) => {
                request.logical_plan(Arc::clone(&context)).map_err(|error| errors.map(error))?
            }
        };
        // First and only: a new context has no hint.
        let _ = context.sort_hint.set(sort_hint(&plan));
        let plan = async {
            let plan = guarded(state.optimize(&plan)?, &budget)?;
            state.query_planner().create_physical_plan(&plan, &state).await
        };
        let plan = plan.await.map_err(|error| errors.map(error))?;
        let channels = context.snapshot.channels();
        Ok(Planned { plan, task: state.task_ctx(), channels, context })
    }

    async fn scan_context(&self) -> Result<ScanContext, QueryError> {
        let shared = &self.shared;
        let snapshot = shared.engine.snapshot(self.org).await.map_err(|error| of_engine(&error))?;
        let snapshot = Arc::new(snapshot);
        let codes: Vec<_> = channels().iter().map(|channel| channel.code).collect();
        Ok(ScanContext {
            last: LastReadings::new(&shared.engine, &snapshot),
            snapshot,
            readers: Arc::new(SegmentReaderFactory::new(
                self.org,
                Arc::clone(shared.engine.segments()),
                shared.cache.of(self.org),
            )),
            store_url: environment::store_url().map_err(|error| defect(&error))?,
            schema: readings_schema(&codes),
            merge_inputs_max: shared.limits.merge_inputs_max,
            sort_hint: OnceLock::new(),
            rollups: self.rollups,
        })
    }
}

/// A query that is ready to run, and what it holds.
struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    channels: Vec<ChannelCode>,
    context: Arc<ScanContext>,
}

/// The second of two checks: the first was made on the text.
fn only_reads() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// Whether any part of the plan sorts by keys first.
fn sort_hint(plan: &LogicalPlan) -> SortHint {
    let mut hint = SortHint::default();
    // The walk fails only if the closure does.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Sort(sort) = node {
            match sort.expr.first().map(|first| &first.expr) {
                Some(Expr::Column(column)) if column.name == "logger" => hint.logger = true,
                Some(Expr::Column(column)) if column.name == "time" => hint.time = true,
                _ => {}
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    hint
}
