//! Every operator and every class of functions that can hold much: within a small memory it is an error, with more of
//! it an answer.

use query::{LimitKind, QueryError, QueryLimits, Session};

use super::some;
use crate::support::{House, ask, error_of, one, org};

/// Little enough that ten thousand rows do not fit in any of the forms below.
const LITTLE: usize = 3 << 20;

fn session(house: &House, memory_bytes_max: usize) -> Session {
    let limits = QueryLimits { memory_bytes_max, batch_rows: 1_024, threads: 2, ..QueryLimits::default() };
    house.queries(limits).session(org(1))
}

/// Each fails for want of memory with little of it, and is answered with much.
async fn check(statements: &[&str]) {
    let house = some().await;
    let (little, much) = (session(&house, LITTLE), session(&house, 1 << 30));
    let mut wrong = Vec::new();
    for sql in statements {
        match ask(&little, sql).await {
            Err(QueryError::Limit(LimitKind::Memory { bytes_max: LITTLE })) => {}
            Err(error) => wrong.push(format!("{sql}: {error}")),
            Ok(_) => wrong.push(format!("{sql}: answered with little memory")),
        }
        if let Err(error) = ask(&much, sql).await {
            wrong.push(format!("{sql}: with much memory: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_aggregates() {
    check(&[
        "SELECT length(string_agg(repeat('x', 500), ',')) FROM readings",
        "SELECT length(string_agg(repeat('x', 500), ',' ORDER BY temperature)) FROM readings",
        "SELECT length(string_agg(DISTINCT repeat('x', 500) || time::text || logger::text, ',')) FROM readings",
        "SELECT max(length(t)) FROM (SELECT string_agg(repeat('x', 500), ',') AS t FROM readings GROUP BY logger)",
        "SELECT count(*) FROM (SELECT array_agg(repeat('x', 500)) AS a FROM readings) WHERE a IS NOT NULL",
        "SELECT count(DISTINCT repeat('x', 500) || time::text || logger::text), count(DISTINCT humidity) FROM readings",
        "SELECT max(length(m)) FROM (SELECT min(repeat('x', 800)) AS m FROM readings GROUP BY time, logger)",
        "SELECT max(length(m)) FROM (SELECT last_value(repeat('x', 800) ORDER BY battery) AS m FROM readings \
         GROUP BY time, logger)",
    ])
    .await;
}

/// One value of which an operator makes a column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_constants() {
    let long = "x".repeat(20_000);
    check(&[
        &format!("SELECT count(DISTINCT '{long}') FROM readings"),
        &format!("SELECT length(max(CASE WHEN temperature > -1000 THEN '{long}' ELSE 'x' END)) FROM readings"),
        "SELECT max(length((SELECT string_agg(time::text, ',') FROM (SELECT time FROM readings LIMIT 500)))) FROM readings",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_windows() {
    let six = |function: &str| {
        let each = (1..=6).map(|i| format!("{} AS f{i}", function.replace("{}", &i.to_string())));
        each.collect::<Vec<_>>().join(", ")
    };
    let sums = "sum(f1), sum(f2), sum(f3), sum(f4), sum(f5), sum(f6)";
    check(&[
        // Over a whole partition, which is kept, and row by row.
        &format!("SELECT {sums} FROM (SELECT {} FROM readings)", six("ntile({}) OVER (ORDER BY logger, time)")),
        &format!(
            "SELECT {sums} FROM (SELECT {} FROM readings)",
            six("sum(temperature + {}) OVER (ORDER BY logger, time ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)")
        ),
        &format!(
            "SELECT {sums} FROM (SELECT {} FROM readings)",
            six("count(temperature) OVER (ORDER BY logger, time ROWS BETWEEN {} PRECEDING AND 9000 FOLLOWING)")
        ),
        // What comes back for each row is as long as all rows before it.
        "SELECT max(length(t)) FROM (SELECT string_agg(eui64_text(logger), ',') OVER (ORDER BY time, logger) AS t \
         FROM readings WHERE temperature < 25)",
        "SELECT count(*) FROM (SELECT array_agg(temperature) OVER (ORDER BY time, logger) AS a FROM readings \
         WHERE temperature < 25) WHERE a IS NOT NULL",
        "SELECT max(length(t)) FROM (SELECT first_value(t) OVER (ORDER BY time, logger) AS t FROM (\
         SELECT repeat('x', 1000) AS t, * FROM readings))",
        "SELECT max(length(t)) FROM (SELECT lag(t, 3) OVER (ORDER BY time, logger) AS t FROM (\
         SELECT repeat('x', 1000) AS t, * FROM readings))",
        // What a running set keeps.
        "SELECT max(n) FROM (SELECT count(DISTINCT repeat('x', 500) || temperature || logger || time) \
         OVER (ORDER BY time, logger) AS n FROM readings)",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_joins_and_sorts() {
    check(&[
        "SELECT count(*) FROM (SELECT repeat('x', 900) AS t, * FROM readings) a \
         JOIN (SELECT repeat('y', 900) AS t, * FROM readings) b ON a.time = b.time AND a.logger = b.logger \
         WHERE length(a.t || b.t) > 0",
        "SELECT count(*) FROM (SELECT repeat('x', 900) AS t, * FROM readings) a, (SELECT 1 AS one) b \
         WHERE length(a.t) > b.one",
        "SELECT * FROM (SELECT repeat('x', 900) AS t, * FROM readings) ORDER BY temperature",
        "SELECT DISTINCT repeat('x', 800) || time || logger FROM readings",
        "SELECT eui64_text(logger) || repeat('x', 300), time FROM readings \
         EXCEPT SELECT eui64_text(logger), time FROM readings",
    ])
    .await;
}

/// The results of one batch's expressions, however they are nested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_expressions() {
    let wide = (0..40).map(|i| format!("repeat('{i}', 700)")).collect::<Vec<_>>().join(", ");
    let cases = (0..40)
        .map(|i| format!("CASE WHEN temperature > {i} THEN repeat('a', 700) ELSE repeat('b', 700) END"))
        .collect::<Vec<_>>()
        .join(", ");
    check(&[
        &format!("SELECT * FROM (SELECT {wide} FROM readings LIMIT 2000)"),
        &format!("SELECT count(*) FROM readings WHERE concat({cases}) = 'x'"),
        &format!("SELECT * FROM (SELECT {cases} FROM readings LIMIT 2000)"),
        "SELECT length(string_agg(t, '')) FROM (SELECT repeat('x', 900) || temperature AS t FROM readings)",
    ])
    .await;
}

/// Texts that grow at each link of a chain: no link is made that is too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_make_no_long_texts() {
    let house = some().await;
    let session = session(&house, 64 << 20);
    let mut wrong = Vec::new();
    let doubled = |from: &str, link: &str| {
        let links = (1..20).map(|i| format!("t{i} AS (SELECT {link} AS t FROM t{})", i - 1)).collect::<Vec<_>>();
        format!("WITH t0 AS ({from}), {} SELECT * FROM t19", links.join(", "))
    };
    for sql in [
        // While it is planned.
        doubled("SELECT repeat('x', 8000) AS t", "t || t"),
        doubled("SELECT repeat('x', 8000) AS t", "concat(t, t)"),
        doubled("SELECT repeat('x', 8000) AS t", "concat_ws(t, t, t)"),
        doubled("SELECT repeat('x', 8000) AS t", "replace(t, 'x', 'xx')"),
        // While it runs.
        doubled("SELECT eui64_text(logger) AS t FROM readings", "t || t"),
        doubled("SELECT eui64_text(logger) AS t FROM readings", "concat(t, t)"),
        doubled("SELECT eui64_text(logger) AS t FROM readings", "encode(t::bytea, 'hex')"),
        doubled("SELECT eui64_text(logger) AS t FROM readings", "overlay(t PLACING t FROM 1 FOR 1)"),
        format!("SELECT to_char(time, '{}') FROM readings", "%c".repeat(4_000)),
        format!("SELECT count(regexp_match(repeat('x', 4000), '{}{}')) FROM readings", "(".repeat(90), ")".repeat(90)),
        format!("SELECT concat({}) FROM readings", ["repeat('x', 4000)"; 20].join(", ")),
        format!("SELECT {} FROM readings", ["repeat('x', 4000)"; 20].join(" || ")),
    ] {
        let shown = &sql[..sql.len().min(200)];
        match ask(&session, &sql).await {
            Err(QueryError::Invalid(text)) if text.contains("could make a text") => {}
            Err(QueryError::Limit(LimitKind::Memory { .. })) => {}
            Err(error) => wrong.push(format!("{shown}: {error}")),
            Ok(_) => wrong.push(format!("{shown}: answered")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        one(&session, "SELECT 'a' || 'b' || 1 || NULL, 'a' || 1.5, length(concat('a', 'b', NULL))").await,
        "|a1.5|2"
    );
}

/// A row that is repeated for every row of another input, or of the batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_texts_are_not_repeated() {
    let house = some().await;
    let session = session(&house, 64 << 20);
    let long = "SELECT string_agg(eui64_text(logger), ',') AS t FROM readings";
    let joined = format!("SELECT count(*) FROM readings a, ({long}) b WHERE length(b.t) > a.temperature");
    let error = error_of(&session, &joined).await;
    assert!(matches!(&error, QueryError::Invalid(text) if text.contains("could repeat a row")), "{error}");
    // By itself it is no trouble, and neither are short ones in a join.
    assert_eq!(one(&session, &format!("SELECT length(t || 'x') FROM ({long})")).await, "170000");
    let short = long.replace("readings", "readings WHERE time < '2024-01-01T00:02:00Z'");
    let joined = joined.replace(long, &short);
    assert_eq!(one(&session, &joined).await, "10000");

    let literals = (0..40).map(|i| format!("'{}' AS c{i}", "x".repeat(4_000))).collect::<Vec<_>>().join(", ");
    let columns = (0..4_000).map(|i| format!("temperature AS c{i}")).collect::<Vec<_>>().join(", ");
    let session = self::session(&house, 16 << 20);
    for sql in [format!("SELECT {literals} FROM readings"), format!("SELECT {columns} FROM readings")] {
        let error = error_of(&session, &sql).await;
        assert!(matches!(error, QueryError::Limit(LimitKind::Memory { .. })), "{error}");
    }
}

/// One row of a response is encoded as a whole, so it has a limit of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_a_part_of_the_memory_at_most() {
    let house = some().await;
    let sql = "SELECT string_agg(eui64_text(logger), ',') FROM readings";
    let error = error_of(&session(&house, 1 << 20), sql).await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Memory { .. })), "{error}");
    assert_eq!(one(&session(&house, 2 << 20), sql).await.len(), 169_999);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn combinations_of_columns_are_few() {
    let house = some().await;
    let columns = "logger, temperature, humidity, battery, gateway, received, logger + 1, logger + 2, logger + 3";
    let error =
        error_of(&house.session(org(1)), &format!("SELECT count(*) FROM readings GROUP BY CUBE({columns})")).await;
    assert!(matches!(&error, QueryError::Invalid(text) if text.contains("512 combinations")), "{error}");
}
