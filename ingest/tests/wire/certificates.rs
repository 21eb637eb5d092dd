//! Certificates that are refused: in the handshake, or while connected, and permanently.

use std::time::Duration;

use ingest::client::{Client, ClientError};
use ingest::protocol::{ALPN, ClientEvent, Message};
use ingest::{CloseCode, Refusal, RefusalCode};
use quinn::ConnectionError;

use crate::harness::{Harness, readings, sequence, spool, wait_until, within};
use crate::pki::{Ca, identity};
use crate::raw;
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_certificates_are_refused_in_the_handshake() {
    let mut harness = Harness::new();
    harness.set_clock(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis().try_into().expect("this century"));
    harness.limits.connections_max = 100;
    let sink = harness.sink(10, Mode::Immediate);
    let server = harness.serve(&sink);

    let good = harness.enrolled(1);
    let expired = harness.ca.expired_gateway();
    harness.directory.enroll(&expired, 2);
    let revoked = harness.ca.gateway();
    harness.directory.set(&revoked, Err(Refusal::Revoked));
    let outdated = harness.ca.gateway();
    harness.directory.set(&outdated, Err(Refusal::Expired));
    let unknown = harness.ca.gateway();
    let [same_name, other_name] = harness.foreign_certificates();
    harness.directory.enroll(&same_name, 3);
    harness.directory.enroll(&other_name, 4);

    for (name, issued, alert) in [
        ("expired", &expired, 45),
        ("revoked", &revoked, 44),
        ("expired in the directory", &outdated, 45),
        ("unknown", &unknown, 49),
        ("of another CA", &other_name, 48),
        ("of another CA with the same name", &same_name, 51),
    ] {
        let error = harness.expect_refusal(server.addr(), issued).await;
        assert!(matches!(error, ClientError::CertificateRefused(_)), "{name}: {error:?}");
        // The TLS alert, seen by a raw client.
        let error = match raw::connect(server.addr(), &harness.ca, Some(issued), ALPN).await {
            Err(error) => error,
            Ok(raw) => raw.closed().await,
        };
        assert_eq!(raw::alert(&error), Some(alert), "{name}: {error}");
    }
    let error = match raw::connect(server.addr(), &harness.ca, None, ALPN).await {
        Err(error) => error,
        Ok(raw) => raw.closed().await,
    };
    assert_eq!(raw::alert(&error), Some(116), "no certificate: {error}");
    let error = match raw::connect(server.addr(), &harness.ca, Some(&good), b"icecore/2").await {
        Err(error) => error,
        Ok(raw) => raw.closed().await,
    };
    assert_eq!(raw::alert(&error), Some(120), "another protocol: {error}");

    // An accepted gateway can connect.
    let client = harness.client(server.addr(), &good).await;
    within(client.finish()).await.expect("nothing to do");
    assert_eq!(harness.disk.frames(), 0);
    wait_until("no connection is left", || server.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_ca_or_name_is_not_trusted() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let other = Ca::new("another CA");
    let mut config = harness.config(server.addr(), &gateway);
    config.identity = gateway.identity(&other);
    let error = within(Client::connect(config)).await.expect_err("not its CA");
    assert!(matches!(error, ClientError::ServerNotTrusted(_)), "{error:?}");

    let mut config = harness.config(server.addr(), &gateway);
    let (pem, key, ca) = (gateway.pem.as_bytes(), gateway.key_pem.as_bytes(), harness.ca.pem.as_bytes());
    config.identity = ingest::client::Identity::from_pem(pem, key, ca, "another.test\n").expect("an identity");
    let error = within(Client::connect(config)).await.expect_err("not its name");
    assert!(matches!(error, ClientError::ServerNotTrusted(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_revoked_while_connected_is_disconnected() {
    let harness = Harness::new();
    let (one, two) = (harness.enrolled(1), harness.enrolled(2));
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let revoked = raw::connect_enrolled(server.addr(), &harness.ca, &one).await;
    let _stream = revoked.open_stream(spool(1)).await;
    let mut client = harness.client(server.addr(), &one).await;
    let other = harness.client(server.addr(), &two).await;
    within(client.send(&mut readings(1, 0, 1))).await.expect("sent");
    wait_until("the frame is stored", || harness.disk.frames() == 1).await;

    harness.directory.set(&one, Err(Refusal::Revoked));
    let started = std::time::Instant::now();
    let error = revoked.closed().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    match &error {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), u64::from(CloseCode::CertificateRefused.number()));
        }
        other => panic!("{other}"),
    }
    let failure = within(client.finish()).await.err();
    // The client may have received all responses before; otherwise its error is the refusal.
    if let Some(failure) = failure {
        assert!(matches!(failure.error, ClientError::CertificateRefused(_)), "{failure}");
    }
    assert!(other.progress().borrow().connected, "others stay connected");
    within(other.finish()).await.expect("nothing to do");
    let error = harness.expect_refusal(server.addr(), &one).await;
    assert!(matches!(error, ClientError::CertificateRefused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_directory_is_seldom_used() {
    let mut harness = Harness::new();
    harness.limits.recheck_interval = Duration::from_millis(10);
    harness.directory.set_version(Some(1));
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let rounds = async |count: usize| {
        let before = harness.directory.version_requests();
        wait_until("rounds", || harness.directory.version_requests() >= before + count).await;
    };
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    wait_until("it is connected", || harness.directory.version_requests() > 0).await;
    rounds(100).await;
    let lookups = harness.directory.lookups();
    assert!((2..=5).contains(&lookups), "in the handshake, after it, now and then: {lookups}");

    // A change without another version, as when time passes, is noticed later.
    harness.directory.set(&gateway, Err(Refusal::OrgSuspended));
    wait_until("it is used now and then", || harness.directory.lookups() > lookups).await;
    // A gateway that is not in good standing is looked up in each round.
    let lookups = harness.directory.lookups();
    rounds(20).await;
    assert!(harness.directory.lookups() >= lookups + 15);
    assert!(raw.connection.close_reason().is_none());

    // A change is noticed at once.
    harness.directory.set(&gateway, Ok(identity(1)));
    assert!(matches!(raw.closed().await, ConnectionError::ApplicationClosed(_)));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    rounds(5).await;
    harness.directory.set(&gateway, Err(Refusal::Revoked));
    let before = harness.directory.version_requests();
    harness.directory.set_version(Some(2));
    assert!(matches!(raw.closed().await, ConnectionError::ApplicationClosed(_)));
    // Without connections there are no rounds.
    assert!(
        harness.directory.version_requests() <= before + 4,
        "{} rounds",
        harness.directory.version_requests() - before
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_revoked_gateway_are_refused_until_it_is_disconnected() {
    let mut harness = Harness::new();
    harness.limits.recheck_interval = Duration::from_millis(700);
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut stream = raw.open_stream(spool(1)).await;
    harness.directory.set(&gateway, Err(Refusal::Revoked));
    for number in 1.. {
        assert!(number < 500, "the directory is never used again");
        let frame = readings(1, usize::try_from(number).expect("small"), 1).encode(spool(1), sequence(number));
        stream.write(&Message::Frame { sequence: sequence(number), frame }).await;
        match stream.next_event().await {
            // The directory was not used again yet.
            Some(ClientEvent::Acknowledged { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Some(ClientEvent::Refused { sequence: refused, code, .. }) => {
                assert_eq!((refused, code), (sequence(number), RefusalCode::CertificateRevoked));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let error = raw.closed().await;
    assert!(matches!(error, ConnectionError::ApplicationClosed(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_of_a_suspended_organisation_is_refused() {
    let harness = Harness::new();
    let gateway = harness.ca.gateway();
    harness.directory.set(&gateway, Err(Refusal::OrgSuspended));
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let mut client = harness.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    for index in 0..3 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    within(progress.wait_for(|p| p.refused_frames == 3)).await.expect("progress");
    assert_eq!(harness.disk.frames(), 0);
    // The suspension ends: the client reconnects, and frames are accepted.
    harness.directory.set(&gateway, Ok(identity(1)));
    within(progress.wait_for(|p| p.reconnects == 1)).await.expect("progress");
    within(client.send(&mut readings(1, 9, 1))).await.expect("sent");
    let summary = within(client.finish()).await.expect("all frames have a response");
    assert_eq!((summary.acknowledged_frames, summary.refused_readings), (1, 3));
    assert!(summary.refused.iter().all(|refused| refused.code == RefusalCode::OrgSuspended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unavailable_directory_is_no_refusal() {
    let harness = Harness::new();
    let gateway = harness.ca.gateway();
    harness.directory.set(&gateway, Err(Refusal::Unavailable));
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let connecting = tokio::spawn(Client::connect(harness.config(server.addr(), &gateway)));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!connecting.is_finished(), "it retries");
    harness.directory.set(&gateway, Ok(identity(1)));
    let client = within(connecting).await.expect("no panic").expect("a client");
    // A connected gateway is disconnected, not refused: it reconnects once the directory responds.
    let mut progress = client.progress();
    harness.directory.set(&gateway, Err(Refusal::Unavailable));
    within(progress.wait_for(|p| !p.connected)).await.expect("progress");
    harness.directory.set(&gateway, Ok(identity(1)));
    within(progress.wait_for(|p| p.connected && p.reconnects > 0)).await.expect("progress");
}
