//! Who may connect: refused in the handshake, and at once for good.

use std::time::Duration;

use ingest::client::{Client, ClientError};
use ingest::protocol::{ALPN, ClientEvent, Message};
use ingest::{CloseCode, Refusal, RefusalCode};
use quinn::ConnectionError;

use crate::house::{House, readings, sequence, spool, until, within};
use crate::pki::{Ca, identity};
use crate::raw;
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_in_the_handshake() {
    let mut house = House::new();
    house.set_clock(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis().try_into().expect("this century"));
    house.limits.connections_max = 100;
    let sink = house.sink(10, Mode::Keeps);
    let server = house.serve(&sink);

    let good = house.enrolled(1);
    let expired = house.ca.expired_gateway();
    house.directory.enroll(&expired, 2);
    let revoked = house.ca.gateway();
    house.directory.set(&revoked, Err(Refusal::Revoked));
    let ended = house.ca.gateway();
    house.directory.set(&ended, Err(Refusal::Expired));
    let unknown = house.ca.gateway();
    let [same_name, other_name] = house.strangers();
    house.directory.enroll(&same_name, 3);
    house.directory.enroll(&other_name, 4);

    for (name, issued, alert) in [
        ("expired", &expired, 45),
        ("revoked", &revoked, 44),
        ("ended by the directory", &ended, 45),
        ("unknown", &unknown, 49),
        ("of another CA", &other_name, 48),
        ("of another CA with our name", &same_name, 51),
    ] {
        let error = house.refused(server.addr(), issued).await;
        assert!(matches!(error, ClientError::CertificateRefused(_)), "{name}: {error:?}");
        // The handshake itself, looked at from below.
        let error = match raw::connect(server.addr(), &house.ca, Some(issued), ALPN).await {
            Err(error) => error,
            Ok(raw) => raw.closed().await,
        };
        assert_eq!(raw::alert(&error), Some(alert), "{name}: {error}");
    }
    let error = match raw::connect(server.addr(), &house.ca, None, ALPN).await {
        Err(error) => error,
        Ok(raw) => raw.closed().await,
    };
    assert_eq!(raw::alert(&error), Some(116), "no certificate: {error}");
    let error = match raw::connect(server.addr(), &house.ca, Some(&good), b"icecore/2").await {
        Err(error) => error,
        Ok(raw) => raw.closed().await,
    };
    assert_eq!(raw::alert(&error), Some(120), "another protocol: {error}");

    // And it is not that nobody gets in.
    let client = house.client(server.addr(), &good).await;
    within(client.finish()).await.expect("nothing to do");
    assert_eq!(house.disk.frames(), 0);
    until("nobody stays", || server.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_ca_or_name_is_not_trusted() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let other = Ca::new("another CA");
    let mut config = house.config(server.addr(), &gateway);
    config.identity = gateway.identity(&other);
    let error = within(Client::connect(config)).await.expect_err("not its CA");
    assert!(matches!(error, ClientError::ServerNotTrusted(_)), "{error:?}");

    let mut config = house.config(server.addr(), &gateway);
    let (pem, key, ca) = (gateway.pem.as_bytes(), gateway.key_pem.as_bytes(), house.ca.pem.as_bytes());
    config.identity = ingest::client::Identity::from_pem(pem, key, ca, "another.test\n").expect("an identity");
    let error = within(Client::connect(config)).await.expect_err("not its name");
    assert!(matches!(error, ClientError::ServerNotTrusted(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_revoked_while_connected_is_cut_off() {
    let house = House::new();
    let (one, two) = (house.enrolled(1), house.enrolled(2));
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let revoked = raw::connect_well(server.addr(), &house.ca, &one).await;
    let _stream = revoked.opened(spool(1)).await;
    let mut client = house.client(server.addr(), &one).await;
    let kept = house.client(server.addr(), &two).await;
    within(client.send(&mut readings(1, 0, 1))).await.expect("sent");
    until("it is kept", || house.disk.frames() == 1).await;

    house.directory.set(&one, Err(Refusal::Revoked));
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
    // It may have had all its answers before; otherwise it says why it ended.
    if let Some(failure) = failure {
        assert!(matches!(failure.error, ClientError::CertificateRefused(_)), "{failure}");
    }
    assert!(kept.progress().borrow().connected, "others stay");
    within(kept.finish()).await.expect("nothing to do");
    let error = house.refused(server.addr(), &one).await;
    assert!(matches!(error, ClientError::CertificateRefused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_has_not_changed_is_seldom_asked() {
    let mut house = House::new();
    house.limits.recheck_interval = Duration::from_millis(10);
    house.directory.set_version(Some(1));
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let rounds = async |count: usize| {
        let begun = house.directory.rounds();
        until("rounds", || house.directory.rounds() >= begun + count).await;
    };
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    until("it is connected", || house.directory.rounds() > 0).await;
    rounds(100).await;
    let asked = house.directory.asked();
    assert!((2..=5).contains(&asked), "in the handshake, after it, now and then: {asked}");

    // Time passes, which makes no other version, and is noticed.
    house.directory.set(&gateway, Err(Refusal::OrgSuspended));
    until("it is asked now and then", || house.directory.asked() > asked).await;
    // Who is not good is asked about each time.
    let asked = house.directory.asked();
    rounds(20).await;
    assert!(house.directory.asked() >= asked + 15);
    assert!(raw.connection.close_reason().is_none());

    // A change is noticed at once.
    house.directory.set(&gateway, Ok(identity(1)));
    assert!(matches!(raw.closed().await, ConnectionError::ApplicationClosed(_)));
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    rounds(5).await;
    house.directory.set(&gateway, Err(Refusal::Revoked));
    let begun = house.directory.rounds();
    house.directory.set_version(Some(2));
    assert!(matches!(raw.closed().await, ConnectionError::ApplicationClosed(_)));
    // Nobody is left to ask about.
    assert!(house.directory.rounds() <= begun + 4, "{} rounds", house.directory.rounds() - begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_revoked_gateway_are_refused_until_it_is_cut_off() {
    let mut house = House::new();
    house.limits.recheck_interval = Duration::from_millis(700);
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    let mut stream = raw.opened(spool(1)).await;
    house.directory.set(&gateway, Err(Refusal::Revoked));
    for number in 1.. {
        assert!(number < 500, "the directory is never asked again");
        let frame = readings(1, usize::try_from(number).expect("small"), 1).encode(spool(1), sequence(number));
        stream.say(&Message::Frame { sequence: sequence(number), frame }).await;
        match stream.hear().await {
            // The directory was not asked again yet.
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
async fn a_suspended_organisation_is_told_so_frame_by_frame() {
    let house = House::new();
    let gateway = house.ca.gateway();
    house.directory.set(&gateway, Err(Refusal::OrgSuspended));
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let mut client = house.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    for index in 0..3 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    within(progress.wait_for(|p| p.refused_frames == 3)).await.expect("told");
    assert_eq!(house.disk.frames(), 0);
    // The suspension ends: the connection begins anew, and frames are taken.
    house.directory.set(&gateway, Ok(identity(1)));
    within(progress.wait_for(|p| p.reconnects == 1)).await.expect("told");
    within(client.send(&mut readings(1, 9, 1))).await.expect("sent");
    let summary = within(client.finish()).await.expect("all answered");
    assert_eq!((summary.acknowledged_frames, summary.refused_readings), (1, 3));
    assert!(summary.refused.iter().all(|refused| refused.code == RefusalCode::OrgSuspended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_does_not_answer_is_no_refusal() {
    let house = House::new();
    let gateway = house.ca.gateway();
    house.directory.set(&gateway, Err(Refusal::Unavailable));
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let connecting = tokio::spawn(Client::connect(house.config(server.addr(), &gateway)));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!connecting.is_finished(), "it tries again");
    house.directory.set(&gateway, Ok(identity(1)));
    let client = within(connecting).await.expect("no panic").expect("a client");
    // Who is connected is cut off, not refused: the client comes again, and is let in once the directory answers.
    let mut progress = client.progress();
    house.directory.set(&gateway, Err(Refusal::Unavailable));
    within(progress.wait_for(|p| !p.connected)).await.expect("told");
    house.directory.set(&gateway, Ok(identity(1)));
    within(progress.wait_for(|p| p.connected && p.reconnects > 0)).await.expect("told");
}
