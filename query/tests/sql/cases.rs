//! SQL and its answers as text, in `cases/*.txt`.
//!
//! A case is `query` (the rows follow, in order), `rows` (in any order), `invalid` or `refused` (a part of the error
//! follows); then the statement; then `----`; then what is expected, up to an empty line.

use engine::CompactScope;
use query::{QueryError, Session};

use crate::support::{House, ask, climate, code, lines, org, reading, time};
use storage_format::Millis;

/// Three loggers. 1: January 1st every 5 minutes for an hour, flushed; its first value again, differing, in the buffer.
/// 2: the same times, temperature first, humidity in a later segment. 3: in the buffer only, with its battery.
async fn fixture() -> House {
    let house = House::open(&[org(1)]).await;
    let at =
        |day: &str, step: i64| Millis::new(time(&format!("{day}T00:00:00Z")).get() + step * 300_000).expect("in range");
    let value = |step: i64| f64::from(i32::try_from(step).expect("small"));
    let day = "2024-01-01";
    let mut frame = Vec::new();
    for step in 0..12 {
        frame.push(reading(1, at(day, step), climate(4.0 + value(step) * 0.5, 40.0)));
        frame.push(reading(2, at(day, step), vec![(code("temperature"), -20.0 - value(step))]));
    }
    house.send(org(1), 0xA1, "2024-01-01T01:00:05.250Z", &frame).await;
    house.flush(org(1)).await;
    let fill = (0..12).map(|step| reading(2, at(day, step), vec![(code("humidity"), 80.0 + value(step))]));
    house.send(org(1), 0xA2, "2024-01-01T02:00:00Z", &fill.collect::<Vec<_>>()).await;
    house.flush(org(1)).await;
    let other = vec![reading(1, at(day, 0), climate(9.0, 40.0))];
    house.send(org(1), 0xA2, "2024-01-02T00:00:00Z", &other).await;
    let mut latest = Vec::new();
    for step in 0..3 {
        latest.push(reading(3, at("2024-02-10", step), vec![(code("battery"), 3.0 + value(step) * 0.25)]));
    }
    house.send(org(1), 0xA1, "2024-02-10T00:15:00Z", &latest).await;
    house
}

/// Loggers 1 and 3: temperatures around zero, both zeros among them, the first flushed, the other in the buffer.
/// 2: a false value of 9.9e37 among true ones. 4: the greatest values, twice. 5: zeros and what conflicts with them.
/// 6: negative zeros, alone in their segment.
async fn floats() -> House {
    let house = House::open(&[org(1)]).await;
    let start = time("2024-07-02T00:00:00Z").get();
    let series = |id: u64, values: &[f64]| {
        let at = |step: usize| Millis::new(start + i64::try_from(step).expect("few") * 300_000).expect("in range");
        let temperature = code("temperature");
        values.iter().enumerate().map(|(step, &v)| reading(id, at(step), vec![(temperature, v)])).collect::<Vec<_>>()
    };
    let around_zero = [-1.4, -0.4, -0.3, -0.1, 0.1, 0.3, 0.4, 1.2, 2.3, 0.0, -0.0, 0.6];
    let mut frame = series(1, &around_zero);
    frame.extend(series(2, &[4.0, 4.2, 9.9e37, 4.4, 4.6, 4.0, 4.2, 4.4]));
    frame.extend(series(4, &[1.5, 1.7e308, 1.7e308, 2.5, 3.5]));
    frame.extend(series(5, &[-0.0, -0.0, 1.0]));
    house.send(org(1), 0xA1, "2024-07-03T00:00:00Z", &frame).await;
    house.flush(org(1)).await;
    house.send(org(1), 0xA1, "2024-07-03T00:30:00Z", &series(6, &[-0.0, -0.0])).await;
    house.flush(org(1)).await;
    let mut frame = series(3, &around_zero);
    frame.extend(series(5, &[1.0, 0.0, -0.0]));
    house.send(org(1), 0xA1, "2024-07-03T01:00:00Z", &frame).await;
    house
}

