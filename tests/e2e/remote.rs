//! The server on a bucket: a real S3 server, and before it a proxy in which everything goes wrong. What was acknowledged
//! is there once, whatever happens on the way, while the store is away, and over any kill.

#![allow(clippy::print_stdout, reason = "figures of requests are for whoever reads the test's output")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bucket::{FaultProxy, S3Server};

use crate::load::{Load, Shape};
use crate::readings;
use crate::server::{Icecore, PATIENCE};

/// Small limits, so that a short life has many flushes, merges and full logs in it.
const SMALL: &[(&str, &str)] = &[
    ("ICECORE_ENGINE__FLUSH_AGE", "2s"),
    ("ICECORE_ENGINE__FLUSH_BYTES", "1 MiB"),
    ("ICECORE_ENGINE__SCHEDULE_INTERVAL", "20ms"),
    ("ICECORE_ENGINE__FLUSH_RETRY_MIN", "50ms"),
    ("ICECORE_ENGINE__FLUSH_RETRY_MAX", "500ms"),
    ("ICECORE_ENGINE__GROUP_BYTES_MAX", "2 MiB"),
    ("ICECORE_ENGINE__WAL_FILE_BYTES", "3 MiB"),
    ("ICECORE_ENGINE__WAL_BYTES_MAX", "12 MiB"),
    ("ICECORE_ENGINE__COMPACTION", "true"),
    ("ICECORE_ENGINE__COMPACTION_INTERVAL", "1s"),
    ("ICECORE_ENGINE__GARBAGE_DELAY", "1s"),
    ("ICECORE_STORE__ALLOW_HTTP", "true"),
    ("ICECORE_STORE__RETRIES_MAX", "2"),
    ("ICECORE_STORE__RETRY_TIME_MAX", "2s"),
    ("ICECORE_STORE__REQUEST_TIME_MAX", "5s"),
    ("ICECORE_STORE__CACHE_BYTES_MAX", "16 MiB"),
    ("AWS_ACCESS_KEY_ID", S3Server::KEY_ID),
    ("AWS_SECRET_ACCESS_KEY", S3Server::SECRET),
];

struct Remote {
    server: S3Server,
    proxy: FaultProxy,
}

impl Remote {
    fn start() -> Self {
        let server = S3Server::start();
        let proxy = FaultProxy::start(server.addr());
        Self { server, proxy }
    }

    fn icecore(&self, more: &[(&str, &str)]) -> Icecore {
        let url = format!("s3://{}/here", S3Server::BUCKET);
        let endpoint = self.proxy.url();
        let place = [("ICECORE_STORE__URL", url.as_str()), ("ICECORE_STORE__ENDPOINT", endpoint.as_str())];
        let all: Vec<_> = SMALL.iter().copied().chain(place).chain(more.iter().copied()).collect();
        Icecore::with_environment(&all)
    }
}

