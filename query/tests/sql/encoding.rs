//! Encoding: on the query's threads, within the query's limits, and never a whole-looking end after an error.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use futures::StreamExt;
use query::{Encode, EncodedStream, ExportRequest, LimitKind, QueryError, QueryLimits};
use storage_format::Millis;

use crate::support::{House, ask, climate, code, org, reading, time};
use kit::Reading;

/// What an encoder saw: the name of the thread and the rows, batch by batch, and zero rows for the end.
type Seen = Arc<Mutex<Vec<(String, usize)>>>;

/// Encodes a batch as its number of rows.
#[derive(Default)]
struct Counting {
    seen: Seen,
    /// Computes that long over each batch.
    busy: Duration,
    fails: bool,
}

impl Counting {
    fn note(&self, rows: usize) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.seen.lock().expect("not poisoned").push((name, rows));
    }
}

impl Encode for Counting {
    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.note(batch.num_rows());
        std::thread::sleep(self.busy);
        if self.fails { Err(ArrowError::CsvError("no".into())) } else { Ok(format!("{};", batch.num_rows()).into()) }
    }

    fn finish(&mut self) -> Result<Vec<u8>, ArrowError> {
        self.note(0);
        Ok(b"end".to_vec())
    }
}

async fn text(mut stream: EncodedStream) -> (String, Option<QueryError>) {
    let mut text = String::new();
    while let Some(next) = stream.next().await {
        match next {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                assert!(stream.next().await.is_none(), "nothing comes after an error");
                return (text, Some(error));
            }
        }
    }
    (text, None)
}

