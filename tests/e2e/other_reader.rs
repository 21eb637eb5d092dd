//! Open format: a segment opens in a Parquet reader that is not ours (DuckDB), with its key, and not without.

use std::process::Command;

use crate::readings;
use crate::server::{Icecore, PATIENCE};

/// Runs DuckDB SQL; the answer's first row, or the error.
pub(crate) fn duckdb(setup: &str, sql: &str) -> Result<String, String> {
    let script = "import duckdb, sys\nc = duckdb.connect()\nc.execute(sys.argv[1]) if sys.argv[1] else None\nprint(*c.execute(sys.argv[2]).fetchone())";
    let output = Command::new(kit::python()).args(["-c", script, setup, sql]).output().expect("Python starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn duckdb_reads_a_segment_with_its_key_only() {
    let mut icecore = Icecore::with_environment(&[("ICECORE_ENGINE__FLUSH_AGE", "1s")]);
    icecore.start();
    let org = icecore.org("lab");
    // One month: one segment holds it all.
    let sent = readings::fleet(3, 500);
    icecore.send(&org.identity, &readings::file(icecore.work(), "a.csv", &sent)).ok();
    let begun = std::time::Instant::now();
    while icecore.number(&org, "SELECT unflushed FROM totals") > 0 {
        assert!(begun.elapsed() < PATIENCE, "no flush came");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let segments = icecore.files("/segments/");
    assert_eq!(segments.len(), 1);
    let segment = segments[0].to_string_lossy().into_owned();

    let key = icecore.run(&["segment", "key", &segment, "--data-dir", &icecore.data_dir()]).ok().stdout;
    let key = key.split_whitespace().last().expect("the key comes last").to_owned();
    let inspected = icecore.run(&["segment", "inspect", &segment, "--data-dir", &icecore.data_dir()]).ok().stdout;
    assert!(inspected.contains("1500"), "{inspected}");

    // DuckDB takes the key as base64; icecore prints it as such.
    let add = format!("PRAGMA add_parquet_key('k', '{key}')");
    let with_key = format!("FROM read_parquet('{segment}', encryption_config = {{footer_key: 'k'}})");
    let expected: i64 = sent.values().map(|(temperature, _)| temperature).sum();
    let select = format!("SELECT count(*), count(DISTINCT logger), round(sum(temperature) * 100)::BIGINT {with_key}");
    assert_eq!(duckdb(&add, &select), Ok(format!("1500 3 {expected}")));

    let without = duckdb("", &format!("SELECT count(*) FROM read_parquet('{segment}')"));
    assert!(without.is_err(), "it opens without a key: {without:?}");
    let wrong = format!("PRAGMA add_parquet_key('k', '{}')", "A".repeat(43) + "=");
    let wrong = duckdb(&wrong, &format!("SELECT sum(temperature) {with_key}"));
    assert!(wrong.is_err(), "it opens with another key: {wrong:?}");
}
