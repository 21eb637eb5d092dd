//! An engine with one store that tells what was asked of it, frames to send, and answers as text.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use engine::{
    AckSink, Engine, EngineConfig, EngineParts, FaultStore, MasterKey, Operation, RealFiles, Submission, SubmitFailure,
    SystemClock, SystemRandom,
};
use futures::StreamExt;
use object_store::memory::InMemory;
use query::{QueryEngine, QueryError, QueryLimits, QueryStream, Session};
use storage_format::encryption::SecretKey;
use storage_format::{
    Channel, ChannelCode, Frame, FrameBuilder, FrameSequence, GatewayId, LoggerId, Millis, OrgId, SpoolId,
};
use tokio::sync::watch;

use crate::model::{Model, Reading};

/// An engine, its store, and the model of what was sent to it, for one organisation and more.
pub(crate) struct House {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<FaultStore>,
    pub(crate) dir: tempfile::TempDir,
    sequence: Mutex<u64>,
}

pub(crate) fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

pub(crate) fn logger(id: u64) -> LoggerId {
    LoggerId::new(0x0012_4B00_0000_0000 + id).expect("not zero")
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

struct Acks(watch::Sender<u64>);

impl AckSink for Acks {
    fn durable(&self, up_to: FrameSequence) {
        self.0.send_replace(up_to.get());
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        panic!("frame {sequence}: {failure:?}");
    }
}

impl House {
    /// Flushes happen only when asked for.
    pub(crate) async fn open(orgs: &[OrgId]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
        let random: Arc<dyn engine::Random> = Arc::new(SystemRandom);
        let config = EngineConfig {
            flush_age: Duration::from_secs(1_000_000),
            wal_file_bytes: 8 << 20,
            ..EngineConfig::new(dir.path())
        };
        let parts = EngineParts {
            files: Arc::new(RealFiles),
            store: Arc::clone(&store) as _,
            keys: Arc::new(MasterKey::new(SecretKey::from_bytes([7; 32]), Arc::clone(&random))),
            clock: Arc::new(SystemClock::new()),
            random,
        };
        let engine = Engine::open(config, parts).await.expect("opens");
        for &org in orgs {
            engine.manifests().create_org(org).await.expect("creates");
        }
        Self { engine, store, dir, sequence: Mutex::new(0) }
    }

    /// Sends one frame and waits until it is durable.
    pub(crate) async fn send(&self, org: OrgId, gateway: u64, received: &str, readings: &[Reading]) {
        let sequence = {
            let mut sequence = self.sequence.lock().expect("not poisoned");
            *sequence += 1;
            FrameSequence::new(*sequence)
        };
        let mut builder = FrameBuilder::new();
        for (logger, time, samples) in readings {
            builder.push(*logger, *time, samples).expect("fits a frame");
        }
        let bytes = builder.encode(SpoolId::new(1).expect("not zero"), sequence);
        let (sender, mut acknowledged) = watch::channel(0);
        let submission = Submission {
            org,
            gateway: GatewayId::new(gateway).expect("not zero"),
            received: time(received),
            frame: Frame::decode(bytes).expect("valid"),
            acks: Arc::new(Acks(sender)),
        };
        self.engine.submit(submission).await.expect("the engine is open");
        acknowledged.wait_for(|&up_to| up_to == sequence.get()).await.expect("acknowledged");
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
        self.send(org, gateway, received, readings).await;
        model.add(gateway, time(received), readings);
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
