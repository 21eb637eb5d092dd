//! SQL as a caller may send it, to a session of one of two organisations: an answer within its limits or an error;
//! nothing of the other organisation or of the host in either; and nothing is changed by it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt as _;
use query::{LimitKind, QueryError, QueryLimits};

mod house;
mod panics;

use house::{House, SECRETS};

/// Rows of one answer.
const ROWS_MAX: u64 = 1_000;
/// Memory of one query.
const MEMORY_BYTES_MAX: usize = 8 << 20;
/// Time of one query.
const TIME_MAX: Duration = Duration::from_secs(5);
/// What a busy machine may add to it before that is called a broken promise.
const PATIENCE: Duration = Duration::from_secs(30);
/// Texts that are longer find nothing new.
const SQL_BYTES_MAX: usize = 16 << 10;
/// How often it is looked whether anything was changed.
const LOOK_EVERY: u64 = 128;

/// What the first word of a statement can be that is a query.
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

static HOUSE: LazyLock<Mutex<House>> = LazyLock::new(|| Mutex::new(House::open(limits())));

/// One text.
pub fn sql(data: &[u8]) -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Ok(sql) = std::str::from_utf8(data) else { return false };
    // One query at a time: what it leaves behind is its own.
    let house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    panics::watch();
    let started = Instant::now();
    let answer = house.runtime.block_on(ask(&house, sql));
    let took = started.elapsed();
    assert!(took < TIME_MAX + PATIENCE, "{sql:?} took {took:?}");
    let contained = panics::take();
    let shown = match &answer {
        Ok(batches) => {
            assert!(contained.is_empty(), "{sql:?} was answered, and it panicked: {contained:?}");
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert!(rows as u64 <= ROWS_MAX, "{rows} rows");
            let word = first_word(sql);
            assert!(QUERIES.contains(&word.as_str()), "{word} is no query, and was answered");
            show(batches)
        }
        Err(error) => {
            let went_on = matches!(error, QueryError::Limit(LimitKind::Queries { .. }));
            assert!(!went_on, "an earlier query goes on though it was stopped: seen by {sql:?}");
            let engine = matches!(error, QueryError::Engine | QueryError::Defect);
            assert!(contained.is_empty() || engine, "{sql:?} panicked, and says {error:?}: {contained:?}");
            format!("{error} {error:?}")
        }
    };
    check_clean(sql, &shown);
    if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
        house.check_unchanged();
    }
    answer.is_ok()
}

async fn ask(house: &House, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
    let mut stream = house.session.sql(sql).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch?);
    }
    assert!(stream.next().await.is_none(), "nothing comes after the end");
    Ok(batches)
}

/// The first word of a statement, after blanks, comments of a line and parentheses; empty when that is not easily told.
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
                // A value that cannot be shown is an error of its own; here only what is shown matters.
                let _ = values.value(row).write(&mut out);
                out.push('|');
            }
        }
    }
    out
}

/// Nothing of the other organisation or of the host is in this text, but what the caller wrote.
fn check_clean(sql: &str, text: &str) {
    let (sql_lower, text) = (sql.to_lowercase(), text.to_lowercase());
    for secret in SECRETS {
        assert!(!text.contains(secret) || sql_lower.contains(secret), "{sql:?} tells {secret:?}: {text}");
    }
}

/// The names of files below a directory.
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
