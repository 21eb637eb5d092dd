//! SQL as a caller may send it, to a session of one of two organisations: it must give a response within the limits or
//! an error, neither may contain data of the other organisation or of the host, and no data may change.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt as _;
use query::{LimitKind, QueryError, QueryLimits};

mod panics;
mod test_engine;

use test_engine::{SECRETS, TestEngine};

/// Most rows of a response.
const ROWS_MAX: u64 = 1_000;
/// Most memory of a query.
const MEMORY_BYTES_MAX: usize = 8 << 20;
/// Time limit of a query.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Time that a busy machine may add to [`TIME_MAX`] before it counts as a violation.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest statement. Longer ones find nothing new.
const SQL_BYTES_MAX: usize = 16 << 10;
/// Number of statements between two checks that no data changed.
const CHECK_INTERVAL: u64 = 128;

/// First words of the statements that are queries.
const QUERIES: [&str; 6] = ["SELECT", "WITH", "VALUES", "EXPLAIN", "FROM", ""];

fn limits() -> QueryLimits {
    QueryLimits {
        memory_bytes_max: MEMORY_BYTES_MAX,
        spill_bytes_max: 0,
        time_max: TIME_MAX,
        rows_max: ROWS_MAX,
        threads: 2,
        queries_max: 2,
        queue_time_max: PATIENCE,
        sql_bytes_max: SQL_BYTES_MAX,
        ..QueryLimits::default()
    }
}

static TEST_ENGINE: LazyLock<Mutex<TestEngine>> = LazyLock::new(|| Mutex::new(TestEngine::open(limits())));

/// Executes a statement.
pub fn sql(data: &[u8]) -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Ok(sql) = std::str::from_utf8(data) else { return false };
    // One query at a time, so that anything left behind is due to this query.
    let engine = TEST_ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    panics::watch();
    let started = Instant::now();
    let response = engine.runtime.block_on(query(&engine, sql));
    let took = started.elapsed();
    assert!(took < TIME_MAX + PATIENCE, "{sql:?} took {took:?}");
    let contained = panics::take();
    let shown = match &response {
        Ok(batches) => {
            assert!(contained.is_empty(), "{sql:?} returned rows although it panicked: {contained:?}");
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert!(rows as u64 <= ROWS_MAX, "{rows} rows");
            let word = first_word(sql);
            assert!(QUERIES.contains(&word.as_str()), "{word} is not a query, but returned rows");
            show(batches)
        }
        Err(error) => {
            let still_running = matches!(error, QueryError::Limit(LimitKind::Queries(_)));
            assert!(!still_running, "an earlier query still runs after it was stopped; seen by {sql:?}");
            let is_engine_error = matches!(error, QueryError::Engine | QueryError::Defect);
            assert!(contained.is_empty() || is_engine_error, "{sql:?} panicked, but returned {error:?}: {contained:?}");
            format!("{error} {error:?}")
        }
    };
    check_clean(sql, &shown);
    if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(CHECK_INTERVAL) {
        engine.check_unchanged();
    }
    response.is_ok()
}

async fn query(engine: &TestEngine, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
    let mut stream = engine.session.sql(sql).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch?);
    }
    assert!(stream.next().await.is_none(), "nothing comes after the end");
    Ok(batches)
}

/// Returns the first word of a statement, after spaces, line comments and parentheses; empty when there is none.
fn first_word(sql: &str) -> String {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        match rest.strip_prefix("--") {
            Some(comment) => rest = comment.split_once('\n').map_or("", |(_, after)| after),
            None => break,
        }
    }
    rest.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase()
}

fn show(batches: &[RecordBatch]) -> String {
    let options = FormatOptions::default();
    let mut out = String::new();
    for batch in batches {
        let _ = write!(out, "{:?}", batch.schema());
        for column in batch.columns() {
            let Ok(values) = ArrayFormatter::try_new(column.as_ref(), &options) else { continue };
            for row in 0..batch.num_rows() {
                // Ignore values that cannot be formatted, because only formatted values can leak data.
                let _ = values.value(row).write(&mut out);
                out.push('|');
            }
        }
    }
    out
}

/// Checks that the text has no data of the other organisation or of the host, except what the statement contains.
fn check_clean(sql: &str, text: &str) {
    let (sql_lower, text) = (sql.to_lowercase(), text.to_lowercase());
    for secret in SECRETS {
        assert!(!text.contains(secret) || sql_lower.contains(secret), "{sql:?} reveals {secret:?}: {text}");
    }
}

/// Collects the names of all files below a directory.
fn names(dir: &std::path::Path, out: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names(&path, out);
        } else {
            out.insert(path.display().to_string());
        }
    }
}