async fn some() -> House {
    let house = House::open(&[org(1)]).await;
    let start = time("2024-01-01T00:00:00Z").get();
    let at = |step: i64| Millis::new(start + step * 60_000).expect("in range");
    let readings: Vec<Reading> = (0..1_000).map(|step| reading(1, at(step), climate(4.0, 50.0))).collect();
    house.send(org(1), 1, "2024-02-01T00:00:00Z", &readings).await;
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encoders_run_on_the_threads_of_queries() {
    let house = some().await;
    let session = house.session(org(1));
    for sql in [true, false] {
        let encoder = Counting::default();
        let seen = Arc::clone(&encoder.seen);
        let stream = match sql {
            true => session.sql("SELECT * FROM readings").await,
            false => session.export(ExportRequest::default()).await,
        };
        let stream = stream.expect("runs");
        assert_eq!(stream.channels(), [code("temperature"), code("humidity")], "of the snapshot, not of the registry");
        let (text, error) = text(stream.encode(encoder)).await;
        assert!(error.is_none() && text.ends_with(";end"), "{text} {error:?}");
        let seen = seen.lock().expect("not poisoned");
        assert_eq!(seen.iter().map(|(_, rows)| rows).sum::<usize>(), 1_000);
        assert!(seen.iter().all(|(name, _)| name == "query"), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_encoded_as_one_empty_batch() {
    let house = some().await;
    let session = house.session(org(1));
    let stream = session.sql("SELECT * FROM readings WHERE temperature > 100").await.expect("runs");
    let (text, error) = text(stream.encode(Counting::default())).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text, "0;end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_limits_end_it_without_its_end() {
    let house = some().await;
    let session = |limits| house.queries(limits).session(org(1));
    let limits = QueryLimits { batch_rows: 100, ..QueryLimits::default() };

    let failing = Counting { fails: true, ..Counting::default() };
    let stream = session(limits.clone()).sql("SELECT * FROM readings").await.expect("runs");
    let (text_so_far, error) = text(stream.encode(failing)).await;
    assert!(matches!(error, Some(QueryError::Defect)) && text_so_far.is_empty(), "{text_so_far} {error:?}");

    let few = session(QueryLimits { rows_max: 500, ..limits.clone() });
    let stream = few.sql("SELECT * FROM readings").await.expect("runs");
    let (text_so_far, error) = text(stream.encode(Counting::default())).await;
    assert!(matches!(error, Some(QueryError::Limit(LimitKind::Rows { rows_max: 500 }))), "{error:?}");
    assert!(!text_so_far.contains("end"), "{text_so_far}");

    // An encoder that is busy past the limit of time does not hold up the reader.
    let short = session(QueryLimits { time_max: Duration::from_millis(500), threads: 1, ..limits });
    let slow = Counting { busy: Duration::from_secs(3), ..Counting::default() };
    let begun = Instant::now();
    let stream = short.sql("SELECT * FROM readings").await.expect("runs");
    let (_, error) = text(stream.encode(slow)).await;
    assert!(matches!(error, Some(QueryError::Limit(LimitKind::Time { .. }))), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_encoder_back_and_one_that_leaves_ends_it() {
    let house = some().await;
    let limits = QueryLimits {
        queries_max: 1,
        queue_time_max: Duration::from_millis(100),
        batch_rows: 10,
        ..QueryLimits::default()
    };
    let session = house.queries(limits).session(org(1));
    let encoder = Counting::default();
    let seen = Arc::clone(&encoder.seen);
    let mut stream = session.export(ExportRequest::default()).await.expect("runs").encode(encoder);
    assert!(stream.next().await.is_some_and(|bytes| bytes.is_ok()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let encoded = seen.lock().expect("not poisoned").len();
    assert!((1..=4).contains(&encoded), "{encoded} batches of a hundred are encoded though nobody reads");
    let busy = ask(&session, "SELECT 1").await;
    assert!(matches!(busy, Err(QueryError::Limit(LimitKind::Queries(_)))), "its permit is held: {busy:?}");
    drop(stream);
    let freed =
        tokio::time::timeout(Duration::from_secs(10), async { while ask(&session, "SELECT 1").await.is_err() {} });
    freed.await.expect("the permit is free soon after");
}

/// The place is kept while nothing but the last batch is encoded any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_runs_until_it_is_encoded() {
    let house = some().await;
    let limits =
        QueryLimits { queries_max: 1, queue_time_max: Duration::from_millis(50), threads: 1, ..QueryLimits::default() };
    let session = house.queries(limits).session(org(1));
    let encoder = Counting { busy: Duration::from_secs(1), ..Counting::default() };
    let seen = Arc::clone(&encoder.seen);
    let stream = session.sql("SELECT count(*) FROM readings").await.expect("runs").encode(encoder);
    let reading = tokio::spawn(text(stream));
    while seen.lock().expect("not poisoned").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let busy = ask(&session, "SELECT 1").await;
    assert!(matches!(busy, Err(QueryError::Limit(LimitKind::Queries { .. }))), "its permit is held: {busy:?}");
    let (text, error) = reading.await.expect("ends");
    assert!(error.is_none() && text == "1;end", "{text} {error:?}");
    let freed =
        tokio::time::timeout(Duration::from_secs(10), async { while ask(&session, "SELECT 1").await.is_err() {} });
    freed.await.expect("the permit is free soon after");
}

/// What is encoded at once is bounded in bytes; a single row that is too long is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_rows_are_encoded_in_small_pieces() {
    let house = some().await;
    let encoder = Counting::default();
    let seen = Arc::clone(&encoder.seen);
    let sql = "SELECT repeat('x', 8000) FROM readings";
    let session = house.session(org(1));
    let stream = session.sql(sql).await.expect("runs");
    let (_, error) = text(stream.encode(encoder)).await;
    assert!(error.is_none(), "{error:?}");
    let rows: Vec<usize> = seen.lock().expect("not poisoned").iter().map(|(_, rows)| *rows).collect();
    assert_eq!(rows.iter().sum::<usize>(), 1_000);
    assert!(rows.iter().all(|rows| rows * 8_000 < 5 << 20), "{rows:?}");

    let limits = QueryLimits { memory_bytes_max: 192 << 10, batch_rows: 100, ..QueryLimits::default() };
    let session = house.queries(limits).session(org(1));
    let long = "(SELECT string_agg(eui64_text(logger), ',') AS t FROM readings)";
    for (sql, fits) in [(format!("SELECT t FROM {long}"), true), (format!("SELECT t || t FROM {long}"), false)] {
        let (_, error) = text(session.sql(&sql).await.expect("runs").encode(Counting::default())).await;
        match error {
            None => assert!(fits, "{sql}"),
            Some(QueryError::Limit(LimitKind::Memory { .. })) => assert!(!fits, "{sql}"),
            Some(error) => panic!("{sql}: {error}"),
        }
    }
}