#[track_caller]
fn wait_until(what: &str, icecore: &Icecore, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE * 3, "{what}: in vain. The log:\n{}", icecore.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn acknowledges(load: &Load, icecore: &Icecore) {
    assert!(load.wait_for_acks(30, PATIENCE * 3), "nothing is acknowledged any more. The log:\n{}", icecore.log());
}

/// A metric's value, all of its labels together.
fn metric(icecore: &Icecore, name: &str) -> f64 {
    let text = icecore.get("/metrics");
    let lines = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn a_store_in_which_everything_goes_wrong() {
    let remote = Remote::start();
    let mut icecore = remote.icecore(&[("ICECORE_ENGINE__WAL_BYTES_MAX", "96 MiB")]);
    icecore.start();
    let mut load =
        Load::begin(&icecore, Shape { gateways_per_org: 1, pause_max: Duration::from_millis(50), ..Shape::new(31) });
    for round in 0..3 {
        remote.proxy.random(round, 80);
        let before = remote.proxy.faults();
        acknowledges(&load, &icecore);
        wait_until("things go wrong", &icecore, || remote.proxy.faults() > before + 8);
        acknowledges(&load, &icecore);
        icecore.kill();
        icecore.start();
        acknowledges(&load, &icecore);
        remote.proxy.random(0, 0);
        load.check(&icecore, true);
    }
    wait_until("segments are merged", &icecore, || metric(&icecore, "icecore_compactions_total") > 0.0);
    load.finish(&icecore);
    assert_eq!(icecore.files("/data/store/orgs"), Vec::<std::path::PathBuf>::new(), "nothing beside the bucket");
    assert!(remote.server.bucket_dir().join("here/orgs").exists());
    assert!(metric(&icecore, "icecore_store_cache_hits_total") > 0.0);
    assert_eq!(metric(&icecore, "icecore_store_cache_failures_total"), 0.0);
    assert_eq!(icecore.terminate(), Some(0), "{}", icecore.log());
    // Commands without a server read the bucket, too.
    let data_dir = icecore.data_dir();
    let shown = icecore.run(&["manifest", "show", "--org", "org-0", "--data-dir", &data_dir]).ok();
    assert!(shown.stdout.contains("readings"), "{shown:?}");
    icecore.run(&["doctor", "--deep", "--data-dir", &data_dir]).ok();
    let log = icecore.log();
    assert!(!log.contains(S3Server::SECRET), "secrets are not logged");
}

#[test]
fn a_store_that_goes_away_and_comes_back() {
    let remote = Remote::start();
    let mut icecore = remote.icecore(&[]);
    icecore.start();
    let mut load = Load::begin(&icecore, Shape { orgs: 1, ..Shape::bulky(32) });
    acknowledges(&load, &icecore);
    // Once gone without a word, once refusing everybody, as with credentials that have expired.
    for refuses in [false, true] {
        let away = |away: bool| match refuses {
            false => remote.proxy.away(away),
            true => remote.proxy.always(away.then_some(403)),
        };
        away(true);
        wait_until("readyz says so", &icecore, || icecore.unready_because("store_unavailable"));
        acknowledges(&load, &icecore);
        wait_until("the log of frames is full", &icecore, || !load.wait_for_acks(1, Duration::from_millis(1_500)));
        wait_until("readyz says so", &icecore, || icecore.unready_because("wal_full"));
        assert_eq!(icecore.ended(), None, "it waits");
        away(false);
        acknowledges(&load, &icecore);
        wait_until("all is well again", &icecore, || icecore.is_ready());
        load.check(&icecore, true);
        // A start while it is away waits, says so, and goes on.
        away(true);
        icecore.kill();
        let before = icecore.log().len();
        icecore.launch();
        wait_until("the log says so", &icecore, || {
            icecore.log()[before..].contains("the object store cannot be reached")
        });
        assert!(!icecore.is_ready());
        assert_eq!(icecore.ended(), None, "{}", icecore.log());
        away(false);
        icecore.wait_until_ready();
        acknowledges(&load, &icecore);
        load.check(&icecore, true);
    }
    load.finish(&icecore);
}

#[test]
fn a_directory_and_its_bucket_belong_together() {
    let remote = Remote::start();
    let mut icecore = remote.icecore(&[]);
    icecore.start();
    assert_eq!(icecore.terminate(), Some(0));
    let refused = |more: &[(&str, &str)], texts: &[&str]| {
        let other = icecore.again_with(more);
        other.start_refused().refused(texts);
    };
    refused(&[("ICECORE_STORE__URL", "")], &["store.endpoint"]);
    refused(
        &[("ICECORE_STORE__URL", ""), ("ICECORE_STORE__ENDPOINT", "")],
        &["do not go together", "s3://icecore-test/here"],
    );
    refused(&[("ICECORE_STORE__URL", "s3://icecore-test/there")], &["do not go together", "s3://icecore-test/here"]);
    refused(&[("ICECORE_STORE__CREDENTIALS_FILE", "/nowhere")], &["/nowhere"]);
    // Another directory cannot take it.
    let second = remote.icecore(&[]);
    second.start_refused().refused(&["belongs to another data directory"]);
    // Nor does it begin anew in an empty one.
    std::fs::remove_file(remote.server.bucket_dir().join("here/data-directory")).expect("removed");
    refused(&[], &["does not know this data directory any more"]);
    // A bucket that is not there is an error at once.
    let third = remote.icecore(&[("ICECORE_STORE__URL", "s3://no-such-bucket/x")]);
    third.start_refused().refused(&["no-such-bucket"]);
}

/// What is paid for: requests by kind of a flush, of a query, and of the same query once more.
#[test]
fn requests_of_a_flush_and_of_a_query() {
    let remote = Remote::start();
    let mut icecore =
        remote.icecore(&[("ICECORE_ENGINE__COMPACTION", "false"), ("ICECORE_ENGINE__GARBAGE_DELAY", "1h")]);
    icecore.start();
    let org = icecore.org("one");
    let asked = |what: &str| {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for asked in remote.proxy.take_asked() {
            let kind = if asked.target.contains("list-type") { "LIST".to_owned() } else { asked.method };
            *kinds.entry(kind).or_default() += 1;
        }
        println!("requests of {what}: {kinds:?}");
        kinds
    };
    let send = |icecore: &Icecore, name: &str| {
        let file = readings::file(icecore.work(), name, &readings::fleet(5, 200));
        let flushes = metric(icecore, "icecore_flushes_total");
        icecore.send(&org.identity, &file).ok();
        wait_until("it is flushed", icecore, || metric(icecore, "icecore_flushes_total") > flushes);
    };
    asked("a start");
    send(&icecore, "first.csv");
    asked("the first flush of an organisation, which makes its key and its first manifest");
    send(&icecore, "second.csv");
    asked("a flush of the same readings again");
    let ask = |icecore: &Icecore| icecore.number(&org, "SELECT count(temperature) FROM readings");
    assert_eq!(ask(&icecore), 1000);
    let cold = asked("a query right after the flush");
    assert_eq!(ask(&icecore), 1000);
    let warm = asked("the same query again");
    assert_eq!(cold.values().sum::<usize>() + warm.values().sum::<usize>(), 0, "what was written is in the cache");
    icecore.kill();
    icecore.start();
    asked("a start with one organisation");
    assert_eq!(ask(&icecore), 1000);
    let after = asked("a query after the start");
    assert_eq!(after.get("GET").copied().unwrap_or(0), 0, "the cache outlives the process");
    let counted = metric(&icecore, "icecore_store_requests_total");
    assert!(counted > 0.0, "{}", icecore.get("/metrics"));
}
