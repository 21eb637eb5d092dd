//! Too little of everything: time on a processor, space on a disk, the right to write, file descriptors, memory. The
//! server pushes back, says what is wrong and goes on; nothing that was acknowledged is lost, nothing is there twice.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::disk::{ReadOnly, may_mount};
use crate::load::{Load, Shape};
use crate::readings;
use crate::server::{Icecore, PATIENCE};

/// Small limits, so that a short test reaches them.
const SMALL: &[(&str, &str)] = &[
    ("ICECORE_ENGINE__FLUSH_AGE", "1s"),
    ("ICECORE_ENGINE__FLUSH_BYTES", "4 MiB"),
    ("ICECORE_ENGINE__SCHEDULE_INTERVAL", "50ms"),
    ("ICECORE_ENGINE__FLUSH_RETRY_MIN", "50ms"),
    ("ICECORE_ENGINE__FLUSH_RETRY_MAX", "500ms"),
    ("ICECORE_ENGINE__GROUP_BYTES_MAX", "2 MiB"),
    ("ICECORE_ENGINE__WAL_FILE_BYTES", "3 MiB"),
    ("ICECORE_ENGINE__WAL_BYTES_MAX", "24 MiB"),
    ("ICECORE_ENGINE__QUEUE_BYTES_MAX", "16 MiB"),
];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    SMALL.iter().chain(more).copied().collect()
}

/// Waits until something holds that only the server can bring about.
#[track_caller]
fn wait_until(what: &str, icecore: &Icecore, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: in vain. The log:\n{}", icecore.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn acknowledges(load: &Load, icecore: &Icecore) {
    assert!(load.wait_for_acks(30, PATIENCE), "nothing is acknowledged any more. The log:\n{}", icecore.log());
}

/// Until no frame was acknowledged for a while, however that is brought about.
#[track_caller]
fn until_nothing_is_acknowledged(load: &Load, icecore: &Icecore, mut press: impl FnMut()) {
    wait_until("the way in closes", icecore, || {
        press();
        !load.wait_for_acks(1, Duration::from_millis(1_500))
    });
}

#[test]
fn a_server_that_stood_still() {
    let mut icecore = Icecore::with_environment(&with(&[("ICECORE_INGEST__IDLE_TIMEOUT", "2s")]));
    icecore.start();
    let mut load = Load::begin(&icecore, Shape::new(11));
    for _ in 0..2 {
        acknowledges(&load, &icecore);
        let before = load.reconnects();
        icecore.signal("STOP");
        // Past the clients' timeout and the server's own, and long enough for clients to try again in vain.
        std::thread::sleep(Duration::from_secs(4));
        icecore.signal("CONT");
        wait_until("the gateways come back", &icecore, || {
            load.reconnects() > before && load.connected() == load.gateways()
        });
        acknowledges(&load, &icecore);
        load.check(&icecore, true);
    }
    icecore.kill();
    icecore.start();
    load.finish(&icecore);
}

#[test]
fn a_full_disk() {
    if !may_mount("pressure::a_full_disk") {
        return;
    }
    let mut icecore = Icecore::on_small_disk(&with(&[]), 96);
    icecore.start();
    let mut load = Load::begin(&icecore, Shape::bulky(12));
    acknowledges(&load, &icecore);

    until_nothing_is_acknowledged(&load, &icecore, || icecore.disk().fill());
    let log = icecore.log();
    assert!(log.contains("no new WAL file can be made") && log.contains("No space left"), "what is wrong:\n{log}");
    assert_eq!(icecore.ended(), None, "it waits for space");
    wait_until("readyz says so", &icecore, || icecore.unready_because("wal_without_file"));
    assert!(!icecore.get("/readyz").contains(&icecore.data_dir()), "to everybody, so without paths");
    load.check(&icecore, true);
    icecore.disk().free();
    acknowledges(&load, &icecore);
    wait_until("readyz says so", &icecore, || icecore.is_ready());
    load.check(&icecore, true);

    // Once more, and killed with not a byte to spare.
    icecore.disk().fill();
    load.wait_for_acks(100, Duration::from_millis(500));
    icecore.kill();
    icecore.disk().fill();
    icecore.launch();
    match icecore.ready_or_ended() {
        Ok(()) => {
            load.check(&icecore, true);
            icecore.disk().free();
        }
        Err(code) => {
            assert!(!matches!(code, None | Some(0 | 101)), "a clean error, not {code:?}:\n{}", icecore.log());
            icecore.disk().free();
            icecore.start();
        }
    }
    load.finish(&icecore);
}

#[test]
fn a_disk_that_is_read_only_at_the_start() {
    if !may_mount("pressure::a_disk_that_is_read_only_at_the_start") {
        return;
    }
    let mut icecore = Icecore::on_small_disk(&with(&[]), 96);
    icecore.start();
    let load = Load::begin(&icecore, Shape::new(13));
    acknowledges(&load, &icecore);
    icecore.kill();
    icecore.disk().remount("ro");
    let refused = icecore.start_refused().refused(&[&icecore.data_dir()]);
    assert!(refused.stderr.to_lowercase().contains("read-only"), "{refused:#?}");
    icecore.disk().remount("rw");
    icecore.start();
    load.finish(&icecore);
}

