//! Which statements pass, as data.

use super::*;
use crate::limits::PLAN_STACK_BYTES;

/// On a stack as planning has it.
fn verdict(sql: &str) -> Result<Statement, QueryError> {
    let sql = sql.to_owned();
    let thread = std::thread::Builder::new().stack_size(PLAN_STACK_BYTES).spawn(move || parse(&sql, 256 << 10));
    thread.expect("a thread").join().expect("no panic")
}

#[track_caller]
fn passes(sql: &str) {
    if let Err(error) = verdict(sql) {
        panic!("{sql}: {error}");
    }
}

#[track_caller]
fn is_refused(sql: &str) {
    match verdict(sql) {
        Err(QueryError::Refused(_)) => {}
        other => panic!("{sql}: {other:?}"),
    }
}

#[track_caller]
fn is_wrong(sql: &str) {
    match verdict(sql) {
        Err(QueryError::Invalid(_)) => {}
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn queries_pass() {
    for sql in [
        "SELECT 1",
        "select * from readings;",
        "SELECT logger, avg(temperature) FROM readings WHERE time >= '2024-01-01' GROUP BY logger ORDER BY 2 DESC",
        "WITH a AS (SELECT * FROM readings), b AS (SELECT * FROM a) SELECT * FROM a JOIN b USING (logger, time)",
        "(SELECT 1) UNION ALL SELECT 2 EXCEPT SELECT 3",
        "VALUES (1, 'a'), (2, 'b')",
        "EXPLAIN SELECT * FROM readings",
        "EXPLAIN ANALYZE VERBOSE SELECT * FROM readings",
        "SELECT * FROM icecore.public.readings",
        "SELECT (SELECT max(time) FROM readings) - INTERVAL '1 day'",
        "SELECT count(*) FILTER (WHERE temperature > 8) OVER (PARTITION BY logger) FROM readings",
    ] {
        passes(sql);
    }
}

#[test]
fn everything_else_is_refused() {
    for sql in [
        "CREATE TABLE t (a INT)",
        "CREATE TABLE t AS SELECT * FROM readings",
        "CREATE VIEW v AS SELECT * FROM readings",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE DATABASE d",
        "CREATE SCHEMA s",
        "DROP TABLE readings",
        "TRUNCATE TABLE readings",
        "ALTER TABLE readings ADD COLUMN a INT",
        "INSERT INTO readings VALUES (1)",
        "UPDATE readings SET temperature = 1",
        "DELETE FROM readings",
        "COPY readings TO '/tmp/out.csv'",
        "COPY (SELECT * FROM readings) TO '/tmp/out.parquet' STORED AS PARQUET",
        "EXPLAIN COPY readings TO '/tmp/out.csv'",
        "EXPLAIN INSERT INTO readings SELECT * FROM readings",
        "EXPLAIN EXPLAIN SELECT 1",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW TABLES",
        "SHOW ALL",
        "SHOW COLUMNS FROM readings",
        "DESCRIBE readings",
        "PREPARE p AS SELECT * FROM readings",
        "EXECUTE p",
        "DEALLOCATE p",
        "BEGIN",
        "COMMIT",
        "USE other",
        "GRANT SELECT ON readings TO public",
        "ANALYZE TABLE readings",
        "KILL 1",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE readings",
        "SELECT * INTO t FROM readings",
        "WITH x AS (INSERT INTO readings VALUES (1)) SELECT * FROM x",
        "WITH x AS (DELETE FROM readings RETURNING *) SELECT * FROM x",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT * FROM n",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM \"information_schema\".\"columns\"",
        "SELECT * FROM icecore.information_schema.df_settings",
        "SELECT * FROM Information_Schema.Tables",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'file:///etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('s3://b/k')",
        "SELECT * FROM generate_series(1, 1000000000)",
        "SELECT * FROM TABLE(read_csv('/etc/passwd'))",
        "SELECT * FROM parquet_metadata('x')",
        "SELECT * FROM readings, LATERAL read_csv(gateway)",
        "SELECT * FROM UNNEST(ARRAY[1, 2])",
        "SELECT * FROM readings FOR UPDATE",
        "SELECT 1 WHERE EXISTS (SELECT * FROM read_csv('/etc/passwd'))",
        "TABLE readings",
        "FROM readings |> SELECT *",
    ] {
        match verdict(sql) {
            Err(_) => {}
            Ok(_) => panic!("{sql} passed"),
        }
    }
}

#[test]
fn refusals_say_what_can_be_run() {
    let error = verdict("DROP TABLE readings").expect_err("refused").to_string();
    assert!(error.contains("DROP") && error.contains("SELECT"), "{error}");
    let error = verdict("SELECT * FROM read_csv('/etc/passwd')").expect_err("refused").to_string();
    assert!(error.contains("read_csv") && error.contains("readings"), "{error}");
}

#[test]
fn wrong_sql_is_wrong_not_refused() {
    for sql in ["", "   ", ";", "SELEC 1", "SELECT FROM", "SELECT 'open", "SELECT (1"] {
        is_wrong(sql);
    }
}

#[test]
fn sizes() {
    is_refused(&format!("SELECT '{}'", "x".repeat(300 << 10)));
    is_refused(&format!("SELECT {}1{}", "(".repeat(40), ")".repeat(40)));
    is_refused(&format!("SELECT 1{}", "+1".repeat(100_000 / 2)));
    is_refused(&format!("SELECT {}true", "NOT ".repeat(5_000)));
    is_refused(&format!("SELECT {}1", "- ".repeat(5_000)));
    is_refused(&format!("SELECT 1{}", " UNION SELECT 1".repeat(5_000)));
    is_refused(&format!("SELECT 1{}", "::INT".repeat(5_000)));
    is_refused(&format!("SELECT * FROM readings{}", ", readings".repeat(100)));
    let list = (0..20_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    passes(&format!("SELECT * FROM readings WHERE logger IN ({list})"));
    let list = (0..40_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    is_refused(&format!("SELECT * FROM readings WHERE logger IN ({list})"));
}

#[test]
fn with_queries_count_what_stands_behind_them() {
    let chain = |links: usize| {
        let mut sql = "WITH t0 AS (SELECT logger FROM readings)".to_owned();
        for link in 1..=links {
            sql += &format!(", t{link} AS (SELECT a.logger FROM t{0} AS a, t{0} AS b)", link - 1);
        }
        sql + &format!(" SELECT count(*) FROM t{links}")
    };
    passes(&chain(2));
    is_refused(&chain(12));
}

/// The parser tries several readings of a parenthesis: at the deepest that is let through it must still be quick.
#[test]
fn nesting_is_not_exponential() {
    let depth = SQL_PARENTHESES_MAX;
    let (open, close) = ("(".repeat(depth), ")".repeat(depth));
    let started = std::time::Instant::now();
    let _ = verdict(&format!("SELECT * FROM {open}readings{close}"));
    let _ = verdict(&format!("SELECT {open}1{close}"));
    let _ = verdict(&format!("SELECT * FROM {open}SELECT 1{close}"));
    let _ = verdict(&format!("SELECT * FROM {open}readings"));
    let _ = verdict(&format!("SELECT {}1{close}", "abs(".repeat(depth)));
    let _ = verdict(&format!("SELECT {}1", "CASE WHEN ".repeat(depth)));
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}
