//! What DataFusion gets for one query: settings, functions, memory, disk, one store, four tables.

use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::common::Result;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SessionState, SessionStateDefaults};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionConfig;

use super::interrupt::Interruptible;
use super::memory::QueryPool;
use super::meter::Metered;
use super::store::NoStore;
use crate::analyzer::{SqlTypes, Times};
use crate::budget::Budget;
use crate::canonical::CanonicalFloats;
use crate::functions::{self, JoinedTexts, TextLimits};
use crate::guard::guarded_while_planning;
use crate::limits::QueryLimits;
use crate::rollups::FromRollups;
use crate::runs::AggregateRuns;
use crate::scan::ScanContext;
use crate::tables;

const CATALOG: &str = "icecore";
const SCHEMA: &str = "public";

/// DataFusion's functions that tell about files or about the program, not about values.
const LEFT_OUT: [&str; 3] = ["input_file_name", "file_row_index", "version"];

/// The one address of the one store that DataFusion knows.
pub(super) fn store_url() -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse("icecore://readings")
}

/// Kept by each partition of a sort for merging what it spilled: DataFusion's own default, less with little memory.
const SORT_SPILL_RESERVATION_BYTES_MAX: usize = 10 << 20;

/// Everything for one query. `held` lives until the last task that computes for it has ended.
pub(super) fn state(
    limits: &QueryLimits,
    spill_dir: Option<&Path>,
    context: &Arc<ScanContext>,
    budget: &Arc<Budget>,
    held: impl Send + Sync + 'static,
) -> Result<SessionState> {
    let aggregates = functions::aggregates(SessionStateDefaults::default_aggregate_functions());
    let sum = aggregates.iter().find(|function| function.name() == "sum").cloned();
    let mut state = SessionStateBuilder::new()
        .with_config(config(limits))
        .with_runtime_env(Arc::new(runtime(limits, spill_dir, context, held)?))
        .with_catalog_list(catalogs(context)?)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(scalar_functions(limits, budget))
        .with_aggregate_functions(aggregates.clone())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_type_planner(Arc::new(SqlTypes))
        .with_analyzer_rule(Arc::new(Times))
        .with_analyzer_rule(Arc::new(JoinedTexts { limits: text_limits(limits) }))
        .with_analyzer_rule(Arc::new(CanonicalFloats))
        .with_physical_optimizer_rule(Arc::new(AggregateRuns))
        .with_physical_optimizer_rule(Arc::new(Interruptible { over: budget.over() }))
        .with_physical_optimizer_rule(Arc::new(Metered { row_bytes_max: limits.text_bytes_max() }));
    if let Some(sum) = sum.filter(|_| context.rollups) {
        state = state.with_optimizer_rule(Arc::new(FromRollups::new(context, sum)));
    }
    let mut state = state.build();
    // What `now()` is for the whole statement; without it the function is never evaluated.
    state.mark_start_execution();
    Ok(state)
}

fn config(limits: &QueryLimits) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_target_partitions(limits.threads.max(1))
        .with_batch_size(limits.batch_rows.max(1))
        .with_parquet_pruning(true)
        .with_parquet_page_index_pruning(true)
        .with_parquet_bloom_filter_pruning(false)
        .with_sort_spill_reservation_bytes((limits.memory_bytes_max / 16).min(SORT_SPILL_RESERVATION_BYTES_MAX));
    let options = config.options_mut();
    options.execution.enable_recursive_ctes = false;
    // They carry a LIMIT down to an aggregation even through a window, which then sees a few of the groups only.
    options.optimizer.enable_topk_aggregation = false;
    options.optimizer.enable_distinct_aggregation_soft_limit = false;
    // They leave out rows past the bounds found so far, also of aggregates that have found none or are of an expression.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.execution.time_zone = Some("+00:00".to_owned());
    // Filters prune row groups and pages; evaluating them within the decoder as well did not pay for narrow rows.
    options.execution.parquet.pushdown_filters = false;
    // Texts stay what the formats outside know.
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    config
}

fn runtime(
    limits: &QueryLimits,
    spill_dir: Option<&Path>,
    context: &ScanContext,
    held: impl Send + Sync + 'static,
) -> Result<RuntimeEnv> {
    let disk = DiskManagerBuilder::default();
    let disk = match spill_dir {
        Some(directory) => disk
            .with_mode(DiskManagerMode::Directories(vec![directory.to_owned()]))
            .with_max_temp_directory_size(limits.spill_bytes_max),
        None => disk.with_mode(DiskManagerMode::Disabled),
    };
    let pool = Arc::new(QueryPool::new(limits.memory_bytes_max, spill_dir.is_some(), held));
    let stores = DefaultObjectStoreRegistry::new();
    // DataFusion's registry begins with the whole file system of the host.
    stores.deregister_store(ObjectStoreUrl::local_filesystem().as_ref())?;
    stores.register_store(context.store_url.as_ref(), Arc::new(NoStore));
    RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .with_memory_pool(pool)
        .with_object_store_registry(Arc::new(stores))
        .build()
}

fn catalogs(context: &Arc<ScanContext>) -> Result<Arc<dyn CatalogProviderList>> {
    let schema = MemorySchemaProvider::new();
    schema.register_table("readings".to_owned(), tables::readings(context))?;
    schema.register_table("last_readings".to_owned(), tables::last_readings(context))?;
    schema.register_table("conflicts".to_owned(), tables::conflicts(context)?)?;
    schema.register_table("totals".to_owned(), tables::totals(context))?;
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(schema))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    Ok(Arc::new(catalogs))
}

fn scalar_functions(limits: &QueryLimits, budget: &Arc<Budget>) -> Vec<Arc<ScalarUDF>> {
    let mut functions = SessionStateDefaults::default_scalar_functions();
    functions.retain(|function| !LEFT_OUT.contains(&function.name()));
    functions.extend(functions::all());
    guarded_while_planning(functions::bounded(functions::to_timestamps(functions), text_limits(limits)), budget)
}

fn text_limits(limits: &QueryLimits) -> TextLimits {
    TextLimits { text_bytes_max: limits.text_bytes_max(), batch_bytes_max: limits.batch_bytes_max() }
}
