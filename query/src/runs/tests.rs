//! Aggregation by runs beside aggregation by a hash table.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::SessionStateDefaults;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::AggregateRuns;

/// Some rows one after the other: key, a second one, a text, a value; each may be NULL.
type Row = (Option<u64>, Option<i64>, Option<&'static str>, Option<f64>);

fn context(partitions: &[Vec<RecordBatch>], by_runs: bool) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2).with_batch_size(100);
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions());
    if by_runs {
        state = state.with_physical_optimizer_rule(Arc::new(AggregateRuns));
    }
    let context = SessionContext::new_with_state(state.build());
    let table = MemTable::try_new(partitions[0][0].schema(), partitions.to_vec()).expect("one schema");
    context.register_table("t", Arc::new(table)).expect("a new name");
    context
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 4] = [
        ("a", Arc::new(rows.iter().map(|row| row.0).collect::<UInt64Array>())),
        ("b", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>())),
        ("s", Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>())),
        ("v", Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).expect("one length")
}

async fn answer(context: &SessionContext, sql: &str) -> Vec<String> {
    let batches = context.sql(sql).await.expect("plans").collect().await.expect("runs");
    let options = FormatOptions::default().with_null("-");
    let mut lines = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("shown"));
        let columns: Vec<_> = columns.collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    lines.sort();
    lines
}

const STATEMENTS: [&str; 8] = [
    "SELECT a, b, count(*), sum(v), min(v), max(v), avg(v) FROM t GROUP BY a, b",
    "SELECT a, count(v) FILTER (WHERE b > 1), min(s), max(s) FROM t GROUP BY a",
    "SELECT DISTINCT s, b FROM t",
    "SELECT b % 2, s, count(*), max(a) FROM t WHERE v > 0 GROUP BY 1, 2",
    "SELECT v, count(*) FROM t GROUP BY v",
    "SELECT a, bool_and(v > 0), count(*) FROM t GROUP BY a HAVING count(*) > 2",
    "SELECT n, count(*) FROM (SELECT a, count(*) AS n FROM t GROUP BY a) GROUP BY n",
    "SELECT a, first_value(v ORDER BY b, v), last_value(v ORDER BY b, v) FROM t GROUP BY a",
];

fn run() -> impl Strategy<Value = (Row, usize)> {
    let text = prop_oneof![Just(None), Just(Some("x")), Just(Some("yy")), Just(Some(""))];
    // Values whose sums are exact in every order.
    let value = prop_oneof![3 => (-40..40_i32).prop_map(|v| Some(f64::from(v) / 4.0)), 1 => Just(None)];
    let row = (proptest::option::of(0..4_u64), proptest::option::of(0..3_i64), text, value);
    // Runs of one row up to longer than a batch.
    (row, prop_oneof![4 => 1..4_usize, 2 => 4..60_usize, 1 => 100..400_usize])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_hash_table(
        partitions in proptest::collection::vec(
            (proptest::collection::vec(run(), 0..40), proptest::collection::vec(1..300_usize, 1..8)), 1..3),
    ) {
        let partitions: Vec<Vec<RecordBatch>> = partitions
            .iter()
            .map(|(runs, cuts)| {
                let rows: Vec<Row> = runs.iter().flat_map(|&(row, times)| std::iter::repeat_n(row, times)).collect();
                let mut batches = vec![batch(&[])];
                let (mut rest, mut cuts) = (rows.as_slice(), cuts.iter().cycle());
                while !rest.is_empty() {
                    let cut = cuts.next().map_or(1, |&cut| cut.min(rest.len()));
                    batches.push(batch(&rest[..cut]));
                    rest = &rest[cut..];
                }
                batches
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (by_runs, hashed) = (context(&partitions, true), context(&partitions, false));
            for sql in STATEMENTS {
                prop_assert_eq!(answer(&by_runs, sql).await, answer(&hashed, sql).await, "{}", sql);
            }
            Ok(())
        })?;
    }
}

/// Rows of `a` one after the other in runs of so many, in batches of 1,000.
fn in_runs(rows: u64, run: u64) -> Vec<RecordBatch> {
    let row = |row: u64| (Some(row / run), Some(0), None, Some(1.0));
    let rows: Vec<Row> = (0..rows).map(row).collect();
    rows.chunks(1_000).map(batch).collect()
}

async fn rows_in_runs(batches: Vec<RecordBatch>, sql: &str) -> (usize, usize) {
    let context = context(&[batches], true);
    let plan = context.sql(sql).await.expect("plans").create_physical_plan().await.expect("plans");
    let groups = datafusion::physical_plan::collect(Arc::clone(&plan), context.task_ctx()).await.expect("runs");
    let groups = groups.iter().map(RecordBatch::num_rows).sum();
    let text = displayable(plan.as_ref()).indent(false).to_string();
    let mut node = plan;
    while node.name() != "RunAggregateExec" {
        node = Arc::clone(node.children().first().unwrap_or_else(|| panic!("not by runs: {text}")));
    }
    let counted = node.metrics().and_then(|metrics| metrics.sum_by_name("rows_in_runs"));
    (groups, counted.map_or(0, |value| value.as_usize()))
}

#[tokio::test]
async fn long_runs_stay_out_of_the_hash_table_and_short_ones_do_not() {
    let sql = "SELECT a, sum(v) FROM t GROUP BY a";
    assert_eq!(rows_in_runs(in_runs(40_000, 288), sql).await, (139, 40_000));
    // Judged after 4,096 rows in each of two partitions, which get batches of 100.
    assert_eq!(rows_in_runs(in_runs(40_000, 2), sql).await, (20_000, 8_200));
    // Runs that become short on the way: the first ones do not speak for all.
    let mut mixed = in_runs(10_000, 288);
    mixed.extend(in_runs(30_000, 1));
    let (_, counted) = rows_in_runs(mixed, sql).await;
    assert!((10_000..25_000).contains(&counted), "{counted}");
}