#[test]
fn a_disk_that_becomes_read_only() {
    if !may_mount("pressure::a_disk_that_becomes_read_only") {
        return;
    }
    let mut icecore = Icecore::on_small_disk(&with(&[]), 96);
    icecore.start();
    let mut load = Load::begin(&icecore, Shape::bulky(14));
    acknowledges(&load, &icecore);
    let covered = ReadOnly::cover(Path::new(&icecore.data_dir()));
    until_nothing_is_acknowledged(&load, &icecore, || ());
    let log = icecore.log();
    assert!(log.contains("Read-only file system") && log.contains(&icecore.data_dir()), "what and where:\n{log}");
    match icecore.ended() {
        // It has given up: cleanly.
        Some(code) => assert!(!matches!(code, None | Some(0 | 101)), "a clean error, not {code:?}:\n{log}"),
        None => {
            load.check(&icecore, true);
            icecore.kill();
        }
    }
    drop(covered);
    icecore.start();
    load.check(&icecore, true);
    acknowledges(&load, &icecore);
    load.finish(&icecore);
}

/// Connections that ask for nothing.
fn idle_connections(icecore: &Icecore, count: usize) -> Vec<TcpStream> {
    let addr = icecore.url().trim_start_matches("http://").parse().expect("an address");
    // Those that nobody accepts wait in the kernel, and where it has no room for them they are not to be waited for.
    (0..count).filter_map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(100)).ok()).collect()
}

#[test]
fn few_file_descriptors() {
    let mut icecore = Icecore::with_environment(SMALL);
    icecore.start();
    // Few gateways, so that flushes of a debug build keep up.
    let mut load = Load::begin(&icecore, Shape { gateways_per_org: 1, ..Shape::bulky(15) });
    acknowledges(&load, &icecore);
    let late = icecore.org("late");
    let file = readings::file(icecore.work(), "few.csv", &readings::fleet(1, 10));
    icecore.kill();
    icecore.limit(Some("-n 96"));
    icecore.start();
    assert!(icecore.log().contains("raise the limit of open files"), "says what is wrong:\n{}", icecore.log());
    acknowledges(&load, &icecore);
    let flood = idle_connections(&icecore, 110);
    // Gateways need no descriptors, and what the log and the flushes need is left.
    let (wal, manifests) = (icecore.files("/wal/"), icecore.files("/manifest/").len());
    wait_until("the log goes on in another file, and something is flushed", &icecore, || {
        acknowledges(&load, &icecore);
        let flushed = icecore.files("/manifest/").len() > manifests;
        flushed && icecore.files("/wal/").iter().any(|file| !wal.contains(file))
    });
    icecore.send(&late.identity, &file).ok();
    assert_eq!(icecore.ended(), None, "it goes on");
    drop(flood);
    load.check(&icecore, true);
    icecore.kill();
    icecore.limit(None);
    icecore.start();
    load.finish(&icecore);
}

#[test]
fn more_than_fits_into_memory() {
    if !may_mount("pressure::more_than_fits_into_memory") {
        return;
    }
    let mut icecore = Icecore::with_environment(&with(&[
        ("ICECORE_ENGINE__BUFFER_BYTES_MAX", "32 MiB"),
        ("ICECORE_ENGINE__WAL_BYTES_MAX", "96 MiB"),
        ("ICECORE_INGEST__FRAME_MEMORY_BYTES", "96 MiB"),
    ]));
    // Buffers, queue, frames; what the program is without any of them, threads included; and what the allocator has not
    // given back yet.
    icecore.limit(Some(&format!("-d {}", (32 + 16 + 96 + 64 + 32) * 1024)));
    icecore.start();
    let shape = Shape { gateways_per_org: 16, ..Shape::bulky(16) };
    let load = Load::begin(&icecore, shape);
    acknowledges(&load, &icecore);
    // No flush comes to an end: what is taken in stays in memory.
    let covered = ReadOnly::cover(&Path::new(&icecore.data_dir()).join("store"));
    until_nothing_is_acknowledged(&load, &icecore, || ());
    assert_eq!(icecore.ended(), None, "it pushes back and lives:\n{}", icecore.log());
    wait_until("readyz says so", &icecore, || icecore.unready_because("store_unavailable"));
    let metrics = icecore.get("/metrics");
    assert!(metrics.contains("icecore_ready 0\n"), "{metrics}");
    drop(covered);
    acknowledges(&load, &icecore);
    wait_until("readyz says so", &icecore, || icecore.is_ready());
    assert_eq!(icecore.ended(), None, "and goes on:\n{}", icecore.log());
    icecore.kill();
    icecore.limit(None);
    icecore.start();
    load.finish(&icecore);
}
