//! An engine with two organisations: the one that sends queries, and the one whose readings they must never return.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, EngineConfig, SystemClock};
use kit::rig::Sender;
use kit::{Reading, Sent};
use object_store::memory::InMemory;
use query::{QueryEngine, QueryLimits, Session};
use storage_format::OrgId;
use tokio::runtime::Runtime;

const CALLER_ORG: u64 = 0x1111_1111_1111_1111;
const OTHER_ORG: u64 = 0x5EC2_E7CA_FEF0_0D03;
const OTHER_LOGGER: u64 = 0x5EC2_E7CA_FEF0_0D01;
const OTHER_VALUE: f64 = 86_420.975_31;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;

/// Texts that no response and no error may contain, in lower case: the other organisation's ids in both forms and its
/// value, and texts of the host: the content of `/etc/passwd`, the engine's directory, source locations.
pub(super) const SECRETS: [&str; 9] = [
    "86420.97531",
    "86421.97531",
    "5ec2e7cafef00d",
    "6828274844093648",
    "root:x:",
    "icecore-fuzz",
    "/registry/",
    ".rs:",
    "panicked",
];

/// Engine with its readings, the sessions of both organisations, and its state before any statement.
pub(super) struct TestEngine {
    pub(super) runtime: Runtime,
    pub(super) session: Session,
    other_session: Session,
    dir: PathBuf,
    files: BTreeSet<String>,
    counts: Vec<String>,
    _engine: Arc<Engine>,
}

/// Creates a directory for this process, and removes those of earlier ones, because a fuzzer exits without a clean-up.
fn directory() -> PathBuf {
    let all = std::env::temp_dir().join("icecore-fuzz");
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let own = all.join(std::process::id().to_string());
    std::fs::create_dir_all(&own).expect("a directory can be created");
    own
}

impl TestEngine {
    pub(super) fn open(limits: QueryLimits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let dir = directory();
        let engine = runtime.block_on(engine(&dir));
        let queries = QueryEngine::new(Arc::clone(&engine), limits, 4 << 20);
        let org = |id| OrgId::new(id).expect("not zero");
        let (session, other_session) = (queries.session(org(CALLER_ORG)), queries.session(org(OTHER_ORG)));
        let mut test_engine =
            Self { runtime, session, other_session, dir, files: BTreeSet::new(), counts: Vec::new(), _engine: engine };
        (test_engine.files, test_engine.counts) = (test_engine.files(), test_engine.counts());
        let counts = test_engine.counts.join(" ");
        assert!(
            SECRETS[..2].iter().any(|secret| counts.contains(secret)),
            "the other organisation's value is stored: {counts}"
        );
        test_engine
    }

    /// Checks that no statement has changed a reading or created a file.
    pub(super) fn check_unchanged(&self) {
        assert_eq!(self.files(), self.files);
        assert_eq!(self.counts(), self.counts);
    }

    fn files(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        super::names(&self.dir, &mut names);
        // The WAL creates its next file in advance, at any time.
        names.retain(|name| !name.contains("/wal/"));
        names
    }

    fn counts(&self) -> Vec<String> {
        let query = |session: &Session| {
            let sql = "SELECT t.*, (SELECT count(*) FROM readings) AS a, \
                       (SELECT max(temperature) FROM readings) AS b, \
                       (SELECT count(*) FROM conflicts) AS c FROM totals t";
            self.runtime.block_on(async {
                let stream = session.sql(sql).await.expect("the query of the counts is valid");
                futures::TryStreamExt::try_collect::<Vec<_>>(stream).await.expect("the query of the counts succeeds")
            })
        };
        [&self.session, &self.other_session].map(|session| super::show(&query(session))).to_vec()
    }
}

async fn engine(dir: &Path) -> Arc<Engine> {
    let config = EngineConfig {
        // The receive time of the readings is years ago, so prevent a flush by age.
        flush_age: Duration::from_secs(100 * 365 * 86_400),
        wal_file_bytes: 8 << 20,
        ..EngineConfig::new(dir.join("data"))
    };
    let parts = kit::rig::parts(Arc::new(InMemory::new()), Arc::new(SystemClock::new()));
    let engine = Engine::open(config, parts).await.expect("the engine opens");
    for (org, logger, value) in [(CALLER_ORG, 0x0012_4B00_0000_0001, 4.0), (OTHER_ORG, OTHER_LOGGER, OTHER_VALUE)] {
        let gateway = kit::gateway(org ^ 1);
        let org = kit::org(org);
        engine.manifests().create_org(org).await.expect("the organisation is created");
        let mut sender = Sender::new(org, 1);
        // Twice into segments, with a channel that comes late; then into the buffer, with a conflict.
        for (channels, minutes, value, flush) in
            [(1..=1, 0..40, value, true), (2..=3, 20..60, value, true), (1..=2, 30..90, value + 1.0, false)]
        {
            let samples: Vec<(u16, f64)> = channels.map(|code| (code, value)).collect();
            let readings = minutes.map(|minute| Reading::new(logger, START_MS + minute * 60_000, &samples));
            let mut sent = Sent { gateway, received: kit::millis(START_MS), readings: readings.collect() };
            let sequence = sender.submit(&engine, &mut sent).await;
            assert!(sender.acks.answered(sequence).await, "it is acknowledged");
            if flush {
                engine.flush(Some(org)).await.expect("the flush succeeds");
            }
        }
    }
    engine
}
