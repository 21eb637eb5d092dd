//! A session of one organisation cannot see, name or disturb another, nor anything of the host.

use query::QueryError;

use crate::support::{House, answer, ask, climate, error_of, one, org, reading, time};

/// Two organisations whose ids and readings can be told apart in any text.
const MINE: u64 = 0x1111_1111_1111_1111;
const THEIRS: u64 = 0x2222_2222_2222_2222;

async fn two_orgs() -> House {
    let house = House::open(&[org(MINE), org(THEIRS)]).await;
    for (id, value) in [(MINE, 1.0), (THEIRS, 987.654)] {
        let readings = vec![reading(id % 7, time("2024-01-01T00:00:00Z"), climate(value, value))];
        house.send(org(id), id % 5 + 1, "2024-01-01T00:00:01Z", &readings).await;
        house.flush(org(id)).await;
        let readings = vec![reading(id % 7, time("2024-01-01T00:05:00Z"), climate(value, value))];
        house.send(org(id), id % 5 + 1, "2024-01-01T00:05:01Z", &readings).await;
    }
    house
}

/// Nothing of the other organisation or of the host is in this text.
#[track_caller]
fn check_clean(house: &House, sql: &str, text: &str) {
    let host = house.dir.path().to_string_lossy().into_owned();
    for secret in ["2222222222222222", "987.654", "root:", &host, "/home", "/root", "src/"] {
        // What the caller wrote may come back.
        assert!(!text.contains(secret) || sql.contains(secret), "{sql}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sees_its_own() {
    let house = two_orgs().await;
    for (id, value) in [(MINE, "1.0"), (THEIRS, "987.654")] {
        let session = house.session(org(id));
        assert_eq!(
            one(&session, "SELECT count(*), min(temperature), max(temperature) FROM readings").await,
            format!("2|{value}|{value}")
        );
        assert_eq!(one(&session, "SELECT readings FROM totals").await, "2");
        assert_eq!(one(&session, "SELECT temperature FROM last_readings").await, value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_out_is_closed() {
    let house = two_orgs().await;
    let session = house.session(org(MINE));
    let segment =
        house.engine.snapshot(org(THEIRS)).await.expect("a snapshot").manifest.segments()[0].object_key(org(THEIRS));
    let ways = [
        "SELECT * FROM '/etc/passwd'".to_owned(),
        "SELECT * FROM \"/etc/passwd\"".to_owned(),
        "SELECT * FROM `/etc/passwd`".to_owned(),
        "SELECT * FROM 'file:///etc/passwd'".to_owned(),
        "SELECT * FROM \"icecore://readings/segments\"".to_owned(),
        format!("SELECT * FROM '{segment}'"),
        format!("SELECT * FROM \"{segment}\""),
        format!("SELECT * FROM \"{}\".public.readings", org(THEIRS)),
        format!("SELECT * FROM \"{}\".readings", org(THEIRS)),
        "SELECT * FROM other.public.readings".to_owned(),
        "SELECT * FROM datafusion.public.readings".to_owned(),
        "SELECT * FROM icecore.other.readings".to_owned(),
        "SELECT * FROM read_csv('/etc/passwd')".to_owned(),
        "SELECT * FROM read_parquet('/etc/passwd')".to_owned(),
        "SELECT * FROM read_json('/etc/passwd')".to_owned(),
        "SELECT * FROM parquet_metadata('x')".to_owned(),
        "SELECT * FROM parquet_scan('x')".to_owned(),
        "SELECT * FROM glob('/*')".to_owned(),
        "SELECT * FROM generate_series(1, 10)".to_owned(),
        "SELECT * FROM range(1, 10)".to_owned(),
        "SELECT * FROM TABLE(read_csv('/etc/passwd'))".to_owned(),
        "SELECT read_file('/etc/passwd')".to_owned(),
        "SELECT pg_read_file('/etc/passwd')".to_owned(),
        "SELECT input_file_name() FROM readings".to_owned(),
        "SELECT version()".to_owned(),
        "SELECT getenv('HOME')".to_owned(),
        "SELECT @@version".to_owned(),
        "SELECT * FROM information_schema.tables".to_owned(),
        "SELECT * FROM information_schema.columns".to_owned(),
        "SELECT * FROM information_schema.df_settings".to_owned(),
        "SELECT * FROM icecore.information_schema.schemata".to_owned(),
        "SELECT * FROM pg_catalog.pg_tables".to_owned(),
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM information_schema.tables)".to_owned(),
        "COPY readings TO '/tmp/icecore-escape.csv'".to_owned(),
        "COPY (SELECT * FROM readings) TO '/tmp/icecore-escape.parquet' STORED AS PARQUET".to_owned(),
        "EXPLAIN COPY readings TO '/tmp/icecore-escape.csv'".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO readings SELECT * FROM readings".to_owned(),
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'icecore://readings/'".to_owned(),
        "CREATE TABLE t AS SELECT * FROM readings".to_owned(),
        "CREATE VIEW t AS SELECT * FROM readings".to_owned(),
        "CREATE SCHEMA t".to_owned(),
        "CREATE FUNCTION f() RETURNS INT RETURN 1".to_owned(),
        "INSERT INTO readings SELECT * FROM readings".to_owned(),
        "UPDATE readings SET temperature = 0".to_owned(),
        "DELETE FROM readings".to_owned(),
        "DROP TABLE readings".to_owned(),
        "TRUNCATE readings".to_owned(),
        "SET datafusion.catalog.information_schema = true".to_owned(),
        "SET datafusion.execution.target_partitions = 1000".to_owned(),
        "SET datafusion.runtime.memory_limit = '100G'".to_owned(),
        "RESET datafusion.runtime.memory_limit".to_owned(),
        "SHOW ALL".to_owned(),
        "SHOW TABLES".to_owned(),
        "SHOW COLUMNS FROM readings".to_owned(),
        "SHOW FUNCTIONS".to_owned(),
        "SHOW datafusion.runtime.temp_directory".to_owned(),
        "DESCRIBE readings".to_owned(),
        "USE other".to_owned(),
        "PREPARE p AS SELECT * FROM readings".to_owned(),
        "EXECUTE p".to_owned(),
        "DEALLOCATE p".to_owned(),
        "BEGIN".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        "SELECT 1; DROP TABLE readings".to_owned(),
        "SELECT * INTO t FROM readings".to_owned(),
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n".to_owned(),
        "WITH t AS (DELETE FROM readings RETURNING *) SELECT * FROM t".to_owned(),
        "SELECT $1".to_owned(),
        "SELECT nosuch FROM readings".to_owned(),
        "SELECT 'a' + 1 FROM readings".to_owned(),
        "SELECT CAST('x' AS INT)".to_owned(),
        "SELECT eui64('nonsense')".to_owned(),
        "SELECT 1 / 0".to_owned(),
    ];
    for sql in &ways {
        let error = error_of(&session, sql).await;
        check_clean(&house, sql, &error.to_string());
        assert!(!matches!(error, QueryError::Engine), "{sql}: must not get as far as the engine");
    }
    assert!(!std::path::Path::new("/tmp/icecore-escape.csv").exists());
    assert!(!std::path::Path::new("/tmp/icecore-escape.parquet").exists());
    assert_eq!(one(&session, "SELECT count(*) FROM readings").await, "2", "all is as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_tell_nothing_of_the_host_or_of_others() {
    let house = two_orgs().await;
    let session = house.session(org(MINE));
    for sql in [
        "EXPLAIN SELECT * FROM readings WHERE temperature > 0",
        "EXPLAIN VERBOSE SELECT * FROM readings JOIN conflicts USING (logger, time)",
        "EXPLAIN ANALYZE VERBOSE SELECT logger, count(*) FROM readings GROUP BY logger",
        "EXPLAIN FORMAT TREE SELECT * FROM totals",
    ] {
        let text = answer(&session, sql).await.join("\n");
        assert!(text.contains("readings") || text.contains("Exec"), "{sql}: {text}");
        check_clean(&house, sql, &text);
        assert!(!text.contains("1111111111111111"), "{sql}: not even its own name is in the paths: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_store_tells_nothing() {
    let house = two_orgs().await;
    let session = house.session(org(MINE));
    house.store.fail_next(engine::Operation::Get, "/segments/", engine::Fault::Before, 0);
    let error = ask(&session, "SELECT sum(temperature) FROM readings").await.expect_err("the store fails");
    assert!(matches!(error, QueryError::Engine), "{error}");
    let text = format!("{error} {error:?}");
    check_clean(&house, "a failing store", &text);
    assert!(!text.contains("segments"), "{text}");
    assert_eq!(one(&session, "SELECT sum(temperature) FROM readings").await, "2.0", "and the next is answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_organisation_has_no_readings() {
    let house = two_orgs().await;
    let error = error_of(&house.session(org(3)), "SELECT * FROM readings").await;
    check_clean(&house, "an unknown organisation", &error.to_string());
}

/// One cache for all, as in a server: what one organisation's queries put into it does not help another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_do_not_cross() {
    let house = two_orgs().await;
    let queries = house.queries(query::QueryLimits::default());
    let sql = "SELECT min(temperature), max(temperature) FROM readings";
    for _ in 0..2 {
        assert_eq!(one(&queries.session(org(MINE)), sql).await, "1.0|1.0");
        assert_eq!(one(&queries.session(org(THEIRS)), sql).await, "987.654|987.654");
    }
    assert!(queries.metadata_cache_bytes() > 0);
}
