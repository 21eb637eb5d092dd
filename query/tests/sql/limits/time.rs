//! What computes for minutes within one call of an operator ends soon after the query does.

use std::time::Duration;

use query::{LimitKind, QueryError, QueryLimits};

use super::some;
use crate::support::{answer, ask, one, org};

/// Each would take minutes at least. There is one thread and one place: the next query is answered only because the
/// one before was really ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_computes_stops() {
    let house = some().await;
    let limits = QueryLimits {
        time_max: Duration::from_millis(500),
        queries_max: 1,
        queue_time_max: Duration::from_secs(10),
        threads: 1,
        ..QueryLimits::default()
    };
    let session = house.queries(limits).session(org(1));
    let mut wrong = Vec::new();
    let over = |function: &str| {
        format!(
            "SELECT max(m) FROM (SELECT {function} OVER (ORDER BY time, logger ROWS BETWEEN 5000 PRECEDING AND 5000 \
             FOLLOWING) AS m FROM readings)"
        )
    };
    for sql in [
        // Windows that slide, and windows of which each row looks at all others.
        over("median(temperature)"),
        over("percentile_cont(temperature, 0.3)"),
        "SELECT max(m) FROM (SELECT median(temperature + humidity) OVER (ORDER BY time, logger) AS m FROM readings)"
            .to_owned(),
        // Functions of texts whose time is the product of two lengths.
        "SELECT max(levenshtein(repeat('x', 1500), repeat('y', 1500) || temperature)) FROM readings".to_owned(),
        "SELECT max(length(btrim(repeat('x', 2000) || temperature, repeat('y', 2000) || 'x'))) FROM readings"
            .to_owned(),
        format!("SELECT sum(regexp_count(repeat('ab', 3000) || logger, '{}')) FROM readings", slow_pattern()),
        format!("SELECT count(*) FROM readings WHERE repeat('ab', 3000) || logger ~ '{}'", slow_pattern()),
        format!("SELECT count(*) FROM readings WHERE repeat('ab', 3000) || logger SIMILAR TO '{}'", slow_pattern()),
        // A pattern of its own for each row.
        format!("SELECT count(*) FROM readings WHERE regexp_like('ab', '{}' || time || logger)", slow_pattern()),
        // Constants, which are computed while the statement is planned.
        format!(
            "SELECT {}",
            (0..200)
                .map(|i| format!("levenshtein(repeat('x', 3000), repeat('{i}', 1000))"))
                .collect::<Vec<_>>()
                .join(" + ")
        ),
    ] {
        match ask(&session, &sql).await {
            Err(QueryError::Limit(LimitKind::Time { .. })) => {}
            Err(error) => wrong.push(format!("{sql}: {error}")),
            Ok(_) => wrong.push(format!("{sql}: answered")),
        }
        let next =
            tokio::time::timeout(Duration::from_secs(20), async { while ask(&session, "SELECT 1").await.is_err() {} });
        if next.await.is_err() {
            wrong.push(format!("{sql}: it goes on computing"));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same when nobody waits any more, long before the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_stops_what_computes() {
    let house = some().await;
    let limits = QueryLimits {
        queries_max: 1,
        queue_time_max: Duration::from_secs(10),
        time_max: Duration::from_secs(600),
        threads: 1,
        ..QueryLimits::default()
    };
    let session = house.queries(limits).session(org(1));
    for sql in [
        "SELECT max(m) FROM (SELECT median(temperature) OVER (ORDER BY time, logger ROWS BETWEEN 5000 PRECEDING AND \
         5000 FOLLOWING) AS m FROM readings)",
        "SELECT max(levenshtein(repeat('x', 1500), repeat('y', 1500) || temperature)) FROM readings",
        // Its partial aggregates are computed by a task of its own.
        "SELECT logger, max(levenshtein(repeat('x', 1500), repeat('y', 1500) || temperature)) FROM readings GROUP BY 1",
        "SELECT count(*) FROM readings a, readings b WHERE a.temperature + b.temperature < b.humidity - a.humidity",
    ] {
        let mut stream = session.sql(sql).await.expect("runs");
        let first = tokio::time::timeout(Duration::from_millis(300), futures::StreamExt::next(&mut stream)).await;
        assert!(first.is_err(), "{sql}: it computes for long");
        drop(stream);
        let next = tokio::time::timeout(Duration::from_secs(20), ask(&session, "SELECT 1")).await;
        assert!(matches!(next, Ok(Ok(_))), "{sql}: it goes on computing");
    }
}

/// Many states at once, for every byte of a text.
fn slow_pattern() -> String {
    "(a|b|ab|ba)[ab]{200}c".to_owned()
}

/// Operators on texts are what they were, under other names inside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_match_as_before() {
    let house = some().await;
    let session = house.session(org(1));
    for (expression, expected) in [
        ("t LIKE '%01'", "500"),
        ("t NOT LIKE '%01'", "9500"),
        ("t ILIKE '00124b%01'", "500"),
        ("t NOT ILIKE '00124b%'", "0"),
        ("t ~ '0[12]$'", "1000"),
        ("t !~ '0[12]$'", "9000"),
        ("t ~* 'b0+1$'", "500"),
        ("t !~* 'b0+1$'", "9500"),
        ("t SIMILAR TO '0[12]$'", "1000"),
        ("nullif(t, t) LIKE '%'", "0"),
        ("NOT nullif(t, t) ~ 'x'", "0"),
        ("regexp_like(t, '0[12]$')", "1000"),
        ("levenshtein(t, '00124B0000000001') = 0", "500"),
    ] {
        let sql = format!("SELECT count(*) FROM (SELECT eui64_text(logger) AS t FROM readings) WHERE {expression}");
        assert_eq!(one(&session, &sql).await, expected, "{expression}");
    }
    let case = "CASE WHEN temperature > 100 THEN 'hot' ELSE 'cold' END";
    for (sql, expected) in [
        (format!("SELECT {case} AS c, count(*) FROM readings GROUP BY 1 ORDER BY 1"), "cold|4040 hot|5960"),
        (format!("SELECT {case}, count(*) FROM readings GROUP BY {case} ORDER BY {case} DESC"), "hot|5960 cold|4040"),
        (
            format!("SELECT {case}, count(*) FROM readings GROUP BY ROLLUP({case}) HAVING count(*) > 5000 ORDER BY 2"),
            "hot|5960 |10000",
        ),
        (
            format!("SELECT DISTINCT {case} AS c, count(*) OVER (PARTITION BY {case}) FROM readings ORDER BY 1"),
            "cold|4040 hot|5960",
        ),
        (
            "SELECT CAST(temperature AS VARCHAR) AS t, string_agg(DISTINCT CAST(humidity AS VARCHAR), ',') FROM readings \
             WHERE CAST(temperature AS VARCHAR) IN ('1.0', '2.0') GROUP BY CAST(temperature AS VARCHAR) ORDER BY 1"
                .to_owned(),
            "1.0|50.0 2.0|50.0",
        ),
        (
            format!("SELECT count(*) FROM readings a JOIN (SELECT DISTINCT {case} AS c FROM readings) b ON {case} = c"),
            "10000",
        ),
    ] {
        assert_eq!(answer(&session, &sql).await.join(" "), expected, "{sql}");
    }
    let names = "SELECT t LIKE 'x', t ~ 'x', t || t || 'x', t SIMILAR TO 'x', CASE WHEN true THEN t END \
                 FROM (SELECT eui64_text(logger) AS t FROM readings) LIMIT 1";
    let schema = session.sql(names).await.expect("runs").schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let expected = [
        "t LIKE Utf8(\"x\")",
        "t ~ Utf8(\"x\")",
        "t || t || Utf8(\"x\")",
        "t SIMILAR TO Utf8(\"x\")",
        "CASE WHEN Boolean(true) THEN t END",
    ];
    assert_eq!(names, expected);
}
