//! An engine with one store that tells what was asked of it, frames to send, and answers as text.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use engine::{Engine, EngineConfig, FaultStore, Operation, SystemClock};
use futures::StreamExt;
pub(crate) use kit::org;
use kit::rig::{Acks, submit};
use kit::{Reading, Sent};
use object_store::memory::InMemory;
use query::{QueryEngine, QueryError, QueryLimits, QueryStream, Session};
use storage_format::{Channel, ChannelCode, LoggerId, Millis, OrgId};

use crate::model::Model;

/// An engine, its store, and the model of what was sent to it, for one organisation and more.
pub(crate) struct House {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<FaultStore>,
    pub(crate) dir: tempfile::TempDir,
    sequence: Mutex<u64>,
}

pub(crate) fn logger(id: u64) -> LoggerId {
    kit::logger(0x0012_4B00_0000_0000 + id)
}

pub(crate) fn reading(id: u64, time: Millis, samples: Vec<(ChannelCode, f64)>) -> Reading {
    Reading { logger: logger(id), time, samples }
}

pub(crate) fn time(text: &str) -> Millis {
    text.parse().expect("a time")
}

pub(crate) fn code(name: &str) -> ChannelCode {
    Channel::by_name(name).expect("a channel").code
}

/// The registry's first two.
pub(crate) fn climate(temperature: f64, humidity: f64) -> Vec<(ChannelCode, f64)> {
    vec![(code("temperature"), temperature), (code("humidity"), humidity)]
}

impl House {
    /// Flushes happen only when asked for.
    pub(crate) async fn open(orgs: &[OrgId]) -> Self {
        Self::open_with(orgs, |_| ()).await
    }

    /// The same, with other settings.
    pub(crate) async fn open_with(orgs: &[OrgId], change: impl FnOnce(&mut EngineConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
        let mut config = EngineConfig {
            // Where a test wants it, it says so.
            compaction: false,
            flush_age: Duration::from_secs(1_000_000),
            wal_file_bytes: 8 << 20,
            ..EngineConfig::new(dir.path())
        };
        change(&mut config);
        let parts = kit::rig::parts(Arc::clone(&store) as _, Arc::new(SystemClock::new()));
        let engine = Engine::open(config, parts).await.expect("opens");
        for &org in orgs {
            engine.manifests().create_org(org).await.expect("creates");
        }
        Self { engine, store, dir, sequence: Mutex::new(0) }
    }

    /// Sends one frame and waits until it is durable.
    pub(crate) async fn send(&self, org: OrgId, gateway: u64, received: &str, readings: &[Reading]) -> Sent {
        let sequence = {
            let mut sequence = self.sequence.lock().expect("not poisoned");
            *sequence += 1;
            *sequence
        };
        let mut sent = Sent { gateway: kit::gateway(gateway), received: time(received), readings: readings.to_vec() };
        let acks = Arc::<Acks>::default();
        submit(&self.engine, org, kit::spool(1), sequence, &mut sent, &acks).await;
        assert_eq!(sent.readings.len(), readings.len(), "all fit into the frame");
        assert!(acks.answered(sequence).await, "frame {sequence}: {:?}", acks.failures());
        sent
    }

    /// Sends one frame, and tells the model.
    pub(crate) async fn send_both(
        &self,
        model: &mut Model,
        org: OrgId,
        gateway: u64,
        received: &str,
        readings: &[Reading],
    ) {
        model.add(&self.send(org, gateway, received, readings).await);
    }

    pub(crate) async fn flush(&self, org: OrgId) {
        self.engine.flush(Some(org)).await.expect("flushes");
    }

    pub(crate) fn queries(&self, limits: QueryLimits) -> QueryEngine {
        QueryEngine::new(Arc::clone(&self.engine), limits, 16 << 20)
    }

    /// A session with the usual limits; two partitions, as on two cores.
    pub(crate) fn session(&self, org: OrgId) -> Session {
        self.queries(QueryLimits { threads: 2, ..QueryLimits::default() }).session(org)
    }

    /// Names of segments that were read, in part or whole, since the last call.
    pub(crate) fn opened(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .store
            .take_log()
            .into_iter()
            .filter(|(operation, name)| *operation == Operation::Get && name.contains("/segments/"))
            .map(|(_, name)| name)
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

pub(crate) async fn batches(stream: QueryStream) -> Result<Vec<RecordBatch>, QueryError> {
    let mut stream = stream;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch?);
    }
    Ok(batches)
}

/// The whole answer, or the error that came first.
pub(crate) async fn ask(session: &Session, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
    batches(session.sql(sql).await?).await
}

/// One line per row, values between bars, NULL as nothing.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("can be shown"))
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            lines.push(values.join("|"));
        }
    }
    lines
}

pub(crate) async fn answer(session: &Session, sql: &str) -> Vec<String> {
    match ask(session, sql).await {
        Ok(batches) => lines(&batches),
        Err(error) => panic!("{sql}: {error}"),
    }
}

pub(crate) async fn one(session: &Session, sql: &str) -> String {
    let lines = answer(session, sql).await;
    assert_eq!(lines.len(), 1, "{sql}: {lines:?}");
    lines.into_iter().next().expect("one")
}

pub(crate) async fn error_of(session: &Session, sql: &str) -> QueryError {
    match ask(session, sql).await {
        Ok(batches) => panic!("{sql} was answered: {:?}", lines(&batches)),
        Err(error) => error,
    }
}
