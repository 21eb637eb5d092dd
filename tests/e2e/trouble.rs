//! Trouble stays at home, through the real program: one organisation's segment is missing, and neither a start nor a
//! neighbour is held up; when it is back, everything is there.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::readings;
use crate::server::{Icecore, Org, PATIENCE};

const WAL_BYTES_MAX: u64 = 12 << 20;

/// Bytes that the server has written to its log since it started.
fn written(icecore: &Icecore) -> u64 {
    let metrics = icecore.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("icecore_wal_written_bytes_total "));
    line.map_or(0, |bytes| bytes.trim().parse().expect("a number"))
}

/// Sends days of a simulated fleet until so much more is written; answers how many readings there are.
fn fill(icecore: &Icecore, org: &Org, day: &mut u32, bytes: u64) {
    let identity = org.identity.to_string_lossy().into_owned();
    let start = written(icecore);
    while written(icecore) < start + bytes {
        *day += 1;
        let from = format!("2024-05-{day:02}T00:00:00Z");
        let simulate = ["gateway", "simulate", "--identity", &identity, "--server", &icecore.ingest()];
        let fleet = ["--loggers", "3000", "--interval", "15m", "--days", "1", "--start", &from, "--patience", "60s"];
        icecore.run(&[&simulate[..], &fleet[..]].concat()).ok();
        assert_eq!(icecore.number(org, "SELECT count(*) FROM readings"), u64::from(*day) * 3000 * 96);
    }
}

fn wal_bytes(icecore: &Icecore) -> u64 {
    icecore.files("/wal/").iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum()
}

#[test]
fn a_missing_segment_holds_up_neither_a_start_nor_a_neighbour_and_is_mended_by_putting_it_back() {
    let mut icecore = Icecore::with_environment(&[
        ("ICECORE_ENGINE__WAL_BYTES_MAX", "12582912"),
        ("ICECORE_ENGINE__WAL_FILE_BYTES", "3145728"),
        ("ICECORE_ENGINE__GROUP_BYTES_MAX", "2 MiB"),
        ("ICECORE_ENGINE__QUEUE_BYTES_MAX", "16 MiB"),
        ("ICECORE_ENGINE__FLUSH_BYTES", "8 MiB"),
        ("ICECORE_ENGINE__FLUSH_AGE", "3s"),
    ]);
    icecore.start();
    let (org, neighbour) = (icecore.org("damaged"), icecore.org("neighbour"));
    let sent = readings::fleet(4, 500);
    // Every second reading first, so that the others are late and have to be compared with it.
    let part = |late: bool| {
        let wanted = sent.iter().enumerate().filter(|(index, _)| (index % 2 == 1) == late);
        wanted.map(|(_, (key, values))| (*key, *values)).collect::<readings::Readings>()
    };
    icecore.send(&org.identity, &readings::file(icecore.work(), "first.csv", &part(false))).ok();
    let begun = Instant::now();
    while icecore.number(&org, "SELECT unflushed FROM totals") > 0 {
        assert!(begun.elapsed() < PATIENCE, "no flush came");
        std::thread::sleep(Duration::from_millis(100));
    }
    icecore.kill();
    let segments: Vec<PathBuf> = icecore.files("/segments/");
    let taken: Vec<_> = segments.iter().map(|path| (path, fs::read(path).expect("a segment"))).collect();
    assert!(!taken.is_empty());
    for (path, _) in &taken {
        fs::remove_file(path).expect("taken away");
    }
    icecore.start();
    let late = readings::file(icecore.work(), "late.csv", &part(true));
    icecore.send(&org.identity, &late).ok();
    let begun = Instant::now();
    while !icecore.get("/readyz").contains("\"orgs_in_trouble\":1") {
        assert!(begun.elapsed() < PATIENCE, "the trouble was not found");
        std::thread::sleep(Duration::from_millis(100));
    }
    let name = segments[0].file_name().expect("a name").to_string_lossy().into_owned();
    assert!(icecore.log().contains(&name), "the log names the segment");
    // What is new is refused with a reason, and stays with its sender.
    let identity = org.identity.to_string_lossy().into_owned();
    let late_file = late.to_string_lossy().into_owned();
    let send =
        ["gateway", "send", "--identity", &identity, "--server", &icecore.ingest(), "--patience", "3s", &late_file];
    icecore.run(&send).refused(&[]);
    let mut day = 0;
    fill(&icecore, &neighbour, &mut day, WAL_BYTES_MAX * 3 / 2);
    icecore.kill();
    icecore.start();
    fill(&icecore, &neighbour, &mut day, WAL_BYTES_MAX * 3 / 2);
    assert!(wal_bytes(&icecore) <= WAL_BYTES_MAX + (3 << 20), "the log keeps its limit");
    assert!(!icecore.files("/carried/").is_empty(), "its records are kept beside the log");
    icecore.query(&org, "SELECT count(temperature) FROM readings").refused(&[]);
    for (path, bytes) in &taken {
        fs::write(path, bytes).expect("put back");
    }
    let begun = Instant::now();
    while icecore.query(&org, "SELECT 1").code != Some(0) {
        assert!(begun.elapsed() < PATIENCE, "it was not mended");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent, "everything is there once");
    assert!(icecore.files("/carried/").is_empty());
    icecore.send(&org.identity, &late).ok();
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
    assert_eq!(icecore.terminate(), Some(0));
}
