//! Order comes from merging, not from sorting; and what is merged is what can repeat, no more.

use query::{ExportRequest, QueryLimits};
use storage_format::{LoggerId, Millis, TimeRange};

use crate::model::Model;
use crate::support::{House, answer, batches, climate, lines, logger, org, reading, time};
use kit::Reading;

/// Three months of two loggers, flushed month by month; then, in the buffer, a new month and one repeated reading.
async fn months() -> (House, Model) {
    let (house, mut model) = (House::open(&[org(1)]).await, Model::default());
    let month = |number: u32| -> Vec<Reading> {
        let start = time(&format!("2024-{number:02}-01T00:00:00Z")).get();
        let at = |step: i64| Millis::new(start + step * 3_600_000).expect("in range");
        (1..=2)
            .flat_map(|id| (0..50).map(move |step| reading(id, at(step), climate(f64::from(number), 50.0))))
            .collect()
    };
    for number in 1..=3 {
        house.send_both(&mut model, org(1), 1, "2024-06-01T00:00:00Z", &month(number)).await;
        house.flush(org(1)).await;
    }
    house.send_both(&mut model, org(1), 1, "2024-06-01T00:00:00Z", &month(4)).await;
    let again = vec![month(2)[7].clone()];
    house.send_both(&mut model, org(1), 2, "2024-06-01T00:00:00Z", &again).await;
    (house, model)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_can_repeat_is_merged() {
    let (house, _) = months().await;
    let session = house.session(org(1));
    let plan = async |sql: &str| answer(&session, &format!("EXPLAIN {sql}")).await.join("\n");

    let all = plan("SELECT * FROM readings").await;
    // February is merged with the repeated reading, April comes from the buffer alone; January and March are plain.
    assert!(all.contains("merges=2, segments=1, buffered_rows=101"), "{all}");
    assert_eq!(all.matches(".parquet").count(), 2, "{all}");
    let january = plan("SELECT * FROM readings WHERE time < '2024-02-01'").await;
    assert!(!january.contains("FirstWinsMergeExec"), "{january}");
    let april = plan("SELECT * FROM readings WHERE time >= '2024-04-01'").await;
    assert!(april.contains("merges=1, segments=0, buffered_rows=100"), "{april}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_keys_needs_no_sort() {
    let (house, model) = months().await;
    let session = house.session(org(1));
    for sql in [
        "SELECT * FROM readings ORDER BY logger, time",
        "SELECT * FROM readings ORDER BY logger, time LIMIT 5",
        "SELECT logger, time, humidity FROM readings WHERE temperature > 1 ORDER BY logger, time",
        "SELECT time, temperature FROM readings WHERE logger = eui64('00124B0000000002') ORDER BY time",
    ] {
        let plan = answer(&session, &format!("EXPLAIN {sql}")).await.join("\n");
        assert!(plan.contains("SortPreservingMergeExec"), "{sql}: {plan}");
        assert!(!plan.contains("SortExec"), "{sql}: {plan}");
    }
    let found = answer(&session, "SELECT * FROM readings ORDER BY logger, time LIMIT 5").await;
    assert_eq!(found, model.readings()[..5]);
    let aggregate = answer(&session, "EXPLAIN SELECT logger, avg(temperature) FROM readings GROUP BY logger").await;
    assert!(aggregate.join("\n").contains("2 groups"), "two partitions for two threads: {aggregate:?}");
}

/// Starts of periods ascend with time, so that groups by them come one after the other; but for zones in which a date came
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_periods_follow_the_order_of_keys() {
    let (house, _) = months().await;
    let session = house.session(org(1));
    let plan = async |time: &str| {
        let sql = format!(
            "EXPLAIN SELECT logger, date_trunc('day', {time}) AS day, avg(temperature) FROM readings \
             WHERE time < '2024-02-01' GROUP BY logger, day"
        );
        answer(&session, &sql).await.join("\n")
    };
    for time in ["time", "time AT TIME ZONE 'Europe/Berlin'", "time AT TIME ZONE '+05:30'"] {
        let plan = plan(time).await;
        assert_eq!(plan.matches("ordering_mode=Sorted").count(), 2, "{time}: {plan}");
    }
    let plan = plan("time AT TIME ZONE 'America/St_Johns'").await;
    assert!(plan.contains("ordering_mode=PartiallySorted([0])") && !plan.contains("=Sorted"), "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports() {
    let (house, model) = months().await;
    let session = house.session(org(1));
    let export = async |request: ExportRequest| {
        lines(&batches(session.export(request).await.expect("exports")).await.expect("exports"))
    };
    assert_eq!(export(ExportRequest::default()).await, model.readings());
    let range = TimeRange::new(time("2024-02-01T03:00:00Z"), time("2024-04-01T02:00:00Z")).expect("a range");
    let expected = model.rows_where(|_, at, _| range.contains(at));
    assert_eq!(export(ExportRequest { range: Some(range), loggers: None }).await, expected);
    let one: Vec<LoggerId> = vec![logger(2)];
    let expected = model.rows_where(|id, at, _| id == logger(2) && range.contains(at));
    assert_eq!(export(ExportRequest { range: Some(range), loggers: Some(one) }).await, expected);
    assert!(export(ExportRequest { range: None, loggers: Some(Vec::new()) }).await.is_empty());
    assert!(model.keys().count() > 0);
}

/// More sorted inputs than may be merged at once: the answer is the same, by another plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_limit_of_merged_inputs_rows_are_sorted() {
    let (house, model) = months().await;
    let limits = QueryLimits { merge_inputs_max: 2, threads: 2, ..QueryLimits::default() };
    let session = house.queries(limits).session(org(1));
    let sql = "SELECT * FROM readings ORDER BY logger, time";
    let plan = answer(&session, &format!("EXPLAIN {sql}")).await.join("\n");
    assert!(plan.contains("SortExec"), "{plan}");
    assert_eq!(answer(&session, sql).await, model.readings());
    let exported = session.export(ExportRequest::default()).await.expect("exports");
    assert_eq!(lines(&batches(exported).await.expect("exports")), model.readings());
}

/// What puts limits around functions hides none of what rules want to know of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarded_functions_are_planned_as_before() {
    let (house, _) = months().await;
    let session = house.session(org(1));
    for (sql, sign) in [
        (
            "SELECT date_trunc('day', time), count(*) FROM (SELECT time FROM readings ORDER BY time LIMIT 99) \
          GROUP BY 1",
            "ordering_mode=Sorted",
        ),
        (
            "SELECT last_value(temperature ORDER BY time DESC) FROM (SELECT * FROM readings ORDER BY time LIMIT 99)",
            "first_value",
        ),
        ("SELECT logger, lag(temperature) OVER (PARTITION BY logger ORDER BY time) FROM readings", "BoundedWindowAgg"),
    ] {
        let plan = answer(&session, &format!("EXPLAIN {sql}")).await.join("\n");
        assert!(plan.contains(sign), "{sql}: {plan}");
    }
}
