//! Any mix of frames and flushes reads as the model says: duplicates, fills and conflicts within a frame's buffer,
//! between buffers and across segments.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use storage_format::{ChannelCode, Millis};

use crate::model::Model;
use crate::support::{House, answer, batches, lines, logger, one, org, time};
use kit::Reading;

/// Logger, step of time, channels and values.
type Drawn = (u64, i64, Vec<(u16, i8)>);

#[derive(Debug, Clone)]
enum Step {
    Send { gateway: u64, readings: Vec<Drawn> },
    Flush,
}

/// Few loggers, times, channels and values, over two windows, so that everything collides with everything.
fn step() -> impl Strategy<Value = Step> {
    let samples = prop::collection::btree_map(1_u16..4, 0_i8..3, 1..3).prop_map(|map| map.into_iter().collect());
    let reading = (1_u64..4, 0_i64..6, samples);
    let send = (1_u64..3, prop::collection::vec(reading, 1..8))
        .prop_map(|(gateway, readings)| Step::Send { gateway, readings });
    prop_oneof![3 => send, 1 => Just(Step::Flush)]
}

/// The last hours of January and the first of February.
fn at(step: i64) -> Millis {
    let start = time("2024-01-31T21:30:00Z").get();
    Millis::new(start + step * 3_600_000).expect("in range")
}

fn readings(drawn: Vec<Drawn>) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    for (id, step, samples) in drawn {
        let (logger, time) = (logger(id), at(step));
        // A frame has a reading once.
        if readings.iter().all(|known| (known.logger, known.time) != (logger, time)) {
            let samples =
                samples.into_iter().map(|(code, v)| (ChannelCode::new(code).expect("a code"), f64::from(v) / 2.0));
            readings.push(Reading { logger, time, samples: samples.collect() });
        }
    }
    readings
}

async fn play(steps: Vec<Step>) {
    let house = House::open(&[org(1)]).await;
    let session = house.session(org(1));
    let mut model = Model::default();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Flush => house.flush(org(1)).await,
            Step::Send { gateway, readings: drawn } => {
                let received =
                    Millis::new(time("2024-02-02T00:00:00Z").get() + number as i64 * 1000).expect("in range");
                house.send_both(&mut model, org(1), gateway, &received.to_string(), &readings(drawn)).await;
            }
        }
    }
    check(&session, &model).await;
    house.flush(org(1)).await;
    check(&session, &model).await;
    house.engine.close().await.expect("closes");
}

async fn check(session: &query::Session, model: &Model) {
    let all = answer(session, "SELECT * FROM readings ORDER BY logger, time").await;
    assert_eq!(all, model.readings());
    assert_eq!(one(session, "SELECT count(*) FROM readings").await, model.len().to_string());

    let exported = session.export(query::ExportRequest::default()).await.expect("exports");
    assert_eq!(lines(&batches(exported).await.expect("exports")), model.readings());

    // A filter on a value must not let a refused value through, nor one on a key hide the first value.
    let warm = answer(session, "SELECT * FROM readings WHERE temperature >= 0.5 ORDER BY logger, time").await;
    let temperature = ChannelCode::new(1).expect("a code");
    assert_eq!(warm, model.rows_where(|_, _, values| values.get(&temperature).is_some_and(|v| *v >= 0.5)));
    let late = answer(
        session,
        "SELECT * FROM readings WHERE time >= '2024-02-01' AND logger IN (eui64('00124B0000000001'), \
         eui64('00124B0000000003')) ORDER BY logger, time",
    )
    .await;
    let february = time("2024-02-01T00:00:00Z");
    assert_eq!(late, model.rows_where(|l, t, _| t >= february && (l == logger(1) || l == logger(3))));

    let mut conflicts = answer(session, "SELECT * FROM conflicts").await;
    conflicts.sort();
    assert_eq!(conflicts, model.conflicts());
    let totals = one(session, "SELECT readings, duplicates + conflicts FROM totals").await;
    assert_eq!(totals, format!("{}|{}", model.len(), model.refused()));
}

#[test]
fn any_mix_of_frames_and_flushes_reads_as_the_model_says() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut runner = TestRunner::new(Config { cases: 24, max_shrink_iters: 200, ..Config::default() });
    let result = runner.run(&prop::collection::vec(step(), 1..14), |steps| {
        let shown = format!("{steps:?}");
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(steps))));
        played.map_err(|_| TestCaseError::fail(shown))
    });
    result.expect("all cases");
}
