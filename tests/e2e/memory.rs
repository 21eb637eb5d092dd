//! Memory goes back to the system after a heavy query: a server that lives for months must not keep its highest tide.

use std::fs;
use std::time::{Duration, Instant};

use crate::readings;
use crate::server::Icecore;

/// What may be kept of what a query took, in MiB.
const KEPT_MAX: u64 = 150;

/// Within this time.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// A figure of the server's memory, in MiB.
fn mib(icecore: &Icecore, figure: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", icecore.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(figure)).expect("Linux reports it");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib >> 10
}

#[test]
fn of_a_heavy_query_goes_back() {
    let mut icecore = Icecore::with_environment(&[("ICECORE_QUERY__MEMORY_MAX", "1 GiB")]);
    icecore.start();
    let org = icecore.org("clinic");
    let identity = icecore.enroll("clinic", "ward");
    let fleet = readings::file(icecore.work(), "fleet.csv", &readings::fleet(20, 40));
    icecore.send(&identity, &fleet).ok();
    let rows = "SELECT a.logger, a.time, b.logger AS other, b.time AS at FROM readings a JOIN readings b \
                ON a.time <> b.time AND b.logger % 5 = 0";
    icecore.sql(&org, &format!("SELECT count(*) FROM ({rows})")).expect("answers");
    let before = mib(&icecore, "VmRSS:");

    // More than a hundred thousand groups, with texts of twenty lengths.
    let heavy = format!(
        "SELECT count(DISTINCT t) FROM (SELECT string_agg(repeat('x', 1500 + 97 * CAST(logger % 20 AS BIGINT)), ',') \
         AS t FROM ({rows}) GROUP BY logger, time, other, at)"
    );
    icecore.sql(&org, &heavy).expect("answers");
    let peak = mib(&icecore, "VmHWM:");
    println!("{before} MiB before, {peak} at most, {} right after", mib(&icecore, "VmRSS:"));
    assert!(peak > before + 2 * KEPT_MAX, "not a heavy query: {before} MiB before, {peak} MiB at most");
    let begun = Instant::now();
    while mib(&icecore, "VmRSS:") > before + KEPT_MAX {
        let now = mib(&icecore, "VmRSS:");
        assert!(begun.elapsed() < BACK_WITHIN, "{before} MiB before, {peak} MiB at most, {now} MiB are kept");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{} MiB after {:?}", mib(&icecore, "VmRSS:"), begun.elapsed());
    icecore.terminate();
}
