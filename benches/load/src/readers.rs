//! Those who ask while others send: heavy queries over HTTP, each over all readings of an organisation, in memory and in
//! segments, one after the other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use client::Api;
use problem::{Problem, Result};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::latency::{Latencies, Percentiles};

/// What is asked, in turn: rows by time, rows by logger, single rows.
const QUESTIONS: [&str; 3] = [
    "SELECT date_trunc('day', time) AS day, count(*), min(temperature), avg(temperature), max(temperature) \
     FROM readings GROUP BY day ORDER BY day",
    "SELECT logger, count(*) AS readings, avg(temperature), max(humidity) FROM readings GROUP BY logger \
     ORDER BY readings DESC LIMIT 10",
    "SELECT count(*) FROM readings WHERE temperature > 25 AND humidity < 40",
];

/// How queries went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReadersReport {
    /// Who asked.
    pub readers: usize,
    /// That were answered, or not.
    pub queries: u64,
    /// That were not: refused, or cut off at a limit.
    pub failed: u64,
    /// Of those that were answered.
    pub query_ms: Percentiles,
}

#[derive(Debug, Default)]
struct Tally {
    queries: u64,
    failed: u64,
    latencies: Latencies,
}

/// The readers.
#[derive(Debug)]
pub(super) struct Readers {
    count: usize,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
}

impl Readers {
    /// Starts so many, dealt out to the organisations that these tokens are of.
    pub(super) fn start(count: usize, url: String, tokens: &[String]) -> Self {
        let (stop, tally, mut tasks) = (watch::Sender::new(false), Arc::<Mutex<Tally>>::default(), JoinSet::new());
        for (index, token) in (0..count).zip(tokens.iter().cycle()) {
            tasks.spawn(read(index, url.clone(), token.clone(), stop.subscribe(), Arc::clone(&tally)));
        }
        Self { count, stop, tasks, tally }
    }

    /// Waits for the queries under way; none if there are no readers.
    pub(super) async fn end(self) -> Option<ReadersReport> {
        let Self { count, stop, tasks, tally } = self;
        stop.send_replace(true);
        tasks.join_all().await;
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let (queries, failed, query_ms) = (tally.queries, tally.failed, tally.latencies.percentiles());
        (count > 0).then_some(ReadersReport { readers: count, queries, failed, query_ms })
    }
}

/// Asks one query and reads all of the response.
fn ask(url: &str, token: &str, sql: &str) -> Result<()> {
    let response = Api::new(url, token)?.sql(sql, "application/vnd.apache.arrow.stream")?;
    client::copy(response, |_| Ok(true)).map(drop)
}

async fn read(index: usize, url: String, token: String, stop: watch::Receiver<bool>, tally: Arc<Mutex<Tally>>) {
    for sql in QUESTIONS.iter().cycle().skip(index) {
        if *stop.borrow() {
            return;
        }
        let begun = Instant::now();
        let (url, token) = (url.clone(), token.clone());
        let asked = tokio::task::spawn_blocking(move || ask(&url, &token, sql)).await;
        let answered = asked.unwrap_or_else(|lost| Err(Problem::new("a query was lost").detail(lost)));
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.queries += 1;
        match answered {
            Ok(_) => tally.latencies.record(begun.elapsed()),
            Err(_) => tally.failed += 1,
        }
    }
}
