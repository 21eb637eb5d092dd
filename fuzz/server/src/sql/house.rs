//! An engine with two organisations: the one that asks, and the one whose readings must never be seen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{
    AckSink, Engine, EngineConfig, EngineParts, MasterKey, Random, RealFiles, Submission, SubmitFailure, SystemClock,
    SystemRandom,
};
use object_store::memory::InMemory;
use query::{QueryEngine, QueryLimits, Session};
use storage_format::encryption::SecretKey;
use storage_format::{ChannelCode, Frame, FrameBuilder, FrameSequence, GatewayId, LoggerId, Millis, OrgId, SpoolId};
use tokio::runtime::Runtime;
use tokio::sync::watch;

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

struct Acks(watch::Sender<u64>);

impl AckSink for Acks {
    fn durable(&self, up_to: FrameSequence) {
        self.0.send_replace(up_to.get());
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        panic!("frame {sequence}: {failure:?}");
    }
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
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let config = EngineConfig {
        // The readings came, as they say, years ago.
        flush_age: Duration::from_secs(100 * 365 * 86_400),
        wal_file_bytes: 8 << 20,
        ..EngineConfig::new(dir.join("data"))
    };
    let parts = EngineParts {
        files: Arc::new(RealFiles),
        store: Arc::new(InMemory::new()),
        keys: Arc::new(MasterKey::new(SecretKey::from_bytes([7; 32]), Arc::clone(&random))),
        clock: Arc::new(SystemClock::new()),
        random,
    };
    let engine = Engine::open(config, parts).await.expect("the engine opens");
    let mut sequence = 0;
    for (org, logger, value) in [(MINE, 0x0012_4B00_0000_0001, 4.0), (THEIRS, THEIR_LOGGER, THEIR_VALUE)] {
        let org = OrgId::new(org).expect("not zero");
        engine.manifests().create_org(org).await.expect("the organisation is made");
        // Twice into segments, with a channel that comes late; then into the buffer, with a conflict.
        for (channels, minutes, value, flush) in
            [(1..=1, 0..40, value, true), (2..=3, 20..60, value, true), (1..=2, 30..90, value + 1.0, false)]
        {
            sequence += 1;
            let mut frame = FrameBuilder::new();
            for minute in minutes {
                let time = Millis::new(START_MS + minute * 60_000).expect("a time");
                let samples: Vec<_> = channels.clone().filter_map(ChannelCode::new).map(|code| (code, value)).collect();
                frame.push(LoggerId::new(logger).expect("not zero"), time, &samples).expect("it fits");
            }
            send(&engine, org, sequence, &mut frame).await;
            if flush {
                engine.flush(Some(org)).await.expect("it flushes");
            }
        }
    }
    engine
}

async fn send(engine: &Engine, org: OrgId, sequence: u64, frame: &mut FrameBuilder) {
    let bytes = frame.encode(SpoolId::new(1).expect("not zero"), FrameSequence::new(sequence));
    let (sender, mut acknowledged) = watch::channel(0);
    let submission = Submission {
        org,
        gateway: GatewayId::new(org.get() ^ 1).expect("not zero"),
        received: Millis::new(START_MS).expect("a time"),
        frame: Frame::decode(bytes).expect("what we encode, we decode"),
        acks: Arc::new(Acks(sender)),
    };
    engine.submit(submission).await.expect("the engine is open");
    acknowledged.wait_for(|up_to| *up_to >= sequence).await.expect("it is acknowledged");
}
