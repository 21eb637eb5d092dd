//! Readers that send heavy queries over HTTP during the run, one after the other. Each query covers all readings of an
//! organisation, in memory and in segments.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use client::Api;
use problem::{Problem, Result};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::latency::{Latencies, Percentiles};

/// Queries that are sent in turn: rows by time, rows by logger, single rows.
const QUERIES: [&str; 3] = [
    "SELECT date_trunc('day', time) AS day, count(*), min(temperature), avg(temperature), max(temperature) \
     FROM readings GROUP BY day ORDER BY day",
    "SELECT logger, count(*) AS readings, avg(temperature), max(humidity) FROM readings GROUP BY logger \
     ORDER BY readings DESC LIMIT 10",
    "SELECT count(*) FROM readings WHERE temperature > 25 AND humidity < 40",
];

/// Report on the queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReadersReport {
    /// Number of readers.
    pub readers: usize,
    /// Queries, successful or failed.
    pub queries: u64,
    /// Queries that failed: refused, or aborted at a limit.
    pub failed: u64,
    /// Latency of the successful queries.
    pub query_ms: Percentiles,
}

/// Queries so far, of all readers.
#[derive(Debug, Default)]
struct QueryStats {
    queries: u64,
    failed: u64,
    latencies: Latencies,
}

/// Running readers.
#[derive(Debug)]
pub(super) struct Readers {
    count: usize,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    stats: Arc<Mutex<QueryStats>>,
}

impl Readers {
    /// Starts `count` readers, assigned in turn to the organisations of these tokens.
    pub(super) fn start(count: usize, url: String, tokens: &[String]) -> Self {
        let (stop, stats, mut tasks) = (watch::Sender::new(false), Arc::<Mutex<QueryStats>>::default(), JoinSet::new());
        for (index, token) in (0..count).zip(tokens.iter().cycle()) {
            tasks.spawn(run(index, url.clone(), token.clone(), stop.subscribe(), Arc::clone(&stats)));
        }
        Self { count, stop, tasks, stats }
    }

    /// Ends the readers after their current queries, and returns the report; `None` if there are no readers.
    pub(super) async fn end(self) -> Option<ReadersReport> {
        let Self { count, stop, tasks, stats } = self;
        stop.send_replace(true);
        tasks.join_all().await;
        let stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
        let (queries, failed, query_ms) = (stats.queries, stats.failed, stats.latencies.percentiles());
        (count > 0).then_some(ReadersReport { readers: count, queries, failed, query_ms })
    }
}

/// Sends one query and reads the whole response.
fn query(url: &str, token: &str, sql: &str) -> Result<()> {
    let response = Api::new(url, token)?.sql(sql, "application/vnd.apache.arrow.stream")?;
    client::copy(response, |_| Ok(true)).map(drop)
}

/// Sends queries until it is stopped.
async fn run(index: usize, url: String, token: String, stop: watch::Receiver<bool>, stats: Arc<Mutex<QueryStats>>) {
    for sql in QUERIES.iter().cycle().skip(index) {
        if *stop.borrow() {
            return;
        }
        let started = Instant::now();
        let (url, token) = (url.clone(), token.clone());
        let joined = tokio::task::spawn_blocking(move || query(&url, &token, sql)).await;
        let result = joined.unwrap_or_else(|error| Err(Problem::new("the task of a query panicked").detail(error)));
        let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.queries += 1;
        match result {
            Ok(_) => stats.latencies.record(started.elapsed()),
            Err(_) => stats.failed += 1,
        }
    }
}
