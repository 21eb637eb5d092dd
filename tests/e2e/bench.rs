//! `icecore bench`: a small run from beginning to end, as a program would use it.

use serde_json::Value;

use crate::server::{Printed, icecore};

fn run(args: &[&str]) -> (Printed, Value) {
    let printed: Printed = icecore().arg("bench").args(args).arg("--json").output().expect("the program starts").into();
    let printed = printed.ok();
    let json = serde_json::from_str(&printed.stdout).unwrap_or_else(|error| panic!("{error}: {printed:#?}"));
    (printed, json)
}

#[test]
fn what_a_bench_has_acknowledged_is_stored() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let hgrm = work.path().join("acks.hgrm");
    let (dir, hgrm_text) = (work.path().to_string_lossy(), hgrm.to_string_lossy());
    let shape = ["ingest", "--connections", "2", "--loggers", "5", "--readings-per-frame", "20", "--rate", "4000"];
    let times = ["--warmup", "200ms", "--duration", "1s", "--data-dir", &dir, "--hgrm", &hgrm_text];
    let crowd = ["--idle", "2", "--storm", "3", "--readers", "1"];
    let (_, json) = run(&[&shape[..], &times, &crowd].concat());

    let count = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("no count {key}: {json:#}"));
    // 1.2 s of a schedule that waits for nobody: 240 frames, give or take the one at each end.
    let sent = count("readings_sent");
    assert!((4_760..=4_840).contains(&sent), "{sent}");
    assert_eq!(count("readings_acknowledged"), sent);
    assert_eq!(count("readings_stored"), sent);
    assert_eq!(count("frames_refused"), 0);
    assert_eq!((count("connections"), count("orgs"), count("loggers")), (2, 1, 5));
    assert_eq!((&json["rate"], &json["readings_per_frame"]), (&Value::from(4000.0), &Value::from(20)));
    for key in ["readings_per_second", "frames_per_second", "wire_bytes_per_reading", "rss_bytes_max"] {
        assert!(json[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {json:#}");
    }
    for (object, key) in
        [("ack_latency_ms", "p99"), ("disk_sync_ms", "p50"), ("disk_sync_in_run_ms", "p50"), ("schedule_lag_ms", "max")]
    {
        assert!(json[object][key].as_f64().is_some_and(|value| value > 0.0), "{object}.{key}: {json:#}");
    }
    assert_eq!((&json["idle"]["connections"], &json["storm"]["connections"]), (&Value::from(2), &Value::from(3)));
    let readers = &json["readers"];
    assert!(readers["queries"].as_u64().is_some_and(|queries| queries > 0), "{readers}");
    assert_eq!((&readers["failed"], &readers["readers"]), (&Value::from(0), &Value::from(1)));
    assert!(json["client_limited"].is_boolean(), "{json:#}");

    let percentiles = std::fs::read_to_string(&hgrm).expect("the file is there");
    assert!(percentiles.contains("Percentile") && percentiles.contains("#[Max"), "{percentiles}");
    let left: Vec<_> =
        std::fs::read_dir(work.path()).expect("listed").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["acks.hgrm"], "the temporary directory is gone");
}

#[test]
fn a_slow_schedule_is_measured_to_its_end() {
    // A frame every two seconds, from somewhere in the first two: the only one is due long before the end.
    let shape = ["ingest", "--connections", "1", "--loggers", "1", "--readings-per-frame", "1", "--rate", "0.5"];
    let (_, json) = run(&[&shape[..], &["--warmup", "0s", "--duration", "3s"]].concat());
    assert!(json["duration_s"].as_f64().is_some_and(|seconds| seconds > 2.9), "{json:#}");
    assert_eq!((&json["readings_sent"], &json["readings_stored"]), (&Value::from(1), &Value::from(1)));
}

#[test]
fn the_disk_is_measured_without_a_server() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (_, json) = run(&["disk", "--data-dir", &work.path().to_string_lossy(), "--duration", "20ms"]);
    let writes = json["writes"].as_array().expect("a list");
    assert_eq!(
        writes.iter().map(|line| line["write_bytes"].as_u64()).collect::<Vec<_>>(),
        [Some(4 << 10), Some(64 << 10), Some(1 << 20), Some(4 << 20)]
    );
    assert!(writes.iter().all(|line| line["sync_ms"]["p50"].as_f64().is_some_and(|ms| ms > 0.0)), "{json:#}");
}

#[test]
fn a_bench_that_cannot_be_is_refused() {
    let refused = |args: &[&str]| -> Printed {
        icecore().args(["bench", "ingest"]).args(args).output().expect("the program starts").into()
    };
    refused(&["--connections", "2", "--orgs", "3"]).refused(&["organisation", "connection"]);
    refused(&["--connections", "8", "--loggers", "7"]).refused(&["logger"]);
    refused(&["--rate", "1e9", "--duration", "24h", "--loggers", "8"]).refused(&["--loggers"]);
    refused(&["--data-dir", "/no/such/disk"]).refused(&["/no/such/disk"]);
    assert_eq!(refused(&["--rate", "fast"]).code, Some(2));
}
