//! What is not needed is not opened: told by what the store was asked for.

use crate::support::{House, answer, climate, logger, one, org, reading, time};
use kit::Reading;
use storage_format::Millis;

/// Twelve months of 2024, loggers 1 and 2 in one segment and 3 in another of each month: 24 segments.
async fn a_year() -> House {
    let house = House::open(&[org(1)]).await;
    for month in 1..=12 {
        for loggers in [&[1, 2][..], &[3]] {
            let start = time(&format!("2024-{month:02}-10T00:00:00Z"));
            let readings: Vec<Reading> = loggers
                .iter()
                .flat_map(|&id| {
                    (0..10).map(move |step| {
                        let at = Millis::new(start.get() + step * 60_000).expect("in range");
                        reading(id, at, climate(f64::from(month), 50.0))
                    })
                })
                .collect();
            house.send(org(1), 9, "2025-01-01T00:00:00Z", &readings).await;
            house.flush(org(1)).await;
        }
    }
    house.opened();
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_chosen_by_key_before_any_is_opened() {
    let house = a_year().await;
    let check = async |sql: &str, rows: &str, segments: usize| {
        // A new cache each time, so that every use of a segment is seen.
        let session = house.session(org(1));
        house.opened();
        let found = one(&session, sql).await;
        assert_eq!((found.as_str(), house.opened().len()), (rows, segments), "{sql}");
    };
    let sum = "SELECT count(temperature) FROM readings WHERE";
    check("SELECT count(temperature) FROM readings", "360", 24).await;
    check(&format!("{sql} time >= '2024-03-01' AND time < '2024-04-01'", sql = sum), "30", 2).await;
    check(&format!("{sum} time >= '2024-03-01' AND time < '2024-04-01' AND logger = {}", logger(3).get()), "10", 1)
        .await;
    check(&format!("{sum} logger = eui64('{}')", logger(3)), "120", 12).await;
    check(&format!("{sum} logger IN ({}, {})", logger(1).get(), logger(2).get()), "240", 12).await;
    check(&format!("{sum} time BETWEEN '2024-05-10T00:03:00Z' AND '2024-05-10T00:04:00Z'"), "6", 2).await;
    check(&format!("{sum} time > '2025-01-01'"), "0", 0).await;
    check(&format!("{sum} logger = 12345"), "0", 0).await;
    check(&format!("{sum} time < '2024-02-01' OR time > '2024-12-01'"), "60", 4).await;
    check(&format!("{sum} temperature > 11.5"), "30", 24).await;
    check(&format!("{sum} time::DATE = '2024-07-10'"), "30", 2).await;
    check(&format!("{sum} time < '9999-12-31' AND time >= '2024-12-01'"), "30", 2).await;
    check(&format!("{sum} time < to_timestamp('2024-02-01') OR time > TIMESTAMP '2024-12-01'"), "60", 4).await;
    let berlin = "time AT TIME ZONE 'Europe/Berlin'";
    check(&format!("{sum} {berlin} >= '2024-03-01' AND {berlin} < '2024-04-01'"), "30", 2).await;
    check(&format!("{sum} {berlin} BETWEEN '2024-05-10T02:03:00' AND '2024-05-10T02:04:00'"), "6", 2).await;
    check(&format!("{sum} {berlin} IN ('2024-05-10T02:03:00', '2024-05-10T02:04:00')"), "6", 2).await;
    check(&format!("{sum} {berlin} >= DATE '2024-12-10'"), "30", 2).await;
    check(&format!("{sum} date_trunc('month', time) = '2024-05-01'"), "30", 2).await;
    check(&format!("{sum} date_trunc('day', {berlin}) = '2024-05-10'"), "30", 2).await;
    check(&format!("{sum} date_trunc('hour', {berlin}) > '2024-12-01'"), "30", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifest_answers_what_it_knows() {
    let house = a_year().await;
    let session = house.session(org(1));
    assert_eq!(one(&session, "SELECT count(*) FROM readings").await, "360");
    assert_eq!(
        one(&session, "SELECT min(time), max(time) FROM readings").await,
        "2024-01-10T00:00:00Z|2024-12-10T00:09:00Z"
    );
    assert_eq!(house.opened(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn footers_are_read_once() {
    let house = a_year().await;
    let session = house.session(org(1));
    let sql = "SELECT count(temperature) FROM readings WHERE time < '2024-02-01'";
    let mut asked = Vec::new();
    for _ in 0..2 {
        house.store.take_log();
        assert_eq!(one(&session, sql).await, "30");
        asked.push(house.store.take_log().len());
    }
    assert!(asked[1] < asked[0], "{asked:?}: the second time only data is read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_readings_do_not_open_the_oldest_segments() {
    let house = a_year().await;
    let session = house.session(org(1));
    let found = answer(&session, "SELECT logger, time FROM readings ORDER BY time DESC LIMIT 1").await;
    assert_eq!(found.len(), 1);
    let opened = house.opened();
    assert!(opened.len() < 24, "{opened:?}");
}

/// The plan that makes floats canonical is above every scan, and lets past it what makes scans cheap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_prune_below_canonical_floats() {
    let house = a_year().await;
    let session = house.session(org(1));
    let plan = async |explain: &str, sql: &str| answer(&session, &format!("{explain} {sql}")).await.join("\n");

    let filtered = "SELECT count(temperature) FROM readings WHERE temperature > 8";
    let analyzed = plan("EXPLAIN ANALYZE", filtered).await;
    assert!(analyzed.contains("row_groups_pruned_statistics=24 total → 8 matched"), "{analyzed}");
    let hottest = plan("EXPLAIN", "SELECT logger, time FROM readings ORDER BY temperature DESC, time LIMIT 1").await;
    let (above, below) = hottest.split_once("CanonicalFloatsExec").expect("it is there");
    assert!(above.contains("TopK") && below.contains("DynamicFilter"), "sorted above, pruned below: {hottest}");
    let limited = plan("EXPLAIN", "SELECT temperature FROM readings LIMIT 5").await;
    assert!(limited.contains("limit=5") && !limited.contains("LimitExec"), "{limited}");
    let no_floats = plan("EXPLAIN", "SELECT time FROM (SELECT time, temperature FROM readings)").await;
    assert!(!no_floats.contains("CanonicalFloatsExec"), "{no_floats}");
}
