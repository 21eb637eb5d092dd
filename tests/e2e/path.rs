//! The whole path: in over QUIC, durable, out through SQL and CSV; under SIGKILL; twice, at once, and in conflict.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use kit::SplitMix64;

use crate::readings::{self, Readings};
use crate::server::{Icecore, PATIENCE};

/// Flushes that come often, so that a short test sees many of them.
const OFTEN: &[(&str, &str)] = &[("ICECORE_ENGINE__FLUSH_BYTES", "65536"), ("ICECORE_ENGINE__FLUSH_AGE", "1s")];

#[test]
fn what_goes_in_comes_out() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("museum");
    // Two windows: the readings cross the end of January.
    let sent = readings::fleet(7, 1_000);
    icecore.send(&org.identity, &readings::file(icecore.work(), "fleet.csv", &sent)).ok();

    // Acknowledged means visible: no waiting.
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), 7_000);
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent, "from the write buffer");

    assert_eq!(icecore.terminate(), Some(0), "a clean end");
    icecore.start();
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent, "after a restart");
    let hot = sent.values().filter(|(temperature, _)| *temperature > 700).count();
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings WHERE temperature > 7"), hot as u64);
    let first = sent.iter().next().expect("there is one").0.0;
    let of_first = sent.keys().filter(|(logger, _)| *logger == first).count() as u64;
    let sql = format!("SELECT count(*) FROM readings WHERE logger = eui64('{first:016X}')");
    assert_eq!(icecore.number(&org, &sql), of_first);
}

#[test]
fn nothing_is_lost_or_doubled_by_sigkill() {
    let kills: usize = std::env::var("ICECORE_E2E_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut icecore = Icecore::with_environment(OFTEN);
    icecore.start();
    let org = icecore.org("lab");
    let sent = readings::fleet(20, 3_000);
    let file = readings::file(icecore.work(), "fleet.csv", &sent);
    let mut random = SplitMix64::new(0);
    let mut sender = None;
    for _ in 0..kills {
        sender.get_or_insert_with(|| icecore.send_in_background(&org.identity, &file));
        std::thread::sleep(Duration::from_millis(20 + random.below(500)));
        icecore.kill();
        icecore.start();
        let done = |sender: &mut std::process::Child| sender.try_wait().expect("the sender can be asked").is_some();
        if sender.as_mut().is_some_and(done) {
            sender = None;
        }
    }
    if let Some(mut sender) = sender {
        let begun = Instant::now();
        while sender.try_wait().expect("the sender can be asked").is_none() {
            assert!(begun.elapsed() < PATIENCE, "the sender does not come to an end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    icecore.send(&org.identity, &file).ok();
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM conflicts"), 0, "no kill makes a conflict");
}

#[test]
fn twice_at_once_and_in_conflict() {
    let mut icecore = Icecore::with_environment(OFTEN);
    icecore.start();
    let org = icecore.org("clinic");
    let second = icecore.enroll("clinic", "second");
    let sent = readings::fleet(9, 1_500);
    let total = sent.len() as u64;
    let file = readings::file(icecore.work(), "fleet.csv", &sent);

    // By two gateways, and by two processes with one identity, all at once.
    let mut senders: Vec<_> = [&org.identity, &second, &org.identity]
        .into_iter()
        .map(|identity| icecore.send_in_background(identity, &file))
        .collect();
    for sender in &mut senders {
        assert!(sender.wait().expect("the sender ends").success());
    }
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM conflicts"), 0);
    assert_eq!(icecore.number(&org, "SELECT readings FROM totals"), total);
    assert_eq!(icecore.number(&org, "SELECT duplicates FROM totals"), 4 * total, "two more of each of two samples");

    // Then 50 readings of other values in both channels: 100 conflicts, and the first values stay.
    let forged: Readings = sent.iter().take(50).map(|(key, _)| (*key, (9_950, 150))).collect();
    icecore.send(&second, &readings::file(icecore.work(), "forged.csv", &forged)).ok();
    assert_eq!(icecore.number(&org, "SELECT count(*) FROM conflicts"), 100);
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent, "the first values stay");

    let command = ["conflicts", "--server", &icecore.url(), "--token", &org.token];
    let told = icecore.run(&command).ok().stdout;
    assert!(told.contains("00124B000A6E0001") && told.contains("99.5"), "{told}");

    // Listed with who, when, what was kept and what was refused; the same after everything is flushed and restarted.
    let list = "SELECT logger, time, channel, kept, refused, gateway FROM conflicts ORDER BY logger, time, channel";
    let listed = icecore.query(&org, list).ok().stdout;
    let kept: BTreeMap<_, _> = sent.iter().take(50).collect();
    let (temperature, humidity) = kept.values().next().expect("there is one");
    let (temperature_kept, humidity_kept) = (temperature, humidity);
    assert!(listed.contains(&format!("temperature,{:?},99.5,", *temperature_kept as f64 / 100.0)), "{listed}");
    assert!(listed.contains(&format!("humidity,{:?},1.5,", *humidity_kept as f64 / 100.0)), "{listed}");
    assert_eq!(icecore.terminate(), Some(0));
    icecore.start();
    assert_eq!(icecore.query(&org, list).ok().stdout, listed);
    assert_eq!(icecore.number(&org, "SELECT duplicates FROM totals"), 4 * total, "two more of each of two samples");
    assert_eq!(icecore.number(&org, "SELECT conflicts FROM totals"), 100);
}

#[test]
fn counts_are_exact_while_flushes_run() {
    let mut icecore = Icecore::with_environment(OFTEN);
    icecore.start();
    let org = icecore.org("fleet");
    let mut sent = Readings::new();
    let mut expected = 0;
    for (part, chunk) in readings::fleet(10, 2_000).into_iter().collect::<Vec<_>>().chunks(5_000).enumerate() {
        let part_readings: Readings = chunk.iter().copied().collect();
        expected += part_readings.len() as u64;
        let file = readings::file(icecore.work(), &format!("part-{part}.csv"), &part_readings);
        icecore.send(&org.identity, &file).ok();
        sent.extend(part_readings);
        // Many answers in a row, some of them during a flush: each must be exact.
        for _ in 0..5 {
            assert_eq!(icecore.number(&org, "SELECT count(*) FROM readings"), expected);
        }
    }
    let begun = Instant::now();
    while icecore.files("/segments/").is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no flush came");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(readings::parse_export(&icecore.export(&org)), sent);
}

#[test]
fn eight_requests_at_once_are_all_answered() {
    let mut icecore = Icecore::new();
    icecore.start();
    let org = icecore.org("browser");
    icecore.send(&org.identity, &readings::file(icecore.work(), "few.csv", &readings::fleet(1, 300))).ok();
    let sql = "SELECT count(*) FROM readings a, readings b WHERE a.temperature < b.humidity";
    let expected = icecore.sql(&org, sql).expect("answered alone");
    let (together, ask) = (Barrier::new(8), || icecore.sql(&org, sql));
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    ask()
                })
            })
            .collect();
        for response in asked {
            assert_eq!(response.join().expect("no panic").as_ref(), Ok(&expected));
        }
    });
    let metrics = icecore.get("/metrics");
    assert!(metrics.contains("icecore_http_request_wait_seconds_count{kind=\"query\"} 9"), "{metrics}");
}
