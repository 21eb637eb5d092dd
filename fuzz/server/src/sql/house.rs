//! An engine with two organisations: the one that asks, and the one whose readings must never be seen.

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

const MINE: u64 = 0x1111_1111_1111_1111;
const THEIRS: u64 = 0x5EC2_E7CA_FEF0_0D03;
const THEIR_LOGGER: u64 = 0x5EC2_E7CA_FEF0_0D01;
const THEIR_VALUE: f64 = 86_420.975_31;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;

/// What no answer and no error may hold, in lower case: the other organisation's ids in both forms and its value, and
/// texts of the host: a file that everybody tries, the engine's directory, places in source code.
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

/// See the module.
pub(super) struct House {
    pub(super) runtime: Runtime,
    pub(super) session: Session,
    theirs: Session,
    dir: PathBuf,
    files: BTreeSet<String>,
    counts: Vec<String>,
    _engine: Arc<Engine>,
}

/// A directory for this process. What earlier ones left is removed: a fuzzer ends without a clean-up.
fn directory() -> PathBuf {
    let all = std::env::temp_dir().join("icecore-fuzz");
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let own = all.join(std::process::id().to_string());
    std::fs::create_dir_all(&own).expect("a directory can be made");
    own
}

impl House {
    pub(super) fn open(limits: QueryLimits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let dir = directory();
        let engine = runtime.block_on(engine(&dir));
        let queries = QueryEngine::new(Arc::clone(&engine), limits, 4 << 20);
        let org = |id| OrgId::new(id).expect("not zero");
        let (session, theirs) = (queries.session(org(MINE)), queries.session(org(THEIRS)));
        let mut house =
            Self { runtime, session, theirs, dir, files: BTreeSet::new(), counts: Vec::new(), _engine: engine };
        (house.files, house.counts) = (house.files(), house.counts());
        let told = house.counts.join(" ");
        assert!(SECRETS[..2].iter().any(|secret| told.contains(secret)), "their value is there to be seen: {told}");
        house
    }

    /// No statement has changed a reading or made a file.
    pub(super) fn check_unchanged(&self) {
        assert_eq!(self.files(), self.files);
        assert_eq!(self.counts(), self.counts);
    }

    fn files(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        super::names(&self.dir, &mut names);
        // The log makes its next file ahead of time, when it likes.
        names.retain(|name| !name.contains("/wal/"));
        names
    }

    fn counts(&self) -> Vec<String> {
        let ask = |session: &Session| {
            let sql = "SELECT t.*, (SELECT count(*) FROM readings) AS a, \
                       (SELECT max(temperature) FROM readings) AS b, \
                       (SELECT count(*) FROM conflicts) AS c FROM totals t";
            self.runtime.block_on(async {
                let stream = session.sql(sql).await.expect("the counts can be asked");
                futures::TryStreamExt::try_collect::<Vec<_>>(stream).await.expect("the counts are answered")
            })
        };
        [&self.session, &self.theirs].map(|session| super::show(&ask(session))).to_vec()
    }
}

async fn engine(dir: &Path) -> Arc<Engine> {
    let config = EngineConfig {
        // The readings came, as they say, years ago.
        flush_age: Duration::from_secs(100 * 365 * 86_400),
        wal_file_bytes: 8 << 20,
        ..EngineConfig::new(dir.join("data"))
    };
    let parts = kit::rig::parts(Arc::new(InMemory::new()), Arc::new(SystemClock::new()));
    let engine = Engine::open(config, parts).await.expect("the engine opens");
    for (org, logger, value) in [(MINE, 0x0012_4B00_0000_0001, 4.0), (THEIRS, THEIR_LOGGER, THEIR_VALUE)] {
        let gateway = kit::gateway(org ^ 1);
        let org = kit::org(org);
        engine.manifests().create_org(org).await.expect("the organisation is made");
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
                engine.flush(Some(org)).await.expect("it flushes");
            }
        }
    }
    engine
}