/// One logger every 10 minutes across a night in which the Azores turn clocks back at one o'clock.
async fn azores() -> House {
    let house = House::open(&[org(1)]).await;
    let start = time("2024-10-26T22:00:00Z").get();
    let at = |step: i64| Millis::new(start + step * 600_000).expect("in range");
    let readings: Vec<_> = (0..180).map(|step| reading(1, at(step), climate(4.0, 40.0))).collect();
    house.send(org(1), 0xA1, "2024-10-28T04:00:00Z", &readings).await;
    house.flush(org(1)).await;
    house
}

/// Two loggers every half hour for two days, and 3 with the greatest values twice within an hour: flushed, merged, and so
/// with rollups.
pub(crate) async fn with_rollups() -> House {
    let house = House::open(&[org(1)]).await;
    let start = time("2024-01-01T00:00:00Z").get();
    let at = |minute: i32| Millis::new(start + i64::from(minute) * 60_000).expect("in range");
    let mut frame = Vec::new();
    for hour in 0..48 {
        for (id, sign) in [(1, 1.0), (2, -1.0)] {
            let value = sign * f64::from(hour);
            frame.push(reading(id, at(hour * 60), climate(value, 40.0)));
            frame.push(reading(id, at(hour * 60 + 30), climate(value + 0.5, -0.0)));
        }
    }
    for (minute, value) in [(0, 1.5), (10, 1.7e308), (20, 1.7e308), (60, 2.5), (1_800, 3.5)] {
        frame.push(reading(3, at(minute), vec![(code("temperature"), value)]));
    }
    house.send(org(1), 0xA1, "2024-01-03T00:00:00Z", &frame).await;
    house.flush(org(1)).await;
    house.engine.compact(CompactScope::Org(org(1)), &|_| ()).await.expect("merges");
    house
}

async fn check(session: &Session, file: &str, text: &str) {
    let mut seen = 0;
    for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let block: Vec<&str> = block.lines().filter(|line| !line.starts_with('#')).collect();
        let Some((kind, rest)) = block.split_first() else { continue };
        let end = rest.iter().position(|line| *line == "----").unwrap_or_else(|| panic!("{file}: no ---- in {rest:?}"));
        let (sql, expected) = (rest[..end].join("\n"), &rest[end + 1..]);
        let answer = ask(session, &sql).await;
        match (*kind, answer) {
            ("query", Ok(batches)) => assert_eq!(lines(&batches), expected, "{file}: {sql}"),
            ("rows", Ok(batches)) => {
                let (mut found, mut expected) = (lines(&batches), expected.to_vec());
                found.sort();
                expected.sort_unstable();
                assert_eq!(found, expected, "{file}: {sql}");
            }
            ("invalid", Err(error @ QueryError::Invalid(_))) | ("refused", Err(error @ QueryError::Refused(_))) => {
                let error = error.to_string();
                assert!(error.contains(&expected.join("\n")), "{file}: {sql}: {error}");
            }
            (kind, Ok(batches)) => panic!("{file}: {sql}: {kind} expected, answered {:?}", lines(&batches)),
            (kind, Err(error)) => panic!("{file}: {sql}: {kind} expected: {error:?}"),
        }
        seen += 1;
    }
    assert!(seen > 0, "{file} has no cases");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases() {
    let session = fixture().await.session(org(1));
    check(&session, "readings.txt", include_str!("cases/readings.txt")).await;
    check(&session, "last_readings.txt", include_str!("cases/last_readings.txt")).await;
    check(&session, "conflicts.txt", include_str!("cases/conflicts.txt")).await;
    check(&session, "functions.txt", include_str!("cases/functions.txt")).await;
    check(&session, "errors.txt", include_str!("cases/errors.txt")).await;
    let session = floats().await.session(org(1));
    check(&session, "zeros.txt", include_str!("cases/zeros.txt")).await;
    check(&session, "sums.txt", include_str!("cases/sums.txt")).await;
    check(&azores().await.session(org(1)), "times.txt", include_str!("cases/times.txt")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cases_of_rollups() {
    let house = with_rollups().await;
    let late = reading(2, time("2024-01-02T23:45:00Z"), vec![(code("temperature"), 99.0)]);
    house.send(org(1), 0xA1, "2024-01-04T00:00:00Z", &[late]).await;
    let session = house.session(org(1));
    check(&session, "rollups.txt", include_str!("cases/rollups.txt")).await;
    check(&session.without_rollups(), "rollups.txt", include_str!("cases/rollups.txt")).await;
}
