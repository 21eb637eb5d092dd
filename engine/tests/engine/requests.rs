//! What a small organisation costs in requests to the store: they are the bill where the store is remote. Counted over
//! weeks of a simulated clock, with the default settings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Clock, EngineConfig, EngineParts, FaultStore, FaultyFiles, Stepped, Submission};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kit::rig::Acks;
use kit::{FirstWins, Reading, Sent, gateway, millis, spool};
use object_store::memory::InMemory;
use storage_format::{Frame, Millis, OrgId};
use tokio::sync::{oneshot, watch};

use crate::read::{check_last, check_rows};
use crate::rig::MAY;

const LOGGERS: u64 = 3;
const INTERVAL: Duration = Duration::from_secs(300);
/// Readings of each logger in a frame: the store does not see frames, and each costs the test its time.
const AT_ONCE: u32 = 6;
const DAY: Duration = Duration::from_secs(86_400);
/// Two month's ends are among them.
const DAYS: u32 = 40;
/// Requests a day, on an average.
const DAY_MAX: u64 = 16;

/// A clock whose time passes when it is told to; whoever sleeps is woken in order.
#[derive(Debug, Default)]
struct Simulated(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    now: Duration,
    sleeps: u64,
    sleeping: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
}

impl Clock for Simulated {
    fn now(&self) -> Millis {
        let passed = self.0.lock().expect("not poisoned").now.as_millis();
        millis(MAY + i64::try_from(passed).expect("not so long"))
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().expect("not poisoned").now + Duration::from_secs(1)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let (wake, woken) = oneshot::channel();
        let mut inner = self.0.lock().expect("not poisoned");
        inner.sleeps += 1;
        let key = (inner.now + time.max(Duration::from_millis(1)), inner.sleeps);
        inner.sleeping.insert(key, wake);
        woken.map(drop).boxed()
    }
}

impl Simulated {
    /// Lets so much time pass, and everybody do what is to be done meanwhile.
    async fn pass(&self, time: Duration) {
        let end = self.0.lock().expect("not poisoned").now + time;
        loop {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            let wake = {
                let mut inner = self.0.lock().expect("not poisoned");
                match inner.sleeping.first_entry() {
                    Some(first) if first.key().0 <= end => {
                        let ((at, _), wake) = first.remove_entry();
                        inner.now = at.max(inner.now);
                        wake
                    }
                    _ => break inner.now = end,
                }
            };
            // Whoever slept may have gone.
            let _gone = wake.send(());
        }
    }
}

#[test]
fn a_small_organisation_takes_few_requests_a_day() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(weeks());
}

async fn weeks() {
    let org = OrgId::new(0xE5).expect("not zero");
    let store = Arc::new(FaultStore::new(Arc::new(InMemory::new())));
    let clock = Arc::new(Simulated::default());
    let parts = kit::rig::parts(Arc::clone(&store) as _, Arc::clone(&clock) as _);
    let parts = EngineParts { files: Arc::new(FaultyFiles::new()), ..parts };
    let config = EngineConfig {
        compaction: true,
        wal_file_bytes: 5 << 20,
        wal_bytes_max: 40 << 20,
        // The same in fewer steps.
        schedule_interval: Duration::from_secs(600),
        compaction_interval: Duration::from_secs(600),
        ..EngineConfig::new("/data")
    };
    let handle = Arc::new(tokio::runtime::Handle::current());
    let mut stepped = Stepped::open(config, parts, handle).await.expect("it opens");
    let engine = Arc::clone(stepped.engine());
    engine.ensure_org(org).await.expect("an organisation");
    let (stop, stopped) = watch::channel(false);
    let maintenance = tokio::spawn(stepped.maintenance(stopped));

    let (mut model, acks) = (FirstWins::default(), Arc::<Acks>::default());
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    store.take_log();
    let frames = u64::from(DAYS) * DAY.as_secs() / INTERVAL.as_secs() / u64::from(AT_ONCE);
    for sequence in 1..=frames {
        clock.pass(INTERVAL * AT_ONCE).await;
        let now = clock.now();
        let mut readings = Vec::new();
        for ago in (0..AT_ONCE).rev() {
            let (number, time) = (sequence * u64::from(AT_ONCE) - u64::from(ago), INTERVAL * ago);
            let time = now.get() - i64::try_from(time.as_millis()).expect("not so long");
            let samples = [(1, (number % 77) as f64 * 0.1), (2, 40.0 + (number % 5) as f64)];
            readings.extend((1..=LOGGERS).map(|logger| Reading::new(logger, time, &samples)));
        }
        let mut sent = Sent { gateway: gateway(1), received: now, readings };
        let frame = Frame::decode(sent.encode(spool(1), sequence)).expect("what was encoded decodes");
        model.apply(&sent);
        let submission = Submission { org, gateway: sent.gateway, received: now, frame, acks: Arc::clone(&acks) as _ };
        engine.try_submit(submission).expect("there is room");
        stepped.append().expect("the log goes on");
        stepped.prepare().expect("a file");
        for (operation, name) in store.take_log() {
            let kind = name.split('/').nth(2).unwrap_or("");
            *counts.entry(format!("{operation:?} {kind}")).or_default() += 1;
        }
    }
    let all: u64 = counts.values().sum();
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    let manifest = &snapshot.manifest;
    let told = format!(
        "{all} requests in {DAYS} days, {:.1} a day: {counts:?}; {} segments, version {}",
        all as f64 / f64::from(DAYS),
        manifest.segments().len(),
        manifest.version()
    );
    assert!(all <= DAY_MAX * u64::from(DAYS), "{told}");
    check_rows(&engine, org, &model).await;
    check_last(&engine, org, &model).await;
    stop.send_replace(true);
    maintenance.await.expect("it ends");
}
