//! The sender against a real server over QUIC: no good reading is lost because of a bad one beside it.

#[allow(dead_code, reason = "the tests of the wire need more of it")]
#[path = "../../tests/wire/harness.rs"]
mod harness;
#[allow(dead_code, reason = "the tests of the wire need more of it")]
#[path = "../../tests/wire/pki.rs"]
mod pki;
#[allow(dead_code, reason = "the tests of the wire need more of it")]
#[path = "../../tests/wire/sink.rs"]
mod sink;

use std::net::SocketAddr;
use std::path::Path;

use gateway::sender::{Origin, Pushed, Sender};
use harness::{Harness, LONG, START_MS, wait_until};
use ingest::client::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, SERVER_NAME_FILE};
use sink::Mode;
use storage_format::{ChannelCode, LoggerId, Millis};

const DAY_MS: i64 = 86_400_000;
const YEAR_1999_MS: i64 = 946_684_799_000;

fn sender(harness: &Harness, dir: &Path, addr: SocketAddr, frame_readings: usize) -> Sender {
    let issued = harness.enrolled(1);
    for (name, text) in [
        (CERTIFICATE_FILE, issued.pem.as_str()),
        (KEY_FILE, &issued.key_pem),
        (CA_FILE, &harness.ca.pem),
        (SERVER_NAME_FILE, pki::SERVER_NAME),
    ] {
        std::fs::write(dir.join(name), text).expect("the file can be written");
    }
    Sender::new(dir, &addr.to_string(), LONG, frame_readings).expect("a sender")
}

async fn push(sender: &mut Sender, line: u64, time_ms: i64) -> Pushed {
    let origin = Origin { file: 0, line, time: Millis::new(time_ms).expect("a time") };
    let samples = [(ChannelCode::new(1).expect("temperature"), 4.5)];
    sender.push(origin, LoggerId::new(7).expect("not zero"), &samples).await.expect("pushed")
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_out_of_the_accepted_range_hold_up_nobody() {
    let (harness, dir) = (Harness::new(), tempfile::tempdir().expect("a directory"));
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let mut sender = sender(&harness, dir.path(), server.addr(), 50);
    for line in 2..=122 {
        let (time_ms, early) = match line {
            62 => (YEAR_1999_MS, true),
            line => (START_MS + 60_000 * i64::try_from(line).expect("few"), false),
        };
        let pushed = push(&mut sender, line, time_ms).await;
        assert_eq!(matches!(pushed, Pushed::TooEarly(_)), early, "line {line}: {pushed:?}");
    }
    assert!(matches!(push(&mut sender, 123, START_MS + 2 * DAY_MS).await, Pushed::TooLate(_)));
    let outcome = sender.finish().await;
    assert_eq!((outcome.acknowledged_readings, outcome.refused_readings, outcome.left_out_readings), (120, 0, 2));
    assert!(outcome.check_sent(true, |_| String::new()).is_ok(), "{outcome:?}");
    assert_eq!(harness.disk.readings().len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_a_server_with_another_clock_refuses_is_repacked() {
    let (harness, dir) = (Harness::new(), tempfile::tempdir().expect("a directory"));
    let sink = harness.sink(100, Mode::Manual);
    let server = harness.serve(&sink);
    let mut sender = sender(&harness, dir.path(), server.addr(), 4);
    let hour_ms = DAY_MS / 24;
    // The third is fine by this server's clock, 23 hours ahead.
    for (line, ahead_ms) in [(2, 0), (3, 1000), (4, 23 * hour_ms), (5, 2000), (6, 3000), (7, 4000)] {
        assert_eq!(push(&mut sender, line, START_MS + ahead_ms).await, Pushed::Taken);
    }
    wait_until("the first frame is there", || sink.waiting() > 0).await;
    let addr = server.kill();
    // By the next one's it is not.
    harness.set_clock(START_MS - 2 * hour_ms);
    let _server = harness.serve_at(addr, &harness.sink(100, Mode::Immediate));
    let outcome = sender.finish().await;
    assert_eq!(
        (outcome.acknowledged_readings, outcome.refused_readings, outcome.late_readings, outcome.unanswered_readings),
        (5, 0, 1, 0),
        "{outcome:?}"
    );
    assert_eq!(outcome.late[0].time.get(), START_MS + 23 * hour_ms);
    assert_eq!(outcome.late[0].begins.line, 2);
    let problem =
        outcome.check_sent(true, |origin| format!("a.csv, line {}", origin.line)).expect_err("one is refused");
    let said = problem.to_string();
    assert!(said.contains("the server refused 1 reading;") && said.contains("beginning at a.csv, line 2"), "{said}");
    assert!(harness.disk.readings().values().all(|count| *count == 1));
    assert_eq!(harness.disk.readings().len(), 5);
}
